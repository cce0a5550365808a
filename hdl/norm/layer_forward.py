"""The norm of channels, forward: the unit of ``LAYER_FORWARD``."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import STATE_ROWS, LayerFlag, LayerRow
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.norm.arithmetic import Multiplier, clamp
from hdl.norm.context import CONTEXT, GAMMA_BITS
from hdl.norm.elements import ElementReader, ElementWriter, pick
from hdl.norm.forward_lane import SCALED_BITS, Affine, Normalise
from hdl.norm.l1 import MeanMagnitude
from hdl.norm.reciprocal import LENGTH_BITS, Operation, Reciprocal
from hdl.params import INDEX_BITS, MAX_N, NORM_FRACTION, NORM_IN_BITS, WIDE_BITS
from hdl.unit import UnitPort, wide_word

__all__ = ["LayerForward"]

#: Width of ``d = 2**6 x - mean``; the mean lies where such x do.
D_BITS = SCALED_BITS + 1
#: Width of the sums of 2**6 x and of |d| over a row.
TOTAL_BITS = MeanMagnitude.total_bits(MAX_N)

# An element's way: the cycle, counted from that in which its word is on the read port, in which a
# value is in its register. Words of gamma and beta follow that of x.
ELEMENT = 1
CLAMPED = ELEMENT + 1
CENTRED = CLAMPED + 1
XHAT = CENTRED + Multiplier.LATENCY + Normalise.LATENCY
Y = XHAT + Multiplier.LATENCY + Affine.LATENCY
#: Cycles of an element in the pass for the output: x, gamma and beta are read.
SPACING = 3
# d and xhat, with gamma, take turns at the multiplier, context and y at the port to write.
assert (XHAT - CENTRED) % SPACING != 0 and (Y - XHAT) % SPACING != 0
#: Elements that have a gamma in :data:`ELEMENT` + 1 and no xhat yet, and a beta and no sum.
GAMMAS = -(-(XHAT - ELEMENT - 1) // SPACING)
BETAS = -(-(Y - 1 - ELEMENT - 2) // SPACING)


class LayerForward(wiring.Component):
    """L1 normalisation of every row; ``sim.model.norm.layer_forward``.

    Row after row: its elements one per cycle for the mean, and again for the deviation; the
    deviation is written, and its reciprocal taken; its elements again, each with gamma and beta of
    its column in three cycles, for context and y. A row is read before it is written, so the source
    may be the destination. With ``INFERENCE`` neither contexts nor deviations are written, in the
    same time, which does not depend on data: :meth:`cycles`.

    ``control.clamped`` counts the elements that were clamped in x (once, though x is read three
    times), in xhat and in y, ``sim.model.norm.layer_clamped``. Nothing can stall the unit. Lanes
    beyond a row's last element, and of deviations all but the first, are not defined.

    Widths are those of :class:`~hdl.norm.forward.NormForward` with ``MAX_N`` elements in place of
    rows, but that the mean is never given: ``D_BITS``.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, src1, dst0, dst1, tab0.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    def __init__(self, params):
        self.params = params
        self.divider = Reciprocal(TOTAL_BITS, SCALED_BITS, per_clock=2, rows=MAX_N)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``: ``5 n + 135`` for each row, and one."""
        drain = READ_LATENCY + Y
        divide, invert = (self.divider.latency(operation)
                          for operation in (Operation.DIVIDE, Operation.INVERT))
        return m * ((2 + SPACING) * n + 3 * drain + 2 * divide + invert + 4) + 1

    def elaborate(self, platform):
        m = Module()
        lanes, fields = self.params.vector, self.control.instruction
        m.submodules.divider = divider = self.divider
        m.submodules.reader = reader = ElementReader(lanes, (None, STATE_ROWS, STATE_ROWS))
        m.submodules.datapath = path = _Datapath()
        m.submodules.contexts = contexts = ElementWriter(lanes)
        m.submodules.outputs = outputs = ElementWriter(lanes)
        row, inference, save = Signal(INDEX_BITS), Signal(), Signal()
        m.d.comb += [
            inference.eq((fields.flags & LayerFlag.INFERENCE).any()),
            reader.count.eq(fields.n), reader.rows.eq(fields.m),
            reader.base[0].eq(fields.src0 + row),
            reader.base[1].eq(fields.src1 + LayerRow.GAMMA),
            reader.base[2].eq(fields.src1 + LayerRow.BETA),
            self.wide_r.en.eq(reader.en), self.wide_r.addr.eq(reader.addr),
            divider.numerator.eq(path.total), divider.denominator.eq(fields.n),
            # The deviation, which was divided last.
            divider.value.eq(divider.quotient),
        ]

        # elements[c]: one whose word was on the read port c cycles ago; lasts: it is the last.
        way, ends = (Signal(READ_LATENCY + Y, name=name) for name in ("way", "ends"))
        elements, lasts = way[READ_LATENCY - 1:], ends[READ_LATENCY - 1:]
        drained, output = Signal(), Signal()
        m.d.sync += way.eq(Cat(reader.first, way)), ends.eq(Cat(reader.last, ends))
        m.d.comb += [
            drained.eq(~reader.busy & ~way.any()),
            path.i.eq(pick(self.wide_r.data, reader.arrived)),
            path.elements.eq(elements), path.output.eq(output),
            path.quotient.eq(divider.quotient), path.length.eq(divider.length),
            self.control.clamped.eq(path.clamped),
        ]

        # What is written: a context and, later, y; or a deviation.
        for writer, base, stage, value in ((contexts, fields.dst1, XHAT, path.context),
                                           (outputs, fields.dst0, Y, path.y)):
            m.d.comb += [
                writer.base.eq(base + row), writer.rows.eq(fields.m),
                writer.put.eq(output & elements[stage]), writer.last.eq(lasts[stage]),
                writer.i.eq(value),
            ]
        m.d.comb += [
            self.wide_w.en.eq(outputs.en | (contexts.en | save) & ~inference),
            self.wide_w.addr.eq(Mux(save, (fields.tab0 + row)[:ADDRESS_BITS],
                                    Mux(outputs.en, outputs.addr, contexts.addr))),
        ]
        for k in range(lanes):
            m.d.comb += self.wide_w.data[k].eq(
                Mux(save, divider.quotient, Mux(outputs.en, outputs.data[k], contexts.data[k])))

        def divide(operation, following):
            m.d.comb += divider.start.eq(1), divider.operation.eq(operation)
            m.next = following

        m.d.sync += self.control.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += row.eq(0)
                with m.If(self.control.start):
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += path.clear.eq(1), reader.start.eq(1)
                m.next = "MEAN"
            with m.State("MEAN"):
                m.d.comb += path.accumulate.eq(1)
                with m.If(drained):
                    divide(Operation.DIVIDE, "DIVIDE_MEAN")
            with m.State("DIVIDE_MEAN"), m.If(divider.done):
                m.d.comb += path.divided_mean.eq(1), reader.start.eq(1)
                m.next = "DEVIATION"
            with m.State("DEVIATION"):
                m.d.comb += path.accumulate.eq(1), path.spread.eq(1)
                with m.If(drained):
                    divide(Operation.DIVIDE, "DIVIDE_DEVIATION")
            with m.State("DIVIDE_DEVIATION"), m.If(divider.done):
                m.next = "SAVE"
            with m.State("SAVE"):
                m.d.comb += save.eq(1)
                divide(Operation.INVERT, "INVERT")
            with m.State("INVERT"), m.If(divider.done):
                m.d.comb += [reader.start.eq(1), reader.spaced.eq(1),
                             contexts.start.eq(1), outputs.start.eq(1)]
                m.next = "OUTPUT"
            with m.State("OUTPUT"):
                m.d.comb += output.eq(1)
                with m.If(drained):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += row.eq(row + 1)
                m.next = "ROW"
                with m.If(row + 1 == fields.m):
                    m.d.sync += self.control.done.eq(1)
                    m.next = "IDLE"
        return m


class _Datapath(wiring.Component):
    """From an element of x to d and its sums, and to xhat and y.

    x -> clamp -> d = 2**6 x - mean -> sums
    -> d * r -> Normalise -> xhat -> gamma * xhat -> Affine -> y.

    Members
    -------
    i : In(signed(WIDE_BITS))
        An element on the read port.
    elements : In(Y + 1)
        Whether there was one of x as many cycles ago.
    clear : In(1)
        Set mean and total to 0.
    accumulate, spread : In(1)
        Elements are added up: d, or |d|.
    divided_mean : In(1)
        The quotient is the mean; the total is 0 again.
    output : In(1)
        Elements become y; the quotient is the reciprocal of the deviation.
    quotient : In(signed(SCALED_BITS))
    length : In(LENGTH_BITS)
    total : Out(signed(TOTAL_BITS))
    context : Out(CONTEXT)
        Of the element in the cycle ``XHAT``.
    y : Out(signed(WIDE_BITS))
        In the cycle ``Y``.
    clamped : Out(2)
        Elements that were clamped in the cycle before.
    """
    def __init__(self):
        super().__init__({
            "i": In(signed(WIDE_BITS)), "elements": In(Y + 1),
            "clear": In(1), "accumulate": In(1), "spread": In(1), "divided_mean": In(1),
            "output": In(1), "quotient": In(signed(SCALED_BITS)),
            "length": In(LENGTH_BITS),
            "total": Out(signed(TOTAL_BITS)), "context": Out(CONTEXT),
            "y": Out(signed(WIDE_BITS)), "clamped": Out(2),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = Multiplier(D_BITS)
        m.submodules.normalise = normalise = Normalise()
        m.submodules.affine = affine = Affine()
        elements = self.elements

        # Distance from the mean.
        element = Signal(signed(WIDE_BITS), reset_less=True)
        x, over_x = Signal(signed(NORM_IN_BITS), reset_less=True), Signal(reset_less=True)
        d, mean = Signal(signed(D_BITS), reset_less=True), Signal(signed(SCALED_BITS))
        clamped, over = clamp(element, NORM_IN_BITS)
        m.d.sync += [element.eq(self.i), x.eq(clamped), over_x.eq(over),
                     d.eq((x << NORM_FRACTION) - mean)]

        # Its sums. -d = ~d + 1.
        flip = Signal()
        m.d.comb += flip.eq(self.spread & d[-1])
        with m.If(self.clear):
            m.d.sync += mean.eq(0), self.total.eq(0)
        with m.Elif(self.divided_mean):
            m.d.sync += mean.eq(self.quotient), self.total.eq(0)
        with m.Elif(self.accumulate & elements[CENTRED]):
            magnitude = (d.as_unsigned() ^ flip.replicate(D_BITS)).as_signed()
            m.d.sync += self.total.eq(self.total + magnitude + flip)

        # Gamma and beta wait for their element, as its sign does for xhat.
        held = {}
        for name, bits, first, count in (("gamma", GAMMA_BITS, ELEMENT + 1, GAMMAS),
                                         ("beta", WIDE_BITS, ELEMENT + 2, BETAS)):
            value = element
            for k in range(count):
                following = Signal(signed(bits), name=f"{name}_{k}", reset_less=True)
                with m.If(elements[first + SPACING * k]):
                    m.d.sync += following.eq(value)
                value = following
            held[name] = value
        negative, nonzero = (Signal(XHAT - CENTRED, name=name, reset_less=True)
                             for name in ("negative", "nonzero"))
        m.d.sync += [negative.eq(Cat(d[-1], negative)), nonzero.eq(Cat(d.any(), nonzero))]

        # One multiplier makes xhat of d, and y of xhat.
        second = elements[XHAT]
        m.d.comb += [
            multiplier.en.eq(1),
            multiplier.a.eq(Mux(second, normalise.xhat, d)),
            multiplier.b.eq(Mux(second, held["gamma"], self.quotient[:Multiplier.B_BITS])),
            normalise.product.eq(multiplier.o), normalise.length.eq(self.length),
            affine.product.eq(multiplier.o), affine.beta.eq(held["beta"]),
            self.y.eq(affine.y),
            self.context.xhat.eq(normalise.xhat), self.context.negative.eq(negative[-1]),
            self.context.nonzero.eq(nonzero[-1]), self.context.mask.eq(1),
        ]
        m.d.sync += self.clamped.eq(Mux(self.output, sum((
            elements[CLAMPED] & over_x, second & normalise.over, elements[Y] & affine.over)), 0))
        return m

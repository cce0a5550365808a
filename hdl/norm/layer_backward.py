"""The norm of channels, backward: the unit of ``LAYER_BACKWARD``."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.instructions import STATE_ROWS, LayerRow
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.norm.arithmetic import Multiplier
from hdl.norm.backward_lane import GRADIENT_BITS
from hdl.norm.context import CONTEXT, GAMMA_BITS, XHAT_BITS
from hdl.norm.elements import ElementReader, ElementWriter, pick
from hdl.norm.reciprocal import LENGTH_BITS, VALUE_BITS, Operation, Reciprocal
from hdl.params import INDEX_BITS, MAX_K, MAX_N, PARAMETER_FRACTION, WIDE_BITS, XHAT_FRACTION
from hdl.unit import UnitPort, wide_word

__all__ = ["Datapath", "LayerBackward"]

#: Width of the bit length of a gradient, up to 32.
GRAD_LENGTH_BITS = WIDE_BITS.bit_length()
#: Width of p = gamma g 2**-12: |gamma g| <= 2**15 2**19, and so |p| <= 2**22.
P_BITS = GRADIENT_BITS + GAMMA_BITS - PARAMETER_FRACTION
#: Width of sums of g over a column, at least ``-2**19 MAX_K`` and below its opposite, and of p over
#: a row, at most ``2**22 MAX_N``.
SUM_BITS = P_BITS + ceil_log2(MAX_N)
#: Width of the sum of g xhat over a column, at most ``2**19 2**15 MAX_K``. That of p xhat over a
#: row is less: a mean of |xhat| is below 2**11 (:func:`hdl.norm.backward_lane.total_bits`), so that
#: it is below ``2**22 2**11 MAX_N``.
PRODUCT_SUM_BITS = GRADIENT_BITS + XHAT_BITS + ceil_log2(MAX_K)
#: Width of the mean of p xhat, above ``-2**33`` and below ``2**33``, and of b, which loses the
#: fraction of xhat.
QUOTIENT_BITS = P_BITS + 10
B_BITS = QUOTIENT_BITS - XHAT_FRACTION
#: Width of ``centre - a`` and of that with b added or taken away, and so of t: |centre| <= 2**23,
#: |a| <= 2**22 and |b| <= 2**23, and with p, |p| <= 2**22, |t| <= 3 2**23.
T_BITS = B_BITS + 2
#: Bits of t * r that dx drops at least; |dx| <= 3 2**22.
DX_SHIFT = 17

# An element's way: the cycle, counted from that in which its dy is on the read port, in which a
# value is in its register. The context follows dy by a cycle, and gamma the context.
ELEMENT = 1
GRADIENT = ELEMENT + 1
CONTEXT_HELD = ELEMENT + 2
#: The product of g with gamma, or in the sums of a column with xhat.
FIRST = ELEMENT + 2
P = FIRST + Multiplier.LATENCY + 1
T = P + 1
DX = T + Multiplier.LATENCY + 2
#: Cycles of an element where all three words are read.
SPACING = 3
# Products take turns at the multiplier.
assert (P - FIRST) % SPACING and (T - FIRST) % SPACING
# The context is held for an element, and then for another.
assert FIRST >= CONTEXT_HELD and CONTEXT_HELD + SPACING <= P < CONTEXT_HELD + 2 * SPACING

#: Rows of the state in the order in which they are written.
SAVED = (LayerRow.GRAD_BETA, LayerRow.GRAD_GAMMA_LOW, LayerRow.GRAD_GAMMA_HIGH,
         LayerRow.GRAD_BITS, LayerRow.DEVIATION_BITS)
assert list(SAVED) == list(range(SAVED[0], SAVED[0] + len(SAVED)))


class LayerBackward(wiring.Component):
    """The gradient of the L1 norm of rows; ``sim.model.norm.layer_backward``.

    All of dy, an element per cycle, for the largest gradient; all deviations for the smallest. Then
    column after column, an element in three cycles, for the gradients of beta and gamma, and five
    rows of the state, words of which are read and written again with that column's lane. Then row
    after row: its elements, in three cycles each, for the sums; the divisions; its elements again
    for dx. A row is read before it is written, so the source may be the destination.

    Nothing is clamped and nothing can stall the unit. The time does not depend on data:
    :meth:`cycles`. Lanes beyond a row's last element are not defined.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: m, n, src0, src1, dst0, dst1, tab0.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    def __init__(self, params):
        self.params = params
        self.divider = Reciprocal(PRODUCT_SUM_BITS, QUOTIENT_BITS, per_clock=2, rows=MAX_N)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``: ``m (n + 39)`` for lengths, ``n (3 m + 24)`` for
        columns, ``m (6 n + 157)`` for rows, and 19."""
        drain = READ_LATENCY + DX
        divide, invert, length = (
            self.divider.latency(operation)
            for operation in (Operation.DIVIDE, Operation.INVERT, Operation.LENGTH))
        lengths = m * (n + drain + 2 + 1 + READ_LATENCY + length) + 1 + length
        columns = n * (1 + SPACING * m - 1 + drain + len(SAVED) + READ_LATENCY)
        rows = m * (2 * (SPACING * n - 1 + drain) + 3 * divide + Multiplier.LATENCY + invert
                    + READ_LATENCY + 4)
        return lengths + columns + rows + 1

    def elaborate(self, platform):
        m = Module()
        lanes, fields = self.params.vector, self.control.instruction
        m.submodules.divider = divider = self.divider
        m.submodules.reader = reader = ElementReader(lanes, (None, None, STATE_ROWS))
        m.submodules.datapath = path = Datapath()
        m.submodules.outputs = outputs = ElementWriter(lanes)
        #: The row; the column, by its lane, first word and first word of its state, both less base.
        row, column = Signal(INDEX_BITS), Signal(INDEX_BITS)
        lane, word, state = Signal(range(lanes)), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        grad_bits, deviation_bits = Signal(GRAD_LENGTH_BITS), Signal(LENGTH_BITS)
        down = Signal()
        m.d.comb += [
            reader.count.eq(Mux(down, fields.m, fields.n)), reader.rows.eq(fields.m),
            reader.down.eq(down), reader.lane.eq(Mux(down, lane, 0)),
            reader.base[0].eq(fields.src0 + Mux(down, word, row)),
            reader.base[1].eq(fields.dst1 + Mux(down, word, row)),
            reader.base[2].eq(fields.src1 + LayerRow.GAMMA),
            divider.denominator.eq(fields.n),
        ]

        # elements[c]: one whose dy was on the read port c cycles ago; lasts: it is the last.
        way, ends = (Signal(READ_LATENCY + DX, name=name) for name in ("way", "ends"))
        elements, lasts = way[READ_LATENCY - 1:], ends[READ_LATENCY - 1:]
        drained, output = Signal(), Signal()
        m.d.sync += way.eq(Cat(reader.first, way)), ends.eq(Cat(reader.last, ends))
        m.d.comb += [
            drained.eq(~reader.busy & ~way.any()),
            path.i.eq(pick(self.wide_r.data, reader.arrived)),
            path.elements.eq(elements), path.grad_bits.eq(grad_bits),
            path.columns.eq(down), path.output.eq(output),
            path.quotient.eq(divider.quotient),
            path.excess.eq(divider.length - deviation_bits),
            outputs.base.eq(fields.dst0 + row), outputs.rows.eq(fields.m),
            outputs.put.eq(output & elements[DX]), outputs.last.eq(lasts[DX]),
            outputs.i.eq(path.dx),
        ]

        # Deviations, and rows of the state, are read besides. A step for each.
        step = Signal(range(len(SAVED) + READ_LATENCY))
        read, address = Signal(), Signal(ADDRESS_BITS)
        arrived, saved = Signal(), Signal(range(len(SAVED)))
        m.d.comb += [
            arrived.eq(step == READ_LATENCY), saved.eq(step - READ_LATENCY),
            self.wide_r.en.eq(reader.en | read),
            self.wide_r.addr.eq(Mux(read, address, reader.addr)),
            divider.value.eq(self.wide_r.data[0][:VALUE_BITS]),
        ]
        # A row of the state, with this column's lane in the place of the one that was read.
        saving, state_word, state_address = Signal(), Signal.like(self.wide_w.data), Signal(
            ADDRESS_BITS)
        sums = path.product_sum
        values = [path.sum, sums[:WIDE_BITS], sums[WIDE_BITS:].as_signed(), grad_bits,
                  deviation_bits]
        m.d.sync += [saving.eq(0), state_address.eq(fields.src1 + state + SAVED[0] + saved)]
        for k in range(lanes):
            m.d.sync += state_word[k].eq(
                Mux(lane == k, Array(values)[saved], self.wide_r.data[k]))
            m.d.comb += self.wide_w.data[k].eq(Mux(saving, state_word[k], outputs.data[k]))
        m.d.comb += [
            self.wide_w.en.eq(saving | outputs.en),
            self.wide_w.addr.eq(Mux(saving, state_address, outputs.addr)),
        ]

        def divide(operation, following):
            m.d.comb += divider.start.eq(1), divider.operation.eq(operation)
            m.next = following

        def following_row(again, last):
            m.d.sync += row.eq(row + 1)
            m.next = again
            with m.If(row + 1 == fields.m):
                m.d.sync += row.eq(0)
                last()

        def read_deviation(following):
            m.d.comb += read.eq(1), address.eq(fields.tab0 + row)
            m.d.sync += step.eq(1)
            m.next = following

        def follow(state):
            def move():
                m.next = state
            return move

        def end():
            m.d.sync += self.control.done.eq(1)
            m.next = "IDLE"

        m.d.sync += self.control.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [row.eq(0), column.eq(0), lane.eq(0), word.eq(0), state.eq(0),
                             deviation_bits.eq(0)]
                m.d.comb += path.clear_magnitudes.eq(1)
                with m.If(self.control.start):
                    m.next = "MAGNITUDES"

            # Lengths.
            with m.State("MAGNITUDES"):
                m.d.comb += reader.start.eq(1)
                m.next = "MAGNITUDES OF A ROW"
            with m.State("MAGNITUDES OF A ROW"):
                m.d.comb += path.measure.eq(1)
                with m.If(drained):
                    following_row("MAGNITUDES", follow("GRADIENT"))
            with m.State("GRADIENT"):
                m.d.comb += divider.value.eq(path.magnitudes)
                divide(Operation.LENGTH, "GRADIENT LENGTH")
            with m.State("GRADIENT LENGTH"), m.If(divider.done):
                m.d.sync += grad_bits.eq(Mux(path.magnitudes[-1], WIDE_BITS, divider.length))
                m.next = "DEVIATION"
            with m.State("DEVIATION"):
                read_deviation("DEVIATION READ")
            with m.State("DEVIATION READ"):
                m.d.sync += step.eq(step + 1)
                with m.If(arrived):
                    divide(Operation.LENGTH, "DEVIATION LENGTH")
            with m.State("DEVIATION LENGTH"), m.If(divider.done):
                with m.If(divider.length.any() & (
                        ~deviation_bits.any() | (divider.length < deviation_bits))):
                    m.d.sync += deviation_bits.eq(divider.length)
                following_row("DEVIATION", follow("COLUMN"))

            # Columns.
            with m.State("COLUMN"):
                m.d.comb += [path.clear.eq(1), down.eq(1),
                             reader.start.eq(1), reader.spaced.eq(1)]
                m.next = "COLUMN SUMS"
            with m.State("COLUMN SUMS"):
                m.d.comb += path.accumulate.eq(1), down.eq(1)
                m.d.sync += step.eq(0)
                with m.If(drained):
                    m.next = "SAVE"
            with m.State("SAVE"):
                m.d.comb += [read.eq(step < len(SAVED)),
                             address.eq(fields.src1 + state + SAVED[0] + step)]
                m.d.sync += step.eq(step + 1), saving.eq(step >= READ_LATENCY)
                with m.If(step == len(SAVED) + READ_LATENCY - 1):
                    m.d.sync += column.eq(column + 1), lane.eq(lane + 1)
                    with m.If(lane == lanes - 1):
                        m.d.sync += [lane.eq(0), word.eq(word + fields.m),
                                     state.eq(state + STATE_ROWS)]
                    m.next = "COLUMN"
                    with m.If(column + 1 == fields.n):
                        m.next = "ROW"

            # Rows.
            with m.State("ROW"):
                m.d.comb += path.clear.eq(1), reader.start.eq(1), reader.spaced.eq(1)
                m.next = "SUMS"
            with m.State("SUMS"):
                m.d.comb += path.accumulate.eq(1), divider.numerator.eq(path.sum)
                with m.If(drained):
                    divide(Operation.DIVIDE, "MEAN")
            with m.State("MEAN"):
                m.d.comb += path.divided_mean.eq(divider.done)
                with m.If(divider.done):
                    m.next = "SHARE"
            with m.State("SHARE"):
                m.d.comb += divider.numerator.eq(path.product_sum)
                divide(Operation.DIVIDE, "SHARE DIVIDED")
            with m.State("SHARE DIVIDED"):
                m.d.comb += path.divided_share.eq(divider.done)
                with m.If(divider.done):
                    m.next = "SIGNS"
            with m.State("SIGNS"):
                m.d.comb += path.multiply_signs.eq(1)
                m.next = "CENTRE"
            with m.State("CENTRE"):
                m.d.comb += divider.numerator.eq(path.product)
                with m.If(path.valid):
                    divide(Operation.DIVIDE, "CENTRE DIVIDED")
            with m.State("CENTRE DIVIDED"):
                m.d.comb += path.divided_centre.eq(divider.done)
                with m.If(divider.done):
                    m.next = "RECIPROCAL"
            with m.State("RECIPROCAL"):
                m.d.comb += path.spread.eq(1)
                read_deviation("RECIPROCAL READ")
            with m.State("RECIPROCAL READ"):
                m.d.sync += step.eq(step + 1)
                with m.If(arrived):
                    divide(Operation.INVERT, "INVERT")
            with m.State("INVERT"), m.If(divider.done):
                m.d.comb += reader.start.eq(1), reader.spaced.eq(1), outputs.start.eq(1)
                m.next = "OUTPUT"
            with m.State("OUTPUT"):
                m.d.comb += output.eq(1)
                with m.If(drained):
                    following_row("ROW", end)
        return m


class Datapath(wiring.Component):
    """From an element of dy, its context and gamma to the sums and to dx.

    dy -> |dy| -> their OR; dy -> shift -> g -> g * xhat and g to the sums of a column;
    g -> g * gamma -> p -> p * xhat, p and signs to the sums of a row; p -> t -> t * r -> dx.

    Members
    -------
    i : In(signed(WIDE_BITS))
        A word's element on the read port.
    elements : In(DX + 1)
        Whether there was a dy as many cycles ago.
    measure, clear_magnitudes : In(1)
        Elements are dy alone, and join ``magnitudes``.
    grad_bits : In(GRAD_LENGTH_BITS)
    clear : In(1)
        Set the sums to 0.
    accumulate : In(1)
        Elements are added up.
    columns : In(1)
        As those of a column.
    multiply_signs : In(1)
        The next product is b times the sum of signs.
    divided_mean, divided_share, divided_centre : In(1)
        The quotient is a; b; the share of the signs.
    spread : In(1)
        A cycle after that.
    output : In(1)
        Elements become dx; the quotient is the reciprocal of the deviation.
    quotient : In(signed(QUOTIENT_BITS))
    excess : In(LENGTH_BITS)
        Length of the deviation beyond the smallest one's.
    magnitudes : Out(WIDE_BITS)
        Has the length of the largest.
    sum : Out(signed(SUM_BITS))
    product_sum : Out(signed(PRODUCT_SUM_BITS))
    valid : Out(1)
    product : Out(signed(T_BITS + Multiplier.B_BITS))
    dx : Out(signed(WIDE_BITS))
        In the cycle ``DX``.
    """
    def __init__(self):
        super().__init__({
            "i": In(signed(WIDE_BITS)), "elements": In(DX + 1),
            "measure": In(1), "clear_magnitudes": In(1), "grad_bits": In(GRAD_LENGTH_BITS),
            "clear": In(1), "accumulate": In(1), "columns": In(1), "multiply_signs": In(1),
            "divided_mean": In(1), "divided_share": In(1), "divided_centre": In(1),
            "spread": In(1), "output": In(1),
            "quotient": In(signed(QUOTIENT_BITS)), "excess": In(LENGTH_BITS),
            "magnitudes": Out(WIDE_BITS),
            "sum": Out(signed(SUM_BITS)), "product_sum": Out(signed(PRODUCT_SUM_BITS)),
            "valid": Out(1), "product": Out(signed(T_BITS + Multiplier.B_BITS)),
            "dx": Out(signed(WIDE_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = Multiplier(T_BITS)
        elements = self.elements

        # dy, and its magnitude: up to 2**31.
        element = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += element.eq(self.i)
        with m.If(self.clear_magnitudes):
            m.d.sync += self.magnitudes.eq(0)
        with m.Elif(self.measure & elements[ELEMENT]):
            m.d.sync += self.magnitudes.eq(
                self.magnitudes | Mux(element < 0, -element, element)[:WIDE_BITS])

        # g: the top of dy with its largest in front.
        gradient = Signal(signed(GRADIENT_BITS), reset_less=True)
        scaled = Signal(WIDE_BITS + 1)
        shift = Signal(GRAD_LENGTH_BITS, reset_less=True)
        m.d.sync += shift.eq(WIDE_BITS - self.grad_bits)
        m.d.comb += scaled.eq(element << shift)
        with m.If(elements[ELEMENT]):
            m.d.sync += gradient.eq(scaled[-GRADIENT_BITS:])
        # The context, for the first product, and for the second one.
        context = data.View(CONTEXT, element)
        held = Signal(CONTEXT, reset_less=True)
        later = Signal(CONTEXT, reset_less=True)
        with m.If(elements[CONTEXT_HELD - 1]):
            m.d.sync += held.eq(context)
        with m.If(elements[CONTEXT_HELD + SPACING - 1]):
            m.d.sync += later.eq(held)

        # p, and t. What t needs of a row.
        p = Signal(signed(P_BITS), reset_less=True)
        t = Signal(signed(T_BITS), reset_less=True)
        a, b = Signal(signed(P_BITS)), Signal(signed(B_BITS))
        offset, less, more = (Signal(signed(T_BITS), name=name) for name in (
            "offset", "less", "more"))
        signs = Signal(range(-MAX_N, MAX_N + 1))
        with m.If(self.divided_mean):
            m.d.sync += a.eq(self.quotient)
        with m.If(self.divided_share):
            m.d.sync += b.eq(self.quotient >> XHAT_FRACTION)
        with m.If(self.divided_centre):
            m.d.sync += offset.eq(self.quotient - a)
        with m.If(self.spread):
            m.d.sync += less.eq(offset - b), more.eq(offset + b)
        m.d.sync += [
            p.eq((multiplier.o >> PARAMETER_FRACTION - 1) + 1 >> 1),
            t.eq(p + Mux(later.nonzero, Mux(later.negative, more, less), offset)),
        ]

        # Products.
        first, second, third = (elements[FIRST], elements[P] & ~self.output,
                                elements[T] & self.output)
        m.d.comb += [
            multiplier.en.eq(self.multiply_signs | first | second | third),
            self.valid.eq(multiplier.valid), self.product.eq(multiplier.o),
        ]
        with m.If(self.multiply_signs):
            m.d.comb += multiplier.a.eq(b), multiplier.b.eq(signs)
        with m.Elif(first):
            m.d.comb += [
                multiplier.a.eq(gradient),
                multiplier.b.eq(Mux(self.columns, held.xhat, element[:GAMMA_BITS].as_signed())),
            ]
        with m.Elif(self.output):
            m.d.comb += multiplier.a.eq(t), multiplier.b.eq(self.quotient[:Multiplier.B_BITS])
        with m.Else():
            m.d.comb += multiplier.a.eq(p), multiplier.b.eq(later.xhat)

        # Sums: of a column's g and g * xhat, or of a row's p and p * xhat.
        with m.If(self.clear):
            m.d.sync += self.sum.eq(0), self.product_sum.eq(0), signs.eq(0)
        with m.Elif(self.accumulate):
            with m.If(Mux(self.columns, first, elements[P])):
                m.d.sync += self.sum.eq(self.sum + Mux(self.columns, gradient, p))
            with m.If(elements[Multiplier.LATENCY:][FIRST] & self.columns
                      | elements[Multiplier.LATENCY:][P] & ~self.columns):
                m.d.sync += self.product_sum.eq(self.product_sum + multiplier.o)
            with m.If(first & held.nonzero):
                m.d.sync += signs.eq(signs + Mux(held.negative, -1, 1))

        # dx: shift, then round.
        shifted = Signal(signed(len(multiplier.o) - DX_SHIFT + 1), reset_less=True)
        m.d.sync += [
            shifted.eq((multiplier.o >> DX_SHIFT - 1) >> self.excess),
            self.dx.eq(shifted + 1 >> 1),
        ]
        return m

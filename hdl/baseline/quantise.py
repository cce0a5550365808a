"""Quantisers that do less than the accelerator's, to see what the rest costs."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import QuantiseFlag
from hdl.memory import ADDRESS_BITS, LaneWritePort, ReadPort
from hdl.params import INDEX_BITS, MAX_M
from hdl.quantise.codes import CodeWriter
from hdl.quantise.columns import Columns
from hdl.unit import UnitPort, quant_word, wide_word

__all__ = ["Fixed", "GivenScale"]


class Fixed(wiring.Component):
    """A unit of which some fields of the instruction are constant.

    Synthesis then drops what only other values need: of a quantiser that never rounds
    stochastically the hash, for example.

    Parameters
    ----------
    unit : wiring.Component
        Has a ``control`` port.
    fields : int
        By name; the instruction's own are not looked at.
    """
    def __init__(self, unit, **fields):
        self.unit = unit
        self.params = unit.params
        self.fields = fields
        super().__init__(unit.signature)

    def cycles(self, *args, **kwargs):
        """Those of the unit."""
        return self.unit.cycles(*args, **kwargs)

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self.unit
        for name in self.signature.members:
            if name != "control":
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(unit, name))
        m.d.comb += [
            unit.control.start.eq(self.control.start),
            unit.control.instruction.eq(self.control.instruction),
            self.control.done.eq(unit.control.done),
            self.control.clamped.eq(unit.control.clamped),
        ]
        m.d.comb += [unit.control.instruction[name].eq(value)
                     for name, value in self.fields.items()]
        return m


class GivenScale(wiring.Component):
    """Quantises a tensor to an exponent that is known before: no search, no groups.

    The lanes of :class:`~hdl.quantise.Quantiser`, one row a clock, and each row read once:
    ``q = round_code(x, -arg)`` clamped, of :mod:`sim.model.quantise`, with ``arg`` a signed
    exponent. Nothing stalls; :meth:`cycles` has the time.

    Parameters
    ----------
    params : hdl.params.Params
        With one group along both axes.

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags UNSIGNED and STOCHASTIC, m, n, src0, dst0, arg, key0, key1.
    wide_r : Out(ReadPort(wide_word(params)))
    quant_w : Out(LaneWritePort(quant_word(params)))
    """
    def __init__(self, params):
        assert params.max_groups == 1
        self.params = params
        self.columns = Columns(params)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "quant_w": Out(LaneWritePort(quant_word(params))),
        })

    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        return -(-n // self.params.vector) * (1 + m + Columns.DEPTH + 1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.columns = columns = self.columns
        m.submodules.codes = codes = CodeWriter(self.params)
        wiring.connect(m, wiring.flipped(self.quant_w), codes.quant_w)
        control, fields, cols = self.control, self.control.instruction, self.params.vector
        step, enter = Signal(), Signal()
        source = Signal(ADDRESS_BITS)
        channel, left = Signal(INDEX_BITS), Signal(INDEX_BITS)
        steps = Signal(range(MAX_M + 1))

        # Steps on their way: bit k began k cycles ago.
        at, behind = Signal(Columns.DEPTH + 1), Signal(Columns.DEPTH)
        m.d.comb += at.eq(Cat(step, behind))
        m.d.sync += behind.eq(at)
        m.d.comb += [
            # Read a row.
            self.wide_r.en.eq(step),
            self.wide_r.addr.eq(source),
            # Round it.
            columns.x.eq(self.wide_r.data),
            columns.instruction.eq(fields),
            columns.unsigned.eq((fields.flags & int(QuantiseFlag.UNSIGNED)).any()),
            columns.stochastic.eq((fields.flags & int(QuantiseFlag.STOCHASTIC)).any()),
            columns.enter.eq(enter),
            columns.at.eq(at),
            columns.channel.eq(channel),
            columns.left.eq(left),
            columns.exponent.eq(fields.arg),
            columns.load.eq(enter.replicate(cols)),
            # Write its codes.
            codes.start.eq(control.start),
            codes.base.eq(fields.dst0),
            codes.enter.eq(enter),
            codes.en.eq(at[Columns.DEPTH]),
            codes.q.eq(columns.q),
        ]
        m.d.sync += source.eq(source + step)

        with m.FSM():
            with m.State("IDLE"), m.If(control.start):
                m.d.sync += [source.eq(fields.src0), channel.eq(0), left.eq(fields.n)]
                m.next = "ENTER"
            with m.State("ENTER"):
                m.d.comb += enter.eq(1)
                m.d.sync += steps.eq(fields.m)
                m.next = "STEP"
            with m.State("STEP"):
                m.d.comb += step.eq(1)
                m.d.sync += steps.eq(steps - 1)
                with m.If(steps == 1):
                    m.next = "DRAIN"
            with m.State("DRAIN"), m.If(~behind.any()):
                m.d.sync += [channel.eq(channel + cols), left.eq(left - cols)]
                m.next = "ENTER"
                with m.If(left <= cols):
                    m.d.comb += control.done.eq(1)
                    m.next = "IDLE"
        return m

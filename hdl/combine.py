"""Rows added to each other: exponents, and statistics that follow others."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import CombineFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import INDEX_BITS, WIDE_BITS
from hdl.unit import UnitPort, wide_word

__all__ = ["Combine"]


class Combine(wiring.Component):
    """``a + b + key0``, ``a - b + key0``, ``max(a, b) + key0`` or ``a + round_shift(b - a,
    shift)``, modulo 2**32, of rows; the unit of ``COMBINE``, ``sim.model.combine.combine``.

    ``max(a, b)`` is ``a + max(b - a, 0)``.

    A word of each row after the other, 10 clocks for one of the result.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, n, src0, src1, dst0, tab0, tab1, tab2, shift, key0.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    #: Clocks for a word: both reads, the difference, its shift, its rounding, the sum.
    STEPS = READ_LATENCY + 7

    def __init__(self, params):
        self.params = params
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def cycles(self, n):
        """Cycles from ``start`` to ``done``."""
        return -(-n // self.params.vector) * self.STEPS

    def elaborate(self, platform):
        m = Module()
        control, fields = self.control, self.control.instruction
        flags = {flag: (fields.flags & flag).any() for flag in CombineFlag}
        step, busy = Signal(range(self.STEPS)), Signal()
        left = Signal(INDEX_BITS)
        addresses = {name: Signal(ADDRESS_BITS, name=name) for name in ("src0", "src1", "dst0")}
        end = Signal()
        m.d.comb += end.eq(busy & (step == self.STEPS - 1))

        # Words: both are asked for, one after the other.
        m.d.comb += [
            self.wide_r.en.eq(busy & (step < 2)),
            self.wide_r.addr.eq(Mux(step == 0, addresses["src0"], addresses["src1"])),
            self.wide_w.en.eq(end), self.wide_w.addr.eq(addresses["dst0"]),
            control.done.eq(end & (left <= self.params.vector)),
        ]
        with m.If(control.start):
            m.d.sync += busy.eq(1), step.eq(0), left.eq(fields.n)
            m.d.sync += [address.eq(fields[name]) for name, address in addresses.items()]
        with m.Elif(end):
            m.d.sync += busy.eq(left > self.params.vector), step.eq(0)
            m.d.sync += left.eq(left - self.params.vector)
            for (name, address), stride in zip(addresses.items(), ("tab0", "tab1", "tab2"),
                                               strict=True):
                with m.If(~(flags[CombineFlag.BROADCAST] & (name == "src1"))):
                    m.d.sync += address.eq(address + fields[stride])
        with m.Elif(busy):
            m.d.sync += step.eq(step + 1)

        # Every lane: what is added to a; what is computed before its operands are there does no
        # harm.
        follow, maximum = flags[CombineFlag.FOLLOW], flags[CombineFlag.MAXIMUM]
        broadcast = flags[CombineFlag.BROADCAST]
        difference_counts, negative = Signal(), Signal()
        added, places, half = Signal(WIDE_BITS), Signal(5), Signal(WIDE_BITS)
        m.d.sync += [
            difference_counts.eq(follow | maximum),
            negative.eq(flags[CombineFlag.SUBTRACT] & ~follow),
            added.eq(Mux(follow, 0, fields.key0)), places.eq(Mux(follow, fields.shift[:5], 0)),
            half.eq((1 << places)[1:]),
        ]
        for k in range(self.params.vector):
            a, b, moved, shifted, o = (
                Signal(signed(WIDE_BITS), name=f"{name}_{k}", reset_less=True)
                for name in ("a", "b", "moved", "shifted", "o"))
            difference = Signal(signed(WIDE_BITS + 1), name=f"difference_{k}", reset_less=True)
            rounded = Signal(signed(WIDE_BITS + 2), name=f"rounded_{k}", reset_less=True)
            with m.If(step == READ_LATENCY):
                m.d.sync += a.eq(self.wide_r.data[k])
            with m.If(step == READ_LATENCY + 1):
                m.d.sync += b.eq(Mux(broadcast, self.wide_r.data[0], self.wide_r.data[k]))
            operand = Mux(difference_counts, shifted, b ^ negative.replicate(WIDE_BITS))
            m.d.sync += [
                moved.eq(a + added),
                difference.eq(b - a),
                rounded.eq(difference + Cat(half, C(0, 1))),
                shifted.eq(rounded >> places),
                # ``a - b`` is ``a + ~b + 1``, and that a carry.
                o.eq((Cat(C(1, 1), moved) + Cat(negative, operand))[1:]),
            ]
            with m.If(maximum & rounded[-1]):
                m.d.sync += shifted.eq(0)
            m.d.comb += self.wide_w.data[k].eq(o)
        return m

"""Between packed numbers and those inside the array: one at each edge, for a row or a column."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Decode", "Encode"]


class Decode(wiring.Component):
    """An operand, unpacked: a subnormal number's leading one moves to the front. Two cycles.

    Parameters
    ----------
    arithmetic : hdl.floating.formats.Arithmetic
    offset : int
        Of the exponent: that of partial sums for one operand of a product, 0 for the other.

    Attributes
    ----------
    latency : int

    Members
    -------
    i : In(arithmetic.operand.layout)
    o : Out(arithmetic.operand_layout(offset))
    """
    latency = 2

    def __init__(self, arithmetic, offset=0):
        self.arithmetic = arithmetic
        self.offset = offset
        super().__init__({"i": In(arithmetic.operand.layout),
                          "o": Out(arithmetic.operand_layout(offset))})

    def elaborate(self, platform):
        m = Module()
        form = self.arithmetic.operand
        # Stage 1: what kind of number, and where its leading one is.
        places = Signal(range(form.fraction_bits + 1))
        for bit in range(form.fraction_bits):
            with m.If(self.i.fraction[bit]):
                m.d.comb += places.eq(form.fraction_bits - bit)
        with m.If(self.i.exponent.any()):
            m.d.comb += places.eq(0)
        number = Signal.like(self.i, reset_less=True)
        shift = Signal.like(places, reset_less=True)
        m.d.sync += [number.eq(self.i), shift.eq(places)]
        # Stage 2: the move.
        normal, some = number.exponent.any(), number.fraction.any()
        special = number.exponent.all()
        m.d.sync += [
            self.o.fraction.eq((number.fraction << shift)[:form.fraction_bits]),
            self.o.exponent.eq(
                Mux(normal, number.exponent, 1) - shift + (self.offset - form.bias)),
            self.o.special.eq(special),
            self.o.one.eq(Mux(special, ~some, normal | some)),
            self.o.sign.eq(number.sign),
        ]
        return m


class Encode(wiring.Component):
    """A partial sum, packed. Every NaN is the positive quiet one without a payload. One cycle.

    Parameters
    ----------
    arithmetic : hdl.floating.formats.Arithmetic

    Attributes
    ----------
    latency : int

    Members
    -------
    i : In(arithmetic.total_layout)
    o : Out(arithmetic.total.layout)
    """
    latency = 1

    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        super().__init__({"i": In(arithmetic.total_layout), "o": Out(arithmetic.total.layout)})

    def elaborate(self, platform):
        m = Module()
        form = self.arithmetic.total
        one = self.i.significand[-1]
        biased = Mux(one, self.i.exponent + (form.bias - self.arithmetic.offset), 0)
        infinite = self.i.special
        if self.arithmetic.limited:
            infinite = infinite | (one & (biased >= (1 << form.exponent_bits) - 1))
        m.d.sync += [
            self.o.fraction.eq(Mux(infinite, 0, self.i.significand[:-1])),
            self.o.exponent.eq(Mux(infinite, -1, biased)),
            self.o.sign.eq(self.i.sign),
        ]
        with m.If(self.i.special & self.i.nan):
            m.d.sync += self.o.eq(form.layout.const({
                "fraction": 1 << form.fraction_bits - 1,
                "exponent": (1 << form.exponent_bits) - 1}))
        return m

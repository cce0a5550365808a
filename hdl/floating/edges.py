"""Between packed numbers and those inside the array: one at each edge, for a row or a column."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.floating.stage import register

__all__ = ["Decode", "Encode"]


class Decode(wiring.Component):
    """An operand, unpacked: a subnormal number's leading one moves to the front. Three cycles.

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
    latency = 3

    def __init__(self, arithmetic, offset=0):
        self.arithmetic = arithmetic
        self.offset = offset
        super().__init__({"i": In(arithmetic.operand.layout),
                          "o": Out(arithmetic.operand_layout(offset))})

    def elaborate(self, platform):
        m = Module()
        form = self.arithmetic.operand
        # Stage 1: where the leading one is.
        places = Signal(range(form.fraction_bits + 1))
        for bit in range(form.fraction_bits):
            with m.If(self.i.fraction[bit]):
                m.d.comb += places.eq(form.fraction_bits - bit)
        with m.If(self.i.exponent.any()):
            m.d.comb += places.eq(0)
        v = register(m, "found", fraction=self.i.fraction, exponent=self.i.exponent,
                     sign=self.i.sign, places=places)
        # Stage 2: what kind of number, and the long moves.
        low = len(places) // 2
        normal, some = v.exponent.any(), v.fraction.any()
        special = v.exponent.all()
        v = register(m, "long", fraction=(v.fraction << (v.places[low:] << low)
                                          )[:form.fraction_bits],
                     places=v.places, exponent=Cat(v.exponent[0] | ~normal, v.exponent[1:]),
                     special=special, one=Mux(special, ~some, normal | some), sign=v.sign)
        # Stage 3: the short ones.
        m.d.sync += [
            self.o.fraction.eq((v.fraction << v.places[:low])[:form.fraction_bits]),
            self.o.exponent.eq(v.exponent - v.places + (self.offset - form.bias)),
            self.o.special.eq(v.special), self.o.one.eq(v.one), self.o.sign.eq(v.sign),
        ]
        return m


class Encode(wiring.Component):
    """A partial sum, packed. Every NaN is the positive quiet one without a payload.

    Parameters
    ----------
    arithmetic : hdl.floating.formats.Arithmetic

    Attributes
    ----------
    latency : int
        Two cycles, three where sums are limited.

    Members
    -------
    i : In(arithmetic.total_layout)
    o : Out(arithmetic.total.layout)
    """
    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        self.latency = 2 + arithmetic.limited
        super().__init__({"i": In(arithmetic.total_layout), "o": Out(arithmetic.total.layout)})

    def elaborate(self, platform):
        m = Module()
        form = self.arithmetic.total
        # Stage 1: the exponent.
        v = register(m, "biased", fraction=self.i.significand[:-1], one=self.i.significand[-1],
                     exponent=self.i.exponent + (form.bias - self.arithmetic.offset),
                     special=self.i.special, nan=self.i.special & self.i.nan, sign=self.i.sign)
        if self.arithmetic.limited:
            # Stage 2: whether it is too large, all ones or more.
            large = v.exponent[form.exponent_bits:-1].any() | v.exponent[:form.exponent_bits].all()
            infinite = v.special | (v.one & ~v.exponent[-1] & large)
            v = register(m, "limited", **{**vars(v), "special": infinite,
                                          "exponent": v.exponent[:form.exponent_bits]})
        # The last stage: what is no number.
        exponent = Mux(v.one, v.exponent[:form.exponent_bits], 0)
        quiet = v.nan << form.fraction_bits - 1
        m.d.sync += [
            self.o.fraction.eq(Mux(v.special, quiet, v.fraction)),
            self.o.exponent.eq(Mux(v.special, -1, exponent)),
            self.o.sign.eq(v.sign & ~v.nan),
        ]
        return m

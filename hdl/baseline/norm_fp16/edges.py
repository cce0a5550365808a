"""From a sum to a number in memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.floating.formats import BINARY16, FP16
from hdl.floating.stage import register

__all__ = ["Narrow"]


class Narrow(wiring.Component):
    """A binary32 sum rounded to binary16, to nearest, ties to even; subnormal numbers and
    infinities are IEEE 754's, every NaN is the positive quiet one. One number per clock,
    ``LATENCY`` clocks.

    Members
    -------
    i : In(FP16.total_layout)
    o : Out(BINARY16.layout)
    """
    LATENCY = 4

    def __init__(self):
        super().__init__({"i": In(FP16.total_layout), "o": Out(BINARY16.layout)})

    def elaborate(self, platform):
        m = Module()
        precision = BINARY16.precision
        # Exponents of the sum: that of the smallest normal number, and of what is too large.
        normal = FP16.offset + 1 - BINARY16.bias
        infinite = FP16.offset + BINARY16.bias + 1
        assert infinite == 1 << FP16.total_exponent.width - 1
        # Stage 1: how many places a subnormal number lacks. Bits: significand, half, all lower.
        exponent, significand = self.i.exponent, self.i.significand
        lacking = Signal(range(-(1 << len(exponent)), normal + 1))
        m.d.comb += lacking.eq(normal - exponent)
        few = len(range(precision + 2)).bit_length()
        one = significand[-1]
        below = lacking > 0
        v = register(
            m, "lacking", is_normal=one & ~below,
            # Zero may have any exponent.
            zero=~one | (below & lacking[few:-1].any()),
            places=Mux(below, lacking[:few], 0),
            bits=Cat(significand[:-precision - 1].any(), significand[-precision - 1:]),
            stored=(exponent - (normal - 1))[:BINARY16.exponent_bits],
            large=one & exponent[-1], special=self.i.special,
            nan=self.i.special & self.i.nan, sign=self.i.sign)

        # Stages 2 and 3: the moves, the long ones first.
        for stage in (range(few - 1, 1, -1), range(1, -1, -1)):
            value = v.bits
            for step in stage:
                count = 1 << step
                lost = value[:count + 1].any()
                value = Mux(v.places[step], Cat(lost, value[count + 1:]), value)
            v = register(m, f"moved{stage[0]}", **{**vars(v), "bits": value})

        # Stage 4: rounding, into the exponent where it must be.
        bits = Mux(v.zero, 0, v.bits)
        rest, half, odd = bits[0], bits[1], bits[2]
        field = Mux(v.is_normal, v.stored, 0)
        rounded = Signal(BINARY16.width - 1)
        m.d.comb += rounded.eq(Cat(bits[2:-1], field) + (half & (rest | odd)))
        infinite = v.special | v.large
        m.d.sync += [
            self.o.fraction.eq(Mux(infinite, v.nan << BINARY16.fraction_bits - 1, rounded)),
            self.o.exponent.eq(Mux(infinite, -1, rounded[BINARY16.fraction_bits:])),
            self.o.sign.eq(v.sign & ~v.nan),
        ]
        return m

"""From a sum to a number in memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.floating.formats import BINARY16, FP16

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
    LATENCY = 3

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
        is_normal = Signal(reset_less=True)
        zero = Signal(reset_less=True)
        places = Signal(few, reset_less=True)
        bits = Signal(precision + 2, reset_less=True)
        stored = Signal(BINARY16.exponent_bits, reset_less=True)
        large = Signal(reset_less=True)
        one = significand[-1]
        below = lacking > 0
        m.d.sync += [
            is_normal.eq(one & ~below),
            # Zero may have any exponent.
            zero.eq(~one | (below & lacking[few:-1].any())),
            places.eq(Mux(below, lacking[:few], 0)),
            bits.eq(Cat(significand[:-precision - 1].any(), significand[-precision - 1:])),
            stored.eq(exponent - (normal - 1)),
            large.eq(one & exponent[-1]),
        ]
        special, nan, sign = (self.i.special, self.i.nan, self.i.sign)
        flags = Signal(3, reset_less=True)
        m.d.sync += flags.eq(Cat(special, nan, sign))

        # Stage 2: the move.
        value = bits
        for step in reversed(range(few)):
            count = 1 << step
            lost = value[:count + 1].any()
            value = Mux(places[step], Cat(lost, value[count + 1:]), value)
        moved = Signal(precision + 2, reset_less=True)
        field = Signal(BINARY16.exponent_bits, reset_less=True)
        late = Signal(4, reset_less=True)
        m.d.sync += [
            moved.eq(Mux(zero, 0, value)),
            field.eq(Mux(is_normal, stored, 0)),
            late.eq(Cat(flags, large)),
        ]

        # Stage 3: rounding, into the exponent where it must be.
        rest, half, odd = moved[0], moved[1], moved[2]
        rounded = Signal(BINARY16.width - 1)
        m.d.comb += rounded.eq(Cat(moved[2:-1], field) + (half & (rest | odd)))
        special, nan, sign, large = late
        is_nan = special & nan
        m.d.sync += [
            self.o.fraction.eq(Mux(special | large, is_nan << BINARY16.fraction_bits - 1, rounded)),
            self.o.exponent.eq(Mux(special | large, -1, rounded[BINARY16.fraction_bits:])),
            self.o.sign.eq(sign & ~is_nan),
        ]
        return m

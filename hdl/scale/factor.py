"""Times a column's factor, or divided by its mantissa."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.params import WIDE_BITS

__all__ = ["COEFFICIENT_BITS", "FACTOR_BITS", "PRODUCT_BITS", "Factor", "coefficient"]

#: Width of a factor.
FACTOR_BITS = 10
#: Width of what is multiplied by: a factor, or 16380 over a mantissa.
COEFFICIENT_BITS = 12
#: Width of a magnitude: ``2**31 * 2**14 / 4`` is the largest.
PRODUCT_BITS = 44

#: Of the low half of a product, which one multiplier makes.
_LOW_BITS = 17
#: Fraction bits of a quotient.
_FRACTION = 6
#: ``2**_PERIOD - 1`` is a multiple of 3, 5 and 7.
_PERIOD = 12


def coefficient(factor, divide):
    """What to multiply by for a factor, or to divide by a mantissa 4..7: a value of
    ``COEFFICIENT_BITS`` bits."""
    inverse = Array(C(4 * (2**_PERIOD - 1) // mantissa, COEFFICIENT_BITS)
                    for mantissa in range(4, 8))[factor[:2]]
    return Mux(divide, inverse, factor[:FACTOR_BITS])


class Factor(wiring.Component):
    """``z = x f``, or with ``divide`` ``floor(2**14 x / d)``, as magnitude and sign.

    ``sim.model.quantise.divide_by_mantissa``. One element per clock, ``LATENCY`` clocks; two
    multipliers of 18 x 18 bits.

    Division: with ``a = |x|`` and ``p = a 16380 / d``, a whole number for every d in 4..7,
    ``t = 2**14 a / d = p 4096 / 4095 = p (1 + 2**-12) (1 + 2**-24) + r``. What is left out is
    ``r = 4 a / d 2**-36 <= 2**-5``, since ``a <= 2**31``, and two sums that are cut to 6 fraction
    bits lose less than ``2**-5``: what is found lies within ``(t - 1/16, t]``. The fraction of t
    is 0 or from 1/7 to 6/7. So ``floor(t)`` is the floor of what is found and 1/16, below 1 more
    than 6/7, and ``ceil(t)``, the magnitude of the floor of a negative number, is that of what is
    found and 15/16, which 1/7 brings to 1 even if 1/16 is missing.

    Members
    -------
    x : In(signed(WIDE_BITS))
    coefficient : In(COEFFICIENT_BITS)
        See :func:`coefficient`; ``COEFFICIENT`` cycle after ``x``.
    divide : In(1)
        Steady.
    magnitude : Out(PRODUCT_BITS)
    negative : Out(1)
        Of x: a magnitude of 0 may be negative.
    """
    #: From ``x`` to the ``coefficient`` that it meets.
    COEFFICIENT = 1
    LATENCY = 5

    def __init__(self):
        super().__init__({
            "x": In(signed(WIDE_BITS)),
            "coefficient": In(COEFFICIENT_BITS),
            "divide": In(1),
            "magnitude": Out(PRODUCT_BITS),
            "negative": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        negative = Signal(self.LATENCY, reset_less=True)
        m.d.sync += negative.eq(Cat(self.x[-1], negative))
        m.d.comb += self.negative.eq(negative[-1])

        # Stage 1: magnitude, or one less of a negative number.
        flipped = Signal(WIDE_BITS, reset_less=True)
        m.d.sync += flipped.eq(self.x ^ self.x[-1].replicate(WIDE_BITS))
        # Stage 2: partial products, and that of the one.
        low = Signal(_LOW_BITS + COEFFICIENT_BITS, reset_less=True)
        high = Signal(WIDE_BITS - _LOW_BITS + COEFFICIENT_BITS, reset_less=True)
        one = Signal(COEFFICIENT_BITS, reset_less=True)
        m.d.sync += [
            low.eq(flipped[:_LOW_BITS] * self.coefficient),
            high.eq(flipped[_LOW_BITS:] * self.coefficient),
            one.eq(self.coefficient),
        ]
        with m.If(~negative[0]):
            m.d.sync += one.eq(0)
        # Stage 3: their sum; once more, to be added where it is divided.
        product, divided = (Signal(PRODUCT_BITS - 1, reset_less=True) for _ in range(2))
        whole = low + Cat(one, C(0, _LOW_BITS - COEFFICIENT_BITS), high)
        m.d.sync += [product.eq(whole), divided.eq(whole)]
        with m.If(~self.divide):
            m.d.sync += divided.eq(0)
        # Stage 4: times 1 + 2**-12, and 1/16 or 15/16. Without division no fraction is added.
        once, again = (Signal(PRODUCT_BITS + _FRACTION, reset_less=True) for _ in range(2))
        offset = Cat(C(0, _FRACTION - 4), C(1, 1), negative[2].replicate(3))
        total = Cat(offset, product) + (divided >> _PERIOD - _FRACTION)
        m.d.sync += [once.eq(total), again.eq(total)]
        with m.If(~self.divide):
            m.d.sync += again.eq(0)
        # Stage 5: times 1 + 2**-24.
        twice = Signal(PRODUCT_BITS + _FRACTION, reset_less=True)
        m.d.sync += twice.eq(once + (again >> 2 * _PERIOD))
        m.d.comb += self.magnitude.eq(twice[_FRACTION:])
        return m

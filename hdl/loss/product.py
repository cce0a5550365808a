"""The wide product of fixed-point numbers that exponential and logarithm share."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FRACTION", "VALUE_BITS", "Product"]

#: Fraction bits of a value.
FRACTION = 30
#: Width of a value, unsigned: below 2.
VALUE_BITS = FRACTION + 1


class Product(wiring.Component):
    """``o = floor(a b 2**-FRACTION)`` out of four 18 x 18 bit multipliers; one per clock,
    ``LATENCY`` clocks later. The latency is odd, so that a ring of a power of two of passes through
    it is never in its own way (:mod:`hdl.loss.exponential`).

    Members
    -------
    a, b : In(VALUE_BITS)
    o : Out(VALUE_BITS + 1)
    """
    LATENCY = 5
    #: Low bits of a factor: what a signed 18-bit operand has for an unsigned number.
    _LOW = 17
    #: Low bits of the sum that have a clock of their own.
    _FIRST = 22

    def __init__(self):
        super().__init__({"a": In(VALUE_BITS), "b": In(VALUE_BITS), "o": Out(VALUE_BITS + 1)})

    def elaborate(self, platform):
        m = Module()
        low, high = self._LOW, VALUE_BITS - self._LOW

        def register(name, value, width=None):
            following = Signal(width or len(value), name=name, reset_less=True)
            m.d.sync += following.eq(value)
            return following

        # Stage 1: operands.
        a, b = register("a_1", self.a), register("b_1", self.b)
        # Stage 2: partial products.
        ll = register("ll", a[:low] * b[:low], 2 * low)
        lh = register("lh", a[:low] * b[low:], low + high)
        hl = register("hl", a[low:] * b[:low], low + high)
        hh = register("hh", a[low:] * b[low:], 2 * high)
        # Stage 3: those in the middle; the others lie side by side. From here on without the low
        # bits, to which nothing is added.
        middle = register("middle", lh + hl, low + high + 1)
        outer = register("outer", Cat(ll, hh)[low:])
        # Stage 4: the low half of the sum.
        first = self._FIRST
        bottom = register("bottom", outer[:first] + middle[:first], first + 1)
        outer_top, middle_top = register("outer_top", outer[first:]), register(
            "middle_top", middle[first:])
        # Stage 5: the high half.
        bottom_kept = register("bottom_kept", bottom[FRACTION - low:first])
        top = register("top", outer_top + middle_top + bottom[first], len(outer_top))
        m.d.comb += self.o.eq(Cat(bottom_kept, top))
        return m

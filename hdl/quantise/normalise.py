"""Products with their first bit in front: a fraction and how far it was moved."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["NormalisedProduct"]

#: Width of an operand of a multiplier block.
_BLOCK_BITS = 18


class NormalisedProduct(wiring.Component):
    """``a * b``, shifted left by ``away`` until its first bit is the highest of ``bits``.

    ``fraction`` holds the ``window`` highest of them, ``rest`` says whether any below is set. A
    product of 0 has a fraction of 0. One product a clock, ``latency`` cycles from the operands to
    the fraction; nothing stalls. Two multipliers of 18 x 18 bits, then a level of the shifter to a
    stage: a level moves the number by its step if so many of the highest bits are all 0, and keeps
    what the levels after it can bring into the window.

    Parameters
    ----------
    a_bits, b_bits : int
        Widths of the operands, at most 36 and 18.
    bits : int
        Width of the product, which may be less than those of the operands together.
    window : int
        Width of the fraction.

    Members
    -------
    a : In(a_bits)
    b : In(b_bits)
    fraction : Out(window)
    rest : Out(1)
    away : Out(ceil_log2(bits))
    """
    def __init__(self, a_bits, b_bits, bits, window):
        assert _BLOCK_BITS < a_bits <= 2 * _BLOCK_BITS and b_bits <= _BLOCK_BITS
        assert window <= bits
        self.bits = bits
        self.window = window
        self.levels = ceil_log2(bits)
        #: Cycles from the operands to the fraction.
        self.latency = 3 + self.levels
        super().__init__({
            "a": In(a_bits), "b": In(b_bits),
            "fraction": Out(window), "rest": Out(1), "away": Out(self.levels),
        })

    def elaborate(self, platform):
        m = Module()

        def register(value, name):
            held = Signal.like(value, name=name, reset_less=True)
            m.d.sync += held.eq(value)
            return held

        # Stage 1: operands. Stage 2: partial products. Stage 3: their sum.
        a, b = register(self.a, "a_held"), register(self.b, "b_held")
        low = register(a[:_BLOCK_BITS] * b, "low")
        high = register(a[_BLOCK_BITS:] * b, "high")
        value = register((low + (high << _BLOCK_BITS))[:self.bits], "product")

        # One stage for every level: shift, and notice what is left behind.
        rest, away = C(0), C(0, 0)
        for level in reversed(range(self.levels)):
            step = 1 << level
            empty = ~value[-step:].any()
            shifted = Mux(empty, (value << step)[:len(value)], value)
            # What the lower levels do not bring into the window.
            below = max(0, len(value) - (self.window + step - 1))
            rest = register(rest | shifted[:below].any(), f"rest_{level}")
            away = register(Cat(empty, away), f"away_{level}")
            value = register(shifted[below:], f"level_{level}")
        m.d.comb += [self.fraction.eq(value), self.rest.eq(rest), self.away.eq(away)]
        return m

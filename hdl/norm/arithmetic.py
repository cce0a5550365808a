"""Wide products, and shifts and clamps of them."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Multiplier", "SaturatingShift", "clamp"]


def clamp(value, bits):
    """``(clamped, over)``: a signed value in ``bits`` bits; ``sim.model.rounding.saturate``.

    ``over`` says that it did not fit and was clamped.
    """
    top = value[bits - 1:]
    over = top.any() & ~top.all()
    sign = value[-1]
    limit = Cat((~sign).replicate(bits - 1), sign)
    return Mux(over, limit, value[:bits]).as_signed(), over


class Multiplier(wiring.Component):
    """``o = a * b`` out of two 18 x 18 bit multipliers: the low 17 bits of ``a`` and the rest; out
    of one for an ``a`` of 18 bits or less.

    One product per clock, ``LATENCY`` clocks after a clock with ``en``; in all other clocks
    ``o`` is 0 and ``valid`` low.

    Parameters
    ----------
    a_bits : int
        Width of ``a``, up to 35.

    Members
    -------
    en : In(1)
    a : In(signed(a_bits))
    b : In(signed(B_BITS))
    valid : Out(1)
    o : Out(signed(a_bits + B_BITS))
    """
    LATENCY = 3
    B_BITS = 18
    _LOW_BITS = 17

    def __init__(self, a_bits):
        assert a_bits <= self.B_BITS + self._LOW_BITS
        self.a_bits = a_bits
        super().__init__({
            "en": In(1),
            "a": In(signed(a_bits)),
            "b": In(signed(self.B_BITS)),
            "valid": Out(1),
            "o": Out(signed(a_bits + self.B_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        # Stage 1: operands.
        a = Signal(signed(self.a_bits), reset_less=True)
        b = Signal(signed(self.B_BITS), reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b)]
        # Stage 2: partial products.
        if self.a_bits <= self.B_BITS:
            product = Signal.like(self.o, reset_less=True)
            m.d.sync += product.eq(a * b)
        else:
            low = Signal(signed(self._LOW_BITS + self.B_BITS), reset_less=True)
            high = Signal(signed(self.a_bits - self._LOW_BITS + self.B_BITS), reset_less=True)
            m.d.sync += [
                low.eq(a[:self._LOW_BITS] * b),
                high.eq(a[self._LOW_BITS:].as_signed() * b),
            ]
            product = low + (high << self._LOW_BITS)
        # Stage 3: their sum.
        valid = Signal(2)
        m.d.sync += [
            Cat(valid, self.valid).eq(Cat(self.en, valid)),
            self.o.eq(0),
        ]
        with m.If(valid[-1]):
            m.d.sync += self.o.eq(product)
        return m


class SaturatingShift(wiring.Component):
    """``o = i >> amount`` (floor) if it fits ``o_bits`` bits; else ``over``, and o is undefined.

    Combinational, one level of multiplexers per bit of ``amount``. Each level keeps only the
    bits that later levels can still bring into the output, and notices what it drops, so the
    shifter costs little more than its output is wide.

    Parameters
    ----------
    i_bits, o_bits : int
        Widths of input and output.
    amount_bits : int
        Width of the unsigned shift amount.

    Members
    -------
    i : In(signed(i_bits))
    amount : In(amount_bits)
    o : Out(signed(o_bits))
    over : Out(1)
    """
    def __init__(self, i_bits, o_bits, amount_bits):
        self.o_bits = o_bits
        self.amount_bits = amount_bits
        super().__init__({
            "i": In(signed(i_bits)),
            "amount": In(amount_bits),
            "o": Out(signed(o_bits)),
            "over": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        value, over = self.i, 0
        for level in reversed(range(self.amount_bits)):
            # Bits that the lower levels can reach.
            keep = self.o_bits + (1 << level) - 1
            shifted = value >> (1 << level)
            level_o = Signal(signed(keep), name=f"level_{level}")
            m.d.comb += level_o.eq(Mux(self.amount[level], shifted, value))
            over = over | Mux(self.amount[level], _changes(shifted, keep), _changes(value, keep))
            value = level_o
        m.d.comb += [self.o.eq(value), self.over.eq(over)]
        return m


def _changes(value, bits):
    """Whether cutting a signed value to ``bits`` bits changes it."""
    top = value[bits - 1:]
    return top.any() & ~top.all() if len(value) > bits else 0

"""The exponent that a tensor is aligned to, and what every column's exponent is added to."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import register
from hdl.scale.factor import PRODUCT_BITS
from hdl.scale.shift import AMOUNT_ZERO

__all__ = ["ALIGNED_BITS", "WIDE_AMOUNT_BITS", "Alignment", "BitLength"]

#: Bits of magnitude that an aligned tensor has.
ALIGNED_BITS = 22
#: Width of an amount before it is clamped: three numbers of 16 bits, the exponent of an alignment,
#: which is the sum of three others, and small constants.
WIDE_AMOUNT_BITS = 19


def _highest(value):
    """``(some, place)``: whether a bit is set, and which is the highest; a power of two bits."""
    value = Value.cast(value)
    if len(value) == 1:
        return value, Const(0, 0)
    half = len(value) // 2
    (low, low_place), (high, high_place) = _highest(value[:half]), _highest(value[half:])
    return low | high, Cat(Mux(high, high_place, low_place), high)


class BitLength(wiring.Component):
    """``length = bit_length(i)``; ``sim.model.rounding.bit_length``.

    One number per clock, ``LATENCY`` clocks.

    Parameters
    ----------
    bits : int
        At most 64.

    Members
    -------
    i : In(bits)
    o : Out(range(bits + 1))
        0 for 0.
    """
    LATENCY = 2
    _PART = 8

    def __init__(self, bits):
        super().__init__({"i": In(bits), "o": Out(range(bits + 1))})

    def elaborate(self, platform):
        m = Module()
        # Stage 1: of every eight bits.
        some, places = [], []
        for first in range(0, 64, self._PART):
            bits = Value.cast(self.i)[first:first + self._PART]
            is_some, place = _highest(Cat(bits, Const(0, self._PART - len(bits))))
            some.append(register(m, f"some_{first}", is_some))
            places.append(register(m, f"place_{first}", place))
        # Stage 2: of all.
        found, part = _highest(Cat(some))
        place = Mux(part[0], places[1], places[0])
        for k in range(1, len(places) // 2):
            pair = Mux(part[0], places[2 * k + 1], places[2 * k])
            place = Mux(part[1:] == k, pair, place)
        length = Signal.like(self.o, reset_less=True)
        m.d.sync += length.eq(Mux(found, Cat(place, part) + 1, 0))
        m.d.comb += self.o.eq(length)
        return m


class Alignment(wiring.Component):
    """Where columns begin to count from: ``amount_j = base + number_j`` shifts column j.

    ``number_j`` is the column's exponent r_j, or with ``invert`` what all bits inverted are of
    it: ``-r_j - 1``. ``base`` begins as :data:`~hdl.scale.shift.AMOUNT_ZERO` less what is added to
    every exponent. Once the longest ``bit_length(z) + exponent_j`` is known, the least ``amount_j -
    bit_length(z)``, it is set so that this becomes ``ALIGNED_BITS``, and ``exponent`` is what that
    takes: ``sim.model.add.add_gradients`` of one tensor.

    ``base`` is there in the cycle after ``start`` or ``add``. ``settle`` may be ``LATENCY`` cycles
    after the last ``take``, when ``exponent`` is there, and ``base`` is one later.

    Members
    -------
    start : In(1)
    constant : In(1)
        With ``start``: the tensor is not scaled, and exponents are 0.
    invert : In(1)
        Steady.
    common : In(signed(16))
        With ``start``: a number that is added to every exponent.
    add : In(1)
    more : In(signed(16))
        With ``add``: another one.
    take : In(1)
    magnitude : In(PRODUCT_BITS)
        With ``take``: as long as the longest of a column.
    amount : In(signed(WIDE_AMOUNT_BITS))
        One cycle later: that column's.
    settle : In(1)
    base : Out(signed(WIDE_AMOUNT_BITS))
    exponent : Out(signed(WIDE_AMOUNT_BITS))
    """
    LATENCY = BitLength.LATENCY + 3

    def __init__(self):
        super().__init__({
            "start": In(1), "constant": In(1), "invert": In(1), "common": In(signed(16)),
            "add": In(1), "more": In(signed(16)),
            "take": In(1),
            "magnitude": In(PRODUCT_BITS),
            "amount": In(signed(WIDE_AMOUNT_BITS)),
            "settle": In(1),
            "base": Out(signed(WIDE_AMOUNT_BITS)),
            "exponent": Out(signed(WIDE_AMOUNT_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        # Stages 1 and 2: the length.
        m.submodules.length = length = BitLength(PRODUCT_BITS)
        m.d.comb += length.i.eq(self.magnitude)
        taken = Signal(BitLength.LATENCY)
        amount = register(m, "amount_held", self.amount)
        m.d.sync += taken.eq(Cat(self.take, taken))

        # Stage 3: less than the amount. A column of zeros has no length.
        candidate = register(m, "candidate", (amount - length.o)[:WIDE_AMOUNT_BITS].as_signed())
        is_candidate = Signal()
        m.d.sync += is_candidate.eq(taken[-1] & length.o.any())

        # Stage 4: the least of all, and what exponent 0 comes of if there is none.
        least, found = Signal(signed(WIDE_AMOUNT_BITS)), Signal()
        with m.If(self.start):
            m.d.sync += [least.eq(AMOUNT_ZERO), found.eq(0)]
        with m.Elif(is_candidate & (~found | (candidate < least))):
            m.d.sync += [least.eq(candidate), found.eq(1)]

        # Stage 5: the exponent.
        m.d.sync += self.exponent.eq(AMOUNT_ZERO - ALIGNED_BITS - least)

        with m.If(self.start):
            m.d.sync += self.base.eq(AMOUNT_ZERO + self.invert - self.common)
            with m.If(self.constant):
                m.d.sync += self.base.eq(AMOUNT_ZERO)
        with m.Elif(self.add):
            m.d.sync += self.base.eq(self.base - self.more)
        with m.Elif(self.settle):
            m.d.sync += self.base.eq(self.base + self.exponent)
        return m

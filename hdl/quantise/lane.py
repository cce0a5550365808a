"""The quantiser's datapath for one column."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.params import WIDE_BITS
from hdl.quantise.scale import INVERSE_BITS, MAGNITUDE_BITS, RANGE_SHIFT_BITS, Scaling

__all__ = ["FRACTION", "Lane"]

#: Fraction bits of a code before it is rounded: 16 random bits and half an LSB.
FRACTION = 17


class Lane(wiring.Component):
    """Searches a column for its largest magnitude, and quantises it.

    ``magnitude = min(|x|, 2**31 - 1)``, 0 while not ``active``, leaves ``MAGNITUDE_LATENCY``
    cycles after ``x``. While ``searching``, ``magnitude << group`` goes to ``largest`` and
    ``total`` in a cycle with ``accumulate``, ``SEARCH_LATENCY`` cycles after ``x``.

    While not ``searching``, ``q`` is the code of the ``x`` of ``LATENCY`` cycles before
    (``sim.model.quantise.quantise``): y = x clamped to ``[-limit, limit]``, or to ``[0, limit]``
    with ``unsigned``; ``z = (y << (shift + group)) * inverse``, of which ``FRACTION`` fraction
    bits are kept; ``q = (z + e) >> FRACTION`` with ``e = 2**16``, or ``2 * noise + 1`` with
    ``stochastic``. An unsigned code is stored less ``2**(bits - 1)``.

    ``group`` is taken ``GROUP_STAGE`` cycles after ``x``, ``noise`` ``NOISE_STAGE`` cycles after
    it. One element enters every clock and nothing stalls. ``y << (shift + group)`` fits 32 bits
    because no group takes an element beyond ``limit``; other elements give a wrong code.

    Parameters
    ----------
    bits : int
        Width of a code.
    total_bits : int
        Width of the sum of magnitudes.

    Members
    -------
    x : In(signed(WIDE_BITS))
    active : In(1)
        The lane holds a column of the tensor. With ``x``.
    group : In(4)
        Sum of the row's and the column's group, 0..14.
    noise : In(16)
    searching, unsigned, stochastic : In(1)
        Steady while elements are inside.
    scaling : In(Scaling)
        Steady while elements are inside; does not matter while searching.
    clear : In(1)
        Start ``largest`` and ``total`` from 0.
    accumulate : In(1)
    magnitude : Out(MAGNITUDE_BITS)
    largest : Out(MAGNITUDE_BITS)
    total : Out(total_bits)
    q : Out(signed(bits))
    """
    MAGNITUDE_LATENCY = 1
    GROUP_STAGE = 1
    SEARCH_LATENCY = 3
    NOISE_STAGE = 3
    LATENCY = 5

    def __init__(self, bits, total_bits):
        self.bits = bits
        super().__init__({
            "x": In(signed(WIDE_BITS)),
            "active": In(1),
            "group": In(4),
            "noise": In(16),
            "searching": In(1),
            "unsigned": In(1),
            "stochastic": In(1),
            "scaling": In(Scaling),
            "clear": In(1),
            "accumulate": In(1),
            "magnitude": Out(MAGNITUDE_BITS),
            "largest": Out(MAGNITUDE_BITS),
            "total": Out(total_bits),
            "q": Out(signed(bits)),
        })

    def elaborate(self, platform):
        m = Module()

        # Stage 1: sign and absolute value, of which -2**31 alone needs all bits.
        negative = Signal(4, reset_less=True)
        absolute = Signal(WIDE_BITS, reset_less=True)
        m.d.sync += [
            negative.eq(Cat(self.x < 0, negative)),
            absolute.eq(Mux(self.x < 0, -self.x, self.x)),
        ]
        with m.If(~self.active):
            m.d.sync += absolute.eq(0)
        m.d.comb += self.magnitude.eq(absolute | absolute[-1].replicate(WIDE_BITS))

        # Stage 2: clamp, and how far to shift. Zero is all that is shifted by 32 or more.
        clamped = Signal(MAGNITUDE_BITS, reset_less=True)
        amount = Signal(RANGE_SHIFT_BITS, reset_less=True)
        with m.If(self.searching):
            m.d.sync += [clamped.eq(self.magnitude), amount.eq(self.group)]
        with m.Else():
            m.d.sync += [
                clamped.eq(Mux(absolute < self.scaling.limit, absolute, self.scaling.limit)),
                amount.eq(self.scaling.shift + self.group),
            ]
            with m.If(self.unsigned & negative[0]):
                m.d.sync += clamped.eq(0)

        # Stage 3: shift.
        shifted = Signal(MAGNITUDE_BITS, reset_less=True)
        m.d.sync += shifted.eq(clamped << amount)

        # Stage 4: search, or multiply. Bits above the code's do not matter.
        with m.If(self.accumulate):
            m.d.sync += self.total.eq(self.total + shifted)
            with m.If(shifted > self.largest):
                m.d.sync += self.largest.eq(shifted)
        with m.If(self.clear):
            m.d.sync += [self.largest.eq(0), self.total.eq(0)]
        dropped = MAGNITUDE_BITS + INVERSE_BITS - 1 - self.bits - FRACTION
        product = Signal(dropped + FRACTION + self.bits, reset_less=True)
        half = Signal(FRACTION, reset_less=True)
        m.d.sync += [
            product.eq(shifted * self.scaling.inverse),
            half.eq(Mux(self.stochastic, Cat(C(1, 1), self.noise), 1 << FRACTION - 1)),
        ]

        # Stage 5: restore the sign and round. ``floor(-p / 2**d)`` is ``~floor(p / 2**d)``, plus
        # one if no bit is dropped; that one enters at the adder's carry.
        kept = Signal(FRACTION + self.bits)
        carry = Signal()
        code = Signal(self.bits)
        m.d.comb += [
            kept.eq((product >> dropped) ^ negative[3].replicate(len(kept))),
            carry.eq(negative[3] & ((product & (1 << dropped) - 1) == 0)),
            code.eq(Cat(C(1, 1), kept) + Cat(carry, half) >> 1 + FRACTION),
        ]
        m.d.sync += self.q.eq(code ^ (self.unsigned << self.bits - 1))
        return m

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
    NOISE_STAGE = 4
    LATENCY = 6

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

        # Stage 1: sign and magnitude; -2**31 becomes 2**31 - 1.
        negative = Signal(3, reset_less=True)
        absolute = Signal(WIDE_BITS)
        magnitude = self.magnitude
        m.d.comb += absolute.eq(Mux(self.x < 0, -self.x, self.x))
        m.d.sync += [
            negative.eq(Cat(self.x < 0, negative)),
            magnitude.eq(absolute | absolute[-1].replicate(WIDE_BITS)),
        ]
        with m.If(~self.active):
            m.d.sync += magnitude.eq(0)

        # Stage 2: clamp, and how far to shift. Zero is all that is shifted by 32 or more.
        clamped = Signal(MAGNITUDE_BITS, reset_less=True)
        amount = Signal(RANGE_SHIFT_BITS, reset_less=True)
        with m.If(self.searching):
            m.d.sync += [clamped.eq(magnitude), amount.eq(self.group)]
        with m.Else():
            m.d.sync += [
                clamped.eq(Mux(magnitude < self.scaling.limit, magnitude, self.scaling.limit)),
                amount.eq(self.scaling.shift + self.group),
            ]
            with m.If(self.unsigned & negative[0]):
                m.d.sync += clamped.eq(0)

        # Stage 3: shift.
        shifted = Signal(MAGNITUDE_BITS, reset_less=True)
        m.d.sync += shifted.eq(clamped << amount)

        # Stage 4: search, or restore the sign.
        with m.If(self.accumulate):
            m.d.sync += self.total.eq(self.total + shifted)
            with m.If(shifted > self.largest):
                m.d.sync += self.largest.eq(shifted)
        with m.If(self.clear):
            m.d.sync += [self.largest.eq(0), self.total.eq(0)]
        y = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += y.eq(Mux(negative[2], -shifted, shifted))

        # Stage 5: multiply. Bits above the code's do not matter.
        dropped = MAGNITUDE_BITS + INVERSE_BITS - 1 - self.bits - FRACTION
        product = Signal(signed(dropped + FRACTION + self.bits), reset_less=True)
        half = Signal(FRACTION, reset_less=True)
        m.d.sync += [
            product.eq(y * self.scaling.inverse),
            half.eq(Mux(self.stochastic, Cat(C(1, 1), self.noise), 1 << FRACTION - 1)),
        ]

        # Stage 6: round.
        code = Signal(self.bits)
        offset = self.unsigned << self.bits - 1
        m.d.comb += code.eq((product >> dropped) + half >> FRACTION)
        m.d.sync += self.q.eq(code ^ offset)
        return m

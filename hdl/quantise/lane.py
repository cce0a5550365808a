"""The quantiser's datapath for one column."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import SCAN_SHIFT
from hdl.params import WIDE_BITS
from hdl.quantise.exponent import EXPONENT_BITS, MAGNITUDE_BITS, ScaleExponent

__all__ = ["FRACTION", "Lane", "reach_bits"]

#: Fraction bits of a code before it is rounded: 16 random bits and half an LSB.
FRACTION = 17


def reach_bits(bits, groups):
    """Width of a reach: a code's magnitude, ``groups - 1`` fraction bits, and one for the rest.

    >>> reach_bits(4, 8)
    11
    """
    return bits - 1 + groups


class Lane(wiring.Component):
    """Searches a column for its largest magnitude, and quantises it.

    Everything works on ``magnitude = |x|``, 0 while not ``active``, which leaves
    ``MAGNITUDE_LATENCY`` cycles after ``x``. It goes to ``largest`` and ``total`` in a cycle with
    ``search``.

    ``magnitude * 2**(group - exponent)`` is how far an element reaches, in steps of its code:
    with ``groups - 1`` fraction bits and a last bit that says that more were dropped it is
    ``reach``, ``REACH_LATENCY`` cycles after ``x``, and goes to ``farthest`` in a cycle with
    ``join``. That much is enough to compare it with any ``top * 2**-g``.

    With ``FRACTION`` fraction bits, rounded down, clamped to ``top`` and with its sign it is z,
    and ``q = (z + e) >> FRACTION``, ``e = 2**16``, or ``2 * noise + 1`` with ``stochastic``: the
    code of the ``x`` of ``LATENCY`` cycles before (``sim.model.quantise.quantise``). With
    ``unsigned`` negative elements become 0, and a code is stored less ``2**(bits - 1)``.

    ``noise`` is taken ``NOISE_STAGE`` cycles after ``x``. One element enters every clock and
    nothing stalls.

    Parameters
    ----------
    bits : int
        Width of a code.
    total_bits : int
        Width of the sum of magnitudes.
    groups : int
        Most groups along an axis.
    scanned : bool
        What goes to ``total`` has a control of its own.

    Members
    -------
    x : In(signed(WIDE_BITS))
    active : In(1)
        The lane holds a column of the tensor. With ``x``, as is ``group``.
    group : In(4)
        Sum of the row's and the column's group, 0..14.
    noise : In(16)
    unsigned, stochastic : In(1)
        Steady while elements are inside, as ``exponent`` is.
    exponent : In(signed(EXPONENT_BITS))
        Of the scale. Does not matter while searching.
    clear : In(1)
        Start ``largest``, ``total`` and ``farthest`` from 0.
    search, join : In(1)
    gather, high : In(1)
        With ``scanned``: the magnitude goes to ``total`` instead of with ``search``, times
        ``2**SCAN_SHIFT`` if ``high``.
    magnitude : Out(MAGNITUDE_BITS)
    largest : Out(MAGNITUDE_BITS)
    total : Out(total_bits)
    reach, farthest : Out(reach_bits(bits, groups))
    q : Out(signed(bits))
    """
    MAGNITUDE_LATENCY = 1
    NOISE_STAGE = 2
    REACH_LATENCY = 3
    LATENCY = 4

    def __init__(self, bits, total_bits, groups, *, scanned=False):
        self.bits = bits
        self.groups = groups
        self.scanned = scanned
        reach = reach_bits(bits, groups)
        super().__init__({
            "x": In(signed(WIDE_BITS)),
            "active": In(1),
            "group": In(4),
            "noise": In(16),
            "unsigned": In(1),
            "stochastic": In(1),
            "exponent": In(signed(EXPONENT_BITS)),
            "clear": In(1),
            "search": In(1),
            **({"gather": In(1), "high": In(1)} if scanned else {}),
            "join": In(1),
            "magnitude": Out(MAGNITUDE_BITS),
            "largest": Out(MAGNITUDE_BITS),
            "total": Out(total_bits),
            "reach": Out(reach),
            "farthest": Out(reach),
            "q": Out(signed(bits)),
        })

    def elaborate(self, platform):
        m = Module()
        window = self.bits + FRACTION
        # The furthest shift left, which is a shift right by 0: the exponent of a maximum of 1 is at
        # least -bits, and a clip may lie some below.
        most = self.bits + ScaleExponent.DEEPEST + FRACTION

        # Stage 1: absolute value, and how far to shift it. A zero may wrap around.
        negative = Signal(3, reset_less=True)
        amount = Signal(range(most + MAGNITUDE_BITS), reset_less=True)
        m.d.sync += [
            negative.eq(Cat(self.x < 0, negative)),
            self.magnitude.eq(Mux(self.x < 0, -self.x, self.x)),
            amount.eq(self.exponent - self.group + (most - FRACTION)),
        ]
        with m.If(~self.active):
            m.d.sync += self.magnitude.eq(0)

        # Search.
        if self.scanned:
            with m.If(self.gather):
                m.d.sync += self.total.eq(self.total + Mux(
                    self.high, self.magnitude << SCAN_SHIFT, self.magnitude))
        with m.If(self.search):
            if not self.scanned:
                m.d.sync += self.total.eq(self.total + self.magnitude)
            with m.If(self.magnitude > self.largest):
                m.d.sync += self.largest.eq(self.magnitude)
        with m.If(self.clear):
            m.d.sync += [self.largest.eq(0), self.total.eq(0)]

        # Stages 2 and 3: shift. Each level keeps what later ones can bring into the window, and
        # notices what leaves it on either side.
        value, over, rest = Cat(C(0, most), self.magnitude), C(0), C(0)
        for level in reversed(range(len(amount))):
            step = 1 << level
            shifted = Mux(amount[level], value >> step, value)
            rest = rest | amount[level] & value[:step].any()
            over = over | shifted[window + step - 1:].any()
            value = shifted[:window + step - 1]
            if level == 3:
                held = Signal(len(value), reset_less=True)
                flags = Signal(2, reset_less=True)
                amount_held = Signal(level, reset_less=True)
                m.d.sync += [held.eq(value), flags.eq(Cat(over, rest)), amount_held.eq(amount)]
                value, (over, rest), amount = held, flags, amount_held

        # Clamp to the largest code, 2**t - 1.
        ones = value[FRACTION:-1].all()
        high = value[-1]
        clamped = Signal(window, reset_less=True)
        dropped = Signal(reset_less=True)
        full = over | Mux(self.unsigned, ones & high, ones | high)
        m.d.sync += [clamped.eq(value), dropped.eq(rest)]
        with m.If(full):
            m.d.sync += [clamped.eq(Cat(C(0, FRACTION), C(-1, self.bits - 1), self.unsigned)),
                         dropped.eq(0)]
        with m.If(self.unsigned & negative[1]):
            m.d.sync += [clamped.eq(0), dropped.eq(0)]
        half = Signal(FRACTION, reset_less=True)
        m.d.sync += half.eq(Cat(self.stochastic, Mux(self.stochastic, self.noise, 1 << 15)))

        # How far it reaches, and the farthest.
        below = FRACTION - (self.groups - 1)
        m.d.comb += self.reach.eq(
            Cat(clamped[:below].any() | dropped, clamped[below:-1]))
        with m.If(self.join & (self.reach > self.farthest)):
            m.d.sync += self.farthest.eq(self.reach)
        with m.If(self.clear):
            m.d.sync += self.farthest.eq(0)

        # Stage 4: restore the sign and round. ``floor(-p)`` is ``~floor(p)``, plus one if nothing
        # was dropped; that one enters at the adder's carry.
        kept = Signal(window)
        carry = Signal()
        code = Signal(self.bits)
        m.d.comb += [
            kept.eq(clamped ^ negative[2].replicate(window)),
            carry.eq(negative[2] & ~dropped),
            code.eq(Cat(C(1, 1), kept) + Cat(carry, half) >> 1 + FRACTION),
        ]
        m.d.sync += self.q.eq(code ^ (self.unsigned << self.bits - 1))
        return m

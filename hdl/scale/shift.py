"""From one power-of-two unit to another: shifts in both directions, rounding and clamping."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.params import WIDE_BITS
from hdl.scale.factor import PRODUCT_BITS

__all__ = ["AMOUNT_BITS", "AMOUNT_ZERO", "Rescale", "limited", "nearest_amount"]

#: Width of an amount.
AMOUNT_BITS = 7
#: The amount that leaves a number as it is.
AMOUNT_ZERO = WIDE_BITS


def nearest_amount(value):
    """The amount of :class:`Rescale` that does what a signed ``value`` of any width would."""
    return Mux(value[-1], 0, value[:AMOUNT_BITS] | value[AMOUNT_BITS:].any().replicate(AMOUNT_BITS))


def limited(value, sign, mask, *, clamps=1, always=0):
    """``(clamped, over)``: a number clamped to fewer bits; ``sim.model.rounding.saturate``.

    ``value`` has ``WIDE_BITS + 1`` bits; bit i of ``mask``, of ``WIDE_BITS`` bits, says that i is
    no bit below the result's sign. ``sign`` is what the bits beyond the result are if it fits, and
    whether the lowest number is put in its place if it does not. Only where it ``clamps``, and
    ``always``, whatever the value is, where there is that.
    """
    fits_as, lowest = sign
    differs = value ^ fits_as.replicate(len(value))
    over = clamps & (differs & Cat(mask, C(1, 1))).any() | always
    limit = ~(mask ^ lowest.replicate(WIDE_BITS))
    return Mux(over, limit, value[:WIDE_BITS]).as_signed(), over


class Rescale(wiring.Component):
    """``o = z 2**(AMOUNT_ZERO - amount)``, rounded half up and clamped; ``over`` if it was.

    ``sim.model.rounding.rescale``. One element per clock, ``LATENCY`` clocks.

    The magnitude is shifted to the right of ``2**32 z``: that many zeros are at most shifted in,
    because ``2**32`` is beyond every width. Each level keeps what later ones can bring into the
    window of the result and one fraction bit, and notices what leaves it on either side. A
    negative number is shifted as its magnitude and then inverted, which is one less than its floor
    if nothing was dropped; that, and the half that rounds, are one carry.

    Members
    -------
    magnitude : In(PRODUCT_BITS)
    negative : In(1)
    amount : In(AMOUNT_BITS)
        With ``magnitude``.
    mask : In(WIDE_BITS)
        Bits from the sign bit of the result on; steady.
    o : Out(signed(WIDE_BITS))
    over : Out(1)
    """
    LATENCY = 4
    #: Bits of the result and one fraction bit.
    _WINDOW = WIDE_BITS + 1

    def __init__(self):
        super().__init__({
            "magnitude": In(PRODUCT_BITS),
            "negative": In(1),
            "amount": In(AMOUNT_BITS),
            "mask": In(WIDE_BITS),
            "o": Out(signed(WIDE_BITS)),
            "over": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        window, z = self._WINDOW, self.magnitude
        negative = Signal(3, reset_less=True)
        m.d.sync += negative.eq(Cat(self.negative, negative))

        # Stage 1: by 0, 32 or 64 places; from 96 on nothing is left.
        fine, coarse = self.amount[:5], self.amount[5:]
        left, none, right = coarse == 0, coarse == 1, coarse == 2
        kept = window + 31

        def gated(value, condition):
            return value & condition.replicate(len(value))

        value = (gated(Cat(C(0, window), z)[:kept], left) | gated(Cat(C(0, 1), z), none)
                 | gated(z[31:], right))
        over = left & z[kept - window:].any()
        rest = right & z[:31].any()

        # Stages 1 and 2: by 16, 8, then 4, 2 and 1.
        for level in reversed(range(5)):
            step = 1 << level
            kept = window + step - 1
            rest = rest | fine[level] & value[:step].any()
            over = over | ~fine[level] & value[kept:].any()
            value = Mux(fine[level], value[step:], value[:kept])
            if level == 3:
                held = Signal(kept, reset_less=True)
                flags, fine_held = Signal(2, reset_less=True), Signal(level, reset_less=True)
                m.d.sync += [held.eq(value), flags.eq(Cat(over, rest)), fine_held.eq(fine)]
                value, (over, rest), fine = held, flags, fine_held
        shifted = Signal(window, reset_less=True)
        whole, over_shifted = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            shifted.eq(value ^ negative[0].replicate(window)),
            whole.eq(negative[0] & ~rest),
            over_shifted.eq(over),
        ]

        # Stage 3: round.
        rounded = Signal(window, reset_less=True)
        over_rounded = Signal(reset_less=True)
        m.d.sync += [
            rounded.eq(Cat(shifted[1:], negative[1]) + (shifted[0] | whole)),
            over_rounded.eq(over_shifted),
        ]

        # Stage 4: clamp. A negative number may be 0 by now, and a positive one fill its sign bit.
        clamped, over = limited(rounded, (rounded[-1] & negative[2], negative[2]), self.mask,
                                always=over_rounded)
        m.d.sync += [self.o.eq(clamped), self.over.eq(over)]
        return m

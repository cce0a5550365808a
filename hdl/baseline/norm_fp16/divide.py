"""What a channel has once: a mean, or the reciprocal of a root, digit by digit."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring

from hdl.floating.formats import BINARY16, BINARY32, FP16
from hdl.norm.reciprocal import COUNT_BITS, VALUE_BITS, Operation, divider_members

__all__ = ["QUOTIENT", "ChannelDivider"]

#: A result of :class:`ChannelDivider`: the mean's numbers, and those of an operand.
QUOTIENT = data.StructLayout({
    "significand": BINARY32.precision, "exponent": FP16.total_exponent,
    "root_fraction": BINARY16.fraction_bits,
    "root_exponent": FP16.operand_layout()["exponent"].shape,
})


class ChannelDivider(wiring.Component):
    """Restoring division, one bit per clock, and the square root of its quotient;
    ``sim.model.norm_fp16.mean`` and ``reciprocal_root``.

    The value v is a positive sum, its significand below its exponent.

    ``DIVIDE``: ``v / m`` rounded toward zero to binary32's precision. The quotient moves up until
    it begins with a one, and is 0 if the exponent would fall below that of partial sums.

    ``ROOT``: ``sqrt(m / v)`` rounded to binary16's precision, the half up, of the first
    ``SIGNIFICAND_BITS`` bits of v and the root's first bits, one more than there are. The exponent
    has no lower limit. v is not 0.

    A unit for :class:`hdl.norm.reciprocal.LaneDivider`. ``done`` pulses ``latency`` cycles after
    ``start``, and the results hold until the next.

    Members
    -------
    start : In(1)
    operation : In(Operation)
    numerator : In(signed(numerator_bits))
        Does not matter.
    denominator : In(COUNT_BITS)
        m.
    value : In(VALUE_BITS)
    done : Out(1)
    quotient : Out(signed(quotient_bits))
        :data:`QUOTIENT`.
    length : Out(LENGTH_BITS)
        0.
    """
    #: Of v, where it divides.
    SIGNIFICAND_BITS = 16
    #: Bits of the root, one to round.
    ROOT_BITS = BINARY16.precision + 1
    #: Pairs of quotient bits that are 0 before the first step: m * 2 < 2**10 <= v / 2**5.
    _PAIRS = 2
    #: A quotient of two significands is above 2**-16, so the root's first one is in pair 8.
    STEPS = 2 * (8 - _PAIRS + ROOT_BITS - 1)

    def __init__(self, numerator_bits, quotient_bits):
        assert BINARY32.precision + FP16.total_exponent.width == VALUE_BITS
        assert COUNT_BITS + 1 + 2 * self._PAIRS < self.SIGNIFICAND_BITS
        assert BINARY32.precision + COUNT_BITS <= self.STEPS
        super().__init__(divider_members(numerator_bits, quotient_bits))

    def latency(self, operation):
        """Cycles from ``start`` to ``done``."""
        return self.STEPS + 2

    def elaborate(self, platform):
        m = Module()
        width = self.SIGNIFICAND_BITS
        significand = self.value[:BINARY32.precision]
        exponent_i = self.value[BINARY32.precision:]
        left = Signal(range(self.STEPS + 1))
        rooting = Signal(reset_less=True)
        # Numerator bits leave at the top while quotient bits enter at the bottom.
        work = Signal(BINARY32.precision, reset_less=True)
        remainder, denominator = (Signal(width, name=name, reset_less=True)
                                  for name in ("remainder", "denominator"))
        exponent = Signal(len(exponent_i), reset_less=True)
        shifted, difference = Signal(width + 1), Signal(width + 2)
        fits = Signal()
        m.d.comb += [
            shifted.eq(Cat(work[-1] & ~rooting, remainder)),
            difference.eq(shifted - denominator),
            fits.eq(~difference[-1]),
        ]
        # The root of the bits so far, one bit in two clocks.
        root = Signal(self.ROOT_BITS, reset_less=True)
        rest = Signal(self.ROOT_BITS, reset_less=True)
        taken, root_difference = Signal(self.ROOT_BITS + 2), Signal(self.ROOT_BITS + 3)
        m.d.comb += [
            taken.eq(Cat(work[:2], rest)),
            root_difference.eq(taken - Cat(C(1, 2), root)),
        ]
        root_fits = ~root_difference[-1]
        # The numerator's bits are used up; there is a pair of bits.
        fraction, pair, last = Signal(), Signal(), Signal()
        # The last bit of the root takes a cycle more.
        m.d.sync += [last.eq(left == 1), self.done.eq(last)]
        # The quotient, or the root, has all its bits. A quotient of 0 never has: it stays.
        complete = Signal()
        m.d.comb += complete.eq(Mux(rooting, root[-1], fraction & work[-1]))
        with m.If(self.start):
            root_of = self.operation == Operation.ROOT
            # v = significand * 2**(exponent_i - place). m / v shall have an even power of two.
            place = FP16.offset + width - 1
            count = Mux(exponent_i[0] ^ place % 2, self.denominator << 1, self.denominator)
            root_exponent = (place - exponent_i >> 1) + self.ROOT_BITS - 1 - self._PAIRS
            m.d.sync += [
                left.eq(self.STEPS),
                rooting.eq(root_of),
                work.eq(significand),
                remainder.eq(Mux(root_of, count << 2 * self._PAIRS, 0)),
                denominator.eq(Mux(root_of, significand[-width:], self.denominator)),
                exponent.eq(Mux(root_of, root_exponent, exponent_i)),
                root.eq(0), rest.eq(0), fraction.eq(0), pair.eq(0),
            ]
        with m.Else():
            m.d.sync += [left.eq(left - left.any()), pair.eq(rooting & left[0])]
            with m.If(left == self.STEPS - BINARY32.precision + 1):
                m.d.sync += fraction.eq(1)
            with m.If(rooting | ~complete):
                m.d.sync += [remainder.eq(Mux(fits, difference, shifted)),
                             work.eq(Cat(fits, work))]
            with m.If(pair & ~complete):
                m.d.sync += [rest.eq(Mux(root_fits, root_difference, taken)),
                             root.eq(Cat(root_fits, root))]
            with m.If(Mux(rooting, pair, fraction) & ~complete):
                m.d.sync += exponent.eq(exponent - 1)
                with m.If(~rooting & (exponent == 0)):
                    m.d.sync += [work.eq(0), remainder.eq(0)]
        rounded = Signal(BINARY16.precision + 1)
        m.d.comb += rounded.eq((root + 1) >> 1)
        quotient = data.View(QUOTIENT, self.quotient)
        m.d.comb += [
            quotient.significand.eq(work),
            quotient.exponent.eq(exponent),
            quotient.root_fraction.eq(rounded),
            quotient.root_exponent.eq(exponent + rounded[-1]),
        ]
        return m

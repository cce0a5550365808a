"""The square root of what a channel has once, digit by digit, as a divider's quotient arrives."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.norm.reciprocal import Operation, Reciprocal

__all__ = ["Root", "RootReciprocal"]


class Root(wiring.Component):
    """Restoring square root, one bit in two clocks: ``floor(sqrt(v))``.

    v comes in pairs of bits, the highest first: the first in the second cycle after ``start``,
    then one in every second cycle. ``o`` is the root of the bits so far, in the cycle after the
    last pair and the next; whoever has no more pairs takes it then.

    Parameters
    ----------
    bits : int
        Width of the root.

    Members
    -------
    start : In(1)
    pair : In(2)
    o : Out(bits)
    """
    def __init__(self, bits):
        self.bits = bits
        super().__init__({"start": In(1), "pair": In(2), "o": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        # What is left of v, at most twice the root; the last one does not matter, and before that
        # the root has one bit less.
        remainder = Signal(self.bits)
        shifted = Signal(self.bits + 2)
        difference = Signal(self.bits + 3)
        fits, step = Signal(), Signal()
        m.d.comb += [
            shifted.eq(Cat(self.pair, remainder)),
            difference.eq(shifted - Cat(C(1, 2), self.o)),
            fits.eq(~difference[-1]),
        ]
        m.d.sync += step.eq(~step)
        with m.If(self.start):
            m.d.sync += [self.o.eq(0), remainder.eq(0), step.eq(0)]
        with m.Elif(step):
            m.d.sync += [remainder.eq(Mux(fits, difference, shifted)),
                         self.o.eq(Cat(fits, self.o))]
        return m


class RootReciprocal(Reciprocal):
    """A :class:`~hdl.norm.reciprocal.Reciprocal` that takes roots too; ``sim.model.norm_l2.root``.

    ``ROOT``: ``quotient = floor(sqrt(floor(numerator / denominator)))`` of a numerator that is
    not negative. The root takes the quotient's bits as they leave the divider, and holds for the
    cycle of ``done`` alone.

    The numerator of ``DIVIDE`` has ``SHORT_BITS``, and is the top ones of ``numerator``, whose
    others are 0. So means and reciprocals take no longer than without roots.
    """
    SHORT_BITS = 39

    def __init__(self, numerator_bits, quotient_bits):
        super().__init__(numerator_bits, quotient_bits, self.SHORT_BITS)
        # The quotient's last bit ends a pair.
        assert numerator_bits % 2 == 0
        self.root = Root(quotient_bits - 1)

    def latency(self, operation):
        """Cycles from ``start`` to ``done``."""
        if operation == Operation.ROOT:
            return self.divider.latency + 1
        return super().latency(operation)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.submodules.root = root = self.root
        divider = self.divider
        rooting, divided = Signal(), Signal()
        m.d.comb += divider.short.eq(1)
        with m.If(self.start):
            m.d.sync += rooting.eq(self.operation == Operation.ROOT)
            with m.If(self.operation == Operation.ROOT):
                m.d.comb += [
                    divider.start.eq(1),
                    divider.short.eq(0),
                    divider.numerator.eq(self.numerator),
                    divider.denominator.eq(self.denominator),
                ]
        # The root, two cycles after the bits.
        m.d.sync += [root.start.eq(divider.start), divided.eq(divider.done)]
        m.d.comb += root.pair.eq(divider.quotient)
        with m.If(rooting):
            m.d.comb += [self.quotient.eq(root.o), self.done.eq(divided)]
        return m

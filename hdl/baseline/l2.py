"""The L2 norm: what takes the place of :mod:`hdl.norm.l1` to compare the two.

``NormForward(params, RootMeanSquare)`` and ``NormBackward(params, XhatCorrection)`` are the units
of a batch norm in the L1 norm's formats, with its reads and writes in the same order; the model is
:mod:`sim.model.norm_l2`. They differ from the L1 norm's in a square of every element, which takes
one more 18 x 18 bit multiplier, a square root of every channel, which the divider's quotient feeds,
and one more product of every element on the way back, for which the lane's multiplier has time.

An L2 norm could do without the pass over the rows for the deviation, which an L1 norm cannot: with
S and Q the sums of x and of x**2, ``sum d**2 = Q - mean (S + S mod m)``, exactly (x in the mean's
unit). It would take m cycles of a tile less, an accumulator more in every lane, and a product more
for every channel.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.root import RootReciprocal
from hdl.norm.arithmetic import Multiplier
from hdl.norm.backward_lane import (
    GRADIENT,
    GRADIENT_BITS,
)
from hdl.norm.forward_lane import CENTRED_BITS, FORWARD_CONTROL, SCALED_BITS
from hdl.norm.l1 import correction_members
from hdl.norm.reciprocal import COUNT_BITS, Operation
from hdl.params import MAX_M, XHAT_FRACTION

__all__ = ["FoldedRootMeanSquare", "RootMeanSquare", "SquaringMultiplier", "XhatCorrection"]


class SquaringMultiplier(wiring.Component):
    """``o = a * b``, or with ``square`` ``o = a * a``, out of three 18 x 18 bit multipliers.

    Two are :class:`~hdl.norm.arithmetic.Multiplier`'s. With ``a = high * 2**16 + low`` they make
    ``low * low`` and, of ``high`` doubled, ``2 high * low``; the third makes ``high * high``,
    whose bits lie above those of the first.

    One product per clock, ``LATENCY`` clocks; ``square`` is steady meanwhile.

    Parameters
    ----------
    a_bits, root_bits : int
        Width of ``a``, and of what is squared.
    folded : bool
        ``high * high`` is a sum of rows of which each leaves out what an earlier one has: half of
        a product's, for a build without multipliers.

    Members
    -------
    square : In(1)
    a : In(signed(a_bits))
    b : In(signed(B_BITS))
    o : Out(signed(2 * root_bits))
    """
    LATENCY = Multiplier.LATENCY
    B_BITS = Multiplier.B_BITS
    _LOW_BITS = 16

    def __init__(self, a_bits, root_bits, *, folded=False):
        self.folded = folded
        self.high_bits = a_bits - self._LOW_BITS + 1
        self.root_high_bits = root_bits - self._LOW_BITS + 1
        assert self.high_bits <= 18 and a_bits + self.B_BITS <= 2 * root_bits
        super().__init__({
            "square": In(1),
            "a": In(signed(a_bits)),
            "b": In(signed(self.B_BITS)),
            "o": Out(signed(2 * root_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        a_low, a_high = self.a[:self._LOW_BITS], self.a[self._LOW_BITS:].as_signed()
        # Stage 1: operands.
        low = Signal(self._LOW_BITS, reset_less=True)
        high = Signal(signed(self.high_bits), reset_less=True)
        b = Signal(signed(self.B_BITS), reset_less=True)
        m.d.sync += [
            low.eq(a_low),
            high.eq(Mux(self.square, a_high << 1, a_high)),
            b.eq(Mux(self.square, a_low, self.b)),
        ]
        # Stage 2: partial products.
        lower = Signal(signed(self._LOW_BITS + self.B_BITS), reset_less=True)
        cross = Signal(signed(self.high_bits + self.B_BITS), reset_less=True)
        upper = Signal(2 * self.root_high_bits, reset_less=True)
        root_high = high[:self.root_high_bits].as_signed()
        m.d.sync += [lower.eq(low * b), cross.eq(high * b)]
        if self.folded:
            m.d.sync += upper.eq(_folded_square(m, root_high))
        else:
            m.d.sync += upper.eq(root_high * root_high)
        # Stage 3: their sum. ``upper`` is four times the square of the high part.
        outer = Cat(lower[:2 * self._LOW_BITS], upper[2:]).as_signed()
        m.d.sync += self.o.eq(Mux(self.square, outer, lower) + (cross << self._LOW_BITS))
        return m


def _folded_square(m, value):
    """The square of a signed value: of its bits ``v_i**2 = v_i``, and ``v_i v_j`` comes twice."""
    magnitude = Signal(len(value))
    m.d.comb += magnitude.eq(abs(value))
    return sum(Cat(bit, C(0, 1), magnitude[i + 1:] & bit.replicate(len(value) - i - 1)) << 2 * i
               for i, bit in enumerate(magnitude))


class RootMeanSquare(wiring.Component):
    """The multiplier of a forward lane, and the sums of d and of d * d; deviation is
    ``floor(sqrt(floor(sum d * d / m)))``.

    It is a :class:`~hdl.norm.l1.MeanMagnitude` in all other respects. Signs of d are not kept.

    Members
    -------
    control : In(FORWARD_CONTROL)
    d : In(signed(CENTRED_BITS))
    a : In(signed(CENTRED_BITS))
    b : In(signed(Multiplier.B_BITS))
    product : Out(signed(CENTRED_BITS + Multiplier.B_BITS))
    total : Out(signed(TOTAL_BITS))
        The sum of d in the top ``SUM_BITS``, or with ``control.spread`` of d * d.
    negative, nonzero : Out(1)
        0.
    """
    #: Width of d where it is squared, |d| <= 2**30.
    ROOT_BITS = SCALED_BITS + 1
    #: Width of the sum of d.
    SUM_BITS = RootReciprocal.SHORT_BITS
    #: Width of the sum of squares: their mean is at most that of half the range of x, squared,
    #: ``(2**29 - 32)**2``, and 1 for the mean's floor. Even, for the root.
    TOTAL_BITS = 2 * SCALED_BITS + COUNT_BITS - 1
    LATENCY = SquaringMultiplier.LATENCY
    OPERATION = Operation.ROOT
    DIVIDER = RootReciprocal
    FOLDED = False

    def __init__(self, rows=MAX_M):
        assert rows == MAX_M and self.SUM_BITS == SCALED_BITS + COUNT_BITS
        super().__init__({
            "control": In(FORWARD_CONTROL),
            "d": In(signed(CENTRED_BITS)),
            "a": In(signed(CENTRED_BITS)),
            "b": In(signed(Multiplier.B_BITS)),
            "product": Out(signed(CENTRED_BITS + Multiplier.B_BITS)),
            "total": Out(signed(self.TOTAL_BITS)),
            "negative": Out(1),
            "nonzero": Out(1),
        })

    @classmethod
    def total_bits(cls, rows):
        """``TOTAL_BITS``: there are never more rows."""
        return cls.TOTAL_BITS

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = SquaringMultiplier(
            CENTRED_BITS, self.ROOT_BITS, folded=self.FOLDED)
        m.d.comb += [
            multiplier.square.eq(self.control.spread),
            multiplier.a.eq(self.a),
            multiplier.b.eq(self.b),
            self.product.eq(multiplier.o),
        ]
        addend = Mux(self.control.spread, multiplier.o,
                     self.d[:self.ROOT_BITS].as_signed() << self.TOTAL_BITS - self.SUM_BITS)
        with m.If(self.control.clear | self.control.clear_total):
            m.d.sync += self.total.eq(0)
        with m.Elif(self.control.accumulate):
            m.d.sync += self.total.eq(self.total + addend)
        return m


class FoldedRootMeanSquare(RootMeanSquare):
    """The same for builds without multipliers: half the rows of a product make a square."""
    FOLDED = True


class XhatCorrection(wiring.Component):
    """``t = g - grad_beta - floor(xhat grad_gamma / 2**XHAT_FRACTION)`` of a backward lane.

    The product is the lane's multiplier's, in the cycle of a row in which t's is not. It is a
    :class:`~hdl.norm.l1.SignCorrection` in all other respects.

    Members
    -------
    control : In(BACKWARD_CONTROL)
    gradient : In(signed(GRADIENT_BITS))
    negative, nonzero : In(1)
        Do not matter.
    offset : In(signed(OFFSET_BITS))
        grad_beta.
    grad_gamma : In(signed(GRAD_GAMMA_BITS))
    product : In(signed(T_BITS + Multiplier.B_BITS))
    a : Out(signed(T_BITS))
        For the multiplier: g, with ``control.t`` t, or with ``control.grad_gamma`` nothing.
    signs : Out(signed(COUNT_BITS + 1))
        0.
    """
    #: One cycle more than the product takes, so that t's own product has a cycle left.
    T = GRADIENT + Multiplier.LATENCY + 2
    assert (T - GRADIENT) % 2
    #: Width of t. A deviation s that is not 0 is at least 2, so the mean of xhat**2 is at most
    #: ``((s + 1) / s)**2 <= 2.25``; over 511 rows |xhat| times mean|xhat| is then below 27, and
    #: |grad_gamma| <= 2**19 mean|xhat|. So |t| < 29 * 2**19.
    T_BITS = GRADIENT_BITS + 5
    HAS_MEAN = False
    MULTIPLIES = True

    def __init__(self, rows=MAX_M):
        assert rows == MAX_M
        super().__init__(correction_members(self.T_BITS, rows))

    def elaborate(self, platform):
        m = Module()
        control = self.control
        # Stage 1: the offset; it waits for the product.
        u_bits = GRADIENT_BITS + 1
        u = Signal(signed(u_bits), reset_less=True)
        waiting = Signal(signed(u_bits), reset_less=True)
        m.d.sync += [u.eq(self.gradient - self.offset), waiting.eq(u)]
        # Stage 2: the product. t holds until the row's second cycle.
        t = Signal(signed(self.T_BITS), reset_less=True)
        with m.If(control.correct):
            m.d.sync += t.eq(waiting - (self.product >> XHAT_FRACTION))
        m.d.comb += self.a.eq(Mux(control.t, t, Mux(control.grad_gamma, 0, self.gradient)))
        return m

"""What makes the norm an L1 norm: the spread that is a mean magnitude, and its gradient."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.norm.arithmetic import Multiplier
from hdl.norm.backward_lane import (
    BACKWARD_CONTROL,
    GRAD_GAMMA_BITS,
    GRADIENT,
    GRADIENT_BITS,
    OFFSET_BITS,
)
from hdl.norm.forward_lane import CENTRED_BITS, FORWARD_CONTROL, SCALED_BITS
from hdl.norm.reciprocal import Operation, Reciprocal
from hdl.params import MAX_M

__all__ = ["MeanMagnitude", "SignCorrection", "correction_members"]


class MeanMagnitude(wiring.Component):
    """The multiplier of a forward lane, and the sums of d and of |d|.

    Parameters
    ----------
    rows : int
        Most rows of a tensor.

    Members
    -------
    control : In(FORWARD_CONTROL)
    d : In(signed(CENTRED_BITS))
    a : In(signed(CENTRED_BITS))
    b : In(signed(Multiplier.B_BITS))
    product : Out(signed(CENTRED_BITS + Multiplier.B_BITS))
        ``a * b``, :class:`~hdl.norm.arithmetic.Multiplier`.
    total : Out(signed(total_bits(rows)))
        The sum of d, or with ``control.spread`` of |d|; a clock after ``control.accumulate``.
    negative, nonzero : Out(1)
        What the context keeps of d.
    """
    #: Cycles from d to what is added of it to the spread.
    LATENCY = 0
    #: What makes the deviation of the total, and the divider that can.
    OPERATION = Operation.DIVIDE
    DIVIDER = Reciprocal

    def __init__(self, rows=MAX_M):
        super().__init__({
            "control": In(FORWARD_CONTROL),
            "d": In(signed(CENTRED_BITS)),
            "a": In(signed(CENTRED_BITS)),
            "b": In(signed(Multiplier.B_BITS)),
            "product": Out(signed(CENTRED_BITS + Multiplier.B_BITS)),
            "total": Out(signed(self.total_bits(rows))),
            "negative": Out(1),
            "nonzero": Out(1),
        })

    @staticmethod
    def total_bits(rows):
        """Width of sums over so many rows: of x, from ``-2**29`` to ``2**29 - 64``, and of |d|,
        whose mean is at most half the range of x, ``2**29 - 32``, and one for the mean's floor.
        Neither is below ``-rows 2**29``, and both are below ``rows 2**29``.

        >>> MeanMagnitude.total_bits(511), MeanMagnitude.total_bits(4096)
        (39, 42)
        """
        return SCALED_BITS + ceil_log2(rows)

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = Multiplier(CENTRED_BITS)
        m.d.comb += [
            multiplier.en.eq(1),
            multiplier.a.eq(self.a),
            multiplier.b.eq(self.b),
            self.product.eq(multiplier.o),
            self.negative.eq(self.d[-1]),
            self.nonzero.eq(self.d.any()),
        ]
        # -d = ~d + 1.
        flip = Signal()
        m.d.comb += flip.eq(self.control.spread & self.d[-1])
        with m.If(self.control.clear | self.control.clear_total):
            m.d.sync += self.total.eq(0)
        with m.Elif(self.control.accumulate):
            magnitude = (self.d.as_unsigned() ^ flip.replicate(CENTRED_BITS)).as_signed()
            m.d.sync += self.total.eq(self.total + magnitude + flip)
        return m


def correction_members(t_bits, rows):
    """Members of :class:`SignCorrection` and of what can take its place, for t of ``t_bits``."""
    return {
        "control": In(BACKWARD_CONTROL),
        "gradient": In(signed(GRADIENT_BITS)),
        "negative": In(1),
        "nonzero": In(1),
        "offset": In(signed(OFFSET_BITS)),
        "grad_gamma": In(signed(GRAD_GAMMA_BITS)),
        "product": In(signed(t_bits + Multiplier.B_BITS)),
        "a": Out(signed(t_bits)),
        "signs": Out(range(-rows, rows + 1)),
    }


class SignCorrection(wiring.Component):
    """``t = g + offset - sign grad_gamma`` of a backward lane.

    ``offset`` is ``(sum sign) grad_gamma / m - grad_beta``. ``a`` is t in the cycle ``T`` of a row.

    Parameters
    ----------
    rows : int
        Most rows of a tensor.

    Members
    -------
    control : In(BACKWARD_CONTROL)
    gradient : In(signed(GRADIENT_BITS))
        In the cycles ``PRODUCTS``.
    negative, nonzero : In(1)
        Of d, in the cycles ``GATED`` and after.
    offset : In(signed(OFFSET_BITS))
    grad_gamma : In(signed(GRAD_GAMMA_BITS))
    product : In(signed(T_BITS + Multiplier.B_BITS))
        Of the lane's multiplier; does not matter.
    a : Out(signed(T_BITS))
        For the multiplier: g, or with ``control.t`` t.
    signs : Out(range(-rows, rows + 1))
        The sum of signs.
    """
    #: The cycle of a row in which t is there.
    T = GRADIENT + 2
    #: Width of t: as the offset, and sign * grad_gamma; below 2**21 + 2**20, so |dx| < 2**24. A
    #: bound: the largest t known stays just below 2**21.
    T_BITS = OFFSET_BITS + 1
    #: What grad_gamma is multiplied by has a mean, for which a channel needs one more product and
    #: division: ``offset`` is then not grad_beta but that less grad_beta.
    HAS_MEAN = True
    #: The correction of every row takes a product.
    MULTIPLIES = False

    def __init__(self, rows=MAX_M):
        super().__init__(correction_members(self.T_BITS, rows))

    def elaborate(self, platform):
        m = Module()
        with m.If(self.control.clear):
            m.d.sync += self.signs.eq(0)
        with m.Elif(self.control.sign & self.nonzero):
            m.d.sync += self.signs.eq(self.signs + Mux(self.negative, -1, 1))

        # Stage 1: the offset.
        u = Signal(signed(OFFSET_BITS), reset_less=True)
        negative, nonzero = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            u.eq(self.gradient + self.offset),
            negative.eq(self.negative), nonzero.eq(self.nonzero),
        ]
        # Stage 2: the sign times grad_gamma.
        t = Signal(signed(self.T_BITS), reset_less=True)
        step = Signal(signed(GRAD_GAMMA_BITS))
        m.d.comb += step.eq((self.grad_gamma.as_unsigned() & nonzero.replicate(GRAD_GAMMA_BITS))
                            ^ (nonzero & ~negative).replicate(GRAD_GAMMA_BITS))
        m.d.sync += t.eq(u + step + (nonzero & ~negative))
        m.d.comb += self.a.eq(Mux(self.control.t, t, self.gradient))
        return m

"""The datapath of one lane of the backward norm."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.norm.arithmetic import Multiplier
from hdl.norm.context import CONTEXT, GAMMA_BITS, XHAT_BITS
from hdl.norm.reciprocal import LENGTH_BITS, RECIPROCAL_BITS, VALUE_BITS
from hdl.params import MAX_M, WIDE_BITS, XHAT_FRACTION
from hdl.relu import ReluGradient

__all__ = ["BACKWARD_CONTROL", "BACKWARD_PACKING", "GATED", "GRADIENT", "GRADIENT_BITS",
           "GRAD_GAMMA_BITS", "OFFSET_BITS", "PRODUCTS", "QUOTIENT_BITS", "RESULT_BITS",
           "BackwardLane", "total_bits"]

#: Width of g: -2**19 <= g < 2**19. The model's GRADIENT_BITS and the sign.
GRADIENT_BITS = 20
#: Width of the mean of g * xhat.
QUOTIENT_BITS = GRADIENT_BITS + 11
#: Width of grad_gamma, which lies in [-2**20, 2**20).
GRAD_GAMMA_BITS = QUOTIENT_BITS - XHAT_FRACTION
#: Width of centre - grad_beta and of g + that: |centre| <= 2**20, -2**19 <= grad_beta < 2**19.
OFFSET_BITS = GRADIENT_BITS + 2
#: Width of what a lane keeps of a quotient: grad_beta, grad_gamma, centre or r.
RESULT_BITS = OFFSET_BITS
#: Width of c: -2**15 * 2**16 / 2**15 <= c < 2**16.
C_BITS = 17
#: Fraction bits of gamma * r that c drops, and of t * c that dx drops at least.
C_SHIFT, DX_SHIFT = 15, 14

# A row's way through a lane: the cycle, counted from that in which the element of dy is on the
# read port, in which a value is in its register. The context follows dy by one cycle.
GATED = 2
GRADIENT = 3
#: The two products of a row in the sums: g * xhat, and g * 1.
PRODUCTS = GRADIENT, GRADIENT + 1


#: What all lanes are told.
BACKWARD_CONTROL = data.StructLayout({
    # The word on the read port is dy, or a row of the state; the context of the dy before it.
    "dy": 1, "context": 1,
    #: The rectifier's mask counts.
    "gate": 1,
    #: What was gated is gamma.
    "load_gamma": 1,
    #: Join its magnitude to the others.
    "scan": 1,
    #: No magnitudes.
    "clear_scan": 1,
    #: Set the sums of products to 0.
    "clear_sums": 1,
    #: Set the sum of signs and the offset to 0.
    "clear": 1,
    #: Bits to shift dy to the left, for a g of 32 bits of which the top ones are taken.
    "shift": LENGTH_BITS,
    #: Add the sign of d to their sum.
    "sign": 1,
    #: Start the product of g, or t ...
    "multiply": 1, "t": 1,
    # ... or of one of these, while ``gate`` is low and g so 0, or the correction takes g out ...
    "grad_gamma": 1, "gamma": 1,
    # ... with xhat, which is there in the next cycle, or one of these.
    "xhat": 1, "one": 1, "signs": 1, "factor": 1,
    #: The product corrects a row.
    "correct": 1,
    #: Products are added to the sums.
    "accumulate": 1,
    #: Exchange the two sums.
    "exchange": 1,
    #: The product is gamma * r.
    "scaled": 1,
    # What the divider's results are.
    "divided_offset": 1, "divided_gamma": 1, "inverted": 1,
    # What is put out next, if not a quotient.
    "put_dx": 1, "put_bits": 1,
    "bits": LENGTH_BITS,
})

#: What lanes that pack are told besides.
BACKWARD_PACKING = data.StructLayout({
    #: The word on the read port is a packed row.
    "packed": 1,
    # What is put out next.
    "put_packed": 1, "put_largest": 1,
})

#: What the output pass needs of a row, packed into a wide element.
_PACKED = data.StructLayout({
    "gradient": signed(GRADIENT_BITS),
    "negative": 1,
    "nonzero": 1,
    "zero": WIDE_BITS - GRADIENT_BITS - 2,
})


def total_bits(rows):
    """Width of the sum of g * xhat over so many rows.

    A mean of |xhat| is below 2**11: for a deviation s >= 2 it is at most
    ``2**10 (s + 1) / s + 1/2`` because s is the floor of the mean of |d|, and for s = 1, where
    xhat = 2**10 d exactly, it is below 2**10 * 2. So ``|sum| < rows 2**30``. ``signs grad_gamma``,
    at most ``rows 2**20``, is less.

    >>> total_bits(511), total_bits(4096)
    (40, 43)
    """
    return QUOTIENT_BITS + ceil_log2(rows)


class BackwardLane(wiring.Component):
    """The datapath of one column: one row every two cycles, dy in the first, its context next.

    dy -> mask -> |dy| for the magnitudes; -> shift -> g -> g * xhat and g to the sums;
    g, less its mean and its correlation with xhat -> t -> t * c -> shift and round -> dx.

    What is subtracted is the correction's, :class:`~hdl.norm.l1.SignCorrection` or another with
    its members.

    One multiplier makes all products. Two sums take turns: every product is added to the older
    one, so that the sum of g * 1, which came last, is then at ``total``, and ``exchange`` brings
    that of g * xhat. Products of a channel (signs * grad_gamma, gamma * r) use the same path.

    dx of the row on ``i`` in cycle 0 is on ``o`` in cycle ``result + 1``.

    A lane that packs leaves g and the sign of d of each row in one word, ``put_packed`` in the
    cycle ``GRADIENT``; rows of such words come one per clock in the output pass. It also keeps the
    largest magnitude of dx.

    Parameters
    ----------
    correction : wiring.Component
    packing : bool
    rows : int
        Most rows of a tensor.

    Members
    -------
    control : In(BACKWARD_CONTROL)
    packing : In(BACKWARD_PACKING)
        Only of a lane that packs.
    used : In(1)
        The lane holds a column; otherwise it has no magnitude.
    i : In(signed(WIDE_BITS))
        The lane's element on the read port.
    clipped : In(1)
        With a context: the output's code is the largest, and no gradient passes.
    take : In(1)
        ``quotient`` and ``excess`` are this lane's.
    quotient : In(signed(RESULT_BITS))
    excess : In(LENGTH_BITS)
        Length of the deviation beyond the smallest one's.
    total : Out(signed(total_bits(rows)))
    scan : Out(VALUE_BITS)
        The OR of all magnitudes since ``clear_scan``: it has the bit length of the largest.
    product : Out(1)
        A product is being added to the sums, or taken.
    o : Out(signed(WIDE_BITS))
        A dx, the ``bits`` or the lane's last quotient; holds until the next.
    """
    def __init__(self, correction, *, packing=False, rows=MAX_M):
        self.correction = correction
        self.packs = packing
        super().__init__({
            **({"packing": In(BACKWARD_PACKING)} if packing else {}),
            "control": In(BACKWARD_CONTROL),
            "used": In(1),
            "i": In(signed(WIDE_BITS)),
            "clipped": In(1),
            "take": In(1),
            "quotient": In(signed(RESULT_BITS)),
            "excess": In(LENGTH_BITS),
            "total": Out(signed(total_bits(rows))),
            "scan": Out(VALUE_BITS),
            "product": Out(1),
            "o": Out(signed(WIDE_BITS)),
        })

    @staticmethod
    def result(correction):
        """The cycle of a row in which dx is in its register."""
        return correction.T + Multiplier.LATENCY + 2

    def elaborate(self, platform):
        m = Module()
        control, t_bits = self.control, self.correction.T_BITS
        m.submodules.front = front = _Front(packing=self.packs)
        m.submodules.channel = channel = _Channel(t_bits + Multiplier.B_BITS)
        m.submodules.multiplier = multiplier = Multiplier(t_bits)
        m.submodules.correction = correction = self.correction
        m.d.comb += [
            front.control.eq(control), front.i.eq(self.i), front.used.eq(self.used),
            front.clipped.eq(self.clipped),
            self.scan.eq(front.scan),
            channel.control.eq(control), channel.gated.eq(front.gated),
            channel.take.eq(self.take), channel.quotient.eq(self.quotient),
            channel.excess.eq(self.excess),
            channel.product.eq(multiplier.o), channel.product_valid.eq(multiplier.valid),
            self.product.eq(multiplier.valid),
            correction.control.eq(control), correction.gradient.eq(front.gradient),
            correction.negative.eq(front.negative), correction.nonzero.eq(front.nonzero),
            correction.offset.eq(channel.offset), correction.grad_gamma.eq(channel.grad_gamma),
            correction.product.eq(multiplier.o),
        ]

        # The sums.
        older = Signal.like(self.total)
        with m.If(control.clear_sums):
            m.d.sync += [self.total.eq(0), older.eq(0)]
        with m.Elif(control.exchange | control.accumulate & multiplier.valid):
            m.d.sync += [self.total.eq(older + multiplier.o), older.eq(self.total)]

        # Products. Of what is joined by OR, at most one is not 0.
        xhat = Signal(signed(XHAT_BITS), reset_less=True)
        m.d.sync += xhat.eq(Mux(control.xhat, front.xhat, 0))
        m.d.comb += [
            multiplier.en.eq(control.multiply),
            multiplier.a.eq(correction.a
                            | Mux(control.grad_gamma, channel.grad_gamma, 0)
                            | Mux(control.gamma, channel.gamma, 0)),
            multiplier.b.eq(xhat | control.one
                            | Mux(control.signs, correction.signs, 0)
                            | Mux(control.factor, channel.factor, 0)),
        ]

        # dx: shift, then round.
        # |t| < 2**(t_bits - 1) and |c| <= 2**16.
        dx_bits = t_bits + C_BITS - 1 - (DX_SHIFT - 1)
        shifted = Signal(signed(dx_bits), reset_less=True)
        dx = Signal(signed(dx_bits - 1), reset_less=True)
        m.d.sync += [
            shifted.eq((multiplier.o >> DX_SHIFT - 1) >> channel.excess_held),
            dx.eq(shifted + 1 >> 1),
        ]
        with m.If(self.take):
            m.d.sync += self.o.eq(self.quotient)
        with m.Elif(control.put_bits):
            m.d.sync += self.o.eq(control.bits)
        with m.Elif(control.put_dx):
            m.d.sync += self.o.eq(dx)
        if self.packs:
            self._pack(m, front, dx)
        return m

    def _pack(self, m, front, dx):
        packing, word = self.packing, data.View(_PACKED, self.o)
        m.d.comb += front.packed.eq(packing.packed)
        with m.If(packing.put_packed):
            m.d.sync += [word.gradient.eq(front.gradient), word.negative.eq(front.negative),
                         word.nonzero.eq(front.nonzero), word.zero.eq(0)]
        # |dx|, a clock after it was put out.
        magnitude, largest = Signal(len(dx)), Signal(len(dx))
        put = Signal()
        m.d.comb += magnitude.eq(abs(self.o[:len(dx)].as_signed()))
        m.d.sync += put.eq(self.control.put_dx & packing.packed)
        with m.If(self.control.clear):
            m.d.sync += largest.eq(0)
        with m.Elif(put & (magnitude > largest)):
            m.d.sync += largest.eq(magnitude)
        with m.If(packing.put_largest):
            m.d.sync += self.o.eq(largest)


class _Front(wiring.Component):
    """From the read port to g: dy and its context meet, dy is masked, measured and scaled; or, with
    ``packed``, g and a sign come as they are."""
    def __init__(self, *, packing=False):
        self.packs = packing
        super().__init__({
            **({"packed": In(1)} if packing else {}),
            "control": In(BACKWARD_CONTROL),
            "used": In(1),
            "i": In(signed(WIDE_BITS)),
            "clipped": In(1),
            "gated": Out(signed(WIDE_BITS)),
            "scan": Out(VALUE_BITS),
            # In the cycles GATED and GATED + 1.
            "xhat": Out(signed(XHAT_BITS)),
            "negative": Out(1),
            "nonzero": Out(1),
            # In both PRODUCTS cycles.
            "gradient": Out(signed(GRADIENT_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.relu = relu = ReluGradient(WIDE_BITS)
        context = data.View(CONTEXT, self.i)
        dy = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.comb += [relu.i.eq(dy), relu.mask.eq(context.mask & ~self.clipped | ~control.gate)]
        with m.If(control.dy):
            m.d.sync += dy.eq(self.i)
        with m.If(control.context):
            m.d.sync += [
                self.gated.eq(relu.o),
                self.xhat.eq(context.xhat),
                self.negative.eq(context.negative),
                self.nonzero.eq(context.nonzero),
            ]

        # -2**31 has the magnitude 2**31 - 1: at least its length.
        magnitude = Signal(VALUE_BITS)
        opposite = Signal(VALUE_BITS + 1)
        m.d.comb += [
            opposite.eq(-self.gated),
            magnitude.eq(Mux(self.gated < 0, Cat(opposite[:-2], opposite[-2:].any()), self.gated)),
        ]
        with m.If(control.clear_scan):
            m.d.sync += self.scan.eq(0)
        with m.Elif(control.scan & self.used):
            m.d.sync += self.scan.eq(self.scan | magnitude)

        scaled = Signal(WIDE_BITS)
        m.d.comb += scaled.eq(self.gated << control.shift)
        m.d.sync += self.gradient.eq(
            Mux(control.gate, scaled[WIDE_BITS - GRADIENT_BITS:].as_signed(), 0))
        if self.packs:
            # All of it arrives in the cycle GRADIENT, as what is made of dy does.
            word = data.View(_PACKED, self.gated)
            with m.If(self.packed):
                m.d.sync += [
                    self.gated.eq(dy), self.gradient.eq(word.gradient),
                    self.negative.eq(word.negative), self.nonzero.eq(word.nonzero),
                ]
        return m


class _Channel(wiring.Component):
    """What a lane keeps during a tile: gamma and what is divided."""
    def __init__(self, product_bits):
        super().__init__({
            "control": In(BACKWARD_CONTROL),
            "gated": In(signed(WIDE_BITS)),
            "take": In(1),
            "quotient": In(signed(RESULT_BITS)),
            "excess": In(LENGTH_BITS),
            "product": In(signed(product_bits)),
            "product_valid": In(1),
            "gamma": Out(signed(GAMMA_BITS)),
            # grad_beta, and then, if there is a centre, centre - grad_beta.
            "offset": Out(signed(OFFSET_BITS)),
            "grad_gamma": Out(signed(GRAD_GAMMA_BITS)),
            # r, and then c.
            "factor": Out(signed(Multiplier.B_BITS)),
            "excess_held": Out(LENGTH_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        with m.If(control.load_gamma):
            m.d.sync += self.gamma.eq(self.gated)
        with m.If(control.clear):
            m.d.sync += self.offset.eq(0)
        with m.Elif(self.take & control.divided_offset):
            m.d.sync += self.offset.eq(self.quotient - self.offset)
        with m.If(self.take & control.divided_gamma):
            m.d.sync += self.grad_gamma.eq(self.quotient)
        with m.If(self.take & control.inverted):
            m.d.sync += [
                self.factor.eq(self.quotient[:RECIPROCAL_BITS]),
                self.excess_held.eq(self.excess),
            ]
        with m.Elif(control.scaled & self.product_valid):
            m.d.sync += self.factor.eq(self.product[C_SHIFT:C_SHIFT + C_BITS].as_signed())
        return m

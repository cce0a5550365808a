"""The datapath of one lane of the forward norm."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.norm.arithmetic import Multiplier, SaturatingShift, clamp
from hdl.norm.context import CONTEXT, GAMMA_BITS, XHAT_BITS
from hdl.norm.reciprocal import LENGTH_BITS, RECIPROCAL_BITS, VALUE_BITS
from hdl.params import NORM_FRACTION, NORM_IN_BITS, WIDE_BITS, XHAT_FRACTION
from hdl.relu import Relu

__all__ = ["CENTRED", "CENTRED_BITS", "CLAMPED", "FORWARD_CONTROL", "HELD_ROWS", "QUOTIENT_BITS",
           "SCALED_BITS", "XHAT", "Affine", "ForwardLane", "Normalise", "Y"]

#: Width of x with NORM_FRACTION fraction bits; the mean of a batch lies between two such numbers.
SCALED_BITS = NORM_IN_BITS + NORM_FRACTION
#: Width of their difference; a mean that is given is any wide element.
CENTRED_BITS = WIDE_BITS + 1
#: Quotients are means, of this width; deviations, below 2**29; and reciprocals.
QUOTIENT_BITS = SCALED_BITS

# A row's way through a lane: the cycle, counted from that in which its word is on the read port,
# in which a value is in its register.
CLAMPED = 1
CENTRED = 2
XHAT = CENTRED + Multiplier.LATENCY + 2
Y = XHAT + Multiplier.LATENCY + 2
# The multiplier takes one row's d and another's xhat in turns, since rows come every two cycles.
assert (XHAT - CENTRED) % 2 == 1
#: Rows that have an xhat and no y yet.
HELD_ROWS = (Y - XHAT + 1) // 2


#: What all lanes are told.
FORWARD_CONTROL = data.StructLayout({
    # The word on the read port is that row of the state.
    "load_gamma": 1, "load_beta": 1, "load_mean": 1, "load_deviation": 1,
    #: Mean and deviation come from the state, not from the divider.
    "given": 1,
    #: Set mean and sum to 0.
    "clear": 1,
    #: Set the sum to 0.
    "clear_total": 1,
    #: Add d to the sum.
    "accumulate": 1,
    #: Add what the spread is the mean of, as |d|, instead.
    "spread": 1,
    # What the divider's results are.
    "divided_mean": 1, "divided_deviation": 1, "inverted": 1,
    # A row of the output pass is in that stage.
    "clamped": 1, "xhat": 1, "y": 1,
    #: The contexts of the rows between xhat and y move on.
    "context": HELD_ROWS,
    #: There is a rectifier.
    "rectify": 1,
    # What is put out next, if not a quotient.
    "put_context": 1, "put_y": 1,
})


class Normalise(wiring.Component):
    """``xhat = round_shift(product, 15 + length - XHAT_FRACTION)`` clamped to 16 bits.

    One element per clock, ``LATENCY`` clocks. |d| <= 2**32 and r <= 2**16: 50 bits.

    Members
    -------
    product : In(signed(PRODUCT_BITS))
        d * r.
    length : In(LENGTH_BITS)
    xhat : Out(signed(XHAT_BITS))
    over : Out(1)
        It was clamped.
    """
    LATENCY = 2
    PRODUCT_BITS = CENTRED_BITS + RECIPROCAL_BITS

    def __init__(self):
        super().__init__({
            "product": In(signed(self.PRODUCT_BITS)),
            "length": In(LENGTH_BITS),
            "xhat": Out(signed(XHAT_BITS)),
            "over": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # All but the last place: a length of 0 comes with a product of 0.
        places = 15 - XHAT_FRACTION - 1
        # One bit is rounded away. One more, since -2**16 - 1 becomes -2**15, which is not clamped.
        window = XHAT_BITS + 2
        m.submodules.shift = shift = SaturatingShift(
            self.PRODUCT_BITS - places, window, LENGTH_BITS)
        m.d.comb += [shift.i.eq(self.product[places:]), shift.amount.eq(self.length)]
        # Stage 1: shift.
        shifted = Signal(signed(window), reset_less=True)
        over, sign = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [shifted.eq(shift.o), over.eq(shift.over), sign.eq(self.product[-1])]
        # Stage 2: round and clamp.
        near, over_near = clamp((shifted + 1) >> 1, XHAT_BITS)
        limit = Cat((~sign).replicate(XHAT_BITS - 1), sign)
        m.d.sync += [self.xhat.eq(Mux(over, limit, near)), self.over.eq(over | over_near)]
        return m


class Affine(wiring.Component):
    """``y = round_shift(product, XHAT_FRACTION) + beta`` clamped to a wide element, then ReLU.

    One element per clock, ``LATENCY`` clocks.

    Members
    -------
    product : In(signed(PRODUCT_BITS))
        gamma * xhat.
    beta : In(signed(WIDE_BITS))
    rectify : In(1)
    y : Out(signed(WIDE_BITS))
    mask : Out(1)
    over : Out(1)
        It was clamped.
    """
    LATENCY = 2
    PRODUCT_BITS = GAMMA_BITS + XHAT_BITS

    def __init__(self):
        super().__init__({
            "product": In(signed(self.PRODUCT_BITS)),
            "beta": In(signed(WIDE_BITS)),
            "rectify": In(1),
            "y": Out(signed(WIDE_BITS)),
            "mask": Out(1),
            "over": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.relu = relu = Relu(WIDE_BITS)
        # Stage 1: round.
        rounded = Signal(signed(self.PRODUCT_BITS - XHAT_FRACTION), reset_less=True)
        m.d.sync += rounded.eq((self.product >> XHAT_FRACTION - 1) + 1 >> 1)
        # Stage 2: add.
        total = Signal(signed(WIDE_BITS + 1), reset_less=True)
        m.d.sync += total.eq(rounded + self.beta)
        # And clamp; the output is not registered.
        clamped, over = clamp(total, WIDE_BITS)
        m.d.comb += [
            relu.i.eq(clamped),
            relu.on.eq(self.rectify),
            self.y.eq(relu.o),
            self.mask.eq(relu.mask),
            self.over.eq(over),
        ]
        return m


class ForwardLane(wiring.Component):
    """The datapath of one column: one row per cycle into the sum, one per two cycles to y.

    x -> clamp -> d = 2**6 x - mean -> sums
    -> d * r -> :class:`Normalise` -> xhat -> gamma * xhat -> :class:`Affine` -> y.

    The sums and the multiplier are the statistic's, :class:`~hdl.norm.l1.MeanMagnitude` or another
    with its members.

    The context of the row on ``i`` in cycle 0 is on ``o`` in cycle ``Y + 1``, its y in ``Y + 2``.

    Parameters
    ----------
    statistic : wiring.Component

    Members
    -------
    control : In(FORWARD_CONTROL)
    used : In(1)
        The lane holds a column: count what is clamped.
    i : In(signed(WIDE_BITS))
        The lane's element on the read port.
    take : In(1)
        ``quotient`` and ``length`` are this lane's.
    quotient : In(signed(QUOTIENT_BITS))
    length : In(LENGTH_BITS)
    total : Out(statistic.total.shape())
    deviation : Out(VALUE_BITS)
    o : Out(signed(WIDE_BITS))
        A context, y or the lane's last quotient; holds until the next.
    clamped : Out(2)
        Elements clamped, one cycle late.
    """
    def __init__(self, statistic):
        self.statistic = statistic
        super().__init__({
            "control": In(FORWARD_CONTROL),
            "used": In(1),
            "i": In(signed(WIDE_BITS)),
            "take": In(1),
            "quotient": In(signed(QUOTIENT_BITS)),
            "length": In(LENGTH_BITS),
            "total": Out(statistic.total.shape()),
            "deviation": Out(VALUE_BITS),
            "o": Out(signed(WIDE_BITS)),
            "clamped": Out(2),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.channel = channel = _Channel()
        m.submodules.statistic = statistic = self.statistic
        m.submodules.normalise = normalise = Normalise()
        m.submodules.affine = affine = Affine()
        m.submodules.context = context = _ContextDelay()

        # Distance from the mean.
        x = Signal(signed(NORM_IN_BITS), reset_less=True)
        over_x = Signal(reset_less=True)
        d = Signal(signed(CENTRED_BITS), reset_less=True)
        clamped, over = clamp(self.i, NORM_IN_BITS)
        m.d.sync += [x.eq(clamped), over_x.eq(over), d.eq((x << NORM_FRACTION) - channel.mean)]

        # Its sums. One multiplier makes xhat of d, and y of xhat.
        m.d.comb += [
            statistic.control.eq(control),
            statistic.d.eq(d),
            statistic.a.eq(Mux(control.xhat, normalise.xhat, d)),
            statistic.b.eq(Mux(control.xhat, channel.gamma, channel.inverse)),
            self.total.eq(statistic.total),
            normalise.product.eq(statistic.product),
            normalise.length.eq(channel.length),
            affine.product.eq(statistic.product),
            affine.beta.eq(channel.beta),
            affine.rectify.eq(control.rectify),
        ]

        # What is written.
        m.d.comb += [context.negative.eq(statistic.negative),
                     context.nonzero.eq(statistic.nonzero), context.xhat.eq(normalise.xhat),
                     context.mask.eq(affine.mask), context.step.eq(control.context)]
        y = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += y.eq(affine.y)
        with m.If(self.take):
            m.d.sync += self.o.eq(self.quotient)
        with m.Elif(control.put_context):
            m.d.sync += self.o.eq(context.o)
        with m.Elif(control.put_y):
            m.d.sync += self.o.eq(y)
        flags = (control.clamped & over_x, control.xhat & normalise.over, control.y & affine.over)
        m.d.sync += self.clamped.eq(Mux(self.used, sum(flags), 0))

        # What a tile keeps.
        m.d.comb += [
            channel.control.eq(control), channel.i.eq(self.i), channel.take.eq(self.take),
            channel.quotient.eq(self.quotient), channel.divided_length.eq(self.length),
            self.deviation.eq(channel.deviation),
        ]
        return m


class _Channel(wiring.Component):
    """What a lane keeps during a tile: parameters and statistics of its channel."""
    def __init__(self):
        super().__init__({
            "control": In(FORWARD_CONTROL),
            "i": In(signed(WIDE_BITS)),
            "take": In(1),
            "quotient": In(signed(QUOTIENT_BITS)),
            "divided_length": In(LENGTH_BITS),
            "gamma": Out(signed(GAMMA_BITS)),
            "beta": Out(signed(WIDE_BITS)),
            "mean": Out(signed(WIDE_BITS)),
            "deviation": Out(VALUE_BITS),
            "inverse": Out(RECIPROCAL_BITS),
            "length": Out(LENGTH_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        source = Mux(control.given, self.i, self.quotient)
        with m.If(control.load_gamma):
            m.d.sync += self.gamma.eq(self.i)
        with m.If(control.load_beta):
            m.d.sync += self.beta.eq(self.i)
        with m.If(control.clear):
            m.d.sync += self.mean.eq(0)
        with m.Elif(control.load_mean | self.take & control.divided_mean):
            m.d.sync += self.mean.eq(source)
        with m.If(control.load_deviation | self.take & control.divided_deviation):
            m.d.sync += self.deviation.eq(source)
        with m.If(self.take & control.inverted):
            m.d.sync += [self.inverse.eq(self.quotient), self.length.eq(self.divided_length)]
        return m


class _ContextDelay(wiring.Component):
    """Makes a row's context: sign of d in cycle ``CENTRED``, xhat in ``XHAT``, mask, o in ``Y``."""
    def __init__(self):
        super().__init__({
            "negative": In(1),
            "nonzero": In(1),
            "xhat": In(signed(XHAT_BITS)),
            "mask": In(1),
            "step": In(HELD_ROWS),
            "o": Out(CONTEXT),
        })

    def elaborate(self, platform):
        m = Module()
        # The two flags move every cycle until they meet xhat.
        negative, nonzero = Signal(XHAT - CENTRED), Signal(XHAT - CENTRED)
        m.d.sync += [
            negative.eq(Cat(self.negative, negative)),
            nonzero.eq(Cat(self.nonzero, nonzero)),
        ]
        value = Cat(self.xhat, negative[-1], nonzero[-1])
        # Then all move every other cycle.
        for row in range(HELD_ROWS):
            held = Signal(len(value), name=f"held_{row}", reset_less=True)
            with m.If(self.step[row]):
                m.d.sync += held.eq(value)
            value = held
        m.d.comb += self.o.eq(Cat(value, self.mask))
        return m

"""The datapath of one lane of the scaler."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import register
from hdl.params import WIDE_BITS
from hdl.scale.align import WIDE_AMOUNT_BITS
from hdl.scale.factor import COEFFICIENT_BITS, PRODUCT_BITS, Factor, coefficient
from hdl.scale.shift import AMOUNT_BITS, Rescale, limited, nearest_amount
from hdl.scale.update import DECAY_BITS, STEP_BITS, Update

__all__ = ["EXPONENT_BITS", "LANE_CONTROL", "PRODUCT", "RESCALED", "UPDATE", "WRITTEN", "Lane"]

#: Width of a column's exponent.
EXPONENT_BITS = 16

# A row's way through a lane: the cycle, counted from that in which its word is on the read port,
# in which a value is in its register.
PRODUCT = Factor.LATENCY
RESCALED = PRODUCT + Rescale.LATENCY
WRITTEN = RESCALED + 2
#: When master and velocity of that row are on their read ports: no sooner than they are needed.
UPDATE = RESCALED - Update.GRADIENT

#: What all lanes are told.
LANE_CONTROL = data.StructLayout({
    # Steady: flags of the instruction.
    "divide": 1, "master": 1, "negate": 1, "biased": 1, "summing": 1,
    #: The result's bits from its sign bit on.
    "mask": WIDE_BITS,
    # The word on the read port is that row of the scale tensor.
    "load_factor": 1, "load_exponent": 1, "load_bias": 1,
    # Begin a tile: the cycle before its first row is in PRODUCT, and in RESCALED; the bias also
    # before any other row, if each has its own.
    "begin_shift": 1, "begin_bias": 1,
    #: A row is in PRODUCT: keep its length.
    "search": 1,
    #: Take exponent and length of the next lane.
    "gather": 1,
    # A row is in RESCALED, in WRITTEN: count it, and with a sum, add it.
    "rescaled": 1, "written": 1,
    #: What is put out is ``mask``, in the next cycle: the lowest number of the result's bits, as
    #: anything is clamped to.
    "put_mask": 1,
})


class Lane(wiring.Component):
    """One column: one row per clock from the read port to what is written, ``WRITTEN`` cycles.

    x -> :class:`Factor` -> z -> :class:`Rescale` -> y -> + bias, or + the sum so far -> clamp -> o,
    and y is the gradient of :class:`Update`.

    While a column is searched, ``longest`` is all z ORed; then lanes hand it on, as their
    exponents, and lane 0 has that of every lane in turn.

    Parameters
    ----------
    master, speed : (int, int)
        See :class:`Update`.

    Members
    -------
    control : In(LANE_CONTROL)
    used : In(1)
        The lane holds a column: search and count it. With ``begin_shift``.
    wide : In(signed(WIDE_BITS))
    master : In(signed(master[0]))
    velocity : In(signed(speed[0]))
        Elements on the read ports.
    base : In(signed(WIDE_AMOUNT_BITS))
        See :class:`~hdl.scale.align.Alignment`.
    noise : In(16)
        ``Update.NOISE`` cycles after the velocity.
    step : In(STEP_BITS)
    decay : In(DECAY_BITS)
    next_longest : In(PRODUCT_BITS)
    next_number : In(signed(EXPONENT_BITS))
        Of the lane after this one.
    longest : Out(PRODUCT_BITS)
    number : Out(signed(EXPONENT_BITS))
    amount : Out(signed(WIDE_AMOUNT_BITS))
        For ``number``, one cycle late.
    o : Out(signed(WIDE_BITS))
    new_velocity : Out(signed(speed[0]))
    new_master : Out(signed(master[0]))
    clamped : Out(2)
        Elements clamped, one cycle late.
    """
    def __init__(self, master, speed):
        self.update = Update(master, speed)
        super().__init__({
            "control": In(LANE_CONTROL),
            "used": In(1),
            "wide": In(signed(WIDE_BITS)),
            "master": In(signed(master[0])),
            "velocity": In(signed(speed[0])),
            "base": In(signed(WIDE_AMOUNT_BITS)),
            "noise": In(16),
            "step": In(STEP_BITS),
            "decay": In(DECAY_BITS),
            "next_longest": In(PRODUCT_BITS),
            "next_number": In(signed(EXPONENT_BITS)),
            "longest": Out(PRODUCT_BITS),
            "number": Out(signed(EXPONENT_BITS)),
            "amount": Out(signed(WIDE_AMOUNT_BITS)),
            "o": Out(signed(WIDE_BITS)),
            "new_velocity": Out(signed(speed[0])),
            "new_master": Out(signed(master[0])),
            "clamped": Out(2),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.column = column = _Column()
        m.submodules.factor = factor = Factor()
        m.submodules.rescale = rescale = Rescale()
        m.submodules.update = update = self.update
        m.d.comb += [
            column.control.eq(control), column.wide.eq(self.wide), column.base.eq(self.base),
            column.next_number.eq(self.next_number), self.number.eq(column.number),
            self.amount.eq(column.amount),
        ]

        # Times the factor.
        m.d.comb += [
            factor.x.eq(Mux(control.master, self.master, self.wide)),
            factor.divide.eq(control.divide),
            factor.coefficient.eq(column.coefficient),
        ]

        # The longest of a column.
        used = Signal(1 + WRITTEN - PRODUCT, reset_less=True)
        m.d.sync += used[1:].eq(used[:-1])
        with m.If(control.begin_shift):
            m.d.sync += [used[0].eq(self.used), self.longest.eq(0)]
        with m.Elif(control.gather):
            m.d.sync += self.longest.eq(self.next_longest)
        with m.Elif(control.search & used[0]):
            m.d.sync += self.longest.eq(self.longest | factor.magnitude)

        # Shift, round and clamp.
        m.d.comb += [
            rescale.magnitude.eq(factor.magnitude),
            rescale.negative.eq(factor.negative),
            rescale.amount.eq(column.shift),
            rescale.mask.eq(control.mask),
        ]

        # Add the bias, or add up. A sum wraps around.
        total = register(m, "total", rescale.o + column.bias)
        m.d.comb += column.total.eq(rescale.o + column.bias)
        clamped, over = limited(total, (total[-1], total[-1] | control.put_mask), control.mask,
                                clamps=~control.summing, always=control.put_mask)
        over_bias = register(m, "over_bias", over)
        m.d.sync += self.o.eq(clamped)

        # Or make a step of it.
        m.d.comb += [
            update.weight.eq(self.master), update.velocity.eq(self.velocity),
            update.noise.eq(self.noise), update.gradient.eq(rescale.o),
            update.step.eq(self.step), update.decay.eq(self.decay),
            self.new_velocity.eq(update.new_velocity), self.new_master.eq(update.new_weight),
        ]

        # Count what was clamped.
        m.d.sync += self.clamped.eq(
            (rescale.over & control.rescaled & used[RESCALED - PRODUCT])
            + (over_bias & control.written & used[WRITTEN - PRODUCT]))
        return m


class _Column(wiring.Component):
    """What a lane keeps during a tile: factor, shift and bias of its column.

    The next tile's come while rows of this one are on their way: the factor meets none of them, and
    exponent and bias wait until the first row of their tile, or a row's own bias until that row.
    """
    def __init__(self):
        super().__init__({
            "control": In(LANE_CONTROL),
            "wide": In(signed(WIDE_BITS)),
            "base": In(signed(WIDE_AMOUNT_BITS)),
            "next_number": In(signed(EXPONENT_BITS)),
            "total": In(signed(WIDE_BITS + 1)),
            "coefficient": Out(COEFFICIENT_BITS),
            "number": Out(signed(EXPONENT_BITS)),
            "amount": Out(signed(WIDE_AMOUNT_BITS)),
            "shift": Out(AMOUNT_BITS),
            "bias": Out(signed(WIDE_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        control = self.control
        word = self.wide.as_unsigned()
        number = Signal(signed(EXPONENT_BITS), reset_less=True)
        m.d.comb += self.number.eq(number)

        with m.If(control.load_factor):
            m.d.sync += self.coefficient.eq(coefficient(word, control.divide))
        with m.If(control.load_exponent):
            m.d.sync += number.eq(word ^ (~control.negate).replicate(EXPONENT_BITS))
        with m.If(control.gather):
            m.d.sync += number.eq(self.next_number)
        # A sum is of the tensor as it is.
        with m.If(control.summing):
            m.d.sync += [self.coefficient.eq(1), number.eq(0)]

        # How far to shift.
        nearest = Signal(AMOUNT_BITS, reset_less=True)
        m.d.sync += [self.amount.eq(number + self.base), nearest.eq(nearest_amount(self.amount))]
        with m.If(control.begin_shift):
            m.d.sync += self.shift.eq(nearest)

        # What to add.
        following = Signal(WIDE_BITS, reset_less=True)
        with m.If(control.load_bias):
            m.d.sync += following.eq(word)
        with m.If(~control.biased):
            m.d.sync += following.eq(0)
        with m.If(control.begin_bias | control.summing & control.rescaled):
            m.d.sync += self.bias.eq(Mux(control.begin_bias, following, self.total))
        return m

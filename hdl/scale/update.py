"""The weight update of one lane: a step of stochastic gradient descent."""

from amaranth.hdl import C, Cat, Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay, register
from hdl.norm.arithmetic import clamp

__all__ = ["DECAY_BITS", "DECAY_SHIFT", "GRADIENT_BITS", "GRADIENT_FRACTION", "MAX_SHIFT",
           "MOMENTUM", "MOMENTUM_SHIFT", "RATE_BITS", "STEP_BITS", "Update"]

#: Width and fraction bits of a gradient.
GRADIENT_BITS, GRADIENT_FRACTION = 24, 22
#: The momentum is ``MOMENTUM * 2**-MOMENTUM_SHIFT``.
MOMENTUM, MOMENTUM_SHIFT = 230, 8
#: Width of the decay, and weight decay is ``decay * 2**-DECAY_SHIFT``.
DECAY_BITS, DECAY_SHIFT = 12, 16
#: Width of the rate, and the largest shift to the right of it.
RATE_BITS, MAX_SHIFT = 12, 17
#: Width of ``rate << MAX_SHIFT - rate_shift``.
STEP_BITS = RATE_BITS + MAX_SHIFT

#: Unsigned bits that a multiplier takes.
_PART = 17


def _parts(value):
    """What multipliers take of a value: it, or its low bits and the rest."""
    return [value] if len(value) <= _PART + value.shape().signed else [
        value[:_PART], value[_PART:].as_signed() if value.shape().signed else value[_PART:]]


class Update(wiring.Component):
    """``(weight, velocity)`` after one step; ``sim.model.update.sgd``.

    One element per clock. What comes in and goes out at different times lets nothing wait: with
    weight and velocity in cycle 0, ``noise`` is taken in ``NOISE`` and the gradient in
    ``GRADIENT``, the new velocity is there in ``VELOCITY`` and the new weight in ``WEIGHT``.
    Multipliers of 18 x 18 bits: 2 for the momentum, 2 for the decay and 4 for the rate; half of
    them where numbers have at most 18 bits.

    With d fraction bits of the master beyond those of the velocity, and ``~`` of 16 bits::

        velocity' = 230 velocity 2**(8 + d) + decay weight + gradient 2**(fraction - 6)
                    + ~noise (+ 1/2), without its low 16 + d bits
        weight'   = 2**17 weight + 2 ~noise - rate 2**(17 - rate_shift + d) velocity',
                    without its low 17 bits

    both clamped. The second is ``weight - (step + 2 noise + 1 >> 17)``: the floor has changed its
    sign, and ``2**17 - 1`` less ``2 noise + 1`` is ``2 ~noise``.

    Parameters
    ----------
    master, speed : (int, int)
        ``(bits, fraction bits)`` of weight and velocity; no more fraction bits of the velocity.

    Members
    -------
    weight : In(signed(master[0]))
    velocity : In(signed(speed[0]))
    noise : In(16)
    gradient : In(signed(GRADIENT_BITS))
    step : In(STEP_BITS)
        ``rate << MAX_SHIFT - rate_shift``; steady, as ``decay`` is.
    decay : In(DECAY_BITS)
    new_velocity : Out(signed(speed[0]))
    new_weight : Out(signed(master[0]))
    """
    NOISE = 1
    GRADIENT = 4
    VELOCITY = 6
    WEIGHT = 10

    def __init__(self, master, speed):
        assert master[1] >= max(speed[1], GRADIENT_FRACTION - DECAY_SHIFT)
        self.master = master
        self.speed = speed
        super().__init__({
            "weight": In(signed(master[0])),
            "velocity": In(signed(speed[0])),
            "noise": In(16),
            "gradient": In(signed(GRADIENT_BITS)),
            "step": In(STEP_BITS),
            "decay": In(DECAY_BITS),
            "new_velocity": Out(signed(speed[0])),
            "new_weight": Out(signed(master[0])),
        })

    def elaborate(self, platform):
        m = Module()
        finer = self.master[1] - self.speed[1]

        def products(value, factor, name):
            return [register(m, f"{name}_{k}", part * factor)
                    for k, part in enumerate(_parts(value))]

        # Stage 1: operands.
        weight = register(m, "weight_1", self.weight)
        velocity = register(m, "velocity_1", self.velocity)
        noise = register(m, "noise_2", self.noise)

        # Stage 2: partial products.
        momentum = products(velocity, C(MOMENTUM), "momentum")
        decay = products(weight, self.decay, "decay")

        # Stage 3: their sums; half a unit more where noise ends above the lowest place.
        half = C(1, 1) if finer else C(0, 0)
        random = Cat(C(0, max(finer - 1, 0)), half, ~noise)
        low, high = momentum[0], momentum[1] << _PART if len(momentum) > 1 else C(0)
        carried = register(m, "carried", low + high)
        if len(decay) == 1:
            decayed = register(m, "decayed", decay[0] + random)
        elif len(random) <= _PART:
            # Below the high part there is room for it.
            room = Cat(random, C(0, _PART - len(random)), decay[1]).as_signed()
            decayed = register(m, "decayed", decay[0] + room)
        else:
            decayed = register(m, "decayed", decay[0] + (decay[1] << _PART) + random)

        # Stages 4 and 5: and the sum of all.
        moved = register(
            m, "moved", (carried << DECAY_SHIFT - MOMENTUM_SHIFT + finer) + decayed)
        fraction = self.master[1] + DECAY_SHIFT
        total = register(
            m, "total", moved + (self.gradient << fraction - GRADIENT_FRACTION))

        # Stage 6: clamp.
        new_velocity, _ = clamp(total >> DECAY_SHIFT + finer, self.speed[0])
        m.d.sync += self.new_velocity.eq(new_velocity)

        # What is needed again.
        m.submodules.weight = weight_later = Delay(weight.shape(), self.VELOCITY)
        m.submodules.noise = noise_later = Delay(noise.shape(), self.VELOCITY - self.NOISE)
        m.d.comb += [weight_later.i.eq(weight), noise_later.i.eq(noise)]

        # Stage 7: partial products with the rate.
        low, high = (products(self.new_velocity, part, name)
                     for part, name in zip(_parts(self.step), ("low", "high"), strict=True))

        # Stage 8: those of the lowest and the highest place beside each other, and the others.
        if len(low) == 1:
            outer, inner = low[0], high[0]
        else:
            outer, inner = Cat(low[0], high[1]).as_signed(), high[0] + low[1]
        less = register(m, "less", Cat(C(0, 1), ~noise_later.o, weight_later.o).as_signed()
                        - (outer << finer))
        inner = register(m, "inner", inner)

        # Stages 9 and 10: the rest of the difference, and clamp.
        moved = register(m, "weight_moved", (less >> _PART) - (inner << finer))
        new_weight, _ = clamp(moved, self.master[0])
        m.d.sync += self.new_weight.eq(new_weight)
        return m

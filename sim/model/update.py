"""The weight update: stochastic gradient descent with momentum and weight decay, in integers."""

import numpy as np

from hdl.params import DEFAULT_FORMATS
from sim.model.checks import (
    ModelError,
    check_number,
    check_shapes,
    check_signed,
    check_within,
    whole,
)
from sim.model.quantise import round_code
from sim.model.rounding import saturate

__all__ = ["DECAY_SHIFT", "GRADIENT_FRACTION", "MASTER_BITS", "MASTER_FRACTION", "MOMENTUM",
           "MOMENTUM_SHIFT", "VELOCITY_FRACTION", "sgd"]

_MASTER, _SPEED = DEFAULT_FORMATS
#: Width of a weight's gradient, signed, and the largest of a master weight and of a velocity.
MASTER_BITS = 24
#: Fraction bits of a master weight, and of gamma's, beta's and the bias's masters, and of a
#: velocity, unless told otherwise.
MASTER_FRACTION, VELOCITY_FRACTION = _MASTER[1], _SPEED[1]
#: Fraction bits of a weight's gradient.
GRADIENT_FRACTION = 22

#: The momentum is ``MOMENTUM * 2**-MOMENTUM_SHIFT``, about 0.9.
MOMENTUM, MOMENTUM_SHIFT = 230, 8
#: Weight decay is ``decay * 2**-DECAY_SHIFT``.
DECAY_SHIFT = 16


def _check_widths(master, speed):
    """Formats of which a step keeps every bit until it rounds."""
    for form, name in ((master, "master"), (speed, "speed")):
        if np.shape(form) != (2,):
            raise ModelError(f"{name} must be (bits, fraction bits), got {form}")
    check_number(master[0], "the width of master", 2, MASTER_BITS)
    check_number(master[1], "the fraction bits of master", GRADIENT_FRACTION - DECAY_SHIFT,
                 MASTER_BITS)
    # The sum is no coarser than its terms, and the step is rounded from below 2**62.
    check_number(speed[1], "the fraction bits of speed", max(master[1] - 14, 0),
                 master[1] + DECAY_SHIFT - MOMENTUM_SHIFT)
    check_number(speed[0], "the width of speed", 2, min(MASTER_BITS, 34 - master[1] + speed[1]))


def sgd(weight, velocity, gradient, rate, rate_shift, noise, *, momentum=MOMENTUM, decay=0,
        master=_MASTER, speed=_SPEED):
    """``(weight, velocity)`` after one step, both rounded stochastically.

    With fraction bits as above, ``sum = momentum 2**-8 velocity + gradient + decay 2**-16
    weight`` is exact; ``velocity' = round_code(sum, ..., 0xFFFF - noise)`` and
    ``weight' = weight - round_code(rate 2**-rate_shift velocity', ..., noise)``, each clamped to
    its width.

    One 16-bit word serves both, and the step is made of the rounded velocity. The velocity is
    unbiased, the weight is not quite: with ``r = rate 2**(master fraction - speed fraction -
    rate_shift)``, what an LSB of the velocity moves the weight by in LSB, f the fraction of the
    exact velocity and a, b those of r times it rounded down and up, the mean step over all words is
    ``h(a) - h(b)`` from the exact one, ``h(x) = min(x, 1 - f) - (1 - f) x``: at most
    ``min(r, 1/4)`` LSB, and ``2**-16 (1 + r)`` because a word has 16 bits (docs/numerics.md).

    ``0 <= rate < 2**12``, ``0 <= rate_shift <= 17``, ``momentum <= 256``, ``decay < 2**12``;
    ``master`` and ``speed`` are (bits, fraction bits) of weight and velocity.

    Error against real arithmetic, unless clamped: below one LSB of the velocity, below ``1 + r``
    of the weight. Source: momentum as PyTorch's SGD defines it; the rounding is that of Gupta et
    al., 2015, "Deep Learning with Limited Numerical Precision".

    >>> w, v = sgd(np.array([1000]), np.array([256]), np.array([280]), 1, 2, np.array([40000]))
    >>> w.tolist(), v.tolist()
    ([925], [300])
    """
    for value, name, high in ((rate, "rate", 2**12 - 1), (rate_shift, "rate_shift", 17),
                              (momentum, "momentum", 256), (decay, "decay", 2**12 - 1)):
        check_number(value, name, 0, high)
    _check_widths(master, speed)
    weight, velocity, noise, gradient = (
        whole(v, name) for v, name in ((weight, "weight"), (velocity, "velocity"),
                                       (noise, "noise"), (gradient, "gradient")))
    check_shapes(weight.shape == velocity.shape == gradient.shape == noise.shape,
                 "weight, velocity, gradient and noise must have one shape", weight, velocity,
                 gradient, noise)
    check_signed(weight, "weight", master[0])
    check_signed(velocity, "velocity", speed[0])
    check_signed(gradient, "gradient", MASTER_BITS)
    check_within(noise, "noise", 0, 0xFFFF)
    fraction = master[1] + DECAY_SHIFT
    total = ((momentum * velocity << fraction - MOMENTUM_SHIFT - speed[1])
             + (gradient << fraction - GRADIENT_FRACTION)
             + decay * weight)
    velocity, _ = saturate(round_code(total, speed[1] - fraction, 0xFFFF - noise), speed[0])
    step = round_code(rate * velocity, master[1] - speed[1] - rate_shift, noise)
    weight, _ = saturate(weight - step, master[0])
    return weight, velocity

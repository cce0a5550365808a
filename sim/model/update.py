"""The weight update: stochastic gradient descent with momentum and weight decay, in integers."""

from sim.model.checks import check_shapes, whole
from sim.model.quantise import round_code
from sim.model.rounding import saturate

__all__ = ["DECAY_SHIFT", "GRADIENT_FRACTION", "MASTER_BITS", "MASTER_FRACTION", "MOMENTUM",
           "MOMENTUM_SHIFT", "VELOCITY_FRACTION", "sgd"]

#: Width of a master weight, of a velocity and of a weight's gradient, signed.
MASTER_BITS = 24
#: Fraction bits of a master weight, and of gamma's, beta's and the bias's masters.
MASTER_FRACTION = 20
#: Fraction bits of a velocity.
VELOCITY_FRACTION = 20
#: Fraction bits of a weight's gradient.
GRADIENT_FRACTION = 22

#: The momentum is ``MOMENTUM * 2**-MOMENTUM_SHIFT``, about 0.9.
MOMENTUM, MOMENTUM_SHIFT = 230, 8
#: Weight decay is ``decay * 2**-DECAY_SHIFT``.
DECAY_SHIFT = 16


def sgd(weight, velocity, gradient, rate, rate_shift, noise, *, momentum=MOMENTUM, decay=0,
        master=(MASTER_BITS, MASTER_FRACTION), speed=(MASTER_BITS, VELOCITY_FRACTION)):
    """``(weight, velocity)`` after one step, both rounded stochastically.

    With fraction bits as above, ``sum = momentum 2**-8 velocity + gradient + decay 2**-16
    weight`` is exact; ``velocity' = round_code(sum, ..., 0xFFFF - noise)`` and
    ``weight' = weight - round_code(rate 2**-rate_shift velocity', ..., noise)``, each clamped to
    its width. One 16-bit word serves both: each rounding is unbiased, and nothing multiplies
    the two errors.

    ``0 <= rate < 2**12``, ``rate_shift <= 17``, ``momentum <= 256``, ``decay < 2**12``;
    ``master`` and ``speed`` are (bits, fraction bits) of weight and velocity.

    Error against real arithmetic: below one LSB of either.

    >>> import numpy as np
    >>> w, v = sgd(np.array([1000]), np.array([256]), np.array([280]), 1, 2, np.array([40000]))
    >>> w.tolist(), v.tolist()
    ([925], [300])
    """
    weight, velocity, noise, gradient = (
        whole(v, name) for v, name in ((weight, "weight"), (velocity, "velocity"),
                                       (noise, "noise"), (gradient, "gradient")))
    check_shapes(weight.shape == velocity.shape == gradient.shape == noise.shape,
                 "weight, velocity, gradient and noise must have one shape", weight, velocity,
                 gradient, noise)
    fraction = master[1] + DECAY_SHIFT
    total = ((momentum * velocity << fraction - MOMENTUM_SHIFT - speed[1])
             + (gradient << fraction - GRADIENT_FRACTION)
             + decay * weight)
    velocity, _ = saturate(round_code(total, speed[1] - fraction, 0xFFFF - noise), speed[0])
    step = round_code(rate * velocity, master[1] - speed[1] - rate_shift, noise)
    weight, _ = saturate(weight - step, master[0])
    return weight, velocity

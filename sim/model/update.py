"""The weight update: stochastic gradient descent with momentum, in integers."""

import numpy as np

from sim.model.rounding import round_shift, saturate

__all__ = ["MOMENTUM", "MOMENTUM_SHIFT", "sgd"]

#: The momentum is ``MOMENTUM * 2**-MOMENTUM_SHIFT``, about 0.9.
MOMENTUM, MOMENTUM_SHIFT = 230, 8


def sgd(weight, velocity, gradient, rate, rate_shift, noise):
    """``(weight, velocity)`` after one step; all int32 with ``MASTER_FRACTION`` fraction bits.

    ``velocity' = round_shift(MOMENTUM velocity, 8) + gradient``, clamped to int32;
    ``weight' = weight - floor((2**(17 - rate_shift) rate velocity' + 2 noise + 1) / 2**17)``,
    which is a stochastic rounding of ``rate velocity' 2**-rate_shift``, clamped to int32.
    ``0 <= rate_shift <= 17``, ``rate < 2**12``.

    >>> w, v = sgd(np.array([1000]), np.array([256]), np.array([70]), 1, 2, np.array([40000]))
    >>> w.tolist(), v.tolist()
    ([925], [300])
    """
    velocity, _ = saturate(round_shift(MOMENTUM * np.asarray(velocity, np.int64), MOMENTUM_SHIFT)
                           + gradient, 32)
    step = ((rate * velocity << (17 - rate_shift)) + 2 * np.asarray(noise, np.int64) + 1) >> 17
    weight, _ = saturate(weight - step, 32)
    return weight, velocity

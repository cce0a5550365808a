"""Initial weights."""

from math import isqrt

import numpy as np

from sim.model.checks import check_number
from sim.model.noise import bits16
from sim.model.update import MASTER_BITS, MASTER_FRACTION

__all__ = ["uniform_weights"]


def uniform_weights(words, fan_in, fan_out, fraction=MASTER_FRACTION):
    """[fan_in, fan_out] master weights with ``fraction`` fraction bits, uniform with variance
    ``1 / fan_in``.

    ``floor((2 u - 65535) a / 2**16)`` for 16 random bits u and
    ``a = floor(2**fraction sqrt(3 / fan_in))``. Error: below two units of
    ``(2 u - 65535) 2**-16 sqrt(3 / fan_in)``. Source: the variance is LeCun's, 1998, "Efficient
    BackProp".

    >>> w = uniform_weights((1, 2, 3, 4), 64, 10)
    >>> w.shape, bool(abs(w).max() < 2**20 * (3 / 64) ** 0.5)
    ((64, 10), True)
    """
    check_number(fan_in, "fan_in", 1, 2**32)
    check_number(fan_out, "fan_out", 1, 2**32 // fan_in)
    check_number(fraction, "fraction", 0, MASTER_BITS)
    bound = isqrt((3 << 2 * fraction) // fan_in)
    u = bits16(words, np.arange(fan_in * fan_out).reshape(fan_in, fan_out))
    return (2 * u - 65535) * bound >> 16

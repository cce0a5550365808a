"""Every rounding and saturation of the project; each has this one definition.

Gateware and model share them: an arithmetic shift right is a floor, "nearest" is half up.
"""

import numpy as np

from sim.model.checks import whole

__all__ = ["bit_length", "floor_divide", "rescale", "round_shift", "saturate", "wrap"]


def round_shift(x, shift):
    """``floor(x / 2**shift + 1/2)``: nearest, half up; ``shift >= 0`` may be an array.

    >>> round_shift(np.array([-6, -5, -2, 2, 5, 6]), 2).tolist()
    [-1, -1, 0, 1, 1, 2]
    >>> round_shift(np.array([7]), 0).tolist()
    [7]
    """
    x = whole(x)
    if isinstance(shift, int):
        return (x + (1 << shift >> 1)) >> shift
    shift = whole(shift, "shift")
    # Half of 1 is 0; unsigned, half of 2**63 is positive too.
    half = (np.uint64(1) << shift.view(np.uint64)) >> np.uint64(1)
    return (x + half.view(np.int64)) >> shift


def rescale(x, shift, bits):
    """``(y, clamped)``: ``x * 2**shift`` rounded half up and clamped to ``bits`` bits.

    From one power-of-two unit to another; the shift may have either sign and be an array.

    >>> rescale(np.array([5, -5, 100]), -1, 6), rescale(np.array([3]), 4, 5)
    ((array([ 3, -2, 31]), 1), (array([15]), 1))
    """
    if isinstance(shift, int):
        # The same in plain integers, which are faster than arrays of one.
        y, left = round_shift(x, min(max(-shift, 0), 62)), min(max(shift, 0), bits)
        limit = 1 << bits - left
        return saturate(np.minimum(np.maximum(y, -limit), limit) << left if left else y, bits)
    shift = whole(shift, "shift")
    # np.clip looks up the limits of its type first, which takes longer than this.
    y = round_shift(x, np.minimum(np.maximum(-shift, 0), 62))
    left = np.minimum(np.maximum(shift, 0), bits)
    # Whatever leaves the width is clamped before it is shifted, so nothing overflows.
    limit = np.int64(1) << bits - left
    y = np.minimum(np.maximum(y, -limit), limit) << left
    return saturate(y, bits)


def saturate(x, bits):
    """Clamp to a signed number of ``bits`` bits; also how many elements were clamped.

    >>> y, clamped = saturate(np.array([-9, -8, 7, 8]), 4)
    >>> y.tolist(), clamped
    ([-8, -8, 7, 7], 2)
    """
    x = whole(x)
    high = (1 << (bits - 1)) - 1
    # Mostly nothing is clamped, and the extremes say so in half the time.
    if x.ndim and x.size and x.max() <= high and x.min() >= -high - 1:
        return x.copy(), 0
    y = np.minimum(np.maximum(x, -high - 1), high)
    return y, int(np.count_nonzero(y != x))


def wrap(x, bits):
    """The low bits of integers as a signed number: what a port of so many takes of a wider one.

    >>> wrap([7, 8, -9, 31], 4).tolist()
    [7, -8, 7, -1]
    """
    half = 1 << bits - 1
    return (whole(x) + half & (1 << bits) - 1) - half


def floor_divide(numerator, denominator):
    """``floor(numerator / denominator)``, the only division there is; ``denominator > 0``.

    A negative numerator is divided as ``~floor(~n / d)``, which is how the serial divider does it.

    >>> floor_divide(np.array([-7, 7]), 2).tolist()
    [-4, 3]
    """
    return whole(numerator, "numerator") // whole(denominator, "denominator")


def bit_length(x):
    """Bits of the non-negative integers ``x``; 0 for 0.

    >>> bit_length(np.array([0, 1, 2, 255, 256, 2**40 - 1])).tolist()
    [0, 1, 2, 8, 9, 40]
    """
    # frexp is exact up to 2**53, which no caller reaches; the exponent of 0 is 0.
    return np.frexp(np.asarray(x, np.float64))[1].astype(np.int64)

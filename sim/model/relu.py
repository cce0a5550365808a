"""The rectifier and its mask."""

import numpy as np

from sim.model.checks import check_bits, check_shapes, finite, whole

__all__ = ["SIGNED_FROM", "relu", "relu_gradient", "unclipped"]

#: Least width of signed codes of which the largest count as clipped.
SIGNED_FROM = 4


def relu(y):
    """``(max(y, 0), y > 0)``.

    >>> out, mask = relu(np.array([-3, 0, 5]))
    >>> out.tolist(), mask.tolist()
    ([0, 0, 5], [False, False, True])
    """
    y = whole(y, "y")
    mask = y > 0
    return np.where(mask, y, 0), mask


def relu_gradient(dy, mask):
    """``dy`` where the mask is set, else 0. Nothing is computed: dy need not be whole."""
    dy = finite(dy, "dy")
    check_shapes(dy.shape == np.shape(mask), "dy and its mask must have one shape", dy, mask)
    return np.where(mask, dy, 0)


def unclipped(codes, bits, *, signed=False):
    """Where the gradient of an activation passes its quantiser: codes below the largest.

    What was clipped has no influence, and neither has its gradient; a code that is the largest
    without a clip counts as clipped. Signed codes of 2 and 3 bits, of which the largest are half
    or more, pass everything.

    >>> unclipped([0, 14, 15], 4).tolist(), unclipped([-7, -6, 7], 4, signed=True).tolist()
    ([True, True, False], [False, True, False])
    """
    check_bits(bits)
    codes = whole(codes, "codes")
    if not signed:
        return codes < 2**bits - 1
    return (np.abs(codes) < 2 ** (bits - 1) - 1) | (bits < SIGNED_FROM)

"""The rectifier and its mask."""

import numpy as np

__all__ = ["relu", "relu_gradient", "unclipped"]


def relu(y):
    """``(max(y, 0), y > 0)``.

    >>> out, mask = relu(np.array([-3, 0, 5]))
    >>> out.tolist(), mask.tolist()
    ([0, 0, 5], [False, False, True])
    """
    mask = np.asarray(y) > 0
    return np.where(mask, y, 0), mask


def relu_gradient(dy, mask):
    """``dy`` where the mask is set, else 0."""
    return np.where(mask, dy, 0)


def unclipped(codes, bits):
    """Where the gradient of an activation passes its unsigned quantiser: codes below the largest.

    What was clipped has no influence, and neither has its gradient; a code that is the largest
    without a clip counts as clipped.

    >>> unclipped([0, 14, 15], 4).tolist()
    [True, True, False]
    """
    return np.asarray(codes) < 2**bits - 1

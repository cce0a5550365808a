"""The rectifier and its mask."""

import numpy as np

__all__ = ["relu", "relu_gradient"]


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

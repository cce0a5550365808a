"""Dropout with probability one half: every other element, doubled."""

from sim.model.checks import check_shapes, check_within, whole
from sim.model.relu import relu_gradient

__all__ = ["KEPT", "dropout", "dropout_gradient"]

#: The bit of an element's noise that keeps it.
KEPT = 0x8000


def dropout(x, noise):
    """``(y, kept)``: ``2 x`` where the highest of the 16 random bits is 1, else 0; of one shape.

    y has a bit more than x. The noise is :func:`sim.model.noise.element_noise` of the tensor as
    [all but the last axis, last axis]. Exact. Source: Srivastava et al., 2014, scaled in training.

    >>> import numpy as np
    >>> y, kept = dropout(np.array([-3, 5]), np.array([0x8000, 0x7FFF]))
    >>> y.tolist(), kept.tolist()
    ([-6, 0], [True, False])
    """
    x, noise = whole(x), whole(noise, "noise")
    check_shapes(noise.shape == x.shape, "noise must have x's shape", x, noise)
    check_within(noise, "noise", 0, 0xFFFF)
    kept = noise & KEPT != 0
    return 2 * relu_gradient(x, kept), kept


def dropout_gradient(dy, exponent, kept):
    """``(dx, exponent + 1)`` of the gradient ``dy * 2**exponent``: dy where it was kept. Exact.

    >>> import numpy as np
    >>> dx, exponent = dropout_gradient(np.array([7, 7]), -3, np.array([True, False]))
    >>> dx.tolist(), exponent
    ([7, 0], -2)
    """
    return relu_gradient(whole(dy, "dy"), kept), exponent + 1

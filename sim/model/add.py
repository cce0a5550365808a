"""Sums of two tensors: residual connections forward, and their gradients where paths join."""

import numpy as np

from sim.model.rounding import bit_length, rescale, saturate

__all__ = ["ACTIVATION_BITS", "GRADIENT_BITS", "add", "add_gradients"]

#: Width of a wide activation, signed, with ``PARAMETER_FRACTION`` fraction bits.
ACTIVATION_BITS = 24
#: Bits of magnitude to which the gradients that meet are aligned.
GRADIENT_BITS = 22


def add(a, b):
    """``(sum, clamped)`` of two activations in the same unit, clamped to ``ACTIVATION_BITS``.

    >>> add(np.array([5, 2**23 - 1]), np.array([-7, 1]))
    (array([     -2, 8388607]), 1)
    """
    return saturate(np.asarray(a, np.int64) + b, ACTIVATION_BITS)


def add_gradients(gradients):
    """``(sum, exponent)`` of gradients ``[(k, exponent), ...]`` in different units.

    All are rounded half up to the unit that gives the largest of them ``GRADIENT_BITS`` bits
    (finer units are kept if that is coarser than needed), and added. Error: half a unit each.

    >>> add_gradients([(np.array([1, 2]), 0), (np.array([4, 8]), -1)])
    (array([1572864, 3145728]), -19)
    """
    lengths = [int(bit_length(np.abs(k).max(initial=0))) + e for k, e in gradients
               if np.any(k)]
    exponent = max(lengths, default=0) - GRADIENT_BITS
    return sum(rescale(k, e - exponent, 32)[0] for k, e in gradients), exponent

"""Sums of two tensors: residual connections forward, and their gradients where paths join."""

from sim.model.checks import ModelError, check_shapes, largest_magnitude, whole
from sim.model.rounding import rescale, saturate

__all__ = ["ACTIVATION_BITS", "GRADIENT_BITS", "add", "add_gradients"]

#: Width of a wide activation, signed, with ``PARAMETER_FRACTION`` fraction bits.
ACTIVATION_BITS = 24
#: Bits of magnitude to which the gradients that meet are aligned.
GRADIENT_BITS = 22
#: Most bits of magnitude that a gradient comes with.
_EXACT = 53


def add(a, b):
    """``(sum, clamped)`` of two activations in the same unit, clamped to ``ACTIVATION_BITS``.

    >>> import numpy as np
    >>> add(np.array([5, 2**23 - 1]), np.array([-7, 1]))
    (array([     -2, 8388607]), 1)
    """
    a, b = whole(a, "a"), whole(b, "b")
    check_shapes(a.shape == b.shape, "a and b must have one shape", a, b)
    return saturate(a + b, ACTIVATION_BITS)


def add_gradients(gradients):
    """``(sum, exponent)`` of gradients ``[(k, exponent), ...]`` in different units.

    All are rounded half up to the unit that gives the largest of them ``GRADIENT_BITS`` bits
    (finer units are kept if that is coarser than needed), and added. Error: half a unit each.

    >>> import numpy as np
    >>> add_gradients([(np.array([1, 2]), 0), (np.array([4, 8]), -1)])
    (array([1572864, 3145728]), -19)
    """
    if not gradients:
        raise ModelError("gradients must be at least one, got none")
    gradients = [(whole(k, "a gradient"), e) for k, e in gradients]
    first = gradients[0][0]
    lengths = []
    for k, e in gradients:
        check_shapes(k.shape == first.shape, "gradients that meet must have one shape", first, k)
        largest = largest_magnitude(k)
        if largest >= 2**_EXACT:
            raise ModelError(f"a gradient must have at most {_EXACT} bits, got one of "
                             f"{largest.bit_length()}")
        if largest:
            lengths.append(largest.bit_length() + e)
    exponent = max(lengths, default=0) - GRADIENT_BITS
    return sum(rescale(k, e - exponent, 32)[0] for k, e in gradients), exponent

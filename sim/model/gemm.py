"""The array's matrix product, exact, with group exponents along any of its axes."""

import numpy as np

from hdl.params import ACC_BITS
from sim.model.checks import (
    ModelError,
    check_number,
    check_shapes,
    check_within,
    largest_magnitude,
    whole,
)
from sim.model.requantise import LARGEST_SHIFT, requantise

__all__ = ["gemm"]

#: Floating-point sums are exact while all their terms add up to less than ``2**_EXACT``.
_EXACT = 53


def _shifts(of, groups, length, name):
    """``groups - 1 - of``, checked: what an index of each group is shifted by."""
    of = whole(of, name)
    check_number(groups, f"the groups of {name}", 1, 32)
    check_shapes(of.shape == (length,), f"{name} must be ({length},)", of)
    check_within(of, name, 0, groups - 1)
    return groups - 1 - of


def gemm(a, b, *, shift=0, inner=None, inner_groups=1, rows=None, row_groups=1,
         cols=None, col_groups=1):
    """``(y, clamped)``: ``requantise(sum_k a[m,k] b[k,n] 2**e, shift)``.

    With ``e = (inner_groups - 1 - inner[k]) + (row_groups - 1 - rows[m])
    + (col_groups - 1 - cols[n])``, a term being 0 where the groups are None: the smallest scale
    has exponent 0, so everything is an integer. The sum over k is exact: it has at
    most ``ACC_BITS`` bits, and its terms, whatever their signs, add up to less than ``2**53``.

    ``a`` may hold unsigned elements: the machine streams ``a - 2**(bits-1)`` and adds
    ``2**(bits-1) * sum_k b[k,n] 2**e``, which is the same integer.

    >>> y, clamped = gemm(np.array([[1, 2]]), np.array([[3], [4]]),
    ...                   inner=np.array([0, 1]), inner_groups=2)
    >>> y.tolist(), clamped
    ([[14]], 0)
    """
    a, b = whole(a, "A"), whole(b, "B")
    check_shapes(a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0],
                 "A B needs as many columns of A as rows of B", a, b)
    if inner is not None:
        inner = _shifts(inner, inner_groups, len(b), "inner")
        # Only if nothing leaves 64 bits is it shifted before its size is known.
        largest = largest_magnitude(b) << int(inner.max(initial=0))
        if largest < 2**_EXACT:
            b = b << inner[:, None]
            largest = largest_magnitude(b)
    else:
        largest = largest_magnitude(b)
    largest *= largest_magnitude(a) * a.shape[1]
    if largest >= 2**_EXACT:
        raise ModelError(f"a sum over {a.shape[1]} products must stay below 2**{_EXACT} whatever "
                         f"their signs, got operands of which it may reach {largest}")
    y = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    if largest >= 2 ** (ACC_BITS - 1):
        largest = largest_magnitude(y)
        if largest >= 2 ** (ACC_BITS - 1):
            raise ModelError(f"a sum over {a.shape[1]} products needs an accumulator of "
                             f"{largest.bit_length() + 1} bits, more than its {ACC_BITS}")
    outer = 0
    for of, groups, length, name in ((rows, row_groups, len(a), "rows"),
                                     (cols, col_groups, b.shape[1], "cols")):
        if of is not None:
            by = _shifts(of, groups, length, name)
            outer += groups - 1
            if largest << outer >= 2**LARGEST_SHIFT:
                raise ModelError(f"a sum of {largest.bit_length()} bits may be shifted left by "
                                 f"{LARGEST_SHIFT - largest.bit_length()} at most, got groups of "
                                 f"rows and columns that shift it by {outer}")
            y = y << (by[:, None] if of is rows else by)
    return requantise(y, shift)

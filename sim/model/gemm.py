"""The array's matrix product, exact, with group exponents along any of its axes."""

import numpy as np

from hdl.params import ACC_BITS
from sim.model.checks import ModelError, check_shapes, whole
from sim.model.requantise import requantise

__all__ = ["gemm"]


def gemm(a, b, *, shift=0, inner=None, inner_groups=1, rows=None, row_groups=1,
         cols=None, col_groups=1):
    """``(y, clamped)``: ``requantise(sum_k a[m,k] b[k,n] 2**e, shift)``.

    With ``e = (inner_groups - 1 - inner[k]) + (row_groups - 1 - rows[m])
    + (col_groups - 1 - cols[n])``, a term being 0 where the groups are None: the smallest scale
    has exponent 0, so everything is an integer. The sum is exact.

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
        b = b << (inner_groups - 1 - inner)[:, None]
    # Floating-point products are exact while every partial sum is an integer below 2**53.
    largest = float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) * a.shape[1]
    y = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    if largest >= 2.0 ** (ACC_BITS - 1):
        most = float(np.abs(y).max(initial=0))
        if most >= 2.0 ** (ACC_BITS - 1):
            raise ModelError(f"a sum over {a.shape[1]} products needs an accumulator of "
                             f"{int(most).bit_length() + 1} bits, more than its {ACC_BITS}")
    if rows is not None:
        y = y << (row_groups - 1 - rows)[:, None]
    if cols is not None:
        y = y << (col_groups - 1 - cols)
    return requantise(y, shift)

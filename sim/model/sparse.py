"""A sparse matrix times a dense one: neighbourhoods of a graph."""

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
from sim.model.requantise import requantise

__all__ = ["sparse_gemm"]


def sparse_gemm(row, column, value, b, rows, *, shift=0):
    """``(y [rows, n], clamped)``: ``requantise(sum_e value[e] b[column[e], :], shift)`` per row.

    The matrix is a list of entries (row, column, value); entries of one place add up. The sum
    is exact, does not depend on the entries' order, and has at most ``ACC_BITS`` bits.

    >>> sparse_gemm([0, 0, 2], [1, 0, 1], [2, 3, -1], np.array([[1, 10], [5, 50]]), 3)[0].tolist()
    [[13, 130], [0, 0], [-5, -50]]
    """
    b = whole(b, "B")
    row, column, value = (whole(v, name) for v, name in ((row, "row"), (column, "column"),
                                                         (value, "value")))
    check_shapes(b.ndim == 2, "B must have two axes", b)
    check_shapes(row.ndim == 1 and row.shape == column.shape == value.shape,
                 "row, column and value must be lists of one length", row, column, value)
    check_number(rows, "rows", 1, 2**31 - 1)
    check_within(row, "row", 0, rows - 1)
    check_within(column, "column", 0, len(b) - 1)
    largest = largest_magnitude(value) * largest_magnitude(b) * len(value)
    y = np.zeros((rows, b.shape[1]), np.int64)
    if largest < 2**62:
        np.add.at(y, row, value[:, None] * b[column])
        largest = min(largest, largest_magnitude(y))
    if largest >= 2 ** (ACC_BITS - 1):
        raise ModelError(f"a sum over {len(value)} entries may need an accumulator of "
                         f"{largest.bit_length() + 1} bits, more than its {ACC_BITS}")
    return requantise(y, shift)

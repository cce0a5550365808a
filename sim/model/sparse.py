"""A sparse matrix times a dense one: neighbourhoods of a graph."""

import numpy as np

from sim.model.requantise import requantise

__all__ = ["sparse_gemm"]


def sparse_gemm(row, column, value, b, rows, *, shift=0):
    """``(y [rows, n], clamped)``: ``requantise(sum_e value[e] b[column[e], :], shift)`` per row.

    The matrix is a list of entries (row, column, value); entries of one place add up. The sum
    is exact and does not depend on the entries' order.

    >>> sparse_gemm([0, 0, 2], [1, 0, 1], [2, 3, -1], np.array([[1, 10], [5, 50]]), 3)[0].tolist()
    [[13, 130], [0, 0], [-5, -50]]
    """
    b = np.asarray(b, np.int64)
    y = np.zeros((rows, b.shape[1]), np.int64)
    np.add.at(y, np.asarray(row), np.asarray(value, np.int64)[:, None] * b[np.asarray(column)])
    return requantise(y, shift)

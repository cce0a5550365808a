"""A table of masters, one row for every index."""

import numpy as np

from hdl.params import PARAMETER_FRACTION
from sim.model.add import ACTIVATION_BITS
from sim.model.checks import check_number, check_shapes, check_within, whole
from sim.model.rounding import rescale
from sim.model.update import GRADIENT_FRACTION, MASTER_BITS, MASTER_FRACTION

__all__ = ["lookup", "lookup_gradient"]


def lookup(index, table):
    """[..., width] wide activations: rows of the masters ``table`` [rows, width] by ``index``.

    ``rescale(table[index], PARAMETER_FRACTION - MASTER_FRACTION)`` in ``ACTIVATION_BITS``. Error:
    half a unit.

    >>> lookup(np.array([1, 0, 1]), np.array([[256, 300], [-128, 1 << 20]])).tolist()
    [[0, 4096], [1, 1], [0, 4096]]
    """
    index, table = whole(index, "index"), whole(table, "table")
    check_shapes(table.ndim == 2 and table.size, "a table must have two axes and an element", table)
    check_within(index, "index", 0, len(table) - 1)
    return rescale(table, PARAMETER_FRACTION - MASTER_FRACTION, ACTIVATION_BITS)[0][index]


def lookup_gradient(dy, exponent, index, rows):
    """[rows, width] with ``GRADIENT_FRACTION`` fraction bits: the gradient of a table.

    dy [..., width] in units of ``2**exponent`` adds up exactly where a row was taken, and is then
    rescaled to ``MASTER_BITS``. Error: half a unit, unless clamped.

    >>> lookup_gradient(np.array([[1, 2], [3, 4], [5, 6]]), -21, np.array([1, 0, 1]), 3).tolist()
    [[6, 8], [12, 16], [0, 0]]
    """
    dy, index = whole(dy, "dy"), whole(index, "index")
    check_shapes(dy.ndim and dy.shape[:-1] == index.shape, "dy [..., width] needs an index for "
                 "every row", dy, index)
    check_number(rows, "rows", 1, 2**31 - 1)
    check_within(index, "index", 0, rows - 1)
    check_within(dy, "dy", 1 - 2**40, 2**40 - 1)
    total = np.zeros((rows, dy.shape[-1]), np.int64)
    np.add.at(total, index.reshape(-1), dy.reshape(-1, dy.shape[-1]))
    return rescale(total, exponent + GRADIENT_FRACTION, MASTER_BITS)[0]

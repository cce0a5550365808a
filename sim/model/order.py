"""The order of channels along a GEMM's inner dimension: sorted by group, padded to the array.

Largest scale first (group 0), so that the array multiplies its partial sum by two where one group
ends and the next begins (Horner's rule). The schedule never depends on the data: sorted groups,
each padded to whole schedule rows of ``depth`` products and an empty one costing one row, never
need more than ``ceil(k / depth) + groups - 1`` rows, and that bound is always scheduled.
"""

import numpy as np

from sim.model.checks import check_number, check_shapes, check_within, whole

__all__ = ["inner_tiles", "order", "schedule_rows"]


def schedule_rows(k, depth, groups=1):
    """Rows of ``depth`` products that a GEMM over ``k`` indices takes.

    >>> schedule_rows(64, 4, 4), schedule_rows(10, 4)
    (19, 3)
    """
    for value, name in ((k, "k"), (depth, "depth"), (groups, "groups")):
        check_number(value, name, 1, 2**31 - 1)
    return -(-k // depth) + groups - 1


def inner_tiles(k, depth, rows, groups=1):
    """Times that ``rows`` rows of the array must be filled."""
    check_number(rows, "rows", 1, 2**31 - 1)
    return -(-schedule_rows(k, depth, groups) // rows)


def order(groups_of, groups, depth):
    """``(slots, marks)``: the index in each slot (-1: padding) and the rows to shift before.

    Indices of a group follow each other in their own order; each group begins a schedule row,
    which is its mark (group 0 has none). The last group is padded to a whole row, and occupies
    one only if it is not empty.

    >>> slots, marks = order(np.array([1, 0, 3, 0, 1]), 4, 2)
    >>> slots.tolist(), marks
    ([1, 3, 0, 4, -1, -1, 2, -1], [1, 2, 3])
    """
    groups_of = whole(groups_of, "groups_of")
    check_shapes(groups_of.ndim == 1, "groups_of must be a list", groups_of)
    check_number(groups, "groups", 1, 32)
    check_number(depth, "depth", 1, 2**31 - 1)
    check_within(groups_of, "groups_of", 0, groups - 1)
    slots, marks = [], []
    for group in range(groups):
        if group:
            marks.append(len(slots) // depth)
        slots.extend(int(i) for i in np.flatnonzero(groups_of == group))
        empty = len(slots) == (marks[-1] * depth if marks else 0)
        padding = depth if empty and group < groups - 1 else -len(slots) % depth
        slots.extend([-1] * padding)
    return np.array(slots, np.int64), marks

"""Sums of rows: of exponents, which change from unit to unit, and statistics that follow others."""

import numpy as np

from sim.model.checks import check_number, check_shapes, check_signed, whole
from sim.model.rounding import round_shift, wrap

__all__ = ["combine"]

#: Width of all that is combined.
_BITS = 32


def combine(a, b, added=0, *, subtract=False, follow=None, maximum=False):
    """``a + b + added`` or ``a - b + added`` of rows [n], with ``maximum`` ``max(a, b) + added``,
    or with ``follow`` the running mean ``a + round_shift(b - a, follow)``, modulo ``2**32``,
    signed. ``b`` may be one number for all.

    >>> combine([5, -7], [2], 100).tolist()
    [107, 95]
    >>> combine([1000], [2000], follow=3).tolist()
    [1125]
    >>> combine([5, -7], [2], 100, maximum=True).tolist()
    [105, 102]
    """
    a, b = whole(a, "a"), whole(b, "b")
    check_shapes(a.ndim == 1 and b.shape in (a.shape, (1,)),
                 "b [n] must have as many columns as a [n], or one", a, b)
    for value, name in ((a, "a"), (b, "b")):
        check_signed(value, name, _BITS)
    if follow is not None:
        check_number(follow, "follow", 0, _BITS - 1)
        total = a + round_shift(b - a, follow)
    else:
        check_number(added, "added", -(1 << _BITS - 1), (1 << _BITS) - 1)
        total = (np.maximum(a, b) if maximum else a + (-b if subtract else b)) + added
    return wrap(total, _BITS)

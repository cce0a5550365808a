"""Means and intervals of paired differences."""

from math import sqrt
from operator import itemgetter

__all__ = ["interval", "paired", "quantile"]

#: Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom (any table).
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
      2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
      2.052, 2.048, 2.045, 2.042)


def quantile(freedom):
    """Student's t for a two-sided 95 % interval; beyond 30 degrees that of 30, a little wide.

    >>> quantile(9), quantile(100)
    (2.262, 2.042)
    """
    return _T[min(freedom, len(_T)) - 1]


def interval(values):
    """``(mean, half)``: the mean and half its 95 % interval; half is None for a single value.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, 2.484...)
    >>> interval([5.0])
    (5.0, None)
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    deviation = sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, quantile(n - 1) * deviation / sqrt(n)


def paired(runs, others, value=itemgetter("accuracy")):
    """:func:`interval` of the differences of a value over seeds that both have, and how many.

    >>> paired([{"seed": 0, "accuracy": 5}, {"seed": 1, "accuracy": 4}],
    ...        [{"seed": 1, "accuracy": 3}, {"seed": 0, "accuracy": 3}])
    (1.5, 6.353, 2)
    """
    by_seed = {run["seed"]: value(run) for run in others}
    differences = [value(run) - by_seed[run["seed"]] for run in runs if run["seed"] in by_seed]
    if not differences:
        return None, None, 0
    mean, half = interval(differences)
    return mean, half if half is None else round(half, 6), len(differences)

"""What the model refuses, each in one sentence and before anything is computed.

An array of ``int64`` costs a look at its type, or one at its extremes.
"""

import numpy as np

__all__ = ["ModelError", "check_bits", "check_groups", "check_number", "check_shapes",
           "check_signed", "check_within", "finite", "largest_magnitude", "whole"]


class ModelError(ValueError):
    """An argument that no device could take. The message is one sentence."""


def check_number(value, name, low, high):
    """A whole number from ``low`` to ``high``.

    >>> check_number(4096, "rate", 0, 4095)
    Traceback (most recent call last):
    sim.model.checks.ModelError: rate must be a whole number from 0 to 4095, got 4096
    """
    if not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ModelError(f"{name} must be a whole number from {low} to {high}, got {value}")


def check_bits(bits, name="bits"):
    """A width from 2 to 8.

    >>> check_bits(9)
    Traceback (most recent call last):
    sim.model.checks.ModelError: bits must be a whole number from 2 to 8, got 9
    """
    check_number(bits, name, 2, 8)


def check_groups(groups):
    """Counts of groups along two axes: 1, 2, 4 or 8, and 16 and 32 to compare with.

    >>> check_groups((4, 3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sim.model.checks.ModelError: groups must be (samples, channels), each one of 1, ... got (4, 3)
    """
    if np.shape(groups) != (2,) or any(count not in (1, 2, 4, 8, 16, 32) for count in groups):
        raise ModelError("groups must be (samples, channels), each one of 1, 2, 4, 8, 16, 32, "
                         f"got {groups}")


def check_shapes(agree, what, *arrays):
    """``what`` must hold of the arrays' shapes.

    >>> check_shapes(False, "A B needs as many columns of A as rows of B", np.ones((1, 2)),
    ...              np.ones((3, 1)))
    Traceback (most recent call last):
    sim.model.checks.ModelError: A B needs as many columns of A as rows of B, got (1, 2) and (3, 1)
    """
    if not agree:
        raise ModelError(f"{what}, got {' and '.join(str(np.shape(a)) for a in arrays)}")


def check_within(x, name, low, high):
    """All elements of an array of integers lie from ``low`` to ``high``.

    >>> check_within(np.array([0, 7, -3]), "groups", 0, 3)
    Traceback (most recent call last):
    sim.model.checks.ModelError: groups must lie between 0 and 3, got -3 to 7
    """
    if x.size:
        # Half the time of the methods where arrays are small.
        least, most = np.minimum.reduce(x, axis=None), np.maximum.reduce(x, axis=None)
        if least < low or most > high:
            raise ModelError(f"{name} must lie between {low} and {high}, got "
                             + (f"{least}" if least == most else f"{least} to {most}"))


def check_signed(x, name, bits):
    """All elements of an array of integers are signed numbers of ``bits`` bits.

    >>> check_signed(np.array([128]), "gamma", 8)
    Traceback (most recent call last):
    sim.model.checks.ModelError: gamma must lie between -128 and 127, got 128
    """
    check_within(x, name, -(1 << bits - 1), (1 << bits - 1) - 1)


def largest_magnitude(x):
    """The largest magnitude of an array of integers as a Python one; 0 if it is empty.

    >>> largest_magnitude(np.array([3, -(2**63)])) == 2**63
    True
    """
    if not x.size:
        return 0
    return max(int(np.maximum.reduce(x, axis=None)), -int(np.minimum.reduce(x, axis=None)))


def finite(x, name="x"):
    """x as an array of numbers; what is not finite is refused.

    >>> finite([1.5, float("inf")])
    Traceback (most recent call last):
    sim.model.checks.ModelError: x must hold finite numbers, got inf
    """
    x = np.asarray(x)
    if x.dtype.kind not in "iubf":
        raise ModelError(f"{name} must hold numbers, got an array of {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ModelError(f"{name} must hold finite numbers, got {x[~np.isfinite(x)][0]}")
    return x


def whole(x, name="x"):
    """x as int64; what is not finite, not whole or beyond 63 bits is refused.

    >>> whole([1.0, float("nan")])
    Traceback (most recent call last):
    sim.model.checks.ModelError: x must hold finite whole numbers, got nan
    """
    try:
        x = np.asarray(x)
    except ValueError:
        raise ModelError(f"{name} must hold numbers in rows of one length, got {x}") from None
    if x.dtype == np.int64:
        return x
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x) | (x != np.floor(x))
        if bad.any():
            raise ModelError(f"{name} must hold finite whole numbers, got {x[bad][0]}")
    elif x.dtype.kind not in "iub":
        raise ModelError(f"{name} must hold numbers, got an array of {x.dtype}")
    if x.dtype.kind in "fu" and x.size and (x.max() >= 2.0**63 or x.min() < -(2.0**63)):
        raise ModelError(f"{name} must hold numbers of at most 63 bits, got "
                         f"{x.max() if x.max() >= 2.0**63 else x.min()}")
    return x.astype(np.int64)

"""What the model refuses, each in one sentence and before anything is computed."""

import numpy as np

__all__ = ["ModelError", "check_bits", "check_groups", "check_shapes", "whole"]


class ModelError(ValueError):
    """An argument that no device could take. The message is one sentence."""


def check_bits(bits, name="bits"):
    """A width from 2 to 8.

    >>> check_bits(9)
    Traceback (most recent call last):
    sim.model.checks.ModelError: bits must be a whole number from 2 to 8, got 9
    """
    if not isinstance(bits, int | np.integer) or not 2 <= bits <= 8:
        raise ModelError(f"{name} must be a whole number from 2 to 8, got {bits}")


def check_groups(groups):
    """Counts of groups along two axes: 1, 2, 4 or 8, and 16 and 32 to compare with."""
    if len(groups) != 2 or any(count not in (1, 2, 4, 8, 16, 32) for count in groups):
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


def whole(x, name="x"):
    """x as int64; what is not finite or not whole is refused.

    >>> whole([1.0, float("nan")])
    Traceback (most recent call last):
    sim.model.checks.ModelError: x must hold finite whole numbers, got nan
    """
    x = np.asarray(x)
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x) | (x != np.floor(x))
        if bad.any():
            raise ModelError(f"{name} must hold finite whole numbers, got {x[bad][0]}")
    elif x.dtype.kind not in "iub":
        raise ModelError(f"{name} must hold numbers, got an array of {x.dtype}")
    return x.astype(np.int64, copy=False)

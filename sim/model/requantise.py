"""From an accumulator to a wide element: rounding shift and saturation."""

from hdl.params import WIDE_BITS
from sim.model.checks import check_bits, check_number, whole
from sim.model.rounding import round_shift, saturate

__all__ = ["LARGEST_SHIFT", "requantise", "safe_shift"]

#: Beyond it the half that is added for rounding would not fit.
LARGEST_SHIFT = 62


def safe_shift(bits, k, *, unsigned=False, shifts=0, limit=WIDE_BITS, streamed=None):
    """The smallest right shift after which no GEMM of these dimensions can leave ``limit`` bits.

    ``shifts`` counts all group shifts, inner and outer: the exponents' sum at most. ``streamed``
    is the width of the streamed operand where it is wider than ``bits`` (:mod:`sim.model.digits`).

    >>> safe_shift(4, 64, unsigned=True), safe_shift(8, 64, shifts=14), safe_shift(8, 4096)
    (0, 3, 0)
    """
    check_bits(bits)
    streamed = streamed or bits
    check_bits(streamed, "streamed")
    check_number(k, "k", 1, 2**31 - 1)
    check_number(shifts, "shifts", 0, 64)
    largest = 2**streamed - 1 if unsigned else 2 ** (streamed - 1)
    worst = k * largest * (2 ** (bits - 1) - 1) << shifts
    shift = 0
    while (worst + (1 << shift >> 1)) >> shift >= 1 << (limit - 1):
        shift += 1
    return shift


def requantise(x, shift):
    """``(y, clamped)``: ``round_shift(x, shift)`` clamped to a wide element.

    >>> import numpy as np
    >>> y, clamped = requantise(np.array([3 * 2**31, 6]), 1)
    >>> y.tolist(), clamped
    ([2147483647, 3], 1)
    """
    check_number(shift, "shift", 0, LARGEST_SHIFT)
    return saturate(round_shift(whole(x), shift), WIDE_BITS)

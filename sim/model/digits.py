"""Operands wider than the array: digits along the inner dimension."""

import numpy as np

__all__ = ["join", "stationary", "streamed"]


def streamed(x, bits, count):
    """``count`` digits of x in base ``2**bits``, least significant first.

    All but the last lie in ``0 .. 2**bits - 1`` and are streamed as any unsigned operand; the
    last is signed if x is. ``x = sum digit_i 2**(bits i)``: digits are channels along the inner
    dimension whose shifts differ by ``bits``, with the stationary operand repeated.

    >>> [d.tolist() for d in streamed(np.array([-3, 200]), 4, 2)]
    [[13, 8], [-1, 12]]
    """
    x = np.asarray(x, np.int64)
    low = [x >> bits * i & (1 << bits) - 1 for i in range(count - 1)]
    return [*low, x >> bits * (count - 1)]


def stationary(x, bits, count):
    """``count`` digits of x in base ``2**(bits-1)``: all but the last in ``0 .. 2**(bits-1) - 1``.

    The base leaves the sign bit free, so a digit is never ``-2**(bits-1)``, which the stationary
    operand must not hold, as long as ``x >= -(2**(bits-1) - 1) 2**((bits-1) (count-1))``.

    >>> [d.tolist() for d in stationary(np.array([-3, 50]), 4, 2)]
    [[5, 2], [-1, 6]]
    """
    return streamed(x, bits - 1, count)


def join(digits, base_bits):
    """The number whose digits these are.

    >>> join(streamed(np.array([-3, 200]), 4, 2), 4).tolist()
    [-3, 200]
    """
    return sum(np.asarray(digit, np.int64) << base_bits * i for i, digit in enumerate(digits))

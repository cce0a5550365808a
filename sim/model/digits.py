"""Operands wider than the array: digits along the inner dimension."""

from sim.model.checks import ModelError, check_number, check_shapes, check_within, whole

__all__ = ["join", "stationary", "streamed"]


def streamed(x, bits, count):
    """``count`` digits of x in base ``2**bits``, least significant first.

    All but the last lie in ``0 .. 2**bits - 1`` and are streamed as any unsigned operand; the
    last is signed if x is. ``x = sum digit_i 2**(bits i)``: digits are channels along the inner
    dimension whose shifts differ by ``bits``, with the stationary operand repeated.

    >>> import numpy as np
    >>> [d.tolist() for d in streamed(np.array([-3, 200]), 4, 2)]
    [[13, 8], [-1, 12]]
    """
    check_number(bits, "bits", 1, 8)
    return _digits(x, bits, count, -(1 << bits - 1), (1 << bits) - 1)


def _digits(x, base, count, low, high):
    """``count`` digits of x in base ``2**base``, the last from ``low`` to ``high``."""
    x = whole(x)
    check_number(count, "count", 1, 62 // base)
    last = base * (count - 1)
    check_within(x, f"numbers of {count} digits", low << last, (high + 1 << last) - 1)
    return [*(x >> base * i & (1 << base) - 1 for i in range(count - 1)), x >> last]


def stationary(x, bits, count):
    """``count`` digits of x in base ``2**(bits-1)``: all but the last in ``0 .. 2**(bits-1) - 1``.

    The base leaves the sign bit free, so a digit is never ``-2**(bits-1)``, which the stationary
    operand must not hold, as long as ``x >= -(2**(bits-1) - 1) 2**((bits-1) (count-1))``.

    >>> import numpy as np
    >>> [d.tolist() for d in stationary(np.array([-3, 50]), 4, 2)]
    [[5, 2], [-1, 6]]
    """
    check_number(bits, "bits", 2, 8)
    return _digits(x, bits - 1, count, 1 - (1 << bits - 1), (1 << bits - 1) - 1)


def join(digits, base_bits):
    """The number whose digits these are.

    >>> import numpy as np
    >>> join(streamed(np.array([-3, 200]), 4, 2), 4).tolist()
    [-3, 200]
    """
    digits = [whole(digit, "a digit") for digit in digits]
    if not digits:
        raise ModelError("digits must be at least one, got none")
    for digit in digits:
        check_shapes(digit.shape == digits[0].shape, "digits must have one shape", digits[0], digit)
    check_number(base_bits, "base_bits", 1, 62 // len(digits))
    return sum(digit << base_bits * i for i, digit in enumerate(digits))

"""Softmax, cross-entropy and its gradient, in integers.

``exp(-t)`` is ``2**-u`` with ``u = t log2(e)``: a shift by the integer part and, for the fraction,
a product of the constants ``2**-(2**-j)``, one for every bit that is set. The logarithm repeats
squaring. All constants come from integer square roots.
"""

from math import isqrt

import numpy as np

from sim.model.rounding import bit_length, floor_divide

__all__ = ["GRADIENT_FRACTION", "LOGIT_FRACTION", "LOSS_FRACTION", "cross_entropy",
           "exponential", "logarithm"]

#: Fraction bits of a logit (int32).
LOGIT_FRACTION = 16
#: Fraction bits of a probability and of the gradient.
GRADIENT_FRACTION = 24
#: Fraction bits of the loss.
LOSS_FRACTION = 16

#: ``floor(2**16 log2(e))``.
_LOG2_E = 94548
#: ``floor(2**16 ln(2))``.
_LN_2 = 45426


def _roots():
    """``2**30 * 2**-(2**-j)`` for j = 1..16, each the integer square root of the one before."""
    roots, value = [], 1 << 29
    for _ in range(16):
        value = isqrt(value << 30)
        roots.append(value)
    return tuple(roots)


_ROOTS = _roots()


def exponential(t):
    """``2**30 exp(-t)`` for ``t >= 0`` with ``LOGIT_FRACTION`` fraction bits.

    >>> exponential(np.array([0, 65536, 40 << 16])).tolist()
    [1073741824, 395009468, 0]
    """
    u = np.asarray(t, np.int64) * _LOG2_E >> LOGIT_FRACTION
    value = np.full(u.shape, 1 << 30, np.int64)
    for j, root in enumerate(_ROOTS):
        value = np.where(u >> (15 - j) & 1, value * root >> 30, value)
    return value >> np.minimum(u >> 16, 62)


def logarithm(x):
    """``2**16 ln(x / 2**30)`` for integers ``1 <= x < 2**52``.

    The mantissa is squared sixteen times; each overflow past 2 is one bit of the logarithm.

    >>> logarithm(np.array([1 << 30, 1 << 31, 1 << 29])).tolist()
    [0, 45426, -45426]
    """
    x = np.asarray(x, np.int64)
    length = bit_length(x)
    mantissa = np.where(length > 31, x >> np.maximum(length - 31, 0),
                        x << np.maximum(31 - length, 0))
    log2 = (length - 31) << 16
    for j in range(16):
        mantissa = mantissa * mantissa >> 30
        high = mantissa >> 31
        log2 += high << (15 - j)
        mantissa >>= high
    return log2 * _LN_2 >> 16


def cross_entropy(logits, labels):
    """``(losses [m], gradient [m, n], predicted [m])`` for int32 ``logits`` [m, n].

    With ``e = exponential(max - logit)`` and ``S = sum e``:
    ``p = floor(2**24 e / S)``, the gradient with respect to the logits is ``p - 2**24 [label]``,
    the loss ``logarithm(S) + (max - logit[label])``. The gradient is of each sample's own loss.

    >>> losses, gradient, predicted = cross_entropy(np.array([[0, 65536]]), np.array([1]))
    >>> losses.tolist(), gradient.tolist(), predicted.tolist()
    ([20..., [[4512..., -4512...]], [1])
    """
    logits = np.asarray(logits, np.int64)
    t = logits.max(axis=1, keepdims=True) - logits
    e = exponential(t)
    total = e.sum(axis=1, keepdims=True)
    gradient = floor_divide(e << GRADIENT_FRACTION, total)
    sample = np.arange(len(labels))
    gradient[sample, labels] -= 1 << GRADIENT_FRACTION
    losses = logarithm(total[:, 0]) + t[sample, labels]
    return losses, gradient, logits.argmax(axis=1)

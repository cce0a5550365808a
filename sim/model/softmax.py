"""Softmax, cross-entropy and their gradients, in integers.

``exp(-t)`` is ``2**-u`` with ``u = t log2(e)``: a shift by the integer part and, for the fraction,
a product of the constants ``2**-(2**-j)``, one for every bit that is set. The logarithm repeats
squaring. All constants come from integer square roots.
"""

from math import isqrt

import numpy as np

from sim.model.add import ACTIVATION_BITS, add_gradients
from sim.model.checks import ModelError, check_shapes, check_signed, check_within, whole
from sim.model.rounding import bit_length, floor_divide, round_shift

__all__ = ["LOGIT_FRACTION", "LOSS_FRACTION", "MEAN_FRACTION", "PROBABILITY_FRACTION",
           "cross_entropy", "exponential", "logarithm", "softmax", "softmax_gradient"]

#: Fraction bits of a logit, those of any wide activation.
LOGIT_FRACTION = 12
#: Fraction bits of a probability.
PROBABILITY_FRACTION = 22
#: Fraction bits of the mean in a softmax's gradient: the product with p stays below 2**53.
MEAN_FRACTION = 6
#: Fraction bits of the loss.
LOSS_FRACTION = 16

#: Bits of the largest argument of :func:`exponential`.
_LONGEST = 46

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
    """``2**30 exp(-t)`` for ``t >= 0`` with ``LOGIT_FRACTION`` fraction bits, below ``2**46``.

    Error, with t as a real number: below ``2**30 exp(-t) (1 + t) 2**-16 + 1``, from u being a
    floor, log2(e) another, and the last shift. Source: multiplication by constants is the
    shift-and-add method (Muller, "Elementary Functions").

    >>> exponential(np.array([0, 4096, 40 << 12])).tolist()
    [1073741824, 395009468, 0]
    """
    t = whole(t, "t")
    check_within(t, "t", 0, 2**_LONGEST - 1)
    u = t * _LOG2_E >> LOGIT_FRACTION
    value = np.full(u.shape, 1 << 30, np.int64)
    for j, root in enumerate(_ROOTS):
        value = np.where(u >> (15 - j) & 1, value * root >> 30, value)
    return value >> np.minimum(u >> 16, 62)


def logarithm(x):
    """``2**16 ln(x / 2**30)`` for integers ``1 <= x < 2**52``.

    The mantissa is squared sixteen times; each overflow past 2 is one bit of the logarithm (Knuth,
    "The Art of Computer Programming" 1.2.2). Error: below ``2 + |ln(x / 2**30)| / 7``.

    >>> logarithm(np.array([1 << 30, 1 << 31, 1 << 29])).tolist()
    [0, 45426, -45426]
    """
    x = whole(x)
    check_within(x, "x", 1, 2**52 - 1)
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


def softmax(logits):
    """``floor(2**22 p)`` over the last axis, of logits with ``LOGIT_FRACTION`` fraction bits.

    With ``e = exponential(max - logit)``: ``floor(2**22 e / sum e)``. Error in p, of n columns and
    ``t = max - logit``: below ``p (2**-16 (1 + max(t, ln n)) + 2**-30 n) + 2**-22 + 2**-30``, from
    the 16 fraction bits of the exponent, e's floor and the division's.

    >>> softmax(np.array([[0, 0], [0, 4096]])).tolist()
    [[2097152, 2097152], [1128026, 3066277]]
    """
    logits = whole(logits, "logits")
    check_shapes(logits.ndim and logits.size, "logits must have an axis and an element", logits)
    check_signed(logits, "logits", ACTIVATION_BITS)
    return _shares(exponential(logits.max(axis=-1, keepdims=True) - logits))


def _shares(e):
    return floor_divide(e << PROBABILITY_FRACTION, e.sum(axis=-1, keepdims=True))


def softmax_gradient(dp, p):
    """``(ds, exponent)``: the gradient of the logits from that of the probabilities, last axis.

    ``p (dp - sum(p dp))`` in units ``2**exponent`` of ``dp``: the sum is rounded half up to 6
    fraction bits, the product aligned by :func:`sim.model.add.add_gradients`, whatever the size of
    ``dp``: rounded to the unit of ``dp`` itself, the gradients of small probabilities would be
    biased (docs/numerics.md). |dp| < 2**23 of at most 2**16 columns. Error for given p: half a
    unit, and ``2**-7 p`` of ``dp``.

    >>> softmax_gradient(np.array([[100, -100]]), np.array([[1 << 21, 1 << 21]]))
    (array([[ 3276800, -3276800]]), -16)
    """
    dp, p = whole(dp, "dp"), whole(p, "p")
    check_shapes(dp.shape == p.shape and dp.ndim and dp.size,
                 "dp and p must have one shape, with an axis and an element", dp, p)
    check_signed(dp, "dp", ACTIVATION_BITS)
    check_within(p, "p", 0, 2**PROBABILITY_FRACTION)
    mean = round_shift((p * dp).sum(axis=-1, keepdims=True), PROBABILITY_FRACTION - MEAN_FRACTION)
    return add_gradients([(p * ((dp << MEAN_FRACTION) - mean),
                           -PROBABILITY_FRACTION - MEAN_FRACTION)])


def cross_entropy(logits, labels):
    """``(losses [m], gradient [m, n], exponent, predicted [m])`` for ``logits`` [m, n].

    With ``e = exponential(max - logit)``, ``S = sum e`` and ``p`` of :func:`softmax`: the losses
    are ``logarithm(S) + (max - logit[label])`` with ``LOSS_FRACTION`` fraction bits, and the
    gradient of their mean is ``gradient * 2**exponent``,
    ``gradient = floor((p - 2**22 [label]) 2**s / m)`` with ``s = bit_length(m - 1)``,
    ``exponent = -22 - s``. A tie is predicted as the first.

    Error: of a loss, below ``2**-16 (3 + 1.2 ln n) + 2**-30 n``; of the gradient, below that of
    :func:`softmax` over m and one unit.

    >>> losses, gradient, exponent, predicted = cross_entropy(np.array([[0, 4096]]), np.array([1]))
    >>> losses.tolist(), gradient.tolist(), exponent, predicted.tolist()
    ([20529], [[1128026, -1128027]], -22, [1])
    """
    logits, labels = whole(logits, "logits"), whole(labels, "labels")
    check_shapes(logits.ndim == 2 and labels.shape == logits.shape[:1] and len(labels),
                 "logits [m, n] need m labels, at least one", logits, labels)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ModelError(f"labels must lie between 0 and {logits.shape[1] - 1}, "
                         f"got {labels.min()} to {labels.max()}")
    check_signed(logits, "logits", ACTIVATION_BITS)
    m, sample = len(labels), np.arange(len(labels))
    t = logits.max(axis=1, keepdims=True) - logits
    e = exponential(t)
    p = _shares(e)
    p[sample, labels] -= 1 << PROBABILITY_FRACTION
    shift = (m - 1).bit_length()
    losses = logarithm(e.sum(axis=1)) + (t[sample, labels] << LOSS_FRACTION - LOGIT_FRACTION)
    return losses, floor_divide(p << shift, m), -PROBABILITY_FRACTION - shift, logits.argmax(axis=1)

"""L2 normalisation over the batch, forward and backward, as mixed-precision training computes it.

Numbers in memory are binary16. Sums over the batch are binary32, as are their means and what is
added to products; every product is of two binary16 numbers and rounded once, with its sum. That is
the arithmetic of :func:`sim.model.floating.fused`, to which the sum of two binary32 numbers comes,
and the rounding of a binary32 number to binary16 (to nearest, ties to even; infinities, NaN and
subnormal numbers are IEEE 754's). Functions take and return arrays of ``float16`` and ``float32``.

Where a product would have a binary32 number, this is rounded to binary16, or made two numbers whose
sum has its first 22 bits (:func:`centre`). No network of this project uses it; it is what the
integer norms are compared with.
"""

from math import isqrt

import numpy as np

from hdl.params import MAX_M
from sim.model.checks import check_shapes
from sim.model.floating import fused_values

__all__ = ["LEAST_ROOT_EPSILON", "PARTIAL_SUMS", "backward", "centre", "forward", "mean",
           "narrow", "reciprocal_root", "root_epsilon", "tree"]

#: Sums that are accumulated in turn, with one product per row.
PARTIAL_SUMS = 10
#: Smallest ``sqrt(m * epsilon)``: 1 / s is then below 2**15, within binary16.
LEAST_ROOT_EPSILON = 2.0**-10
#: Exponent of the smallest mean that is not 0.
_LEAST_EXPONENT = -48


def _sum(a, w, total):
    """``round(total + a * w)`` of binary32."""
    a, w, total = (np.asarray(v).astype(np.float64) for v in (a, w, total))
    shape = np.broadcast_shapes(a.shape, w.shape, total.shape)
    return fused_values(a, w, total, "binary32").view(np.float32).reshape(shape)


def narrow(total):
    """binary32 rounded to binary16; every NaN is the positive quiet one.

    >>> narrow(np.float32([1 + 2**-11, 1 + 2**-11 + 2**-20, 65520, 2**-25])).tolist()
    [1.0, 1.0009765625, inf, 0.0]
    """
    total = np.asarray(total, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        return np.where(np.isnan(total), np.float16(np.nan), total.astype(np.float16))


def tree(sums):
    """Partial sums [k, n] added up: pairs of neighbours, and so on; an odd last one is kept.

    >>> float(tree(np.float32([[2**24], [1], [-2**24]]))[0])
    0.0
    """
    sums = list(sums)
    with np.errstate(invalid="ignore", over="ignore"):
        while len(sums) > 1:
            added = [low + high for low, high in zip(sums[::2], sums[1::2], strict=False)]
            sums = added + sums[len(added) * 2:]
    return sums[0]


def _accumulate(a, w, count, partial=None):
    """The sum of ``a * w`` over rows, in ``count`` partial sums by turns."""
    partial = np.zeros((count, a.shape[1]), np.float32) if partial is None else partial
    for i, (row_a, row_w) in enumerate(zip(a, w, strict=True)):
        partial[i % count] = _sum(row_a, row_w, partial[i % count])
    return tree(partial)


def mean(total, m):
    """``total / m`` rounded toward zero to binary32; 0 below ``2**-48``.

    >>> [float.hex(float(v)) for v in mean(np.float32([1, -511 * 2**-48, 2**-48]), 3)]
    ['0x1.5555540000000p-2', '-0x1.54aaaa0000000p-41', '0x0.0p+0']
    """
    total = np.asarray(total, np.float32)
    out = total.copy()
    for i in np.flatnonzero(np.isfinite(total) & (total != 0)):
        # 24 bits of the significand, with enough of 0 below.
        fraction, exponent = np.frexp(abs(float(total[i])))
        quotient = int(fraction * 2**24) * 2**MAX_M.bit_length() // m
        extra = quotient.bit_length() - 24
        exponent = int(exponent) - 24 - MAX_M.bit_length() + extra
        value = (quotient >> extra) * 2.0**exponent if exponent + 23 >= _LEAST_EXPONENT else 0.0
        out[i] = np.copysign(value, total[i])
    return out


def reciprocal_root(total, m):
    """``sqrt(m / total)`` of positive binary32, to binary16's precision, as float64; NaN unless
    ``total`` is finite.

    The first 16 bits of ``total`` are taken, 12 of the root, and of these the last is rounded
    away, the half up. The exponent has no lower limit.

    >>> reciprocal_root(np.float32([4, 3, 2**32, np.inf]), 1).tolist()
    [0.5, 0.5771484375, 1.52587890625e-05, nan]
    """
    out = np.full(np.shape(total), np.nan)
    for i, value in enumerate(np.asarray(total, np.float32).tolist()):
        if np.isfinite(value):
            fraction, exponent = np.frexp(value)
            significand, exponent = int(fraction * 2**16), int(exponent) - 16
            # m / (significand * 2**exponent) times 4**places, a root of 12 bits.
            places = -32
            while isqrt(_quotient(m, significand, 2 * places - exponent)) < 1 << 11:
                places += 1
            root = isqrt(_quotient(m, significand, 2 * places - exponent))
            out[i] = ((root + 1) >> 1) * 2.0 ** (1 - places)
    return out


def _quotient(m, significand, places):
    """``floor(m * 2**places / significand)``."""
    return (m << places if places >= 0 else m) // (significand << max(0, -places))


def centre(value, factor):
    """``(product, high, low)``: ``-factor * value`` in binary32, for ``value`` in binary32, which
    becomes the sum of two binary16 numbers.

    >>> [float(v) for v in centre(np.float32(1 + 2**-15), np.float16(2))]
    [-2.00006103515625, 1.0, 3.0517578125e-05]
    """
    high = narrow(_sum(0, 1, value))
    low = narrow(_sum(high, -1, value))
    factor = np.asarray(factor, np.float64)
    return _sum(high, -factor, _sum(low, -factor, 0)), high, low


def root_epsilon(m, epsilon):
    """``sqrt(m * epsilon)`` as binary16.

    >>> float(root_epsilon(64, 1e-5))
    0.025299072265625
    """
    return np.maximum(np.sqrt(m * epsilon), LEAST_ROOT_EPSILON).astype(np.float16)


def forward(x, gamma, beta, root_epsilon):
    """``(y, xhat, inverse, mean_high, mean_low)`` for ``x`` [m, n] and the other [n], binary16.

    * ``mean`` of :data:`PARTIAL_SUMS` partial sums of x;
    * ``d = narrow(mean - x)``; the sum of squares has half as many, the second of which begins with
      ``root_epsilon`` squared; ``1 / s = sqrt(m / sum)`` (:func:`reciprocal_root`);
    * ``xhat = narrow(x / s - mean / s)``, ``y = narrow(gamma * xhat + beta)``.

    ``mean`` is ``mean_high + mean_low`` but for its last bits, ``inverse`` 1 / s rounded once more
    where that is subnormal.
    """
    x, gamma, beta, root_epsilon = (np.asarray(v, np.float16)
                                    for v in (x, gamma, beta, root_epsilon))
    check_shapes(x.ndim == 2 and x.size, "a tensor must have two axes and an element", x)
    m, n = x.shape
    assert m <= MAX_M and (root_epsilon >= LEAST_ROOT_EPSILON).all()
    average = mean(_accumulate(x, np.ones_like(x), PARTIAL_SUMS), m)

    d = narrow(_sum(x, -1, average))
    squares = np.zeros((PARTIAL_SUMS // 2, n), np.float32)
    squares[1] = _sum(root_epsilon, root_epsilon, 0)
    scale = reciprocal_root(_accumulate(d, d, PARTIAL_SUMS // 2, squares), m)

    offset, high, low = centre(average, scale)
    xhat = narrow(_sum(x, scale, offset))
    y = narrow(_sum(xhat, gamma, beta))
    return y, xhat, narrow(_sum(1, scale, 0)), high, low


def backward(dy, xhat, gamma, inverse):
    """``(dx, grad_beta, grad_gamma)`` for ``dy`` and ``xhat`` [m, n] and the other [n], binary16.

    With the means of dy and of dy * xhat, of half of :data:`PARTIAL_SUMS` partial sums each, and
    ``g = narrow(gamma * inverse)``: grad_beta and grad_gamma are these means in binary16, and
    ``dx = narrow((g * dy - g * mean(dy)) + xhat * narrow(-g * grad_gamma))``.
    """
    dy, xhat, gamma, inverse = (np.asarray(v, np.float16) for v in (dy, xhat, gamma, inverse))
    check_shapes(dy.ndim == 2 and dy.size, "a tensor must have two axes and an element", dy)
    m, count = len(dy), PARTIAL_SUMS // 2
    mean_gamma = mean(_accumulate(dy, xhat, count), m)
    mean_beta = mean(_accumulate(dy, np.ones_like(dy), count), m)

    factor = narrow(_sum(gamma, inverse, 0))
    grad_gamma = narrow(_sum(0, 1, mean_gamma))
    slope = narrow(_sum(grad_gamma, -factor, 0))
    offset, grad_beta, _ = centre(mean_beta, factor)
    dx = narrow(_sum(xhat, slope, _sum(dy, factor, offset)))
    return dx, grad_beta, grad_gamma

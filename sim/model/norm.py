"""L1 normalisation over the batch or over channels, forward and backward, in integers.

With ``mu = mean(x)``, ``d = x - mu``, ``s = mean|d|``: ``y = gamma * d / s + beta``. For Gaussian
data the standard deviation is 1.2533 s, which gamma absorbs. No square and no square root, one
reciprocal per channel.

Fixed-point formats are those of :mod:`hdl.params`: mean and deviation have ``NORM_FRACTION``
fraction bits, xhat is 16 bits with ``XHAT_FRACTION``, gamma (16 bits), beta and y have
``PARAMETER_FRACTION``. A channel whose deviation is 0 has xhat = 0 and passes no gradient.
"""

from dataclasses import dataclass

import numpy as np

from hdl.params import NORM_FRACTION, NORM_IN_BITS, PARAMETER_FRACTION, WIDE_BITS, XHAT_FRACTION
from sim.model.checks import (
    ModelError,
    check_shapes,
    check_signed,
    check_within,
    largest_magnitude,
    whole,
)
from sim.model.relu import relu, relu_gradient
from sim.model.rounding import bit_length, floor_divide, rescale, round_shift, saturate

__all__ = [
    "GAMMA_BITS",
    "GRADIENT_BITS",
    "RUNNING_FRACTION",
    "RUNNING_SHIFT",
    "Context",
    "follow",
    "gradient_exponent",
    "gradient_means",
    "l1_backward",
    "l1_forward",
    "layer_backward",
    "layer_clamped",
    "layer_forward",
    "normalise",
    "reciprocal",
    "scale_gradient",
]

#: Width of gamma.
GAMMA_BITS = 16
#: The largest output gradient is brought to this many bits.
GRADIENT_BITS = 19
#: Fraction bits of running means and deviations.
RUNNING_FRACTION = 16
#: Weight of a new batch in the running statistics: 2**-3.
RUNNING_SHIFT = 3


@dataclass(frozen=True)
class Context:
    """What the backward pass needs of the forward one, 19 bits per element.

    ``xhat`` [m, n]: bits 0..15; ``negative``: d < 0, bit 16; ``nonzero``: d != 0, bit 17;
    ``mask``: the rectifier passed the element, bit 18.
    """
    xhat: np.ndarray
    sign: np.ndarray
    mask: np.ndarray

    def pack(self):
        """As the wide elements that the device keeps."""
        return (self.xhat & 0xFFFF | (self.sign < 0).astype(np.int64) << 16
                | (self.sign != 0).astype(np.int64) << 17 | self.mask.astype(np.int64) << 18)

    @classmethod
    def unpack(cls, word):
        """From wide elements.

        >>> c = Context(np.array([-5]), np.array([-1]), np.array([True]))
        >>> Context.unpack(c.pack()).xhat.tolist(), Context.unpack(c.pack()).sign.tolist()
        ([-5], [-1])
        """
        word = np.asarray(word, np.int64)
        xhat = ((word & 0xFFFF) ^ 0x8000) - 0x8000
        sign = (word >> 17 & 1) * (1 - 2 * (word >> 16 & 1))
        return cls(xhat, sign, (word >> 18 & 1).astype(bool))


def reciprocal(s):
    """``(r, length)``: ``r * 2**-(15 + length)`` is about ``1 / s``, never more.

    ``length`` is the bit length of s; with ``m = ceil(s * 2**(16 - length))``, which lies in
    ``[2**15, 2**16]``, ``r = floor(2**31 / m)``, which lies there too; r = 0 for s = 0.

    >>> [v.tolist() for v in reciprocal(np.array([0, 1, 3, 2**20]))]
    [[0, 65536, 43690, 65536], [0, 1, 2, 21]]
    """
    s = whole(s, "s")
    length = bit_length(s)
    left = np.maximum(16 - length, 0)
    right = np.maximum(length - 16, 0)
    mantissa = ((s << left) + (np.int64(1) << right) - 1) >> right
    return np.where(s > 0, floor_divide(np.int64(1) << 31, np.maximum(mantissa, 1)), 0), length


def normalise(x, mean=None, deviation=None):
    """``(xhat, sign, mean, deviation, clamped)`` of ``x`` [m, n] along its first axis.

    ``x`` is clamped to ``NORM_IN_BITS`` bits, F = NORM_FRACTION. Unless given,
    ``mean = floor(2**F sum x / m)`` and, with ``d = 2**F x - mean``,
    ``deviation = floor(sum|d| / m)``; m < 2**17. With r and length of :func:`reciprocal`,
    ``xhat = round_shift(d r, 15 + length - XHAT_FRACTION)`` clamped to 16 bits; ``sign`` is d's.

    Error against ``(x - mean) / deviation`` of real numbers, with deviation s in units of x:
    below ``2**-11 + |xhat| (2**-14 + 2**-5 / s) + 2**-6 / s``: half a unit of xhat, the
    reciprocal's two roundings, and mean and deviation being floors of ``2**-6``.
    """
    x = whole(x)
    check_shapes(x.ndim == 2 and x.size, "a tensor must have two axes and an element", x)
    x, clamped_x = saturate(x, NORM_IN_BITS)
    scaled = x << NORM_FRACTION
    if (mean is None) != (deviation is None):
        raise ModelError("mean and deviation must both be given or neither, got only "
                         + ("the deviation" if mean is None else "the mean"))
    mean, deviation = (v if v is None else _row(v, x.shape[1], name)
                       for v, name in ((mean, "mean"), (deviation, "deviation")))
    if mean is None:
        mean = floor_divide(scaled.sum(axis=0), x.shape[0])
    d = scaled - mean
    if deviation is None:
        deviation = floor_divide(np.abs(d).sum(axis=0), x.shape[0])
    r, length = reciprocal(deviation)
    xhat, clamped_xhat = saturate(round_shift(d * r, 15 + length - XHAT_FRACTION), 16)
    return xhat, np.sign(d), mean, deviation, clamped_x + clamped_xhat


def _row(x, columns, name, bits=WIDE_BITS):
    """A number, or one for each column, of so many bits."""
    x = whole(x, name)
    check_shapes(x.ndim == 0 or x.shape == (columns,), f"{name} must be ({columns},)", x)
    check_signed(x, name, bits)
    return x


def _scaled(xhat, gamma, beta):
    """``(y, clamped)``: gamma times xhat plus beta, as wide elements."""
    gamma = _row(gamma, xhat.shape[1], "gamma", GAMMA_BITS)
    beta = _row(beta, xhat.shape[1], "beta")
    return saturate(round_shift(gamma * xhat, XHAT_FRACTION) + beta, WIDE_BITS)


def l1_forward(x, gamma, beta, *, apply_relu=True, mean=None, deviation=None):
    """``(y, context, mean, deviation, clamped)`` for ``x`` [m, n], ``gamma`` and ``beta`` [n].

    With xhat of :func:`normalise`: ``y = round_shift(gamma xhat, XHAT_FRACTION) + beta`` clamped
    to a wide element. In inference mean and deviation are given.

    Error against real arithmetic, unless clamped: half a unit of y, and gamma times that of xhat
    in :func:`normalise`. Source: L1 batch normalisation is that of Wu et al., 2018, "L1-Norm Batch
    Normalization for Efficient Training of Deep Neural Networks".

    ``clamped`` counts elements clamped in x, xhat and y.

    >>> y, context, mean, deviation, _ = l1_forward(
    ...     np.array([[0], [4], [8]]), np.array([4096]), np.array([0]), apply_relu=False)
    >>> y.tolist(), mean.tolist(), deviation.tolist()
    ([[-6168], [0], [6168]], [256], [170])
    """
    xhat, sign, mean, deviation, clamped = normalise(x, mean, deviation)
    y, clamped_y = _scaled(xhat, gamma, beta)
    mask = np.ones(xhat.shape, bool)
    if apply_relu:
        y, mask = relu(y)
    return y, Context(xhat, sign, mask), mean, deviation, clamped + clamped_y


def follow(running, statistic, mantissa, exponent):
    """A running mean or deviation [n], ``RUNNING_FRACTION`` fraction bits, after one more batch.

    ``new = rescale(statistic mantissa, exponent - 2 - NORM_FRACTION + RUNNING_FRACTION)`` is the
    batch's, of :func:`l1_forward` [n] whose x is ``x mantissa / 4 * 2**exponent``, in 32 bits;
    ``running + round_shift(new - running, RUNNING_SHIFT)``, or ``new`` if running is None, for the
    first batch. Mantissas [n] are 4..7, exponents [n] or one for all.

    Error against ``7/8 running + new / 8`` of real numbers: half a unit, and an eighth of new's
    half.

    >>> follow(None, np.array([100]), np.array([5]), -6).tolist()
    [2000]
    >>> follow(np.array([1000]), np.array([100]), np.array([5]), -6).tolist()
    [1125]
    """
    statistic, mantissa, exponent = (whole(v, name) for v, name in (
        (statistic, "statistic"), (mantissa, "mantissa"), (exponent, "exponent")))
    check_shapes(statistic.ndim == 1 and mantissa.shape == statistic.shape
                 and exponent.shape in ((), statistic.shape),
                 "a statistic [n] needs n mantissas, and n exponents or one", statistic, mantissa,
                 exponent)
    check_signed(statistic, "statistic", WIDE_BITS)
    check_within(mantissa, "mantissa", 4, 7)
    new, _ = rescale(statistic * mantissa, exponent - 2 - NORM_FRACTION + RUNNING_FRACTION,
                     WIDE_BITS)
    if running is None:
        return new
    running = whole(running, "running")
    check_shapes(running.shape == new.shape, "running must have the statistic's shape", running,
                 statistic)
    check_signed(running, "running", WIDE_BITS)
    return running + round_shift(new - running, RUNNING_SHIFT)


def l1_backward(dy, context, gamma, deviation):
    """``(dx, grad_beta, grad_gamma, grad_bits, deviation_bits)`` for ``dy`` [m, n].

    ``dy`` passes the rectifier's mask; ``grad_bits = e`` is the bit length of its largest
    magnitude, and ``g = floor(dy 2**(19 - e))``. Then, all divisions floors,
    ``grad_beta = sum g / m``, ``grad_gamma = (sum g xhat / m) / 2**XHAT_FRACTION``,
    ``t = g - grad_beta + (sum sign) grad_gamma / m - sign grad_gamma``.
    With r and length of :func:`reciprocal` and ``deviation_bits`` the smallest length of a
    non-zero deviation: ``c = floor(gamma r / 2**15)``,
    ``dx = round_shift(t c, 14 + length - deviation_bits)``, |dx| <= 2**23.

    See :func:`gradient_exponent` for the scale of dx.

    Error against real arithmetic with the forward pass's signs, for |xhat| < 32, E the bound of
    xhat's error in :func:`normalise` and c = 1 if g was cut (e > 19), else 0; in units of g: of
    grad_beta below ``1 + c``, of grad_gamma below ``G = 1.01 + c + mean((|g| + 2 c) E)``, of t
    below ``T = 2 + 2 c + 2 G``. Of dx, with gamma in its units and s in those of x: half a unit,
    and ``((|gamma| + 1) T + |t| (|gamma| (2**-13 + 2**-5 / s) + 1)) / s`` for ``t gamma / s``.
    """
    g, grad_beta, grad_gamma, grad_bits = gradient_means(dy, context)
    centre = floor_divide(context.sign.sum(axis=0) * grad_gamma, len(g))
    t = g - grad_beta + centre - context.sign * grad_gamma
    dx, deviation_bits = scale_gradient(t, gamma, deviation)
    return dx, grad_beta, grad_gamma, grad_bits, deviation_bits


def gradient_means(dy, context):
    """``(g, grad_beta, grad_gamma, grad_bits)`` of :func:`l1_backward`."""
    dy = whole(dy, "dy")
    check_shapes(dy.shape == context.mask.shape, "dy must have the forward pass's shape", dy,
                 context.mask)
    dy = relu_gradient(dy, context.mask)
    m = dy.shape[0]
    check_signed(dy, "dy", WIDE_BITS)
    grad_bits = min(largest_magnitude(dy), 2**31 - 1).bit_length()
    g = dy << (GRADIENT_BITS - grad_bits) if grad_bits <= GRADIENT_BITS else (
        dy >> (grad_bits - GRADIENT_BITS))
    grad_beta = floor_divide(g.sum(axis=0), m)
    grad_gamma = floor_divide((g * context.xhat).sum(axis=0), m) >> XHAT_FRACTION
    return g, grad_beta, grad_gamma, grad_bits


def scale_gradient(t, gamma, deviation):
    """``(dx, deviation_bits)`` of :func:`l1_backward`: t times gamma over the deviation."""
    gamma = _row(gamma, t.shape[1], "gamma", GAMMA_BITS)
    deviation = whole(deviation, "deviation")
    check_shapes(deviation.shape == t.shape[1:], "deviation must be one for each column of dy", t,
                 deviation)
    r, length = reciprocal(deviation)
    deviation_bits = int(length[length > 0].min(initial=64)) % 64
    c = (gamma * r) >> 15
    return round_shift(t * c, 14 + np.maximum(length - deviation_bits, 0)), deviation_bits


def gradient_exponent(grad_bits, deviation_bits):
    """The gradient is ``dx * 2**gradient_exponent(...)`` in units of dy per unit of x.

    From ``dx = t gamma r 2**-(15 + 14 + length - deviation_bits)`` and
    ``r = 2**(15 + length) / s``, with gamma and s in their fixed-point units.

    >>> gradient_exponent(10, 8)
    -9
    """
    return (grad_bits - GRADIENT_BITS) + 14 - deviation_bits + NORM_FRACTION - PARAMETER_FRACTION


def layer_forward(x, gamma, beta):
    """``(y, context, deviation [m])``: every row of ``x`` [m, n] normalised over its n columns.

    The layer-norm kind: xhat of :func:`normalise` along rows, then
    ``y = round_shift(gamma xhat, XHAT_FRACTION) + beta`` with a gamma and beta per column. Error
    as of :func:`l1_forward`.

    >>> y, _, deviation = layer_forward(np.array([[0, 4, 8]]), np.full(3, 4096), np.zeros(3, int))
    >>> y.tolist(), deviation.tolist()
    ([[-6168, 0, 6168]], [170])
    """
    xhat, sign, _, deviation, _ = normalise(whole(x).T)
    xhat, sign = xhat.T, sign.T
    y, _ = _scaled(xhat, gamma, beta)
    return y, Context(xhat, sign, np.ones(xhat.shape, bool)), deviation


def layer_clamped(x, gamma, beta):
    """Elements that :func:`layer_forward` clamps in x, xhat and y, which
    :func:`l1_forward` counts in the same way.

    >>> layer_clamped(np.array([[1 << 23, 0]]), np.full(2, 4096), np.zeros(2, int))
    1
    """
    xhat, _, _, _, clamped = normalise(whole(x).T)
    _, clamped_y = _scaled(xhat.T, gamma, beta)
    return clamped + clamped_y


def layer_backward(dy, context, gamma, deviation):
    """``(dx, grad_beta, grad_gamma, grad_bits, deviation_bits)`` for ``dy`` [m, n].

    With g and e of :func:`l1_backward`: ``p = round_shift(gamma g, PARAMETER_FRACTION)``, and for
    every row, all divisions floors, ``a = sum p / n``, ``b = (sum p xhat / n) / 2**XHAT_FRACTION``,
    ``t = p - a + (sum sign) b / n - sign b``. With r and length of :func:`reciprocal` of the row's
    deviation: ``dx = round_shift(t r, 17 + length - deviation_bits)``, |dx| <= 2**23 and
    ``dx * 2**(e + 1 - deviation_bits)`` in units of dy per unit of ``2**PARAMETER_FRACTION`` x.
    ``grad_beta = sum g`` and ``grad_gamma = sum g xhat`` over the rows are exact.

    Error as of :func:`l1_backward`, in units of g, with ``P = 1/2 + c max|gamma|`` for p:
    ``G = 1.01 + P + mean((|p| + 2 P) E)`` for b, ``T = 2 + 2 P + 2 G`` for t, and for dx half a
    unit and ``(T + |t| (2**-14 + 2**-5 / s)) / s``.
    """
    dy = whole(dy, "dy")
    check_shapes(dy.shape == context.xhat.shape, "dy must have the forward pass's shape", dy,
                 context.xhat)
    n = dy.shape[1]
    gamma = _row(gamma, n, "gamma", GAMMA_BITS)
    deviation = whole(deviation, "deviation")
    check_shapes(deviation.shape == dy.shape[:1], "deviation must be one for each row of dy", dy,
                 deviation)
    check_signed(dy, "dy", WIDE_BITS)
    grad_bits = largest_magnitude(dy).bit_length()
    g = dy << (GRADIENT_BITS - grad_bits) if grad_bits <= GRADIENT_BITS else (
        dy >> (grad_bits - GRADIENT_BITS))
    p = round_shift(gamma * g, PARAMETER_FRACTION)
    a = floor_divide(p.sum(axis=1), n)[:, None]
    b = (floor_divide((p * context.xhat).sum(axis=1), n) >> XHAT_FRACTION)[:, None]
    centre = floor_divide(context.sign.sum(axis=1)[:, None] * b, n)
    t = p - a + centre - context.sign * b
    r, length = reciprocal(deviation)
    deviation_bits = int(length[length > 0].min(initial=64)) % 64
    shift = 17 + np.maximum(length - deviation_bits, 0)
    dx = round_shift(t * r[:, None], shift[:, None])
    return dx, g.sum(axis=0), (g * context.xhat).sum(axis=0), grad_bits, deviation_bits

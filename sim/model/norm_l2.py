"""L2 normalisation over the batch, forward and backward, in integers: the L1 norm's baseline.

With ``mu = mean(x)``, ``d = x - mu``, ``s = sqrt(mean d**2)``: ``y = gamma * d / s + beta``, the
batch norm without an epsilon. Everything that is not the deviation or its gradient is
:mod:`sim.model.norm`'s: the formats, the mean, the reciprocal, xhat, y, and the means of the
backward pass. No network of this project uses it; it is what the L1 norm is compared with.
"""

from math import isqrt

import numpy as np

from hdl.params import NORM_FRACTION, NORM_IN_BITS, XHAT_FRACTION
from sim.model.checks import check_shapes, whole
from sim.model.norm import Context, gradient_means, l1_forward, scale_gradient
from sim.model.rounding import floor_divide, saturate

__all__ = ["l2_backward", "l2_forward", "mean_and_deviation", "root"]


def root(v):
    """``floor(sqrt(v))`` of whole numbers of any size.

    >>> root(np.array([0, 1, 3, 4, 2**58 - 1, 10**20], object)).tolist()
    [0, 1, 1, 2, 536870911, 10000000000]
    """
    return np.array([isqrt(int(value)) for value in v], np.int64)


def mean_and_deviation(x):
    """``(mean, deviation)`` of ``x`` [m, n] along its first axis, F = NORM_FRACTION.

    ``x`` is clamped to ``NORM_IN_BITS`` bits. ``mean = floor(2**F sum x / m)``; with
    ``d = 2**F x - mean``, ``deviation = floor(sqrt(floor(sum d**2 / m)))``.

    Error against real numbers, in units of x: mean below ``2**-F`` and never more than it;
    deviation within ``2**(1-F)``.

    >>> [v.tolist() for v in mean_and_deviation(np.array([[0], [4], [8]]))]
    [[256], [209]]
    """
    x = whole(x)
    check_shapes(x.ndim == 2 and x.size, "a tensor must have two axes and an element", x)
    scaled = saturate(x, NORM_IN_BITS)[0] << NORM_FRACTION
    mean = floor_divide(scaled.sum(axis=0), len(x))
    # The sum of squares has up to 67 bits.
    d = (scaled - mean).astype(object)
    return mean, root((d * d).sum(axis=0) // len(x))


def l2_forward(x, gamma, beta, *, apply_relu=True, mean=None, deviation=None):
    """``(y, context, mean, deviation, clamped)`` for ``x`` [m, n], ``gamma`` and ``beta`` [n].

    With mean and deviation of :func:`mean_and_deviation`, unless given, xhat and y are those of
    :func:`sim.model.norm.l1_forward`. The context keeps no sign.

    >>> y, context, mean, deviation, _ = l2_forward(
    ...     np.array([[0], [4], [8]]), np.array([4096]), np.array([0]), apply_relu=False)
    >>> y.tolist(), mean.tolist(), deviation.tolist()
    ([[-5016], [0], [5016]], [256], [209])
    """
    if mean is None:
        mean, deviation = mean_and_deviation(x)
    y, context, mean, deviation, clamped = l1_forward(
        x, gamma, beta, apply_relu=apply_relu, mean=mean, deviation=deviation)
    context = Context(context.xhat, np.zeros_like(context.sign), context.mask)
    return y, context, mean, deviation, clamped


def l2_backward(dy, context, gamma, deviation):
    """``(dx, grad_beta, grad_gamma, grad_bits, deviation_bits)`` for ``dy`` [m, n].

    With g, grad_beta, grad_gamma and e of :func:`sim.model.norm.l1_backward`:
    ``t = g - grad_beta - floor(xhat grad_gamma / 2**XHAT_FRACTION)``, and dx of t as there; it may
    be wider, ``|dx| < 2**26``. Its scale is :func:`sim.model.norm.gradient_exponent`'s.
    """
    g, grad_beta, grad_gamma, grad_bits = gradient_means(dy, context)
    t = g - grad_beta - (context.xhat * grad_gamma >> XHAT_FRACTION)
    dx, deviation_bits = scale_gradient(t, gamma, deviation)
    return dx, grad_beta, grad_gamma, grad_bits, deviation_bits

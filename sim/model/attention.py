"""Scaled dot-product attention: four batched products of quantised operands, in integers.

Tensors are [n, heads, tokens, width] of wide activations (``PARAMETER_FRACTION`` fraction bits).
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from hdl.params import PARAMETER_FRACTION
from sim.model.checks import check_bits, check_groups, check_number, check_shapes, whole
from sim.model.quantise import SIGNED_CLIP, Quantised, quantise
from sim.model.relu import relu_gradient, unclipped
from sim.model.requantise import requantise, safe_shift
from sim.model.rounding import rescale, round_shift
from sim.model.softmax import LOGIT_FRACTION, PROBABILITY_FRACTION, softmax, softmax_gradient

__all__ = ["MASKED", "Context", "attend", "attend_gradient", "inverse_root"]

#: The score of what a token must not see.
MASKED = -(2**23)
_WIDE = 24


def inverse_root(width):
    """``floor(2**15 / sqrt(width))``.

    >>> inverse_root(16), inverse_root(32)
    (8192, 5792)
    """
    check_number(width, "width", 1, 1 << 30)
    return isqrt((1 << 30) // width)


@dataclass(frozen=True)
class Context:
    """What the backward pass needs: codes and exponents of q, k, v, and probabilities."""
    q: Quantised
    k: Quantised
    v: Quantised
    p: np.ndarray
    u: np.ndarray


def _quantise(x, bits):
    """Codes [n, heads, tokens, width], one scale for the tensor, and the exponent of a value."""
    result = quantise(x.reshape(-1, x.shape[-1]), bits=bits, signed=True, clip=SIGNED_CLIP[bits])
    return Quantised(result.q.reshape(x.shape), result.exponent[0] - PARAMETER_FRACTION)


def attend(q, k, v, bits, *, causal=False):
    """``(y, context)``: ``softmax(q k' / sqrt(width)) v`` per head.

    q, k and v are quantised, signed; scores are ``rescale``d to ``LOGIT_FRACTION`` bits with
    :func:`inverse_root`, those of later tokens being ``MASKED`` if ``causal``; the probabilities
    of :func:`sim.model.softmax.softmax` become unsigned codes
    ``u = min(round_shift(p, 22 - bits), 2**bits - 1)`` of the fixed scale ``2**-bits``; y is
    rescaled to activations.

    Error against real attention over the codes' values, for scores S below 2**11, ``MASKED`` ones
    aside: with ``d = 2**-13 + max|S| sqrt(width) 2**-15`` of a query, at most 1/8, below
    ``sum |v| (2**-bits + 2**-22 + p (2**-13 + 2.3 d)) + 2**-13`` over the keys: the codes of p,
    and what the scores' rounding and :func:`inverse_root`'s make of it. Source: Vaswani et al.,
    2017, "Attention Is All You Need".
    """
    check_bits(bits)
    q, k, v = (whole(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    check_shapes(q.ndim == k.ndim == 4 and k.shape == v.shape
                 and q.shape[:2] + q.shape[3:] == k.shape[:2] + k.shape[3:]
                 and (q.shape == k.shape or not causal) and q.size and k.size,
                 "q, k and v must be [n, heads, tokens, width] that agree" + (
                     " in all four because the attention is causal" if causal else
                     " in all but the tokens of q"), q, k, v)
    a, b, c = (_quantise(x, bits) for x in (q, k, v))
    scale = inverse_root(q.shape[-1])
    scores = a.q @ b.q.swapaxes(-1, -2) * scale
    scores, _ = rescale(scores, a.exponent + b.exponent - 15 + LOGIT_FRACTION, _WIDE)
    if causal:
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(later, MASKED, scores)
    p = softmax(scores)
    u = np.minimum(round_shift(p, PROBABILITY_FRACTION - bits), 2**bits - 1)
    y, _ = rescale(u @ c.q, c.exponent - bits + PARAMETER_FRACTION, _WIDE)
    return y, Context(a, b, c, p, u)


def attend_gradient(dy, context, bits, groups, noise, second_noise):
    """``((dq, exponent), (dk, exponent), (dv, exponent))`` from dy, integers of the unit 1.

    dy is quantised by separable ShiftQuant as the [n * tokens, heads * width] matrix that the
    next layer takes, dp = dy v' by its channels, dv = u' dy by its rows. The scores' gradient
    is :func:`sim.model.softmax.softmax_gradient`, times ``inverse_root 2**-15``; it is quantised
    as [n * heads * tokens, tokens]; dq = ds k, dk = ds' q. Each product is requantised to
    24 bits by its safe shift, and passes where q, k and v were not clipped.
    """
    dy = whole(dy, "dy")
    check_shapes(dy.shape == context.q.q.shape == context.k.q.shape,
                 "dy must have the shape of q and k", dy, context.q.q, context.k.q)
    n, heads, tokens, width = dy.shape
    check_groups(groups)
    sample, channel = (count - 1 for count in groups)
    scale = inverse_root(width)

    def quantised(x, noise):
        result = quantise(x, bits=bits, signed=True, groups=groups, noise=noise)
        return result.q, result.exponent[0], result.rows, result.cols

    flat = dy.transpose(0, 2, 1, 3).reshape(n * tokens, heads * width)
    q, e, rows, cols = quantised(flat, noise)
    g = q.reshape(n, tokens, heads, width).transpose(0, 2, 1, 3)
    by_row = (sample - rows).reshape(n, 1, tokens, 1)
    by_col = (channel - cols).reshape(1, heads, 1, width)
    unit = e - sample - channel

    shift = safe_shift(bits, width, shifts=sample + channel, limit=_WIDE)
    dp, _ = requantise((g << by_col) @ context.v.q.swapaxes(-1, -2) << by_row, shift)
    dp_unit = unit + shift + context.v.exponent
    shift = safe_shift(bits, tokens, unsigned=True, shifts=sample + channel, limit=_WIDE)
    dv, _ = requantise(context.u.swapaxes(-1, -2) @ (g << by_row) << by_col, shift)
    dv_unit = unit + shift - bits

    ds, ds_unit = softmax_gradient(dp, context.p)
    ds, _ = rescale(ds * scale, -15, _WIDE)
    q, e, rows, cols = quantised(ds.reshape(-1, tokens), second_noise)
    g = q.reshape(ds.shape)
    by_row = (sample - rows).reshape(n, heads, tokens, 1)
    by_col = (channel - cols).reshape(1, 1, 1, tokens)
    unit = dp_unit + ds_unit + e - sample - channel
    shift = safe_shift(bits, tokens, shifts=sample + channel, limit=_WIDE)
    dq, _ = requantise((g << by_col) @ context.k.q << by_row, shift)
    dk, _ = requantise((g << by_row).swapaxes(-1, -2) @ context.q.q
                       << by_col.reshape(1, 1, tokens, 1), shift)
    dq, dk, dv = (relu_gradient(g, unclipped(x.q, bits, signed=True))
                  for g, x in ((dq, context.q), (dk, context.k), (dv, context.v)))
    return ((dq, unit + shift + context.k.exponent), (dk, unit + shift + context.q.exponent),
            (dv, dv_unit))

"""Attention as an autograd function; :mod:`sim.model.attention`, bit for bit."""

import torch

from hdl.params import PARAMETER_FRACTION
from host.torch import products
from host.torch.functions import (
    WIDE_GRADIENT_BITS,
    aligned,
    clamped,
    fixed,
    requantised,
    unclipped,
)
from host.torch.loss import softmax
from host.torch.numbers import (
    largest_code,
    power,
    quantise,
    quantise_gradient,
    round_half_up,
    wide_power,
)
from sim.model.attention import MASKED
from sim.model.quantise import SIGNED_CLIP
from sim.model.requantise import safe_shift
from sim.model.softmax import LOGIT_FRACTION, MEAN_FRACTION, PROBABILITY_FRACTION

__all__ = ["Attend"]


def _heads(x, heads):
    n, tokens, _ = x.shape
    return x.reshape(n, tokens, heads, -1).transpose(1, 2)


def _merged(x):
    n, _, tokens, _ = x.shape
    return x.transpose(1, 2).reshape(n, tokens, -1)


class Attend(torch.autograd.Function):
    """``softmax(q k' scale 2**-15) v`` per head of q, k and v [n, tokens, heads * width]."""
    @staticmethod
    def forward(ctx, q, k, v, heads, causal, scale, form, words, second_words):
        bits, clip, top = form.bits, SIGNED_CLIP[form.bits], largest_code(form.bits)
        parts = [quantise(x, bits=bits, signed=True, clip=clip, unit=-PARAMETER_FRACTION)
                 for x in (q, k, v)]
        (a, e_q), (b, e_k), (c, e_v) = ((_heads(x, heads), e) for x, e in parts)
        scores = products.matmul(a, b.transpose(-1, -2), top, top).double()
        unit = wide_power(e_q + e_k - 15 + LOGIT_FRACTION)
        scores = clamped(round_half_up(scores * (scale * unit)), 24)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores.masked_fill_(later, MASKED)
        p = softmax(scores.to(torch.int64))
        u = (p + (1 << PROBABILITY_FRACTION - bits - 1)) >> PROBABILITY_FRACTION - bits
        u = u.clamp_(max=2**bits - 1).float()
        y = products.matmul(u, c, 2**bits - 1, top).double() * wide_power(e_v - bits)
        ctx.save_for_backward(a, b, c, p, u, e_q, e_k, e_v)
        ctx.options = heads, scale, form, words, second_words
        return _merged(fixed(y, PARAMETER_FRACTION))

    @staticmethod
    def backward(ctx, dy):
        a, b, c, p, u, e_q, e_k, e_v = ctx.saved_tensors
        heads, scale, form, words, second_words = ctx.options
        if form.gradient_bits is None:
            return *_float_gradients(ctx, dy), *[None] * 6
        n, tokens, channels = dy.shape
        bits, width = form.gradient_bits, channels // heads
        sample, channel = (count - 1 for count in form.groups)
        both = sample + channel
        top = largest_code(form.bits)
        by_channel, by_sample = (largest_code(bits) << shift for shift in (channel, sample))

        def wide(x, shift, exponent):
            x = requantised(x, shift, WIDE_GRADIENT_BITS).float()
            return x.mul_(power(exponent + (shift - both)))

        g = quantise_gradient(dy.reshape(-1, 1, channels), bits=bits, groups=form.groups,
                              words=words)
        codes = _heads(g.codes.view(n, tokens, channels), heads)
        by_row = power(sample - g.rows).view(n, 1, tokens, 1)
        by_col = power(channel - g.cols).view(1, heads, 1, width)
        dp = products.matmul(codes * by_col, c.transpose(-1, -2), by_channel, top) * by_row
        dp_shift = safe_shift(form.bits, width, shifts=both, limit=WIDE_GRADIENT_BITS,
                              streamed=bits)
        dp = requantised(dp, dp_shift, WIDE_GRADIENT_BITS).to(torch.int64)
        dv = products.matmul(u.transpose(-1, -2), codes * by_row, 2**form.bits - 1,
                             by_sample) * by_col
        shift = safe_shift(bits, tokens, unsigned=True, shifts=both, limit=WIDE_GRADIENT_BITS,
                           streamed=form.bits)
        dv = wide(dv, shift, g.exponent - form.bits)

        shift = PROBABILITY_FRACTION - MEAN_FRACTION
        mean = ((p * dp).sum(-1, keepdim=True) + (1 << shift - 1)) >> shift
        ds = p * ((dp << MEAN_FRACTION) - mean)
        (ds,), ds_unit = aligned([ds.double() * 2.0**-(PROBABILITY_FRACTION + MEAN_FRACTION)])
        ds = requantised(ds * scale, 15, WIDE_GRADIENT_BITS).float()
        second = quantise_gradient(ds.reshape(-1, 1, tokens), bits=bits, groups=form.groups,
                                   words=second_words)
        unit = g.exponent + e_v + (dp_shift - both) + second.exponent
        codes = second.codes.view(n, heads, tokens, tokens)
        by_row = power(sample - second.rows).view(n, heads, tokens, 1)
        by_col = power(channel - second.cols)
        shift = safe_shift(form.bits, tokens, shifts=both, limit=WIDE_GRADIENT_BITS,
                           streamed=bits)
        dq = products.matmul(codes * by_col, b, by_channel, top) * by_row
        dk = products.matmul((codes * by_row).transpose(-1, -2), a, by_sample,
                             top) * by_col[:, None]
        dq, dk = (wide(x, shift, unit + e).mul_(ds_unit) for x, e in ((dq, e_k), (dk, e_q)))
        return *_passed(ctx, dq, dk, dv), *[None] * 6


def _passed(ctx, *gradients):
    """Gradients of q, k and v where they pass their quantisers, heads merged."""
    bits = ctx.options[2].bits
    return [_merged(unclipped(g, codes, bits, True))
            for g, codes in zip(gradients, ctx.saved_tensors[:3], strict=True)]


def _float_gradients(ctx, dy):
    """Gradients of the quantised forward pass, themselves not quantised."""
    a, b, c, p, u, e_q, e_k, e_v = ctx.saved_tensors
    heads, scale, form = ctx.options[:3]
    with products.plain_float32(dy):
        dy = _heads(dy, heads)
        q, k, v = (x * power(e) for x, e in ((a, e_q), (b, e_k), (c, e_v)))
        dv = (u * 2.0**-form.bits).transpose(-1, -2) @ dy
        p = p.float() * 2.0**-PROBABILITY_FRACTION
        dp = dy @ v.transpose(-1, -2)
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * (scale * 2.0**-15)
        return _passed(ctx, ds @ k, ds.transpose(-1, -2) @ q, dv)

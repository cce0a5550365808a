"""L1 normalisation on tensors: :mod:`sim.model.norm`, bit for bit.

Everything per channel or per row is int64; what is done per element is done in ``float64`` where
products need more than 24 bits, a part of the tensor at a time.
"""

import torch

from hdl.params import NORM_FRACTION, NORM_IN_BITS, PARAMETER_FRACTION, XHAT_FRACTION
from host.torch.numbers import chunks, exponent_of, power, round_half_up, wide_power
from sim.model.norm import GRADIENT_BITS, gradient_exponent

__all__ = ["batch_backward", "batch_forward", "layer_backward", "layer_forward", "reciprocal"]

_XHAT_LIMIT = 2**15


def bit_length(x):
    """Bits of non-negative int64 below 2**53."""
    return exponent_of(x.double()).to(torch.int64)


def reciprocal(s):
    """:func:`sim.model.norm.reciprocal` of int64 tensors."""
    length = bit_length(s)
    left, right = (16 - length).clamp_min(0), (length - 16).clamp_min(0)
    mantissa = ((s << left) + (1 << right) - 1) >> right
    r = (1 << 31) // mantissa.clamp_min(1)
    return r.masked_fill(s == 0, 0), length


def _integers(x, scale):
    """The norm's input as integers, float32: x times a power of two."""
    limit = 2 ** (NORM_IN_BITS - 1)
    return (x * scale).clamp_(-limit, limit - 1)


def _xhat(d, scale):
    """Rounded xhat in place of d (float64)."""
    return round_half_up(d.mul_(scale)).clamp_(-_XHAT_LIMIT, _XHAT_LIMIT - 1)


def _affine(xhat, gamma, beta):
    """The output's values from xhat (float64), in place."""
    y = round_half_up(xhat.mul_(gamma * 2.0**-XHAT_FRACTION)).add_(beta)
    return y.mul_(2.0**-PARAMETER_FRACTION)


def batch_forward(x, exponent, gamma, beta, mean=None, deviation=None):
    """``(y, xhat, sign, mean, deviation)`` of values x [samples, span, channels].

    ``exponent`` [channels] is that of x's integers; gamma and beta int64 with
    ``PARAMETER_FRACTION`` bits; mean and deviation int64. xhat and sign are float32 and int8.
    """
    k = _integers(x, power(-exponent))
    m = k.shape[0] * k.shape[1]
    fraction = 2.0**NORM_FRACTION
    parts = chunks(k)
    if mean is None:
        mean = torch.div(k.sum((0, 1), dtype=torch.float64) * fraction, m,
                         rounding_mode="floor").to(torch.int64)
    centre = mean.double()
    if deviation is None:
        total = torch.zeros_like(centre)
        for part in parts:
            total += k[part].double().mul_(fraction).sub_(centre).abs_().sum((0, 1))
        deviation = torch.div(total, m, rounding_mode="floor").to(torch.int64)
    r, length = reciprocal(deviation)
    scale = r.double() * wide_power(XHAT_FRACTION - 15 - length)
    gamma, beta = gamma.double(), beta.double()
    xhat, y = torch.empty_like(k), k
    sign = torch.empty(k.shape, dtype=torch.int8, device=k.device)
    for part in parts:
        d = k[part].double().mul_(fraction).sub_(centre)
        sign[part] = d.sign()
        xhat[part] = _xhat(d, scale)
        y[part] = _affine(d, gamma, beta)
    return y, xhat, sign, mean, deviation


def _normalised_gradient(dy):
    """``(g, e)``: integers ``floor(dy 2**(GRADIENT_BITS - e))``, float32, largest below
    ``2**GRADIENT_BITS``; NaN where dy is not finite."""
    low, high = torch.aminmax(dy)
    largest = torch.maximum(high, -low)
    e = exponent_of(largest)
    return (dy * (power(GRADIENT_BITS - e) + 0.0 * largest)).floor_(), e


def _floor_divide(total, count):
    return torch.div(total, count, rounding_mode="floor")


def _length_of_smallest(length):
    """The smallest non-zero length, 0 if there is none."""
    some = torch.where(length > 0, length, 64)
    return some.amin() % 64


def batch_backward(dy, xhat, sign, gamma, deviation, exponent):
    """``(dx, grad_gamma, grad_beta)``, values, of values dy [samples, span, channels].

    :func:`sim.model.norm.l1_backward`; the gradients of gamma and beta (float64) are sums.
    """
    g, e = _normalised_gradient(dy)
    m = g.shape[0] * g.shape[1]
    sum_gx = torch.zeros(g.shape[2], dtype=torch.float64, device=g.device)
    parts = chunks(g)
    for part in parts:
        sum_gx += g[part].double().mul_(xhat[part]).sum((0, 1))
    grad_beta = _floor_divide(g.sum((0, 1), dtype=torch.float64), m)
    grad_gamma = _floor_divide(_floor_divide(sum_gx, m), 2**XHAT_FRACTION)
    centre = _floor_divide(sign.sum((0, 1), dtype=torch.float64) * grad_gamma, m)
    r, length = reciprocal(deviation)
    deviation_bits = _length_of_smallest(length)
    c = (gamma * r) >> 15
    scale = c.double() * wide_power(-(14 + (length - deviation_bits).clamp_min(0)))
    unit = e.to(torch.int64) - GRADIENT_BITS
    value = power(unit + gradient_exponent(GRADIENT_BITS, deviation_bits) - exponent)
    offset, slope = (centre - grad_beta).float(), -grad_gamma.float()
    for part in parts:
        t = g[part].add_(offset).addcmul_(sign[part].float(), slope)
        t.copy_(round_half_up(t.double().mul_(scale)))
    g *= value
    unit = wide_power(unit) * m
    return g, grad_gamma * unit, grad_beta * unit


def layer_forward(x, gamma, beta):
    """``(y, xhat, sign, deviation)`` of values x [rows, n] with ``PARAMETER_FRACTION`` bits."""
    n = x.shape[1]
    k = _integers(x, 2.0**PARAMETER_FRACTION)
    gamma, beta, fraction = gamma.double(), beta.double(), 2.0**NORM_FRACTION
    xhat, y = torch.empty_like(k), torch.empty_like(k)
    sign = torch.empty(k.shape, dtype=torch.int8, device=k.device)
    deviation = torch.empty(k.shape[0], dtype=torch.int64, device=k.device)
    for part in chunks(k):
        d = k[part].double().mul_(fraction)
        d -= _floor_divide(d.sum(1, keepdim=True), n)
        s = _floor_divide(d.abs().sum(1), n).to(torch.int64)
        r, length = reciprocal(s)
        sign[part], deviation[part] = d.sign(), s
        xhat[part] = _xhat(d, (r.double() * wide_power(XHAT_FRACTION - 15 - length))[:, None])
        y[part] = _affine(d, gamma, beta)
    return y, xhat, sign, deviation


def layer_backward(dy, xhat, sign, gamma, deviation):
    """``(dx, grad_gamma, grad_beta)``, values; :func:`sim.model.norm.layer_backward`."""
    g, e = _normalised_gradient(dy)
    n = g.shape[1]
    r, length = reciprocal(deviation)
    deviation_bits = _length_of_smallest(length)
    scale = (r.double() * wide_power(-(17 + (length - deviation_bits).clamp_min(0))))[:, None]
    value = power(e.to(torch.int64) + 1 - deviation_bits)
    gamma = gamma.double() * 2.0**-PARAMETER_FRACTION
    grad_gamma = torch.zeros(n, dtype=torch.float64, device=g.device)
    grad_beta = g.sum(0, dtype=torch.float64)
    dx = torch.empty_like(g)
    for part in chunks(g):
        p, hat = g[part].double(), xhat[part].double()
        grad_gamma += (p * hat).sum(0)
        round_half_up(p.mul_(gamma))
        a = _floor_divide(p.sum(1, keepdim=True), n)
        b = _floor_divide(_floor_divide((p * hat).sum(1, keepdim=True), n), 2**XHAT_FRACTION)
        signs = sign[part].double()
        centre = _floor_divide(signs.sum(1, keepdim=True) * b, n)
        t = p.sub_(a).add_(centre).sub_(signs.mul_(b))
        dx[part] = round_half_up(t.mul_(scale[part]))
    unit = wide_power(e.to(torch.int64) - GRADIENT_BITS)
    return dx.mul_(value), grad_gamma * unit * 2.0**-XHAT_FRACTION, grad_beta * unit

"""The device's operations as autograd functions.

Values travel between them as ``float32`` tensors that hold the model's integers times powers of
two. A layer's input gets quantised by the layer; its output and the gradient of its input are
wide. Shapes and equations: :mod:`sim.model`.
"""

from dataclasses import dataclass

import torch

from hdl.params import NORM_IN_BITS, PARAMETER_FRACTION
from host.torch import norms, products
from host.torch.numbers import (
    divide_by_mantissa,
    largest_code,
    normalise_columns,
    power,
    quantise,
    quantise_gradient,
    round_half_up,
    wide_power,
)
from sim.model.add import ACTIVATION_BITS, GRADIENT_BITS
from sim.model.quantise import ACTIVATION_CLIP, SIGNED_CLIP, WEIGHT_CLIP
from sim.model.relu import SIGNED_FROM
from sim.model.requantise import safe_shift
from sim.model.update import GRADIENT_FRACTION, MASTER_BITS, MASTER_FRACTION

__all__ = ["WIDE_GRADIENT_BITS", "AveragePool", "Convolution", "Fixed", "Fork", "Format",
           "L1BatchNorm", "L1LayerNorm", "Lookup", "Neighbours", "aligned", "clamped", "fixed",
           "gradient_of_master", "parameter", "requantised"]

#: Width of a wide gradient, signed.
WIDE_GRADIENT_BITS = 24


@dataclass(frozen=True)
class Format:
    """How a layer's operands are quantised.

    ``bits`` of weights, ``gradient_bits`` of gradients (None: gradients stay float),
    ``input_bits`` of activations, which are ``signed`` or not, and gradient ``groups``. ``clip``
    is the largest range of an activation in quarters of the mean magnitude, ``weight_clip`` that
    of a column of weights; 0 is the maximum, and None takes that of the model's tables.
    """
    bits: int = 4
    gradient_bits: int | None = 4
    input_bits: int = 4
    signed: bool = False
    groups: tuple = (4, 4)
    clip: int | None = None
    weight_clip: int | None = None

    @property
    def column_clip(self):
        """The clip of weights that is in force."""
        return WEIGHT_CLIP[self.bits] if self.weight_clip is None else self.weight_clip

    @property
    def input_clip(self):
        """The clip that is in force."""
        if self.clip is not None:
            return self.clip
        return (SIGNED_CLIP if self.signed else ACTIVATION_CLIP)[self.input_bits]


def clamped(x, bits):
    """Integers clamped to a signed width, in place."""
    return x.clamp_(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def fixed(x, fraction=PARAMETER_FRACTION, bits=ACTIVATION_BITS):
    """Values rounded half up to ``fraction`` bits and clamped, as float32;
    :func:`sim.model.rounding.rescale`."""
    k = clamped(round_half_up(x.double() * 2.0**fraction), bits)
    return k.mul_(2.0**-fraction).to(torch.float32)


def parameter(master):
    """A master's value as the device's vector units see it: int64, PARAMETER_FRACTION bits."""
    return round_half_up(master.detach().double() * 2.0**PARAMETER_FRACTION).to(torch.int64)


def gradient_of_master(gradient):
    """A weight's gradient in its own format; infinity becomes NaN, which the optimiser refuses."""
    return fixed(gradient + 0.0 * gradient, GRADIENT_FRACTION, MASTER_BITS)


def requantised(x, shift, bits):
    """Integers after a rounding shift and a clamp; :func:`sim.model.requantise.requantise`."""
    if shift:
        x = round_half_up(x.double() * 2.0**-shift)
    return clamped(x, bits)


class Convolution(torch.autograd.Function):
    """``y = conv(u, q) 2**(e_u + e_w[c]) mantissa[c] / 4``, and a bias; gradients are quantised.

    x [n, c, h, w] or, for a matrix product, [n, c, 1, 1]; weight [out, c, kh, kw]. With
    ``accumulators`` y is the exact sums, of which ``exponent`` [out] is the unit, for a norm;
    otherwise activations. Returns ``(y, exponent, mantissa)``; accumulators lack the mantissa's
    factor, which a norm would divide out. ``words`` is the key of the gradient's
    noise. ``span`` is set by the shapes: the positions of one of n samples share a group.
    """
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, form, accumulators, words):
        bits = form.bits
        largest = 2**form.input_bits - 1
        u, e_u = quantise(x, bits=form.input_bits, signed=form.signed, clip=form.input_clip,
                          unit=-PARAMETER_FRACTION)
        scaled, mantissa = normalise_columns(weight, bits, form.column_clip)
        q, e_w = quantise(scaled, bits=bits, signed=True, clip=form.column_clip,
                          dims=(1, 2, 3), unit=-MASTER_FRACTION)
        inner = weight[0].numel()
        shift = safe_shift(bits, inner, unsigned=not form.signed, limit=NORM_IN_BITS,
                           streamed=form.input_bits)
        y = products.conv(u, q, stride, padding, largest, largest_code(bits))
        y = requantised(y, shift, NORM_IN_BITS)
        exponent = e_u + e_w.view(-1) + shift
        y = y.float().mul_(power(exponent)[:, None, None])
        if not accumulators:
            y = fixed(y.double() * (mantissa.view(-1, 1, 1) * 0.25))
            if bias is not None:
                offset = parameter(bias).float().mul_(2.0**-PARAMETER_FRACTION)
                y = fixed(y.add_(offset[:, None, None]))
        ctx.save_for_backward(u, q, e_u, e_w, mantissa)
        ctx.options = stride, padding, form, words, bias is not None, accumulators
        mantissa = mantissa.view(-1)
        ctx.mark_non_differentiable(exponent, mantissa)
        return y, exponent, mantissa

    @staticmethod
    def backward(ctx, dy, _exponent, _mantissa):
        u, q, e_u, e_w, mantissa = ctx.saved_tensors
        stride, padding, form, words, biased, accumulators = ctx.options
        dx = dweight = dbias = None
        if form.gradient_bits is None:
            # What a norm took has no mantissa in it, and the weight's scale has one.
            scale, share = power(e_w), mantissa * 0.25
            if ctx.needs_input_grad[0]:
                dx = torch.nn.grad.conv2d_input(
                    u.shape, q * scale * (1 if accumulators else share), dy, stride, padding)
                dx = unclipped(dx, u, form.input_bits, form.signed)
            dweight = torch.nn.grad.conv2d_weight(u * power(e_u), q.shape, dy, stride, padding)
            if accumulators:
                dweight = dweight / share
            return (dx, dweight, dy.sum((0, 2, 3)) if biased else None, *[None] * 5)
        n, out, height, width = dy.shape
        rows_of = dy.permute(0, 2, 3, 1).reshape(n, height * width, out)
        if biased:
            dbias = gradient_of_master(rows_of.sum((0, 1), dtype=torch.float64))
        if accumulators:
            folded = rows_of * power(e_w.view(-1))
        else:
            scale = mantissa.view(-1) * wide_power(e_w.view(-1) - 2)
            (folded,), unit = aligned([rows_of.double() * scale])
            folded = folded.float().mul_(unit)
        g = quantise_gradient(folded, bits=form.gradient_bits, groups=form.groups, words=words)
        if ctx.needs_input_grad[0]:
            dx = input_gradient(g, u.shape, q, dy.shape, ctx.options)
            dx = unclipped(dx, u, form.input_bits, form.signed)
        dweight, shift = weight_gradient(g, u, q.shape, dy.shape, ctx.options)
        unit = g.exponent + shift + e_u - e_w
        dweight = divide_by_mantissa(dweight, mantissa) * wide_power(unit)
        return dx, gradient_of_master(dweight), dbias, *[None] * 5


def unclipped(dx, codes, bits, signed):
    """dx where it passes the quantiser, in place; :func:`sim.model.relu.unclipped`."""
    if not signed:
        return dx.masked_fill_(codes == 2**bits - 1, 0)
    return dx if bits < SIGNED_FROM else dx.masked_fill_(codes.abs() == largest_code(bits), 0)


def _laid_out(g, shape, groups):
    """``(codes [n, out, h, w], row shifts, column shifts)`` of a quantised gradient."""
    n, out, height, width = shape
    codes = g.codes.view(n, height, width, out).permute(0, 3, 1, 2)
    return codes, groups[0] - 1 - g.rows, groups[1] - 1 - g.cols


def input_gradient(g, x_shape, q, shape, options):
    """dX of a gradient of ``shape`` quantised as g: channel groups inside, samples' outside."""
    stride, padding, form = options[:3]
    sample, channel = (count - 1 for count in form.groups)
    codes, by_row, by_col = _laid_out(g, shape, form.groups)
    dx = products.conv_input_gradient(
        x_shape, q, codes * power(by_col)[:, None, None], stride, padding,
        largest_code(form.gradient_bits) << channel, largest_code(form.bits))
    dx = dx.mul_(power(by_row)[:, None, None, None])
    shift = safe_shift(form.bits, len(q) * q.shape[2] * q.shape[3], shifts=sample + channel,
                       limit=WIDE_GRADIENT_BITS, streamed=form.gradient_bits)
    dx = requantised(dx, shift, WIDE_GRADIENT_BITS).float()
    return dx.mul_(power(g.exponent + (shift - sample - channel)))


def weight_gradient(g, u, q_shape, shape, options):
    """``(dW, shift)``, integers (float64) in units of ``2**(g.exponent + shift)`` and those of u:
    sample groups inside, channel groups outside."""
    stride, padding, form = options[:3]
    sample, channel = (count - 1 for count in form.groups)
    codes, by_row, by_col = _laid_out(g, shape, form.groups)
    dweight = products.conv_weight_gradient(
        u, q_shape, codes * power(by_row)[:, None, None, None], stride, padding,
        2**form.input_bits - 1, largest_code(form.gradient_bits) << sample).double()
    dweight *= wide_power(by_col)[:, None, None, None]
    shift = safe_shift(form.gradient_bits, shape[0] * shape[2] * shape[3],
                       unsigned=not form.signed, shifts=sample + channel,
                       streamed=form.input_bits)
    return requantised(dweight, shift, 32), shift - sample - channel


class Fixed(torch.autograd.Function):
    """Any values as activations; the gradient passes."""
    @staticmethod
    def forward(ctx, x):
        return fixed(x)

    @staticmethod
    def backward(ctx, dy):
        return dy


class L1BatchNorm(torch.autograd.Function):
    """The batch-norm kind on x [samples, span, channels]; see :mod:`host.torch.norms`.

    Returns ``(y, mean, deviation)``, the last two as int64 in the units of the accumulators.
    """
    @staticmethod
    def forward(ctx, x, exponent, gamma, beta, mean, deviation):
        g = parameter(gamma).clamp_(-(2**15), 2**15 - 1)
        y, xhat, sign, mean, deviation = norms.batch_forward(
            x, exponent, g, parameter(beta), mean, deviation)
        ctx.save_for_backward(xhat, sign, g, deviation, exponent)
        ctx.mark_non_differentiable(mean, deviation)
        return y, mean, deviation

    @staticmethod
    def backward(ctx, dy, _mean, _deviation):
        xhat, sign, gamma, deviation, exponent = ctx.saved_tensors
        dx, dgamma, dbeta = norms.batch_backward(dy, xhat, sign, gamma, deviation, exponent)
        return dx, None, gradient_of_master(dgamma), gradient_of_master(dbeta), None, None


class L1LayerNorm(torch.autograd.Function):
    """The layer-norm kind on x [rows, channels]."""
    @staticmethod
    def forward(ctx, x, gamma, beta):
        g = parameter(gamma).clamp_(-(2**15), 2**15 - 1)
        y, xhat, sign, deviation = norms.layer_forward(x, g, parameter(beta))
        ctx.save_for_backward(xhat, sign, g, deviation)
        return y

    @staticmethod
    def backward(ctx, dy):
        dx, dgamma, dbeta = norms.layer_backward(dy, *ctx.saved_tensors)
        return dx, gradient_of_master(dgamma), gradient_of_master(dbeta)


def aligned(gradients):
    """Gradients in the unit of :func:`sim.model.add.add_gradients`, and that unit's value."""
    largest = torch.stack([g.abs().amax() for g in gradients]).amax()
    exponent = torch.frexp(largest)[1] - GRADIENT_BITS
    inverse = wide_power(-exponent)
    return [round_half_up(g.double() * inverse) for g in gradients], power(exponent)


class Fork(torch.autograd.Function):
    """A value that is used more than once; :func:`sim.model.add.add_gradients`."""
    @staticmethod
    def forward(ctx, x, count):
        return tuple(x.view_as(x) for _ in range(count))

    @staticmethod
    def backward(ctx, *gradients):
        gradients = [g for g in gradients if g is not None]
        (total, *others), unit = aligned(gradients)
        for g in others:
            total = total.add_(g)
        return total.float().mul_(unit), None


class AveragePool(torch.autograd.Function):
    """The average of the last two axes in windows of ``size``; :mod:`sim.model.pool`."""
    @staticmethod
    def forward(ctx, x, size):
        n, c, h, w = x.shape
        (kh, kw), count = size, size[0] * size[1]
        ctx.size, ctx.shape = size, x.shape
        k = (x[:, :, :h // kh * kh, :w // kw * kw].double() * 2.0**PARAMETER_FRACTION)
        total = k.reshape(n, c, h // kh, kh, w // kw, kw).sum((3, 5))
        y = torch.div(2 * total + count, 2 * count, rounding_mode="floor")
        return y.mul_(2.0**-PARAMETER_FRACTION).float()

    @staticmethod
    def backward(ctx, dy):
        (kh, kw), (n, c, h, w) = ctx.size, ctx.shape
        count = kh * kw
        shift = count.bit_length() - 1
        (k,), unit = aligned([dy])
        k = torch.div(2 * (k * 2.0**shift) + count, 2 * count, rounding_mode="floor")
        part = (k.float() * (unit * 2.0**-shift))[:, :, :, None, :, None]
        dx = dy.new_zeros(n, h, w, c).permute(0, 3, 1, 2)
        dx[:, :, :h // kh * kh, :w // kw * kw] = part.expand(
            n, c, h // kh, kh, w // kw, kw).reshape(n, c, h // kh * kh, w // kw * kw)
        return dx, None


class Lookup(torch.autograd.Function):
    """Rows of a table of masters; the gradient adds up exactly where a row was taken."""
    @staticmethod
    def forward(ctx, index, table):
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return fixed(table)[index]

    @staticmethod
    def backward(ctx, dy):
        index, = ctx.saved_tensors
        total = dy.new_zeros((ctx.rows, dy.shape[-1]), dtype=torch.float64)
        total.index_add_(0, index.reshape(-1), dy.reshape(-1, dy.shape[-1]).double())
        return None, gradient_of_master(total)



class Neighbours(torch.autograd.Function):
    """``y = A x`` for the sparse, unsigned codes of A [n, n] of ``form.bits`` bits, and
    x [n, channels]; :func:`sim.model.sparse.sparse_gemm`. The gradient is quantised, then
    multiplied by A'."""
    @staticmethod
    def forward(ctx, x, index, codes, exponent, form, words):
        q, e = quantise(x, bits=form.input_bits, signed=form.signed, clip=form.input_clip,
                        unit=-PARAMETER_FRACTION)
        y = _sparse(index, codes, q) * wide_power(exponent + e)
        ctx.save_for_backward(index, codes, exponent, q)
        ctx.options = form, words
        return fixed(y)

    @staticmethod
    def backward(ctx, dy):
        index, codes, exponent, q = ctx.saved_tensors
        form, words = ctx.options
        if form.gradient_bits is None:
            dx = _sparse(index.flip(0), codes, dy) * wide_power(exponent)
            return unclipped(dx.float(), q, form.input_bits, form.signed), *[None] * 5
        g = quantise_gradient(dy[:, None], bits=form.gradient_bits, groups=form.groups,
                              words=words)
        sample, channel = (count - 1 for count in form.groups)
        aligned = g.codes[:, 0] * power(sample - g.rows)[:, None]
        dx = _sparse(index.flip(0), codes, aligned) * power(channel - g.cols)
        shift = safe_shift(form.gradient_bits, dy.shape[0], unsigned=True,
                           shifts=sample + channel, limit=WIDE_GRADIENT_BITS,
                           streamed=form.bits)
        dx = requantised(dx, shift, WIDE_GRADIENT_BITS).float()
        dx = dx.mul_(power(g.exponent + exponent + (shift - sample - channel)))
        return unclipped(dx, q, form.input_bits, form.signed), *[None] * 5


def _sparse(index, codes, dense):
    """The exact product in float64, whatever the order of its sums."""
    y = dense.new_zeros(dense.shape, dtype=torch.float64)
    return y.index_add_(0, index[0], codes.double()[:, None] * dense[index[1]].double())

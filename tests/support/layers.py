"""Layers put together from the model's functions, for tests to compare with."""

import numpy as np

from hdl.params import NORM_IN_BITS, PARAMETER_FRACTION
from sim.model import convolution as geometry
from sim.model.gemm import gemm
from sim.model.noise import element_noise
from sim.model.quantise import (
    divide_by_mantissa,
    fold,
    quantise,
    quantise_weights,
)
from sim.model.relu import relu_gradient, unclipped
from sim.model.requantise import safe_shift
from sim.model.rounding import rescale, round_shift, saturate
from sim.model.update import GRADIENT_FRACTION, MASTER_FRACTION

__all__ = ["convolution", "convolution_gradient"]


def convolution(x, weight, bias, stride, padding, form):
    """``(y, exponents, context)``: accumulators of wide activations x [n, c, h, w] and masters
    [out, c, kh, kw]; y [n * ho * wo, out]. With a bias, activations."""
    kernel = weight.shape[2:]
    flat = quantise(x.reshape(len(x), -1), bits=form.input_bits, signed=form.signed,
                    clip=form.input_clip)
    e_u = flat.exponent[0] - PARAMETER_FRACTION
    u = geometry.patches(flat.q.reshape(x.shape), kernel, stride, padding)
    q, mantissa = quantise_weights(weight.reshape(len(weight), -1).T, form.bits,
                                   form.column_clip)
    e_w = q.exponent - MASTER_FRACTION
    shift = safe_shift(form.bits, len(q.q), unsigned=not form.signed, limit=NORM_IN_BITS,
                       streamed=form.input_bits)
    y = saturate(gemm(u, q.q, shift=shift)[0], NORM_IN_BITS)[0]
    exponents = e_u + e_w + shift
    if bias is not None:
        y = rescale(y * mantissa, exponents - 2 + PARAMETER_FRACTION, 24)[0]
        y = saturate(y + round_shift(bias, MASTER_FRACTION - PARAMETER_FRACTION), 24)[0]
    return y, exponents, (u, flat.q, q.q, e_u, e_w, mantissa)


def convolution_gradient(dy, exponent, context, shape, weight_shape, stride, padding, form, key,
                         accumulators):
    """``((dx, exponent), dw, db)`` from dy [n * ho * wo, out] in units of ``2**exponent``."""
    u, codes, q, e_u, e_w, mantissa = context
    span = len(dy) // shape[0]
    if accumulators:
        folded, least = dy << (e_w - e_w.min()), e_w.min()
    else:
        folded, least = fold(dy, e_w, mantissa)
    result = quantise(folded, bits=form.gradient_bits, signed=True, groups=form.groups, span=span,
                      noise=element_noise(key, *dy.shape))
    unit = exponent + least + result.exponent[0]
    sample, channel = form.groups
    shift = safe_shift(form.bits, dy.shape[1] * weight_shape[2] * weight_shape[3],
                       shifts=sample + channel - 2, limit=24, streamed=form.gradient_bits)
    # Every tap of a patch is an inner index of its own; taps meet in the fold.
    q_cols = np.int64(1) << (channel - 1 - result.cols)
    columns = (result.q * q_cols) @ q.T
    columns = columns << (sample - 1 - result.rows)[:, None]
    dx = geometry.fold(columns, shape, weight_shape[2:], stride, padding)
    dx = saturate(round_shift(dx, shift), 24)[0]
    dx = relu_gradient(dx, unclipped(codes.reshape(shape), form.input_bits, signed=form.signed))
    dx_exponent = unit + shift - (sample + channel - 2)
    shift = safe_shift(form.gradient_bits, len(dy), unsigned=not form.signed,
                       shifts=sample + channel - 2, streamed=form.input_bits)
    dw, _ = gemm(u.T, result.q, shift=shift, inner=result.rows, inner_groups=sample,
                 cols=result.cols, col_groups=channel)
    dw, finer = divide_by_mantissa(dw, mantissa)
    dw = rescale(dw, unit + shift - (sample + channel - 2) + e_u - e_w + finer
                 + GRADIENT_FRACTION, 24)[0]
    db = rescale(dy.sum(axis=0), exponent + GRADIENT_FRACTION, 24)[0]
    return (dx, dx_exponent), dw.T.reshape(weight_shape), db

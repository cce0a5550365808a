"""host.torch.norms: both kinds, forward and backward, are the model's."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from host.torch import norms
from sim.model import norm as model


def case(seed, rows, channels, bits):
    """Integers, parameters, a gradient and its exponent."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((rows, channels)) * 2.0 ** rng.integers(0, bits, channels)
    k = np.clip(k.astype(np.int64), -2**23, 2**23 - 1)
    if rng.random() < 0.3:
        k[:, 0] = 5
    gamma, beta = rng.integers(-2**15, 2**15, (2, channels))
    dk = (rng.standard_normal((rows, channels)) * 2.0 ** rng.integers(0, 23)).astype(np.int64)
    return rng, k, gamma, beta, dk * (rng.random() > 0.05), int(rng.integers(-50, 0))


def values(k, exponent):
    return torch.from_numpy((k * 2.0**exponent).astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9))
def test_batch_kind(seed, samples, span, channels):
    rng, k, gamma, beta, dk, e = case(seed, samples * span, channels, 22)
    unit = rng.integers(-12, 3, channels)
    y, context, mean, deviation, _ = model.l1_forward(k, gamma, beta, apply_relu=False)
    found, xhat, sign, found_mean, found_deviation = norms.batch_forward(
        values(k, unit).view(samples, span, channels),
        *(torch.from_numpy(a) for a in (unit, gamma, beta)))
    assert (found_mean.numpy() == mean).all()
    assert (found_deviation.numpy() == deviation).all()
    assert (found.numpy().reshape(k.shape) * 4096 == y).all()

    given_, *_ = norms.batch_forward(
        values(k, unit).view(samples, span, channels),
        *(torch.from_numpy(a) for a in (unit, gamma, beta)), found_mean + 3, found_deviation + 1)
    y, *_ = model.l1_forward(k, gamma, beta, apply_relu=False, mean=mean + 3,
                             deviation=deviation + 1)
    assert (given_.numpy().reshape(k.shape) * 4096 == y).all()

    dx, grad_beta, grad_gamma, bits, deviation_bits = model.l1_backward(
        dk, context, gamma, deviation)
    found, dgamma, dbeta = norms.batch_backward(
        values(dk, e).view(samples, span, channels), xhat, sign, torch.from_numpy(gamma),
        found_deviation, torch.from_numpy(unit))
    assert np.abs(dx).max() <= 2**23
    exponent = e + model.gradient_exponent(bits, deviation_bits)
    assert (found.double().numpy().reshape(k.shape) == dx * 2.0 ** (exponent - unit)).all()
    scale = len(k) * 2.0 ** (e + bits - model.GRADIENT_BITS)
    assert (dgamma.numpy() == grad_gamma * scale).all()
    assert (dbeta.numpy() == grad_beta * scale).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 20))
def test_layer_kind(seed, rows, channels):
    _, k, gamma, beta, dk, e = case(seed, rows, channels, 22)
    y, context, deviation = model.layer_forward(k, gamma, beta)
    tensors = [torch.from_numpy(a) for a in (gamma, beta)]
    found, xhat, sign, found_deviation = norms.layer_forward(values(k, -12), *tensors)
    assert (found.numpy() * 4096 == y).all() and (found_deviation.numpy() == deviation).all()
    dx, grad_beta, grad_gamma, bits, deviation_bits = model.layer_backward(
        dk, context, gamma, deviation)
    found, dgamma, dbeta = norms.layer_backward(values(dk, e), xhat, sign, tensors[0],
                                                found_deviation)
    assert np.abs(dx).max() <= 2**23
    assert (found.double().numpy() == dx * 2.0 ** (e + bits + 1 - deviation_bits)).all()
    scale = 2.0 ** (e + bits - model.GRADIENT_BITS)
    assert (dgamma.numpy() == grad_gamma * scale * 2.0**-10).all()
    assert (dbeta.numpy() == grad_beta * scale).all()

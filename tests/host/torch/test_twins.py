"""host.torch's running statistics, dropout and embedding: the bits of sim.model."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import host.torch as sg
from hdl.params import PARAMETER_FRACTION
from host.tensor_ids import Noise, tensor_id
from sim.model.dropout import dropout, dropout_gradient
from sim.model.embedding import lookup, lookup_gradient
from sim.model.noise import element_noise, key
from sim.model.norm import RUNNING_FRACTION, follow
from sim.model.update import GRADIENT_FRACTION, MASTER_FRACTION

SEED = st.integers(0, 2**32 - 1)


@settings(max_examples=40)
@given(SEED, st.integers(1, 9), st.integers(1, 4))
def test_running_statistics(seed, channels, batches):
    rng = np.random.default_rng(seed)
    layer = sg.L1BatchNorm1d(channels)
    running = [None, None]
    for layer.step in range(batches):
        mean, deviation = (rng.integers(-2**29, 2**29, channels) >> rng.integers(0, 29, channels)
                           for _ in range(2))
        mantissa = rng.integers(4, 8, channels)
        exponent = rng.integers(-30, 3, channels)
        layer._follow(torch.from_numpy(mean * mantissa), torch.from_numpy(deviation * mantissa),
                      torch.from_numpy(exponent - 2).int())
        running = [follow(old, new, mantissa, exponent)
                   for old, new in zip(running, (mean, deviation), strict=True)]
        for found, expected in zip((layer.running_mean, layer.running_deviation), running,
                                   strict=True):
            assert (found.numpy() * 2.0**RUNNING_FRACTION == expected).all()


@settings(max_examples=30)
@given(SEED, st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 3))
def test_dropout(seed, shape, step):
    rng = np.random.default_rng(seed)
    layer = sg.number_layers(sg.Dropout(), seed)
    layer.step = step
    k, g = rng.integers(-2**22, 2**22, shape), rng.integers(-2**23, 2**23, shape)
    x = torch.from_numpy(k * 2.0**-PARAMETER_FRACTION).float().requires_grad_()
    y = layer(x)
    y.backward(torch.from_numpy(g * 2.0**-9).float())
    words = key(seed, step, tensor_id(0, Noise.GRADIENT))
    noise = element_noise(words, k.size // shape[-1], shape[-1]).reshape(shape)
    expected, kept = dropout(k, noise)
    dx, exponent = dropout_gradient(g, -9, kept)
    assert (y.detach().numpy() * 2.0**PARAMETER_FRACTION == expected).all()
    assert (x.grad.numpy() == dx * 2.0**exponent).all()
    assert layer.step == step + 1
    assert (layer.eval()(x) == x).all()


@settings(max_examples=30)
@given(SEED, st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(-40, -10))
def test_embedding(seed, rows, width, tokens, exponent):
    rng = np.random.default_rng(seed)
    layer = sg.Embedding(rows, width)
    table = rng.integers(-2**23, 2**23, (rows, width)) >> rng.integers(0, 20)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(table * 2.0**-MASTER_FRACTION))
    index, dy = rng.integers(0, rows, (2, tokens)), rng.integers(-2**23, 2**23, (2, tokens, width))
    y = layer(torch.from_numpy(index))
    y.backward(torch.from_numpy(dy * 2.0**exponent).float())
    assert (y.detach().numpy() * 2.0**PARAMETER_FRACTION == lookup(index, table)).all()
    expected = lookup_gradient(dy, exponent, index, rows)
    assert (layer.weight.grad.numpy() * 2.0**GRADIENT_FRACTION == expected).all()

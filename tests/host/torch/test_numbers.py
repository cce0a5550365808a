"""host.torch.numbers: quantiser and random bits on tensors are the model's."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from host.torch import numbers
from sim.model import noise
from sim.model import quantise as model

WORDS = (0x0123, 0x4567, 0x89AB, 0xCDEF)
GROUPS = st.sampled_from([1, 2, 4, 8, 32])


def wide(rng, shape, largest):
    """Integers whose rows and columns differ in size by powers of two, and some zeros."""
    m, n = shape
    x = rng.standard_normal(shape) * 2.0 ** rng.uniform(0, largest)
    x *= 2.0 ** rng.integers(-8, 1, (1, n)) * 2.0 ** rng.integers(-8, 1, (m, 1))
    x[:, rng.random(n) < 0.1] = 0
    return np.clip(x.astype(np.int64), 1 - 2**23, 2**23 - 1)


def values(k, exponent=0):
    """Integers as values."""
    return torch.from_numpy((k * 2.0**exponent).astype(np.float32))


@given(st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.integers(0, 2**16 - 1)] * 4))
def test_noise(rows, cols, words):
    found = numbers.element_noise(words, rows, cols).numpy().astype(np.int64) & 0xFFFF
    assert (found == noise.element_noise(words, rows, cols)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 20),
       st.integers(2, 8), st.tuples(GROUPS, GROUPS), st.integers(-60, 10))
def test_gradients(seed, samples, span, channels, bits, groups, exponent):
    k = wide(np.random.default_rng(seed), (samples * span, channels), 22)
    expected = model.quantise(k, bits=bits, signed=True, groups=groups, span=span,
                              noise=noise.element_noise(WORDS, *k.shape))
    found = numbers.quantise_gradient(values(k, exponent).view(samples, span, channels),
                                      bits=bits, groups=groups, words=WORDS)
    assert (found.codes.numpy().reshape(k.shape) == expected.q).all()
    assert (np.repeat(found.rows.numpy(), span) == expected.rows).all()
    assert (found.cols.numpy() == expected.cols).all()
    if k.any():
        assert int(found.exponent) == expected.exponent[0] + exponent


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(2, 8),
       st.booleans(), st.booleans(), st.integers(0, 60), st.integers(-20, 4))
def test_nearest(seed, rows, cols, bits, signed, per_column, clip, exponent):
    k = wide(np.random.default_rng(seed), (rows, cols), 22)
    k = k if signed else np.abs(k)
    expected = model.quantise(k, bits=bits, signed=signed, clip=clip, per_column=per_column)
    codes, found = numbers.quantise(values(k, exponent), bits=bits, signed=signed, clip=clip,
                                    dims=(0,) if per_column else None)
    assert (codes.numpy() == expected.q).all()
    used = np.abs(k).max(axis=0) > 0 if per_column else np.full(cols, k.any())
    exponents = np.broadcast_to(found.numpy().reshape(-1), (cols,))
    assert (exponents[used] == expected.exponent[used] + exponent).all()


def test_rounding_is_exact_where_a_half_is_close():
    # Just below and at one half, in the finest unit of an activation.
    k = np.array([[2047, 2048, 2049, 6143, 6144, 15 * 4096]])
    expected = model.quantise(k, bits=4, signed=False)
    assert (numbers.quantise(values(k), bits=4, signed=False)[0].numpy() == expected.q).all()
    assert expected.q.tolist() == [[0, 1, 1, 1, 2, 15]]

"""host.torch.functions, attention and loss: every operation is the model's, both ways."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from host.torch import products
from host.torch.attention import Attend
from host.torch.functions import AveragePool, Convolution, Fork, Format, Lookup, Neighbours
from host.torch.loss import cross_entropy
from sim.model import add, attention, pool, softmax
from sim.model.noise import element_noise, key
from sim.model.quantise import ACTIVATION_CLIP, SIGNED_CLIP, quantise
from sim.model.relu import relu_gradient, unclipped
from sim.model.requantise import requantise, safe_shift
from sim.model.rounding import rescale
from sim.model.sparse import sparse_gemm
from tests.support.layers import convolution, convolution_gradient

BITS = st.integers(2, 8)
GROUP = st.sampled_from([1, 2, 4, 8])
CLIP = st.sampled_from([None, 0, 9])
SEED = st.integers(0, 2**32 - 1)


def tensor(k, exponent, grad=True):
    """Integers as values."""
    x = torch.from_numpy(np.asarray(k * 2.0**exponent, np.float32))
    return x.requires_grad_() if grad else x


def integers(rng, shape, largest):
    return np.clip((rng.standard_normal(shape) * 2.0 ** rng.uniform(1, largest)).astype(np.int64),
                   1 - 2**22, 2**22 - 1)


@settings(max_examples=150)
@given(SEED, st.tuples(*[st.integers(1, 8)] * 3), st.integers(1, 8), st.integers(1, 3),
       st.integers(1, 2), BITS, BITS, BITS, st.booleans(), st.tuples(GROUP, GROUP), st.booleans(),
       st.tuples(CLIP, CLIP))
def test_convolution(seed, sizes, size, kernel, stride, bits, gradient_bits, input_bits, signed,
                     groups, biased, clips):
    rng = np.random.default_rng(seed)
    n, c, out = sizes
    kernel = min(kernel, size)
    padding = int(rng.integers(0, kernel))
    form = Format(bits, gradient_bits, input_bits, signed, groups, *clips)
    x = integers(rng, (n, c, size, size), 20)
    x = x if signed else np.abs(x)
    w = integers(rng, (out, c, kernel, kernel), 20) >> rng.integers(0, 6, (out, 1, 1, 1))
    b = integers(rng, out, 20) if biased else None
    words = key(seed >> 8, 7, 3)
    y, exponents, context = convolution(x, w, b, stride, padding, form)
    tx, tw = tensor(x, -12), tensor(w, -20)
    tb = tensor(b, -20) if biased else None
    found, found_exponents, mantissa = Convolution.apply(
        tx, tw, tb, stride, padding, form, not biased, words)
    flat = found.permute(0, 2, 3, 1).reshape(-1, out).detach().double().numpy()
    if biased:
        assert (flat == y * 2.0**-12).all()
    else:
        assert (flat == y * 2.0**exponents).all()
        assert (found_exponents.numpy() == exponents).all()
        assert (mantissa.numpy() == context[-1]).all()
    exponent = int(rng.integers(-45, -10))
    dy = integers(rng, y.shape, 22) * (rng.random() > 0.05)
    (dx, dx_exponent), dw, db = convolution_gradient(
        dy, exponent, context, x.shape, w.shape, stride, padding, form, words, not biased)
    found.backward(tensor(dy, exponent, False).view(n, *found.shape[2:], out).permute(0, 3, 1, 2))
    assert (tx.grad.double().numpy() == dx * 2.0**dx_exponent).all()
    assert (tw.grad.double().numpy() == dw * 2.0**-22).all()
    if biased:
        assert (tb.grad.double().numpy() == db * 2.0**-22).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_products_beyond_float32_are_exact(bits):
    # Every operand at its largest, and an odd sum that float32 cannot hold.
    largest, weight = 2**bits - 1, 2 ** (bits - 1) - 1
    u = torch.full((128, 64, 6, 6), float(largest))
    g = torch.full((128, 32, 6, 6), float(weight << 6))
    g[0, 0, 0, 0] += 1
    w = torch.full((32, 64, 3, 3), float(weight))
    w[0, 0, 1, 1] -= 1
    double = [t.double() for t in (u, g, w)]
    assert (products.conv(u, w, 1, 1, largest, weight)
            == torch.nn.functional.conv2d(double[0], double[2], None, 1, 1)).all()
    assert (products.conv_input_gradient(u.shape, w, g, 1, 1, float(g.max()), weight)
            == torch.nn.grad.conv2d_input(u.shape, double[2], double[1], 1, 1)).all()
    found = products.conv_weight_gradient(u, w.shape, g, 1, 1, largest, float(g.max()))
    assert found.max() > 2**24
    assert (found == torch.nn.grad.conv2d_weight(double[0], w.shape, double[1], 1, 1)).all()
    a, b = u.reshape(128, -1), u.reshape(128, -1).T.contiguous()
    found = products.matmul(a, b, largest, largest)
    assert (found == double[0].reshape(128, -1) @ b.double()).all()


@given(SEED, st.integers(1, 3), st.integers(1, 4))
def test_fork(seed, size, count):
    rng = np.random.default_rng(seed)
    parts = [(integers(rng, (size, 5), 22) * (rng.random() > 0.2), int(rng.integers(-30, 0)))
             for _ in range(count)]
    expected, exponent = add.add_gradients(parts)
    x = torch.zeros(size, 5, requires_grad=True)
    torch.autograd.backward(Fork.apply(x, count), [tensor(k, e, False) for k, e in parts])
    assert (x.grad.double().numpy() == expected * 2.0**exponent).all()


@given(SEED, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_average_pool(seed, n, kh, kw):
    rng = np.random.default_rng(seed)
    x = integers(rng, (n, 3, 2 * kh + kh // 2, 3 * kw), 22)
    cut = x[:, :, :2 * kh].reshape(n, 3, 2, kh, 3, kw)
    tx = tensor(x, -12)
    y = AveragePool.apply(tx, (kh, kw))
    assert (y.detach().double().numpy() * 4096 == pool.average(cut.sum((3, 5)), kh * kw)).all()
    dy, exponent = integers(rng, tuple(y.shape), 22), -30
    k, e = pool.average_gradient(dy, exponent, kh * kw)
    y.backward(tensor(dy, exponent, False))
    found = tx.grad.double().numpy()
    assert (found[:, :, :2 * kh] == np.repeat(np.repeat(k, kh, 2), kw, 3) * 2.0**e).all()
    assert not found[:, :, 2 * kh:].any()


@given(SEED, st.integers(1, 9), st.integers(2, 9))
def test_cross_entropy(seed, m, classes):
    rng = np.random.default_rng(seed)
    logits, labels = integers(rng, (m, classes), 20), rng.integers(0, classes, m)
    losses, gradient, exponent, _ = softmax.cross_entropy(logits, labels)
    x = tensor(logits, -12)
    loss = cross_entropy(x, torch.from_numpy(labels))
    loss.backward()
    assert float(loss.detach()) == np.float32(losses.sum() / (m * 2.0**16))
    assert (x.grad.double().numpy() == gradient * 2.0**exponent).all()


@given(SEED, st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), BITS,
       st.tuples(GROUP, GROUP), st.booleans())
def test_attention(seed, n, heads, tokens, width, bits, groups, causal):
    rng = np.random.default_rng(seed)
    qkv = [integers(rng, (n, heads, tokens, width), 16) for _ in range(3)]
    words, second = key(seed, 1, 2), key(seed, 1, 5)
    y, context = attention.attend(*qkv, bits, causal=causal)

    def merged(x):
        return x.transpose(0, 2, 1, 3).reshape(n, tokens, heads * width)
    inputs = [tensor(merged(x), -12) for x in qkv]
    form = Format(bits, bits, bits, True, groups)
    found = Attend.apply(*inputs, heads, causal, attention.inverse_root(width), form, words,
                         second)
    assert (found.detach().double().numpy() * 4096 == merged(y)).all()
    dy, exponent = integers(rng, y.shape, 22), -33
    gradients = attention.attend_gradient(
        dy, context, bits, groups, element_noise(words, n * tokens, heads * width),
        element_noise(second, n * heads * tokens, tokens))
    found.backward(tensor(merged(dy), exponent, False))
    for x, (k, e) in zip(inputs, gradients, strict=True):
        assert (x.grad.double().numpy() == merged(k) * 2.0 ** (e + exponent)).all()


@given(SEED, st.integers(1, 12), st.integers(1, 9), BITS, BITS, st.booleans(),
       st.tuples(GROUP, GROUP))
def test_neighbours(seed, nodes, channels, bits, own_bits, signed, groups):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, nodes, (2, 3 * nodes))
    codes, a_exponent = rng.integers(0, 2**own_bits, 3 * nodes), -own_bits
    x = integers(rng, (nodes, channels), 20)
    x = x if signed else np.abs(x)
    words = key(seed, 0, 2)
    q = quantise(x, bits=bits, signed=signed,
                 clip=(SIGNED_CLIP if signed else ACTIVATION_CLIP)[bits])
    y, _ = sparse_gemm(*index, codes, q.q, nodes)
    y, _ = rescale(y, q.exponent[0] + a_exponent, 24)
    tx = tensor(x, -12)
    found = Neighbours.apply(tx, torch.from_numpy(index), torch.from_numpy(codes).float(),
                             torch.tensor(a_exponent), Format(own_bits, bits, bits, signed, groups),
                             words)
    assert (found.detach().double().numpy() * 4096 == y).all()
    dy, exponent = integers(rng, x.shape, 22), -31
    g = quantise(dy, bits=bits, signed=True, groups=groups,
                 noise=element_noise(words, *x.shape))
    aligned = g.q << (groups[0] - 1 - g.rows)[:, None]
    dx, _ = sparse_gemm(index[1], index[0], codes, aligned, nodes)
    shifts = sum(groups) - 2
    shift = safe_shift(bits, nodes, unsigned=True, shifts=shifts, limit=24, streamed=own_bits)
    dx, clamped = requantise(dx << (groups[1] - 1 - g.cols), shift)
    found.backward(tensor(dy, exponent, False))
    assert not clamped
    unit = exponent + g.exponent[0] + a_exponent + shift - shifts
    expected = np.clip(dx, -2**23, 2**23 - 1) * 2.0**unit
    expected = relu_gradient(expected, unclipped(q.q, bits, signed=signed))
    assert (tx.grad.double().numpy() == expected).all()


def test_lookup_adds_up_where_a_row_was_taken_twice():
    table = tensor(np.arange(12).reshape(4, 3) << 8, -20)
    y = Lookup.apply(torch.tensor([[1, 3], [1, 0]]), table)
    assert (y.detach() * 4096).tolist() == [[[3, 4, 5], [9, 10, 11]], [[3, 4, 5], [0, 1, 2]]]
    y.backward(torch.full((2, 2, 3), 2.0**-20))
    assert (table.grad[:, 0] * 2**20).tolist() == [1, 2, 0, 1]

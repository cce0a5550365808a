"""sim.model: what layers are made of, against exact real arithmetic."""

import numpy as np
import pytest

from hdl.params import NORM_FRACTION, PARAMETER_FRACTION
from sim.model import add, attention, convolution, digits, norm, pool, sparse
from sim.model.gemm import gemm
from sim.model.noise import element_noise
from sim.model.quantise import WEIGHT_CLIP, divide_by_mantissa, fold, quantise_weights

ONE = 2.0**PARAMETER_FRACTION


def integers(rng, shape, bits):
    return np.floor(rng.standard_normal(shape) * 2.0**bits).astype(np.int64)


@pytest.mark.parametrize("count", [1, 2, 49, 64, 1000])
def test_an_average_is_off_by_half_a_unit_at_most(count):
    rng = np.random.default_rng(count)
    total = integers(rng, 500, 20)
    assert np.abs(pool.average(total, count) - total / count).max() <= 0.5
    dy = integers(rng, 500, 18)
    dx, exponent = pool.average_gradient(dy, -7, count)
    # The gradient itself has more bits than it came with, so only this rounding is left.
    assert np.abs(dx * 2.0**exponent - dy * 2.0**-7 / count).max() <= 2.0**exponent / 2
    # One bit less at most.
    assert 2**20 <= np.abs(dx).max() <= 2**22


def test_sums_are_exact_or_off_by_half_a_unit_each():
    rng = np.random.default_rng(0)
    a, b = integers(rng, 99, 20), integers(rng, 99, 22)
    total, clamped = add.add(a, b)
    assert (total == np.clip(a + b, -2**23, 2**23 - 1)).all()
    assert clamped == np.count_nonzero(total != a + b)
    parts = [(integers(rng, 99, 20), -3), (integers(rng, 99, 5), 9), (integers(rng, 99, 22), -30)]
    total, exponent = add.add_gradients(parts)
    exact = sum(k * 2.0**e for k, e in parts)
    assert np.abs(total * 2.0**exponent - exact).max() <= len(parts) * 2.0**exponent / 2
    zero = np.zeros(3, np.int64)
    assert not add.add_gradients([(zero, 5), (zero, -5)])[0].any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_digits_are_an_inner_dimension(bits):
    rng = np.random.default_rng(bits)
    x = rng.integers(-2 ** (2 * bits - 1), 2 ** (2 * bits - 1), (5, 7))
    b = 2 ** (bits - 1) - 1
    w = rng.integers(-b, b + 1, (7, 3))
    low, high = digits.streamed(x, bits, 2)
    assert low.min() >= 0 and low.max() < 2**bits
    assert high.min() >= -2 ** (bits - 1) and high.max() < 2 ** (bits - 1)
    # Two channels whose shifts differ by b, the other operand repeated.
    groups = np.repeat([0, bits], 7)
    y, _ = gemm(np.hstack([high, low]), np.vstack([w, w]), inner=groups, inner_groups=bits + 1)
    assert (y == x @ w).all()
    wide = rng.integers(-b << bits - 1, (b << bits - 1) + 1, (7, 3))
    parts = digits.stationary(wide, bits, 2)
    assert all(np.abs(part).max() <= b for part in parts)
    assert (digits.join(parts, bits - 1) == wide).all()


@pytest.mark.parametrize(("size", "window"), [
    ((4, 6), (2, 3)), ((5, 7), (2, 2)), ((3, 3), (1, 1)), ((2, 5), (2, 6)), ((7, 2), (7, 1))])
def test_windows_are_summed_and_spread_position_by_position(size, window):
    rng = np.random.default_rng(size)
    (h, w), (kh, kw), images, n = size, window, 2, 3
    x = rng.integers(-2**31, 2**31, (images * h * w, n))
    found, rows = pool.sums(x, size, window), []
    for image in x.reshape(images, h, w, n):
        for y in range(h // kh):
            for left in range(w // kw):
                part = image[y * kh:(y + 1) * kh, left * kw:(left + 1) * kw].reshape(-1, n)
                rows.append((part.sum(axis=0) + 2**31) % 2**32 - 2**31)
    assert found.tolist() == [row.tolist() for row in rows]
    if not rows:
        return
    # What is spread meets a tensor as the tensor's sums meet it.
    passed = rng.random(found.shape) < 0.7
    small, given = rng.integers(-99, 99, x.shape), rng.integers(-99, 99, found.shape)
    spread = pool.spread(given, size, window, passed)
    assert (spread * small).sum() == (given * passed * pool.sums(small, size, window)).sum()
    assert (pool.spread(given, size, window) != 0).any()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [
    ((1, 1), 1, 0), ((3, 3), 1, 1), ((3, 3), 2, 1), ((2, 3), 1, 2), ((5, 5), 3, 0)])
def test_patches_make_a_convolution_and_fold_is_their_transpose(kernel, stride, padding):
    rng = np.random.default_rng(stride)
    x = integers(rng, (2, 3, 7, 6), 4)
    w = integers(rng, (4, 3, *kernel), 3)
    rows = convolution.patches(x, kernel, stride, padding)
    sizes = [convolution.output_size(n, k, stride, padding)
             for n, k in zip((7, 6), kernel, strict=True)]
    y = (rows @ w.reshape(4, -1).T).reshape(2, *sizes, 4)
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            window = padded[:, :, i * stride:i * stride + kernel[0],
                            j * stride:j * stride + kernel[1]]
            assert (y[:, i, j] == np.einsum("nchw,ochw->no", window, w)).all()
    c = integers(rng, rows.shape, 4)
    assert (rows * c).sum() == (x * convolution.fold(c, x.shape, kernel, stride, padding)).sum()


def test_a_sparse_product_is_the_dense_one():
    rng = np.random.default_rng(3)
    row, column, value = rng.integers(0, 6, 40), rng.integers(0, 5, 40), rng.integers(-9, 9, 40)
    b, dense = integers(rng, (5, 4), 6), np.zeros((6, 5), np.int64)
    np.add.at(dense, (row, column), value)
    order = rng.permutation(40)
    for index in (slice(None), order):
        y, clamped = sparse.sparse_gemm(row[index], column[index], value[index], b, 6, shift=2)
        assert not clamped and np.abs(y - dense @ b / 4).max() <= 0.5


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_off_by_half_a_step_where_they_are_not_clipped(bits):
    rng = np.random.default_rng(bits)
    w = integers(rng, (50, 20), 16) >> rng.integers(0, 8, 20)
    q, mantissa = quantise_weights(w, bits)
    step, top = mantissa / 4 * 2.0**q.exponent, 2 ** (bits - 1) - 1
    magnitude = np.abs(w)
    limit = np.minimum(magnitude.max(axis=0), WEIGHT_CLIP[bits] / 4 * magnitude.mean(axis=0))
    # The scale suits the range, but for the eighth that a power of two may clip off.
    assert (step * top >= 0.87 * limit - 2).all()
    inside = magnitude <= (top - 0.5) * step
    # Normalising cost a unit of the masters and 2**-15 of the weight.
    assert (np.abs(q.q * step - w) <= step / 2 + 2 + magnitude * 2.0**-14)[inside].all()
    assert (np.abs(q.q) <= top).all() and (np.abs(q.q)[~inside] >= top - 1).all()


def test_folding_and_its_division_follow_the_scales():
    rng = np.random.default_rng(5)
    g, exponent = integers(rng, (9, 6), 20), rng.integers(-9, 0, 6)
    mantissa = rng.integers(4, 8, 6)
    folded, unit = fold(g, exponent, mantissa)
    exact = g * (mantissa / 4 * 2.0**exponent)
    assert np.abs(folded * 2.0**unit - exact).max() <= 2.0**unit / 2
    x, finer = divide_by_mantissa(g, mantissa)
    error = x * 2.0**finer - g / (mantissa / 4)
    assert (error <= 0).all() and (error > -(2.0**finer)).all()


def test_the_norm_of_channels_follows_its_real_function():
    rng = np.random.default_rng(6)
    x = integers(rng, (40, 64), 14) << rng.integers(0, 6, (40, 1))
    gamma, beta = rng.integers(2**11, 2**13, 64), rng.integers(-2**12, 2**12, 64)
    y, context, deviation = norm.layer_forward(x, gamma, beta)
    mean = x.mean(axis=1, keepdims=True)
    d = x - mean
    s = np.abs(d).mean(axis=1, keepdims=True)
    xhat = d / s
    assert np.abs(context.xhat / 2**10 - xhat).max() < 2**-11 + np.abs(xhat).max() * 2**-13
    # Half a unit, and what gamma makes of xhat's error.
    error = np.abs(y - (gamma * xhat + beta))
    assert (error < 0.5 + gamma * (2**-11 + np.abs(xhat) * 2**-13)).all()
    assert np.abs(deviation / 2**NORM_FRACTION - s[:, 0]).max() <= 2.0**-NORM_FRACTION * 2
    dy = integers(rng, x.shape, 18)
    dx, grad_beta, grad_gamma, bits, deviation_bits = norm.layer_backward(
        dy, context, gamma, deviation)
    g, sign = dy * gamma / ONE, np.sign(d)
    real = (g - g.mean(axis=1, keepdims=True)
            - (sign - sign.mean(axis=1, keepdims=True))
            * (g * xhat).mean(axis=1, keepdims=True)) / s
    found = dx * 2.0 ** (bits + 1 - deviation_bits) / ONE
    assert np.linalg.norm(found - real) < 3e-3 * np.linalg.norm(real)
    unit = 2.0 ** (bits - norm.GRADIENT_BITS)
    assert np.abs(grad_beta * unit - dy.sum(axis=0)).max() <= 40 * unit
    exact = (dy * xhat).sum(axis=0)
    assert np.linalg.norm(grad_gamma * unit / 2**10 - exact) < 2e-3 * np.linalg.norm(exact)


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_attention_follows_its_real_function(bits, causal):
    rng = np.random.default_rng(bits)
    qkv = [integers(rng, (2, 3, 8, 16), 12) for _ in range(3)]
    y, context = attention.attend(*qkv, bits, causal=causal)
    q, k, v = (part.q * 2.0**part.exponent for part in (context.q, context.k, context.v))
    scores = q @ k.swapaxes(-1, -2) / 4
    if causal:
        scores[..., np.triu(np.ones((8, 8), bool), 1)] = -np.inf
    p = softmax(scores)
    # A probability is off by at most one code, the scores by 2**-13 each.
    bound = np.abs(v).sum(axis=-2, keepdims=True) * (2.0**-bits + 2.0**-11) + 1 / ONE
    assert (np.abs(y / ONE - p @ v) <= bound).all()

    dy = integers(rng, y.shape, 18)
    noises = [element_noise((1, 2, 3, i), rows, cols) for i, (rows, cols) in enumerate(
        ((16, 48), (48, 8)))]
    found = attention.attend_gradient(dy, context, bits, (4, 4), *noises)
    dp = dy @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / 4
    real = ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy
    masks = [np.abs(part.q) < 2 ** (bits - 1) - 1 for part in (context.q, context.k, context.v)]
    for (code, exponent), value, mask in zip(found, real, masks, strict=True):
        expected = value * mask
        error = np.linalg.norm(code * 2.0**float(exponent) - expected)
        assert error < {4: 0.5, 8: 0.03}[bits] * np.linalg.norm(expected)


def test_gradients_through_attention_are_not_biased():
    """The gradients of all keys add up to 0, whatever is added to every key; rounding to a unit
    that small gradients are not far above would give them a common direction."""
    rng = np.random.default_rng(6)
    bits, shape, draws = 6, (1, 1, 64, 16), 48
    queries = integers(rng, shape, 10) + (1 << 11)
    _, context = attention.attend(queries, *(integers(rng, shape, 9) for _ in range(2)), bits)
    # A few tokens have most of the gradient, as in text.
    dy = integers(rng, shape, 20) >> 8 * (np.arange(64)[:, None] % 8 > 0)
    total = 0
    for draw in range(draws):
        noises = [element_noise((draw, 2, 3, i), 64, cols) for i, cols in enumerate((16, 64))]
        _, (dk, exponent), _ = attention.attend_gradient(dy, context, bits, (4, 4), *noises)
        total = total + dk * 2.0**float(exponent) / draws
    common = np.linalg.norm(total.sum(axis=-2)) / 8
    assert common < 0.01 * np.linalg.norm(total)

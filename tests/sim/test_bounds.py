"""sim.model: error bounds of the docstrings against real arithmetic, each nearly reached."""

import numpy as np
import pytest

from hdl.params import PARAMETER_FRACTION, XHAT_FRACTION
from sim.model import attention, norm
from sim.model.embedding import lookup, lookup_gradient
from sim.model.initialise import uniform_weights
from sim.model.noise import bits16
from sim.model.softmax import (
    LOGIT_FRACTION,
    LOSS_FRACTION,
    PROBABILITY_FRACTION,
    cross_entropy,
    exponential,
    logarithm,
    softmax,
)
from sim.model.update import MASTER_FRACTION

ONE = 2.0**PARAMETER_FRACTION


def check(error, bound, least=0.3):
    """The error stays within the bound and comes near it somewhere."""
    ratio = np.max(error / bound)
    assert ratio <= 1
    assert ratio > least


def test_exponential():
    t = np.unique(np.concatenate([np.arange(0, 30000, 7), np.arange(0, 40 << 12, 991),
                                  2 ** np.arange(46)]))
    real = 2.0**30 * np.exp(-t / 2.0**LOGIT_FRACTION)
    check(np.abs(exponential(t) - real), real * (1 + t / 2.0**LOGIT_FRACTION) * 2.0**-16 + 1)


def test_logarithm():
    x = np.unique(np.concatenate([np.geomspace(1, 2.0**52 - 1, 30000).astype(np.int64),
                                  2 ** np.arange(52), 2 ** np.arange(1, 53) - 1]))
    real = np.log(x / 2.0**30)
    check(np.abs(logarithm(x) - real * 2**16), 2 + np.abs(real) / 7)


@pytest.mark.parametrize("columns", [2, 10, 1000, 65536])
def test_softmax_and_cross_entropy(columns):
    rng = np.random.default_rng(columns)
    worst = []
    for scale in (0.1, 1, 8, 300):
        logits = np.clip(rng.standard_normal((5, columns)) * scale * 4096, -2**23, 2**23 - 1)
        logits = logits.astype(np.int64)
        labels, sample = rng.integers(0, columns, 5), np.arange(5)
        t = (logits.max(axis=1, keepdims=True) - logits) / 2.0**LOGIT_FRACTION
        total = np.exp(-t).sum(axis=1, keepdims=True)
        p = np.exp(-t) / total
        bound = (p * ((1 + np.maximum(t, np.log(columns))) * 2.0**-16 + columns * 2.0**-30)
                 + 2.0**-22 + 2.0**-30)
        worst.append(np.max(np.abs(softmax(logits) * 2.0**-PROBABILITY_FRACTION - p) / bound))
        losses, gradient, exponent, _ = cross_entropy(logits, labels)
        real = np.log(total[:, 0]) + t[sample, labels]
        error = np.abs(losses - real * 2.0**LOSS_FRACTION)
        assert (error <= 3 + 1.2 * np.log(columns) + 2.0**-14 * columns).all()
        expected = p.copy()
        expected[sample, labels] -= 1
        error = np.abs(gradient * 2.0**exponent - expected / 5)
        assert (error <= bound / 5 + 2.0**exponent).all()
    assert 0.3 < max(worst) <= 1


@pytest.mark.parametrize("fan_in", [1, 5, 64, 4095])
def test_uniform_weights(fan_in):
    words = (fan_in, 2, 3, 4)
    w = uniform_weights(words, fan_in, 500)
    u = bits16(words, np.arange(fan_in * 500).reshape(fan_in, 500))
    real = (2 * u - 65535) / 2.0**16 * 2.0**MASTER_FRACTION * np.sqrt(3 / fan_in)
    check(np.abs(w - real), 2)


def batches(rng, count):
    """Batches [m, n] of all scales and offsets, with rare extremes."""
    for _ in range(count):
        m = int(rng.integers(2, 200))
        x = (rng.standard_normal((m, 4)) * 2.0 ** rng.uniform(-1, 21)
             + rng.uniform(-1, 1) * 2.0 ** rng.uniform(0, 22))
        if rng.integers(3) == 0:
            x[rng.integers(m)] *= 20
        yield np.clip(np.round(x), -2**23, 2**23 - 1).astype(np.int64)


def real_norm(x):
    """``(xhat, s, bound of xhat's error)``, in units of x, per column."""
    d = x - x.mean(axis=0)
    s = np.abs(d).mean(axis=0)
    xhat = d / s
    return xhat, s, 2.0**-11 + np.abs(xhat) * (2.0**-14 + 2.0**-5 / s) + 2.0**-6 / s


def usable(x):
    """Columns that are not constant."""
    return x[:, (norm.normalise(x)[3] > 0) & (np.ptp(x, axis=0) > 0)]


def test_the_norm_of_the_batch():
    rng, worst, worst_y = np.random.default_rng(0), 0, 0
    for x in map(usable, batches(rng, 600)):
        if not x.size:
            continue
        gamma = rng.integers(-2**15, 2**15, x.shape[1])
        beta = rng.integers(-2**20, 2**20, x.shape[1])
        y, context, *_ = norm.l1_forward(x, gamma, beta, apply_relu=False)
        xhat, _, bound = real_norm(x)
        inside = np.abs(xhat) < 31.9
        error = np.abs(context.xhat * 2.0**-XHAT_FRACTION - xhat) / bound
        worst = max(worst, error[inside].max(initial=0))
        error = np.abs(y - (gamma * xhat + beta)) / (0.5 + np.abs(gamma) * bound)
        worst_y = max(worst_y, error[inside].max(initial=0))
    assert 0.5 < worst <= 1 and 0.5 < worst_y <= 1


def test_the_gradient_of_the_norm_of_the_batch():
    rng, worst = np.random.default_rng(1), np.zeros(3)
    for x in map(usable, batches(rng, 600)):
        xhat, s, of_xhat = real_norm(x) if x.size else (np.full((1, 1), 99), 0, 0)
        if np.abs(xhat).max() > 31.9:
            continue
        gamma = rng.integers(-2**15, 2**15, x.shape[1])
        _, context, _, deviation, _ = norm.l1_forward(x, gamma, 0)
        dy = np.clip(rng.standard_normal(x.shape) * 2.0 ** rng.uniform(2, 30)
                     + rng.integers(3) * 2.0 ** rng.uniform(2, 29), -2**31, 2**31 - 1)
        dy = dy.astype(np.int64)
        dx, beta, of_gamma, bits, deviation_bits = norm.l1_backward(dy, context, gamma, deviation)
        cut = bits > norm.GRADIENT_BITS
        g = dy * context.mask * 2.0 ** (norm.GRADIENT_BITS - bits)
        mean, product = g.mean(axis=0), (g * xhat).mean(axis=0)
        sign = context.sign
        t = g - mean - (sign - sign.mean(axis=0)) * product
        real = t * gamma / s
        gamma_bound = 1.01 + cut + ((np.abs(g) + 2 * cut) * of_xhat).mean(axis=0)
        t_bound = 2 + 2 * cut + 2 * gamma_bound
        unit = 2.0 ** (norm.gradient_exponent(bits, deviation_bits)
                       + norm.GRADIENT_BITS - bits) * ONE
        bound = unit / 2 + ((np.abs(gamma) + 1) * t_bound
                            + np.abs(t) * (np.abs(gamma) * (2.0**-13 + 2.0**-5 / s) + 1)) / s
        worst = np.maximum(worst, [np.max(np.abs(beta - mean) / (1 + cut)),
                                   np.max(np.abs(of_gamma - product) / gamma_bound),
                                   np.max(np.abs(dx * unit - real) / bound)])
    assert (worst <= 1).all() and (worst > 0.2).all(), worst


def test_the_norm_of_channels():
    rng, worst = np.random.default_rng(2), np.zeros(2)
    for x in map(usable, batches(rng, 600)):
        xhat, s, of_xhat = real_norm(x) if x.size else (np.full((1, 1), 99), 0, 0)
        if np.abs(xhat).max() > 31.9:
            continue
        gamma = rng.integers(-2**15, 2**15, (len(x), 1))
        y, context, deviation = norm.layer_forward(x.T, gamma[:, 0], 0)
        error = np.abs(y.T - gamma * xhat) / (0.5 + np.abs(gamma) * of_xhat)
        dy = (rng.standard_normal(x.shape) * 2.0 ** rng.uniform(2, 28)).astype(np.int64)
        dx, *_, bits, deviation_bits = norm.layer_backward(dy.T, context, gamma[:, 0], deviation)
        cut = bits > norm.GRADIENT_BITS
        p = dy * gamma / ONE * 2.0 ** (norm.GRADIENT_BITS - bits)
        sign = context.sign.T
        product = (p * xhat).mean(axis=0)
        t = p - p.mean(axis=0) - (sign - sign.mean(axis=0)) * product
        of_p = 0.5 + cut * np.abs(gamma).max() / ONE
        of_product = 1.01 + of_p + ((np.abs(p) + 2 * of_p) * of_xhat).mean(axis=0)
        t_bound = 2 + 2 * of_p + 2 * of_product
        unit = 2.0 ** (1 - deviation_bits + norm.GRADIENT_BITS) / ONE
        bound = unit / 2 + (t_bound + np.abs(t) * (2.0**-14 + 2.0**-5 / s)) / s
        worst = np.maximum(worst, [error.max(), np.max(np.abs(dx.T * unit - t / s) / bound)])
    assert (worst <= 1).all() and (worst > 0.2).all(), worst


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_attention(bits):
    rng, worst = np.random.default_rng(bits), 0
    for width in (3, 16, 60):
        for scale in (2.0**8, 2.0**12, 2.0**14):
            q, k, v = (np.floor(rng.standard_normal((1, 2, 9, width)) * scale).astype(np.int64)
                       for _ in range(3))
            causal = bool(rng.integers(2))
            y, context = attention.attend(q, k, v, bits, causal=causal)
            q, k, v = (x.q * 2.0**x.exponent for x in (context.q, context.k, context.v))
            scores = q @ k.swapaxes(-1, -2) / np.sqrt(width)
            largest = np.abs(scores).max(axis=-1, keepdims=True)
            if causal:
                scores[..., np.triu(np.ones((9, 9), bool), 1)] = -np.inf
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            p /= p.sum(axis=-1, keepdims=True)
            off = 2.0**-13 + largest * np.sqrt(width) * 2.0**-15
            if off.max() > 1 / 8:
                continue
            bound = (2.0**-bits + 2.0**-22 + p * (2.0**-13 + 2.3 * off)) @ np.abs(v) + 2.0**-13
            worst = max(worst, np.max(np.abs(y / ONE - p @ v) / bound))
    assert 0.1 < worst <= 1, worst


def test_running_statistics():
    rng, n = np.random.default_rng(3), 500
    running, mean = rng.integers(-2**20, 2**20, n), rng.integers(-2**14, 2**14, n)
    mantissa, exponent = rng.integers(4, 8, n), rng.integers(-12, -6, n)
    new = mean * 2.0**-6 * mantissa / 4 * 2.0**exponent * 2.0**norm.RUNNING_FRACTION
    check(np.abs(norm.follow(None, mean, mantissa, exponent) - new), 0.5)
    check(np.abs(norm.follow(running, mean, mantissa, exponent) - (running * 7 + new) / 8),
          0.5 + 0.5 / 8)


def test_embedding():
    rng = np.random.default_rng(4)
    table, index = rng.integers(-2**23, 2**23, (7, 5)), rng.integers(0, 7, (4, 9))
    real = table[index] * 2.0 ** (PARAMETER_FRACTION - MASTER_FRACTION)
    check(np.abs(lookup(index, table) - np.minimum(real, 2**15)), 0.5)
    dy, total = rng.integers(-2**23, 2**23, (4, 9, 5)), np.zeros((7, 5))
    np.add.at(total, index, dy * 2.0**-29)
    check(np.abs(lookup_gradient(dy, -29, index, 7) - total * 2**22), 0.5)

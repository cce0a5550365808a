"""sim.model.norm_fp16 against the same equations in float64."""

import numpy as np
import pytest

from sim.model.norm_fp16 import backward, forward, root_epsilon

EPSILON = 1e-5


def tensors(seed, m=200, n=8, ratio=1.0, scale=1.0):
    """x whose means are ``ratio`` deviations, dy, gamma and beta: binary16 as float64."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(m, n)) + ratio * rng.choice([-1, 1], n)) * scale
    dy = rng.normal(size=(m, n)) + rng.normal(size=n)
    gamma, beta = rng.uniform(0.5, 2, n) * rng.choice([-1, 1], n), rng.normal(size=n)
    return tuple(v.astype(np.float16).astype(np.float64) for v in (x, dy, gamma, beta))


def exact(x, dy, gamma, beta):
    """``(y, xhat, dx, grad_beta, grad_gamma)``, the last two means."""
    s = np.sqrt(x.var(axis=0) + EPSILON)
    xhat = (x - x.mean(axis=0)) / s
    grad_beta, grad_gamma = dy.mean(axis=0), (dy * xhat).mean(axis=0)
    return (gamma * xhat + beta, xhat, gamma / s * (dy - grad_beta - xhat * grad_gamma),
            grad_beta, grad_gamma)


def error(found, expected):
    """The largest, in units of the largest number."""
    return np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("ratio", "scale"), [
    (1, 1), (0, 1000), (10, 1), (100, 1), (10, 100), (1, 0.01), (1, 5000)])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_close_to_float64(seed, ratio, scale):
    x, dy, gamma, beta = tensors(seed, ratio=ratio, scale=scale)
    m, n = x.shape
    root = np.full(n, root_epsilon(m, EPSILON))
    y, xhat, inverse, high, low = forward(x, gamma, beta, root)
    expected_y, expected_xhat, expected_dx, expected_beta, expected_gamma = exact(
        x, dy, gamma, beta)
    # The last bit of binary16 is 2**-11 of the first; that of 1 / s has its error in all numbers.
    assert error(xhat, expected_xhat) < 2**-10
    assert error(y, expected_y) < 2**-9.5
    means = high.astype(np.float64) + low.astype(np.float64)
    # What is lacking is a multiple of 2**-24.
    assert (np.abs(means - x.mean(axis=0)) < 2**-21 * np.abs(means) + 2**-25).all()
    s = np.sqrt(x.var(axis=0) + EPSILON)
    assert np.abs(inverse.astype(np.float64) * s - 1).max() < 2**-10.9
    dx, grad_beta, grad_gamma = backward(dy, xhat, gamma, inverse)
    assert error(dx, expected_dx) < 2**-8.5
    assert error(grad_beta, expected_beta) < 2**-11
    assert error(grad_gamma, expected_gamma) < 2**-9


def test_a_constant_channel_is_its_beta():
    x = np.full((5, 2), [7.0, 1000.0])
    y, xhat, inverse, high, low = forward(x, [2, 3], [0.5, -1], np.full(2, root_epsilon(5, 1e-5)))
    assert (xhat == 0).all() and (y == np.float16([0.5, -1])).all()
    assert (high + low == [7, 1000]).all()
    assert np.allclose(inverse, 1e-5**-0.5, rtol=2**-10)


def test_binary32_statistics_matter():
    """A sum of 511 numbers in binary16 would lose its last bits, a variance overflow."""
    x = np.full((511, 1), 300.0)
    x[::2] = 301
    _, xhat, inverse, high, low = forward(x, 1, 0, [root_epsilon(511, 1e-5)])
    assert abs(high[0] + np.float64(low[0]) - x.mean()) < 2e-5
    assert abs(np.abs(xhat).max() - 1) < 3e-3 and abs(inverse[0] - 2) < 2e-3

"""sim.model.norm_l2 against the same equations in floating point."""

import numpy as np
import pytest

from hdl.params import NORM_FRACTION, PARAMETER_FRACTION, XHAT_FRACTION
from sim.model.norm import GRADIENT_BITS, gradient_exponent
from sim.model.norm_l2 import l2_backward, l2_forward, mean_and_deviation
from tests.support.norms import check_slopes, relative_error, tensors


def float_forward(x, gamma, beta):
    return np.maximum(gamma * (x - x.mean(axis=0)) / x.std(axis=0) + beta, 0)


def float_backward(x, dy, gamma, beta):
    """``(dx, dgamma, dbeta)``, written out."""
    xhat = (x - x.mean(axis=0)) / x.std(axis=0)
    dy = np.where(gamma * xhat + beta > 0, dy, 0)
    dx = gamma / x.std(axis=0) * (dy - dy.mean(axis=0) - xhat * (dy * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_float_gradient_is_that_of_the_float_norm(seed):
    check_slopes(float_forward, float_backward, seed)


@pytest.mark.parametrize("scale", [100, 3000, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_forward_is_close(seed, scale):
    x, _, gamma, beta = tensors(seed, scale=scale)
    y, context, _, deviation, clamped = l2_forward(x, gamma, beta)
    expected = float_forward(x, gamma / 2**PARAMETER_FRACTION, beta / 2**PARAMETER_FRACTION)
    assert clamped == 0 and not context.sign.any()
    assert relative_error(context.xhat / 2**XHAT_FRACTION, (x - x.mean(axis=0)) / x.std(axis=0)
                          ) < 2e-3
    assert relative_error(y / 2**PARAMETER_FRACTION, expected) < 2e-3
    near = np.abs(y) <= 2**4
    assert ((context.mask == (expected > 0)) | near).all()
    assert (mean_and_deviation(x)[1] == deviation).all()


@pytest.mark.parametrize("scale", [1, 7, 100, 2**22])
def test_mean_and_deviation_are_floors(scale):
    rng = np.random.default_rng(scale)
    x = rng.integers(-scale, scale + 1, (37, 50))
    mean, deviation = (v / 2**NORM_FRACTION for v in mean_and_deviation(x))
    lsb = 2**-NORM_FRACTION
    assert (mean <= x.mean(axis=0)).all() and (mean > x.mean(axis=0) - lsb).all()
    assert (np.abs(deviation - x.std(axis=0)) < 2 * lsb).all()


def test_the_largest_sum_of_squares_is_exact():
    x = np.where(np.arange(511) % 2, 2**31 - 1, -2**31)[:, None]
    mean, deviation = mean_and_deviation(x)
    d = [(2**29 - 64 if row % 2 else -2**29) - int(mean[0]) for row in range(511)]
    v = sum(value * value for value in d) // 511
    assert int(deviation[0])**2 <= v < (int(deviation[0]) + 1)**2 and deviation[0] >= 2**29 - 2**11


@pytest.mark.parametrize("scale", [100, 3000, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_backward_is_close(seed, scale):
    x, dy, gamma, beta = tensors(seed, scale=scale)
    _, context, _, deviation, _ = l2_forward(x, gamma, beta)
    dx, grad_beta, grad_gamma, grad_bits, deviation_bits = l2_backward(
        dy, context, gamma, deviation)
    expected = float_backward(x, dy, gamma / 2**PARAMETER_FRACTION, beta / 2**PARAMETER_FRACTION)
    m, unit = len(x), 2.0 ** (grad_bits - GRADIENT_BITS)
    assert relative_error(dx * 2.0 ** gradient_exponent(grad_bits, deviation_bits),
                          expected[0]) < 3e-3
    assert relative_error(m * grad_gamma * unit, expected[1]) < 3e-3
    assert relative_error(m * grad_beta * unit, expected[2]) < 1e-4


def test_a_constant_channel_is_its_beta_and_passes_no_gradient():
    y, context, _, deviation, _ = l2_forward(np.full((5, 1), 7), np.array([4096]), np.array([-3]),
                                             apply_relu=False)
    assert (y == -3).all() and deviation[0] == 0
    assert not l2_backward(np.arange(5)[:, None], context, 4096, deviation)[0].any()

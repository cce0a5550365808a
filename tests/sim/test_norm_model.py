"""sim.model.norm against the same equations in floating point."""

import numpy as np
import pytest

from hdl.params import NORM_FRACTION, PARAMETER_FRACTION, XHAT_FRACTION
from sim.model.norm import GRADIENT_BITS, gradient_exponent, l1_backward, l1_forward
from tests.support.norms import check_slopes, relative_error, tensors


def float_forward(x, gamma, beta):
    d = x - x.mean(axis=0)
    y = gamma * d / np.abs(d).mean(axis=0) + beta
    return np.maximum(y, 0)


def float_backward(x, dy, gamma, beta):
    """``(dx, dgamma, dbeta)``, written out."""
    d = x - x.mean(axis=0)
    s = np.abs(d).mean(axis=0)
    xhat, sign = d / s, np.sign(d)
    dy = np.where(gamma * xhat + beta > 0, dy, 0)
    g = gamma * dy
    dx = (g - g.mean(axis=0) - (sign - sign.mean(axis=0)) * (g * xhat).mean(axis=0)) / s
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_float_gradient_is_that_of_the_float_norm(seed):
    check_slopes(float_forward, float_backward, seed)


@pytest.mark.parametrize("scale", [100, 3000, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_forward_is_close(seed, scale):
    x, _, gamma, beta = tensors(seed, scale=scale)
    y, context, mean, deviation, clamped = l1_forward(x, gamma, beta)
    expected = float_forward(x, gamma / 2**PARAMETER_FRACTION, beta / 2**PARAMETER_FRACTION)
    d = x - x.mean(axis=0)
    assert clamped == 0
    assert np.abs(mean / 2**NORM_FRACTION - x.mean(axis=0)).max() <= 2**-NORM_FRACTION
    assert np.abs(deviation / 2**NORM_FRACTION - np.abs(d).mean(axis=0)).max() <= (
        2 * 2**-NORM_FRACTION)
    # Half an LSB of xhat, 2**-11 of about 1, and the deviation's floor.
    assert relative_error(context.xhat / 2**XHAT_FRACTION, d / np.abs(d).mean(axis=0)) < 2e-3
    assert relative_error(y / 2**PARAMETER_FRACTION, expected) < 2e-3
    near = np.abs(y) <= 2**4
    assert ((context.mask == (expected > 0)) | near).all()


@pytest.mark.parametrize("scale", [100, 3000, 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_backward_is_close(seed, scale):
    x, dy, gamma, beta = tensors(seed, scale=scale)
    _, context, _, deviation, _ = l1_forward(x, gamma, beta)
    found = l1_backward(dy, context, gamma, deviation)
    dx, grad_beta, grad_gamma, grad_bits, deviation_bits = found
    expected = float_backward(x, dy, gamma / 2**PARAMETER_FRACTION, beta / 2**PARAMETER_FRACTION)
    m, unit = len(x), 2.0 ** (grad_bits - GRADIENT_BITS)
    assert relative_error(dx * 2.0 ** gradient_exponent(grad_bits, deviation_bits),
                          expected[0]) < 3e-3
    assert relative_error(m * grad_gamma * unit, expected[1]) < 3e-3
    assert relative_error(m * grad_beta * unit, expected[2]) < 1e-4


def test_the_scale_of_the_gradient_does_not_matter():
    x, dy, gamma, beta = tensors(1)
    _, context, _, deviation, _ = l1_forward(x, gamma, beta)
    first = l1_backward(dy, context, gamma, deviation)
    second = l1_backward(dy << 9, context, gamma, deviation)
    assert (first[0] == second[0]).all() and second[3] == first[3] + 9

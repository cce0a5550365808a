"""hdl.norm.backward against sim.model.norm.l1_backward."""

import numpy as np
import pytest

from hdl.norm import NormBackward
from hdl.norm.backward_lane import GRAD_GAMMA_BITS, OFFSET_BITS, total_bits
from hdl.params import MAX_K, MAX_M, Params
from sim.model.norm import l1_backward, l1_forward
from tests.support.norms import column, norm_backward, random_backward


def norm(params, cases):
    return norm_backward(NormBackward(params), (l1_forward, l1_backward), cases, largest=2**23)


@pytest.mark.parametrize("masters", [0, 4])
@pytest.mark.parametrize(("cols", "n", "x_scale", "dy_scale", "seed"), [
    (1, 2, 1, 1, 0), (1, 3, 10, 2**31, 1), (3, 5, 1000, 1000, 2), (3, 5, 2**20, 2**19, 3),
    (5, 3, 2**23, 2**20, 4), (9, 11, 2**31, 2**12, 5)])
def test_random_tensors_equal_the_model(cols, n, x_scale, dy_scale, seed, masters):
    rng = np.random.default_rng(seed)
    norm(Params(lanes=cols, rows=cols, cols=cols, memory=4, masters=masters), [
        random_backward(rng, 9, n, x_scale, dy_scale, in_place=bool(scan ^ seed % 2))
        for scan in range(1 + bool(masters))])


@pytest.mark.parametrize("masters", [0, 4])
def test_small_tensors(masters):
    rng = np.random.default_rng(3)
    norm(Params(lanes=0, cols=2, memory=4, masters=masters), [
        random_backward(rng, m, n, 100, 100, in_place=True) for m, n in ((1, 1), (1, 3), (2, 2))])


@pytest.mark.parametrize("length", [0, 1, 19, 20, 31])
def test_gradients_of_every_length(length):
    """The largest magnitude is ``2**length - 1``, or ``2**(length - 1)`` and negative."""
    rng = np.random.default_rng(length)
    x = rng.integers(-99, 99, (4, 2))
    cases = []
    for top in {2**length - 1, -(2**length >> 1)}:
        dy = rng.integers(-(abs(top) // 2), abs(top) // 2 + 1, (4, 2))
        dy[2, 1] = top
        cases.append({"x": x, "dy": dy, "rectify": False})
    norm(Params(lanes=0, cols=2, memory=4), cases)


def test_a_masked_gradient_does_not_count():
    x = np.array([[-50], [20], [40]])
    dy = np.array([[2**31 - 1], [5], [-3]])
    norm(Params(lanes=0, cols=2, memory=4), [
        {"x": x, "dy": dy}, {"x": x, "dy": dy, "beta": -2**20}])


@pytest.mark.parametrize(("bits", "cols", "rows", "depth", "more"), [
    (2, 1, 1, 1, {}), (2, 1, 1, 3, {}), (4, 3, 3, 3, {}), (8, 2, 2, 4, {}), (4, 3, 3, 1, {}),
    # Reads of codes are announced.
    (3, 2, 2, 3, {"masters": 4}),
    (2, 1, 1, 1, {"masters": 4, "sample_groups": 1, "channel_groups": 1})])
def test_a_clipped_output_passes_no_gradient(bits, cols, rows, depth, more):
    params = Params(lanes=0, cols=cols, bits=bits, rows=rows, depth=depth, memory=4, **more)
    assert params.vector == cols
    rng = np.random.default_rng(bits)
    cases = []
    for n in (1, cols, 2 * cols + 1, params.slots + 1):
        case = random_backward(rng, 7, n, 1000, 1000, in_place=bool(n % 2))
        codes = rng.integers(0, 2**bits, (7, n))
        codes[rng.random((7, n)) < 0.3] = 2**bits - 1
        # Without a code in the same place, then with, then all clipped.
        cases += [case, {**case, "codes": codes},
                  {**case, "codes": np.full((7, n), 2**bits - 1)}]
        cases.append({**random_backward(rng, 1, n, 1000, 1000), "codes": codes[:1]})
    norm(params, cases)


def test_the_most_negative_gradient():
    rng = np.random.default_rng(5)
    x = rng.integers(-999, 999, (6, 2))
    dy = rng.integers(-2**31, 2**31, (6, 2))
    dy[1, 0] = -2**31
    norm(Params(lanes=0, cols=2, memory=4), [
        {"x": x, "dy": dy, "rectify": False},
        {"x": x, "dy": np.full((6, 2), -2**31), "rectify": False}])


def test_constant_channels_pass_no_gradient():
    rng = np.random.default_rng(6)
    x = rng.integers(-999, 999, (6, 3))
    x[:, [0, 2]] = 7, -2**23
    dy = rng.integers(-999, 999, (6, 3))
    norm(Params(lanes=0, cols=2, memory=4), [
        {"x": x, "dy": dy, "rectify": False},
        {"x": np.full((6, 3), 3), "dy": dy, "rectify": False},   # no deviation at all
        {"x": x, "dy": np.zeros((6, 3)), "rectify": False}])


def test_lanes_beyond_the_tensor_do_not_count():
    rng = np.random.default_rng(8)
    x, dy = rng.integers(-999, 999, (6, 8)), rng.integers(-99, 99, (6, 8))
    # Beyond: the smallest deviation, and the largest gradient.
    x[:, 5:] = np.array([0, 0, 0, 0, 0, 1])[:, None]
    dy[:, 5:] = -2**31
    norm(Params(lanes=0, cols=4, memory=4), [{"x": x, "dy": dy, "rectify": False, "beyond": 3}])


@pytest.mark.parametrize(("m", "masters"), [
    (MAX_M, 0), (767, 4), pytest.param(MAX_K, 4, marks=pytest.mark.regress)])
def test_longest_columns_at_the_limits(m, masters):
    gamma = np.array([-2**15, 2**15 - 1, -2**15, 2**15 - 1])
    x, few = np.zeros((m, 4), np.int64), m // 64 + 1
    # Deviation 1, where the mean of |xhat| may be largest.
    x[:few, 0] = 1
    # A few far away on either side, all others a little above the mean.
    x[:, 1] = column(m, 1, *[2000] * few, *[-2010] * few)
    x[0, 2], x[m // 2 + 1:, 3] = 2**31 - 1, -2**31
    _, context, _, deviation, _ = l1_forward(x, 4096, 0, apply_relu=False)
    g = context.sign.copy()
    g[2 * few:, 1] = -1  # against the mean of the signs times grad_gamma,
    g[m // 2, 1] = 1   # but for one
    g[:, 3] = -g[:, 3]
    dy = np.where(g > 0, 2**31 - 1, -2**31)
    _, grad_beta, grad_gamma, _, _ = l1_backward(dy, context, gamma, deviation)
    assert deviation[0] == 1 and grad_gamma.max() >= 1 << GRAD_GAMMA_BITS - 2
    # With one bit less the largest sum would not fit.
    assert np.abs(((dy >> 12) * context.xhat).sum(axis=0)).max() >= 1 << total_bits(m) - 2
    u = (dy >> 12) - grad_beta + context.sign.sum(axis=0) * grad_gamma // m
    assert u.max() >= 1 << OFFSET_BITS - 2
    unit = norm(Params(lanes=0, cols=4, memory=4, masters=masters), [
        {"x": x, "dy": dy, "gamma": gamma, "rectify": False}])
    assert unit.cycles(m, 5) == (2 * (5 * m + 199) + 24 if masters else
                                 2 * (6 * m + 1029) + 138)

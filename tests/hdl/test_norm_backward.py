"""hdl.norm.backward against sim.model.norm.l1_backward."""

import numpy as np
import pytest

from hdl.norm import NormBackward
from hdl.norm.backward_lane import GRAD_GAMMA_BITS, OFFSET_BITS
from hdl.params import Params
from hdl.protocol import STATE_ROWS, BackwardFlag, Opcode, StateRow
from sim.model.norm import l1_backward, l1_forward
from sim.model.relu import unclipped
from tests.support.memories import UnitBench

WIDE = (-2**31, 2**31 - 1)


def norm(params, cases):
    """Every case, keyword arguments of :func:`check`, equals the model, one after the other."""
    unit = NormBackward(params)
    bench = UnitBench(unit, params, words={"wide": 4096, "quant": 1024})

    async def process(ctx):
        for case in cases:
            await check(ctx, bench, unit, **case)

    bench.simulate(process)
    return unit


async def check(ctx, bench, unit, x, dy, gamma=4096, beta=0, rectify=True, in_place=False,
                beyond=0, codes=None):
    """``beyond`` columns of x and dy lie in the tile, but beyond the tensor; ``codes`` are what
    the output was quantised to."""
    x, dy = np.asarray(x, np.int64), np.asarray(dy, np.int64)
    m, n = x.shape
    gamma, beta = np.broadcast_to(gamma, n), np.broadcast_to(beta, n)
    _, context, _, deviation, _ = l1_forward(x, gamma, beta, apply_relu=rectify)
    state = np.random.default_rng(7).integers(*WIDE, (STATE_ROWS, n))
    state[StateRow.GAMMA], state[StateRow.DEVIATION] = gamma, deviation
    src0, src1, dst0, dst1 = 0, 2048, 2560, 3072
    bench.load(ctx, "wide", src0, dy)
    bench.load(ctx, "wide", src1, state)
    bench.load(ctx, "wide", dst1, context.pack())
    dst0 = src0 if in_place else dst0
    n -= beyond
    passed = context.mask
    if codes is not None:
        bits = unit.params.bits
        passed = passed & unclipped(codes, bits)
        bench.load(ctx, "quant", 17, codes - (1 << bits - 1))
    cycles, clamped = await bench.run(
        ctx, Opcode.NORM_BACKWARD, m=m, n=n, src0=src0, src1=src1, dst0=dst0, dst1=dst1,
        flags=BackwardFlag.CLIPPED * (codes is not None), tab0=17 * (codes is not None))
    used = type(context)(context.xhat[:, :n], context.sign[:, :n], passed[:, :n])
    dx, grad_beta, grad_gamma, grad_bits, deviation_bits = l1_backward(
        dy[:, :n], used, gamma[:n], deviation[:n])
    assert np.abs(dx).max() <= 2**23
    state = state[:, :n]
    state[StateRow.GRAD_BETA], state[StateRow.GRAD_GAMMA] = grad_beta, grad_gamma
    state[StateRow.GRAD_BITS], state[StateRow.DEVIATION_BITS] = grad_bits, deviation_bits
    found = bench.dump(ctx, "wide", src1, STATE_ROWS, n)
    for row in StateRow:
        assert (found[row] == state[row]).all(), row.name
    assert (bench.dump(ctx, "wide", dst0, m, n) == dx).all()
    assert (bench.dump(ctx, "wide", dst1, m, n) == context.pack()[:, :n]).all()
    assert clamped == 0
    assert cycles == unit.cycles(m, n)


def column(m, rest, *first):
    """A column that begins with ``first``."""
    return np.array([*first] + [rest] * (m - len(first)))


def random_case(rng, m, n, x_scale, dy_scale, **more):
    x = rng.integers(-x_scale, x_scale + 1, (m, n)) >> rng.integers(0, 6, n)
    return {"x": np.clip(x, *WIDE), "dy": np.clip(rng.integers(-dy_scale, dy_scale + 1, (m, n)),
                                                  *WIDE),
            "gamma": rng.integers(-2**15, 2**15, n), "beta": rng.integers(-2**13, 2**13, n),
            "rectify": bool(rng.integers(2)), **more}


@pytest.mark.parametrize(("cols", "n", "x_scale", "dy_scale", "seed"), [
    (1, 2, 1, 1, 0), (1, 3, 10, 2**31, 1), (3, 5, 1000, 1000, 2), (3, 5, 2**20, 2**19, 3),
    (5, 3, 2**23, 2**20, 4), (9, 11, 2**31, 2**12, 5)])
def test_random_tensors_equal_the_model(cols, n, x_scale, dy_scale, seed):
    rng = np.random.default_rng(seed)
    norm(Params(cols=cols, memory=4), [
        random_case(rng, 9, n, x_scale, dy_scale, in_place=bool(seed % 2))])


def test_small_tensors():
    rng = np.random.default_rng(3)
    norm(Params(cols=2, memory=4), [
        random_case(rng, m, n, 100, 100, in_place=True) for m, n in ((1, 1), (1, 3), (2, 2))])


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
    norm(Params(cols=2, memory=4), cases)


def test_a_masked_gradient_does_not_count():
    x = np.array([[-50], [20], [40]])
    dy = np.array([[2**31 - 1], [5], [-3]])
    norm(Params(cols=2, memory=4), [{"x": x, "dy": dy}, {"x": x, "dy": dy, "beta": -2**20}])


@pytest.mark.parametrize(("bits", "cols"), [(2, 1), (4, 3), (8, 2)])
def test_a_clipped_output_passes_no_gradient(bits, cols):
    rng = np.random.default_rng(bits)
    cases = []
    for n in (1, cols, 2 * cols + 1):
        case = random_case(rng, 7, n, 1000, 1000, in_place=bool(n % 2))
        codes = rng.integers(0, 2**bits, (7, n))
        codes[rng.random((7, n)) < 0.3] = 2**bits - 1
        # Without a code in the same place, then with, then all clipped.
        cases += [case, {**case, "codes": codes},
                  {**case, "codes": np.full((7, n), 2**bits - 1)}]
    norm(Params(cols=cols, bits=bits, memory=4), cases)


def test_the_most_negative_gradient():
    rng = np.random.default_rng(5)
    x = rng.integers(-999, 999, (6, 2))
    dy = rng.integers(-2**31, 2**31, (6, 2))
    dy[1, 0] = -2**31
    norm(Params(cols=2, memory=4), [
        {"x": x, "dy": dy, "rectify": False},
        {"x": x, "dy": np.full((6, 2), -2**31), "rectify": False}])


def test_constant_channels_pass_no_gradient():
    rng = np.random.default_rng(6)
    x = rng.integers(-999, 999, (6, 3))
    x[:, [0, 2]] = 7, -2**23
    dy = rng.integers(-999, 999, (6, 3))
    norm(Params(cols=2, memory=4), [
        {"x": x, "dy": dy, "rectify": False},
        {"x": np.full((6, 3), 3), "dy": dy, "rectify": False},   # no deviation at all
        {"x": x, "dy": np.zeros((6, 3)), "rectify": False}])


def test_lanes_beyond_the_tensor_do_not_count():
    rng = np.random.default_rng(8)
    x, dy = rng.integers(-999, 999, (6, 8)), rng.integers(-99, 99, (6, 8))
    # Beyond: the smallest deviation, and the largest gradient.
    x[:, 5:] = np.array([0, 0, 0, 0, 0, 1])[:, None]
    dy[:, 5:] = -2**31
    norm(Params(cols=4, memory=4), [{"x": x, "dy": dy, "rectify": False, "beyond": 3}])


def test_longest_columns_at_the_limits():
    m, gamma = 511, np.array([-2**15, 2**15 - 1, -2**15, 2**15 - 1])
    x = np.zeros((m, 4), np.int64)
    # Deviation 1, where the mean of |xhat| may be largest.
    x[:8, 0] = 1
    # A few far away on either side, all others a little above the mean.
    x[:, 1] = column(m, 1, *[2000] * 8, *[-2010] * 8)
    x[0, 2], x[256:, 3] = 2**31 - 1, -2**31
    _, context, _, deviation, _ = l1_forward(x, 4096, 0, apply_relu=False)
    g = context.sign.copy()
    g[16:, 1] = -1       # against the mean of the signs times grad_gamma,
    g[511 // 2, 1] = 1   # but for one
    g[:, 3] = -g[:, 3]
    dy = np.where(g > 0, 2**31 - 1, -2**31)
    _, grad_beta, grad_gamma, _, _ = l1_backward(dy, context, gamma, deviation)
    assert deviation[0] == 1 and grad_gamma.max() >= 1 << GRAD_GAMMA_BITS - 2
    u = (dy >> 12) - grad_beta + context.sign.sum(axis=0) * grad_gamma // m
    assert u.max() >= 1 << OFFSET_BITS - 2
    unit = norm(Params(cols=4, memory=4), [{"x": x, "dy": dy, "gamma": gamma, "rectify": False}])
    assert unit.cycles(511, 5) == 2 * (6 * 511 + 1024) + 138

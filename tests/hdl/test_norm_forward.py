"""hdl.norm.forward against sim.model.norm.l1_forward."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.norm import NormForward
from hdl.norm.forward import LaneCount
from hdl.norm.forward_lane import Normalise
from hdl.norm.l1 import MeanMagnitude
from hdl.params import MAX_K, MAX_M, Params
from sim.model.norm import l1_forward
from sim.model.rounding import round_shift, saturate
from tests.support.norms import WIDE, column, norm_forward, random_forward


def norm(params, cases):
    return norm_forward(NormForward(params), l1_forward, cases)


@pytest.mark.parametrize("masters", [0, 4])
@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [10, 2**23], 1), (5, 3, [2**20, 2**31], 2),
    (9, 11, [100, 2**30], 3)])
def test_random_tensors_equal_the_model(cols, n, scales, seed, masters):
    rng = np.random.default_rng(seed)
    norm(Params(lanes=cols, rows=cols, cols=cols, memory=4, masters=masters), [
        random_forward(rng, 9, n, scale, in_place=scale == max(scales)) for scale in scales])


def test_inference():
    rng = np.random.default_rng(0)
    cases = []
    for scale in (1, 1000, 2**31 - 1):
        case = random_forward(rng, 6, 5, scale, in_place=scale == 1000)
        case["mean"] = rng.integers(-scale, scale, 5)
        case["mean"][:2] = WIDE
        case["deviation"] = rng.integers(0, scale, 5)
        case["deviation"][1:4] = 0, 1, 2**31 - 1
        cases.append(case)
    norm(Params(lanes=0, cols=4, memory=4), cases)


def test_small_tensors():
    rng = np.random.default_rng(3)
    norm(Params(lanes=0, cols=2, memory=4), [
        random_forward(rng, m, n, 100, in_place=True) for m, n in ((1, 1), (1, 3), (2, 2))])


@pytest.mark.parametrize(("m", "masters"), [
    (MAX_M, 0), (767, 4), pytest.param(MAX_K, 4, marks=pytest.mark.regress)])
def test_longest_columns_at_the_limits(m, masters):
    low, high = -2**23, 2**23 - 1
    half = column(m, low, *[high] * (m // 2 + 1))
    x = np.stack([
        column(m, low), column(m, high),     # the largest sums of x
        half, half[::-1],                    # the largest deviation
        column(m, 0, high), column(m, 0, low),   # xhat saturates
        column(m, 0, 1), column(m, 0, *[1] * (m // 64 + 1)),  # deviations 0 and 1
    ], axis=1)
    _, context, mean, deviation, _ = l1_forward(x, 4096, 0)
    assert mean.min() == -2**29 and deviation.max() > 2**28 and 0 in deviation and 1 in deviation
    assert {-2**15, 2**15 - 1} <= set(context.xhat.flat)
    unit = norm(Params(lanes=0, cols=8, memory=4, masters=masters), [
        {"x": x, "gamma": [-2**15, 2**15 - 1] * 4, "rectify": False}])
    assert unit.cycles(m, 9) == 2 * (4 * m + (164 if masters else 698)) + 1
    # With one bit less the largest sum would not fit.
    total = MeanMagnitude.total_bits(m)
    assert (64 * x).sum(axis=0).min() < -1 << total - 2


def test_everything_is_clamped_and_counted():
    x = np.stack([column(200, 0, *start) for start in (WIDE, WIDE[::-1], (2**23, -2**23 - 1))],
                 axis=1)
    case = {"x": x, "beta": [2**31 - 1, -2**31, 2**31 - 4096], "rectify": False}
    y, context, _, _, clamped = l1_forward(x, np.full(3, 2**15 - 1), np.array(case["beta"]),
                                           apply_relu=False)
    assert clamped > 3 * 2 * 2 and {-2**31, 2**31 - 1} <= set(y.flat)
    assert {-2**15, 2**15 - 1} <= set(context.xhat.flat)
    unit = norm(Params(lanes=0, cols=4, memory=4), [{**case, "gamma": 2**15 - 1}])
    assert unit.cycles(200, 3) == 4 * 200 + 698 + 1
    assert unit.cycles(200, 5, inference=True) == 2 * (2 * 200 + 332) + 1


def test_a_constant_channel_is_its_beta():
    x = np.full((5, 3), [7, -2**31, 0])
    norm(Params(lanes=0, cols=2, memory=4), [
        {"x": x, "beta": [-3, 9, 0], "rectify": rectify} for rectify in (False, True)])


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_xhat_at_its_limits():
    """Every product near the limits, with every length that allows it, is rounded and clamped."""
    dut = Normalise()
    cases = [((limit << length + 5) + (offset << max(length + 4 - 2, 0)) + odd, length)
             for limit in (-2**15, 2**15) for length in range(1, 29)
             for offset in range(-12, 13) for odd in (-1, 0, 1)]

    async def bench(ctx):
        for i, (product, length) in enumerate([*cases, *[(0, 0)] * dut.LATENCY]):
            ctx.set(dut.product, product)
            ctx.set(dut.length, length)
            if i >= dut.LATENCY:
                product, length = cases[i - dut.LATENCY]
                xhat, over = saturate(round_shift(product, length + 5), 16)
                assert (ctx.get(dut.xhat), ctx.get(dut.over)) == (xhat, over)
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("cols", [1, 8, 11, 64])
def test_the_count_of_all_lanes(cols):
    dut = LaneCount(cols)

    async def bench(ctx):
        for lane in range(cols):
            ctx.set(dut.i[lane], 3)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.o) == 3 * cols

    simulate(dut, bench)

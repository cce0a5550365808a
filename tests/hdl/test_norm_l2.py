"""hdl.baseline.l2 and hdl.baseline.root against sim.model.norm_l2."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.baseline.l2 import RootMeanSquare, SquaringMultiplier, XhatCorrection
from hdl.baseline.root import RootReciprocal
from hdl.norm import NormBackward, NormForward
from hdl.norm.reciprocal import LaneDivider, Operation
from hdl.params import Params
from sim.model.norm import reciprocal
from sim.model.norm_l2 import l2_backward, l2_forward, root
from tests.support.norms import (
    WIDE,
    column,
    norm_backward,
    norm_forward,
    random_backward,
    random_forward,
)


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_products_and_squares(folded, square):
    dut = SquaringMultiplier(33, 31, folded=folded)
    rng = random.Random(1)
    top = 2**30 if square else 2**32 - 1
    cases = [(a, b) for a in (-2**30, top, 2**16, 2**16 - 1, -1, 0) for b in (-2**17, 2**17 - 1)]
    cases += [(rng.randrange(-2**30, top), rng.randrange(-2**17, 2**17)) for _ in range(100)]

    async def bench(ctx):
        ctx.set(dut.square, square)
        for i in range(len(cases) + dut.LATENCY):
            a, b = cases[min(i, len(cases) - 1)]
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            if i >= dut.LATENCY:
                a, b = cases[i - dut.LATENCY]
                assert ctx.get(dut.o) == (a * a if square else a * b)
            await ctx.tick()

    simulate(dut, bench)


def test_roots_means_and_reciprocals():
    dut = LaneDivider(2, RootMeanSquare.TOTAL_BITS, 30, unit=RootReciprocal)
    place = RootMeanSquare.TOTAL_BITS - RootReciprocal.SHORT_BITS
    rng = random.Random(2)
    # Squares, and what is one less.
    variances = [v for q in (1, 2, 3, 2**15, 2**29 - 1, rng.randrange(2**29))
                 for v in (q * q - 1, q * q)]
    variances += [rng.getrandbits(58) >> rng.randrange(58) for _ in range(8)]

    async def run(ctx, operation, expected):
        ctx.set(dut.operation, operation)
        ctx.set(dut.start, 1)
        found, cycles = {}, 0
        while not ctx.get(dut.done):
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.operation, Operation.LENGTH)
            cycles += 1
            for lane in range(2):
                if ctx.get(dut.take) >> lane & 1:
                    found[lane] = ctx.get(dut.quotient[0])
        assert [found[0], found[1]] == expected
        assert cycles == dut.latency(operation)
        await ctx.tick()

    async def bench(ctx):
        for first in range(0, len(variances), 2):
            batch = variances[first:first + 2]
            m = (1, 2, 511)[first % 3]
            ctx.set(dut.denominator, m)
            for lane, v in enumerate(batch):
                ctx.set(dut.numerator[lane], v * m + rng.randrange(m))
            await run(ctx, Operation.ROOT, root(batch).tolist())
            sums = [rng.randrange(-m << 29, m << 29) for _ in batch]
            for lane, total in enumerate(sums):
                ctx.set(dut.numerator[lane], total << place)
            await run(ctx, Operation.DIVIDE, [total // m for total in sums])
            deviations = root(batch).tolist()
            for lane, deviation in enumerate(deviations):
                ctx.set(dut.value[lane], deviation)
            await run(ctx, Operation.INVERT, reciprocal(deviations)[0].tolist())

    simulate(dut, bench)


def forward(params, cases):
    return norm_forward(NormForward(params, RootMeanSquare), l2_forward, cases)


def backward(params, cases):
    return norm_backward(NormBackward(params, XhatCorrection), (l2_forward, l2_backward), cases,
                         largest=2**26 - 1)


@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [10, 2**23], 1), (5, 3, [2**20, 2**31], 2)])
def test_forward_equals_the_model(cols, n, scales, seed):
    rng = np.random.default_rng(seed)
    forward(Params(lanes=cols, rows=cols, cols=cols, memory=4), [
        random_forward(rng, 9, n, scale, in_place=scale == max(scales)) for scale in scales])


def test_small_tensors_and_inference():
    rng = np.random.default_rng(3)
    cases = [random_forward(rng, m, n, 100, in_place=True) for m, n in ((1, 1), (1, 3), (2, 2))]
    given = random_forward(rng, 6, 3, 2**31 - 1)
    cases.append({**given, "mean": np.array([*WIDE, 5]), "deviation": np.array([1, 0, 2**31 - 1])})
    forward(Params(lanes=0, cols=2, memory=4), cases)


def test_longest_columns_forward():
    m, low, high = 511, -2**23, 2**23 - 1
    half = column(m, low, *[high] * 256)
    x = np.stack([
        column(m, low), column(m, high),         # the largest sums of x
        half, half[::-1],                        # the largest deviation
        column(m, 0, high), column(m, 0, 1),     # the largest |d|, the smallest deviation
    ], axis=1)
    _, context, mean, deviation, _ = l2_forward(x, 4096, 0)
    assert mean.min() == -2**29 and deviation.max() > 2**28
    assert sorted(set(deviation))[:2] == [0, 2] and context.xhat.max() > 22 << 10
    unit = forward(Params(lanes=6, rows=6, cols=6, memory=4), [{"x": x, "rectify": False}])
    # The L1 norm's 694 and, for each of four lanes that share a divider, 30 for the longer one.
    assert unit.cycles(511, 7) == 2 * (4 * 511 + 698 + 4 * 30) + 1
    assert unit.cycles(200, 7, inference=True) == 2 * (2 * 200 + 332) + 1


@pytest.mark.parametrize(("cols", "n", "x_scale", "dy_scale", "seed"), [
    (1, 2, 1, 1, 0), (1, 3, 10, 2**31, 1), (3, 5, 1000, 1000, 2), (3, 5, 2**20, 2**19, 3),
    (5, 3, 2**23, 2**20, 4)])
def test_backward_equals_the_model(cols, n, x_scale, dy_scale, seed):
    rng = np.random.default_rng(seed)
    cases = [random_backward(rng, 9, n, x_scale, dy_scale, in_place=bool(seed % 2))]
    if seed == 2:
        cases += [random_backward(rng, m, n, 100, 100, in_place=True)
                  for m, n in ((1, 1), (1, 3), (2, 2))]
    backward(Params(lanes=cols, rows=cols, cols=cols, memory=4), cases)


def test_longest_columns_backward():
    m, gamma = 511, np.array([-2**15, 2**15 - 1, 2**15 - 1])
    # One far away; half the variance in few; half in one and half in all, and the gradient with
    # them, so that the one is corrected most.
    x = np.stack([column(m, 0, 1), column(m, -1000, *[3000] * 128),
                  column(m, -1000, 16000, *[1000] * 240)], axis=1)
    _, context, _, deviation, _ = l2_forward(x, 4096, 0, apply_relu=False)
    assert deviation[0] == 2
    dy = np.where(context.xhat > 0, 2**31 - 1, -2**31)
    dy[0, 2] = -2**31
    _, grad_beta, grad_gamma, _, _ = l2_backward(dy, context, gamma, deviation)
    t = (dy >> 12) - grad_beta - (context.xhat * grad_gamma >> 10)
    assert np.abs(t).max() >= 1 << XhatCorrection.T_BITS - 3
    unit = backward(Params(lanes=0, cols=4, memory=4), [
        {"x": x, "dy": dy, "gamma": gamma, "rectify": False}])
    # The L1 norm's 1024 less a product and a division, and 3 cycles longer in each of five passes.
    assert unit.cycles(511, 5) == 2 * (6 * 511 + 1029 - 3 - 169 + 15) + 138

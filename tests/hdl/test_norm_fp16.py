"""hdl.baseline.norm_fp16 against sim.model.norm_fp16."""

import numpy as np
import pytest

from hdl.baseline.norm_fp16 import Fp16NormBackward, Fp16NormForward
from hdl.baseline.norm_fp16.state import STATE_ROWS, StateRow
from hdl.params import Params
from hdl.protocol import Opcode
from sim.model.norm_fp16 import backward, forward, root_epsilon
from tests.support.memories import UnitBench

RNG = np.random.default_rng(0)


def words(numbers):
    """binary16 in the lower halves of wide elements."""
    return np.asarray(numbers, np.float16).view(np.uint16).astype(np.int64)


def load(ctx, bench, base, numbers):
    """With anything in the upper halves."""
    junk = RNG.integers(-2**15, 2**15, np.shape(numbers)) << 16
    bench.load(ctx, "wide", base, junk | words(numbers))


def same(found, expected):
    """Every bit, but that of no NaN matters beyond that it is one."""
    expected = words(expected)
    wrong = np.argwhere(found != expected)
    assert not len(wrong), [(tuple(at), hex(found[tuple(at)]), hex(expected[tuple(at)]))
                            for at in wrong[:4]]


def check_forward(cols, cases):
    params = Params(cols=cols, memory=4)
    unit = Fp16NormForward(params)
    bench = UnitBench(unit, params, words={"wide": 4096})

    async def process(ctx):
        for x, gamma, beta, epsilon in cases:
            m, n = x.shape
            gamma, beta = np.broadcast_to(gamma, n), np.broadcast_to(beta, n)
            in_place = bool(m % 2)
            state = RNG.normal(size=(STATE_ROWS, n)).astype(np.float16)
            root = np.full(n, root_epsilon(m, epsilon))
            for row, value in ((StateRow.GAMMA, gamma), (StateRow.BETA, beta),
                               (StateRow.ROOT_EPSILON, root)):
                state[row] = value
            src0, src1, dst0, dst1 = 0, 2048, 2560, 3072
            dst0 = src0 if in_place else dst0
            load(ctx, bench, src0, x)
            load(ctx, bench, src1, state)
            cycles, _ = await bench.run(ctx, Opcode.NORM_FORWARD, m=m, n=n, src0=src0, src1=src1,
                                        dst0=dst0, dst1=dst1)
            y, xhat, inverse, high, low = forward(x, gamma, beta, root)
            found = bench.dump(ctx, "wide", src1, STATE_ROWS, n)
            same(found[StateRow.MEAN], high)
            same(found[StateRow.MEAN_REST], low)
            same(found[StateRow.INVERSE], inverse)
            same(found[StateRow.GAMMA] & 0xFFFF, gamma)
            same(bench.dump(ctx, "wide", dst1, m, n), xhat)
            same(bench.dump(ctx, "wide", dst0, m, n), y)
            assert cycles == unit.cycles(m, n)

    bench.simulate(process)
    return unit


def numbers(rng, m, n, scale):
    x = rng.normal(size=(m, n)) * scale + rng.normal(size=n) * scale * 2
    return np.clip(x, -60000, 60000).astype(np.float16)


@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [1e-4, 20], 1), (5, 3, [2e-6, 1e4], 2)])
def test_forward_equals_the_model(cols, n, scales, seed):
    rng = np.random.default_rng(seed)
    check_forward(cols, [
        (numbers(rng, m, n, scale), rng.normal(size=n).astype(np.float16),
         rng.normal(size=n).astype(np.float16), 1e-5) for scale in scales for m in (9, 24)])


def check_backward(cols, cases):
    params = Params(cols=cols, memory=4)
    unit = Fp16NormBackward(params)
    bench = UnitBench(unit, params, words={"wide": 4096})

    async def process(ctx):
        for dy, xhat, gamma, inverse in cases:
            m, n = dy.shape
            in_place = bool(m % 2)
            state = RNG.normal(size=(STATE_ROWS, n)).astype(np.float16)
            state[StateRow.GAMMA], state[StateRow.INVERSE] = gamma, inverse
            src0, src1, dst0, dst1 = 0, 2048, 2560, 3072
            dst0 = src0 if in_place else dst0
            load(ctx, bench, src0, dy)
            load(ctx, bench, src1, state)
            load(ctx, bench, dst1, xhat)
            cycles, _ = await bench.run(ctx, Opcode.NORM_BACKWARD, m=m, n=n, src0=src0, src1=src1,
                                        dst0=dst0, dst1=dst1)
            dx, grad_beta, grad_gamma = backward(dy, xhat, gamma, inverse)
            found = bench.dump(ctx, "wide", src1, STATE_ROWS, n)
            same(found[StateRow.GRAD_GAMMA], grad_gamma)
            same(found[StateRow.GRAD_BETA], grad_beta)
            same(found[StateRow.INVERSE] & 0xFFFF, inverse)
            same(bench.dump(ctx, "wide", dst0, m, n), dx)
            assert cycles == unit.cycles(m, n)

    bench.simulate(process)
    return unit


@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [1e-4, 20], 1), (5, 3, [2e-6, 1e4], 2)])
def test_backward_equals_the_model(cols, n, scales, seed):
    rng = np.random.default_rng(seed)
    check_backward(cols, [
        (numbers(rng, m, n, scale), numbers(rng, m, n, 1), rng.normal(size=n).astype(np.float16),
         np.exp(rng.normal(size=n)).astype(np.float16)) for scale in scales for m in (9, 24)])

"""hdl.noise against sim.model.noise."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.noise import Noise
from sim.model import noise as model


def hashed(key, counters):
    """The words for ``counters`` [cycles, lanes], one row a clock."""
    cycles, lanes = counters.shape
    dut = Noise(lanes)
    words = []

    async def bench(ctx):
        for lane in range(4):
            ctx.set(dut.key[lane], key[lane])
        await ctx.tick()
        for cycle in range(cycles + dut.LATENCY):
            if cycle >= dut.LATENCY:
                words.append([ctx.get(dut.bits[lane]) for lane in range(lanes)])
            for lane in range(lanes):
                ctx.set(dut.counter[lane], int(counters[cycle % cycles, lane]))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(words)


def test_constants_are_the_models():
    assert (Noise.ROUNDS, Noise.ROUND_CONSTANT) == (model.ROUNDS, model.ROUND_CONSTANT)


def test_published_vectors():
    words = hashed((0x0123, 0x4567, 0x89AB, 0xCDEF), np.array([[0], [1], [2], [65536]]))
    assert words[:, 0].tolist() == [0xA1A7, 0xA6E2, 0x5DEB, 0x53D3]


@pytest.mark.parametrize("seed", range(3))
def test_words_equal_the_model(seed):
    random.seed(seed)
    key = tuple(random.randrange(1 << 16) for _ in range(4))
    counters = np.array([[random.randrange(1 << random.choice((8, 21, 32))) for _ in range(2)]
                         for _ in range(40)])
    assert (hashed(key, counters) == model.bits16(key, counters)).all()


def test_extremes():
    counters = np.array([[0, 0xFFFFFFFF], [0xFFFF, 0xFFFF0000]])
    for word in (0, 0xFFFF):
        key = (word,) * 4
        assert (hashed(key, counters) == model.bits16(key, counters)).all()

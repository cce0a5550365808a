"""hdl.noise against sim.model.noise."""

import random
from math import gcd

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.noise import Hash, Noise
from sim.model import noise as model
from tests.support.field import multiplied

KEY = (0x0123, 0x4567, 0x89AB, 0xCDEF)


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def drawn(lanes, key, starts):
    """``bits`` of the lanes for every ``(block, place)``; blocks of one place one a clock."""
    dut = Noise(lanes)
    words = []

    async def bench(ctx):
        for lane in range(4):
            ctx.set(dut.key[lane], key[lane])
        queue, previous = [], None
        for block, place in [*starts, *[(0, None)] * dut.LATENCY]:
            if place is not None and place != previous:
                # Steady from one cycle before the first block until the last word.
                while queue:
                    await step(ctx, queue)
                ctx.set(dut.place, place)
                await ctx.tick()
                previous = place
            if place is None:
                await step(ctx, queue)
                continue
            ctx.set(dut.block, block)
            queue.append(0)
            await step(ctx, queue)

    async def step(ctx, queue):
        await ctx.tick()
        queue[:] = [age + 1 for age in queue]
        if queue and queue[0] == dut.LATENCY:
            queue.pop(0)
            words.append([ctx.get(dut.bits[lane]) for lane in range(lanes)])

    simulate(dut, bench)
    assert len(words) == len(starts)
    return np.array(words)


def expected(lanes, key, starts):
    """The same of the model: elements of one long row."""
    rows = []
    for block, place in starts:
        x, y = model.hash32(key, block + (place + np.arange(lanes)) // 8)
        rows.append([multiplied(int(b), int(a), (place + lane) % 8)
                     for lane, (a, b) in enumerate(zip(x, y, strict=True))])
    return np.array(rows)


def test_constants_are_the_models():
    assert (Hash.ROUNDS, Noise.ROUND_CONSTANT, Noise.BLOCK, Noise.POLYNOMIAL) == (
        model.ROUNDS, model.ROUND_CONSTANT, model.BLOCK, model._POLYNOMIAL)


def test_published_vectors():
    words = drawn(1, KEY, [(0, 0), (1, 0), (0, 1), (0, 2), (1, 7)])
    whole = model.element_noise(KEY, 1, 16)[0]
    assert words[:, 0].tolist() == [whole[0], whole[8], whole[1], whole[2], whole[15]]
    assert [hex(v) for v in words[[0, 2, 3], 0]] == ["0x33fb", "0x925c", "0x7098"]


@pytest.mark.parametrize("seed", range(3))
def test_hashes_equal_the_model(seed):
    random.seed(seed)
    key = tuple(random.randrange(1 << 16) for _ in range(4)) if seed else (0xFFFF,) * 4
    counters = [0, 0xFFFFFFFF, 0xFFFF, 0xFFFF0000] + [
        random.randrange(1 << random.choice((8, 21, 32))) for _ in range(40)]
    dut = Hash()

    async def bench(ctx):
        for r in range(dut.ROUNDS):
            ctx.set(dut.keys[r], key[r % 4] + r // 4 * Noise.ROUND_CONSTANT & 0xFFFF)
        for cycle, counter in enumerate([*counters, *[0] * dut.LATENCY]):
            if cycle >= dut.LATENCY:
                x, y = model.hash32(key, counters[cycle - dut.LATENCY])
                o = ctx.get(dut.o)
                assert (o.x, o.y) == (x, y)
            ctx.set(dut.counter, counter)
            await ctx.tick()

    simulate(dut, bench)


def test_as_few_hashes_as_blocks_that_a_tile_touches():
    for lanes in range(1, 65):
        touched = max((channel % 8 + lanes - 1) // 8 + 1 for channel in range(0, 8 * lanes, lanes))
        assert Noise.pipelines(lanes) == touched
        assert touched == (1 if 8 % lanes == 0 else lanes // 8 if lanes % 8 == 0 else touched)
        assert touched <= max(1, (lanes - 2) // 8 + 2)


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 5, 7, 8, 10, 12, 16, *(
    pytest.param(lanes, marks=pytest.mark.regress) for lanes in (6, 9, 11, *range(13, 65)))])
def test_every_lane_takes_its_place(lanes):
    """At every place that a tile may begin with."""
    rng = random.Random(lanes)
    key = tuple(rng.randrange(1 << 16) for _ in range(4))
    starts = [(rng.randrange(1 << 18), place) for place in range(0, 8, gcd(lanes, 8))
              for _ in range(2)]
    assert (drawn(lanes, key, starts) == expected(lanes, key, starts)).all()


@pytest.mark.parametrize(("lanes", "cols"), [(1, 11), (3, 20), (5, 13), (8, 30), (12, 40)])
def test_tiles_of_a_tensor_equal_the_model(lanes, cols):
    rows, blocks = 3, -(-cols // 8)
    whole = model.element_noise(KEY, rows, cols)
    starts = [(i * blocks + first // 8, first % 8)
              for first in range(0, cols, lanes) for i in range(rows)]
    words = drawn(lanes, KEY, starts)
    tiles = words.reshape(-1, rows, lanes).transpose(1, 0, 2).reshape(rows, -1)
    assert (tiles[:, :cols] == whole).all()

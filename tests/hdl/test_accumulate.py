"""hdl.accumulate: rows at full rate, shifts, and sums at the edge of their width."""

import random

import pytest
from amaranth.hdl import DomainRenamer, signed
from amaranth.lib import data
from amaranth.sim import Simulator

from hdl.accumulate import Accumulators
from hdl.memory import READ_LATENCY
from hdl.params import MAX_K, MAX_M, Params

SUM_BITS = 24


def accumulate(params, *columns):
    """Accumulate column tiles of ``(rows of sums, shifts)`` as fast as the rows allow; what is read
    out of the last rows that there is room for."""
    groups = [range(first, min(first + 2, params.cols)) for first in range(0, params.cols, 2)]
    dut = Accumulators(params, data.ArrayLayout(signed(SUM_BITS), params.cols), groups)
    events, now = {}, 1
    ends = []
    for tiles in columns:
        for number, (rows, shifts) in enumerate(tiles):
            final = number == len(tiles) - 1
            for i, sums in enumerate(rows):
                tag = {"valid": 1, "first": i == 0 == number, "again": i == 0 < number,
                       "fresh": number == 0, "shifts": shifts,
                       "final": final, "last": final and i == len(rows) - 1}
                events[now + i] = (tag, sums)
            if final:
                ends.append(now + len(rows) - 1)
            now += max(len(rows), dut.SPACING)
    total = sum(len(tiles[0][0]) for tiles in columns)
    count = min(total, MAX_M + 1)
    finished, found = [], []

    async def bench(ctx):
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for cycle in range(1, now + dut.SPACING + len(groups)):
            tag, _ = events.get(cycle, ({"valid": 0, "fresh": 1}, None))
            ctx.set(dut.tag, tag)
            for late, group in enumerate(groups):
                _, sums = events.get(cycle - dut.AHEAD - late, (None, [-1] * params.cols))
                for col in group:
                    ctx.set(dut.sums[col], sums[col])
            if ctx.get(dut.finished):
                finished.append(cycle)
            await ctx.tick()
        for row in range(count + READ_LATENCY):
            ctx.set(dut.number, (total - count + row) % (MAX_M + 1))
            if row >= READ_LATENCY:
                found.append([ctx.get(dut.results[col]) for col in range(params.cols)])
            await ctx.tick()

    simulator = Simulator(DomainRenamer({"readout": "sync"})(dut))
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert finished == [end + dut.SPACING - 1 + len(groups) for end in ends]
    return found


@pytest.mark.parametrize("count", [1, 2, 5, 6, 20])
def test_tiles_add_up(count):
    params = Params(lanes=0, rows=2, cols=3, sample_groups=1, channel_groups=8)
    rng = random.Random(count)
    tiles = [([[rng.randint(-1 << SUM_BITS - 1, (1 << SUM_BITS - 1) - 1) for _ in range(3)]
               for _ in range(count)], shifts) for shifts in (7, 0, 1, 3, 0, 2)]
    expected = [[0] * 3 for _ in range(count)]
    for rows, shifts in tiles:
        expected = [[(old << shifts) + new for old, new in zip(olds, news, strict=True)]
                    for olds, news in zip(expected, rows, strict=True)]
    assert accumulate(params, tiles) == expected


def test_column_tiles_follow_each_other_round_the_memory():
    """Results of those before stay until others take their place."""
    params = Params(lanes=0, rows=2, cols=3)
    rng = random.Random(3)
    columns = [[[[rng.randint(-99, 99) for _ in range(3)] for _ in range(count)]
                for _ in range(2)] for count in (200, 1, 300, 150)]
    expected = [[a + 2 * b for a, b in zip(*sums, strict=True)] for first, second in columns
                for sums in zip(second, first, strict=True)]
    found = accumulate(params, *([(first, 0), (second, 1)] for first, second in columns))
    assert found == expected[-MAX_M - 1:]


def test_the_largest_sum_fits():
    """All products at their largest, in the group of the largest scale of 8."""
    params = Params(lanes=0, bits=8, rows=2, cols=2, channel_groups=8)
    product = 2**7 * (2**7 - 1)
    assert 32 * product < 1 << SUM_BITS - 1
    tiles = [([[32 * product, -32 * product]], 0)] * (MAX_K // 32) + [([[0, 0]], 7)]
    largest = MAX_K * product << 7
    assert accumulate(params, tiles) == [[largest, -largest]]

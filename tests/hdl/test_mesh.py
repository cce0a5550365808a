"""hdl.array.mesh against a sum over slots in Python integers."""

import random

import pytest
from amaranth.sim import Simulator

from hdl.array.mac import PlainMac, ShiftMac
from hdl.array.mesh import Mesh
from hdl.params import Params


class Tile:
    """Weights [slot][col], marks by row, and the operand rows to stream."""
    def __init__(self, weights, marks, operands):
        self.weights = weights
        self.marks = marks
        self.operands = operands

    def sums(self, params, a):
        """What a row of operands gives, one sum per column."""
        sums = []
        for col in range(params.cols):
            total = 0
            for row in range(params.rows):
                total <<= row in self.marks
                for slot in range(row * params.depth, (row + 1) * params.depth):
                    total += a[slot] * self.weights[slot][col]
            sums.append(total)
        return sums

    @classmethod
    def random(cls, params, rng, count):
        low, most = -(1 << params.bits - 1), params.qmax
        shifts = min(params.max_groups, params.rows) - 1
        return cls(
            [[rng.randint(-most, most) for _ in range(params.cols)] for _ in range(params.slots)],
            rng.sample(range(1, params.rows), rng.randint(0, shifts)),
            [rng.choices(range(low, most + 1), k=params.slots) for _ in range(count)])

    @classmethod
    def extreme(cls, params, sign):
        """The largest sum there can be, in every column."""
        shifts = min(params.max_groups, params.rows) - 1
        return cls([[sign * params.qmax] * params.cols] * params.slots,
                   range(params.rows - shifts, params.rows),
                   [[-(1 << params.bits - 1)] * params.slots])


def run(params, pe, tiles):
    """Stream tiles as fast as the mesh's rules allow; all sums, and the cycles it took."""
    dut = Mesh(params, pe)
    assert dut.swap_cycles == params.rows - 1 + params.cols - 1
    assert dut.latency == 1 + dut.swap_cycles + dut.elements[0][0].latency
    starts, loads = [], {}
    cycle = 0
    for tile in tiles:
        # Loading may begin once the last tile's swap has passed, the swap once it is complete.
        load = starts[-1] + dut.swap_cycles if starts else 0
        loads.update({load + i: (tile, params.rows - 1 - i) for i in range(params.rows)})
        starts.append(max(cycle, load + params.rows))
        cycle = starts[-1] + len(tile.operands)
    streams = {start + i: (tile, i) for start, tile in zip(starts, tiles, strict=True)
               for i in range(len(tile.operands))}
    found = {}

    async def bench(ctx):
        junk = random.Random(0)
        for now in range(cycle + dut.latency):
            ctx.set(dut.load, now in loads)
            if now in loads:
                tile, row = loads[now]
                first = row * params.depth
                ctx.set(dut.weights, [
                    [tile.weights[first + lane][col] for lane in range(params.depth)]
                    for col in range(params.cols)])
                ctx.set(dut.mark, row in tile.marks)
            else:
                ctx.set(dut.mark, junk.randint(0, 1))
            tile, i = streams.get(now, (None, None))
            ctx.set(dut.swap, i == 0)
            ctx.set(dut.a, tile.operands[i] if tile else
                    [junk.randint(-params.qmax, params.qmax) for _ in range(params.slots)])
            if now - dut.latency in streams:
                found[now - dut.latency] = [ctx.get(dut.sums[c]) for c in range(params.cols)]
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    for now, (tile, i) in streams.items():
        assert found.pop(now, None) == tile.sums(params, tile.operands[i])
    return dut, cycle


def shape(rows, cols, depth, *, bits=4, groups=4):
    return Params(bits=bits, rows=rows, cols=cols, depth=depth, sample_groups=1,
                  channel_groups=groups)


@pytest.mark.parametrize("params", [
    shape(4, 4, 1), shape(1, 1, 1), shape(1, 5, 2), shape(6, 1, 1), shape(3, 5, 4),
    shape(5, 2, 2, groups=8), shape(2, 3, 3, bits=2), shape(3, 2, 4, bits=8),
    shape(4, 3, 1, groups=1),
], ids=lambda params: f"{params.name}")
def test_tiles_follow_each_other(params):
    rng = random.Random(params.name)
    # One operand row and many: the wave of one tile is still inside when the next comes.
    tiles = [Tile.random(params, rng, count) for count in (3, 1, 1, 20, 20, 2, 20)]
    run(params, ShiftMac, tiles)


def test_no_gap_where_streaming_takes_longer_than_loading():
    params = shape(3, 4, 1)
    count = params.rows + (params.rows - 1) + (params.cols - 1)
    tiles = [Tile.random(params, random.Random(3), count) for _ in range(4)]
    _, cycles = run(params, ShiftMac, tiles)
    assert cycles == params.rows + 4 * count


def test_plain_elements_ignore_marks():
    params = Params(rows=3, cols=2, arith="int", sample_groups=1, channel_groups=1)
    run(params, PlainMac, [Tile.random(params, random.Random(1), 5)])


@pytest.mark.parametrize("params", [
    shape(8, 1, 1), shape(2, 2, 1, groups=8), shape(4, 1, 2, bits=2), shape(3, 1, 4, bits=8),
    shape(4, 1, 1, groups=1),
], ids=lambda params: params.name)
def test_the_largest_sum_fits_and_needs_every_bit(params):
    tiles = [Tile.extreme(params, -1), Tile.extreme(params, 1)]
    run(params, ShiftMac, tiles)
    largest = max(abs(tile.sums(params, tile.operands[0])[0]) for tile in tiles)
    assert 1 << params.psum_bits - 2 <= largest < 1 << params.psum_bits - 1

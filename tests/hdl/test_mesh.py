"""hdl.array.mesh against NumPy."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.mesh import Mesh
from hdl.params import Params
from tests.hdl.test_netlist import SCRIPT, Netlist


class Tile:
    """Weights [slot, col], marked rows, and the operand rows to stream, the first of zeros."""
    def __init__(self, weights, marks, operands):
        self.weights = np.array(weights)
        self.marks = set(marks)
        self.operands = np.vstack([np.zeros((1, len(weights)), int), operands])

    def dots(self, params):
        """``sum_s a[s] w[s][c] 2**(marks below s)``."""
        exponents = np.array([sum(mark > slot // params.depth for mark in self.marks)
                              for slot in range(params.slots)])
        return self.operands @ (self.weights << exponents[:, None])

    def offsets(self, params):
        """K of every column."""
        total = np.zeros(params.cols, int)
        for row in range(params.rows):
            lanes = self.weights[row * params.depth:(row + 1) * params.depth]
            total = (total << (row in self.marks)) + (lanes.sum(axis=0) >> 1)
        return total

    @classmethod
    def random(cls, params, rng, count):
        low, most = -(1 << params.bits - 1), params.qmax
        shifts = min(params.max_groups, params.rows) - 1
        marks = rng.choice(np.arange(1, params.rows), rng.integers(0, shifts + 1), replace=False)
        operands = rng.integers(low, most + 1, (count, params.slots))
        weights = rng.integers(-most, most + 1, (params.slots, params.cols))
        # Some of nothing but extremes.
        if rng.integers(0, 3) == 0:
            operands = np.where(operands < 0, low, most)
            weights = np.where(weights < 0, -most, most)
        return cls(weights, marks, operands)

    @classmethod
    def extreme(cls, params, sign):
        """The largest sums there can be."""
        low, most = -(1 << params.bits - 1), params.qmax
        shifts = min(params.max_groups, params.rows) - 1
        return cls(np.full((params.slots, params.cols), sign * most),
                   range(params.rows - shifts, params.rows),
                   np.array([[low] * params.slots, [most] * params.slots]))


def schedule(dut, params, tiles):
    """Tiles as fast as the mesh's rules allow: loads and streams by cycle, starts, the end."""
    starts, loads = [], {}
    cycle = free = 0
    for tile in tiles:
        load = max(free, starts[-1] + dut.swap_cycles if starts else 0)
        for row in reversed(range(params.rows)):
            loads[load] = tile, row
            free = load + dut.load_cycles
            last, load = load, free
        starts.append(max(cycle, last + dut.swap_wait))
        cycle = starts[-1] + len(tile.operands)
    streams = {start + i: (tile, i) for start, tile in zip(starts, tiles, strict=True)
               for i in range(len(tile.operands))}
    return loads, streams, starts, cycle


def check(params, tiles, starts, found):
    """Sums by the cycle of their operands are those of NumPy."""
    for start, tile in zip(starts, tiles, strict=True):
        sums = np.array([found[start + i] for i in range(len(tile.operands))])
        np.testing.assert_array_equal(sums - sums[0], tile.dots(params))
        np.testing.assert_array_equal(sums[0], tile.offsets(params))


def operands(params, streams, now, junk):
    """What is at the mesh's edge: those of row r come r cycles late."""
    found = []
    for row in range(params.rows):
        tile, i = streams.get(now - row, (None, None))
        found += [int(tile.operands[i, row * params.depth + lane]) if tile else
                  junk.randint(-params.qmax, params.qmax) for lane in range(params.depth)]
    return found


def run(params, tiles, **options):
    """Stream tiles; the mesh, and the cycles it took."""
    dut = Mesh(params, **options)
    loads, streams, starts, cycle = schedule(dut, params, tiles)
    found = {}

    async def bench(ctx):
        junk = random.Random(0)
        for now in range(cycle + dut.latency):
            ctx.set(dut.load, now in loads)
            tile, row = loads.get(now, (None, 0))
            ctx.set(dut.mark, row in tile.marks if tile else junk.randint(0, 1))
            ctx.set(dut.weights, [
                [int(tile.weights[row * params.depth + lane, col]) if tile else
                 junk.randint(-params.qmax, params.qmax) for lane in range(params.depth)]
                for col in range(params.cols)])
            ctx.set(dut.swap, streams.get(now, (None, None))[1] == 0)
            ctx.set(dut.a, operands(params, streams, now, junk))
            if now - dut.latency in streams:
                found[now - dut.latency] = [ctx.get(dut.sums[c]) for c in range(params.cols)]
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    check(params, tiles, starts, found)
    return dut, cycle


def shape(rows, cols, depth, *, bits=4, groups=4):
    return Params(lanes=0, bits=bits, rows=rows, cols=cols, depth=depth, sample_groups=1,
                  channel_groups=groups)


@pytest.mark.parametrize(("params", "share"), [
    (shape(4, 4, 4), 2), (shape(1, 1, 4), 1), (shape(3, 5, 4), 2), (shape(2, 8, 4), 1),
    (shape(1, 14, 2), 1), (shape(4, 3, 1), 2), (shape(1, 1, 1), 1),
    (shape(3, 2, 1, bits=2, groups=2), 4), (shape(3, 2, 1, bits=3, groups=2), 4),
    (shape(3, 3, 3), 2), (shape(5, 2, 2, groups=8), 2), (shape(4, 3, 4, groups=1), 4),
    *((shape(2, 2, 4, bits=bits), 2) for bits in (2, 3, 5, 6, 7, 8)),
], ids=lambda value: value.name if isinstance(value, Params) else str(value))
def test_tiles_follow_each_other(params, share):
    rng = np.random.default_rng(sum(params.name.encode()))
    # One operand row and many: the wave of one tile is still inside when the next comes.
    tiles = [Tile.random(params, rng, count) for count in (3, 1, 1, 40, 40, 2, 40, 9)]
    tiles += [Tile.extreme(params, sign) for sign in (1, -1)]
    run(params, tiles, share=share)


def test_no_gap_where_streaming_takes_longer_than_loading():
    params = shape(3, 4, 4)
    count = params.rows * 8 + 3
    tiles = [Tile.random(params, np.random.default_rng(3), count - 1) for _ in range(4)]
    dut, cycles = run(params, tiles)
    assert (dut.load_cycles, dut.swap_wait, dut.swap_cycles) == (8, 11, -4)
    assert cycles == 2 * 8 + 11 + 4 * count


def packed(values, bits):
    """Signed fields of one port, the first in the low bits."""
    return sum((int(value) & (1 << bits) - 1) << i * bits for i, value in enumerate(values))


def test_the_netlist_adds_as_numpy_does(tmp_path):
    params = shape(3, 3, 4)
    rng = np.random.default_rng(1)
    tiles = [Tile.random(params, rng, count) for count in (3, 40, 40, 1, 9)]
    tiles += [Tile.extreme(params, sign) for sign in (1, -1)]
    dut = Mesh(params, share=2, mapped=True)
    loads, streams, starts, cycle = schedule(dut, params, tiles)
    script = SCRIPT.replace("t:CCU2C %d", "t:CCU2C %d t:TRELLIS_DPR16X4 %d").replace(
        "opt\nsimplemap\nopt\ndff", "opt\nmemory -nomap\nmemory_map\nopt\nsimplemap\nopt\ndff")
    netlist = Netlist(dut, tmp_path, script)
    # Its registers begin with zeros.
    netlist.clock(rst=1, load=0, swap=0, mark=0, weights=0, a=0)
    junk, found, width = random.Random(0), {}, dut.sums[0].shape().width
    for now in range(cycle + dut.latency):
        tile, row = loads.get(now, (None, 0))
        weights = tile.weights[row * 4:row * 4 + 4].T.ravel() if tile else []
        outputs = netlist.clock(
            rst=0, load=int(now in loads), swap=int(streams.get(now, (None, None))[1] == 0),
            mark=int(row in tile.marks) if tile else junk.randint(0, 1),
            weights=packed(weights, 4) if tile else junk.getrandbits(4 * 4 * params.cols),
            a=packed(operands(params, streams, now, junk), 4))
        if now - dut.latency in streams:
            sums = [outputs["sums"] >> col * width & (1 << width) - 1 for col in range(params.cols)]
            found[now - dut.latency] = [value - (value >> width - 1 << width) for value in sums]
    check(params, tiles, starts, found)

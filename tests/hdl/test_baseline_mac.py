"""hdl.baseline.mac: a mesh of plain multipliers against NumPy, tile after tile."""

import gc

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.baseline.mac import MultiplyMac, plain_sum_bits
from hdl.floating.systolic import Systolic
from hdl.params import ParameterError, Params


@pytest.mark.parametrize("bits, rows, cols", [(2, 1, 1), (4, 3, 2), (8, 2, 3)])
def test_tiles_of_random_and_of_extreme_codes_give_numpys_products(bits, rows, cols):
    params = Params(bits=bits, rows=rows, cols=cols, depth=1)
    dut = Systolic(params, MultiplyMac)
    low, high, length = -1 << bits - 1, (1 << bits - 1) - 1, 20
    rng = np.random.default_rng(bits)
    tiles = [(rng.integers(low, high + 1, (rows, cols)),
              rng.integers(low, high + 1, (length, rows))),
             (np.full((rows, cols), low), np.full((length, rows), low))]
    span = length + dut.swap_cycles + rows
    found = {}

    async def bench(ctx):
        for now in range(2 * span + dut.latency):
            weights, _ = tiles[min(now // span, 1)]
            cycle = now % span if now < 2 * span else span
            ctx.set(dut.load, cycle < rows)
            for col in range(cols):
                ctx.set(dut.weights[col], int(weights[(rows - 1 - cycle) % rows, col]))
            ctx.set(dut.swap, cycle == rows)
            for row in range(rows):
                tile, i = divmod(max(0, now - row), span)
                if tile < 2 and 0 <= i - rows < length:
                    ctx.set(dut.a[row], int(tiles[tile][1][i - rows, row]))
            found[now - dut.latency] = [ctx.get(dut.sums[col]) for col in range(cols)]
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for tile, (weights, streamed) in enumerate(tiles):
        begin = tile * span + rows
        assert [found[begin + i] for i in range(length)] == (streamed @ weights).tolist()


def test_sums_are_as_wide_as_the_worst_case_and_no_wider():
    for bits in range(2, 9):
        params = Params(bits=bits, rows=8, cols=1, depth=1)
        for row in range(8):
            worst = (row + 1) * (-1 << bits - 1) ** 2
            sign = plain_sum_bits(params, row) - 1
            assert 1 << sign - 1 <= worst < 1 << sign


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_deep_elements_are_refused():
    with pytest.raises(ParameterError, match=r"^depth must be 1 where elements are multipliers, "
                                             r"got 2$"):
        MultiplyMac(Params(depth=2), 0)
    # Amaranth warns of what was not used, which this cannot be, where it is dropped.
    gc.collect()

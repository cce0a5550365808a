"""hdl.array.skew."""

import random

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from hdl.array.skew import Delay


@pytest.mark.parametrize("cycles", [0, 1, 5])
def test_values_come_out_that_many_cycles_later(cycles):
    dut = Delay(7, cycles)
    values = [random.Random(cycles).randrange(128) for _ in range(30)]

    async def bench(ctx):
        for i, value in enumerate(values):
            ctx.set(dut.i, value)
            if i >= cycles:
                assert ctx.get(dut.o) == values[i - cycles]
            await ctx.tick()

    m = Module()
    m.domains.sync = ClockDomain()
    m.submodules.dut = dut
    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()

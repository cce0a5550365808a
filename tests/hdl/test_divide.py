"""hdl.divide against sim.model.rounding.floor_divide."""

import random

import pytest
from amaranth.sim import Simulator

from hdl.divide import Divider
from sim.model.rounding import floor_divide


@pytest.mark.parametrize("per_clock", [1, 2])
@pytest.mark.parametrize(("numerator_bits", "denominator_bits"), [(6, 3), (5, 3), (12, 17)])
def test_quotients_equal_the_model(numerator_bits, denominator_bits, per_clock):
    dut = Divider(numerator_bits, denominator_bits, numerator_bits, per_clock=per_clock)
    low, high = -(1 << numerator_bits - 1), (1 << numerator_bits - 1) - 1
    if numerator_bits < 8:
        cases = [(n, d) for n in range(low, high + 1) for d in range(1, 1 << denominator_bits)]
    else:
        random.seed(1)
        cases = [(low, 1), (high, 1), (-1, 1), (0, 1), (low, (1 << denominator_bits) - 1)]
        cases += [(random.randint(low, high), random.randint(1, 1 << random.randint(1, 16)))
                  for _ in range(100)]

    async def bench(ctx):
        for numerator, denominator in cases:
            ctx.set(dut.numerator, numerator)
            ctx.set(dut.denominator, denominator)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            latency = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                latency += 1
            assert latency == dut.latency
            assert ctx.get(dut.quotient) == floor_divide(numerator, denominator)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()

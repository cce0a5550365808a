"""hdl.requantise against sim.model.requantise."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.params import Params
from hdl.requantise import Requantise, left_shift
from sim.model.requantise import requantise

LARGEST = 2**35 - 1


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_equals_the_model(groups):
    left = left_shift(Params(sample_groups=1, channel_groups=groups))
    dut = Requantise(left)
    rng = random.Random(groups)
    cases = [(value, shift) for shift in range(31 + left + 1)
             for value in (LARGEST, -LARGEST - 1, 0, -1, 1)]
    # Ties, the last value in range and the first beyond it.
    for shift in range(1, 36):
        half = 1 << shift - 1
        cases += [(sign * odd * half, shift + left) for sign in (1, -1) for odd in (1, 3)
                  if shift + left <= 31 + left and shift <= 31]
    for shift in range(5):
        for limit in (2**31 - 1, -2**31):
            cases += [((limit << shift) + step, shift + left)
                      for step in (-2, -1, 0, 1, 2) if abs((limit << shift) + step) <= LARGEST]
    cases += [(rng.randint(-1 << (bits := rng.randint(1, 35)), (1 << bits) - 1),
               rng.randint(0, 31 + left)) for _ in range(1000)]
    expected = [requantise(np.array([value]) << left, shift) for value, shift in cases]
    assert sum(clamped for _, clamped in expected) > 20

    async def bench(ctx):
        for i in range(len(cases) + dut.LATENCY):
            if i < len(cases):
                ctx.set(dut.i, cases[i][0])
                ctx.set(dut.shift, cases[i][1])
            if i >= dut.LATENCY:
                y, clamped = expected[i - dut.LATENCY]
                assert (ctx.get(dut.o), ctx.get(dut.clamped)) == (int(y[0]), clamped)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_an_exponent_is_a_smaller_shift():
    values = np.arange(-40, 40)
    for left, e, shift in ((6, 6, 3), (6, 2, 0), (14, 5, 9)):
        assert (requantise(values << e, shift)[0]
                == requantise(values << left, shift + left - e)[0]).all()

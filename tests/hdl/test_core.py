"""hdl.core: what a reset leaves of what was under way."""

import pytest
from amaranth.hdl import DomainRenamer, ResetInserter, Signal
from amaranth.sim import Simulator

from hdl.core import Core
from hdl.crossing import LongReset
from hdl.params import Params

PARAMS = Params(rows=5, cols=6, depth=4, bits=2, lanes=0, memory=4, array_clock=1)


def pulses(trials):
    """``(taken, finished)`` pulses after each of some resets.

    A trial is ``(wait, cycles, after_load)`` by the number of cycles that a reset of nothing left
    takes: it lasts ``cycles`` and begins ``wait`` cycles after a tile of one row has been taken, or
    its last weights loaded.
    """
    core, reset = Core(PARAMS), Signal()
    dut = ResetInserter(reset)(DomainRenamer({"readout": "sync"})(core))
    found = []

    async def bench(ctx):
        async def ticks(count, **values):
            for name, value in values.items():
                ctx.set(getattr(core, name), value)
            for _ in range(count):
                await ctx.tick()
            for name in values:
                ctx.set(getattr(core, name), 0)

        async def rest(cycles):
            ctx.set(reset, 1)
            await ticks(cycles)
            ctx.set(reset, 0)
            await ticks(1, start=1)

        ctx.set(core.last_row, 1)
        for wait, cycles, after_load in trials(core.timing.settle):
            await rest(100)
            for row in range(PARAMS.rows):
                ctx.set(core.rows.payload.end, row == PARAMS.rows - 1)
                ctx.set(core.rows.valid, 1)
                while not ctx.get(core.rows.ready):
                    await ctx.tick()
                # A payload holds a cycle longer.
                await ctx.tick()
                ctx.set(core.rows.valid, 0)
                await ctx.tick()
            while not after_load and not ctx.get(core.taken):
                await ctx.tick()
            await ticks(wait)
            await rest(cycles)
            seen = []
            for _ in range(80):
                seen.append((ctx.get(core.taken), ctx.get(core.finished)))
                await ctx.tick()
            found.append(tuple(map(sum, zip(*seen, strict=True))))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def test_nothing_is_left_after_a_reset_of_settle_cycles():
    found = pulses(lambda settle: [(wait, settle, after_load) for after_load in (False, True)
                                   for wait in range(0, settle, 2)])
    assert set(found) == {(0, 0)}


def test_a_shorter_reset_would_leave_something():
    found = pulses(lambda settle: [(wait, 1, after_load) for after_load in (False, True)
                                   for wait in range(12)])
    # A result, and a tile of weights that nobody has loaded since.
    assert (0, 1) in found[:12]
    assert any(taken for taken, _ in found[12:])


@pytest.mark.parametrize("array_clock", [1, 2, 4])
def test_the_reset_lasts_that_long_in_the_clock_of_the_array(array_clock):
    dut = LongReset(Params(array_clock=array_clock), 37)
    domain = "array" if array_clock > 1 else "sync"
    lengths = []

    async def bench(ctx):
        def active():
            return ctx.get(dut.array if array_clock > 1 else dut.sync)

        # From the beginning, and after a pulse.
        for _ in range(2):
            while not active():
                await ctx.tick(domain)
            count = 0
            while active():
                count += 1
                await ctx.tick(domain)
            lengths.append(count)
            assert not ctx.get(dut.sync)
            await ctx.tick()
            ctx.set(dut.i, 1)
            await ctx.tick()
            ctx.set(dut.i, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1.2e-8)
    if array_clock > 1:
        simulator.add_clock(1.2e-8 / array_clock, domain="array")
    simulator.add_testbench(bench)
    simulator.run()
    assert min(lengths) >= 37

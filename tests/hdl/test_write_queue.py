"""hdl.write_queue against a list."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.write_queue import WriteQueue


@pytest.mark.parametrize(("latency", "asked", "taken"), [
    (1, 1, 0), (9, 1, 0), (14, 1, 0), (15, 1, 0), (1, 1, 0.9), (9, 1, 0.5), (9, 0.3, 0.7),
    (3, 1, 0.97), (30, 1, 0.2)])
def test_words_are_written_in_order(latency, asked, taken):
    """Each as soon as it may be; so many under way as there is room for."""
    dut = WriteQueue(12)
    rng = np.random.default_rng(latency)
    coming, held, written = [], [], 0

    async def bench(ctx):
        nonlocal written
        number = 0
        for now in range(600):
            reserved = len(coming) + len(held)
            assert ctx.get(dut.room) == (reserved < dut.DEPTH)
            assert ctx.get(dut.idle) == (reserved == 0)
            reserve = bool(ctx.get(dut.room) and rng.random() < asked and now < 500)
            ctx.set(dut.reserve, reserve)
            push = bool(coming) and coming[0][0] == now
            ctx.set(dut.push, push)
            ctx.set(dut.i, coming[0][1] if push else int(rng.integers(1 << 12)))
            blocked = bool(rng.random() < taken and now < 550)
            ctx.set(dut.taken, blocked)
            pop = bool(held) and not blocked
            assert ctx.get(dut.pop) == pop
            if pop:
                assert ctx.get(dut.o) == held.pop(0)
                written += 1
            if push:
                held.append(coming.pop(0)[1])
            if reserve:
                coming.append((now + latency, number))
                number = number * 5 + 3 & 0xFFF
            await ctx.tick()
        assert not coming and not held
        if asked == 1 and not taken and latency + 1 < dut.DEPTH:
            # One in every cycle.
            assert written == 500

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()

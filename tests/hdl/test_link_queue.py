"""hdl.link.queue: bytes in their order, and as many as the protocol says."""

import pytest
from amaranth.sim import Simulator

from hdl.link.queue import LinkQueue
from hdl.protocol import LINK_BYTES
from tests.support.streams import WEATHERS, transfer


@pytest.mark.parametrize("weather", WEATHERS)
def test_bytes_come_in_their_order(weather):
    data = [byte * 7 % 256 for byte in range(3 * LINK_BYTES)]
    assert transfer(LinkQueue(), data, len(data), weather=weather) == data


def test_it_holds_what_the_host_may_send():
    dut, data, taken = LinkQueue(), [byte * 11 % 256 for byte in range(LINK_BYTES + 1)], []

    async def bench(ctx):
        # Nobody takes them.
        for byte in data:
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            assert ctx.get(dut.i.ready)
            await ctx.tick()
        assert not ctx.get(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.o.ready, 1)
        for _ in data:
            assert ctx.get(dut.o.valid)
            taken.append(ctx.get(dut.o.payload))
            await ctx.tick()
        assert not ctx.get(dut.o.valid)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert taken == data

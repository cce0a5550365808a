"""hdl.memory: ports of their own, and what is reported."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Signal
from amaranth.sim import Simulator

from hdl.memory import READ_LATENCY, Ram, several
from hdl.operand_memory import OperandMemory
from hdl.params import Params


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_readers_with_a_port_of_their_own_read_at_any_time():
    dut = Ram(8, 16, readers=2, writers=2, own=2, conflicts=True)
    rng = np.random.default_rng(0)
    held = np.zeros(16, np.int64)
    ports = [*dut.own_r, *dut.r]
    expected = {}

    async def bench(ctx):
        for now in range(300):
            for port in [*ports, *dut.w]:
                ctx.set(port.en, 0)
                ctx.set(port.addr, int(rng.integers(1 << 16)))
            # No word is read that is being written.
            word, *others = (int(x) for x in rng.permutation(16)[:4])
            writer = dut.w[int(rng.integers(2))]
            ctx.set(writer.en, 1)
            ctx.set(writer.addr, word)
            ctx.set(writer.data, now % 256)
            for number, address in zip((0, 1, 2 + int(rng.integers(2))), others, strict=True):
                ctx.set(ports[number].en, 1)
                ctx.set(ports[number].addr, address)
                expected[now + READ_LATENCY, number] = held[address]
            held[word] = now % 256
            for number, port in enumerate(ports):
                if (now, number) in expected:
                    assert ctx.get(port.data) == expected[now, number]
            assert not ctx.get(dut.fault) and not ctx.get(dut.conflict)
            await ctx.tick()

    simulate(dut, bench)


def test_one_beyond_the_end_at_a_port_of_its_own():
    dut = Ram(8, 16, readers=1, writers=1, own=2)

    async def bench(ctx):
        ctx.set(dut.own_r[1].addr, 16)
        await ctx.tick()
        assert not ctx.get(dut.fault)
        ctx.set(dut.own_r[1].en, 1)
        await ctx.tick()
        assert ctx.get(dut.fault)
        ctx.set(dut.own_r[1].addr, 15)
        await ctx.tick()
        assert not ctx.get(dut.fault)

    simulate(dut, bench)


@pytest.mark.parametrize("count", range(8))
def test_several_is_more_than_one(count):
    bits = Signal(count)
    dut = Ram(8, 16, readers=1, writers=1)

    async def bench(ctx):
        for value in range(1 << count):
            ctx.set(bits, value)
            assert ctx.get(several(bits)) == (value.bit_count() > 1)

    simulate(dut, bench)


@pytest.mark.parametrize("make", [
    lambda: Ram(8, 16, readers=3, writers=2, own=1, conflicts=True),
    lambda: OperandMemory(Params(rows=1, cols=1, depth=2, memory=4, array_clock=1), readers=3,
                          writers=2, conflicts=True)], ids=["ram", "operands"])
def test_conflicts(make):
    """Two at one port, in every combination."""
    dut = make()
    shared = [[*dut.r, *dut.w]] if isinstance(dut, OperandMemory) else [[*dut.r], [*dut.w]]
    ports = [*itertools.chain(*shared)]
    ends = np.cumsum([len(group) for group in shared])

    async def bench(ctx):
        for enabled in itertools.product((0, 1), repeat=len(ports)):
            for port, en in zip(ports, enabled, strict=True):
                ctx.set(port.en, en)
            await ctx.tick()
            assert ctx.get(dut.conflict) == any(
                sum(group) > 1 for group in np.split(enabled, ends[:-1]))
            assert not ctx.get(dut.fault)

    simulate(dut, bench)

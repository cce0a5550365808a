"""hdl.operand_memory against arrays, with a stream beside random reads and writes."""

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from hdl.memory import READ_LATENCY
from hdl.operand_memory import OperandMemory
from hdl.params import Params


@pytest.mark.parametrize(("rows", "depth", "bits"), [(1, 1, 8), (3, 2, 4), (2, 4, 3)])
def test_streams_reads_and_writes(rows, depth, bits):
    params = Params(rows=rows, cols=1, depth=depth, bits=bits, memory=4, array_clock=1)
    dut = OperandMemory(params, readers=2, writers=2)
    rng = np.random.default_rng(rows)
    low, high = -(1 << bits - 1), 1 << bits - 1
    # The upper half is streamed, the lower one is read and written: they never meet.
    half, lanes, cycles = 16, params.slots, 300
    held = np.zeros((2 * half, lanes), np.int64)
    reads, streams = {}, {}

    def number(value, bits):
        return sum((int(x) & (1 << bits) - 1) << i * bits for i, x in enumerate(value))

    async def bench(ctx):
        for word in range(half, 2 * half):
            held[word] = rng.integers(low, high, lanes)
            ctx.set(dut.w[0].en, 1)
            ctx.set(dut.w[0].addr, word)
            ctx.set(dut.w[0].lanes, -1 & (1 << lanes) - 1)
            ctx.set(Value.cast(dut.w[0].data), number(held[word], bits))
            await ctx.tick()
        ctx.set(dut.w[0].en, 0)
        for now in range(cycles + READ_LATENCY + rows):
            kind, which = rng.integers(3), int(rng.integers(2))
            for port in [*dut.r, *dut.w, *dut.s]:
                ctx.set(port.en, 0)
                ctx.set(port.addr, int(rng.integers(1 << 16)))
            if now < cycles:
                word = int(rng.integers(half))
                port = (dut.r if kind else dut.w)[which]
                ctx.set(port.en, 1)
                ctx.set(port.addr, word)
                if kind:
                    reads[now + READ_LATENCY] = which, held[word].copy()
                else:
                    chosen, value = rng.integers(0, 2, lanes), rng.integers(low, high, lanes)
                    ctx.set(port.lanes, number(chosen, 1))
                    ctx.set(Value.cast(port.data), number(value, bits))
                    held[word] = np.where(chosen, value, held[word])
                word = int(rng.integers(half, 2 * half))
                ctx.set(dut.s[0].en, 1)
                ctx.set(dut.s[0].addr, word)
                streams[now + READ_LATENCY] = held[word]
            if now in reads:
                which, expected = reads.pop(now)
                assert [ctx.get(dut.r[which].data[lane]) for lane in range(lanes)] == list(expected)
            for row in range(rows):
                if now - row in streams:
                    assert [ctx.get(dut.s[0].data[row * depth + place]) for place in range(depth)
                            ] == list(streams[now - row][row * depth:(row + 1) * depth])
            assert not ctx.get(dut.fault)
            await ctx.tick()
        assert not reads and len(streams) == cycles

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("kind", ["r", "w", "s"])
def test_beyond_the_end(kind):
    """A fault, and nothing is written."""
    params = Params(rows=1, cols=1, depth=2, memory=4, array_clock=1)
    dut = OperandMemory(params, readers=1, writers=1)

    async def bench(ctx):
        port = getattr(dut, kind)[0]
        ctx.set(port.addr, params.quant_words)
        if kind == "w":
            ctx.set(port.lanes, 3)
            ctx.set(Value.cast(port.data), -1 & 0xFF)
        await ctx.tick()
        assert not ctx.get(dut.fault)
        ctx.set(port.en, 1)
        await ctx.tick()
        ctx.set(port.en, 0)
        if kind == "s":
            assert not ctx.get(dut.fault)
            await ctx.tick()
        assert ctx.get(dut.fault)
        ctx.set(dut.r[0].addr, 0)
        for _ in range(READ_LATENCY):
            await ctx.tick()
        assert ctx.get(Value.cast(dut.r[0].data)) == 0
        assert not ctx.get(dut.fault)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()

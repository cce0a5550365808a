"""hdl.link.uart, bit by bit."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.link.uart import UartReceiver, UartTransmitter, phase_step
from tests.support.streams import consume, produce

#: Clock and baud with whole and broken ratios: 4, 8 1/3, 26 2/3, 25 and 108.5.
RATES = [(12_000_000, 3_000_000), (25_000_000, 3_000_000), (80_000_000, 3_000_000),
         (25_000_000, 1_000_000), (25_000_000, 230_400)]


def line(data, ratio, gap=0.0):
    """A level for every clock of an 8N1 line at ``ratio`` clocks per bit."""
    bits, time, edges = [], 0.0, []
    for byte in data:
        for bit in [0, *(byte >> i & 1 for i in range(8)), 1]:
            edges.append((time, bit))
            time += ratio
        time += gap * ratio
    edges.append((time, 1))
    level, at = 1, 0
    for clock in range(int(time + 4 * ratio)):
        while at < len(edges) and edges[at][0] <= clock:
            level = edges[at][1]
            at += 1
        bits.append(level)
    return bits


def receive(levels, clock, baud, count, ready=1):
    dut = UartReceiver(clock, baud)
    got = []

    async def drive(ctx):
        ctx.set(dut.o.ready, ready)
        for level in [1] * 5 + levels:
            ctx.set(dut.rx, level)
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid and ready:
                got.append(payload)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()
    assert len(got) == count
    return bytes(got)


@pytest.mark.parametrize(("clock", "baud"), RATES)
@pytest.mark.parametrize("error", [0.98, 1, 1.02])
def test_receives_bytes_from_a_line_up_to_two_percent_off(clock, baud, error):
    data = bytes([0x00, 0xFF, 0x55, 0xAA]) + random.Random(1).randbytes(6)
    assert receive(line(data, clock / baud * error), clock, baud, len(data)) == data


def test_receives_bytes_with_gaps():
    assert receive(line(b"gap", 25 / 3, gap=2.3), 25_000_000, 3_000_000, 3) == b"gap"


def test_a_glitch_is_no_start_bit():
    levels = [0] * 5 + [1] * 40 + line(b"x", 25)
    assert receive(levels, 25_000_000, 1_000_000, 1) == b"x"


def test_a_byte_without_a_stop_bit_is_dropped_and_the_line_must_rise_first():
    broken = line(b"a", 25)[:9 * 25] + [0] * 25 * 30 + [1] * 25
    assert receive(broken + line(b"b", 25), 25_000_000, 1_000_000, 1) == b"b"


@pytest.mark.parametrize(("clock", "baud"), RATES)
def test_sends_bits_of_the_right_length(clock, baud):
    dut = UartTransmitter(clock, baud)
    data = bytes([0x55, 0x00, 0xFF, 0xA3])
    levels = []

    async def source(ctx):
        await produce(ctx, dut.i, data)
        await ctx.tick().until(dut.i.ready)

    async def watch(ctx):
        async for _, _, level in ctx.tick().sample(dut.tx):
            levels.append(level)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(source)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    # Every bit in its middle, each byte from its own start bit.
    ratio, at = clock / baud, 0
    for byte in data:
        start = levels.index(0, at)
        assert start - at <= 4
        for i, bit in enumerate([0, *(byte >> i & 1 for i in range(8)), 1]):
            for place in (0.25, 0.5, 0.75) if ratio > 5 else (0.5,):
                assert levels[int(start + (i + place) * ratio)] == bit, (byte, i)
        at = int(start + 10 * ratio)
    assert set(levels[at + 2:]) <= {1}


class Loop(wiring.Component):
    """Bytes through a transmitter and a receiver."""
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.transmitter = transmitter = UartTransmitter(25_000_000, 3_000_000)
        m.submodules.receiver = receiver = UartReceiver(25_000_000, 3_000_000)
        m.d.comb += receiver.rx.eq(transmitter.tx)
        wiring.connect(m, wiring.flipped(self.i), transmitter.i)
        wiring.connect(m, receiver.o, wiring.flipped(self.o))
        return m


def test_a_byte_that_is_not_taken_waits_for_the_next_and_holds():
    dut, got = Loop(), []

    async def source(ctx):
        await produce(ctx, dut.i, b"abc")

    async def sink(ctx):
        await ctx.tick().until(dut.o.valid)
        for _ in range(60):
            await ctx.tick()
        await consume(ctx, dut.o, got, lambda items: len(items) == 3)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    assert bytes(got) == b"abc"


@pytest.mark.parametrize(("clock", "baud", "words"), [
    (10_000_000, 3_000_000, "at most a quarter"), (80_000_000, 300, "too slow")])
def test_refuses_rates_it_cannot_make(clock, baud, words):
    with pytest.raises(ValueError, match=words):
        phase_step(clock, baud)

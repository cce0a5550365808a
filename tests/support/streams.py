"""Streams in every weather: a producer that idles, a consumer that stalls, and a monitor."""

import random

from amaranth.sim import Simulator

__all__ = ["WEATHERS", "consume", "produce", "race", "transfer"]

#: (probability that the producer idles, probability that the consumer stalls) in a clock.
WEATHERS = [(0, 0), (0.6, 0), (0, 0.6), (0.4, 0.4)]


async def produce(ctx, stream, items, idle=0, seed=0):
    """Put ``items`` into a component's input stream."""
    chance = random.Random(seed)
    for item in items:
        while chance.random() < idle:
            await ctx.tick()
        ctx.set(stream.payload, item)
        ctx.set(stream.valid, 1)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)


async def consume(ctx, stream, items, finished, stall=0, seed=0):
    """Append what a component's output stream gives to ``items`` until ``finished(items)``.

    A payload that is valid must hold until it is taken.
    """
    chance = random.Random(seed)
    waiting = None
    while not finished(items):
        ready = chance.random() >= stall
        ctx.set(stream.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        assert waiting is None or (valid and payload == waiting), "a payload did not hold"
        waiting = payload if valid and not ready else None
        if valid and ready:
            items.append(payload)
    ctx.set(stream.ready, 0)


def transfer(dut, items, count, *, weather=(0, 0), seed=0, limit=100_000):
    """What comes out of ``dut.o`` when ``items`` enter ``dut.i``, ``count`` of them; checks that
    nothing follows for 50 clocks."""
    idle, stall = weather
    out = []

    async def source(ctx):
        await produce(ctx, dut.i, items, idle, seed)

    async def sink(ctx):
        await consume(ctx, dut.o, out, lambda got: len(got) >= count, stall, seed + 1)
        for _ in range(50):
            assert not ctx.get(dut.o.valid), "more than expected"
            await ctx.tick()

    race(dut, source, sink, limit, lambda: f"{len(out)} of {count}")
    return out


def race(dut, source, sink, limit, progress):
    """Run two benches to their end, which must come within ``limit`` clocks; ``progress()`` says
    in words how far they came."""
    async def deadline(ctx):
        for _ in range(limit):
            await ctx.tick()
        raise AssertionError(f"{progress()} after {limit} clocks")

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.add_testbench(deadline, background=True)
    simulator.run()

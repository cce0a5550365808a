"""hdl.stored: the words of stored instructions, in order, whenever they are taken."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdl.memory import Ram
from hdl.protocol import PROGRAM_WORDS
from hdl.stored import Stored


@pytest.mark.parametrize("pace", [1, 0.5, 0.05])
def test_words_come_in_order_from_any_instruction_on(pace):
    m = Module()
    m.submodules.stored = stored = Stored()
    m.submodules.ram = ram = Ram(64, PROGRAM_WORDS, readers=1, writers=1)
    m.d.comb += [ram.r[0].en.eq(stored.program_r.en), ram.r[0].addr.eq(stored.program_r.addr),
                 stored.program_r.data.eq(ram.r[0].data)]
    rng = random.Random(pace)
    contents = rng.randbytes(8 * PROGRAM_WORDS)

    async def process(ctx):
        for word in range(PROGRAM_WORDS):
            ctx.set(ram.w[0].en, 1)
            ctx.set(ram.w[0].addr, word)
            ctx.set(ram.w[0].data, int.from_bytes(contents[8 * word:8 * word + 8], "little"))
            await ctx.tick()
        ctx.set(ram.w[0].en, 0)
        await ctx.tick()
        for first, count in ((0, 3), (255, 1), (100, 2), (7, 1), (7, 4)):
            await run(ctx, first, count)

    async def run(ctx, first, count):
        ctx.set(stored.enable, 1)
        ctx.set(stored.first, first)
        ctx.set(stored.start, 1)
        await ctx.tick()
        ctx.set(stored.start, 0)
        taken, clocks = b"", 0
        # It may end anywhere in an instruction, too.
        wanted = 32 * count - rng.choice([0, 0, 8])
        while len(taken) < wanted:
            ready = rng.random() < pace
            ctx.set(stored.o.ready, ready)
            if ready and ctx.get(stored.o.valid):
                taken += ctx.get(stored.o.payload).to_bytes(8, "little")
            await ctx.tick()
            clocks += 1
            assert clocks < 10_000
        ctx.set(stored.o.ready, 0)
        ctx.set(stored.enable, 0)
        for _ in range(rng.randrange(8)):
            await ctx.tick()
            assert not ctx.get(stored.program_r.en)
        assert taken == contents[32 * first:32 * first + wanted]
        if pace == 1:
            # Four words are in the queue or on their way.
            words = wanted // 8
            assert clocks == 4 + words + (words - 1) // 4

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()

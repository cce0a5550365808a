"""The unit bench itself: what it stores, and that it notices a unit's mistakes."""

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import Opcode
from hdl.memory import READ_LATENCY, ReadPort, WritePort
from hdl.params import Params
from hdl.unit import UnitPort, wide_word
from tests.support.memories import UnitBench

PARAMS = Params(lanes=3, rows=3, cols=3, memory=4)


class Copy(wiring.Component):
    """Copies ``m`` words from ``src0`` to ``dst0``, with an optional mistake."""
    def __init__(self, mistake=None):
        self.mistake = mistake
        super().__init__({"control": Out(UnitPort()), "wide_r": Out(ReadPort(wide_word(PARAMS))),
                          "wide_w": Out(WritePort(wide_word(PARAMS)))})

    def elaborate(self, platform):
        m = Module()
        fields = self.control.instruction
        count = Signal(16)
        reading = Signal()
        #: Cycles since a row was asked for.
        way = Signal(READ_LATENCY)
        with m.If(self.control.start):
            m.d.sync += [count.eq(0), reading.eq(fields.m != 0)]
        with m.Else():
            m.d.sync += count.eq(count + 1)
            with m.If(count + 1 == fields.m):
                m.d.sync += reading.eq(0)
        m.d.sync += way.eq(Cat(reading, way))
        late = READ_LATENCY - (self.mistake == "late")
        m.d.comb += [
            self.wide_r.en.eq(reading),
            self.wide_r.addr.eq(fields.src0 + count),
            self.wide_w.en.eq(way[late - 1]),
            self.wide_w.addr.eq(fields.dst0 + count - late),
            Cat(self.wide_w.data).eq(Cat(self.wide_r.data)),
            self.control.done.eq(way[0] & ~reading if self.mistake == "early"
                                 else way[-1] & ~way[:-1].any() & ~reading),
        ]
        return m


def run(fields, mistake=None):
    bench = UnitBench(Copy(mistake), PARAMS)
    x = np.arange(-10, 10).reshape(4, 5)

    async def process(ctx):
        bench.load(ctx, "wide", 8, x)
        _cycles, clamped = await bench.run(ctx, Opcode.GEMM, limit=100, **fields)
        assert clamped == 0
        assert (bench.dump(ctx, "wide", fields["dst0"], 4, 5) == x).all()

    bench.simulate(process)


def test_a_tensor_is_stored_and_read_back():
    run({"m": 8, "src0": 8, "dst0": 32})


@pytest.mark.parametrize(("fields", "mistake", "message"), [
    ({"m": 8, "src0": 8, "dst0": 8 + READ_LATENCY}, None, "a read of a word being written in wide"),
    ({"m": 8, "src0": 0xFFFF, "dst0": 32}, None, "a read beyond the end in wide"),
    ({"m": 8, "src0": 8, "dst0": 0xFFFF}, None, "a write beyond the end in wide"),
    ({"m": 8, "src0": 8, "dst0": 32}, "early", "an access while idle in wide"),
    ({"m": 0, "src0": 8, "dst0": 32}, None, "not done after 100 cycles"),
])
def test_mistakes_are_named(fields, mistake, message):
    with pytest.raises(AssertionError, match=message):
        run(fields, mistake)


def test_a_word_is_there_for_one_cycle_only():
    with pytest.raises(AssertionError):
        run({"m": 8, "src0": 8, "dst0": 32}, "late")


def test_order_tables_are_stored_and_read_back():
    bench = UnitBench(Copy(), PARAMS)

    async def process(ctx):
        bench.load_order(ctx, 4, [1, 7, 0, -1], [1, 3])
        slots, marks = bench.dump_order(ctx, 4)
        assert slots.tolist() == [1, 7, 0, -1] and marks == [1, 3]
        bench.load_groups(ctx, 0, [3, 1])
        assert bench.dump_groups(ctx, 0, 2).tolist() == [3, 1]

    bench.simulate(process)

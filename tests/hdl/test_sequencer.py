"""hdl.sequencer, hdl.access and hdl.program: the protocol, with stand-ins for the units."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Cat, Module, ResetInserter, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.access import Access, depths
from hdl.dispatch import AccessFaults, Watched
from hdl.instructions import (
    INSTRUCTION_BYTES,
    BackwardFlag,
    GemmFlag,
    MoveFlag,
    NormFlag,
    Opcode,
    QuantiseFlag,
    Queue,
    ScaleFlag,
    in_order,
    instruction,
    is_lawful,
    queue_of,
    unpack_instruction,
)
from hdl.link.frame import FrameReceiver, FrameSender
from hdl.link.slip import Escaper, Unescaper
from hdl.memory import ADDRESS_BITS, READ_LATENCY, Ram, WritePort
from hdl.operand_memory import OperandMemory
from hdl.params import (
    MAX_K,
    MAX_M,
    MAX_N,
    PROTOCOL_VERSION,
    Params,
)
from hdl.program import InstructionCheck, Program, units_of
from hdl.protocol import (
    END,
    LOG_PART,
    MAX_BODY,
    MAX_STORED,
    PROGRAM_WORDS,
    REPEAT_WINDOW,
    Kind,
    LogPart,
    Space,
    Status,
    Unit,
    encode,
    readable,
    spaces,
    word_bytes,
    writable,
)
from hdl.sequencer import Sequencer
from hdl.unit import GROUP_BITS, UnitPort, lanes_word, wide_word
from tests.support.requests import head, read_body, simulate
from tests.support.streams import consume, produce

SMALL = Params(lanes=0, bits=3, rows=3, cols=3, depth=2, memory=4)
#: One that keeps masters.
KEEPER = Params(lanes=2, bits=5, rows=3, cols=2, depth=2, memory=4, masters=3)
#: One of which the quantised memory has more parts than 16 bits can count.
LARGE = Params(bits=2, rows=13, cols=1, depth=1, memory=64, masters=1)
WATCHDOG = 300
#: ``key1`` of an instruction whose unit never finishes.
HANG = 0xFFFF


class StandIn(wiring.Component):
    """A unit that waits ``m`` clocks and then writes ``n`` to wide[dst0], lane 0.

    It clamps ``key0 & 0xFF`` elements on the way. With ``key1 == HANG`` it never ends.
    """
    def __init__(self, params):
        super().__init__({
            "control": Out(UnitPort()), "wide_w": Out(WritePort(wide_word(params))),
        })
        self.runs = Signal(8)

    def elaborate(self, platform):
        m = Module()
        control, fields = self.control, self.control.instruction
        left = Signal(16)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += left.eq(fields.m)
                with m.If(control.start):
                    m.d.sync += self.runs.eq(self.runs + 1)
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += left.eq(left - 1)
                with m.If((left == 1) & (fields.key1 != HANG)):
                    m.d.comb += [
                        control.clamped.eq(fields.key0), control.done.eq(1),
                        self.wide_w.en.eq(1), self.wide_w.addr.eq(fields.dst0),
                        self.wide_w.data[0].eq(fields.n),
                    ]
                    m.next = "IDLE"
        return m


def memories(params, writers=1, readers=1):
    """Memories of every space, the wide one with so many writers, the quantised one readers."""
    made = {
        "wide": Ram(wide_word(params), params.wide_words, readers=1, writers=writers),
        "quant": OperandMemory(params, readers=readers, writers=1),
        "group": Ram(unsigned(GROUP_BITS), params.table_words, readers=1, writers=1),
    }
    if params.masters:
        for name, shape, words in (
                ("master", lanes_word(params, params.master_bits), params.master_words),
                ("velocity", lanes_word(params, params.velocity_bits), params.master_words),
                ("program", unsigned(64), PROGRAM_WORDS)):
            made[name] = Ram(shape, words, readers=1, writers=1)
    return made


class Bench(wiring.Component):
    """The machine with a stand-in for every unit; units are not ready for the first ``resting``
    clocks."""
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def __init__(self, params=SMALL, *, resting=0):
        super().__init__()
        self.params = params
        self.resting = resting
        self.stand_ins = {unit: StandIn(params) for unit in units_of(params)}
        self.memories = memories(params, writers=1 + len(self.stand_ins), readers=2)
        # Of wide, quantised memory and tables that the bench says, and whether the link wrote then.
        self.taken, self.collided = Signal(3), Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unescaper = unescaper = Unescaper()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.sequencer = sequencer = Sequencer(self.params, watchdog=WATCHDOG)
        m.submodules.sender = sender = FrameSender()
        m.submodules.escaper = escaper = Escaper()
        wiring.connect(m, wiring.flipped(self.i), unescaper.i)
        wiring.connect(m, unescaper.o, receiver.i)
        wiring.connect(m, receiver.frame, sequencer.frame)
        wiring.connect(m, sequencer.o, sender.i)
        wiring.connect(m, sender.o, escaper.i)
        wiring.connect(m, escaper.o, wiring.flipped(self.o))

        for name, ram in self.memories.items():
            m.submodules[name] = ram
            wiring.connect(m, getattr(sequencer, f"{name}_r"), ram.r[0])
            wiring.connect(m, getattr(sequencer, f"{name}_w"), ram.w[0])
        left = Signal(range(self.resting + 1), init=self.resting)
        m.d.comb += sequencer.ready.eq(left == 0)
        m.d.sync += left.eq(left - (left != 0))
        for i, (unit, stand_in) in enumerate(self.stand_ins.items()):
            m.submodules[unit.name] = ResetInserter(sequencer.units_reset[i])(stand_in)
            wiring.connect(m, sequencer.control[i], stand_in.control)
            wiring.connect(m, stand_in.wide_w, self.memories["wide"].w[1 + i])
        if self.params.masters:
            m.submodules.faults = faults = AccessFaults(self.params, [
                Watched(queue_of(unit), "wide", self.params.wide_words, False)
                for unit in self.stand_ins])
            for access, stand_in in zip(faults.access, self.stand_ins.values(), strict=True):
                m.d.comb += [access.en.eq(stand_in.wide_w.en),
                             access.addr.eq(stand_in.wide_w.addr)]
            m.d.comb += sequencer.fault.eq(faults.fault)
            taken = [sequencer.wide_taken, sequencer.quant_taken, sequencer.group_taken]
            writes = [sequencer.wide_w.en, sequencer.quant_w.en, sequencer.group_w.en]
            m.d.comb += Cat(taken).eq(Cat(self.taken[0] | Cat(
                stand_in.wide_w.en for stand_in in self.stand_ins.values()).any(),
                self.taken[1:]))
            m.d.sync += self.collided.eq(self.collided | (Cat(taken) & Cat(writes)).any())
        else:
            m.d.comb += sequencer.fault.eq(self.memories["wide"].fault)
        return m


def norm(m=1, n=1, dst0=0, clamped=0, key1=0, op=Opcode.NORM_FORWARD):
    """An instruction for a stand-in."""
    return instruction(op, m=m, n=n, dst0=dst0, key0=clamped, key1=key1)


def run_answer(answer):
    """``(completed, unit, cycles)``."""
    assert len(answer) in (6, 7)
    return (int.from_bytes(answer[:-5], "little"), Unit(answer[-5]),
            int.from_bytes(answer[-4:], "little"))


async def status_of(request):
    """``(bad frames, saturations, error, instruction, unit)``."""
    status, body = await request(Kind.STATUS)
    assert status == Status.OK and len(body) in (11, 12)
    return (int.from_bytes(body[:4], "little"), int.from_bytes(body[4:8], "little"),
            Status(body[8]), int.from_bytes(body[9:-1], "little"), Unit(body[-1]))


CLEAR = (0, 0, Status.OK, 0, Unit.NONE)


def test_hello_tells_version_and_fingerprint_and_refuses_other_versions():
    expected = bytes([PROTOCOL_VERSION]) + bytes.fromhex(SMALL.fingerprint)

    async def process(ctx, request):
        assert await request(Kind.HELLO, bytes([PROTOCOL_VERSION])) == (Status.OK, expected)
        assert await request(Kind.HELLO, bytes([PROTOCOL_VERSION + 1])) == (
            Status.VERSION, expected)
        assert await request(Kind.HELLO) == (Status.BAD_LENGTH, b"")
        assert await request(Kind.HELLO, bytes([PROTOCOL_VERSION, 0])) == (Status.BAD_LENGTH, b"")

    simulate(Bench(), process)


def stored(space, words, params):
    """Bytes of words as they come back."""
    bits, size = {Space.QUANT: (params.bits, 1), Space.MASTER: (params.master_bits, 4),
                  Space.VELOCITY: (params.velocity_bits, 4)}.get(space, (None, 1))
    if bits is None:
        return words
    half, back = 1 << bits - 1, b""
    for start in range(0, len(words), size):
        number = int.from_bytes(words[start:start + size], "little") & 2 * half - 1
        back += ((number ^ half) - half).to_bytes(size, "little", signed=True)
    return back


@pytest.mark.parametrize("params", [SMALL, Params(bits=8, cols=1, rows=1, depth=1, memory=64),
                                    Params(lanes=0, bits=2, cols=16, memory=4),
                                    Params(bits=5, rows=7, depth=3, memory=4), KEEPER,
                                    Params(bits=8, rows=1, depth=1, cols=1, memory=4, masters=64),
                                    Params(lanes=2, memory=4, masters=4, master_bits=16,
                                           velocity_bits=8)],
                         ids=lambda params: params.name)
def test_what_is_written_is_read(params):
    async def process(ctx, request):
        chance = random.Random(1)
        for space in set(writable(params)) & set(readable(params)):
            size, end = word_bytes(space, params), depths(params)[space]
            words = chance.randbytes(3 * size)
            await request.write(space, 5, words)
            await request.write(space, end - 1, words[:size])
            expected = stored(space, words, params)
            assert await request.read(space, 5, 3) == expected
            assert await request.read(space, 6, 1) == expected[size:2 * size]
            assert await request.read(space, end - 1, 1) == expected[:size]
            assert await status_of(request) == CLEAR
        if params.masters:
            # Each word has a place of its own.
            for space in (Space.MASTER, Space.VELOCITY):
                await request.write(space, 7, bytes([space]) * word_bytes(space, params))
            for space in (Space.MASTER, Space.VELOCITY):
                size = word_bytes(space, params)
                assert await request.read(space, 7, 1) == stored(
                    space, bytes([space]) * size, params)

    simulate(Bench(params), process)


@pytest.mark.parametrize("params", [SMALL, LARGE], ids=lambda params: params.name)
def test_parts_of_a_word_are_the_rows_of_the_array(params):
    rows, depth, bits = params.rows, params.depth, params.bits

    async def word_at(ctx, address):
        port = bench.memories["quant"].r[1]
        ctx.set(port.en, 1)
        ctx.set(port.addr, address)
        await ctx.tick()
        ctx.set(port.en, 0)
        for _ in range(READ_LATENCY - 1):
            await ctx.tick()
        return [ctx.get(port.data[lane]) & (1 << bits) - 1 for lane in range(rows * depth)]

    async def process(ctx, request):
        chance = random.Random(3)
        for first, count in ((0, 2), (255, 3), (params.quant_words - 2, 2)):
            word = depth * rows
            words = bytearray(chance.randrange(1 << bits) for _ in range(count * word))
            await request.write(Space.QUANT, first * rows, words)
            # One in the middle of a word leaves the others.
            middle = word + depth
            words[middle:middle + depth] = bytes(range(depth))
            await request.write(Space.QUANT, (first + 1) * rows + 1, words[middle:middle + depth])
            for place in range(count):
                assert await word_at(ctx, first + place) == list(
                    words[place * word:(place + 1) * word])

    bench = Bench(params)
    simulate(bench, process)


#: Machines with words of packed codes that end within a byte, that fill bytes, of a code for each.
PACKED = [KEEPER, Params(lanes=1, bits=4, rows=3, cols=3, depth=3, memory=4, masters=1),
          Params(lanes=2, bits=3, rows=4, cols=2, depth=2, memory=4, masters=1),
          Params(lanes=1, bits=8, rows=1, cols=1, depth=1, memory=4, masters=1)]
packed = pytest.mark.parametrize("params", PACKED, ids=lambda params: params.name)


@packed
def test_packed_codes_are_written_to_the_first_lanes_of_words(params):
    each, slots, rows = 8 // params.bits, params.slots, params.rows
    end, most = params.quant_words, word_bytes(Space.CODES, params)

    async def process(ctx, request):
        chance = random.Random(params.name)
        for size in sorted({1, max(most - 1, 1), most}):
            for first, count in ((min(255, end - 3), 3), (end - 1, 1)):
                held = bytearray(chance.randbytes(count * slots))
                await request.write(Space.QUANT, first * rows, held)
                words = chance.randbytes(count * size)
                await request.write(Space.CODES, first, bytes([size - 1]) + words)
                for place, byte in enumerate(words):
                    word, index = divmod(place, size)
                    for lane in range(each * index, min(each * (index + 1), slots)):
                        held[word * slots + lane] = byte >> params.bits * (lane % each)
                assert await request.read(Space.QUANT, first * rows, count * rows) == stored(
                    Space.QUANT, bytes(held), params)
        # The longest WRITE has the most words where these are shortest.
        longest = min(MAX_BODY - 5, end - 1)
        await request.write(Space.QUANT, longest * rows, bytes(slots))
        words = chance.randbytes(longest)
        await request.write(Space.CODES, 1, b"\0" + words)
        assert await request.read(Space.QUANT, longest * rows, rows) == stored(
            Space.QUANT, bytes(words[-1] >> params.bits * lane if lane < each else 0
                               for lane in range(slots)), params)
        assert await status_of(request) == CLEAR

    simulate(Bench(params), process)


@packed
def test_packed_codes_that_are_refused_change_nothing(params):
    end, most, rows = params.quant_words, word_bytes(Space.CODES, params), params.rows

    async def process(ctx, request):
        held = stored(Space.QUANT, random.Random(0).randbytes(2 * params.slots), params)
        for first in (0, end - 2):
            await request.write(Space.QUANT, first * rows, held)
        # None, no byte of a word, more than whole words, less than one, too long ones.
        for rest in (b"", b"\0", bytes([most - 1]) + bytes(2 * most + 1) * (most > 1),
                     bytes([most - 1]) + bytes(most - 1), b"\xff" + bytes(255),
                     bytes([min(most, 255)]) + bytes(min(2 * most + 2, 255))):
            assert await request(Kind.WRITE, head(Space.CODES, 0) + rest) == (
                Status.BAD_LENGTH, b""), rest
        for address in (end - 1, end, max(end, 0xFFFF), 1 << 16, 0xFFFFFF):
            assert await request(Kind.WRITE, head(Space.CODES, address) + b"\0\1\1") == (
                Status.ADDRESS, b"")
        for address, count in ((0, 1), (0, 0), (end, 1)):
            assert await request(Kind.READ, read_body(Space.CODES, address, count)) == (
                Status.ADDRESS, b"")
        for first in (0, end - 2):
            assert await request.read(Space.QUANT, first * rows, 2 * rows) == held
        assert await status_of(request) == CLEAR

    simulate(Bench(params), process)


@packed
def test_packed_codes_of_a_column_are_written_to_the_first_lane_of_words(params):
    each, slots, rows = 8 // params.bits, params.slots, params.rows
    end = params.quant_words // each

    async def process(ctx, request):
        chance = random.Random(params.name)
        for first, count in ((0, 5), (min(255, end - 3), 3), (end - 1, 1)):
            held = bytearray(chance.randbytes(each * count * slots))
            await request.write(Space.QUANT, each * first * rows, held)
            words = chance.randbytes(count)
            await request.write(Space.COLUMN, first, words)
            for place in range(each * count):
                held[place * slots] = words[place // each] >> params.bits * (place % each)
            assert await request.read(Space.QUANT, each * first * rows, each * count * rows) == (
                stored(Space.QUANT, bytes(held), params))
        # What is refused changes nothing.
        assert await request(Kind.WRITE, head(Space.COLUMN, 0)) == (Status.BAD_LENGTH, b"")
        for address in (end - 1, end, 0xFFFF, 0xFFFFFE):
            if address + 2 > end:
                assert await request(Kind.WRITE, head(Space.COLUMN, address) + b"\1\1") == (
                    Status.ADDRESS, b"")
        assert await request(Kind.READ, read_body(Space.COLUMN, 0, 1)) == (Status.ADDRESS, b"")
        assert await request.read(Space.QUANT, each * (end - 1) * rows, each * rows) == stored(
            Space.QUANT, bytes(held), params)
        assert await status_of(request) == CLEAR

    simulate(Bench(params), process)


def test_words_of_a_program_that_are_apart_are_written_where_they_belong():
    size = word_bytes(Space.PATCH, KEEPER)

    async def process(ctx, request):
        chance = random.Random(6)
        held = {}
        for place in range(0, PROGRAM_WORDS, 128):
            words = chance.randbytes(128 * 8)
            await request.write(Space.PROGRAM, place, words)
            held |= {place + i: words[8 * i:8 * i + 8] for i in range(128)}
        for first, gaps in ((0, [0]), (PROGRAM_WORDS - 1, [0]), (5, [0, 0, 3, 255, 1]),
                            (PROGRAM_WORDS - 4, [1, 0, 0, 7]), (19, [200] * 30)):
            place, body = first - 1, b""
            for gap in gaps:
                place, word = (place + 1 + gap) % PROGRAM_WORDS, chance.randbytes(8)
                held[place] = word
                body += bytes([gap]) + word
            await request.write(Space.PATCH, first, body)
        for place in range(0, PROGRAM_WORDS, 128):
            assert await request.read(Space.PROGRAM, place, 128) == b"".join(
                held[place + i] for i in range(128))
        # What is refused changes nothing.
        for body in (b"", b"\1" * (size - 1), b"\1" * (size + 1)):
            assert await request(Kind.WRITE, head(Space.PATCH, 0) + body) == (
                Status.BAD_LENGTH, b"")
        for address in (PROGRAM_WORDS - 1, PROGRAM_WORDS, 0xFFFF, 1 << 16):
            assert await request(Kind.WRITE, head(Space.PATCH, address) + b"\1" * 2 * size) == (
                Status.ADDRESS, b"")
        assert await request(Kind.READ, read_body(Space.PATCH, 0, 1)) == (Status.ADDRESS, b"")
        for place in (0, PROGRAM_WORDS - 64):
            assert await request.read(Space.PROGRAM, place, 64) == b"".join(
                held[place + i] for i in range(64))
        assert await status_of(request) == CLEAR

    simulate(Bench(KEEPER), process)


def test_words_as_numbers_and_as_bytes():
    lanes = KEEPER.vector

    async def process(ctx, request):
        chance = random.Random(4)
        for address in (0, 77, KEEPER.wide_words - 5):
            numbers = chance.randbytes(5 * lanes)
            await request.write(Space.WIDE, address, b"\xFF" * 5 * 4 * lanes)
            await request.write(Space.BYTES, address, numbers)
            wide = b"".join(bytes([number, 0, 0, 0]) for number in numbers)
            assert await request.read(Space.WIDE, address, 5) == wide
            assert await request.read(Space.BYTES, address, 5) == numbers
            # Of numbers that are no bytes, the lowest.
            words = chance.randbytes(4 * lanes)
            await request.write(Space.WIDE, address + 1, words)
            assert await request.read(Space.BYTES, address, 3) == (
                numbers[:lanes] + words[::4] + numbers[2 * lanes:3 * lanes])

    simulate(Bench(KEEPER), process)


@pytest.mark.parametrize("params", [SMALL, Params(bits=4, rows=1, memory=4), KEEPER],
                         ids=lambda params: params.name)
def test_clocks_of_write_and_read(params):
    m = Module()
    m.submodules.dut = dut = Access(params)
    for name, memory in memories(params).items():
        m.submodules[name] = memory
        wiring.connect(m, getattr(dut, f"{name}_r"), memory.r[0])
        wiring.connect(m, getattr(dut, f"{name}_w"), memory.w[0])

    async def clocks(ctx, write, space, count):
        body = bytes([space, 0, 1, 0])
        size = word_bytes(space, params)
        if space == Space.CODES:
            body += bytes([size - 1])
        body += bytes(count * size) if write else bytes([count, 0])
        for name, value in (("write", write), ("length", len(body)), ("start", 1)):
            ctx.set(getattr(dut, name), value)
        taken = 0
        while True:
            ctx.set(dut.i.payload, body[0] if body else 0)
            ended = (ctx.get(dut.done) if write
                     else ctx.get(dut.o.valid) and ctx.get(dut.o.payload.last))
            if ctx.get(dut.i.ready):
                body = body[1:]
            await ctx.tick()
            taken += 1
            ctx.set(dut.start, 0)
            if ended:
                return taken

    async def process(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for space in spaces(params):
            size, parted = word_bytes(space, params), space == Space.QUANT
            packed = space == Space.CODES
            writes = {Space.CODES: size, Space.COLUMN: 8 // params.bits}.get(space, 1)
            for write, each in ((1, 2 + size + writes), (0, size + 4 + parted)):
                if space not in (writable(params) if write else readable(params)):
                    continue
                first = await clocks(ctx, write, space, 1)
                assert await clocks(ctx, write, space, 5) - first == 4 * each
                # What comes before: the head, the checks, the address.
                assert first - each == (12 if write else 13) + parted * (
                    ADDRESS_BITS + 8 * (params.masters > 0)) + 2 * packed, space

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def test_the_longest_write_and_read():
    async def process(ctx, request):
        words = random.Random(2).randbytes((MAX_BODY - 4) // 2 * 2)
        await request.write(Space.QUANT, 1, words)
        most = (MAX_BODY - 1) // 2
        got = await request.read(Space.QUANT, 1, most)
        assert got[:len(words)] == stored(Space.QUANT, words, SMALL)
        for space, size in ((Space.WIDE, 12), (Space.QUANT, 2), (Space.GROUP, 4)):
            most = (MAX_BODY - 1) // size
            assert await request(Kind.READ, read_body(space, 1, most + 1)) == (
                Status.BAD_LENGTH, b"")

    simulate(Bench(), process)


@pytest.mark.parametrize("params", [SMALL, KEEPER, LARGE], ids=lambda params: params.name)
def test_a_write_or_read_beyond_the_end_touches_nothing(params):
    async def process(ctx, request):
        refused = (Status.ADDRESS, b"")
        for space in readable(params):
            size, end = word_bytes(space, params), depths(params)[space]
            beyond = {end - 1, end, max(end, 0xFFFF)}
            if params.masters:
                beyond |= {1 << bit for bit in range(16, 24) if 1 << bit >= end} | {0xFFFFFF}
            for address in sorted(beyond):
                body = head(space, address) + b"\1" * 2 * size
                assert await request(Kind.WRITE, body) == refused
                assert await request(Kind.READ, read_body(space, address, 2)) == refused
            assert await request.read(space, end - 1, 1) == bytes(size)
            assert await request.read(space, 0, 2) == bytes(2 * size)
        for space in set(spaces(params)) - set(writable(params)):
            for size in (1, word_bytes(space, params)):
                assert await request(Kind.WRITE, bytes([space, 0, 0, 0]) + b"\1" * size) == refused
        for space in (len(spaces(params)), 255):
            assert await request(Kind.WRITE, bytes([space, 0, 0, 0, 1])) == refused
            assert await request(Kind.READ, read_body(space, 0, 1)) == refused
        assert await status_of(request) == CLEAR

    simulate(Bench(params), process)


def test_bodies_of_the_wrong_length_are_refused():
    async def process(ctx, request):
        for kind, body in (
                (Kind.WRITE, b""), (Kind.WRITE, bytes(3)), (Kind.WRITE, bytes(4)),
                (Kind.WRITE, bytes([Space.WIDE]) + bytes(3 + 11)),
                (Kind.WRITE, bytes([Space.WIDE]) + bytes(3 + 13)),
                (Kind.WRITE, bytes([Space.QUANT]) + bytes(3 + 5)),
                (Kind.WRITE, bytes([Space.GROUP]) + bytes(3 + 6)),
                (Kind.READ, b""), (Kind.READ, bytes(5)), (Kind.READ, bytes([0, 0, 0, 0, 1, 0, 0])),
                (Kind.READ, read_body(Space.WIDE, 0, 0)),
                (Kind.READ, read_body(Space.GROUP, 0, 0xFFFF)),
                (Kind.RUN, b""), (Kind.RUN, bytes(31)), (Kind.RUN, norm() + b"x"),
                # There are no stored programs.
                (Kind.RUN, bytes([0, 0, 1, 0])),
                (Kind.STATUS, b"x"), (Kind.RESET, b"x")):
            assert await request(kind, body) == (Status.BAD_LENGTH, b""), (kind, body)
        assert await status_of(request) == CLEAR

    simulate(Bench(), process)


def test_unknown_kinds_are_refused():
    async def process(ctx, request):
        for kind in (0, 7, 0x7E, Kind.NAK, 0x80 | Kind.HELLO, 0xFF):
            assert await request(kind, b"\1") == (Status.BAD_KIND, b"")

    simulate(Bench(), process)


def test_damaged_frames_are_counted_answered_and_have_no_effect():
    async def process(ctx, request):
        nak = (0, Kind.NAK | Kind.ANSWER, bytes([Status.BAD_FRAME]))
        frame = encode(1, Kind.WRITE, bytes([Space.GROUP, 0, 0, 0, 1, 2, 3, 4]))
        assert await request.wire(frame[:8] + b"\x77" + frame[9:]) == nak
        assert await request.wire(frame[:-3] + frame[-1:]) == nak
        assert await request.wire(encode(1, Kind.RUN, norm(n=5) * 64 + b"x")) == nak
        assert await status_of(request) == (3, *CLEAR[1:])
        assert await request.read(Space.GROUP, 0, 1) == bytes(4)
        assert await request(Kind.RESET) == (Status.OK, b"")
        assert await status_of(request) == CLEAR

    simulate(Bench(), process)


@pytest.mark.parametrize("params", [SMALL, KEEPER, replace(KEEPER, layer_norm=True)],
                         ids=lambda params: params.name)
def test_run_starts_the_unit_of_the_opcode(params):
    async def process(ctx, request):
        for op in map(Opcode, bench.stand_ins):
            fields = {"m": 1, "k": 2, "n": 3, "dst0": op, "arg": 1, "tab2": 0xABCD,
                      "key0": 0x01010101 if op == Opcode.POOL else 1}
            program = instruction(op, **fields if op != Opcode.QUANTISE else fields | {"arg": 0})
            status, answer = await request(Kind.RUN, program)
            assert (status, *run_answer(answer)[:2]) == (Status.OK, 1, Unit(op))
            # All see the instruction, or all of its queue; only its own unit ran.
            for unit, stand_in in bench.stand_ins.items():
                if not params.masters or queue_of(unit) == queue_of(op):
                    assert ctx.get(stand_in.control.instruction.as_value()) == int.from_bytes(
                        program, "little")
                assert ctx.get(stand_in.runs) == (unit <= op)

    bench = Bench(params)
    simulate(bench, process)


def test_run_executes_in_order_and_counts_cycles_and_clamped_elements():
    async def process(ctx, request):
        program = [norm(n=7, dst0=1, clamped=200), norm(m=50, n=8, dst0=1, clamped=100),
                   norm(m=5, n=9, dst0=2, op=Opcode.NORM_BACKWARD, clamped=1)]
        status, answer = await request(Kind.RUN, b"".join(program))
        assert status == Status.OK
        assert run_answer(answer) == (3, Unit.NORM_BACKWARD, 3 * Program.BESIDE + 1 + 50 + 5)
        words = await request.read(Space.WIDE, 1, 2)
        assert (words[0], words[12]) == (8, 9)
        assert await status_of(request) == (0, 301, Status.OK, 0, Unit.NONE)
        # The counter stays until a reset.
        status, answer = await request(Kind.RUN, norm(clamped=255))
        assert run_answer(answer) == (1, Unit.NORM_FORWARD, 38)
        assert await status_of(request) == (0, 556, Status.OK, 0, Unit.NONE)
        assert await request(Kind.RESET) == (Status.OK, b"")
        assert await status_of(request) == CLEAR

    simulate(Bench(), process)


def test_no_unit_starts_before_all_are_ready():
    async def process(ctx, request):
        for waits in (True, False):
            status, answer = await request(Kind.RUN, norm())
            assert status == Status.OK
            completed, unit, cycles = run_answer(answer)
            assert (completed, unit) == (1, Unit.NORM_FORWARD)
            assert cycles > 400 if waits else cycles == 38

    simulate(Bench(resting=600), process)


def test_run_takes_as_many_instructions_as_fit_a_frame():
    async def process(ctx, request):
        program = b"".join(norm(n=i + 1, dst0=i) for i in range(64))
        status, answer = await request(Kind.RUN, program)
        assert (status, run_answer(answer)[0]) == (Status.OK, 64)
        words = await request.read(Space.WIDE, 0, 64)
        assert [words[12 * i] for i in range(64)] == list(range(1, 65))

    simulate(Bench(), process)


def test_an_error_stops_the_run_and_stays_until_reset():
    errors = [
        (norm(m=0), Status.BAD_INSTRUCTION, Unit.NONE),
        (norm(dst0=SMALL.wide_words), Status.ADDRESS, Unit.NORM_FORWARD),
        (norm(m=40, dst0=0xFFFF, op=Opcode.QUANTISE), Status.ADDRESS, Unit.QUANTISE),
        (norm(key1=HANG, op=Opcode.NORM_BACKWARD), Status.WATCHDOG, Unit.NORM_BACKWARD),
        (norm(m=WATCHDOG + 1), Status.WATCHDOG, Unit.NORM_FORWARD),
    ]

    async def process(ctx, request):
        for bad, status, unit in errors:
            await request.write(Space.WIDE, 0, bytes(36))
            program = norm(n=1, dst0=0) + norm(n=2, dst0=1) + bad + norm(n=3, dst0=2)
            answer = await request(Kind.RUN, program)
            assert (answer[0], *run_answer(answer[1])[:2]) == (status, 2, unit)
            assert await status_of(request) == (0, 0, status, 2, unit)
            # What ran before it stays; nothing after it runs, now or later.
            words = await request.read(Space.WIDE, 0, 3)
            assert (words[0], words[12], words[24]) == (1, 2, 0)
            assert await request(Kind.RUN, norm(n=3, dst0=2)) == (Status.STICKY, b"")
            assert await status_of(request) == (0, 0, status, 2, unit)
            assert await request.read(Space.WIDE, 2, 1) == bytes(12)
            assert await request(Kind.RESET) == (Status.OK, b"")
            assert await status_of(request) == CLEAR
            # The unit starts afresh.
            again = max(unit, Unit.QUANTISE)
            answer = await request(Kind.RUN, norm(m=7, n=9, dst0=2, op=again))
            assert (answer[0], *run_answer(answer[1])) == (Status.OK, 1, again, 44)
            assert (await request.read(Space.WIDE, 2, 1))[0] == 9

    simulate(Bench(), process)


# Stored programs; longer ones are in the sessions of sim.bench.

#: How many there are.
PLACES = PROGRAM_WORDS * 8 // INSTRUCTION_BYTES


async def store_program(request, first, steps):
    """Write instructions from a place on."""
    await request.write(Space.PROGRAM, 4 * first, b"".join(steps))


def which(first, count):
    """The body of a RUN of stored instructions."""
    return first.to_bytes(2, "little") + count.to_bytes(2, "little")


def test_stored_instructions_run_in_order_and_take_their_time():
    async def process(ctx, request):
        total = 0
        for first in (0, 5, PLACES - 6):
            await store_program(request, first, [
                norm(m=1 + i, n=i + 1, dst0=i, clamped=1 << i) for i in range(6)])
        for base, skipped, count in ((0, 0, 1), (0, 2, 3), (5, 0, 6), (PLACES - 6, 5, 1),
                                     (PLACES - 6, 3, 3), (PLACES - 6, 0, 6)):
            await request.write(Space.WIDE, 0, bytes(6 * 4 * KEEPER.vector))
            places = range(skipped, skipped + count)
            status, body = await request(Kind.RUN, which(base + skipped, count))
            completed, unit, cycles = run_answer(body)
            assert (status, completed, unit) == (Status.OK, count, Unit.NORM_FORWARD)
            # An instruction waits for its fetch, or for the one before it.
            assert cycles == 16 + places[-1] + sum(max(7, 5 + i) for i in places[:-1])
            words = await request.read(Space.WIDE, 0, 6)
            assert list(words[::4 * KEEPER.vector]) == [
                i + 1 if i in places else 0 for i in range(6)]
            total += sum(1 << i for i in places)
            assert await status_of(request) == (0, total, Status.OK, 0, Unit.NONE)

    simulate(Bench(KEEPER), process)


def test_the_log_says_when_the_instructions_of_the_last_run_were_where():
    """Of stored programs and of those that come with a RUN."""
    async def log(request, count):
        words = [await request.read(Space.LOG, LOG_PART * part, count) for part in LogPart]
        return [[int.from_bytes(word[4 * i:4 * i + 4], "little") for i in range(count)]
                for word in words]

    async def process(ctx, request):
        steps = [norm(m=5), norm(m=9, op=Opcode.MOVE), norm(m=20), norm(m=1),
                 instruction(Opcode.MOVE, m=2, n=1, after=(Queue.VECTOR,))]
        await store_program(request, 3, steps)
        answer = await request(Kind.RUN, which(3, 5))
        cycles = run_answer(answer[1])[2]
        queued, started, done = await log(request, 5)
        assert queued == [10, 17, 24, 48, 55]
        assert started == [11, 18, 25, 49, 56]
        assert done == [16, 27, 45, 50, 58] and cycles == 58 + 4
        # Another run, whose instructions come a byte a clock and a clock for every quarter.
        assert (await request(Kind.RUN, b"".join(steps[2:4])))[0] == Status.OK
        queued, started, done = await log(request, 2)
        assert [start - queue for queue, start in zip(queued, started, strict=True)] == [1, 1]
        assert [end - start for start, end in zip(started, done, strict=True)] == [20, 1]
        assert queued[1] == max(queued[0] + INSTRUCTION_BYTES + 4, done[0] + 3)
        assert await status_of(request) == CLEAR

    simulate(Bench(KEEPER), process)


def test_stored_instructions_that_are_not_there_are_refused():
    async def process(ctx, request):
        await store_program(request, 0, [norm(clamped=1)] * 3)
        for first, count, status in (
                (0, 0, Status.BAD_LENGTH), (0, MAX_STORED + 1, Status.BAD_LENGTH),
                (0xFFFF, 0, Status.BAD_LENGTH), (5, 0xFFFF, Status.BAD_LENGTH),
                (0, 0x201, Status.BAD_LENGTH),
                (PLACES, 1, Status.ADDRESS), (PLACES - 1, 2, Status.ADDRESS),
                (2, MAX_STORED, Status.ADDRESS), (0xFFFF, 1, Status.ADDRESS),
                (0xFFFF, MAX_STORED, Status.ADDRESS), (0x8000, 1, Status.ADDRESS)):
            assert await request(Kind.RUN, which(first, count)) == (status, b""), (first, count)
        for length in (1, 2, 3, 5, 8):
            assert await request(Kind.RUN, bytes(length)) == (Status.BAD_LENGTH, b"")
        assert await status_of(request) == CLEAR
        # Nothing of it is left to the next.
        assert (await request(Kind.RUN, which(1, 2)))[0] == Status.OK
        assert (await request(Kind.RUN, norm()))[0] == Status.OK
        assert await status_of(request) == (0, 2, Status.OK, 0, Unit.NONE)

    simulate(Bench(KEEPER), process)


def test_an_error_of_a_stored_program_stays_until_reset():
    errors = [(norm(m=0), Status.BAD_INSTRUCTION, Unit.NONE),
              (norm(dst0=KEEPER.wide_words), Status.ADDRESS, Unit.NORM_FORWARD),
              (norm(key1=HANG), Status.WATCHDOG, Unit.NORM_FORWARD)]

    async def process(ctx, request):
        first = PLACES - 3
        for index, (bad, status, unit) in zip((0, 1, 2), errors, strict=True):
            steps = [norm(n=i + 1, dst0=i) for i in range(3)]
            await request.write(Space.WIDE, 0, bytes(3 * 4 * KEEPER.vector))
            await store_program(request, first, [*steps[:index], bad, *steps[index + 1:]])
            answer = await request(Kind.RUN, which(first, 3))
            assert (answer[0], *run_answer(answer[1])[:2]) == (status, index, unit)
            assert await status_of(request) == (0, 0, status, index, unit)
            # RESET alone helps.
            for body in (which(first, 1), which(0, 0), which(0xFFFF, 1), norm()):
                assert await request(Kind.RUN, body) == (Status.STICKY, b"")
            # What ran before it stays, nothing ran after it.
            words = await request.read(Space.WIDE, 0, 3)
            assert list(words[::4 * KEEPER.vector]) == [
                i + 1 if i < index else 0 for i in range(3)]
            assert await request(Kind.RESET) == (Status.OK, b"")
            assert await status_of(request) == CLEAR
            await store_program(request, first + index, [steps[index]])
            assert (await request(Kind.RUN, which(first, 3)))[0] == Status.OK

    simulate(Bench(KEEPER), process)


def test_a_repeated_run_of_stored_instructions_is_not_executed_again():
    async def process(ctx, request):
        await store_program(request, 0, [norm(clamped=3)] * 4)
        first = await request(Kind.RUN, which(0, 2), seq=77)
        assert first[0] == Status.OK
        for body in (which(0, 2), which(1, 1), which(0, 0), norm()):
            assert await request(Kind.RUN, body, seq=77) == first
        assert await status_of(request) == (0, 6, Status.OK, 0, Unit.NONE)
        refused = await request(Kind.RUN, which(0xFFFF, 1), seq=78)
        assert refused == (Status.ADDRESS, b"")
        assert await request(Kind.RUN, which(0, 1), seq=78) == refused
        # An instruction that has changed since.
        await store_program(request, 1, [norm(clamped=40)])
        assert (await request(Kind.RUN, which(0, 2), seq=79))[0] == Status.OK
        assert await status_of(request) == (0, 49, Status.OK, 0, Unit.NONE)

    simulate(Bench(KEEPER), process)


def several(first, count):
    """The body of a START or a RUN of stored instructions."""
    return first.to_bytes(2, "little") + count.to_bytes(2, "little")


def test_a_program_that_was_started_runs_beside_writes():
    steps = [norm(m=250, n=3, dst0=9), norm(m=250, n=4, dst0=10, clamped=5)]
    dut = Bench(KEEPER)

    async def process(ctx, request):
        await request.write(Space.PROGRAM, 0, b"".join(in_order(step) for step in steps))
        assert await request(Kind.START, several(0, 2)) == (Status.OK, b"")
        for address in (3, 4, 5):
            await request.write(Space.WIDE, address, bytes([address] * 8))
        # All of that took no longer than the first instruction.
        assert ctx.get(dut.stand_ins[Unit.NORM_FORWARD].runs) == 1
        for kind, body in ((Kind.READ, read_body(Space.WIDE, 3, 1)), (Kind.RUN, several(0, 1)),
                           (Kind.RUN, steps[0]), (Kind.START, several(0, 1)),
                           (Kind.WRITE, head(Space.MASTER, 0) + bytes(8))):
            assert await request(kind, body) == (Status.BUSY, b"")
        status, answer = await request(Kind.WAIT)
        assert status == Status.OK
        assert run_answer(answer)[:2] == (2, Unit.NORM_FORWARD)
        assert 500 < run_answer(answer)[2] < 530
        assert await request(Kind.WAIT) == (status, answer)
        for address in (3, 4, 5):
            assert await request.read(Space.WIDE, address, 1) == bytes([address] * 8)
        assert (await request.read(Space.WIDE, 9, 2))[::8] == bytes([3, 4])
        assert await status_of(request) == (0, 5, Status.OK, 0, Unit.NONE)
    simulate(dut, process)


@pytest.mark.parametrize(("number", "space"), [
    (0, Space.WIDE), (1, Space.QUANT), (1, Space.CODES), (2, Space.GROUP)])
def test_a_write_waits_until_no_unit_is_at_its_memory(number, space):
    dut, rng = Bench(KEEPER), random.Random(number)
    size = word_bytes(space, KEEPER)
    packed = space == Space.CODES
    #: Of packed words, whose codes here have a byte each, the bytes less one.
    more = bytes([size - 1]) * packed

    async def read(request, address, count):
        if packed:
            return await request.read(Space.QUANT, KEEPER.rows * address, KEEPER.rows * count)
        return await request.read(space, address, count)

    async def process(ctx, request):
        ctx.set(dut.taken, 1 << number)
        await produce(ctx, dut.i, encode(
            50, Kind.WRITE, head(space, 6) + more + bytes([1] * size)))
        for _ in range(700):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()
        ctx.set(dut.taken, 7 & ~(1 << number))
        answer = []
        await consume(ctx, dut.o, answer, lambda got: len(got) > 1 and got[-1] == END)
        assert bytes(answer) == encode(50, Kind.WRITE | Kind.ANSWER, bytes([Status.OK]))
        ctx.set(dut.taken, 0)
        assert await read(request, 6, 1) == bytes([1] * size)

    async def unrest(ctx):
        async for _ in ctx.tick():
            ctx.set(dut.taken, rng.randrange(8))

    async def restless(ctx, request):
        words = bytes(rng.randrange(4) for _ in range(20 * size))
        await request.write(space, 30, more + words)
        assert await read(request, 30, 20) == words
        assert not ctx.get(dut.collided)

    simulate(dut, process)
    dut = Bench(KEEPER)
    simulate(dut, restless, beside=unrest)


def test_reset_stops_a_program_that_was_started():
    dut = Bench(KEEPER)

    async def process(ctx, request):
        await request.write(Space.PROGRAM, 0, in_order(norm(m=20, key1=HANG)) + in_order(
            norm(m=20, n=7, dst0=2, clamped=3)))
        await request.write(Space.WIDE, 2, bytes(8))
        assert await request(Kind.START, several(0, 2)) == (Status.OK, b"")
        assert await request(Kind.RESET) == (Status.OK, b"")
        nothing = (Status.OK, bytes(7))
        assert await request(Kind.WAIT) == nothing
        assert await status_of(request) == CLEAR
        # It does not go on, and no watchdog barks.
        await ctx.tick().repeat(2 * WATCHDOG)
        assert await request(Kind.WAIT) == nothing
        assert await status_of(request) == CLEAR
        assert await request.read(Space.WIDE, 2, 1) == bytes(8)
        assert await request(Kind.START, several(1, 1)) == (Status.OK, b"")
        status, answer = await request(Kind.WAIT)
        assert status == Status.OK and run_answer(answer)[:2] == (1, Unit.NORM_FORWARD)
        assert (await request.read(Space.WIDE, 2, 1))[0] == 7
        # One that hangs is stopped by the watchdog, and says so once it is waited for.
        assert await request(Kind.START, several(0, 2)) == (Status.OK, b"")
        await ctx.tick().repeat(2 * WATCHDOG)
        assert (await status_of(request))[2] == Status.OK
        assert (await request(Kind.RUN, several(1, 1)))[0] == Status.BUSY
        assert (await request(Kind.WAIT))[0] == Status.WATCHDOG
        assert (await status_of(request))[2:] == (Status.WATCHDOG, 0, Unit.NORM_FORWARD)
        assert (await request(Kind.START, several(1, 1)))[0] == Status.STICKY
    simulate(dut, process)


def test_a_unit_may_take_as_long_as_the_watchdog_allows():
    async def process(ctx, request):
        assert (await request(Kind.RUN, norm(m=WATCHDOG)))[0] == Status.OK
        assert (await request(Kind.RUN, norm(m=WATCHDOG + 1)))[0] == Status.WATCHDOG

    simulate(Bench(), process)


def test_a_unit_that_failed_is_stopped_at_once():
    async def process(ctx, request):
        slow = norm(m=MAX_M, n=9, dst0=2)
        assert (await request(Kind.RUN, slow))[0] == Status.WATCHDOG
        for _ in range(MAX_M - WATCHDOG):
            await ctx.tick()
        assert await request.read(Space.WIDE, 2, 1) == bytes(12)

    simulate(Bench(), process)


def test_a_repeated_run_is_answered_but_not_executed_again():
    async def process(ctx, request):
        async def wide():
            return (await request.read(Space.WIDE, 0, 1))[0]

        first = await request(Kind.RUN, norm(n=1, clamped=3), seq=77)
        # The same frame again, after a damaged one, after other requests, or with another body.
        assert await request(Kind.RUN, norm(n=1, clamped=3), seq=77) == first
        assert (await request.wire(encode(77, Kind.RUN, b"")[:-2] + b"\xC0"))[2] == b"\1"
        assert await request(Kind.RUN, norm(n=2), seq=77) == first
        assert await status_of(request) == (1, 3, Status.OK, 0, Unit.NONE)
        assert await wide() == 1
        assert await request(Kind.RUN, b"", seq=77) == first
        # Another seq is another RUN; the one before it is forgotten.
        assert (await request(Kind.RUN, norm(n=2), seq=78))[0] == Status.OK
        assert await wide() == 2
        assert (await request(Kind.RUN, norm(n=3), seq=77))[0] == Status.OK
        assert await wide() == 3
        # HELLO and RESET forget.
        for kind, body in ((Kind.HELLO, bytes([PROTOCOL_VERSION])), (Kind.RESET, b"")):
            assert (await request(kind, body))[0] == Status.OK
            value = await wide() + 1
            assert (await request(Kind.RUN, norm(n=value), seq=77))[0] == Status.OK
            assert await wide() == value

    simulate(Bench(), process)


def test_answers_of_every_length_are_repeated():
    async def process(ctx, request):
        refused = await request(Kind.RUN, b"x", seq=1)
        assert refused == (Status.BAD_LENGTH, b"")
        assert await request(Kind.RUN, norm(), seq=1) == refused
        failed = await request(Kind.RUN, norm() + norm(key1=HANG), seq=2)
        assert failed[0] == Status.WATCHDOG and len(failed[1]) == 6
        assert await request(Kind.RUN, norm(), seq=2) == failed
        sticky = await request(Kind.RUN, norm(), seq=3)
        assert sticky == (Status.STICKY, b"")
        assert await request(Kind.RUN, norm(), seq=3) == sticky

    simulate(Bench(), process)


def test_a_run_is_forgotten_after_a_window_of_other_requests():
    async def process(ctx, request):
        for count, executed in ((REPEAT_WINDOW - 1, False), (REPEAT_WINDOW, True)):
            assert (await request(Kind.RUN, norm(clamped=1), seq=200))[0] == Status.OK
            for _ in range(count):
                before = await status_of(request)
            assert (await request(Kind.RUN, norm(clamped=1), seq=200))[0] == Status.OK
            assert (await status_of(request))[1] == before[1] + executed

    simulate(Bench(), process)


# What may run.

GROUPED, PLAIN = SMALL, Params(sample_groups=1, channel_groups=1, rows=3, depth=2)
BARE = Params(sample_groups=1, channel_groups=1, rows=3, depth=2, masters=8)
LAYERED = replace(KEEPER, layer_norm=True)

GEMM = {"op": Opcode.GEMM, "m": 4, "k": 5, "n": 6, "key0": 2}
QUANTISE = {"op": Opcode.QUANTISE, "m": 4, "n": 6}
SORT = {"op": Opcode.SORT, "k": 5, "arg": 4}
NORM = {"op": Opcode.NORM_FORWARD, "m": 4, "n": 6}
BACKWARD = {"op": Opcode.NORM_BACKWARD, "m": 4, "n": 6}
MOVE = {"op": Opcode.MOVE, "m": 4, "n": 6}
SCALE = {"op": Opcode.SCALE, "m": 4, "n": 6, "arg": 32}
COMBINE = {"op": Opcode.COMBINE, "n": 6}
LOSS = {"op": Opcode.CROSS_ENTROPY, "m": 4, "n": 6}
POOL = {"op": Opcode.POOL, "m": 4, "n": 6, "key0": 0x01020304}
LAYERS = [{"op": op, "m": 4, "n": 6} for op in (Opcode.LAYER_FORWARD, Opcode.LAYER_BACKWARD)]
MASTER = QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN
SCAN, SCANNED = QuantiseFlag.SCAN, QuantiseFlag.SCANNED
#: What of SCALE excludes what.
ONE_WAY = [(ScaleFlag.UPDATE, flag) for flag in (
    ScaleFlag.MASTER, ScaleFlag.BIAS, ScaleFlag.ALIGN, ScaleFlag.SUM)] + [
    (ScaleFlag.ALIGN, ScaleFlag.BIAS), (ScaleFlag.ALIGN, ScaleFlag.SUM)]

CASES = [
    # (machine, fields, changes, good)
    *((GROUPED, f, {}, True) for f in (GEMM, QUANTISE, SORT, NORM, BACKWARD, MOVE)),
    *((PLAIN, f, {}, f is not SORT) for f in (GEMM, QUANTISE, SORT, NORM, BACKWARD, MOVE)),
    *((GROUPED, GEMM, {"op": op}, False) for op in (0, 7, 255)),
    *((GROUPED, f, {"m": m}, good) for f in (GEMM, QUANTISE, NORM, BACKWARD)
      for m, good in ((0, False), (1, True), (MAX_M, True), (MAX_M + 1, False), (0xFFFF, False))),
    *((GROUPED, f, {"n": n}, good) for f in (GEMM, QUANTISE, NORM, BACKWARD)
      for n, good in ((0, False), (1, True), (MAX_N, True), (MAX_N + 1, False), (0xFFFF, False))),
    *((GROUPED, f, {"k": k}, good) for f in (GEMM, SORT)
      for k, good in ((0, False), (1, True), (MAX_K, True), (MAX_K + 1, False), (0xFFFF, False))),
    *((GROUPED, MOVE, {axis: size}, good) for axis in ("m", "n")
      for size, good in ((0, False), (1, True), (MAX_K, True), (MAX_K + 1, False),
                         (0xFFFF, False))),
    # Fields that an operation does not use may hold anything.
    (GROUPED, SORT, {"m": 0, "n": 0xFFFF, "shift": 99}, True),
    (GROUPED, NORM, {"k": 0, "shift": 99, "arg": 99, "key0": 0xFFFFFFFF}, True),
    (GROUPED, QUANTISE, {"k": 0, "shift": 99, "arg": 255}, True),
    (GROUPED, GEMM, {"arg": 255, "key0": 0xABCD0001, "key1": 7}, True),
    # GEMM.
    *((GROUPED, GEMM, {"shift": s}, s < 32) for s in (0, 31, 32, 255)),
    *((GROUPED, GEMM, {"key0": t}, good) for t, good in (
        (0, False), (0xFFFF0000, False), (1, True), (0x8000, True), (0xFFFF, True))),
    *((GROUPED, GEMM, {"flags": 1 << bit}, bit < 4) for bit in range(8)),
    *((PLAIN, GEMM, {"flags": 1 << bit}, bit < 1) for bit in range(8)),
    *((GROUPED, GEMM, {"flags": GemmFlag.ROW_GROUPS, "arg": a}, a & 15 < 4)
      for a in (0, 3, 4, 15, 0xF3)),
    *((GROUPED, GEMM, {"flags": GemmFlag.COL_GROUPS, "arg": a}, a >> 4 < 4)
      for a in (0, 0x30, 0x40, 0xF0, 0x3F)),
    # QUANTISE.
    *((GROUPED, QUANTISE, {"flags": flags}, good) for flags, good in (
        (QuantiseFlag.UNSIGNED | QuantiseFlag.PER_COLUMN | QuantiseFlag.STOCHASTIC, True),
        (QuantiseFlag.GROUPED, True), (QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC, True),
        (QuantiseFlag.GROUPED | QuantiseFlag.UNSIGNED, False),
        (QuantiseFlag.GROUPED | QuantiseFlag.PER_COLUMN, False), (16, False), (128, False))),
    (GROUPED, QUANTISE, {"flags": QuantiseFlag.GROUPED, "arg": 1}, False),
    (PLAIN, QUANTISE, {"flags": QuantiseFlag.GROUPED}, False),
    (PLAIN, QUANTISE, {"flags": QuantiseFlag.STOCHASTIC, "arg": 128}, True),
    # SORT.
    *((GROUPED, SORT, {"arg": a}, 1 <= a <= 4) for a in (0, 1, 4, 5, 255)),
    (GROUPED, SORT, {"flags": 1}, False),
    # MOVE.
    *((GROUPED, MOVE, {"flags": flags}, flags < 4) for flags in (1, 2, 3, 4, 128)),
    *((PLAIN, MOVE, {"flags": flags}, flags == MoveFlag.TRANSPOSED) for flags in (1, 2, 3, 4, 128)),
    (GROUPED, MOVE, {"k": 0, "shift": 99, "arg": 255, "key0": 0}, True),
    # Windows not sorted, UNSIGNED with them alone.
    *((machine, MOVE, {"flags": flags}, flags in taken) for machine, taken in (
        (KEEPER, (0, 1, 2, 3, 4, 5, 12, 13)), (BARE, (0, 1, 4, 5, 12, 13)))
      for flags in (*range(17), 32, 64, 128)),
    # Norms.
    *((GROUPED, NORM, {"flags": flags}, flags < 4)
      for flags in (NormFlag.RELU, NormFlag.INFERENCE, 3, 4, 128)),
    *((GROUPED, BACKWARD, {"flags": flags}, flags < 2)
      for flags in (0, BackwardFlag.CLIPPED, 2, 3, 128)),
    # What only machines with masters have.
    *((machine, f, {}, machine is not PLAIN and machine is not GROUPED)
      for machine in (GROUPED, PLAIN, KEEPER, BARE) for f in (
          SCALE, COMBINE, LOSS, POOL, {**QUANTISE, "flags": MASTER})),
    *((KEEPER, f, {}, True) for f in (GEMM, QUANTISE, SORT, NORM, BACKWARD, MOVE)),
    *((BARE, f, {}, f is not SORT) for f in (GEMM, QUANTISE, SORT, NORM, BACKWARD, MOVE)),
    *((KEEPER, SCALE, {"op": op}, False) for op in (0, 11, 0x70, 0x7B, 0x87, 0xF7, 255)),
    # Queues are named where there are any.
    *((machine, f, {"op": f["op"] | named << 4}, machine is KEEPER and named < 8)
      for machine in (GROUPED, KEEPER) for f in (GEMM, MOVE, NORM) for named in (1, 2, 4, 7, 8)),
    *((KEEPER, f, {"m": m}, good) for f in (LOSS, GEMM)
      for m, good in ((0, False), (MAX_M, True), (MAX_M + 1, False), (MAX_K, False),
                      (0xFFFF, False))),
    *((KEEPER, {**f, "flags": flags}, {"m": m}, good)
      for f, flags in ((SCALE, ScaleFlag.UPDATE), (SCALE, 0), (SCALE, ScaleFlag.PLUS),
                       (POOL, 0), (QUANTISE, MASTER), (QUANTISE, 0),
                       (QUANTISE, SCAN), (QUANTISE, SCANNED), (QUANTISE, QuantiseFlag.GROUPED),
                       (NORM, 0), (NORM, NormFlag.INFERENCE), (BACKWARD, 0),
                       (BACKWARD, BackwardFlag.SCAN))
      for m, good in ((0, False), (1, True), (MAX_M + 1, True), (MAX_K, True), (MAX_K + 1, False),
                      (0xFFFF, False))),
    *((KEEPER, f, {"n": n}, good) for f in (
        SCALE, COMBINE, LOSS, POOL, {**QUANTISE, "flags": MASTER})
      for n, good in ((0, False), (1, True), (MAX_N, True), (MAX_N + 1, False), (0xFFFF, False))),
    *((KEEPER, QUANTISE, {"flags": flags}, flags in (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, MASTER, SCAN)
       or flags - SCANNED in (0, 1, 4, 5, 8, 12)) for flags in range(256)),
    *((BARE, QUANTISE, {"flags": flags}, flags in (0, 1, 2, 3, 4, 5, 6, 7, MASTER, SCAN)
       or flags - SCANNED in (0, 1, 4, 5)) for flags in range(256)),
    *((KEEPER, BACKWARD, {"flags": flags}, flags < 4) for flags in (0, 1, 2, 3, 4, 128)),
    *((KEEPER, QUANTISE, {"flags": MASTER, "arg": arg}, True) for arg in (1, 255)),
    *((KEEPER, SCALE, {"flags": flags}, not any(flags & a and flags & b for a, b in ONE_WAY))
      for flags in range(256)),
    *((KEEPER, {**SCALE, "flags": flags}, changes, good)
      for flags in (0, ScaleFlag.UPDATE, ScaleFlag.SUM)
      for changes, good in (
          *(({"arg": arg}, arg in (1, 32) or flags == ScaleFlag.UPDATE)
            for arg in (0, 1, 32, 33, 255)),
          ({"dst1": 4095}, True), ({"dst1": 4096}, flags != ScaleFlag.UPDATE),
          ({"dst1": 0xFFFF}, flags != ScaleFlag.UPDATE),
          ({"k": 4095, "tab0": 4095, "shift": 17}, True), ({"k": 4096}, False),
          ({"k": 0xFFFF}, False), ({"tab0": 4096}, False), ({"tab0": 0x8000}, False),
          ({"shift": 18}, False), ({"shift": 255}, False),
          ({"tab1": 0xFFFF, "tab2": 0xFFFF, "key0": 0xFFFFFFFF}, True))),
    *((KEEPER, COMBINE, {"flags": flags}, flags < 10) for flags in (*range(16), 16, 128)),
    *((KEEPER, COMBINE, {"shift": shift}, shift < 32) for shift in (31, 32, 255)),
    (KEEPER, COMBINE, {"m": 0, "k": 0, "arg": 0, "tab0": 0, "key1": 9}, True),
    *((KEEPER, LOSS, {"flags": 1 << bit}, False) for bit in range(8)),
    (KEEPER, LOSS, {"k": 0, "arg": 0, "shift": 255, "tab0": 0xFFFF}, True),
    *((KEEPER, POOL, {"flags": flags}, flags in (0, 1, 3)) for flags in (*range(5), 128, 255)),
    *((KEEPER, POOL, {"key0": key}, good) for key, good in (
        (0xFFFFFFFF, True), (0x01010101, True), (0, False), (0x010203, False),
        (0xFF00FFFF, False), (0xFFFF00FF, False), (0xFFFFFF00, False))),
    (KEEPER, POOL, {"k": 0, "arg": 0, "shift": 255, "tab0": 0xFFFF, "key1": 9}, True),
    # What only some of these have.
    *((machine, f, {}, machine is LAYERED)
      for machine in (GROUPED, PLAIN, KEEPER, BARE, LAYERED) for f in LAYERS),
    *((LAYERED, f, {"op": f["op"] | named << 4}, named < 8) for f in LAYERS for named in (1, 7, 8)),
    *((LAYERED, f, {}, True) for f in (GEMM, QUANTISE, SORT, NORM, BACKWARD, MOVE, POOL)),
    *((LAYERED, f, {name: size}, good) for f in LAYERS for name in ("m", "n")
      for size, good in ((0, False), (1, True), (MAX_K, True), (MAX_K + 1, False),
                         (0xFFFF, False))),
    *((LAYERED, f, {"flags": flags}, flags <= int(f is LAYERS[0])) for f in LAYERS
      for flags in (0, 1, 2, 3, 128, 255)),
    *((LAYERED, f, {"k": 0, "arg": 0, "shift": 255, "tab0": 0xFFFF, "key0": 9}, True)
      for f in LAYERS),
    (LAYERED, LAYERS[0], {"op": 13}, False),
]


@pytest.mark.parametrize("params", [GROUPED, PLAIN, KEEPER, BARE, LAYERED],
                         ids=lambda params: params.name)
def test_instructions_that_cannot_run_are_refused(params):
    dut = InstructionCheck(params)

    async def process(ctx):
        for machine, fields, changes, good in CASES:
            if machine is params:
                fields = unpack_instruction(instruction(**{**fields, **changes}))
                for name, value in fields.items():
                    ctx.set(dut.instruction[name], value)
                for _ in range(dut.LATENCY):
                    await ctx.tick()
                assert ctx.get(dut.good) == good, fields
                assert is_lawful(fields, params) == good, fields

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


@pytest.mark.parametrize("params", [GROUPED, PLAIN, KEEPER, BARE, LAYERED],
                         ids=lambda params: params.name)
def test_what_is_refused_is_what_the_rules_say(params):
    """Any fields, most of them near what is lawful."""
    dut, chance = InstructionCheck(params), random.Random(params.name)
    sizes = [0, 1, 5, MAX_M, MAX_M + 1, MAX_K, MAX_K + 1, 0xFFFF]

    def some():
        fields = {name: chance.choice(sizes[1:6]) if chance.random() < 0.9 else
                  chance.choice(sizes) for name in ("m", "k", "n")}
        flags = sum(1 << bit for bit in range(8) if chance.random() < 0.2)
        return unpack_instruction(instruction(
            chance.choice([*units_of(params) * 3, 0, 10, chance.randrange(256)]), **fields,
            flags=flags,
            shift=chance.choice([0, 17, 18, 31, 32, chance.randrange(256)]),
            arg=chance.choice([1, 4, 5, 32, 33, chance.randrange(256)]),
            tab0=chance.choice([0, 4095, 4096]),
            key0=chance.choice([0, 1, 0xFFFF0000, 0x01010101])))

    async def process(ctx):
        verdicts = []
        for _ in range(1000):
            fields = some()
            for name, value in fields.items():
                ctx.set(dut.instruction[name], value)
            for _ in range(dut.LATENCY):
                await ctx.tick()
            assert ctx.get(dut.good) == is_lawful(fields, params), fields
            verdicts.append(ctx.get(dut.good))
        # Both come often enough.
        assert 50 < sum(verdicts) < 950

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()

"""hdl.dispatch: every instruction starts in the clock in which it may, and errors name the right
one. Units, link and program memory are the bench's."""

import random
from collections import namedtuple
from math import inf

import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hdl.dispatch import AccessFaults, Dispatcher, Quarters, Watched
from hdl.dispatch.fetch import Fetch
from hdl.dispatch.log import CLOCK_BITS, EventClocks
from hdl.instructions import (
    CombineFlag,
    MoveFlag,
    Opcode,
    Queue,
    in_order,
    instruction,
    is_lawful,
    queue_of,
    unpack_instruction,
)
from hdl.memory import READ_LATENCY
from hdl.params import Params
from hdl.program import units_of
from hdl.protocol import LOG_PART, MAX_STORED, PROGRAM_WORDS, Kind, LogPart, Status, Unit
from hdl.stored import Stored
from hdl.top import Accelerator
from tests.support.requests import simulate

PARAMS = Params(lanes=2, bits=5, rows=3, cols=2, depth=2, memory=4, masters=3)
#: Without groups nothing is sorted.
BARE = Params(sample_groups=1, channel_groups=1, rows=3, depth=2, masters=8)
WATCHDOG = 60

#: An instruction of a stand-in: so many clocks from start to done, ``inf`` for one that never ends;
#: in which of them, from 0, it accesses a memory beyond its end, or None.
Step = namedtuple("Step", "op after clocks fault good", defaults=(None, True))
#: What a run came to; ``starts`` by number of the instruction, and so the parts of ``log``, which
#: runs that fail have not.
Outcome = namedtuple("Outcome", "status completed unit cycles starts log")


def packed(number, step):
    """The instruction; ``dst0`` is its number."""
    sizes = {"m": 1, "k": 1, "n": 1} if step.good else {}
    return instruction(step.op, after=step.after, **sizes, arg=0 if step.op == Opcode.QUANTISE
                       else 1, dst0=number, key0=0x01010101 if step.op == Opcode.POOL else 1)


def expected(steps, first, ready=0):
    """The :class:`Outcome` of a program whose words are always there, if the first instruction is
    checked ``first`` clocks after ``start``, and units are ready from that clock on."""
    loads, starts, ends, failures, free = {}, {}, {}, [], dict.fromkeys(Queue, 0)
    checked, bad = first, None
    for number, step in enumerate(steps):
        queue = queue_of(step.op)
        if not step.good:
            bad = number
            break
        # Two clocks after done its end is known; the queue is empty in the next one.
        load = max(checked, free[queue])
        start = max(load + 1, ready, *(free[named] for named in step.after))
        if load == inf:
            break
        loads[number], starts[number], ends[number] = load, start, start + step.clocks
        free[queue] = ends[number] + 3
        if step.fault is not None and step.fault <= min(step.clocks, WATCHDOG):
            failures.append((start + step.fault + 3, queue, number, Status.ADDRESS))
        elif step.clocks > WATCHDOG:
            failures.append((start + WATCHDOG + 2, queue, number, Status.WATCHDOG))
        checked = load + Fetch.CYCLES
    finish = max(checked if bad is not None else 0, *free.values())
    failed = min(failures, default=(inf,))
    last = min(failed[0], finish)
    ran = {number: start for number, start in starts.items() if start < last}
    if failures:
        _, _, number, status = failed
        return Outcome(status, number, Unit(steps[number].op), last, ran, None)
    if bad is not None:
        return Outcome(Status.BAD_INSTRUCTION, bad, Unit.NONE, last, ran, None)
    # The clock of ``start`` is not counted.
    log = {part: {number: clock - 1 for number, clock in clocks.items()} for part, clocks in (
        (LogPart.QUEUED, loads), (LogPart.STARTED, starts), (LogPart.DONE, ends))}
    return Outcome(Status.OK, len(steps), Unit(steps[-1].op), last, ran, log)


class Bench(wiring.Component):
    """A dispatcher and where its instructions come from: ``stored`` or a frame.

    Words of ``stored`` are in a memory that the bench is; every clock is :meth:`tick`.
    """
    def __init__(self, stored, params=PARAMS):
        super().__init__({})
        self.params = params
        self.stored = Stored() if stored else None
        self.quarters = None if stored else Quarters()
        self.dut = Dispatcher(params, watchdog=WATCHDOG)
        self.units = units_of(params)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        m.submodules.source = source = self.stored or self.quarters
        wiring.connect(m, source.o, self.dut.i)
        if self.stored:
            m.d.comb += self.stored.start.eq(self.dut.start)
        else:
            m.d.comb += self.quarters.clear.eq(self.dut.start)
        self.starts = Cat(port.start for port in self.dut.control)
        self.dones = Cat(port.done for port in self.dut.control)
        return m

    def simulate(self, process):
        simulator = Simulator(self)
        simulator.add_clock(1e-8)
        simulator.add_testbench(process)
        simulator.run()

    async def run(self, ctx, steps, *, place=0, ready=0, pace=1, chance=None):
        """Run a program from a place in the memory on, or from a frame whose bytes come at a
        ``pace``; the :class:`Outcome`."""
        dut, chance = self.dut, chance or random.Random(0)
        data = b"".join(packed(number, step) for number, step in enumerate(steps))
        memory = {(4 * place + at) % PROGRAM_WORDS: int.from_bytes(data[8 * at:8 * at + 8],
                                                                   "little")
                  for at in range(len(data) // 8)}
        asked, starts, running = [None] * READ_LATENCY, {}, {}
        clock, sent = 0, 0
        ctx.set(dut.count, len(steps))
        ctx.set(dut.start, 1)
        if self.stored:
            ctx.set(self.stored.first, place)
            ctx.set(self.stored.enable, 1)
        while True:
            ctx.set(dut.ready, clock >= ready)
            # The words of the program.
            if self.stored:
                port = self.stored.program_r
                word = asked.pop(0)
                ctx.set(port.data, chance.getrandbits(64) if word is None
                        else memory.get(word, chance.getrandbits(64)))
                asked.append(ctx.get(port.addr) if ctx.get(port.en) else None)
            else:
                stream = self.quarters.i
                there = sent < len(data) and chance.random() < pace and clock > 0
                ctx.set(stream.valid, there)
                ctx.set(stream.payload, data[sent] if there else 0)
                sent += there and ctx.get(stream.ready)
            # The units.
            started = ctx.get(self.starts)
            for place_, unit in enumerate(self.units):
                if started >> place_ & 1:
                    fields = unpack_instruction(bytes(ctx.get(
                        dut.control[place_].instruction.as_value()).to_bytes(32, "little")))
                    number = fields["dst0"]
                    assert steps[number].op == unit, "the wrong unit"
                    assert queue_of(unit) not in running, "two at once in a queue"
                    assert number not in starts, "an instruction that starts twice"
                    starts[number] = clock
                    running[queue_of(unit)] = number, place_, clock
            done, faults = 0, 0
            for queue, (number, place_, start) in list(running.items()):
                held = ctx.get(dut.control[place_].instruction.dst0)
                assert held == number, "an instruction that does not hold"
                step, age = steps[number], clock - start
                faults |= (step.fault is not None and age == step.fault + 1) << queue
                if age == step.clocks:
                    done |= 1 << place_
                # The instruction may go; its last fault comes now.
                if age > step.clocks:
                    del running[queue]
            ctx.set(self.dones, done)
            ctx.set(dut.fault, faults)
            if ctx.get(dut.done):
                break
            await ctx.tick()
            ctx.set(dut.start, 0)
            clock += 1
            assert clock < 60_000, "the run does not end"
        status = Status(ctx.get(dut.status))
        assert ctx.get(dut.abort) == (status != Status.OK)
        outcome = Outcome(status, ctx.get(dut.completed), Unit(ctx.get(dut.unit)),
                          ctx.get(dut.cycles), starts, None)
        assert outcome.cycles == clock - 1
        ctx.set(self.dones, 0)
        ctx.set(dut.fault, 0)
        if self.stored:
            ctx.set(self.stored.enable, 0)
        # What holds, and that nothing starts any more.
        for _ in range(chance.randrange(1, 9)):
            await ctx.tick()
            assert not ctx.get(dut.done) and not ctx.get(self.starts) and not ctx.get(dut.abort)
        assert ctx.get(dut.completed) == outcome.completed
        assert ctx.get(dut.status) == outcome.status
        if status != Status.OK:
            return outcome
        return outcome._replace(log={part: await self.clocks(ctx, part, len(steps), chance)
                                     for part in LogPart})

    async def clocks(self, ctx, part, count, chance):
        """A part of the log by number of the instruction, one word per clock, in any order."""
        port, found, asked = self.dut.log_r, {}, []
        numbers = chance.sample(range(count), count)
        for clock in range(count + READ_LATENCY):
            if clock >= READ_LATENCY:
                found[asked[clock - READ_LATENCY]] = ctx.get(port.data)
            if clock < count:
                asked.append(numbers[clock])
                ctx.set(port.addr, LOG_PART * part + numbers[clock])
            else:
                ctx.set(port.addr, chance.getrandbits(16))
            await ctx.tick()
        return found


#: Clocks after ``start`` in which the first stored instruction is checked.
FIRST = READ_LATENCY + 2 + Fetch.CYCLES - 1


def some_step(chance, units, *, busy=40, dense=0.3):
    """Any instruction that runs without an error."""
    after = [queue for queue in Queue if chance.random() < dense]
    return Step(Opcode(chance.choice(units)), tuple(after),
                chance.choice([1, 1, 2, 3, 7, 8, busy, chance.randint(1, busy)]))


def log_says(steps, got):
    """What the log says of a run fits what the bench has seen."""
    for number, step in enumerate(steps):
        queued, started, done = (got.log[part][number] for part in LogPart)
        assert queued < started == got.starts[number] - 1 and done == started + step.clocks
        assert number == 0 or got.log[LogPart.QUEUED][number - 1] < queued


def may_start(steps, starts):
    """Nothing has started before what it waits for was done."""
    for number, start in starts.items():
        waits_for = {queue_of(steps[number].op), *steps[number].after}
        for before in range(number):
            if queue_of(steps[before].op) in waits_for:
                assert before in starts, f"{number} has started without {before}"
                done = starts[before] + steps[before].clocks
                assert done < start, f"{number} has started before {before} was done"


@pytest.mark.parametrize("params", [PARAMS, BARE], ids=lambda params: params.name)
@pytest.mark.parametrize("seed", range(3))
def test_stored_programs_take_the_clocks_that_they_must(params, seed):
    chance = random.Random(seed)
    bench = Bench(True, params)

    async def process(ctx):
        for count in (1, 2, 3, *(chance.randint(2, 30) for _ in range(8))):
            dense = chance.choice([0, 0.3, 1])
            steps = [some_step(chance, bench.units, dense=dense) for _ in range(count)]
            got = await bench.run(ctx, steps, place=chance.randrange(200), chance=chance)
            assert got == expected(steps, FIRST)
            may_start(steps, got.starts)

    bench.simulate(process)


@pytest.mark.parametrize("pace", [1, 0.4])
def test_programs_of_a_frame_start_nothing_too_early(pace):
    chance = random.Random(pace)
    bench = Bench(False)

    async def process(ctx):
        for count in (1, 2, *(chance.randint(2, 20) for _ in range(5))):
            steps = [some_step(chance, bench.units, busy=WATCHDOG) for _ in range(count)]
            got = await bench.run(ctx, steps, pace=pace, chance=chance)
            want = expected(steps, FIRST)
            assert got._replace(cycles=0, starts=0, log=0) == want._replace(
                cycles=0, starts=0, log=0)
            log_says(steps, got)
            may_start(steps, got.starts)
            assert len(got.starts) == count

    bench.simulate(process)


def test_an_instruction_costs_few_clocks_and_independent_ones_overlap():
    bench = Bench(True)
    everything = tuple(Queue)

    async def process(ctx):
        # One after the other in a queue, and where each names all queues.
        for op, other, after, each in ((Opcode.COMBINE, Opcode.SCALE, (), 4),
                                       (Opcode.COMBINE, Opcode.GEMM, everything, 3),
                                       (Opcode.SORT, Opcode.MOVE, everything, 4)):
            steps = [Step((op, other)[i % 2], after, 10) for i in range(20)]
            got = await bench.run(ctx, steps)
            assert got.starts == {i: FIRST + 1 + (10 + each) * i for i in range(20)}
            assert got.cycles == FIRST + 1 + (10 + each) * 19 + 10 + 3
        # As fast as they are fetched.
        steps = [Step(Opcode.COMBINE, (), 1)] * 20
        assert (await bench.run(ctx, steps)).starts == {
            i: FIRST + 1 + Fetch.CYCLES * i for i in range(20)}
        # A product runs beside those of the vector units before and after it.
        steps = [Step(Opcode.SCALE, (), 50), Step(Opcode.GEMM, (), 50), Step(Opcode.MOVE, (), 50),
                 Step(Opcode.SCALE, (), 50), Step(Opcode.QUANTISE, (Queue.ARRAY,), 5)]
        got = await bench.run(ctx, steps)
        assert [got.starts[i] - got.starts[0] for i in range(5)] == [0, 7, 14, 54, 108]
        took = [got.log[LogPart.DONE][i] - got.log[LogPart.STARTED][i] for i in range(5)]
        assert took == [step.clocks for step in steps]
        waited = [got.log[LogPart.STARTED][i] - got.log[LogPart.QUEUED][i] for i in range(5)]
        assert waited == [1, 1, 1, 1, 1]
        # What is behind an instruction that waits does not overtake it into the same queue.
        steps = [Step(Opcode.GEMM, (), 50), Step(Opcode.SCALE, (Queue.ARRAY,), 5),
                 Step(Opcode.SCALE, (), 5), Step(Opcode.MOVE, (), 5)]
        got = await bench.run(ctx, steps)
        assert [got.starts[i] - got.starts[0] for i in range(4)] == [0, 53, 62, 69]
        waited = [got.log[LogPart.STARTED][i] - got.log[LogPart.QUEUED][i] for i in range(4)]
        assert waited == [1, 47, 1, 1]

    bench.simulate(process)


def test_the_longest_program_runs():
    chance = random.Random(0)
    bench = Bench(True)

    async def process(ctx):
        steps = [some_step(chance, bench.units, busy=8) for _ in range(MAX_STORED)]
        assert await bench.run(ctx, steps, place=1) == expected(steps, FIRST)

    bench.simulate(process)


def failing(chance, steps):
    """One of the instructions fails, or some do."""
    steps = list(steps)
    for number in chance.sample(range(len(steps)), min(len(steps), chance.choice([1, 1, 1, 2, 3]))):
        step = steps[number]
        kind = chance.randrange(4)
        if kind == 0:
            steps[number] = step._replace(clocks=inf)
        elif kind == 1:
            steps[number] = step._replace(good=False)
        elif kind == 2:
            # In its last clock, too.
            steps[number] = step._replace(fault=chance.choice([
                step.clocks, chance.randrange(step.clocks + 1)]))
        else:
            steps[number] = step._replace(clocks=WATCHDOG + chance.randrange(3))
    return steps


def check_errors(stored, seed, rounds):
    """Programs with errors, one after the other, and programs without between them."""
    chance = random.Random(seed)
    bench = Bench(stored)

    async def process(ctx):
        statuses = set()
        for _ in range(rounds):
            dense = chance.choice([0, 0.3, 1])
            steps = [some_step(chance, bench.units, dense=dense)
                     for _ in range(chance.randint(1, 12))]
            if chance.random() < 0.85:
                steps = failing(chance, steps)
            place = chance.randrange(200)
            got = await bench.run(ctx, steps, place=place, chance=chance)
            may_start(steps, got.starts)
            statuses.add(got.status)
            if stored:
                assert got == expected(steps, FIRST)
            elif sum(step != one for step, one in zip(steps, map(sound, steps),
                                                      strict=True)) <= 1:
                want = expected(steps, FIRST)
                assert got[:3] == want[:3]
        assert statuses == {Status.OK, Status.BAD_INSTRUCTION, Status.ADDRESS, Status.WATCHDOG}

    bench.simulate(process)


def sound(step):
    """The instruction without its error."""
    return step._replace(clocks=min(step.clocks, WATCHDOG), fault=None, good=True)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "frame"])
@pytest.mark.parametrize("seed", range(2))
def test_errors_name_the_instruction_that_failed_and_stop_all(stored, seed):
    check_errors(stored, seed, 40)


@pytest.mark.regress
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "frame"])
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_more_errors(stored, seed):
    check_errors(stored, seed, 300)


def test_an_error_of_one_queue_is_not_that_of_another():
    bench = Bench(True)
    slow = [Step(Opcode.GEMM, (), 55), Step(Opcode.SCALE, (), 55), Step(Opcode.MOVE, (), 55)]

    async def process(ctx):
        for number, step in enumerate(slow):
            for fault in (0, 20, 55):
                for bad in (step._replace(fault=fault), step._replace(clocks=inf)):
                    steps = [*slow[:number], bad, *slow[number + 1:], *slow]
                    got = await bench.run(ctx, steps)
                    assert got == expected(steps, FIRST)
                    assert got[:3] == (Status.ADDRESS if bad.fault is not None
                                       else Status.WATCHDOG, number, Unit(step.op))
        # Those before an instruction that cannot run are let finish, and may fail on the way.
        bad = Step(Opcode.SORT, (), 1, good=False)
        got = await bench.run(ctx, [*slow, bad, *slow])
        assert got == expected([*slow, bad, *slow], FIRST)
        assert got[:3] == (Status.BAD_INSTRUCTION, 3, Unit.NONE)
        got = await bench.run(ctx, [slow[0], slow[1]._replace(fault=54), slow[2], bad])
        assert got[:3] == (Status.ADDRESS, 1, Unit.SCALE)
        # Of two in a clock, that of the first queue.
        steps = [slow[1]._replace(fault=30), slow[0]._replace(fault=30 - Fetch.CYCLES)]
        assert (await bench.run(ctx, steps))[:3] == (Status.ADDRESS, 1, Unit.GEMM)

    bench.simulate(process)


def test_no_unit_starts_before_all_are_ready():
    bench = Bench(True)
    steps = [Step(Opcode.GEMM, (), 5), Step(Opcode.SCALE, (Queue.ARRAY,), 9),
             Step(Opcode.MOVE, (), 3)]

    async def process(ctx):
        for ready in (0, 13, 25, 300):
            assert await bench.run(ctx, steps, ready=ready) == expected(steps, FIRST, ready)

    bench.simulate(process)


# Parts.


def test_events_of_one_clock_are_all_kept():
    """As close as queues can have them, and all numbers of instructions."""
    chance = random.Random(0)
    dut = EventClocks(3, late=1)
    want, wait, held = {}, [0] * 3, [0] * 3
    numbers = chance.sample(range(LOG_PART), LOG_PART)

    async def process(ctx):
        clock = 0
        while numbers or any(wait):
            ctx.set(dut.clock, clock)
            for source in range(3):
                event = wait[source] == 0 and bool(numbers) and chance.random() < 0.6
                if event:
                    held[source] = numbers.pop()
                    want[held[source]] = clock - 1
                    wait[source] = 3
                ctx.set(dut.event[source], event)
                ctx.set(dut.number[source], held[source] if wait[source]
                        else chance.randrange(LOG_PART))
                wait[source] = max(0, wait[source] - 1)
            await ctx.tick()
            clock += 1
        for _ in range(4):
            await ctx.tick()
        for number, event in want.items():
            ctx.set(dut.raddr, number)
            for _ in range(READ_LATENCY):
                await ctx.tick()
            assert ctx.get(dut.data) == event % 2**CLOCK_BITS

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()
    assert len(want) == LOG_PART


def test_bytes_become_words_and_part_of_one_is_forgotten():
    dut = Quarters()
    chance = random.Random(0)
    data = chance.randbytes(8 * 30)

    async def process(ctx):
        for skipped in (0, 3, 7, 8):
            for byte in b"\xA5" * skipped:
                ctx.set(dut.i.payload, byte)
                ctx.set(dut.i.valid, 1)
                await ctx.tick()
            ctx.set(dut.i.valid, 0)
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            sent, words = 0, b""
            while len(words) < len(data):
                there, ready = sent < len(data) and chance.random() < 0.8, chance.random() < 0.6
                ctx.set(dut.i.valid, there)
                ctx.set(dut.i.payload, data[sent] if there else 0)
                ctx.set(dut.o.ready, ready)
                sent += there and ctx.get(dut.i.ready)
                if ready and ctx.get(dut.o.valid):
                    words += ctx.get(dut.o.payload).to_bytes(8, "little")
                await ctx.tick()
            ctx.set(dut.o.ready, 0)
            assert words == data

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


@pytest.mark.parametrize("array_clock", [1, 2])
def test_an_access_beyond_the_end_is_that_of_its_queue(array_clock):
    watched = [
        Watched(Queue.ARRAY, "a", 64, True), Watched(Queue.ARRAY, "b", 1024, False),
        Watched(Queue.VECTOR, "a", 64, False), Watched(Queue.VECTOR, "c", 1 << 16, False),
        Watched(Queue.MOVER, "d", 8, False)]
    dut = AccessFaults(Params(array_clock=array_clock), watched)

    async def process(ctx):
        for number, (queue, _, words, streamed) in enumerate(watched):
            access = dut.access[number]
            for address in (0, words - 1, words, 2 * words + 1, 0x8000, 0xFFFF):
                if address > 0xFFFF:
                    continue
                for en in (0, 1):
                    ctx.set(access.addr, address)
                    ctx.set(access.en, en)
                    assert not ctx.get(dut.fault)
                    await ctx.tick("array" if streamed and array_clock > 1 else "sync")
                    ctx.set(access.en, 0)
                    seen = ctx.get(dut.fault)
                    for _ in range(8 if streamed else 1):
                        await ctx.tick()
                        seen |= ctx.get(dut.fault) if streamed else 0
                    assert seen == (en and address >= words) << queue, (number, address)
                    assert not ctx.get(dut.fault)

    simulator = Simulator(dut)
    simulator.add_clock(1.2e-8)
    if array_clock > 1:
        simulator.add_clock(0.6e-8, domain="array")
    simulator.add_testbench(process)
    simulator.run()


def test_a_conflict_is_the_fault_of_who_was_there():
    ports = [(Queue.ARRAY, "a"), (Queue.VECTOR, "a"), (Queue.VECTOR, "b"), (Queue.MOVER, "b"),
             (Queue.MOVER, "a")]
    dut = AccessFaults(PARAMS, [Watched(*port, 64, False) for port in ports])

    async def process(ctx):
        for enabled in range(1 << len(ports)):
            for number in range(len(ports)):
                ctx.set(dut.access[number].en, enabled >> number & 1)
            await ctx.tick()
            for conflicts in range(4):
                for number in range(2):
                    ctx.set(dut.conflict[number], conflicts >> number & 1)
                blamed = {queue for number, (queue, memory) in enumerate(ports)
                          if enabled >> number & 1 and conflicts >> "ab".index(memory) & 1}
                assert ctx.get(dut.fault) == sum(1 << queue for queue in blamed), enabled

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def test_queues_are_named_in_the_opcode():
    step = instruction(Opcode.MOVE, m=2, n=2, after=(Queue.ARRAY, Queue.MOVER))
    assert step[0] == 0x56 and step[1:] == instruction(Opcode.MOVE, m=2, n=2)[1:]
    fields = unpack_instruction(step)
    assert is_lawful(fields, PARAMS)
    assert not is_lawful(fields, Params())
    assert not is_lawful({**fields, "op": 0xD6}, PARAMS)
    assert unpack_instruction(in_order(step))["op"] == 0x76
    assert {queue_of(op) for op in Opcode} == set(Queue)


# The whole machine.

MACHINE = Params(bits=2, rows=2, cols=2, depth=2, sample_groups=1, channel_groups=2, lanes=2,
                 memory=4, masters=4)


def test_errors_of_a_machine_whose_units_overlap():
    """Long instructions of all queues, one of which accesses a memory beyond its end."""
    beyond = 0xFFF0
    long = {
        Opcode.GEMM: {"m": 90, "k": 4, "n": 2, "key0": 1},
        # Neither needs a port that others do.
        Opcode.COMBINE: {"n": 60, "tab0": 1, "tab1": 1, "tab2": 1},
        Opcode.SORT: {"k": 90, "arg": 2},
    }
    cases = [
        (Opcode.GEMM, {"src0": beyond}), (Opcode.GEMM, {"src1": beyond}),
        (Opcode.GEMM, {"dst0": beyond}), (Opcode.COMBINE, {"src0": beyond}),
        (Opcode.COMBINE, {"src1": beyond, "flags": CombineFlag.BROADCAST}),
        (Opcode.COMBINE, {"dst0": beyond}), (Opcode.SORT, {"tab0": beyond})]

    async def process(ctx, request):
        for op, changes in cases:
            steps = [instruction(one, **(fields | changes if one == op else fields))
                     for one, fields in long.items()]
            status, body = await request(Kind.RUN, b"".join(steps))
            # The instruction's number has two bytes.
            number = list(long).index(op)
            assert (status, body[:3]) == (Status.ADDRESS, bytes([number, 0, op])), changes
            assert (await request(Kind.STATUS))[1][8:] == bytes([status]) + body[:3]
            assert await request(Kind.RESET) == (Status.OK, b"")
        steps = [instruction(op, **fields) for op, fields in long.items()]
        taken = []
        for program in (steps, [in_order(step) for step in steps]):
            status, body = await request(Kind.RUN, b"".join(program))
            assert (status, body[:3]) == (Status.OK, bytes([3, 0, Unit.SORT]))
            taken.append(int.from_bytes(body[3:], "little"))
        assert taken[0] < 0.7 * taken[1]
        status, body = await request(Kind.RUN, instruction(
            Opcode.MOVE, m=1, n=1, dst0=beyond, flags=MoveFlag.TRANSPOSED))
        assert (status, body[:3]) == (Status.ADDRESS, bytes([0, 0, Unit.MOVE]))

    simulate(Accelerator(MACHINE), process, array_clock=MACHINE.array_clock)

"""One unit between simulated memories."""

import random

import numpy as np
from amaranth.hdl import Cat, Const, DomainRenamer, Elaboratable, Module, Shape, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Flow
from amaranth.sim import Simulator

from hdl.array.skew import Delay
from hdl.crossing import array_domain
from hdl.instructions import TABLE_HEADER, instruction, unpack_instruction
from hdl.memory import (
    ADDRESS_BITS,
    READ_LATENCY,
    LaneWritePort,
    ReadPort,
    StreamPort,
    WritePort,
    announced_ahead,
)
from hdl.unit import GROUP_BITS, ORDER_ENTRY, quant_word, wide_word

__all__ = ["UnitBench"]

#: Of the machine's clock, in seconds; divisible by every ratio, in femtoseconds.
_PERIOD = 1.2e-8


class UnitBench(Elaboratable):
    """A unit, connected to as many of the machine's memories as it has ports for.

    A memory answers as :class:`hdl.memory.Ram`, the quantised one as
    :class:`hdl.operand_memory.OperandMemory`. It starts full of junk, and records what a unit must
    not do: two readers or two writers at once, or one of each where they share a port, a read of
    the word being written, an access beyond the end or while the unit is idle. :meth:`run` raises
    ``AssertionError`` with the names of such faults, and when the unit does not finish.

    A unit with an output ``quant_ahead`` announces its accesses to the quantised memory: none may
    be missing, and none too many unless a run has some to spare. One with the inputs ``wide_taken``
    and ``quant_ahead`` keeps away from what others have announced: :attr:`others` are the
    probabilities that another unit writes to the wide memory, and uses the quantised one, in a
    clock.

    >>> bench = UnitBench(unit, params)                                     # doctest: +SKIP
    >>> async def process(ctx):                                             # doctest: +SKIP
    ...     bench.load(ctx, "wide", 0x10, x)
    ...     cycles, clamped = await bench.run(ctx, Opcode.QUANTISE, m=4, n=8, src0=0x10)
    ...     assert (bench.dump(ctx, "quant", 0, 4, 8) == q).all()
    >>> bench.simulate(process)                                             # doctest: +SKIP

    Parameters
    ----------
    unit : wiring.Component
        Has a ``control`` port (:class:`hdl.unit.UnitPort`). Its ports named ``wide``, ``quant``,
        ``group``, ``order``, ``master`` or ``velocity``, alone or with ``_`` and anything after it,
        are connected to the memory of that name as readers or writers by their signature; arrays of
        ports too. The last two there are only where the unit has ports for them, in whose shape.
    params : hdl.params.Params
    words : dict of str to int
        Capacities other than those of ``params``, by memory.
    seed : int
        Of the junk.

    Attributes
    ----------
    others : tuple of float
        May change at any time; at first 0.
    """
    def __init__(self, unit, params, *, words=None, seed=0):
        self.unit = unit
        self.params = params
        self.others = 0, 0
        self._random = random.Random(f"{seed} others")
        #: Another unit writes to the wide memory; announces an access to the quantised one.
        self._wide_taken, self._quant_ahead = Signal(), Signal()
        words = {"wide": params.wide_words, "quant": params.quant_words,
                 "group": params.table_words, "order": params.table_words, **(words or {})}
        shapes = {"wide": wide_word(params), "quant": quant_word(params),
                  "group": GROUP_BITS, "order": ORDER_ENTRY}
        for name in ("master", "velocity"):
            if ports := _ports(unit, name):
                shapes[name] = Value.cast(ports[0].data).shape()
                words.setdefault(name, params.wide_words)
        self.memories = {}
        self.lanes = dict.fromkeys(("wide", "master", "velocity"), params.vector)
        self.lanes["quant"] = params.slots
        for name, shape in shapes.items():
            by_kind = {kind: [] for kind in (ReadPort, WritePort, LaneWritePort, StreamPort)}
            for port in _ports(unit, name):
                by_kind[type(port.signature)].append(port)
            skew = [lane // params.depth for lane in range(params.slots)]
            self.memories[name] = _Memory(
                Shape.cast(shape).width, words[name], by_kind, random.Random(f"{seed} {name}"),
                self.lanes.get(name, 1), skew if name == "quant" else None,
                array_domain(params))

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self.unit
        control = self.unit.control
        busy = Signal()
        with m.If(control.start | control.done):
            m.d.sync += busy.eq(control.start)
        for name, memory in self.memories.items():
            m.submodules[name] = memory
            m.d.comb += memory.allowed.eq(busy | control.start | control.done)
        wide, quant = self.memories["wide"], self.memories["quant"]
        if self._has("quant_ahead", Flow.In):
            m.d.comb += [self.unit.wide_taken.eq(self._wide_taken),
                         self.unit.quant_ahead.eq(self._quant_ahead),
                         wide.others.eq(self._wide_taken)]
        elif self._has("quant_ahead", Flow.Out):
            m.d.comb += [self._quant_ahead.eq(self.unit.quant_ahead), quant.announcing.eq(1)]
        m.submodules.announced = announced = Delay(1, announced_ahead(self.params), reset=True)
        m.d.comb += [announced.i.eq(self._quant_ahead), quant.announced.eq(announced.o)]
        return m

    def _has(self, name, flow):
        members = self.unit.signature.members
        return name in members and members[name].flow == flow

    # Contents.

    def poke(self, ctx, name, address, word):
        """Set one word, an unsigned integer."""
        ctx.set(self.memories[name].memory.data[address], word)

    def peek(self, ctx, name, address):
        """One word as an unsigned integer."""
        return ctx.get(self.memories[name].memory.data[address])

    def load(self, ctx, name, base, tensor):
        """Store a tensor [I, J] as the machine does, in any memory but the tables.

        Element (i, j) is lane ``j % L`` of word ``base + (j // L) * I + i`` of L lanes. Lanes
        beyond J get junk.
        """
        tensor = np.asarray(tensor, np.int64)
        rows, count = tensor.shape
        cols, bits = self.lanes[name], self._lane_bits(name)
        tiles = -(-count // cols)
        padded = np.random.default_rng(base).integers(
            -(1 << bits - 1), 1 << bits - 1, (rows, tiles * cols))
        padded[:, :count] = tensor
        for tile in range(tiles):
            for i in range(rows):
                word = 0
                for lane in range(cols):
                    word |= (int(padded[i, tile * cols + lane]) & (1 << bits) - 1) << lane * bits
                self.poke(ctx, name, base + tile * rows + i, word)

    def dump(self, ctx, name, base, rows, count):
        """A tensor [rows, count] of any memory but the tables, sign-extended, as ``int64``."""
        cols, bits = self.lanes[name], self._lane_bits(name)
        out = np.zeros((rows, count), np.int64)
        for tile in range(-(-count // cols)):
            for i in range(rows):
                word = self.peek(ctx, name, base + tile * rows + i)
                for lane in range(min(cols, count - tile * cols)):
                    value = word >> lane * bits & (1 << bits) - 1
                    out[i, tile * cols + lane] = (value ^ 1 << bits - 1) - (1 << bits - 1)
        return out

    def load_groups(self, ctx, base, groups):
        """Store the words of a group table."""
        for i, group in enumerate(groups):
            self.poke(ctx, "group", base + i, int(group))

    def dump_groups(self, ctx, base, count):
        """Words of a group table."""
        return np.array([self.peek(ctx, "group", base + i) for i in range(count)], np.int64)

    def load_order(self, ctx, base, slots, marks):
        """Store an order table as :func:`sim.model.order.order` gives it."""
        none = (1 << ORDER_ENTRY.size) - 1
        header = [len(slots), *marks] + [none] * (TABLE_HEADER - 1 - len(marks))
        for i, word in enumerate(header):
            self.poke(ctx, "order", base + i, word)
        for i, index in enumerate(slots):
            entry = {"index": max(0, int(index)), "pad": int(index < 0)}
            self.poke(ctx, "order", base + TABLE_HEADER + i,
                      ORDER_ENTRY.const(entry).as_bits())

    def dump_order(self, ctx, base):
        """``(slots, marks)`` of an order table."""
        none = (1 << ORDER_ENTRY.size) - 1
        count, *marks = (self.peek(ctx, "order", base + i) for i in range(TABLE_HEADER))
        slots = []
        for i in range(count):
            entry = ORDER_ENTRY.from_bits(self.peek(ctx, "order", base + TABLE_HEADER + i))
            slots.append(-1 if entry.pad else entry.index)
        return np.array(slots, np.int64), [mark for mark in marks if mark != none]

    def _lane_bits(self, name):
        return self.memories[name].width // self.lanes[name]

    # Simulation.

    async def run(self, ctx, op, *, limit=200_000, spare=False, **fields):
        """Execute one instruction; ``(cycles, clamped)``.

        ``cycles`` counts from the cycle of ``start`` to that of ``done``. With ``spare`` the unit
        may announce more than it does.
        """
        control = self.unit.control
        ctx.set(self.memories["quant"].spare, spare)
        for name, value in unpack_instruction(instruction(op, **fields)).items():
            ctx.set(control.instruction[name], value)
        ctx.set(control.start, 1)
        cycles = clamped = 0
        while not ctx.get(control.done):
            assert cycles < limit, f"not done after {limit} cycles"
            await ctx.tick()
            ctx.set(control.start, 0)
            cycles += 1
            clamped += ctx.get(control.clamped)
        # What a unit should not do any more.
        for _ in range(2 + READ_LATENCY):
            await ctx.tick()
            assert not ctx.get(control.done), "done twice"
            assert not ctx.get(control.clamped), "clamped after done"
        faults = [f"{fault} in {name}" for name, memory in self.memories.items()
                  for fault, signal in memory.faults.items() if ctx.get(signal)]
        assert not faults, ", ".join(faults)
        return cycles, clamped

    def simulate(self, process, *watching, drift=0):
        """Run the testbench ``process(ctx)`` to its end, and those ``watching`` for as long; by
        ``drift`` the array's clock is faster than it should be, so that edges fall together in no
        order."""
        simulator = Simulator(self)
        simulator.add_clock(_PERIOD, phase=_PERIOD)
        if array_domain(self.params) == "array":
            period = _PERIOD / self.params.array_clock / (1 + drift)
            simulator.add_clock(period, phase=period, domain="array")
        simulator.add_testbench(process)
        for watch in watching:
            simulator.add_testbench(watch, background=True)

        async def contend(ctx):
            while True:
                for signal, chance in zip((self._wide_taken, self._quant_ahead), self.others,
                                          strict=True):
                    ctx.set(signal, self._random.random() < chance)
                await ctx.tick()

        if self._has("quant_ahead", Flow.In):
            simulator.add_testbench(contend, background=True)
        simulator.run()


def _ports(unit, name):
    found = []

    def collect(port):
        if isinstance(port, list | tuple):
            for element in port:
                collect(element)
        elif hasattr(port, "signature"):
            found.append(port)

    for member in unit.signature.members:
        if member == name or member.startswith(f"{name}_"):
            collect(getattr(unit, member))
    return found


class _Memory(Elaboratable):
    """The memory of one name; ``faults`` are sticky.

    With ``skew``, the cycles by which each lane of a stream is late, readers and writers share a
    port. Streams are in the clock domain ``domain``. ``announced`` is of the unit itself if
    ``announcing``, else of another.
    """
    def __init__(self, width, depth, ports, random, lanes, skew, domain):
        self.width = width
        self.depth = depth
        self.readers = ports[ReadPort]
        self.writers = ports[WritePort] + ports[LaneWritePort]
        self.streams = ports[StreamPort]
        self.lanes = lanes
        self.skew = skew
        self.domain = domain
        self.allowed = Signal()
        # Another unit writes; the unit announces, this clock among others, more than it does.
        self.others = Signal()
        self.announcing, self.announced, self.spare = Signal(), Signal(), Signal()
        self.faults = {fault: Signal() for fault in (
            "two readers at once", "two writers at once", "a read of a word being written",
            "a reader and a writer at once", "two streams at once", "a stream beyond the end",
            "a stream of a word being written", "a write while another writes",
            "an access while another was announced", "an access that was not announced",
            "an announcement without an access",
            "a read beyond the end", "a write beyond the end", "an access while idle",
            "a stream while idle")}
        self.memory = Memory(shape=width, depth=depth,
                             init=[random.getrandbits(width) for _ in range(depth)])

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        read = self.memory.read_port()
        write = self.memory.write_port(granularity=self.width // self.lanes)
        raddr, waddr, saddr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        for ports, address in ((self.readers, raddr), (self.writers, waddr), (self.streams, saddr)):
            for port in ports:
                with m.If(port.en):
                    m.d.comb += address.eq(port.addr)
        written, lanes = Signal(self.width), Signal(self.lanes)
        for port in self.writers:
            with m.If(port.en):
                m.d.comb += [written.eq(Value.cast(port.data)),
                             lanes.eq(port.lanes if hasattr(port, "lanes") else -1)]
        ren = Cat(port.en for port in self.readers)
        wen = Cat(port.en for port in self.writers)
        sen = Cat(port.en for port in self.streams)
        m.d.sync += [
            read.addr.eq(raddr),
            read.en.eq(ren.any()),
            write.addr.eq(waddr),
            write.data.eq(written),
            write.en.eq(lanes & (wen.any() & (waddr < self.depth)).replicate(self.lanes)),
        ]
        valid = Signal()
        word = Signal(self.width)
        m.d.sync += [
            valid.eq(read.en),
            # Without a request the word is junk, so that no unit reads it later than it may.
            word.eq(read.data ^ (~valid).replicate(self.width)),
        ]
        for port in self.readers:
            m.d.comb += Value.cast(port.data).eq(word)
        self._stream(m, saddr, sen.any())
        raised = {
            "a reader and a writer at once":
                ren.any() & wen.any() if self.skew else Const(0),
            "two readers at once": sum(ren, Const(0)) > 1,
            "two writers at once": sum(wen, Const(0)) > 1,
            "a read of a word being written": ren.any() & wen.any() & (raddr == waddr),
            "a read beyond the end": ren.any() & (raddr >= self.depth),
            "a write beyond the end": wen.any() & (waddr >= self.depth),
            "an access while idle": (ren.any() | wen.any()) & ~self.allowed,
            "a write while another writes": wen.any() & self.others,
            "an access while another was announced":
                (ren.any() | wen.any()) & self.announced & ~self.announcing,
            "an access that was not announced":
                (ren.any() | wen.any()) & ~self.announced & self.announcing,
            "an announcement without an access":
                ~ren.any() & ~wen.any() & self.announced & self.announcing & ~self.spare,
        }
        streams = {
            "two streams at once": sum(sen, Const(0)) > 1,
            "a stream beyond the end": sen.any() & (saddr >= self.depth),
            "a stream of a word being written": sen.any() & wen.any() & (saddr == waddr),
            "a stream while idle": sen.any() & ~self.allowed,
        }
        for domain, faults in (("sync", raised), (self.domain, streams)):
            for fault, condition in faults.items():
                with m.If(condition):
                    m.d[domain] += self.faults[fault].eq(1)
        return m

    def _stream(self, m, address, en):
        """Lanes of the streamed word, each with its skew."""
        if not self.streams:
            return
        read = self.memory.read_port(domain=self.domain)
        valid, word = Signal(), Signal(self.width)
        m.d[self.domain] += [
            read.addr.eq(address), read.en.eq(en), valid.eq(read.en),
            word.eq(read.data ^ (~valid).replicate(self.width))]
        bits = self.width // self.lanes
        late = []
        for lane, cycles in enumerate(self.skew):
            delay = Delay(bits, cycles)
            m.submodules[f"late{lane}"] = DomainRenamer(self.domain)(delay)
            m.d.comb += delay.i.eq(word.word_select(lane, bits))
            late.append(delay.o)
        for port in self.streams:
            m.d.comb += Value.cast(port.data).eq(Cat(late))

"""When the instructions of a run were queued, started and done."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.buffer import Buffer
from hdl.instructions import Queue
from hdl.memory import READ_LATENCY, ReadPort
from hdl.protocol import LOG_PART, LogPart

__all__ = ["CLOCK_BITS", "NUMBER_BITS", "EventClocks", "RunLog"]

#: Width of a run's clocks.
CLOCK_BITS = 32
#: Width of an instruction's number, and of how many there are.
NUMBER_BITS = (LOG_PART - 1).bit_length()


class EventClocks(wiring.Component):
    """Block RAM that keeps the clock of an event of every instruction.

    Several sources may have an event in the same clock, of which one is written and the others
    wait: a source's ``number`` holds for ``sources`` clocks from an event on, and as long there is
    none of that source again, so none waits for more than ``sources - 1`` clocks.

    Parameters
    ----------
    sources : int
    late : int
        Clocks by which events come late.

    Members
    -------
    clock : In(CLOCK_BITS)
        Counts on for ``sources`` clocks after an event.
    event : In(1) x sources
    number : In(NUMBER_BITS) x sources
        Of the instruction.
    raddr : In(NUMBER_BITS)
    data : Out(CLOCK_BITS)
        The clock of the event of instruction ``raddr``, ``READ_LATENCY`` clocks later.
    """
    def __init__(self, sources, *, late=0):
        self.sources = sources
        self.late = late
        super().__init__({
            "clock": In(CLOCK_BITS), "event": In(1).array(sources),
            "number": In(NUMBER_BITS).array(sources),
            "raddr": In(NUMBER_BITS), "data": Out(CLOCK_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Buffer(CLOCK_BITS, LOG_PART)
        m.d.comb += [memory.raddr.eq(self.raddr), self.data.eq(memory.data)]

        # One source a clock, the lowest; ``back`` counts the clocks since the event.
        pending, number = Signal(), Signal(NUMBER_BITS, reset_less=True)
        back = Signal(range(self.sources + self.late + 1), reset_less=True)
        taken = Const(0)
        for source in range(self.sources):
            waiting, waited = (Signal(name=f"waiting{source}"),
                               Signal(range(self.sources), reset_less=True))
            here = self.event[source] | waiting
            mine = here & ~taken
            m.d.sync += [waiting.eq(here & ~mine), waited.eq(Mux(waiting, waited + 1, 1))]
            with m.If(mine):
                m.d.sync += [back.eq(Mux(waiting, waited, 0) + 1 + self.late),
                             number.eq(self.number[source])]
            taken = taken | here
        m.d.sync += pending.eq(taken)
        m.d.comb += [memory.wen.eq(pending), memory.waddr.eq(number),
                     memory.wdata.eq(self.clock - back)]
        return m


class RunLog(wiring.Component):
    """The clocks of all instructions of the last run, as the space ``LOG`` has them.

    Members
    -------
    clock : In(CLOCK_BITS)
        Of the run.
    queued : In(1)
        The instruction ``queued_number`` goes to its queue in this clock.
    queued_number : In(NUMBER_BITS)
    started, done : In(len(Queue))
        The instruction in that queue starts in this clock; was done in the clock before.
    number : In(NUMBER_BITS) x queues
        The instruction that is there, until 3 clocks after ``done``.
    r : In(ReadPort(CLOCK_BITS))
        Word ``LOG_PART * part + number``.
    """
    def __init__(self):
        super().__init__({
            "clock": In(CLOCK_BITS), "queued": In(1), "queued_number": In(NUMBER_BITS),
            "started": In(len(Queue)), "done": In(len(Queue)),
            "number": In(NUMBER_BITS).array(len(Queue)),
            "r": In(ReadPort(CLOCK_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        # One at a time goes to its queue.
        m.submodules.queued = queued = Buffer(CLOCK_BITS, LOG_PART)
        m.d.comb += [queued.wen.eq(self.queued), queued.waddr.eq(self.queued_number),
                     queued.wdata.eq(self.clock)]
        m.submodules.started = started = EventClocks(len(Queue))
        m.submodules.done = done = EventClocks(len(Queue), late=1)
        for clocks, events in ((started, self.started), (done, self.done)):
            m.d.comb += [
                clocks.clock.eq(self.clock), Cat(clocks.event).eq(events),
                *(mine.eq(number) for mine, number in zip(clocks.number, self.number, strict=True)),
            ]
        parts = {LogPart.QUEUED: queued, LogPart.STARTED: started, LogPart.DONE: done}
        m.d.comb += [memory.raddr.eq(self.r.addr) for memory in parts.values()]
        part = self.r.addr[NUMBER_BITS:][:(len(LogPart) - 1).bit_length()]
        for _ in range(READ_LATENCY):
            late = Signal.like(part)
            m.d.sync += late.eq(part)
            part = late
        m.d.comb += self.r.data.eq(Array(parts[one].data for one in LogPart)[part])
        return m

"""The dispatcher: instructions in program order to the queues of their units."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.dispatch.fetch import Fetch
from hdl.dispatch.log import CLOCK_BITS, NUMBER_BITS, RunLog
from hdl.dispatch.quarters import QUARTER_BITS
from hdl.dispatch.queue import UnitQueue
from hdl.instructions import AFTER_MASK, AFTER_SHIFT, Queue, opcode_of, queue_of
from hdl.memory import ReadPort
from hdl.program import WATCHDOG_CYCLES, units_of
from hdl.protocol import MAX_STORED, Status, Unit
from hdl.unit import UnitPort

__all__ = ["Dispatcher"]


class Dispatcher(wiring.Component):
    """Runs the instructions of one RUN, of every queue one at a time, and stops at the first that
    fails. In place of :class:`hdl.program.Program` on machines that keep masters.

    The next instruction is fetched and checked while others run. It goes to its queue in program
    order, as soon as that is free, and waits there until the queues that it names have ended what
    they hold at that moment: all of it is before it in the program, and what is after it comes
    later. So nothing waits for itself.

    An instruction takes 4 clocks beside those from its unit's ``start`` to ``done`` if the one
    before it was of the same queue, 3 if it was of a queue that it names and has come before that
    was done, ``Fetch.CYCLES`` in all at least. A run takes at most 16 more where quarters come with
    :class:`hdl.stored.Stored`.

    A wrong access (``ADDRESS``, :mod:`hdl.dispatch.faults`) or ``watchdog`` clocks without ``done``
    (``WATCHDOG``) stop all units: ``abort`` pulses, which resets them. An instruction that cannot
    run (``BAD_INSTRUCTION``) ends the program once all before it are done, unless one of these
    fails. Of several that fail in the same clock the one in the first queue is reported.

    Parameters
    ----------
    params : hdl.params.Params
    watchdog : int
        Clocks that one instruction may take.

    Members
    -------
    start : In(1)
    count : In(range(MAX_STORED + 1))
        Instructions, taken with ``start``; at least 1.
    i : In(stream.Signature(QUARTER_BITS))
        The instructions, which may be followed by anything.
    fault : In(len(Queue))
        A unit of that queue has made a wrong access in the clock before.
    stop : In(1)
        Ends a run at once, and forgets what came of it: ``abort`` pulses; there is no ``done``.
    ready : In(1)
        Units may be started: those that take their time to reset have.
    control : In(UnitPort()) x units
        The units, in the order of :func:`hdl.program.units_of`.
    abort : Out(1)
    active : Out(1)
        Instructions are under way: from the clock after ``start`` until that of ``done``.
    done : Out(1)
        Pulses at the end; what follows holds until the next ``start`` or ``stop``.
    status : Out(8)
        ``OK``, ``BAD_INSTRUCTION``, ``ADDRESS`` or ``WATCHDOG``.
    completed : Out(NUMBER_BITS)
        How many instructions there were; the number of the one that failed, from 0.
    unit : Out(8)
        The unit of the one that failed, or of the last one; ``Unit.NONE`` after
        ``BAD_INSTRUCTION``.
    cycles : Out(32)
        Clocks from the first fetch until all units were done.
    log_r : In(ReadPort(CLOCK_BITS))
        The values of ``cycles`` when instructions were queued, started and done, as
        :class:`hdl.dispatch.log.RunLog` has them, of a run without an error.
    """
    def __init__(self, params, *, watchdog=WATCHDOG_CYCLES):
        self.params = params
        self.watchdog = watchdog
        super().__init__({
            "start": In(1), "stop": In(1),
            "count": In(range(MAX_STORED + 1)),
            "i": In(stream.Signature(QUARTER_BITS)),
            "fault": In(len(Queue)), "ready": In(1),
            "control": In(UnitPort()).array(len(units_of(params))),
            "abort": Out(1),
            "active": Out(1),
            "done": Out(1),
            "status": Out(8),
            "completed": Out(NUMBER_BITS),
            "unit": Out(8),
            "cycles": Out(CLOCK_BITS),
            "log_r": In(ReadPort(CLOCK_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        # ``more``: some are left.
        active, more, left = self.active, Signal(), Signal.like(self.count)

        # Quarters to instructions; between runs what was fetched is forgotten.
        fetch = Fetch(self.params)
        m.submodules.fetch = ResetInserter(~active)(fetch)
        wiring.connect(m, wiring.flipped(self.i), fetch.i)
        checked = fetch.o.payload

        # Queues and their units.
        queues = []
        for queue in Queue:
            units = [unit for unit in units_of(self.params) if queue_of(unit) == queue]
            made = UnitQueue(self.params, units, watchdog=self.watchdog)
            m.submodules[queue.name.lower()] = made
            queues.append(made)
            mine = [control for unit, control in zip(units_of(self.params), self.control,
                                                     strict=True) if unit in units]
            for outer, inner in zip(mine, made.control, strict=True):
                wiring.connect(m, wiring.flipped(outer), inner)
        occupied, ended, failed = (Signal(len(queues), name=name)
                                   for name in ("occupied", "ended", "failed"))
        m.d.comb += [
            occupied.eq(Cat(queue.occupied for queue in queues)),
            ended.eq(Cat(queue.end for queue in queues)),
            failed.eq(Cat(queue.failed for queue in queues)),
        ]

        # An instruction to its queue, when that is free.
        load = Signal()
        named = (checked.instruction.op & AFTER_MASK) >> AFTER_SHIFT
        m.d.comb += [
            load.eq(more & fetch.o.valid & checked.good & ~(checked.queue & occupied).any()),
            fetch.o.ready.eq(load),
        ]
        for queue, chosen, fault in zip(queues, checked.queue, self.fault, strict=True):
            m.d.comb += [
                queue.load.eq(load & chosen), queue.instruction.eq(checked.instruction),
                queue.number.eq(self.completed), queue.waits.eq(named & occupied & ~ended),
                queue.ended.eq(ended), queue.go.eq(self.ready & ~failed.any()),
                queue.fault.eq(fault), queue.clear.eq(self.abort),
            ]

        # What happened when.
        m.submodules.log = log = RunLog()
        wiring.connect(m, wiring.flipped(self.log_r), log.r)
        m.d.comb += [
            log.clock.eq(self.cycles), log.queued.eq(load), log.queued_number.eq(self.completed),
            log.started.eq(Cat(queue.started for queue in queues)),
            log.done.eq(Cat(queue.done for queue in queues)),
            *(number.eq(queue.held) for number, queue in zip(log.number, queues, strict=True)),
        ]

        def finish(status):
            m.d.sync += self.status.eq(status), self.done.eq(1), active.eq(0), more.eq(0)

        m.d.sync += self.done.eq(0), self.abort.eq(0)
        with m.If(self.start):
            m.d.sync += [
                active.eq(1), left.eq(self.count), more.eq(1), self.status.eq(Status.OK),
                self.completed.eq(0), self.unit.eq(Unit.NONE), self.cycles.eq(0),
            ]
        with m.Elif(active):
            m.d.sync += self.cycles.eq(self.cycles + 1)
            with m.If(load):
                m.d.sync += [
                    left.eq(left - 1), more.eq(left != 1), self.completed.eq(self.completed + 1),
                    self.unit.eq(opcode_of(checked.instruction.op, self.params)),
                ]
            # The end: after an error at once, but for one that no unit has met.
            for number, queue in enumerate(queues):
                with m.If(queue.failed) if number == 0 else m.Elif(queue.failed):
                    finish(queue.status)
                    m.d.sync += [self.abort.eq(1), self.completed.eq(queue.held),
                                 self.unit.eq(queue.unit)]
            with m.Elif(~occupied.any()):
                with m.If(~more):
                    finish(Status.OK)
                with m.Elif(fetch.o.valid & ~checked.good):
                    finish(Status.BAD_INSTRUCTION)
                    m.d.sync += self.abort.eq(1), self.unit.eq(Unit.NONE)
        with m.If(self.stop):
            m.d.sync += [
                active.eq(0), more.eq(0), self.done.eq(0), self.abort.eq(1),
                self.status.eq(Status.OK), self.completed.eq(0), self.unit.eq(Unit.NONE),
                self.cycles.eq(0),
            ]
        return m

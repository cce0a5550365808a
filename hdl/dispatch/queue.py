"""One queue: an instruction that waits for those of other queues, then runs on its unit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.dispatch.log import NUMBER_BITS
from hdl.instructions import Queue, opcode_of
from hdl.protocol import Status
from hdl.unit import INSTRUCTION_LAYOUT, UnitPort

__all__ = ["UnitQueue"]


class UnitQueue(wiring.Component):
    """Holds one instruction at a time, and runs it on its unit under a watchdog.

    An instruction that has nothing to wait for starts in the clock after ``load``. Three clocks
    after its unit is done the queue may be loaded again, and another queue may start what has
    waited for it: ``done`` comes from the whole die and is in a register first, and a wrong access
    is known one clock later.

    Parameters
    ----------
    params : hdl.params.Params
    units : sequence of hdl.protocol.Unit
    watchdog : int
        Clocks that an instruction may take.

    Members
    -------
    load : In(1)
        Takes ``instruction``, its ``number`` and ``waits``; not while ``occupied``.
    instruction : In(INSTRUCTION_LAYOUT)
    number : In(NUMBER_BITS)
    waits : In(len(Queue))
        Queues that have to end what they hold before this one starts.
    ended : In(len(Queue))
        Those that do so in this clock.
    go : In(1)
        Units may be started.
    clear : In(1)
        Forgets the instruction.
    fault : In(1)
        A unit of this queue has made a wrong access in the clock before.
    control : In(UnitPort()) x units
    occupied : Out(1)
    end : Out(1)
        The instruction ends without an error in this clock, the last in which it is here.
    started : Out(1)
        The unit's ``start`` is in this clock.
    done : Out(1)
        The unit's ``done`` was in the clock before.
    failed : Out(1)
        The instruction has failed; until ``clear``.
    status : Out(8)
        If so, ``ADDRESS`` or ``WATCHDOG``.
    held : Out(NUMBER_BITS)
    unit : Out(8)
        Number and unit of the instruction.
    """
    def __init__(self, params, units, *, watchdog):
        self.params = params
        self.units = units
        self.watchdog = watchdog
        super().__init__({
            "load": In(1), "instruction": In(INSTRUCTION_LAYOUT), "number": In(NUMBER_BITS),
            "waits": In(len(Queue)), "ended": In(len(Queue)), "go": In(1), "clear": In(1),
            "fault": In(1), "control": In(UnitPort()).array(len(units)),
            "occupied": Out(1), "end": Out(1), "started": Out(1), "done": Out(1),
            "failed": Out(1), "status": Out(8), "held": Out(NUMBER_BITS), "unit": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        instruction = Signal(INSTRUCTION_LAYOUT, reset_less=True)
        number = Signal(NUMBER_BITS, reset_less=True)
        waits = Signal(len(Queue))
        waiting, running, settling = Signal(), Signal(), Signal()
        m.d.comb += [
            self.held.eq(number), self.unit.eq(opcode_of(instruction.op, self.params)),
        ]
        # What comes from the whole die is in registers first.
        fault, done = Signal(), Signal(len(self.units))
        m.d.sync += fault.eq(self.fault), done.eq(Cat(control.done for control in self.control))

        # Take an instruction.
        mine = Signal(len(self.units), reset_less=True)
        m.d.sync += waits.eq(waits & ~self.ended)
        with m.If(self.load):
            m.d.sync += [
                instruction.eq(self.instruction), number.eq(self.number),
                self.occupied.eq(1), waiting.eq(1), waits.eq(self.waits),
                mine.eq(Cat(opcode_of(self.instruction.op, self.params) == unit
                            for unit in self.units)),
            ]

        # Start it.
        patience = Signal(range(self.watchdog + 1), reset_less=True)
        begin, unit_done = Signal(), Signal()
        m.d.comb += [begin.eq(waiting & ~waits.any() & self.go), unit_done.eq((done & mine).any()),
                     self.started.eq(begin)]
        for control, chosen in zip(self.control, mine, strict=True):
            m.d.comb += control.instruction.eq(instruction), control.start.eq(begin & chosen)
        m.d.sync += patience.eq(patience - 1)
        with m.If(begin):
            m.d.sync += waiting.eq(0), running.eq(1), patience.eq(self.watchdog)

        # See it end.
        def fail(status):
            m.d.sync += running.eq(0), self.failed.eq(1), self.status.eq(status)

        with m.If(running):
            with m.If(fault):
                fail(Status.ADDRESS)
            with m.Elif(unit_done):
                m.d.comb += self.done.eq(1)
                m.d.sync += running.eq(0), settling.eq(1)
            with m.Elif(patience == 0):
                fail(Status.WATCHDOG)
        with m.If(settling):
            m.d.sync += settling.eq(0)
            with m.If(fault):
                fail(Status.ADDRESS)
            with m.Else():
                m.d.comb += self.end.eq(1)
                m.d.sync += self.occupied.eq(0)
        with m.If(self.clear):
            m.d.sync += waiting.eq(0), running.eq(0), settling.eq(0)
            m.d.sync += self.occupied.eq(0), self.failed.eq(0)
        return m

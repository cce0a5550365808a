"""RUN: fetch instructions, check them, and run each on its unit under a watchdog.

On a machine that keeps masters :mod:`hdl.dispatch` does that, and units overlap.
"""

from functools import cache, reduce
from operator import and_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import INSTRUCTION_BYTES, OPERATIONS, Opcode, opcode_of
from hdl.protocol import MAX_BODY, Status, Unit
from hdl.unit import INSTRUCTION_LAYOUT, UnitPort

__all__ = ["WATCHDOG_CYCLES", "InstructionCheck", "Program", "units_of"]

#: Clocks after which a unit that is not done has failed.
WATCHDOG_CYCLES = 1 << 26
#: Most instructions that come with a RUN.
MAX_INSTRUCTIONS = MAX_BODY // INSTRUCTION_BYTES


def units_of(params):
    """The units that a machine has; without groups there is nothing to sort.

    >>> from hdl.params import Params
    >>> [unit.name for unit in units_of(Params(sample_groups=1, channel_groups=1))]
    ['GEMM', 'QUANTISE', 'NORM_FORWARD', 'NORM_BACKWARD', 'MOVE']
    """
    return [Unit(op) for op, operation in OPERATIONS.items()
            if operation.exists(params)]


class InstructionCheck(wiring.Component):
    """Whether the machine can run an instruction; the rules are those of
    :data:`hdl.instructions.OPERATIONS`.

    Latency ``LATENCY``, one instruction per clock.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    instruction : In(INSTRUCTION_LAYOUT)
    good : Out(1)
    """
    LATENCY = 2

    def __init__(self, params):
        self.params = params
        super().__init__({"instruction": In(INSTRUCTION_LAYOUT), "good": Out(1)})

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction

        @cache
        def within(name, limit):
            value = getattr(fields, name)
            return (value != 0) & (value <= limit)

        units = units_of(self.params)
        lawful = Signal(len(units))
        opcode = opcode_of(fields.op, self.params)
        m.d.sync += [
            lawful.eq(Cat((opcode == unit) & reduce(and_, OPERATIONS[Opcode(unit)].conditions(
                fields, self.params, within=within)) for unit in units)),
            self.good.eq(lawful.any()),
        ]
        return m


class Program(wiring.Component):
    """Runs the instructions of one RUN in order and stops at the first that fails.

    An instruction is fetched byte by byte into the register that its unit reads, checked, and
    started; the next one follows when its unit is done and no memory has reported an access
    beyond its end. Each takes ``BESIDE`` clocks and those from its unit's ``start`` to ``done``.

    An access beyond the end (``ADDRESS``) or ``watchdog`` clocks without ``done`` (``WATCHDOG``)
    stop the unit: ``abort`` pulses, which resets every unit.

    Parameters
    ----------
    params : hdl.params.Params
    watchdog : int
        Clocks that one instruction may take.

    Members
    -------
    start : In(1)
    count : In(range(most + 1))
        Instructions, taken with ``start``; at least 1.
    i : In(stream.Signature(8))
        The instructions.
    fault : In(1)
        A memory was accessed beyond its end.
    ready : In(1)
        Units may be started: those that take their time to reset have.
    control : In(UnitPort()) x units
        The units, in the order of :func:`units_of`.
    abort : Out(1)
    done : Out(1)
        Pulses at the end; what follows holds until the next ``start``.
    status : Out(8)
        ``OK``, ``BAD_INSTRUCTION``, ``ADDRESS`` or ``WATCHDOG``.
    completed : Out(8)
        Instructions that ran without an error; the number of the one that failed, from 0.
    unit : Out(8)
        The unit that ran last, ``Unit.NONE`` after ``BAD_INSTRUCTION``.
    cycles : Out(32)
        Clocks from the first fetch until the last unit was done.
    """
    #: Clocks of an instruction that are not its unit's: a byte of it in each, check, settle.
    BESIDE = 37

    def __init__(self, params, *, watchdog=WATCHDOG_CYCLES):
        self.params = params
        self.watchdog = watchdog
        super().__init__({
            "start": In(1),
            "count": In(range(MAX_INSTRUCTIONS + 1)),
            "i": In(stream.Signature(8)),
            "fault": In(1), "ready": In(1),
            "control": In(UnitPort()).array(len(units_of(params))),
            "abort": Out(1),
            "done": Out(1),
            "status": Out(8),
            "completed": Out(8),
            "unit": Out(8),
            "cycles": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        instruction = Signal(INSTRUCTION_LAYOUT)
        m.submodules.check = check = InstructionCheck(self.params)
        m.d.comb += check.instruction.eq(instruction)

        # What comes from the whole die is in registers first.
        begin, unit_done, fault = Signal(), Signal(), Signal()
        m.d.sync += fault.eq(self.fault)
        for unit, control in zip(units_of(self.params), self.control, strict=True):
            done = Signal(name=f"{unit.name.lower()}_done")
            m.d.comb += control.instruction.eq(instruction)
            m.d.sync += done.eq(control.done)
            with m.If(instruction.op == unit):
                m.d.comb += control.start.eq(begin), unit_done.eq(done)

        left = Signal.like(self.count)
        index = Signal(range(INSTRUCTION_BYTES))
        checking = Signal(range(check.LATENCY))
        patience = Signal(range(self.watchdog + 1))
        counting = Signal()
        with m.If(counting):
            m.d.sync += self.cycles.eq(self.cycles + 1)

        def fail(status):
            m.d.sync += self.status.eq(status), self.abort.eq(1)
            m.d.sync += self.done.eq(1), counting.eq(0)
            m.next = "IDLE"

        m.d.sync += self.done.eq(0), self.abort.eq(0)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    left.eq(self.count), self.status.eq(Status.OK), self.completed.eq(0),
                    self.unit.eq(Unit.NONE), self.cycles.eq(0), counting.eq(1),
                ]
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [
                        instruction.eq(Cat(instruction.as_value()[8:], self.i.payload)),
                        index.eq(index + 1),
                    ]
                    with m.If(index == INSTRUCTION_BYTES - 1):
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += patience.eq(self.watchdog), checking.eq(checking + 1)
                with m.If(checking == check.LATENCY - 1):
                    m.d.sync += checking.eq(0)
                    m.next = "START"
            with m.State("START"), m.If(self.ready):
                m.d.comb += begin.eq(check.good)
                m.d.sync += self.unit.eq(instruction.op)
                m.next = "RUN"
                with m.If(~check.good):
                    m.d.sync += self.unit.eq(Unit.NONE)
                    fail(Status.BAD_INSTRUCTION)
            with m.State("RUN"):
                m.d.sync += patience.eq(patience - 1)
                with m.If(fault):
                    fail(Status.ADDRESS)
                with m.Elif(unit_done):
                    m.next = "SETTLE"
                with m.Elif(patience == 0):
                    fail(Status.WATCHDOG)
            with m.State("SETTLE"):
                # A memory reports the unit's last access one clock after it.
                with m.If(fault):
                    fail(Status.ADDRESS)
                with m.Else():
                    m.d.sync += self.completed.eq(self.completed + 1), left.eq(left - 1)
                    m.next = "FETCH"
                    with m.If(left == 1):
                        m.d.sync += self.done.eq(1), counting.eq(0)
                        m.next = "IDLE"
        return m

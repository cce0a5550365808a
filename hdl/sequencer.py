"""The sequencer: executes requests and answers them, as :mod:`hdl.protocol` says."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hdl.access import Access, memory_ports, taken_ports
from hdl.array.skew import Delay
from hdl.dispatch import Dispatcher, Quarters
from hdl.instructions import INSTRUCTION_BYTES, Queue
from hdl.link.frame import ANSWER_BYTE, FramePort
from hdl.params import PROTOCOL_VERSION
from hdl.program import WATCHDOG_CYCLES, Program, units_of
from hdl.protocol import (
    MAX_STORED,
    PROGRAM_WORDS,
    REPEAT_WINDOW,
    Kind,
    Status,
    number_bytes,
)
from hdl.stored import Stored
from hdl.unit import UnitPort

__all__ = ["Answer", "ClampCounter", "Sequencer"]


class Sequencer(wiring.Component):
    """Takes one verified request at a time, executes it, and answers it.

    The answer to a damaged frame is a NAK. A RUN that is repeated gets its answer again. An
    error of a RUN is kept until RESET, and RUN is refused until then. Where nothing
    is moved or run the answer begins at most five clocks after the request was verified. On a
    machine that keeps masters a program that was started runs beside further requests.

    Parameters
    ----------
    params : hdl.params.Params
    watchdog : int
        Clocks that one instruction may take.

    Members
    -------
    frame : In(FramePort())
    o : Out(stream.Signature(ANSWER_BYTE))
    fault : In(1)
        A memory was accessed beyond its end in the clock before; on a machine that keeps masters
        In(len(Queue)), a bit for each queue of units.
    wide_r, quant_r, group_r : Out(ReadPort)
    wide_w, group_w : Out(WritePort)
    quant_w : Out(LaneWritePort)
    wide_taken, quant_taken, group_taken : In(1)
        On a machine that keeps masters: a unit writes to that memory in this clock, or reads the
        quantised one.
    ready : In(1)
        See :class:`hdl.program.Program` and :class:`hdl.dispatch.Dispatcher`.
    control : In(UnitPort()) x units
        The units, in the order of :func:`hdl.program.units_of`.
    units_reset : Out(1) x units
        Resets that unit, two clocks after the reason.
    """
    def __init__(self, params, *, watchdog=WATCHDOG_CYCLES):
        self.params = params
        self.watchdog = watchdog
        super().__init__({
            "frame": In(FramePort()),
            "o": Out(stream.Signature(ANSWER_BYTE)),
            "fault": In(len(Queue) if params.masters else 1), "ready": In(1),
            "control": In(UnitPort()).array(len(units_of(params))),
            "units_reset": Out(1).array(len(units_of(params))),
            **memory_ports(params), **taken_ports(params),
        })

    def elaborate(self, platform):
        m = Module()
        frame = self.frame
        m.submodules.access = access = Access(self.params)
        made = Dispatcher if self.params.masters else Program
        m.submodules.program = program = made(self.params, watchdog=self.watchdog)
        m.submodules.answer = answer = Answer(self.params)
        m.submodules.clamps = clamps = ClampCounter(len(self.control))

        for name in memory_ports(self.params):
            if name == "program_r":
                continue
            wiring.connect(m, getattr(access, name), wiring.flipped(getattr(self, name)))
        wiring.connect(m, access.o, answer.words)
        if self.params.masters:
            wiring.connect(m, access.log_r, program.log_r)
        # The way back from the link's escapes ends here.
        m.submodules.queue = queue = SyncFIFOBuffered(width=ANSWER_BYTE.size, depth=2)
        m.d.comb += [
            queue.w_data.eq(answer.o.payload.as_value()), queue.w_en.eq(answer.o.valid),
            answer.o.ready.eq(queue.w_rdy), self.o.payload.as_value().eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy), queue.r_en.eq(self.o.ready),
        ]
        for mine, inner in zip(self.control, program.control, strict=True):
            wiring.connect(m, wiring.flipped(mine), inner)
        for port, clamped in zip(self.control, clamps.clamped, strict=True):
            m.d.comb += clamped.eq(port.clamped)

        # What there is to know of a request, a clock after it is valid: nothing of it changes.
        beside = (Kind.START, Kind.WAIT) if self.params.masters else ()
        kinds = {kind: Signal(name=f"is_{kind.name.lower()}") for kind in (
            Kind.HELLO, Kind.WRITE, Kind.READ, Kind.RUN, Kind.STATUS, Kind.RESET, *beside)}
        m.d.sync += [known.eq(frame.kind == kind) for kind, known in kinds.items()]
        empty, one_byte, whole, repeated = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [empty.eq(frame.length == 0), one_byte.eq(frame.length == 1),
                     whole.eq(frame.length % INSTRUCTION_BYTES == 0)]

        # Programs from the frame, and from the memory.
        stored, instructions = None, program.i
        if self.params.masters:
            m.submodules.quarters = quarters = Quarters()
            instructions = quarters.i
            m.d.comb += quarters.clear.eq(program.start)
            m.submodules.stored = stored = Stored()
            # The host's access and programs take turns.
            mine, theirs = stored.program_r, access.program_r
            m.d.comb += [
                self.program_r.en.eq(mine.en | theirs.en),
                self.program_r.addr.eq(Mux(stored.enable, mine.addr, theirs.addr)),
                mine.data.eq(self.program_r.data), theirs.data.eq(self.program_r.data),
            ]
            four, which = Signal(), Signal(data.StructLayout({"first": 16, "count": 16}))
            index, many, beyond = Signal(range(4)), Signal(), Signal()
            m.d.sync += [
                four.eq(frame.length == 4),
                many.eq((which.count == 0) | (which.count > MAX_STORED)),
                beyond.eq(which.first + which.count > PROGRAM_WORDS * 8 // INSTRUCTION_BYTES),
            ]
            # A program that was started, and not waited for, runs beside other requests.
            started = Signal()
            m.d.comb += [access.started.eq(started), *(
                getattr(access, name).eq(getattr(self, name))
                for name in taken_ports(self.params))]
            with m.If(started):
                m.d.comb += stored.enable.eq(program.active)
                _taken(m, program, stored.o)

        # What a request changes.
        bad_frames = Signal(32)
        number, completed = 8 * number_bytes(self.params), program.completed
        if stored:
            completed = completed | Const(0, number)
        error, error_at, error_unit = Signal(8), Signal(number), Signal(8)
        restart = Signal()
        if stored:
            # What is stopped may clamp until it is reset.
            clearing = Signal(8)
            m.d.sync += clearing.eq(Cat(restart, clearing))
            m.d.comb += clamps.clear.eq(restart | clearing.any()), program.stop.eq(restart)
        else:
            m.d.comb += clamps.clear.eq(restart)
        # Each unit has a register of its own for this: it reaches most of what the unit has.
        units_reset = Signal()
        m.d.sync += units_reset.eq(program.abort | restart)
        for number, reset in enumerate(self.units_reset):
            m.submodules[f"reset{number}"] = late = Delay(1, 1, reset=True)
            m.d.comb += late.i.eq(units_reset), reset.eq(late.o)
        # The last RUN: its number, its answer's status and whether that is all, and for how many
        # requests it stays known.
        run_seq, run_status, run_alone = Signal(8), Signal(8), Signal()
        runs, same_kind = kinds[Kind.RUN], 1
        if stored:
            run_started = Signal()
            runs, same_kind = runs | kinds[Kind.START], run_started == kinds[Kind.START]
        run_age = Signal(range(REPEAT_WINDOW + 1))
        failed = Signal()
        again = (run_age != 0) & (run_seq == frame.seq)
        m.d.sync += [repeated.eq(again & same_kind if stored else again), failed.eq(error != 0)]
        m.d.comb += [
            program.fault.eq(self.fault), program.ready.eq(self.ready),
            program.count.eq(frame.length // INSTRUCTION_BYTES),
            access.length.eq(frame.length),
            access.write.eq(kinds[Kind.WRITE]),
            answer.seq.eq(Mux(frame.damaged, 0, frame.seq)),
            answer.kind.eq(Mux(frame.damaged, Kind.NAK, frame.kind) | Kind.ANSWER),
            answer.run.eq(Cat(completed, program.unit, program.cycles)),
            answer.counters.eq(Cat(bad_frames, clamps.total, error, error_at, error_unit)),
        ]

        def reply(status, alone=0):
            m.d.sync += answer.status.eq(status), answer.alone.eq(alone)
            m.next = "ANSWER"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(frame.valid & frame.damaged):
                    m.d.sync += bad_frames.eq(bad_frames + 1)
                    reply(Status.BAD_FRAME, 1)
                with m.Elif(frame.valid):
                    other = frame.kind != Kind.RUN
                    if stored:
                        other &= frame.kind != Kind.START
                    with m.If((run_age != 0) & other):
                        m.d.sync += run_age.eq(run_age - 1)
                    m.next = "KIND"
            with m.State("KIND"):
                reply(Status.BAD_KIND, 1)
                with m.If(kinds[Kind.HELLO]):
                    m.next = "HELLO"
                with m.If(kinds[Kind.WRITE] | kinds[Kind.READ]):
                    m.d.comb += access.start.eq(1)
                    m.next = "ACCESS"
                with m.If(kinds[Kind.RUN]):
                    m.next = "RUN"
                with m.If(kinds[Kind.STATUS]):
                    m.next = "STATUS"
                with m.If(kinds[Kind.RESET]):
                    m.next = "RESET"
                if stored:
                    with m.If(kinds[Kind.START]):
                        m.next = "RUN"
                    with m.If(kinds[Kind.WAIT]):
                        m.next = "WAIT"
                    with m.If(kinds[Kind.READ] & started):
                        m.d.comb += access.start.eq(0)
                        reply(Status.BUSY, 1)
            with m.State("HELLO"):
                with m.If(~one_byte):
                    reply(Status.BAD_LENGTH, 1)
                with m.Elif(frame.body.valid):
                    m.d.sync += run_age.eq(0)
                    reply(Status.OK)
                    with m.If(frame.body.payload != PROTOCOL_VERSION):
                        reply(Status.VERSION)
            with m.State("ACCESS"):
                m.d.comb += [
                    access.i.payload.eq(frame.body.payload),
                    access.i.valid.eq(frame.body.valid),
                    frame.body.ready.eq(access.i.ready),
                ]
                with m.If(access.done):
                    reply(access.status, access.status != Status.OK)
            with m.State("RUN"):
                with m.If(repeated):
                    reply(run_status, run_alone)
                if stored:
                    with m.Elif(started):
                        reply(Status.BUSY, 1)
                with m.Elif(failed):
                    reply(Status.STICKY, 1)
                with m.Elif(empty | ~whole | kinds[Kind.START] if stored else empty | ~whole):
                    reply(Status.BAD_LENGTH, 1)
                    if stored:
                        with m.If(four):
                            m.next = "WHICH"
                with m.Else():
                    m.d.comb += program.start.eq(1)
                    m.next = "RUNNING"
            if stored:
                with m.State("WHICH"):
                    m.d.comb += frame.body.ready.eq(1)
                    with m.If(frame.body.valid):
                        m.d.sync += index.eq(index + 1), which.as_value().eq(
                            Cat(which.as_value()[8:], frame.body.payload))
                        with m.If(index == 3):
                            m.next = "FOUND"
                with m.State("FOUND"):
                    # Whether it may run is in registers in the next clock.
                    m.next = "MAY"
                with m.State("MAY"):
                    with m.If(many):
                        reply(Status.BAD_LENGTH, 1)
                    with m.Elif(beyond):
                        reply(Status.ADDRESS, 1)
                    with m.Else():
                        m.d.comb += [program.start.eq(1), stored.start.eq(1),
                                     stored.first.eq(which.first), program.count.eq(which.count)]
                        m.next = "STORED"
                        with m.If(kinds[Kind.START]):
                            m.d.sync += started.eq(1)
                            reply(Status.OK, 1)
                with m.State("STORED"):
                    m.d.comb += stored.enable.eq(1)
                    _taken(m, program, stored.o)
                    with m.If(program.done):
                        _ran(m, program, (error, error_at, error_unit), reply)
                with m.State("WAIT"):
                    with m.If(~empty):
                        reply(Status.BAD_LENGTH, 1)
                    with m.Elif(~program.active):
                        m.d.sync += started.eq(0)
                        _ran(m, program, (error, error_at, error_unit), reply)
            with m.State("RUNNING"):
                m.d.comb += [
                    instructions.payload.eq(frame.body.payload),
                    instructions.valid.eq(frame.body.valid),
                    frame.body.ready.eq(instructions.ready),
                ]
                if stored:
                    _taken(m, program, quarters.o)
                with m.If(program.done):
                    _ran(m, program, (error, error_at, error_unit), reply)
            with m.State("STATUS"):
                reply(Status.OK)
                with m.If(~empty):
                    reply(Status.BAD_LENGTH, 1)
            with m.State("RESET"):
                reply(Status.OK, 1)
                with m.If(~empty):
                    reply(Status.BAD_LENGTH, 1)
                with m.Else():
                    m.d.comb += restart.eq(1)
                    m.d.sync += bad_frames.eq(0), error.eq(0), error_at.eq(0), error_unit.eq(0)
                    m.d.sync += run_age.eq(0)
                    if stored:
                        m.d.sync += started.eq(0)
            with m.State("ANSWER"):
                m.d.comb += answer.start.eq(1)
                with m.If(~frame.damaged & runs):
                    if stored:
                        m.d.sync += run_started.eq(kinds[Kind.START])
                    m.d.sync += [
                        run_seq.eq(frame.seq), run_status.eq(answer.status),
                        run_alone.eq(answer.alone), run_age.eq(REPEAT_WINDOW),
                    ]
                m.next = "SEND"
            with m.State("SEND"), m.If(answer.done):
                m.d.comb += frame.done.eq(1)
                m.next = "RELEASE"
            with m.State("RELEASE"):
                # The receiver takes ``valid`` back.
                m.next = "IDLE"
        return m


def _taken(m, program, source):
    """The program takes its instructions from there."""
    m.d.comb += [program.i.payload.eq(source.payload), program.i.valid.eq(source.valid),
                 source.ready.eq(program.i.ready)]


def _ran(m, program, error, reply):
    """After a program: keep its error, and answer."""
    with m.If(program.status != Status.OK):
        m.d.sync += [kept.eq(value) for kept, value in zip(
            error, (program.status, program.completed, program.unit), strict=True)]
    reply(program.status)


class Answer(wiring.Component):
    """Sends ``seq``, ``kind``, the status, and what belongs to an answer of that kind.

    One byte per clock, the first two clocks after ``start``.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    seq, kind, status : In(8)
        These hold, as do ``alone``, ``run`` and ``counters``, until ``done``.
    alone : In(1)
        The status is all of the answer.
    run : In(48), or In(56) on a machine that keeps masters
        The body of RUN's answer, and of WAIT's, after the status.
    counters : In(88), or In(96)
        The body of STATUS's answer after the status.
    words : In(stream.Signature(ANSWER_BYTE))
        The words of a READ.
    o : Out(stream.Signature(ANSWER_BYTE))
    done : Out(1)
        Pulses with the last byte.
    """
    def __init__(self, params):
        self.fingerprint = bytes.fromhex(params.fingerprint)
        self.waits = params.masters > 0
        number = 8 * number_bytes(params)
        super().__init__({
            "start": In(1),
            "seq": In(8),
            "kind": In(8),
            "status": In(8),
            "alone": In(1),
            "run": In(number + 40),
            "counters": In(number + 80),
            "words": In(stream.Signature(ANSWER_BYTE)),
            "o": Out(stream.Signature(ANSWER_BYTE)),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        hello = Cat(Const(PROTOCOL_VERSION, 8), *(Const(byte, 8) for byte in self.fingerprint))
        head = Cat(self.seq, self.kind, self.status)
        heads, index = len(head) // 8, Signal(range(32))
        byte, last, reading = Signal(8), Signal(), Signal()

        # The byte at ``index``.
        m.d.comb += last.eq(index == heads - 1)
        with m.If(index < heads):
            m.d.comb += byte.eq(head.word_select(index[:2], 8))
        with m.If(~self.alone), m.Switch(self.kind):
            with m.Case(Kind.READ | Kind.ANSWER):
                m.d.comb += reading.eq(1), last.eq(0)
            for kind, body in ((Kind.HELLO, hello), (Kind.RUN, self.run),
                               (Kind.STATUS, self.counters)):
                same = (Kind.WAIT | Kind.ANSWER,) if self.waits and kind == Kind.RUN else ()
                with m.Case(kind | Kind.ANSWER, *same):
                    m.d.comb += last.eq(index == heads + len(body) // 8 - 1)
                    with m.If(index >= heads):
                        m.d.comb += byte.eq(body.word_select((index - heads)[:5], 8))

        # A register before the stream's way through CRC and escapes.
        valid, load = Signal(), Signal()
        m.d.comb += [
            load.eq(~self.o.valid | self.o.ready),
            self.done.eq(self.o.valid & self.o.ready & self.o.payload.last),
        ]
        with m.If(load):
            m.d.sync += self.o.valid.eq(valid)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += index.eq(0)
                with m.If(self.start):
                    m.next = "BYTES"
            with m.State("BYTES"):
                m.d.comb += valid.eq(1)
                with m.If(load):
                    m.d.sync += self.o.payload.data.eq(byte), self.o.payload.last.eq(last)
                    m.d.sync += index.eq(index + 1)
                    with m.If(last):
                        m.next = "IDLE"
                    with m.Elif(reading & (index == heads - 1)):
                        m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += valid.eq(self.words.valid), self.words.ready.eq(load)
                with m.If(load):
                    m.d.sync += self.o.payload.eq(self.words.payload)
                    with m.If(self.words.valid & self.words.payload.last):
                        m.next = "IDLE"
        return m


class ClampCounter(wiring.Component):
    """Sums up the elements that the units have clamped.

    Latency 2; the sum wraps at ``2**32``.

    Parameters
    ----------
    units : int

    Members
    -------
    clamped : In(8) x units
    clear : In(1)
    total : Out(32)
    """
    def __init__(self, units):
        super().__init__({
            "clamped": In(8).array(units), "clear": In(1), "total": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        now = Signal(range(255 * len(self.clamped) + 1))
        m.d.sync += now.eq(sum(self.clamped)), self.total.eq(self.total + now)
        with m.If(self.clear):
            m.d.sync += now.eq(0), self.total.eq(0)
        return m

"""The driver: one synchronous interface to any device.

Every request is answered or ends with an error by its deadline. A damaged frame in either
direction is sent again and counted; a RUN sent again is not executed again (see
:mod:`hdl.protocol`).
"""

import time
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hdl.instructions import INSTRUCTION_BYTES, Opcode, in_order, opcode_of, unpack_instruction
from hdl.params import PROTOCOL_VERSION
from hdl.protocol import (
    END,
    INSTRUCTIONS,
    LINK_BYTES,
    LOG_PART,
    MAX_BODY,
    MAX_STORED,
    PROGRAM_WORDS,
    FrameError,
    Kind,
    LogPart,
    Space,
    Status,
    Unit,
    codes_in_byte,
    decode,
    encode,
    number_bytes,
    unescape,
    word_bytes,
)
from host.errors import DeviceError, LinkError, MemoryFullError
from host.transport import open_transport

__all__ = ["Device", "DeviceStatus", "packed"]

#: Counters of the device since its last reset.
DeviceStatus = namedtuple("DeviceStatus", "bad_frames saturations error instruction unit")

#: Seconds after which an unanswered request is sent again, and how often.
_ANSWER_SECONDS = 2.0
_RUN_SECONDS = 120.0
_TRIES = 4
#: Words of a program that travel as a run: apart each takes a byte more, and a request takes 12.
_RUN = 12

#: NumPy's names of the numbers that words of a space are made of; else of 32 bits.
_KINDS = {Space.QUANT: "i1", Space.BYTES: "u1", Space.PROGRAM: "u1", Space.CODES: "u1",
          Space.COLUMN: "u1", Space.PATCH: "u1"}

_SENTENCES = {
    Status.BAD_KIND: "the device does not know this kind of request",
    Status.BAD_LENGTH: "the device refused the request's length",
    Status.ADDRESS: "an address lies beyond the end of the device's memory",
    Status.BAD_INSTRUCTION: "the device refused the instruction",
    Status.WATCHDOG: "a unit did not finish in time and was stopped",
    Status.VERSION: "the device speaks another protocol version",
    Status.STICKY: "the device stopped at an earlier error and needs a reset",
    Status.BUSY: "the device runs a program that was not waited for",
}


@dataclass
class _Sent:
    """A request; ``phases`` and ``start`` are of when it was sent."""
    kind: Kind
    body: bytes = b""
    seconds: float = 0
    accept: tuple = ()
    program: list | None = None
    about: tuple = ()
    phases: tuple = ()
    start: int | None = None
    seq: int = 0
    frame: bytes = b""
    answer: bytes = b""


def packed(codes, bits):
    """Codes [count, lanes] in bytes, as ``Space.CODES`` has them, and ``Space.COLUMN`` of a byte;
    0 in what is left of the last.

    >>> packed(np.array([[-1, 7, -8]]), 4).tolist(), packed(np.array([[-3, -1, 1]]), 3).tolist()
    ([[127, 8]], [[61, 1]])
    """
    each = codes_in_byte(bits)
    fields = np.zeros((len(codes), -(-codes.shape[1] // each) * each), np.int64)
    fields[:, :codes.shape[1]] = codes
    fields = (fields & (1 << bits) - 1).reshape(len(codes), -1, each)
    return (fields << bits * np.arange(each)).sum(axis=2)


class Device:
    """A device with the machine of ``params``; use :meth:`open`.

    Attributes
    ----------
    params : hdl.params.Params
    bytes_down, bytes_up : int
        Bytes sent and received, framing included.
    run_cycles : int or None
        Clock cycles spent in programs; None where the device has no clock.
    resent : int
        Frames that were damaged or lost and sent again.
    window : int
        Bytes that are sent before the oldest request is answered, in :meth:`ahead`.
    observer : host.trace.Trace or None
        Told of every phase, transfer and instruction. On a machine that keeps no masters programs
        run an instruction at a time then.
    """

    def __init__(self, transport, params, *, answer_seconds=_ANSWER_SECONDS,
                 run_seconds=_RUN_SECONDS):
        self.params = params
        self.bytes_down = self.bytes_up = self.resent = 0
        self.run_cycles = 0 if transport.clocked else None
        self._transport = transport
        self._answer_seconds = answer_seconds
        self._run_seconds = run_seconds
        self.observer = None
        self._phases = []
        self._seq = 0
        self._received = bytearray()
        self.window = LINK_BYTES if params.masters else 0
        #: Requests whose answers are to come, whether WRITE is left among them, and the clock at
        #: which the link was free again.
        self._unanswered, self._sends_ahead, self._link_free = [], False, 0
        #: The words of the program memory, -1 where they are not known; the program that was
        #: stored last, the number of its first instruction and what each is of; and the one that
        #: was started, with the clock at which it was.
        self._words = np.full((PROGRAM_WORDS, word_bytes(Space.PROGRAM, params)), -1, np.int16)
        self._stored, self._running = ([], 0, ()), None

    @classmethod
    def open(cls, url, params, *, progress=None, **options):
        """Connect, reset the device and check that it is the machine of ``params``."""
        device = cls(open_transport(url, params, progress), params, **options)
        try:
            device.hello()
            device.reset()
        except BaseException:
            device.close()
            raise
        return device

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Release the link."""
        self._transport.close()

    @property
    def cycles(self):
        """Clock cycles since power-up, waiting for the link included; None without a clock."""
        return self._transport.cycles

    @property
    def clock(self):
        """The time of traces: clock cycles since power-up, of a board those spent in programs; None
        without a clock."""
        return self.run_cycles if self.cycles is None else self.cycles

    # Requests.

    def hello(self):
        """Check protocol version and fingerprint."""
        body = self._request(Kind.HELLO, bytes([PROTOCOL_VERSION]), accept=(Status.VERSION,))
        version, fingerprint = body[0], body[1:].hex()
        if version != PROTOCOL_VERSION:
            raise DeviceError(f"the device speaks protocol version {version}, "
                              f"this host version {PROTOCOL_VERSION}")
        if fingerprint != self.params.fingerprint:
            raise DeviceError(
                f"the device's fingerprint is {fingerprint}, but {self.params.name} needs "
                f"{self.params.fingerprint}: load the bitstream built with the same options")

    def reset(self):
        """Stop all units; clear counters and errors. Memory keeps its contents."""
        self._request(Kind.RESET)

    def status(self):
        """The device's counters and its pending error."""
        body = self._request(Kind.STATUS)
        return DeviceStatus(int.from_bytes(body[:4], "little"),
                            int.from_bytes(body[4:8], "little"),
                            Status(body[8]), self._number(body[9:-1]), Unit(body[-1]))

    def write(self, space, address, words):
        """Write ``words`` [count, elements] of integers from ``address``, as they travel: see
        :class:`hdl.protocol.Space`. To ``CODES`` the codes of the first lanes of each word; to
        ``COLUMN`` those of the first lane of as many words as a byte has."""
        kind = _KINDS.get(space, "<i4")
        size, _, most = self._travels(space, np.shape(words)[-1])
        more = b""
        if space == Space.CODES:
            words, more = packed(words, self.params.bits), bytes([size - 1])
        elif space == Space.COLUMN:
            words = packed(words, self.params.bits)
        data = np.ascontiguousarray(words).astype(kind).tobytes()
        for offset in range(0, len(data), most * size):
            base = address + offset // size
            self._write(_head(space, base) + more + data[offset:offset + most * size])

    def write_bytes(self, space, shape):
        """Bytes that go down when words of a shape are written, without those that the link
        escapes."""
        size, head, most = self._travels(space, shape[1])
        return shape[0] * size + -(-shape[0] // most) * (head + len(encode(1, Kind.WRITE)))

    def _travels(self, space, elements):
        """Of words of so many elements: bytes of one, of a request before them, and most of them
        in a request."""
        size, head = word_bytes(space, self.params), len(_head(space, 0))
        if space == Space.CODES:
            size, head = -(-elements // codes_in_byte(self.params.bits)), head + 1
        return size, head, (MAX_BODY - head) // size

    def _write(self, body):
        if self._sends_ahead:
            self._post(Kind.WRITE, body)
        else:
            self._request(Kind.WRITE, body)

    @contextmanager
    def ahead(self):
        """What is written within is sent before all before it is answered, if the device keeps
        masters. An error of it is raised later, at the end at the latest."""
        self._sends_ahead = bool(self.window)
        try:
            yield
        finally:
            self._sends_ahead = False
        self._flush()

    def read(self, space, address, count):
        """Read ``count`` words from ``address``, [count, elements]; as :meth:`write`."""
        size = word_bytes(space, self.params)
        step = (MAX_BODY - 1) // size
        data = b""
        for offset in range(0, count, step):
            part = min(step, count - offset)
            answer = self._request(Kind.READ, _head(space, address + offset)
                                   + part.to_bytes(2, "little"))
            if len(answer) != part * size:
                raise LinkError(f"the device sent {len(answer)} bytes for {part} words")
            data += answer
        kind = _KINDS.get(space, "<i4")
        return np.frombuffer(data, kind).astype(np.int64).reshape(count, -1)

    @contextmanager
    def phase(self, name):
        """What is done within is part of ``name``: errors say so, and an observer is told."""
        start = self.clock
        self._phases.append(name)
        try:
            yield
        finally:
            self._phases.pop()
            if self.observer:
                self.observer.was_at(name, start)

    def run(self, program, *, overlap=False):
        """Execute a list of packed instructions, each when those before it are done; with
        ``overlap``, when those are that it waits for (:mod:`hdl.instructions`)."""
        program = self._ordered(program, overlap)
        step = 1 if self._alone else MAX_BODY // INSTRUCTION_BYTES
        for first in range(0, len(program), step):
            part = program[first:first + step]
            self._run(b"".join(part), part)

    def store_program(self, program, *, overlap=False, first=0, about=()):
        """Keep a list of packed instructions in the device, from number ``first`` on; of those that
        were sent before only words that changed travel. ``overlap`` is that of :meth:`run`;
        ``about`` says of each what it is of, for errors."""
        program = self._ordered(program, overlap)
        most = min(MAX_STORED, INSTRUCTIONS - first)
        if len(program) > most:
            raise MemoryFullError(f"a stored program must have at most {most} instructions"
                                  + f" from number {first} on" * (first > 0)
                                  + f", got {len(program)}")
        words = np.frombuffer(b"".join(program), "u1").reshape(-1, word_bytes(
            Space.PROGRAM, self.params))
        start = first * INSTRUCTION_BYTES // word_bytes(Space.PROGRAM, self.params)
        known = self._words[start:start + len(words)]
        places = np.flatnonzero((words != known).any(axis=1))
        # Runs of words, in which one that stays is shorter than a gap; and what lies apart.
        runs = np.split(places, np.flatnonzero(np.diff(places) > 2) + 1)
        for run in runs:
            if len(run) >= _RUN:
                self.write(Space.PROGRAM, start + int(run[0]), words[run[0]:run[-1] + 1])
        apart = np.concatenate([run for run in runs if len(run) < _RUN] or [places[:0]])
        while len(apart):
            # As many as a request has, and no gap longer than a byte says.
            gaps = np.diff(apart[:self._travels(Space.PATCH, 0)[2]], prepend=apart[0] - 1) - 1
            count = int(np.argmax(np.append(gaps, 256) > 255))
            self.write(Space.PATCH, start + int(apart[0]),
                       np.column_stack([gaps, words[apart[:len(gaps)]]])[:count])
            apart = apart[count:]
        known[:] = words
        self._stored = program, first, about

    def run_stored(self):
        """Execute the program that was stored last."""
        program, first, about = self._stored
        if program:
            self._run(_range(first, len(program)), program, about)

    def start_stored(self):
        """Begin to execute the program that was stored last, on a device that keeps masters. Until
        :meth:`wait` it can be written to, but for masters and velocities, and not read."""
        program, first, about = self._stored
        if program:
            self._request(Kind.START, _range(first, len(program)), program=program, about=about)
            self._running = program, about, self.clock

    def wait(self):
        """Until the program that was started has ended; its errors are raised here."""
        if self._running:
            (program, about, start), self._running = self._running, None
            body = self._request(Kind.WAIT, seconds=self._run_seconds, program=program, about=about)
            self._count(program, body, start)

    def _ordered(self, program, overlap):
        """On other machines instructions come one after the other anyway."""
        return (list(program) if overlap or not self.params.masters
                else [in_order(step) for step in program])

    def _run(self, request, part, about=()):
        body = self._request(Kind.RUN, request, seconds=self._run_seconds, program=part,
                             about=about)
        self._count(part, body)

    def _count(self, part, body, start=None):
        """The clocks of a program, which began at ``start``, or has ended now."""
        if self.run_cycles is not None:
            clocks = int.from_bytes(body[-4:], "little")
            self.run_cycles += clocks
            if self.observer:
                self._observe(part, self.clock if start is None else start + clocks, clocks)

    @property
    def _alone(self):
        """Instructions run by themselves: how long they take is known in no other way."""
        return self.observer and not self.params.masters

    def _observe(self, part, end, clocks):
        if self._alone:
            self.observer.ran(part[0], end, clocks)
            return
        log = [self.read(Space.LOG, LOG_PART * place, len(part))[:, 0].tolist()
               for place in LogPart]
        self.observer.ran_program(part, end, clocks, log)

    # Frames.

    def _request(self, kind, body=b"", **options):
        """One request; the body of its answer without the status."""
        sent = self._post(kind, body, **options)
        self._flush()
        return sent.answer

    def _post(self, kind, body=b"", *, seconds=None, accept=(), program=None, about=()):
        """Send a request as soon as the device has room for it, and leave its answer to
        :meth:`_flush`. What must not be done twice waits for all before it."""
        if kind in (Kind.RUN, Kind.START):
            self._flush()
        sent = _Sent(kind, body, seconds or self._answer_seconds, accept, program,
                     about, tuple(reversed(self._phases)), self.clock)
        self._frame(sent)
        offset = 0
        while offset < len(sent.frame):
            if self._unanswered:
                room = self.window - offset - sum(
                    len(other.frame) for other in self._unanswered[1:])
                if room <= 0:
                    if self._collect(part=offset > 0):
                        # What was sent of this one is lost.
                        offset = 0
                    continue
            else:
                room = len(sent.frame)
            self._transport.send(sent.frame[offset:offset + room])
            self.bytes_down += len(sent.frame[offset:offset + room])
            offset += room
        self._unanswered.append(sent)
        return sent

    def _frame(self, sent):
        """Give a request the next ``seq``."""
        self._seq = sent.seq = self._seq % 255 + 1
        sent.frame = encode(self._seq, sent.kind, sent.body)

    def _flush(self):
        """All answers; the first error among them is raised."""
        errors = []
        while self._unanswered:
            try:
                self._collect()
            except DeviceError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _collect(self, *, part=False):
        """The answer to the oldest request. If that was lost or damaged, it is sent again until it
        is answered, and after it all others, one by one: whether these came is not known, or what
        they met; returns whether it was so. ``part`` of a further request has been sent."""
        oldest = self._unanswered.pop(0)
        answer = self._await(oldest)
        if answer is not None:
            self._take(oldest, answer)
            return False
        again, self._unanswered = [oldest, *self._unanswered], []
        if part or len(again) > 1:
            # Requests are answered in their order: nothing of these comes after this one.
            last = _Sent(Kind.STATUS, seconds=max(sent.seconds for sent in again))
            self._frame(last)
            self._insist(last, _TRIES, lone=False)
        for sent in again:
            self._take(sent, self._insist(sent, _TRIES - (sent is oldest)))
        return True

    def _insist(self, sent, tries, *, lone=True):
        """The answer to a request that is sent again; not ``lone``, after those to others."""
        for _ in range(tries):
            self.resent += lone
            self._transport.send(sent.frame)
            self.bytes_down += len(sent.frame)
            answer = self._await(sent, lone=lone)
            if answer is not None:
                return answer
        raise LinkError(f"the device did not answer {sent.kind.name} within "
                        f"{_TRIES * sent.seconds:g} seconds")

    def _take(self, sent, answer):
        status, sent.answer = Status(answer[0]), answer[1:]
        if status != Status.OK and status not in sent.accept:
            raise DeviceError(self._sentence(status, sent))
        if self.observer and sent.kind in (Kind.WRITE, Kind.READ):
            # On a link there is one at a time.
            start = max(sent.start, self._link_free)
            self.observer.transferred(sent.kind, start, len(sent.body) + len(sent.answer))
            self._link_free = self.clock

    def _sentence(self, status, sent):
        program, rest = sent.program, sent.answer
        text = _SENTENCES.get(status, f"the device answered {status.name}")
        number = self._number(rest)
        if program and rest and number < len(program):
            op = opcode_of(unpack_instruction(program[number])["op"], self.params)
            name = Opcode(op).name if op in set(Opcode) else f"opcode {op}"
            text += f": instruction {number} ({name})"
            if sent.about:
                text += f" of {sent.about[number]}"
        return ", ".join([text, *(f"in {phase}" for phase in sent.phases)])

    def _number(self, body):
        """The number of an instruction, with which a body begins."""
        return int.from_bytes(body[:number_bytes(self.params)], "little")

    def _await(self, sent, *, lone=True):
        """The body of the answer to a request; None if it was lost or, of a ``lone`` one,
        damaged."""
        deadline = time.monotonic() + sent.seconds
        while True:
            frame = self._next_frame(deadline)
            if frame is None:
                return None
            try:
                seq, answered, body = decode(unescape(frame))
            except FrameError:
                seq, answered, body = 0, Kind.NAK | Kind.ANSWER, b""
            if answered == Kind.NAK | Kind.ANSWER and lone:
                return None
            if (seq, answered) == (sent.seq, sent.kind | Kind.ANSWER) and body:
                return body
            # An answer to an earlier attempt: wait on.

    def _next_frame(self, deadline):
        while True:
            frame, separator, rest = self._received.partition(bytes([END]))
            if separator:
                self._received = rest
                if frame:
                    return bytes(frame)
                continue
            data = self._transport.receive(deadline)
            if not data:
                self._received.clear()
                return None
            self.bytes_up += len(data)
            self._received += data


def _range(first, count):
    """The body of a RUN or a START of stored instructions."""
    return first.to_bytes(2, "little") + count.to_bytes(2, "little")


def _head(space, address):
    """What the body of a WRITE or a READ begins with."""
    return bytes([space, address >> 16]) + (address & 0xFFFF).to_bytes(2, "little")

"""Scenarios of programs that run beside further requests: START and WAIT."""

import numpy as np

from hdl.instructions import INSTRUCTION_BYTES, Opcode, in_order, instruction
from hdl.params import PROTOCOL_VERSION
from hdl.protocol import (
    END,
    INSTRUCTIONS,
    MAX_STORED,
    PROGRAM_WORDS,
    Kind,
    Space,
    Status,
    codes_in_byte,
    encode,
    spaces,
    word_bytes,
    written_beside,
)
from host import program
from host.schedule import schedule, scheduled
from host.tensors import lanes_of
from sim.bench import draw
from sim.bench.errors import Requests
from sim.bench.recording import Recording
from sim.bench.resident import Mix

__all__ = ["SCENARIOS"]

#: Words of the program memory that no program has.
_PROGRAM_TAIL = 64


def _range(first, count):
    """The body of a START or a RUN of stored instructions."""
    return first.to_bytes(2, "little") + count.to_bytes(2, "little")


class _Beside:
    """Places of all spaces that are written beside a program, apart from those of the program."""

    def __init__(self, recording):
        self.recording, self.rng = recording, recording.rng
        params = recording.params
        parts, self.each = params.rows, codes_in_byte(params.bits)
        #: By space the first word, as words travel, and how many there are.
        self.places = {
            Space.WIDE: (recording.place(Space.WIDE, 24, 1).base, 24),
            Space.BYTES: (recording.place(Space.WIDE, 24, 1).base, 24),
            Space.QUANT: (recording.place(Space.QUANT, 8, 1).base * parts, 8 * parts),
            Space.GROUP: (recording.tables(24), 24),
            Space.PROGRAM: (PROGRAM_WORDS - _PROGRAM_TAIL, _PROGRAM_TAIL),
            Space.CODES: (recording.place(Space.QUANT, 8, 1).base, 8),
            Space.COLUMN: (-(-recording.place(Space.QUANT, 40, 1).base // self.each), 8),
            Space.PATCH: (PROGRAM_WORDS - 2 * _PROGRAM_TAIL, _PROGRAM_TAIL)}
        assert set(self.places) == set(written_beside(params))
        for space, (_, count) in self.places.items():
            self.write(space, 0, count)

    def write(self, space, first, count):
        """Anything to so many words of a place."""
        params = self.recording.params
        if space == Space.CODES:
            # Of all codes at first.
            lanes = params.slots if count == self.places[space][1] else int(
                self.rng.integers(1, params.slots + 1))
            self.recording.device.write(
                space, self.places[space][0] + first,
                self.rng.integers(0, 1 << params.bits, (count, lanes)))
            return
        if space == Space.COLUMN:
            self.recording.device.write(
                space, self.places[space][0] + first,
                self.rng.integers(0, 1 << params.bits, (count, self.each)))
            return
        size = word_bytes(space, params)
        data = self.rng.integers(0, 256, (count, size)).astype(np.uint8)
        if space == Space.PATCH:
            # All words at first, else as many as gaps leave room for.
            data[:, 0] %= 1 if count == self.places[space][1] else 4
            ends = first + np.cumsum(data[:, 0] + 1)
            data = data[ends <= self.places[space][1]]
            if not len(data):
                return
        kind = {Space.QUANT: "i1", Space.BYTES: "u1", Space.PROGRAM: "u1",
                Space.PATCH: "u1"}.get(space, "<i4")
        words = data.view(kind)
        self.recording.device.write(space, self.places[space][0] + first, words)

    def write_some(self):
        """Anything to some words of any place."""
        space = list(self.places)[int(self.rng.integers(len(self.places)))]
        count = self.places[space][1]
        first = int(self.rng.integers(count))
        self.write(space, first, int(self.rng.integers(1, count - first + 1)))

    def read(self):
        """All that was written."""
        parts = self.recording.params.rows
        for space, (first, count) in self.places.items():
            if space == Space.CODES:
                space, first, count = Space.QUANT, parts * first, parts * count
            elif space == Space.COLUMN:
                # Of words whose other lanes were never written.
                parts *= self.each
                space, first, count = Space.QUANT, parts * first, parts * count
            elif space == Space.PATCH:
                space = Space.PROGRAM
            self.recording.device.read(space, first, count)


def _refused(requests, run):
    """A request that a machine that is started refuses, or answers without a change."""
    params, rng = requests.recording.params, requests.recording.rng
    others = sorted(set(spaces(params)) - set(written_beside(params)))
    space = int(rng.choice([*written_beside(params)]))
    size = word_bytes(space, params)
    wanted, got = {
        "run": lambda: (Status.BUSY, requests.say(Kind.RUN, _range(*run))),
        "nothing": lambda: (Status.BUSY, requests.say(Kind.RUN)),
        "instructions": lambda: (Status.BUSY, requests.run(instruction(Opcode.COMBINE))),
        "start": lambda: (Status.BUSY, requests.say(Kind.START, _range(*run))),
        "read": lambda: (Status.BUSY, requests.words(
            Kind.READ, int(rng.choice([*spaces(params), 200])), 0, int(rng.integers(3)))),
        "write": lambda: (
            (Status.ADDRESS if (space := int(rng.choice(others))) == Space.LOG else Status.BUSY),
            requests.words(Kind.WRITE, space, 0, bytes(8 * int(rng.integers(3))))),
        "unknown": lambda: (Status.ADDRESS, requests.words(Kind.WRITE, 200, 0, bytes(8))),
        "beyond": lambda: (Status.ADDRESS, requests.words(
            Kind.WRITE, space, 0xFFFFFF, bytes(size + (space == Space.CODES)))),
        "short": lambda: (Status.BAD_LENGTH, requests.words(Kind.WRITE, space, 0, b"")),
        "wait": lambda: (Status.BAD_LENGTH, requests.say(Kind.WAIT, b"1")),
        "reset": lambda: (Status.BAD_LENGTH, requests.say(Kind.RESET, b"1")),
        "kind": lambda: (Status.BAD_KIND, requests.say(99)),
        "status": lambda: (Status.OK, requests.say(Kind.STATUS)),
        "hello": lambda: (Status.OK, requests.say(Kind.HELLO, bytes([PROTOCOL_VERSION]))),
        "version": lambda: (Status.VERSION, requests.say(Kind.HELLO, b"\0")),
        "noise": lambda: (None, requests.recording.send(bytes([END, 1, 2, 3, END])) and None),
    }[str(rng.choice(["run", "nothing", "instructions", "start", "read", "write", "unknown",
                      "beyond", "short", "wait", "reset", "kind", "status", "hello", "version",
                      "noise"]))]()
    assert got == wanted, f"{got}, not {wanted}"


def started_programs(params, seed, most=10):
    """Programs of all operations that overlap, and beside them every request, in any order."""
    recording = Recording(params, f"started_programs {seed}")
    rng, device = recording.rng, recording.device
    requests = Requests(recording)

    def delayed(kind, body=b""):
        """A request after empty frames, so that it comes at any time of the program."""
        requests.seq = requests.seq % 255 + 1
        recording.send(bytes([END]) * int(rng.choice([0, 30, 300, 3000]))
                       + encode(requests.seq, kind, body))

    def attempt(most):
        recording.begin("a program that was started")
        beside, mix = _Beside(recording), Mix(recording, most)
        for _ in range(3):
            steps = mix.steps(60)
            assert len(steps) * 4 <= PROGRAM_WORDS - 2 * _PROGRAM_TAIL
            device.store_program(scheduled(steps, schedule(steps, params)), overlap=True)
            run = (0, len(steps))
            again = requests.seq = requests.seq % 255 + 1
            assert requests.say(Kind.START, _range(*run), seq=again) == Status.OK
            for _ in range(int(rng.integers(2, 12))):
                choice = rng.random()
                if choice < 0.6:
                    beside.write_some()
                elif choice < 0.9:
                    _refused(requests, run)
                else:
                    delayed(Kind.RUN, _range(*run))
            if rng.random() < 0.25:
                # What the program has written by then is not known.
                delayed(Kind.RESET)
                requests.say(Kind.STATUS)
                assert requests.say(Kind.WAIT) == Status.OK
                beside.read()
                recording.forget()
                return
            if rng.random() < 0.5:
                delayed(Kind.WAIT)
            assert requests.say(Kind.WAIT) == Status.OK
            requests.say(Kind.STATUS)
            mix.read()
            beside.read()

    for _ in range(2):
        draw.fitting(attempt, min(most, 48))
    return recording.session("started_programs")


def errors_started(params, seed, most=0):
    """Programs that were started and fail, are repeated, are not there, or are stopped."""
    recording = Recording(params, f"errors_started {seed}")
    rng = recording.rng
    requests = Requests(recording)
    recording.begin("programs that were started")
    word, place = INSTRUCTION_BYTES // 8, recording.place(Space.WIDE, 1, 1)
    counter, zero = recording.stored(Space.WIDE, np.zeros((1, 1), np.int64)), recording.stored(
        Space.WIDE, np.zeros((1, 1), np.int64))
    recording.store(place, np.zeros((1, 1), np.int64))
    step = in_order(program.combine(counter, zero, counter, added=int(rng.integers(1, 1 << 20))))
    far = instruction(Opcode.CROSS_ENTROPY, m=1, n=1, src0=0xFFFF, src1=0xFFFF, dst0=0xFFFF,
                      dst1=0xFFFF) if params.wide_words < 1 << 16 else instruction(0)

    def store(first, *steps):
        assert requests.words(Kind.WRITE, Space.PROGRAM, first * word, b"".join(steps)) == Status.OK

    def start(first, count, *, seq=None):
        return requests.say(Kind.START, _range(first, count), seq=seq)

    def wait():
        status = requests.say(Kind.WAIT)
        # As often as it is asked.
        assert requests.say(Kind.WAIT) == status
        return status

    def seen():
        recording.read(counter)

    assert wait() == Status.OK
    for first in range(0, INSTRUCTIONS, 32):
        store(first, *[step] * 32)
    recording.about("programs that are not there")
    for body in (b"", b"1", bytes(3), bytes(5), step, _range(0, 0), _range(0, MAX_STORED + 1),
                 _range(MAX_STORED, 2), _range(0xFFFF, 1)):
        assert requests.say(Kind.START, body) in (Status.BAD_LENGTH, Status.ADDRESS)
        assert wait() == Status.OK
    seen()
    recording.about("programs that are repeated")
    for seq in (7, 8):
        assert start(3, 40, seq=seq) == start(3, 40, seq=seq) == Status.OK
        requests.words(Kind.WRITE, Space.WIDE, place.base, bytes(4 * lanes_of(Space.WIDE, params)))
        assert start(0, 0, seq=seq) == Status.OK
        # Another kind is no repetition, and is now what may be repeated.
        assert requests.say(Kind.RUN, _range(0, 1), seq=seq) == Status.BUSY
        assert start(0, 1, seq=seq) == Status.BUSY
        assert wait() == Status.OK
        seen()
    assert requests.say(Kind.RUN, _range(0, 2), seq=9) == Status.OK
    assert start(0, 2, seq=9) == start(0, 2, seq=9) == Status.OK
    assert wait() == Status.OK
    assert start(0, 2, seq=9) == Status.OK
    seen()
    recording.about("programs that fail")
    for bad, found in ((instruction(0), Status.BAD_INSTRUCTION), (far, None)):
        number = int(rng.integers(0, 60))
        store(number, bad)
        assert start(0, 64) == Status.OK
        # Its error comes with WAIT.
        assert requests.say(Kind.RUN, _range(0, 1)) == Status.BUSY
        recording.send(bytes([END]) * 3000 + encode(200, Kind.STATUS))
        assert requests.say(Kind.RUN, _range(0, 1)) == start(0, 1) == Status.BUSY
        assert wait() == found or not found
        requests.say(Kind.STATUS)
        assert requests.say(Kind.RUN, _range(0, 1)) == start(0, 1) == start(0, 0) == Status.STICKY
        wait()
        seen()
        requests.say(Kind.RESET)
        assert wait() == Status.OK
        requests.say(Kind.STATUS)
        # RESET before WAIT: there was no error.
        assert start(0, 64) == Status.OK
        recording.send(bytes([END]) * int(rng.integers(3000)) + encode(201, Kind.RESET))
        requests.say(Kind.STATUS)
        assert wait() == Status.OK
        store(number, step)
        recording.store(counter, np.zeros((1, 1), np.int64))
        assert start(0, 64) == Status.OK
        assert wait() == Status.OK
        seen()
    recording.about("programs that are stopped")
    for clocks in rng.integers(0, 1500, 10):
        start(0, MAX_STORED)
        recording.send(bytes([END]) * int(clocks) + encode(202, Kind.RESET))
        recording.store(counter, np.zeros((1, 1), np.int64))
        assert start(1, 100) == Status.OK
        assert wait() == Status.OK
        seen()
    recording.about("several requests at once")
    data = bytes(4 * lanes_of(Space.WIDE, params))
    write = bytes([Space.WIDE, 0]) + place.base.to_bytes(2, "little") + data
    recording.send(b"".join(encode(210 + number, *frame) for number, frame in enumerate((
        (Kind.START, _range(0, 200)), (Kind.WRITE, write), (Kind.READ, bytes(6)),
        (Kind.WRITE, write), (Kind.WAIT,), (Kind.START, _range(7, 50)), (Kind.WAIT,),
        (Kind.RUN, _range(0, 3)), (Kind.WAIT,)))))
    seen()
    return recording.session("errors_started")


#: Scenarios by name.
SCENARIOS = {function.__name__: function for function in (started_programs, errors_started)}

"""One request and its answer: kept, compared, and explained where they differ."""

import json
from dataclasses import asdict, dataclass

from hdl.instructions import INSTRUCTION_BYTES, Opcode, unpack_instruction
from hdl.protocol import END, FrameError, Kind, Space, Status, Unit, decode, encode, unescape

__all__ = ["Exchange", "Mismatch", "Session", "complete", "decoded", "describe", "frames"]

#: Last bytes of the answer to RUN or WAIT, which only a machine with a clock knows: cycles.
_CYCLES = 4
#: Differing elements, and instructions of a program, that a message lists.
_LISTED = 8


class Mismatch(AssertionError):
    """An answer is not the one that the model gave."""


@dataclass(frozen=True)
class Exchange:
    """Bytes sent in one piece, and the answers to all requests that they complete.

    ``ignored`` lists bytes of the answer's body, status included, that may have any value: lanes
    beyond a tensor's columns, and saturations that STATUS finds beside a program. Cycles of
    programs are ignored always. ``about`` says what the exchange belongs to, for messages.
    """
    request: bytes
    answer: bytes
    ignored: tuple = ()
    about: str = ""

    def check(self, received, shape, before=()):
        """Raise :class:`Mismatch` unless ``received`` is the answer.

        ``shape`` is that of the session, for the message, which names the last program of the
        exchanges ``before`` this one.
        """
        if received == self.answer:
            return
        expected, got = decoded(self.answer), decoded(received)
        if None not in got and received != b"".join(encode(*frame) for frame in got):
            raise Mismatch(self.explain(before, ["the frames are not in their canonical form: "
                                                  + received.hex()]))
        if [_masked(frame, self.ignored) for frame in got] == [
                _masked(frame, self.ignored) for frame in expected]:
            return
        lines = []
        for number, frame in enumerate(expected):
            other = got[number] if number < len(got) else None
            lines += _differences(frame, other, self.request, shape, self.ignored)
        if len(got) > len(expected):
            lines.append(f"{len(got) - len(expected)} frames too many")
        raise Mismatch(self.explain(before, lines))

    def explain(self, before, lines=()):
        """The request in words, ``lines``, and the last program before it."""
        head = [f"{self.about}: {describe(self.request)}" if self.about
                else describe(self.request)]
        programs = [text for text in (describe(e.request) for e in before)
                    if text.startswith(("RUN", "START"))]
        if programs:
            lines = [*lines, f"the last program was {programs[-1]}"]
        return "\n  ".join(head + lines)


@dataclass(frozen=True)
class Session:
    """The exchanges of one scenario with one machine.

    ``shape`` are the lanes of a word of the wide memory, the rows and the depth of the array.
    """
    name: str
    shape: tuple
    exchanges: tuple

    def save(self, path):
        """As JSON; bytes in hexadecimal digits."""
        def plain(value):
            return value.hex() if isinstance(value, bytes) else value
        rows = [{name: plain(value) for name, value in asdict(exchange).items()}
                for exchange in self.exchanges]
        with open(path, "w") as file:
            json.dump({"name": self.name, "shape": self.shape, "exchanges": rows}, file)

    @classmethod
    def load(cls, path):
        """From :meth:`save`.

        >>> import tempfile
        >>> session = Session("s", (2, 4, 1), (Exchange(b"\\x01", b"\\x02", (3, 4), "a"),))
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     session.save(file.name)
        ...     Session.load(file.name) == session
        True
        """
        with open(path) as file:
            data = json.load(file)
        return cls(data["name"], tuple(data["shape"]), tuple(
            Exchange(bytes.fromhex(row["request"]), bytes.fromhex(row["answer"]),
                     tuple(row["ignored"]), row["about"]) for row in data["exchanges"]))


def frames(data):
    """The frames in ``data`` that are not empty, still escaped.

    >>> frames(encode(7, Kind.STATUS))[0].hex()
    '0705b770f27e'
    """
    return [piece for piece in bytes(data).split(bytes([END])) if piece]


def complete(data, count):
    """Whether ``data`` ends with the ``count``-th frame's last byte or is longer.

    >>> complete(encode(7, Kind.STATUS), 1), complete(encode(7, Kind.STATUS)[:-1], 1)
    (True, False)
    """
    return count == 0 or (len(frames(data)) >= count and data[-1] == END)


def decoded(data):
    """``(seq, kind, body)`` of every frame; None for a damaged one."""
    out = []
    for frame in frames(data):
        try:
            out.append(decode(unescape(frame)))
        except FrameError:
            out.append(None)
    return out


def _masked(frame, ignored):
    if frame is None:
        return None
    seq, kind, body = frame
    hidden = set(ignored)
    if kind in (Kind.RUN | Kind.ANSWER, Kind.WAIT | Kind.ANSWER):
        hidden |= set(range(len(body) - _CYCLES, len(body)))
    return seq, kind, bytes(0 if i in hidden else byte for i, byte in enumerate(body))


# Messages.

def _name(enumeration, value):
    try:
        return enumeration(value).name
    except ValueError:
        return f"{value:#x}"


def _differences(expected, got, request, shape, ignored):
    """Lines about one answer that differs."""
    if got is None:
        return ["no whole, undamaged answer"]
    lines = []
    for what, one, two in zip(("seq", "kind"), expected, got, strict=False):
        if one != two:
            lines.append(f"{what}: expected {one:#x}, got {two:#x}")
    _, kind, body = _masked(expected, ignored)
    _, _, other = _masked(got, ignored)
    if body[:1] != other[:1]:
        lines.append(f"status: expected {_name(Status, body[0])}, got "
                     f"{_name(Status, other[0]) if other else 'nothing'}")
    if len(body) != len(other):
        lines.append(f"expected {len(body)} bytes, got {len(other)}")
    elif body != other:
        read = _read_of(request)
        if kind == Kind.READ | Kind.ANSWER and read:
            lines += _words(body, other, *read, shape)
        elif kind == Kind.STATUS | Kind.ANSWER:
            lines += [f"expected {_counters(body)}", f"got {_counters(other)}"]
        else:
            lines += [f"expected {body.hex()}", f"got {other.hex()}"]
    return lines


def _read_of(request):
    """Space and address of a READ."""
    for frame in decoded(request):
        if frame and frame[1] == Kind.READ and len(frame[2]) == 6 and frame[2][0] in set(Space):
            return Space(frame[2][0]), int.from_bytes(frame[2][2:4], "little")
    return None


def _words(body, other, space, address, shape):
    vector, rows, depth = shape
    size = 1 if space in (Space.QUANT, Space.BYTES, Space.PROGRAM) else 4
    lanes = {Space.QUANT: rows * depth, Space.GROUP: 1, Space.PROGRAM: 8}.get(space, vector)
    signed = space not in (Space.BYTES, Space.PROGRAM)
    # In elements: a READ of the quantised memory may begin within a word.
    first = address * (depth if space == Space.QUANT else lanes)
    lines = []
    for number, start in enumerate(range(1, len(body), size)):
        one, two = (int.from_bytes(data[start:start + size], "little", signed=signed)
                    for data in (body, other))
        if one != two:
            word, lane = divmod(first + number, lanes)
            lines.append(f"{space.name} word {word:#x} lane {lane} "
                         f"(row {word - first // lanes} of this read): expected {one}, got {two}")
    more = len(lines) - _LISTED
    return lines[:_LISTED] + ([f"and {more} elements more"] if more > 0 else [])


def _counters(body):
    return (f"bad frames {int.from_bytes(body[1:5], 'little')}, "
            f"saturations {int.from_bytes(body[5:9], 'little')}, "
            f"error {_name(Status, body[9])} at {int.from_bytes(body[10:-1], 'little')} "
            f"of {_name(Unit, body[-1])}" if len(body) in (12, 13) else body.hex())


def _address(body):
    """Where a WRITE or a READ begins."""
    return int.from_bytes(body[2:4], "little") + (body[1] << 16)


def describe(request):
    """A request in words.

    >>> from hdl.instructions import instruction
    >>> describe(encode(1, Kind.RUN, instruction(Opcode.SORT, k=3, arg=2)))
    'RUN SORT(k=3, arg=2)'
    >>> describe(encode(1, Kind.RUN, bytes([7, 0, 2, 0])))
    'RUN stored from 7, 2 instructions'
    >>> describe(encode(1, Kind.START, bytes([7, 0, 2, 0])))
    'START stored from 7, 2 instructions'
    >>> describe(encode(1, Kind.READ, bytes([0, 0, 16, 0, 2, 0])))
    'READ WIDE 0x10, 2 words'
    """
    texts = []
    for frame in decoded(request):
        if frame is None:
            texts.append("a damaged frame")
            continue
        _, kind, body = frame
        text = _name(Kind, kind)
        if kind == Kind.RUN and body and len(body) % INSTRUCTION_BYTES == 0:
            steps = [unpack_instruction(body[start:start + INSTRUCTION_BYTES])
                     for start in range(0, len(body), INSTRUCTION_BYTES)]
            more = f" and {len(steps) - _LISTED} more" if len(steps) > _LISTED else ""
            text += " " + "; ".join(
                _name(Opcode, step.pop("op")) + "("
                + ", ".join(f"{name}={value}" for name, value in step.items() if value) + ")"
                for step in steps[:_LISTED]) + more
        elif kind in (Kind.RUN, Kind.START) and len(body) == 4:
            first, count = (int.from_bytes(body[i:i + 2], "little") for i in (0, 2))
            text += f" stored from {first}, {count} instructions"
        elif kind == Kind.READ and len(body) == 6:
            address, count = _address(body), int.from_bytes(body[4:], "little")
            text += f" {_name(Space, body[0])} {address:#x}, {count} words"
        elif kind == Kind.WRITE and len(body) >= 4:
            address = _address(body)
            text += f" {_name(Space, body[0])} {address:#x}, {len(body) - 4} bytes"
        texts.append(text)
    return " and ".join(texts) or "bytes without a frame"

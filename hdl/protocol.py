"""What travels between host and device: frames, instructions and error codes, written once.

Host, model and gateware all read this file; it needs neither Amaranth nor NumPy.

Frames
------
A frame is ``seq kind body crc``: one byte each for sequence number and kind, the body, and the
CRC-32 (Ethernet, as ``zlib.crc32``) of everything before it, least significant byte first. On
the wire frames are separated by ``END`` bytes, with SLIP's escapes (RFC 1055) inside, so a
receiver that has lost its place finds it at the next ``END``. Empty frames are ignored.

>>> encode(7, Kind.STATUS).hex()
'c00705b770f27ec0'
>>> decode(unescape(encode(7, Kind.STATUS)[1:-1]))
(7, 5, b'')

The host sends one request and waits for its answer. To a machine that keeps masters it may send
``LINK_BYTES`` further bytes, of one request or several, before it has the answer to the oldest one:
these wait in the machine, so that none is lost however long that one takes, on a link without flow
control as well. Requests are answered in their order. The answer carries the same ``seq``,
``kind | 0x80`` and, as the first byte of its body, a :class:`Status`. A frame with a wrong CRC
or escape, or that is too short or too long, is counted and answered by
``Kind.NAK | Kind.ANSWER`` (0xFF) with ``seq`` 0; nothing of it takes effect. A RUN whose ``seq``
equals that of the RUN before it is not executed again: its stored answer is sent. HELLO, RESET
and ``REPEAT_WINDOW`` requests of other kinds since that RUN forget it.

======  =====================================  ==================================================
kind    body of the request                    body of the answer after the status byte
======  =====================================  ==================================================
HELLO   protocol version (1 byte)              protocol version (1), fingerprint (16)
WRITE   space (1), high (1), address (2),      (nothing)
        words
READ    space (1), high (1), address (2),      n words
        n (2)
RUN     instructions of 32 bytes each, or      instructions completed (1), unit (1), cycles (4)
        first (2), count (2)
STATUS  (nothing)                              bad frames (4), saturations (4), sticky error (1),
                                               its instruction (1), its unit (1)
RESET   (nothing)                              (nothing); units stopped, counters and error clear
START   first (2), count (2)                   (nothing)
WAIT    (nothing)                              as RUN
======  =====================================  ==================================================

Numbers are unsigned and least significant byte first. Words of a space: see :class:`Space`. On a
machine that keeps masters ``instructions completed`` and STATUS's ``its instruction`` take two
bytes.
A request with a bad body is answered by its status alone, as is a RUN that is refused with
``STICKY``. HELLO with another protocol version is answered by ``VERSION``, its own version and
fingerprint. WRITE and READ move at least one word, or are refused with ``BAD_LENGTH``, and touch
no memory unless all of it is there; an unknown space is an ``ADDRESS``. ``high`` are bits 16 to 23
of the address on a machine that keeps masters, and has no meaning on others, which take 0.

RUN takes 1 to 64 instructions, or, on a machine that keeps masters, runs ``count`` of those that
are stored in ``PROGRAM``, 1 to 511 of them, from number ``first`` on. It stops at the first that
fails: the first number of its answer is then that instruction's, counted from 0. Its ``unit`` is
the one that ran last, ``NONE`` after ``BAD_INSTRUCTION``. The error is kept, as STATUS shows it,
and further RUNs are refused with ``STICKY`` until RESET. What earlier instructions wrote stays, and
so does what the one that failed had written.

START and WAIT are on machines that keep masters. START begins what a RUN with the same body runs,
and is answered at once; it is refused as that RUN is, and what is said of a repeated RUN holds for
it, too: of both together the last one is known. WAIT is answered when no program is under way, with
what RUN answers of the one that ran last; after RESET, and before there was any, with ``OK``, 0 and
``NONE``. It may be sent again. From START until WAIT or RESET the machine is *started*, whether its
program has ended or not: RUN, START and READ are refused with ``BUSY``, as is a WRITE to other
spaces than those of :func:`written_beside`, and an error becomes pending with WAIT. A WRITE gives
way to the units, so that what they do, and when, does not depend on it; it is answered when its
words are written. What it does to words that the program touches, and what saturations STATUS shows
meanwhile, depends on time. RESET stops the program wherever it is; what that has written stays.

On a machine that keeps masters instructions overlap (:mod:`hdl.instructions`). One that fails stops
all that are under way, and what these had written stays, too; of several that fail in the same
clock one is named. Before ``BAD_INSTRUCTION`` all that come before it in the program end. The unit
of a program without errors is that of its last instruction.

Instructions: :mod:`hdl.instructions`.
"""

import zlib
from enum import IntEnum

__all__ = [
    "END",
    "ESC",
    "ESC_END",
    "ESC_ESC",
    "INSTRUCTIONS",
    "LINK_BYTES",
    "LOG_PART",
    "MAX_BODY",
    "MAX_STORED",
    "PROGRAM_WORDS",
    "FrameError",
    "Kind",
    "LogPart",
    "Space",
    "Status",
    "Unit",
    "codes_in_byte",
    "decode",
    "encode",
    "escape",
    "number_bytes",
    "readable",
    "spaces",
    "unescape",
    "word_bytes",
    "writable",
    "written_beside",
]

END, ESC, ESC_END, ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD

#: Longest body of a frame in bytes, in either direction.
MAX_BODY = 2048
#: Bytes that a machine that keeps masters holds of further requests while one is under way.
LINK_BYTES = 256
#: Words of ``PROGRAM``, the instructions that these are, and most of them in one RUN.
PROGRAM_WORDS, INSTRUCTIONS, MAX_STORED = 2048, 512, 511
#: Words of one part of ``LOG``, one for each instruction of a RUN.
LOG_PART = 512
#: Requests other than RUN and START after which the answer to one of these is forgotten, so that a
#: ``seq`` that comes round again is not taken for a repetition.
REPEAT_WINDOW = 128


class Kind(IntEnum):
    """Kinds of request; an answer has bit 7 set."""
    HELLO = 1
    WRITE = 2
    READ = 3
    RUN = 4
    STATUS = 5
    RESET = 6
    #: Those of machines that keep masters.
    START = 7
    WAIT = 8
    #: Answer to a frame that could not be read; no request.
    NAK = 0x7F
    ANSWER = 0x80


class Status(IntEnum):
    """First byte of every answer's body."""
    OK = 0
    #: The frame was damaged, too short or too long.
    BAD_FRAME = 1
    #: No such kind of request.
    BAD_KIND = 2
    #: The body's length does not fit the request.
    BAD_LENGTH = 3
    #: An address beyond the end of a memory; on a machine that keeps masters also two units at one
    #: port of a memory in the same clock.
    ADDRESS = 4
    #: An unknown opcode, or fields out of range.
    BAD_INSTRUCTION = 5
    #: A unit did not finish in time; its name is in ``unit``.
    WATCHDOG = 6
    #: HELLO with another protocol version.
    VERSION = 7
    #: An error is pending; RESET clears it.
    STICKY = 8
    #: A program was started, and not waited for.
    BUSY = 9


class Space(IntEnum):
    """Memories the host reads and writes.

    A word of ``WIDE`` is ``lanes`` little-endian 32-bit numbers, of ``GROUP`` one. A word of the
    quantised memory travels in ``rows`` parts, those of the array's rows: part ``rows * a + r`` of
    ``QUANT`` has lanes ``depth * r`` to ``depth * r + depth - 1`` of word a, a byte each (a
    ``bits``-wide two's complement number, sign-extended when read, truncated when written).

    The others are on machines that keep masters. Words of ``MASTER`` and ``VELOCITY`` are like
    those of ``WIDE``, of numbers that have fewer bits. A word of ``BYTES`` is one of the wide
    memory of which every element is 0 to 255, and travels as a byte for each. A word of
    ``PROGRAM`` is 8 bytes, a quarter of an instruction. Words of ``LOG`` are 32-bit
    numbers, see :class:`LogPart`; a WRITE to it is an ``ADDRESS``.

    ``CODES`` are the words of the quantised memory once more, packed, for WRITE alone: a READ of it
    is an ``ADDRESS``. After the head comes a byte, n - 1, and then n bytes of each word, 1 to
    ``word_bytes``. Each byte has the numbers of as many lanes as fit whole, from its lowest bits
    on, ``8 // bits``: byte i those of lanes ``(8 // bits) i`` on. What lies beyond them in a byte,
    and beyond the last lane, is not looked at; lanes of bytes that do not come keep what they held.

    ``COLUMN`` are those words of which the first lane alone is written, as many in a byte: word i
    of it is a byte with those of ``(8 // bits) i`` on, from its lowest bits on. For WRITE alone as
    well.

    ``PATCH`` are words of ``PROGRAM`` that are apart, for WRITE alone too. Before the 8 bytes of
    each comes one that says how many words lie between it and the one before, of the first how many
    lie between the address and it. From the last word of ``PROGRAM`` on they go on with the first.
    """
    WIDE = 0
    QUANT = 1
    GROUP = 2
    MASTER = 3
    VELOCITY = 4
    BYTES = 5
    PROGRAM = 6
    LOG = 7
    CODES = 8
    COLUMN = 9
    PATCH = 10


class LogPart(IntEnum):
    """Parts of ``LOG``, of ``LOG_PART`` words each.

    Word i of a part is the clock, of those that RUN's answer counts, in which instruction i of the
    last RUN went to its queue, or its unit's ``start`` or ``done`` was. After a RUN with an error,
    and beyond the instructions that there were, they are not defined; the model, which has no
    clock, has zeros.
    """
    QUEUED = 0
    STARTED = 1
    DONE = 2


def spaces(params):
    """The spaces that a machine has.

    >>> from hdl.params import Params
    >>> len(spaces(Params())), len(spaces(Params(masters=8)))
    (3, 11)
    """
    return list(Space) if params.masters else [Space.WIDE, Space.QUANT, Space.GROUP]


def writable(params):
    """The spaces that the host can write to."""
    return [space for space in spaces(params) if space != Space.LOG]


def readable(params):
    """The spaces that the host can read."""
    apart = Space.CODES, Space.COLUMN, Space.PATCH
    return [space for space in spaces(params) if space not in apart]


def written_beside(params):
    """The spaces that the host can write to from START to WAIT: what a batch and a program need."""
    return [space for space in writable(params) if space not in (Space.MASTER, Space.VELOCITY)]


def word_bytes(space, params):
    """Bytes of one word of a space as they travel; of ``CODES`` the most.

    >>> from hdl.params import Params
    >>> [word_bytes(space, Params(lanes=2)) for space in Space]
    [8, 4, 4, 8, 8, 2, 8, 4, 8, 1, 9]
    """
    return {Space.QUANT: params.depth, Space.GROUP: 4, Space.BYTES: params.vector,
            Space.PROGRAM: 8, Space.LOG: 4, Space.COLUMN: 1, Space.PATCH: 9,
            Space.CODES: -(-params.slots // codes_in_byte(params.bits))}.get(
                space, 4 * params.vector)


def codes_in_byte(bits):
    """Codes in a byte of ``CODES``, and words in one of ``COLUMN``."""
    return 8 // bits


def number_bytes(params):
    """Bytes of an instruction's number in answers."""
    return 2 if params.masters else 1


class Unit(IntEnum):
    """Units that an instruction may run on."""
    NONE = 0
    GEMM = 1
    QUANTISE = 2
    SORT = 3
    NORM_FORWARD = 4
    NORM_BACKWARD = 5
    MOVE = 6
    SCALE = 7
    COMBINE = 8
    CROSS_ENTROPY = 9
    POOL = 10
    LAYER_FORWARD = 11
    LAYER_BACKWARD = 12


class FrameError(ValueError):
    """A frame is damaged."""


def escape(data):
    """SLIP's escapes, without the ``END`` bytes.

    >>> escape(bytes([1, END, ESC])).hex()
    '01dbdcdbdd'
    """
    return (data.replace(bytes([ESC]), bytes([ESC, ESC_ESC]))
                .replace(bytes([END]), bytes([ESC, ESC_END])))


def unescape(data):
    """Undo :func:`escape`; a wrong escape raises :class:`FrameError`.

    >>> unescape(escape(bytes(range(256)))) == bytes(range(256))
    True
    """
    pieces = bytes(data).split(bytes([ESC]))
    out = bytearray(pieces[0])
    for piece in pieces[1:]:
        if piece[:1] == bytes([ESC_END]):
            out.append(END)
        elif piece[:1] == bytes([ESC_ESC]):
            out.append(ESC)
        else:
            raise FrameError("a wrong escape in a frame")
        out += piece[1:]
    return bytes(out)


def encode(seq, kind, body=b""):
    """One frame as it travels, with an ``END`` at both ends."""
    data = bytes([seq, kind]) + bytes(body)
    data += zlib.crc32(data).to_bytes(4, "little")
    return bytes([END]) + escape(data) + bytes([END])


def decode(data):
    """``(seq, kind, body)`` of one unescaped frame, or :class:`FrameError`."""
    if len(data) < 6:
        raise FrameError(f"a frame of {len(data)} bytes, less than 6")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FrameError("a frame with a wrong CRC")
    return data[0], data[1], bytes(data[2:-4])

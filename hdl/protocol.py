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

The host sends one request and waits for its answer. The answer carries the same ``seq``,
``kind | 0x80`` and, as the first byte of its body, a :class:`Status`. A frame with a wrong CRC
or escape, or that is too short or too long, is counted and answered by
``Kind.NAK | Kind.ANSWER`` (0xFF) with ``seq`` 0; nothing of it takes effect. A RUN whose ``seq``
equals that of the RUN before it is not executed again: its stored answer is sent. HELLO, RESET
and ``REPEAT_WINDOW`` requests of other kinds since that RUN forget it.

======  =====================================  ==================================================
kind    body of the request                    body of the answer after the status byte
======  =====================================  ==================================================
HELLO   protocol version (1 byte)              protocol version (1), fingerprint (16)
WRITE   space (1), 0 (1), address (2), words   (nothing)
READ    space (1), 0 (1), address (2), n (2)   n words
RUN     instructions of 32 bytes each          instructions completed (1), unit (1), cycles (4)
STATUS  (nothing)                              bad frames (4), saturations (4), sticky error (1),
                                               its instruction (1), its unit (1)
RESET   (nothing)                              (nothing); units stopped, counters and error clear
======  =====================================  ==================================================

Numbers are unsigned and least significant byte first. Words of a space: see :class:`Space`.
A request with a bad body is answered by its status alone, as is a RUN that is refused with
``STICKY``. HELLO with another protocol version is answered by ``VERSION``, its own version and
fingerprint. WRITE and READ move at least one word, or are refused with ``BAD_LENGTH``, and touch
no memory unless all of it is there; an unknown space is an ``ADDRESS``.

RUN takes 1 to 64 instructions and stops at the first that fails: the first number of its answer
is then that instruction's, counted from 0. Its ``unit`` is the one that ran last, ``NONE`` after
``BAD_INSTRUCTION``. The error is kept, as STATUS shows it, and further RUNs are refused with
``STICKY`` until RESET. What earlier instructions wrote stays, and so does what the one that
failed had written.

Instructions
------------
An instruction is 32 bytes, the fields of ``INSTRUCTION`` in order from bit 0. Bases are word
addresses, modulo ``2**16``: ``w`` in the wide memory, ``q`` in the quantised memory, ``t`` in the
tables.

* ``GEMM``: ``dst0(w)[m,n] = requantise(A[m,k] . B[k,n])``; A = src0(q), the streamed operand, B =
  src1(q), the stationary one; ``shift`` = rounding right shift. A and the result may be m rows of
  taller tensors, which have as many rows more as the halves of ``key1`` say, A's the low one; src0
  and dst0 are where the first of the m rows begins. ``tiles`` (the low half of ``key0``) =
  ``ceil((ceil(k / depth) + G - 1) / rows)`` tiles along the inner dimension, G = 1 without inner
  groups; flags: :class:`GemmFlag`. With ``INNER_GROUPS`` the order table at tab0(t) says which
  index each slot takes and between which rows to shift, and A has its columns in the order of the
  slots, padding included, as ``MOVE`` with ``SORTED`` leaves them: a tensor of ``tiles * slots``
  columns. What lies in columns of A that stand for no index does not matter. With ``ROW_GROUPS``
  output row i is shifted left by ``(arg & 15) - group[tab1 + i]``, with ``COL_GROUPS`` column j by
  ``(arg >> 4) - group[tab2 + j]``.
* ``QUANTISE``: ``dst0(q)[m,n]`` from src0(w), the exponent s of every column's scale to
  dst1(w)[1,n]: q stands for ``q * 2**(s - groups)`` in the unit of src0; ``arg`` = clip in
  quarters of the mean magnitude (0: the maximum); flags: :class:`QuantiseFlag`. With ``GROUPED``,
  sample groups go to group[tab1 + i] and channel groups to group[tab2 + j]. ``key0, key1`` = the
  noise key.
* ``SORT``: builds the order table at tab0(t) from the groups of ``k`` indices at
  group[tab0 + i], and adds to each of those words the slot that its index takes; ``arg`` = number
  of groups. An index whose group is ``arg`` or more takes no slot, and its word stays as it is.
* ``MOVE``: dst0(q)[m,n] = src0(q)[m,n], or with ``TRANSPOSED`` dst0(q)[n,m], its transpose; flags:
  :class:`MoveFlag`. With ``SORTED`` the columns of the destination come in the order of their
  slots: column c goes to the slot in word group[tab1 + c]. Lanes that take nothing keep what they
  held. Source and destination must not overlap.
* ``NORM_FORWARD``: dst0(w)[m,n] = norm of src0(w)[m,n], context to dst1(w)[m,n], statistics and
  parameters in the state tensor src1(w)[8,n]; flags: :class:`NormFlag`. Source and destination
  may be the same. With ``INFERENCE`` the mean and deviation are read from the state, and no
  context is written.
* ``NORM_BACKWARD``: dst0(w)[m,n] = gradient with respect to the norm's input, from src0(w)[m,n],
  the context dst1(w)[m,n] and the state src1(w)[8,n]; flags: :class:`BackwardFlag`. Source and
  destination may be the same. With ``CLIPPED`` no gradient passes an element whose code in
  tab0(q)[m,n], what the output was quantised to, is the largest.

An instruction is refused with ``BAD_INSTRUCTION`` if its opcode is unknown; if it has a flag that
its operation has not; if one of m, k and n that it uses is 0 or beyond ``MAX_M``, ``MAX_K`` or
``MAX_N`` (``MAX_K`` for both of ``MOVE``); and further

* ``GEMM``: if ``shift`` is above ``MAX_SHIFT`` or ``tiles`` is 0; if a half of ``arg`` that is used
  is not below the machine's number of groups; if it has a group flag on a machine without groups;
* ``QUANTISE``: if ``GROUPED`` comes with ``PER_COLUMN``, ``UNSIGNED`` or a clip, or on a machine
  without groups;
* ``SORT``: if ``arg`` is 0 or above the machine's number of groups; always on a machine without
  groups;
* ``MOVE``: if it is ``SORTED`` on a machine without groups.
"""

import zlib
from enum import IntEnum, IntFlag

__all__ = [
    "END",
    "ESC",
    "ESC_END",
    "ESC_ESC",
    "INSTRUCTION",
    "INSTRUCTION_BYTES",
    "MAX_BODY",
    "STATE_ROWS",
    "TABLE_HEADER",
    "BackwardFlag",
    "FrameError",
    "GemmFlag",
    "Kind",
    "MoveFlag",
    "NormFlag",
    "Opcode",
    "QuantiseFlag",
    "Space",
    "StateRow",
    "Status",
    "Unit",
    "decode",
    "encode",
    "escape",
    "instruction",
    "unescape",
    "unpack_instruction",
    "word_bytes",
]

END, ESC, ESC_END, ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD

#: Longest body of a frame in bytes, in either direction.
MAX_BODY = 2048
#: Requests other than RUN after which the answer to a RUN is forgotten, so that a ``seq`` that
#: comes round again is not taken for a repetition.
REPEAT_WINDOW = 128


class Kind(IntEnum):
    """Kinds of request; an answer has bit 7 set."""
    HELLO = 1
    WRITE = 2
    READ = 3
    RUN = 4
    STATUS = 5
    RESET = 6
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
    #: An address beyond the end of a memory.
    ADDRESS = 4
    #: An unknown opcode, or fields out of range.
    BAD_INSTRUCTION = 5
    #: A unit did not finish in time; its name is in ``unit``.
    WATCHDOG = 6
    #: HELLO with another protocol version.
    VERSION = 7
    #: An error is pending; RESET clears it.
    STICKY = 8


class Space(IntEnum):
    """Memories the host reads and writes.

    A word of ``WIDE`` is ``lanes`` little-endian 32-bit numbers, of ``GROUP`` one. A word of the
    quantised memory travels in ``rows`` parts, those of the array's rows: part ``rows * a + r`` of
    ``QUANT`` has lanes ``depth * r`` to ``depth * r + depth - 1`` of word a, a byte each (a
    ``bits``-wide two's complement number, sign-extended when read, truncated when written).
    """
    WIDE = 0
    QUANT = 1
    GROUP = 2


def word_bytes(space, params):
    """Bytes of one word of a space as they travel.

    >>> from hdl.params import Params
    >>> [word_bytes(space, Params(lanes=2)) for space in Space]
    [8, 4, 4]
    """
    return {Space.WIDE: 4 * params.vector, Space.QUANT: params.depth, Space.GROUP: 4}[space]


class Unit(IntEnum):
    """Units that an instruction may run on."""
    NONE = 0
    GEMM = 1
    QUANTISE = 2
    SORT = 3
    NORM_FORWARD = 4
    NORM_BACKWARD = 5
    MOVE = 6


class Opcode(IntEnum):
    """Operations; each is one model function and runs on the unit of the same number."""
    GEMM = 1
    QUANTISE = 2
    SORT = 3
    NORM_FORWARD = 4
    NORM_BACKWARD = 5
    MOVE = 6


class GemmFlag(IntFlag):
    """Flags of ``GEMM``."""
    #: A holds ``u - 2**(bits-1)`` for unsigned u; the result is that of u.
    UNSIGNED = 1
    INNER_GROUPS = 2
    ROW_GROUPS = 4
    COL_GROUPS = 8


class QuantiseFlag(IntFlag):
    """Flags of ``QUANTISE``."""
    #: To ``0 .. 2**bits-1``, stored less ``2**(bits-1)``; negative inputs become 0.
    UNSIGNED = 1
    #: A scale for every column instead of one for the tensor.
    PER_COLUMN = 2
    #: Stochastic instead of nearest rounding.
    STOCHASTIC = 4
    #: Separable ShiftQuant; excludes ``PER_COLUMN``, ``UNSIGNED`` and a clip.
    GROUPED = 8


class MoveFlag(IntFlag):
    """Flags of ``MOVE``."""
    TRANSPOSED = 1
    #: Columns of the destination in the order of their slots.
    SORTED = 2


class NormFlag(IntFlag):
    """Flags of ``NORM_FORWARD``."""
    #: Apply a ReLU to the output and keep its mask in the context.
    RELU = 1
    #: Use the mean and deviation of the state tensor.
    INFERENCE = 2


class BackwardFlag(IntFlag):
    """Flags of ``NORM_BACKWARD``."""
    #: The output was quantised, unsigned, and what was clipped passes no gradient.
    CLIPPED = 1


class StateRow(IntEnum):
    """Rows of a norm's state tensor, a wide tensor of ``STATE_ROWS`` rows."""
    #: gamma, signed 16 bits, ``PARAMETER_FRACTION`` fraction bits.
    GAMMA = 0
    #: beta, ``PARAMETER_FRACTION`` fraction bits.
    BETA = 1
    #: Mean of the input, ``NORM_FRACTION`` fraction bits.
    MEAN = 2
    #: Mean magnitude of the deviation from it, ``NORM_FRACTION`` fraction bits.
    DEVIATION = 3
    #: Mean of the normalised output gradient.
    GRAD_BETA = 4
    #: Mean of the normalised output gradient times xhat.
    GRAD_GAMMA = 5
    #: Bit length of the largest magnitude of the output gradient.
    GRAD_BITS = 6
    #: Bit length of the smallest non-zero deviation.
    DEVIATION_BITS = 7


STATE_ROWS = len(StateRow)

#: Words at the start of an order table before the entries: the first is the number of slots in
#: use, the next seven are the schedule rows before which the array shifts (all ones: none).
TABLE_HEADER = 8

#: Largest right shift of a GEMM's result.
MAX_SHIFT = 31

#: Name and width in bits of each field of an instruction, from bit 0.
INSTRUCTION = (
    ("op", 8), ("flags", 8),
    ("m", 16), ("k", 16), ("n", 16),
    ("src0", 16), ("src1", 16), ("dst0", 16), ("dst1", 16),
    ("tab0", 16), ("tab1", 16), ("tab2", 16),
    ("shift", 8), ("arg", 8),
    ("key0", 32), ("key1", 32),
)
INSTRUCTION_BYTES = sum(width for _, width in INSTRUCTION) // 8
#: ``(offset, width)`` by name.
_PLACES = {name: (sum(width for _, width in INSTRUCTION[:place]), width)
           for place, (name, width) in enumerate(INSTRUCTION)}


class FrameError(ValueError):
    """A frame is damaged."""


def instruction(op, **fields):
    """Pack one instruction.

    >>> instruction(Opcode.SORT, k=64, tab0=0x102, arg=4).hex()
    '0300000040000000000000000000000002010000000000040000000000000000'
    """
    unknown = fields.keys() - _PLACES.keys()
    if unknown:
        raise TypeError(f"no such instruction field: {', '.join(sorted(unknown))}")
    word = 0
    for name, value in {"op": op, **fields}.items():
        offset, width = _PLACES[name]
        value = int(value)
        if not 0 <= value < 1 << width:
            raise ValueError(f"instruction field {name} must fit {width} bits, got {value}")
        word |= value << offset
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def unpack_instruction(data):
    """The fields of one packed instruction.

    >>> unpack_instruction(instruction(Opcode.GEMM, m=3, key1=9))["key1"]
    9
    """
    word = int.from_bytes(data, "little")
    return {name: word >> offset & (1 << width) - 1
            for name, (offset, width) in _PLACES.items()}


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

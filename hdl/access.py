"""The host's access to the memories: the bodies of WRITE and READ."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hdl.dispatch import CLOCK_BITS
from hdl.link.frame import ANSWER_BYTE
from hdl.memory import ADDRESS_BITS, READ_LATENCY, LaneWritePort, ReadPort, WritePort
from hdl.params import WIDE_BITS
from hdl.protocol import (
    LOG_PART,
    MAX_BODY,
    PROGRAM_WORDS,
    LogPart,
    Space,
    Status,
    codes_in_byte,
    readable,
    spaces,
    word_bytes,
    writable,
    written_beside,
)
from hdl.unit import GROUP_BITS, lanes_word, quant_word, wide_word

__all__ = ["Access", "depths", "memory_ports", "taken_ports"]

#: The head of a READ's body; a WRITE's is the same without ``count``. What is ``zero`` on other
#: machines are the high bits of the address on one that keeps masters.
_HEAD = data.StructLayout({"space": 8, "zero": 8, "address": ADDRESS_BITS, "count": 16})
_READ_BYTES = Shape.cast(_HEAD).width // 8
_WRITE_BYTES = _READ_BYTES - 2


def _each(params):
    """Codes in a packed byte: a power of two."""
    return codes_in_byte(params.bits)


def depths(params):
    """Words of every space; of ``QUANT`` the parts.

    >>> from hdl.params import Params
    >>> depths(Params(rows=3, depth=2))[Space.QUANT]
    24576
    """
    words = {Space.WIDE: params.wide_words, Space.QUANT: params.quant_words * params.rows,
             Space.GROUP: params.table_words, Space.MASTER: params.master_words,
             Space.VELOCITY: params.master_words, Space.BYTES: params.wide_words,
             Space.PROGRAM: PROGRAM_WORDS, Space.LOG: LOG_PART * len(LogPart),
             Space.CODES: params.quant_words, Space.COLUMN: params.quant_words // _each(params),
             Space.PATCH: PROGRAM_WORDS}
    return {space: words[space] for space in spaces(params)}


def memory_ports(params):
    """Members of a signature: a read port and a write port of every memory."""
    memories = [("wide", wide_word(params), WritePort),
                ("quant", quant_word(params), LaneWritePort),
                ("group", unsigned(GROUP_BITS), WritePort)]
    if params.masters:
        memories += [("master", lanes_word(params, params.master_bits), WritePort),
                     ("velocity", lanes_word(params, params.velocity_bits), WritePort),
                     ("program", unsigned(8 * word_bytes(Space.PROGRAM, params)), WritePort)]
    ports = {}
    for name, shape, write in memories:
        ports |= {f"{name}_r": Out(ReadPort(shape)), f"{name}_w": Out(write(shape))}
    return ports


def taken_ports(params):
    """Members that say which memories units use, on a machine where a WRITE gives way to them."""
    return ({f"{name}_taken": In(1) for name in ("wide", "quant", "group")} if params.masters
            else {})


def _log_port(params):
    """A member for the log of runs, which machines with masters have."""
    return {"log_r": Out(ReadPort(CLOCK_BITS))} if params.masters else {}


def _longest(params):
    """Bytes of the longest word or part that is written or read at once; of ``CODES`` a byte is,
    and of ``PATCH`` a word of ``PROGRAM``."""
    return max(word_bytes(space, params) for space in spaces(params)
               if space not in (Space.CODES, Space.PATCH))


def _places(params):
    """Parts of a word of the quantised memory, or bytes of it if it comes packed, or words that
    have a code in a byte."""
    packed = (word_bytes(Space.CODES, params), _each(params)) if params.masters else ()
    return max([params.rows, *packed])


class Access(wiring.Component):
    """Checks a WRITE or a READ, then moves its words.

    ``done`` pulses with ``status`` when a WRITE's last word is written, when a READ's checks have
    passed and its words begin to come out of ``o``, or when either is refused, in which case no
    memory was touched. Checks, in this order: the head is there, the space exists, the body is a
    whole number of words and not empty (WRITE) or the answer fits a frame and is not empty
    (READ): ``BAD_LENGTH``; no word lies beyond the end: ``ADDRESS``, also for an unknown space.
    ``BUSY``, for a space that is not written beside a program, comes after that of the space.

    A word of w bytes takes ``w + 1`` clocks to write, after two clocks per word for the checks,
    and ``w + 4`` to read, a part of a word of the quantised memory ``w + 5``; either waits for its
    stream, and a word to write for a clock in which its memory is not ``taken``. Before the first
    part its address is divided by the number of rows, a clock for every bit of it. Packed words are
    written byte by byte as they come: two clocks for each byte, two for the word, and two for their
    size. A byte of ``COLUMN`` takes a clock for each of its words, and three. The first byte of a
    word of ``PATCH`` is added to the address, modulo the words of ``PROGRAM``.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    write : In(1)
        WRITE, not READ; taken with ``start``, as is ``length``.
    length : In(range(MAX_BODY + 1))
        Bytes of the request's body.
    i : In(stream.Signature(8))
        The body.
    o : Out(stream.Signature(ANSWER_BYTE))
        The words of a READ.
    done : Out(1)
    status : Out(Status)
    wide_r, quant_r, group_r, ... : Out(ReadPort)
    wide_w, group_w, ... : Out(WritePort)
    quant_w : Out(LaneWritePort)
        As :func:`memory_ports` has them.
    log_r : Out(ReadPort(CLOCK_BITS))
        On a machine that keeps masters, as are the following.
    started : In(1)
        A program may be under way; only WRITE is started then.
    wide_taken, quant_taken, group_taken : In(1)
        A unit uses the port to write of that memory in this clock.
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1),
            "write": In(1),
            "length": In(range(MAX_BODY + 1)),
            "i": In(stream.Signature(8)),
            "o": Out(stream.Signature(ANSWER_BYTE)),
            "done": Out(1),
            "status": Out(8),
            **memory_ports(params), **_log_port(params), **taken_ports(params),
            **({"started": In(1)} if params.masters else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.word = word = _Word(self.params)
        for name in (*memory_ports(self.params), *_log_port(self.params)):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(word, name))
        m.d.comb += [getattr(word, name).eq(getattr(self, name))
                     for name in taken_ports(self.params)]

        head = Signal(_HEAD)
        write = Signal()
        left = Signal.like(self.length)       # bytes of the body or of a word
        index = Signal(range(_READ_BYTES))
        count = Signal(16)
        bytes_, depth, most = (Signal(range(limit + 1)) for limit in (
            max(word_bytes(space, self.params) for space in spaces(self.params)),
            max(depths(self.params).values()), MAX_BODY))
        address = Cat(head.address, head.zero) if self.params.masters else head.address
        rest, end = Signal(signed(len(left) + 1)), Signal(len(address) + 1)
        bad, beyond = Signal(), Signal()
        # Of a part, the row; its word is the address once that is divided.
        rows, parted = self.params.rows, Signal()
        row, step = Signal(range(_places(self.params))), Signal(range(len(address)))
        m.d.sync += parted.eq(head.space == Space.QUANT)
        # Of packed words, how many bytes each has, less one.
        packed, packed_size = Signal(), Signal(8)
        # A byte has a code of each of several words; the row is the word.
        column = Signal()
        # A word comes after how many are left out before it.
        patch = Signal()
        if self.params.masters:
            m.d.sync += [packed.eq(head.space == Space.CODES),
                         column.eq(head.space == Space.COLUMN),
                         patch.eq(head.space == Space.PATCH)]
        with m.Switch(head.space):
            for space in spaces(self.params):
                size = word_bytes(space, self.params)
                with m.Case(space):
                    m.d.sync += [
                        bytes_.eq(size),
                        depth.eq(depths(self.params)[space]),
                        most.eq((MAX_BODY - 1) // size),
                    ]
                    if space == Space.CODES:
                        m.d.sync += bytes_.eq(packed_size + 1), most.eq(MAX_BODY - 1)

        unknown = head.space > max(spaces(self.params))
        if self.params.masters:
            unknown |= Mux(write, *(
                Cat(head.space == space for space in
                    sorted(set(spaces(self.params)) - set(allowed(self.params)))).any()
                for allowed in (writable, readable)))

        def finish(status, state="IDLE"):
            m.d.sync += self.done.eq(1), self.status.eq(status)
            m.next = state

        def begin():
            with m.If(write):
                m.next = "TAKE"
            with m.Else():
                finish(Status.OK, "READ")

        def following():
            with m.If(parted & (row != rows - 1)):
                m.d.sync += row.eq(row + 1)
            with m.Else():
                m.d.sync += row.eq(0), head.address.eq(head.address + 1)
            m.d.sync += count.eq(count - 1)

        def written():
            m.d.sync += left.eq(bytes_)
            following()
            m.next = "TAKE"
            with m.If(count == 1):
                finish(Status.OK)

        m.d.comb += [
            word.space.eq(head.space), word.address.eq(head.address), word.row.eq(row),
            word.i.eq(self.i.payload),
            self.o.payload.data.eq(word.o),
            self.o.payload.last.eq((count == 1) & (left == 1)),
        ]
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += write.eq(self.write), left.eq(self.length), index.eq(0), row.eq(0)
                with m.If(self.start):
                    m.next = "LENGTH"
            with m.State("LENGTH"):
                with m.If(Mux(write, left < _WRITE_BYTES, left != _READ_BYTES)):
                    finish(Status.BAD_LENGTH)
                with m.Else():
                    m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [
                        head.as_value().word_select(index, 8).eq(self.i.payload),
                        index.eq(index + 1),
                        left.eq(left - 1),
                    ]
                    with m.If(index == Mux(write, _WRITE_BYTES, _READ_BYTES) - 1):
                        m.next = "SPACE"
            with m.State("SPACE"):
                m.d.sync += count.eq(Mux(write, 0, head.count))
                with m.If(unknown):
                    finish(Status.ADDRESS)
                if self.params.masters:
                    apart = set(spaces(self.params)) - set(written_beside(self.params))
                    with m.Elif(self.started & Cat(head.space == space for space in
                                                   sorted(apart)).any()):
                        finish(Status.BUSY)
                with m.Else():
                    m.next = "SIZE"
            with m.State("SIZE"):
                # What the space decides is in registers in the next clock.
                m.next = "COUNT"
                if self.params.masters:
                    with m.If(packed):
                        m.next = "PACKED"
            if self.params.masters:
                with m.State("PACKED"):
                    with m.If(left == 0):
                        finish(Status.BAD_LENGTH)
                    with m.Else():
                        m.d.comb += self.i.ready.eq(1)
                        m.d.sync += packed_size.eq(self.i.payload)
                        with m.If(self.i.valid):
                            m.d.sync += left.eq(left - 1)
                            m.next = "PACKED SIZE"
                with m.State("PACKED SIZE"):
                    m.next = "COUNT"
                    with m.If(packed_size >= word_bytes(Space.CODES, self.params)):
                        finish(Status.BAD_LENGTH)
            with m.State("COUNT"):
                # A WRITE's words by repeated subtraction.
                m.d.sync += [rest.eq(left - bytes_), bad.eq((count == 0) | (count > most)),
                             end.eq(address + count)]
                m.next = "COUNTED"
            with m.State("COUNTED"):
                m.d.sync += [bad.eq(bad | (left != 0)), beyond.eq(end > depth)]
                m.next = "BOUND"
                with m.If(write & (rest >= 0)):
                    m.d.sync += left.eq(rest), count.eq(count + 1)
                    m.next = "COUNT"
            with m.State("BOUND"):
                m.d.sync += left.eq(bytes_)
                with m.If(bad):
                    finish(Status.BAD_LENGTH)
                with m.Elif(beyond):
                    finish(Status.ADDRESS)
                with m.Elif(parted):
                    m.next = "SPLIT"
                with m.Else():
                    begin()
            with m.State("SPLIT"):
                # A bit of the address leaves at the top, one of its quotient enters below.
                part = Cat(address[-1], row)
                fits = part >= rows
                m.d.sync += [
                    row.eq(Mux(fits, part - rows, part)),
                    address.eq(Cat(fits, address)),
                    step.eq(step + 1),
                ]
                with m.If(step == len(address) - 1):
                    if self.params.masters:
                        m.d.sync += step.eq(0)
                    begin()
            # A word from the body.
            with m.State("TAKE"):
                m.d.comb += self.i.ready.eq(1), word.shift.eq(self.i.valid)
                with m.If(self.i.valid):
                    m.d.sync += left.eq(left - 1)
                    if self.params.masters:
                        with m.If(patch & (left == word_bytes(Space.PATCH, self.params))):
                            m.d.sync += head.address.eq(head.address + self.i.payload)
                    with m.If((left == 1) | packed if self.params.masters else left == 1):
                        m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += word.write.eq(1)
                if self.params.masters:
                    with m.If(word.written & (left != 0)):
                        # A byte of a packed word, and not its last.
                        m.d.sync += row.eq(row + 1)
                        m.next = "TAKE"
                    with m.Elif(word.written & column & (row != _each(self.params) - 1)):
                        m.d.sync += row.eq(row + 1)
                    with m.Elif(word.written):
                        written()
                else:
                    written()
            # A word to the answer.
            with m.State("READ"):
                m.d.comb += word.read.eq(1)
                m.d.sync += left.eq(bytes_)
                m.next = "WAIT"
            with m.State("WAIT"), m.If(word.loaded):
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self.o.valid.eq(1), word.shift.eq(self.o.ready)
                with m.If(self.o.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        following()
                        m.next = "READ"
                        with m.If(count == 1):
                            m.next = "IDLE"
        return m


def _split(value, width):
    return [value.word_select(part, width) for part in range(len(value) // width)]


def _extended(lanes):
    """Signed numbers, each as a wide one."""
    numbers = [Value.cast(lane) for lane in lanes]
    return Cat(Cat(number, number[-1].replicate(WIDE_BITS - len(number))) for number in numbers)


class _Word(wiring.Component):
    """A word of any space, or a part of one, in and out byte by byte.

    A byte enters at the top while the lowest one leaves, so a word that is complete fills the
    top bytes of the register, whatever its size; a word that was read fills the bottom ones. Of
    ``PATCH`` the first byte is none of the word's. Of a packed word each byte is written by itself,
    of a byte of ``COLUMN`` each code.

    Members
    -------
    space : In(8)
        From two clocks before ``write`` or ``read`` on.
    address : In(ADDRESS_BITS)
    row : In(range(rows))
        The part, in the quantised memory; of a packed word, which byte this is; of a byte of
        ``COLUMN``, which code.
    shift : In(1)
        Take ``i``, drop ``o``.
    i : In(8)
    o : Out(8)
    write, read : In(1)
        Write the word; begin to read one.
    loaded : Out(1)
        The word is here from the next clock.
    wide_r, quant_r, group_r, ... : Out(ReadPort)
    wide_w, group_w, ... : Out(WritePort)
    quant_w : Out(LaneWritePort)
        As :func:`memory_ports` has them.
    log_r : Out(ReadPort(CLOCK_BITS))
        On a machine that keeps masters, as are the following.
    wide_taken, quant_taken, group_taken : In(1)
        That memory is not written in this clock.
    written : Out(1)
        ``write`` has its way in this clock; it stays until then.
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "space": In(8), "address": In(ADDRESS_BITS), "row": In(range(_places(params))),
            "shift": In(1), "i": In(8), "o": Out(8),
            "write": In(1), "read": In(1), "loaded": Out(1),
            **memory_ports(params), **_log_port(params), **taken_ports(params),
            **({"written": Out(1)} if params.masters else {}),
        })

    def elaborate(self, platform):
        m = Module()
        rows, depth, bits = self.params.rows, self.params.depth, self.params.bits
        word = Signal(8 * _longest(self.params), reset_less=True)
        m.d.comb += self.o.eq(word[:8])
        with m.If(self.shift):
            m.d.sync += word.eq(Cat(word[8:], self.i))

        # Read: the memory's latency, one clock to choose a part, then the word into the register.
        waiting = Signal(READ_LATENCY + 1)
        m.d.sync += waiting.eq(Cat(self.read, waiting))
        part = Signal(data.ArrayLayout(signed(bits), depth), reset_less=True)
        with m.Switch(self.row):
            for row in range(rows):
                with m.Case(row):
                    m.d.sync += (part[place].eq(self.quant_r.data[row * depth + place])
                                 for place in range(depth))
        quant = Signal(data.ArrayLayout(8, depth))
        # Sign-extended: the lanes are signed.
        m.d.comb += (quant[place].eq(part[place]) for place in range(depth))
        sources = {
            Space.WIDE: (self.wide_r, self.wide_w, self.wide_r.data.as_value()),
            Space.QUANT: (self.quant_r, self.quant_w, quant.as_value()),
            Space.GROUP: (self.group_r, self.group_w, self.group_r.data),
        }
        # Words of the wide memory that travel as bytes.
        in_bytes, packed, column = Signal(), Signal(), Signal()
        if self.params.masters:
            m.d.sync += [in_bytes.eq(self.space == Space.BYTES),
                         packed.eq(self.space == Space.CODES),
                         column.eq(self.space == Space.COLUMN)]
            sources[Space.WIDE] = self.wide_r, self.wide_w, Mux(
                in_bytes, Cat(part[:8] for part in _split(self.wide_r.data.as_value(), WIDE_BITS)),
                self.wide_r.data.as_value())
            sources |= {
                Space.MASTER: (self.master_r, self.master_w, _extended(self.master_r.data)),
                Space.VELOCITY: (self.velocity_r, self.velocity_w,
                                 _extended(self.velocity_r.data)),
                Space.PROGRAM: (self.program_r, self.program_w, self.program_r.data),
                Space.LOG: (self.log_r, None, self.log_r.data)}
            taken = {Space.WIDE: self.wide_taken, Space.QUANT: self.quant_taken,
                     Space.GROUP: self.group_taken}
            m.d.comb += self.written.eq(self.write)
        others = {Space.WIDE: (Space.BYTES,), Space.QUANT: (Space.CODES, Space.COLUMN),
                  Space.PROGRAM: (Space.PATCH,)}
        for space, (read, write, value) in sources.items():
            # The space is known long before its words.
            chosen = Signal(name=f"chosen_{space.name.lower()}")
            m.d.sync += chosen.eq(self.space == space)
            if space in others and self.params.masters:
                m.d.sync += chosen.eq(
                    Cat(self.space == one for one in (space, *others[space])).any())
            with m.If(chosen):
                m.d.comb += self.loaded.eq(
                    waiting[READ_LATENCY - (space != Space.QUANT)])
            m.d.comb += [read.en.eq(self.read & chosen), read.addr.eq(self.address)]
            if write is not None:
                m.d.comb += [write.en.eq(self.write & chosen), write.addr.eq(self.address)]
            if self.params.masters and space in taken:
                # Units come first.
                with m.If(chosen & taken[space]):
                    m.d.comb += write.en.eq(0), self.written.eq(0)
            with m.If(self.loaded & chosen):
                m.d.sync += word.eq(value)

        # Write: the top bytes.
        m.d.comb += self.wide_w.data.eq(word), self.group_w.data.eq(word[-GROUP_BITS:])
        if self.params.masters:
            wide = word[-WIDE_BITS * self.params.vector:]
            m.d.comb += [
                Value.cast(self.wide_w.data).eq(Mux(in_bytes, Cat(
                    Cat(byte, Const(0, WIDE_BITS - 8))
                    for byte in _split(word[-8 * self.params.vector:], 8)), wide)),
                *(lane.eq(part) for port in (self.master_w, self.velocity_w)
                  for lane, part in zip(port.data, _split(wide, WIDE_BITS), strict=True)),
                self.program_w.data.eq(word[-len(self.program_w.data):]),
                # Words that are apart may go on from the last to the first.
                self.program_w.addr.eq(self.address[:exact_log2(PROGRAM_WORDS)]),
            ]
        in_byte = [word[-8:].word_select(place, bits) for place in range(_each(self.params))]
        for lane in range(rows * depth):
            row, place = divmod(lane, depth)
            start = len(word) - 8 * (depth - place)
            here, code = self.row == row, word[start:start + bits]
            if self.params.masters:
                byte, place = divmod(lane, len(in_byte))
                here = Mux(packed, self.row == byte, here)
                code = Mux(packed, in_byte[place], code)
                if lane == 0:
                    here, code = here | column, Mux(column, Array(in_byte)[self.row], code)
                else:
                    here &= ~column
            m.d.comb += [self.quant_w.lanes[lane].eq(here), self.quant_w.data[lane].eq(code)]
        if self.params.masters:
            places = exact_log2(len(in_byte))
            with m.If(column):
                m.d.comb += self.quant_w.addr.eq(Cat(self.row[:places], self.address))
        return m

"""Moving a tensor within the quantised memory, several elements a clock: the unit of ``MOVE``."""

from math import gcd

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.array.skew import delayed
from hdl.buffer import Buffer
from hdl.instructions import MoveFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, LaneWritePort, ReadPort, announced_ahead
from hdl.params import INDEX_BITS, MAX_N, ParameterError
from hdl.transpose.block import Block
from hdl.transpose.destination import Destination
from hdl.transpose.gather import Gather
from hdl.transpose.source import Source
from hdl.transpose.walk import STEP, Walk, passes
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word

__all__ = ["COLUMNS", "Mover", "check_sizes", "mover_width"]

#: Columns that the buffer of a machine's mover has room for.
COLUMNS = 512

# Stages, counted in cycles from the walk. Where a step reads and writes, steps are three cycles
# apart, and the stages differ by no multiple of that.
#: A word of the source or the buffer is requested; it is in a register.
_READ = Source.READ
_WORD = _READ + READ_LATENCY + 1
#: A word that is copied is written. The lanes of a row are in a register.
_COPY = _ROW = _WORD + 1
#: The row is in the block; what left it is in a register, and is written to the buffer.
_LEAVE = _ROW + 1
#: It is written to the quantised memory.
_WRITE = _LEAVE + 1
assert (_COPY - _READ) % 3 and (_WRITE - _READ) % 3
# The first row is counted when what outputs see is known.
assert Walk.FIRST_SETUP + 1 + _READ - 2 >= Gather.LATENCY


def mover_width(params):
    """Lanes of a row of a block in a machine's mover: as many as divide a word, at most 16."""
    return gcd(params.slots, 16)


def check_sizes(params, width, columns):
    """Refuse a width of blocks and a number of columns that a :class:`Mover` cannot have."""
    if width < 1 or width & (width - 1) or params.slots % width:
        raise ParameterError(f"width must be a power of two that divides the {params.slots} slots, "
                             f"got {width}")
    if columns & (columns - 1) or not width <= columns <= MAX_N:
        raise ParameterError(f"columns must be a power of two from the {width} of a block to "
                             f"{MAX_N}, got {columns}")


class Mover(wiring.Component):
    """Copies or transposes a quantised tensor, its columns in the order of their slots or not.

    Column s of the destination is the column of the source whose index takes slot s of the order
    table at tab1, or the row with ``TRANSPOSED``; without ``SORTED`` it is s. Lanes of slots
    beyond the table, of padding and of indices that the tensor has not keep what they held, as do
    those beyond the last column. Source and destination must not overlap, and may be rows of
    taller tensors; addresses are modulo ``2**ADDRESS_BITS``.

    With ``WINDOWS`` the rows of the source are those that outputs see with one tap, or the code of
    0, copied or transposed in as many clocks as others (:mod:`hdl.transpose.gather`).

    The memory has one port to read and write, which is left to others in a third of the clocks. A
    copy moves a word every three clocks.
    ``TRANSPOSED``, with ``SORTED`` or not, reads a word, keeps ``width`` lanes of it as a row of a
    block, and writes ``width`` lanes with a column, every three clocks: ``width / 3`` elements a
    clock, for ``width**2 * bits`` flip-flops of a block that rows enter while columns leave. A
    block that keeps all ``slots`` lanes is read once for all of them, which is at most twice as
    fast, for ``width * slots * bits``. So is one of twice the width as it is here, for
    ``4 * width**2 * bits``: fewer where there are more than ``4 * width`` slots.

    ``SORTED`` alone collects the columns of ``width`` rows in a buffer, ``width`` elements in two
    of three clocks, and gathers them from there by the order table, as many again, padding
    included. A buffer of ``columns`` words of block RAM is filled as often as it takes, and all
    slots are gone over each time: about ``2 / 3 width / (1 + ceil(n / columns))`` elements a clock.

    Nothing stalls, and nothing depends on tables: :meth:`cycles`.

    Parameters
    ----------
    params : hdl.params.Params
    width : int
        Lanes of a row of a block, a power of two that divides the slots.
    columns : int
        Columns that the buffer has room for, a power of two, at least ``width``.

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, dst0, tab1, key1; with ``WINDOWS`` src1, tab0, key0.
    quant_r : Out(ReadPort(quant_word(params)))
    quant_w : Out(LaneWritePort(quant_word(params)))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    order_r : Out(ReadPort(ORDER_ENTRY))
        On a machine with groups.
    quant_ahead : Out(1)
        A step is at the quantised memory :func:`~hdl.memory.announced_ahead` cycles from now,
        though it may find nothing to read or write: what is announced depends on no table.
    """
    def __init__(self, params, width, *, columns=COLUMNS):
        check_sizes(params, width, columns)
        self.params = params
        self.width = width
        self.columns = columns
        members = {
            "control": Out(UnitPort()),
            "quant_r": Out(ReadPort(quant_word(params))),
            "quant_w": Out(LaneWritePort(quant_word(params))),
            "quant_ahead": Out(1),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
        }
        if params.max_groups > 1:
            members["order_r"] = Out(ReadPort(ORDER_ENTRY))
        super().__init__(members)

    def cycles(self, m, n, flags):
        """Cycles from ``start`` to ``done``.

        Of a copy, ``3 m ceil(n / slots) + 16``. With ``TRANSPOSED``,
        ``3 (ceil(r / width) ceil(n / width) + 1) width + 16`` with ``r = m``, or with ``SORTED``
        the slots of :func:`~hdl.transpose.walk.slot_bound` for m. With ``SORTED`` alone, 3 and, for
        every pass of s steps, ``s + floor((s - 1) / 2) + 15``: for every ``width`` rows and every
        ``columns`` columns, c of them, a pass of ``(ceil(c / width) + 1) width`` steps and one of
        ``(ceil(r / width) + 1) width``, r those slots for n.
        """
        steps = passes(self.params, self.width, self.columns, m, n, flags)
        if len(steps) == 1:
            return Walk.FIRST_SETUP + 3 * steps[0] - 2 + _WRITE
        return Walk.FIRST_SETUP - Walk.SETUP + sum(
            Walk.SETUP + length + (length - 1) // 2 + _WRITE for length in steps)

    def elaborate(self, platform):
        m = Module()
        params, width = self.params, self.width
        control, fields = self.control, self.control.instruction
        m.submodules.walk = walk = Walk(params, width, self.columns, _WRITE)
        m.submodules.source = source = Source(params, width, self.columns)
        m.submodules.block = block = Block(width, params.bits)
        m.submodules.destination = destination = Destination(params, width)

        # The walk's steps on their way.
        steps = [walk.step]
        for stage in range(1, _LEAVE + 1):
            steps.append(Signal(STEP, name=f"step{stage}"))
            m.d.sync += steps[stage].eq(steps[stage - 1])
        m.d.comb += [
            walk.start.eq(control.start),
            walk.instruction.eq(fields),
            control.done.eq(walk.done),
        ]

        # The memory is announced.
        def announced(stage):
            return steps[stage - announced_ahead(params)]

        m.d.comb += self.quant_ahead.eq(
            announced(_READ).enter & ~walk.gathering
            | Mux(walk.copy, announced(_COPY).enter, announced(_WRITE).leave & ~walk.collecting))

        # A row is read.
        m.d.comb += [
            source.start.eq(control.start),
            source.instruction.eq(fields),
            *(getattr(source, name).eq(getattr(walk, name)) for name in (
                "setup", "again", "copy", "lookup", "collecting", "gathering", "chunk")),
            source.block.eq(destination.block),
            source.look.eq(steps[Source.LOOK]),
            source.found.eq(steps[_READ - 2]),
            source.request.eq(steps[_READ - 1]),
            self.quant_r.en.eq(source.fetch),
            self.quant_r.addr.eq(source.address),
        ]
        wiring.connect(m, wiring.flipped(self.group_r), source.group_r)
        word = Signal(quant_word(params), reset_less=True)
        blank = delayed(m, "blank", source.blank, READ_LATENCY)
        zero = Cat(Const(0, params.bits - 1), (fields.flags & MoveFlag.UNSIGNED).any())
        m.d.sync += Value.cast(word).eq(
            Mux(blank, zero.replicate(params.slots), Value.cast(self.quant_r.data)))

        # Its lanes.
        row = Signal(width * params.bits, reset_less=True)
        group = delayed(m, "group", source.group, _WORD - _READ)
        m.d.sync += row.eq(Value.cast(word).word_select(group, width * params.bits))

        # Rows go into the block, columns leave it.
        taken = delayed(m, "taken", source.taken, _ROW - _READ)
        entered, whole = Signal(width, reset_less=True), Signal(width, reset_less=True)
        column = Signal(width * params.bits, reset_less=True)
        m.d.comb += [
            Value.cast(block.i).eq(row),
            block.step.eq(steps[_ROW].move),
            block.turn.eq(steps[_ROW].block),
        ]
        m.d.sync += column.eq(Value.cast(block.o))
        with m.If(steps[_ROW].move):
            m.d.sync += entered.eq(Cat(entered, taken)[1:])
        with m.If(steps[_LEAVE].block):
            m.d.sync += whole.eq(entered)

        # Columns that are collected, and rows that are gathered.
        if params.max_groups > 1:
            wiring.connect(m, wiring.flipped(self.order_r), source.order_r)
            m.submodules.buffer = buffer = Buffer(width * params.bits, self.columns)
            place = Signal(range(self.columns))
            kept = Signal(width * params.bits, reset_less=True)
            with m.If(walk.setup):
                m.d.sync += place.eq(0)
            with m.Elif(buffer.wen):
                m.d.sync += place.eq(place + 1)
            m.d.comb += [
                buffer.wen.eq(steps[_LEAVE].leave & walk.collecting),
                buffer.waddr.eq(place),
                buffer.wdata.eq(column),
                buffer.raddr.eq(source.place),
            ]
            m.d.sync += kept.eq(buffer.data)
            with m.If(walk.gathering):
                m.d.sync += row.eq(kept)

        # A word is written.
        height, stride = Signal(INDEX_BITS), Signal(ADDRESS_BITS)
        m.d.sync += [height.eq(Mux(walk.transposed, fields.n, fields.m)),
                     stride.eq(height + fields.key1[16:])]
        output = Signal(quant_word(params), reset_less=True)
        m.d.comb += [
            destination.start.eq(control.start),
            destination.instruction.eq(fields),
            destination.height.eq(height),
            destination.stride.eq(stride),
            destination.copy.eq(walk.copy),
            destination.advance.eq(walk.transposed | walk.last),
            destination.rest.eq(walk.rest),
            destination.word.eq(steps[_COPY - 1]),
            destination.column.eq(steps[_WRITE - 1]),
            destination.taken.eq(whole),
            self.quant_w.en.eq(destination.en),
            self.quant_w.addr.eq(destination.address),
            self.quant_w.lanes.eq(destination.lanes),
            Value.cast(self.quant_w.data).eq(Value.cast(output)),
        ]
        with m.If(walk.collecting):
            m.d.comb += destination.column.leave.eq(0)
        m.d.sync += Value.cast(output).eq(
            Mux(walk.copy, Value.cast(word), column.replicate(params.slots // width)))
        return m

"""What happens in which clock of a move."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import MoveFlag
from hdl.params import INDEX_BITS
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["STEP", "Walk", "passes", "slot_bound"]

#: What is done in a step, and again, stage by stage, by all that follow the walk.
STEP = data.StructLayout({
    #: A row is read, a word of the source or of the buffer.
    "enter": 1,
    #: The block takes a row in, unless the tensor is copied; a column leaves it.
    "move": 1, "leave": 1,
    #: The end of a block; of all blocks along the axis, for what enters and for what leaves.
    "block": 1, "entered": 1, "left": 1,
    #: Of a copy: the word is of the last tile.
    "tile": 1,
})


def slot_bound(params, count):
    """Slots that are gone over to find ``count`` indices.

    Sorted groups never take more than ``ceil(count / depth) + groups - 1`` schedule rows
    (:class:`hdl.sort.Sorter`). Where the depth is no power of two it may be a few slots more,
    which saves a division.
    """
    depth = params.depth
    slots = count + params.max_groups * depth - 1
    return slots if depth & (depth - 1) else slots & ~(depth - 1)


def passes(params, width, columns, m, n, flags):
    """Lengths in steps of the passes over the memory that an instruction takes."""
    def blocks(count):
        return -(-count // width)

    if flags & MoveFlag.TRANSPOSED:
        count = slot_bound(params, m) if flags & MoveFlag.SORTED else m
        return [(blocks(count) * blocks(n) + 1) * width]
    if not flags & MoveFlag.SORTED:
        return [m * -(-n // params.slots)]
    gather = (blocks(slot_bound(params, n)) + 1) * width
    collect = [(blocks(min(columns, n - first)) + 1) * width for first in range(0, n, columns)]
    return [steps for taken in collect for steps in (taken, gather)] * blocks(m)


class Walk(wiring.Component):
    """Goes over a tensor in passes of steps.

    A copy is one pass, a word a step, tile by tile and row by row.

    A transposition is one pass over blocks of ``width`` columns of the source by ``width`` columns
    of the destination, first along the latter, a row of a block a step.

    What is sorted but not transposed is gone over ``width`` rows at a time, and of these, as many
    columns at a time as the buffer has room for. Two passes: the columns are collected, block by
    block, in the buffer; then those that are there are gathered from it, along all the slots, as
    in a transposition.

    In steps after the last row of a pass its last block leaves. Of every three clocks one is left
    to others that use the quantised memory: there is a step in the first of them, or in the first
    two in a pass that either reads or writes that memory. A pass begins with ``SETUP`` clocks, the
    first with ``FIRST_SETUP``, and ends with ``drain``, in the last of which ``done`` is.

    Parameters
    ----------
    params : hdl.params.Params
    width : int
        Elements of a row of a block.
    columns : int
        Columns that the buffer has room for, a multiple of ``width``.
    drain : int
        Clocks from the last step of a pass to what it does last.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields flags, m, n.
    done : Out(1)
    setup : Out(1)
        Clocks before a pass.
    again : Out(1)
        Then: rows are gone over from the first column on.
    step : Out(STEP)
    copy, transposed, lookup : Out(1)
        Steady during a pass, as all that follows. ``lookup``: rows are those of slots.
    collecting, gathering : Out(1)
        To the buffer, from it.
    last : Out(1)
        The buffer has the last of the columns.
    chunk : Out(range(MAX_N // columns))
        The number of times that it had been full.
    rest : Out(INDEX_BITS)
        Of a copy, in its last tile: columns from there on.
    """
    FIRST_SETUP = 5
    SETUP = 2

    def __init__(self, params, width, columns, drain):
        self.params = params
        self.width = width
        self.columns = columns
        self.drain = drain
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "done": Out(1),
            "setup": Out(1), "again": Out(1), "step": Out(STEP),
            "copy": Out(1), "transposed": Out(1), "lookup": Out(1),
            "collecting": Out(1), "gathering": Out(1),
            "last": Out(1), "chunk": Out(range((1 << INDEX_BITS - 1) // columns)),
            "rest": Out(INDEX_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        fields, step, width = self.instruction, self.step, self.width
        transposed = (fields.flags & MoveFlag.TRANSPOSED).any()
        is_sorted = (fields.flags & MoveFlag.SORTED).any() & (self.params.max_groups > 1)
        in_rows = Signal()
        m.d.sync += [self.transposed.eq(transposed), self.copy.eq(~transposed & ~is_sorted),
                     in_rows.eq(~transposed & is_sorted)]
        m.d.comb += [
            self.collecting.eq(in_rows & ~self.gathering),
            self.lookup.eq(is_sorted & (transposed | self.gathering)),
            self.again.eq(self.setup & (self.chunk == 0) & ~self.gathering),
        ]

        # Blocks, or words of a copy, along the axis of a pass.
        def blocks(count):
            return count + width - 1 >> width.bit_length() - 1

        left = Signal(INDEX_BITS)
        bound, slots, collected, along = (Signal(INDEX_BITS + 1, name=name) for name in (
            "bound", "slots", "collected", "along"))
        m.d.sync += [
            bound.eq(slot_bound(self.params, Mux(transposed, fields.m, fields.n))),
            slots.eq(blocks(bound)),
            self.last.eq(left <= self.columns),
            collected.eq(Mux(left > self.columns, self.columns // width, blocks(left))),
            along.eq(Mux(self.copy, fields.m, Mux(self.lookup, slots, blocks(fields.m)))),
        ]

        # Across it, lines.
        lines, last_lines = self.rest, Signal()
        m.d.sync += last_lines.eq(lines <= Mux(self.copy, self.params.slots, width))

        wait = Signal(range(max(self.drain, self.FIRST_SETUP)))
        # Which of three clocks.
        beat, stepping = Signal(3, init=1), Signal()
        m.d.comb += stepping.eq(beat[0] | in_rows & beat[1])
        line, to_go = Signal(range(width)), Signal.like(along)
        # A block is in the registers; it is the last along the axis.
        inside, is_last = Signal(), Signal()

        def finish():
            m.d.sync += wait.eq(self.drain - 1)
            m.next = "DRAIN"

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    wait.eq(self.FIRST_SETUP - 1), self.gathering.eq(0), self.chunk.eq(0),
                    left.eq(fields.n), lines.eq(Mux(~transposed & is_sorted, fields.m, fields.n)),
                ]
                with m.If(self.start):
                    m.next = "SETUP"
            with m.State("SETUP"):
                m.d.comb += self.setup.eq(1)
                m.d.sync += [wait.eq(wait - 1), beat.eq(1), line.eq(0), inside.eq(0),
                             to_go.eq(Mux(self.collecting, collected, along))]
                with m.If(wait == 0):
                    m.next = "ENTER"
            with m.State("ENTER"):
                m.d.sync += beat.eq(beat.rotate_left(1))
                with m.If(stepping):
                    m.d.comb += [step.enter.eq(1), step.move.eq(~self.copy),
                                 step.leave.eq(inside), step.tile.eq(last_lines)]
                    m.d.sync += line.eq(line + 1)
                    with m.If(self.copy | (line == width - 1)):
                        m.d.comb += [step.block.eq(1), step.entered.eq(to_go == 1),
                                     step.left.eq(inside & is_last)]
                        m.d.sync += [line.eq(0), inside.eq(~self.copy), is_last.eq(to_go == 1),
                                     to_go.eq(to_go - 1)]
                        with m.If(to_go == 1):
                            m.d.sync += to_go.eq(along)
                            with m.If(in_rows):
                                m.next = "LEAVE"
                            with m.Elif(~last_lines):
                                m.d.sync += lines.eq(
                                    lines - Mux(self.copy, self.params.slots, width))
                            with m.Elif(self.copy):
                                finish()
                            with m.Else():
                                m.next = "LEAVE"
            with m.State("LEAVE"):
                m.d.sync += beat.eq(beat.rotate_left(1))
                with m.If(stepping):
                    m.d.comb += [step.move.eq(1), step.leave.eq(1)]
                    m.d.sync += line.eq(line + 1)
                    with m.If(line == width - 1):
                        m.d.comb += [step.block.eq(1), step.left.eq(1)]
                        finish()
            with m.State("DRAIN"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.sync += wait.eq(self.SETUP - 1)
                    m.next = "SETUP"
                    with m.If(self.collecting):
                        m.d.sync += self.gathering.eq(1)
                    with m.Elif(in_rows & ~self.last):
                        m.d.sync += [self.gathering.eq(0), left.eq(left - self.columns),
                                     self.chunk.eq(self.chunk + 1)]
                    with m.Elif(in_rows & ~last_lines):
                        m.d.sync += [self.gathering.eq(0), left.eq(fields.n), self.chunk.eq(0),
                                     lines.eq(lines - width)]
                    with m.Else():
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
        return m

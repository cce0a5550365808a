"""From the accumulators to wide memory: one column tile of a GEMM's result."""

from contextlib import nullcontext

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.skew import Delay, delayed
from hdl.instructions import MAX_SHIFT, GemmFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, LaneWritePort, ReadPort, WritePort
from hdl.params import ACC_BITS, INDEX_BITS, MAX_M, WIDE_BITS
from hdl.requantise import Requantise, left_shift
from hdl.timing import READOUT_LATENCY, RESULT_LATENCY, Handover
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT, wide_word
from hdl.write_queue import WriteQueue

__all__ = ["Readout", "ReadoutControl", "ResultLane", "results_port"]


def results_port(params):
    """The port at which results are written: to some lanes of a word, if it has more lanes than the
    array columns."""
    return (WritePort if params.read_cols == params.vector else LaneWritePort)(wide_word(params))


class ResultLane(wiring.Component):
    """One column: ``requantise((i - zero) * 2**left, shift + row_shift)``.

    ``zero`` is the last ``i`` that came with ``take_zero``: what the array makes of a row of
    zeros. The difference is exact: it is the product itself, of magnitude below ``2**34``. One
    element per clock, lock step.

    Parameters
    ----------
    left : int
        See :class:`hdl.requantise.Requantise`.

    Members
    -------
    take_zero : In(1)
        ``i`` is of the row of zeros.
    i : In(signed(ACC_BITS))
    shift, row_shift : In(range(MAX_SHIFT + left + 1))
        Their sum is in this range too.
    o : Out(signed(WIDE_BITS))
    clamped : Out(1)
    """
    LATENCY = RESULT_LATENCY

    def __init__(self, left):
        self.left = left
        shift = range(MAX_SHIFT + left + 1)
        super().__init__({
            "take_zero": In(1), "i": In(signed(ACC_BITS)),
            "shift": In(shift), "row_shift": In(shift),
            "o": Out(signed(WIDE_BITS)), "clamped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        zero = Signal(signed(ACC_BITS), reset_less=True)
        with m.If(self.take_zero):
            m.d.sync += zero.eq(self.i)
        m.submodules.requantise = requantise = Requantise(self.left)
        m.d.sync += [
            requantise.i.eq(self.i - zero),
            requantise.shift.eq(self.shift + self.row_shift),
        ]
        m.d.comb += [self.o.eq(requantise.o), self.clamped.eq(requantise.clamped)]
        return m


class ReadoutControl(wiring.Component):
    """Reads the rows of ``read_cols`` columns after the other, and the exponents that go with them.

    Of the columns first the row of zeros, then the others, a row per clock, and those of the next
    columns follow without a gap. With ``COL_GROUPS`` there are ``read_cols - 1`` clocks behind the
    row of zeros in which groups are read.

    Parameters
    ----------
    params : hdl.params.Params
    drain : int
        Cycles from the last row's until it has been written, if it does not wait.

    On a machine that keeps masters rows wait for ``room``, and the end for ``idle``.

    Members
    -------
    start, instruction, finished, released, row, group_r, done : as of :class:`Readout`
    reading : Out(1)
        A row is being read;
    reading_zero : Out(1)
        the row of zeros is, before all others.
    part : Out(range(cols // read_cols))
        Which columns of the column tile.
    last_cols : Out(1), left_cols : Out(range(read_cols + 1))
        They are the instruction's last, and so many.
    shifts : Out(ArrayLayout(range(MAX_SHIFT + left + 1), read_cols))
        Right shift of every column, without what the row's group adds to it: for the rows that were
        read ``READ_LATENCY`` cycles ago and one.
    row_groups : Out(1)
        The row's group adds to it.
    room, idle : In(1)
        Another row may be read; all that were have been written. Only on a machine that keeps
        masters.
    """
    def __init__(self, params, *, drain):
        self.params = params
        self.drain = drain
        self.grouped = params.max_groups > 1
        self.queued = params.masters > 0
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "finished": In(1), "released": Out(1), "row": Out(range(MAX_M + 1)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))), "done": Out(1),
            "reading": Out(1), "reading_zero": Out(1),
            "part": Out(range(params.cols // params.read_cols)),
            "last_cols": Out(1), "left_cols": Out(range(params.read_cols + 1)),
            "shifts": Out(data.ArrayLayout(
                range(MAX_SHIFT + left_shift(params) + 1), params.read_cols)),
            "row_groups": Out(1),
        }
        if self.queued:
            members |= {"room": In(1), "idle": In(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields, width = self.instruction, self.params.read_cols
        handover = Handover(self.params)
        col_groups = self._shifts(m)

        # Column tiles that are complete and not read yet.
        waiting, begun = Signal(range(MAX_M + 1)), Signal()
        m.d.sync += waiting.eq(waiting + self.finished - begun)
        # Where the rows of the column tile are, and its row of zeros; how many of the columns' are
        # left, less one. What the instruction decides is in registers.
        base, zero, row, left, size, first_left, releasing = (
            Signal.like(self.row, name=name) for name in (
                "base", "zero", "row", "left", "size", "first_left", "releasing"))
        m.d.sync += [size.eq(fields.m + 1), first_left.eq(fields.m - 1),
                     releasing.eq(handover.rows_behind(fields.m, either=Mux))]
        row_group, col_group = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        left_cols = Signal(INDEX_BITS)
        count = Signal(range(max(width, self.drain) + 1))
        last_part, last_row = Signal(), Signal()
        releasing_part = self.part == handover.part if handover.early else last_part
        m.d.comb += [
            self.last_cols.eq(left_cols <= width), self.left_cols.eq(left_cols),
            last_part.eq((self.part == self.params.cols // width - 1) | self.last_cols),
            last_row.eq(left == 0),
        ]
        m.d.sync += count.eq(count + 1)
        with m.FSM():
            with m.State("IDLE"), m.If(waiting != 0):
                m.next = "ZERO"
            with m.State("ZERO"):
                m.d.comb += [self.reading_zero.eq(1), self.row.eq(zero), begun.eq(self.part == 0)]
                m.d.sync += [row.eq(base), left.eq(first_left), row_group.eq(fields.tab1),
                             count.eq(1)]
                m.next = "ROWS"
                if self.grouped:
                    with m.If(col_groups):
                        self._read_column(m, col_group, 1)
                        if width > 1:
                            m.next = "COLUMNS"
            if self.grouped and width > 1:
                with m.State("COLUMNS"):
                    self._read_column(m, col_group, count < left_cols)
                    with m.If(count == width - 1):
                        m.next = "ROWS"
            with m.State("ROWS"), m.If(self.room) if self.queued else nullcontext():
                m.d.comb += [self.reading.eq(1), self.row.eq(row),
                             self.released.eq(releasing_part & (left == releasing))]
                with m.If(self.row_groups):
                    m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(row_group)]
                m.d.sync += [row.eq(row + 1), left.eq(left - 1), row_group.eq(row_group + 1)]
                with m.If(last_row):
                    m.d.sync += [count.eq(0), self.part.eq(self.part + 1)]
                    m.next = "ZERO"
                    with m.If(last_part):
                        m.d.sync += [self.part.eq(0), base.eq(base + size), zero.eq(zero + size)]
                    with m.If(self.last_cols):
                        m.next = "DRAIN"
                    with m.Else():
                        m.d.sync += left_cols.eq(left_cols - width)
                        with m.If(last_part & (waiting == 0)):
                            m.next = "IDLE"
            with m.State("DRAIN"):
                drained = count == self.drain
                if self.queued:
                    with m.If(drained):
                        m.d.sync += count.eq(count)
                    drained &= self.idle
                with m.If(drained):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"

        with m.If(self.start):
            m.d.sync += [left_cols.eq(fields.n), self.part.eq(0), base.eq(0), zero.eq(fields.m),
                         waiting.eq(0), col_group.eq(fields.tab2)]
        return m

    def _shifts(self, m):
        """Shifts of the columns; whether they have groups."""
        fields, flags, left = self.instruction, self.instruction.flags, left_shift(self.params)
        col_groups = Signal()
        if self.grouped:
            m.d.comb += [self.row_groups.eq((flags & GemmFlag.ROW_GROUPS).any()),
                         col_groups.eq((flags & GemmFlag.COL_GROUPS).any())]
        base = Signal(range(MAX_SHIFT + left + 1))
        m.d.sync += base.eq(fields.shift + left - Mux(self.row_groups, fields.arg[:4], 0)
                            - Mux(col_groups, fields.arg[4:], 0))
        if self.grouped:
            # Groups shift in, those beyond n too, when the rows before them have passed.
            self._asked = Signal()
            m.submodules.asked = asked = Delay(1, READ_LATENCY, reset=True)
            m.d.comb += asked.i.eq(self._asked)
            with m.If(asked.o):
                following = [*list(self.shifts)[1:], base + self.group_r.data[:4]]
                m.d.sync += [shift.eq(value) for shift, value in zip(
                    self.shifts, following, strict=True)]
        with m.If(~col_groups):
            m.d.sync += [shift.eq(base) for shift in self.shifts]
        return col_groups

    def _read_column(self, m, address, inside):
        """Ask for a column's group."""
        m.d.comb += [self._asked.eq(1), self.group_r.en.eq(inside), self.group_r.addr.eq(address)]
        with m.If(inside):
            m.d.sync += address.eq(address + 1)


class Readout(wiring.Component):
    """``y = requantise((results[i] - results[m]) << e, shift)`` for every row of a tile.

    Row m is that of zeros: what the array adds to a product comes out of it, and where the
    streamed operand is unsigned, what its codes are below its values. ``e`` is the exponent of the
    row and of the column, see :mod:`hdl.instructions`. Rows of results are numbered round their
    memory, those of a column tile behind those of the one before (:mod:`hdl.accumulate`).
    ``read_cols`` columns follow each other: row i of those with number t goes to wide word
    ``dst0 + t // p * (m + more) + i``, ``more`` being the high half of ``key1``; p of them lie
    beside each other in a word.

    One row of them per clock. They take ``m + 1`` cycles, and ``read_cols - 1`` more with
    ``COL_GROUPS``; the last row has been written ``LATENCY`` cycles later.

    Nothing stalls, but on a machine that keeps masters: there results go through a
    :class:`~hdl.write_queue.WriteQueue`, and rows are read as there is room in it. As long as
    ``wide_taken`` is 0 that takes no cycle more.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
        Begin with the first column tile.
    instruction : In(INSTRUCTION_LAYOUT)
    finished : In(1)
        A column tile has been accumulated.
    released : Out(1)
        Its results may be written over, in order and no faster than a row per cycle of the array's
        clock: :class:`hdl.timing.Handover`.
    row : Out(range(MAX_M + 1)), results : In(ArrayLayout(signed(ACC_BITS), cols))
        The accumulators' port.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
        Idle on a machine without groups.
    wide_w : Out(results_port(params))
    wide_taken : In(1)
        Another unit writes to the wide memory in this cycle. Only on a machine that keeps masters.
    clamped : Out(8)
        Elements clamped, columns beyond n left out.
    done : Out(1)
        All column tiles have been written.
    """
    #: Cycles from a row's request to its last effect.
    LATENCY = READOUT_LATENCY

    def __init__(self, params):
        self.params = params
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "finished": In(1), "released": Out(1),
            "row": Out(range(MAX_M + 1)),
            "results": In(data.ArrayLayout(signed(ACC_BITS), params.cols)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "wide_w": Out(results_port(params)),
            "clamped": Out(8), "done": Out(1),
        }
        if params.masters:
            members["wide_taken"] = In(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        width, parts = self.params.read_cols, self.params.cols // self.params.read_cols
        m.submodules.control = control = ReadoutControl(self.params, drain=self.LATENCY)
        for name in ("start", "instruction", "finished"):
            m.d.comb += getattr(control, name).eq(getattr(self, name))
        for name in ("released", "row", "done"):
            m.d.comb += getattr(self, name).eq(getattr(control, name))
        connect(m, control.group_r, flipped(self.group_r))

        # Stage 1: a row has been read, its columns are chosen. Stage 2: their lanes.
        arrived, arrived_zero = Signal(self.LATENCY), Signal(READ_LATENCY + 1)
        m.d.sync += [arrived.eq(Cat(control.reading, arrived)),
                     arrived_zero.eq(Cat(control.reading_zero, arrived_zero))]
        part = delayed(m, "part", control.part, READ_LATENCY)
        # Of the last columns some are none.
        last_cols = delayed(m, "last_cols", control.last_cols, self.LATENCY - 1)
        clamped = Signal(width)
        beside = self.params.vector // width
        shape = data.ArrayLayout(signed(WIDE_BITS), width)
        results = to_write = self.wide_w.data if beside == 1 else Signal(shape, name="to_write")
        if self.params.masters:
            m.submodules.queue = queue = WriteQueue(shape)
            results, to_write = queue.i, queue.o
        row_shift = Signal(4)
        m.d.sync += row_shift.eq(Mux(control.row_groups, self.group_r.data[:4], 0))
        for col in range(width):
            m.submodules[f"lane{col}"] = lane = ResultLane(left_shift(self.params))
            chosen = Signal(signed(ACC_BITS), name=f"chosen{col}", reset_less=True)
            m.d.sync += chosen.eq(Array(
                self.results[number * width + col] for number in range(parts))[part])
            m.d.comb += [
                lane.take_zero.eq(arrived_zero[-1]),
                lane.i.eq(chosen),
                lane.shift.eq(control.shifts[col]),
                lane.row_shift.eq(row_shift),
                Value.cast(results[col]).eq(lane.o),
                clamped[col].eq(lane.clamped & (~last_cols | (control.left_cols > col))),
            ]
        # Stage 3: write. Stage 4: count what was clamped.
        written = arrived[-2]
        if self.params.masters:
            # The last is written, and counted, in the cycle before the columns may change.
            assert self.LATENCY < queue.DEPTH
            m.d.comb += [
                control.room.eq(queue.room), control.idle.eq(queue.idle),
                queue.reserve.eq(control.reading), queue.push.eq(arrived[-2]),
                queue.taken.eq(self.wide_taken),
            ]
            written = queue.pop
        m.d.sync += self.clamped.eq(Mux(arrived[-2], _count(clamped), 0))

        # Behind the last row of a word's last columns the other rows of the tensor follow, behind
        # that of others the columns beside them.
        fields = self.instruction
        destination, skip = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        # Rows to come, which end below zero.
        rows, first_rows = (Signal(signed(len(self.row) + 1), name=name)
                            for name in ("rows", "first_rows"))
        m.d.comb += [self.wide_w.en.eq(written), self.wide_w.addr.eq(destination)]
        if to_write is not self.wide_w.data:
            m.d.comb += Value.cast(self.wide_w.data).eq(Value.cast(to_write).replicate(beside))
        m.d.sync += [skip.eq(fields.key1[16:] + 1), first_rows.eq(fields.m - 2)]
        with m.If(written):
            m.d.sync += [destination.eq(destination + Mux(rows[-1], skip, 1)),
                         rows.eq(Mux(rows[-1], first_rows, rows - 1))]
        if beside > 1:
            place, first = Signal(beside, init=1), Signal(ADDRESS_BITS)
            m.d.comb += self.wide_w.lanes.eq(Cat(bit.replicate(width) for bit in place))
            with m.If(written & rows[-1]):
                m.d.sync += place.eq(place.rotate_left(1))
                with m.If(place[-1]):
                    m.d.sync += first.eq(destination + skip)
                with m.Else():
                    m.d.sync += destination.eq(first)
        with m.If(self.start):
            m.d.sync += [destination.eq(fields.dst0), rows.eq(fields.m - 2)]
            if beside > 1:
                m.d.sync += [place.eq(1), first.eq(fields.dst0)]
        return m


def _count(bits):
    """Ones in a value, by a balanced tree of adders."""
    if len(bits) == 1:
        return bits
    return _count(bits[:len(bits) // 2]) + _count(bits[len(bits) // 2:])

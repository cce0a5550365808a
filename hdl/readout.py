"""From the accumulators to wide memory: one column tile of a GEMM's result."""

from contextlib import nullcontext

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.instructions import MAX_SHIFT, GemmFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import ACC_BITS, INDEX_BITS, MAX_M, WIDE_BITS
from hdl.requantise import Requantise, left_shift
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT, wide_word
from hdl.write_queue import WriteQueue

__all__ = ["Readout", "ReadoutControl", "ResultLane"]


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
    LATENCY = 1 + Requantise.LATENCY

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
    """Reads the rows of ``vector`` columns after the other, and the exponents that go with them.

    Parameters
    ----------
    params : hdl.params.Params
    drain : int
        Cycles after their last row in which the columns and their shifts must hold.

    On a machine that keeps masters rows wait for ``room``, and the end for ``idle``.

    Members
    -------
    start, instruction, finished, released, row, group_r, done : as of :class:`Readout`
    reading : Out(1)
        A row is being read;
    reading_zero : Out(1)
        the row of zeros is, before all others.
    part : Out(range(cols // vector))
        Which columns of the column tile.
    left_cols : Out(INDEX_BITS)
        Columns from these on.
    shifts : Out(ArrayLayout(range(MAX_SHIFT + left + 1), vector))
        Right shift of every column, without what the row's group adds to it.
    row_groups : Out(1)
        The row's group adds to it.
    ended : Out(1)
        The last row of the columns has been written.
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
            "reading": Out(1), "reading_zero": Out(1), "left_cols": Out(INDEX_BITS),
            "part": Out(range(params.cols // params.vector)),
            "shifts": Out(data.ArrayLayout(
                range(MAX_SHIFT + left_shift(params) + 1), params.vector)),
            "row_groups": Out(1), "ended": Out(1),
        }
        if self.queued:
            members |= {"room": In(1), "idle": In(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields, flags, vector = self.instruction, self.instruction.flags, self.params.vector
        left = left_shift(self.params)
        col_groups = Signal()
        if self.grouped:
            m.d.comb += [self.row_groups.eq((flags & GemmFlag.ROW_GROUPS).any()),
                         col_groups.eq((flags & GemmFlag.COL_GROUPS).any())]

        # Column groups, then the row of zeros, then the others.
        waiting = Signal()
        count = Signal(range(max(vector, self.drain) + READ_LATENCY + 1))
        row = Signal.like(self.row)
        row_group, col_group = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        base = Signal(range(MAX_SHIFT + left + 1))
        m.d.sync += base.eq(fields.shift + left - Mux(self.row_groups, fields.arg[:4], 0)
                            - Mux(col_groups, fields.arg[4:], 0))
        last_part, last_cols = Signal(), Signal()
        m.d.comb += [last_cols.eq(self.left_cols <= vector),
                     last_part.eq((self.part == self.params.cols // vector - 1) | last_cols)]
        with m.If(self.finished):
            m.d.sync += waiting.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [count.eq(0), row.eq(0), row_group.eq(fields.tab1)]
                m.d.sync += [shift.eq(base) for shift in self.shifts]
                with m.If(waiting | (self.part != 0)):
                    with m.If(self.part == 0):
                        m.d.sync += waiting.eq(0)
                    m.next = "BEGIN"
                    if self.grouped:
                        with m.If(col_groups):
                            m.next = "COLUMNS"
            if self.grouped:
                with m.State("COLUMNS"):
                    m.d.sync += count.eq(count + 1)
                    with m.If((count < vector) & (count < self.left_cols)):
                        m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(col_group)]
                        m.d.sync += col_group.eq(col_group + 1)
                    with m.If(count >= READ_LATENCY):
                        following = [*list(self.shifts)[1:], base + self.group_r.data[:4]]
                        m.d.sync += [shift.eq(value) for shift, value in zip(
                            self.shifts, following, strict=True)]
                    with m.If(count == vector + READ_LATENCY - 1):
                        m.next = "BEGIN"
            with m.State("BEGIN"):
                if self.params.array_clock == 1 and not self.queued:
                    m.d.comb += self.released.eq(last_part)
                m.d.sync += count.eq(0)
                m.next = "ZERO"
            with m.State("ZERO"):
                m.d.comb += [self.reading_zero.eq(1), self.row.eq(fields.m)]
                m.next = "ROWS"
            with m.State("ROWS"), m.If(self.room) if self.queued else nullcontext():
                m.d.comb += [self.reading.eq(1), self.row.eq(row)]
                with m.If(self.row_groups):
                    m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(row_group)]
                m.d.sync += [row.eq(row + 1), row_group.eq(row_group + 1)]
                with m.If(row == (fields.m - 1)[:len(row)]):
                    if self.params.array_clock == 1 and self.queued:
                        # No sooner: there is no knowing how long a row waits.
                        m.d.comb += self.released.eq(last_part)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                drained = count == self.drain
                if self.queued:
                    with m.If(~drained):
                        m.d.sync += count.eq(count + 1)
                    drained &= self.idle
                else:
                    m.d.sync += count.eq(count + 1)
                if self.params.array_clock > 1:
                    m.d.comb += self.released.eq(last_part & (count == READ_LATENCY))
                with m.If(drained):
                    m.d.sync += [self.left_cols.eq(self.left_cols - vector),
                                 self.part.eq(Mux(last_part, 0, self.part + 1))]
                    m.d.comb += [self.ended.eq(1), self.done.eq(last_cols)]
                    m.next = "IDLE"

        with m.If(self.start):
            m.d.sync += [self.left_cols.eq(fields.n), self.part.eq(0), col_group.eq(fields.tab2)]
        return m


class Readout(wiring.Component):
    """``y = requantise((results[i] - results[m]) << e, shift)`` for every row of a tile.

    Row m is that of zeros: what the array adds to a product comes out of it, and where the
    streamed operand is unsigned, what its codes are below its values. ``e`` is the exponent of the
    row and of the column, see :mod:`hdl.instructions`. ``vector`` columns follow each other: row i
    of those with number t goes to wide word ``dst0 + t * (m + more) + i``, ``more`` being the high
    half of ``key1``.

    One row of them per clock. They take ``m + 4 + LATENCY`` cycles, and ``vector + READ_LATENCY``
    more with ``COL_GROUPS``, whose groups are read first.

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
        Results may be written over from the next cycle on, in order and no faster than a row per
        cycle: those of the last columns are being read, or have been where the array's clock is
        the faster one or the machine keeps masters.
    row : Out(range(MAX_M + 1)), results : In(ArrayLayout(signed(ACC_BITS), cols))
        The accumulators' port.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
        Idle on a machine without groups.
    wide_w : Out(WritePort(wide_word))
    wide_taken : In(1)
        Another unit writes to the wide memory in this cycle. Only on a machine that keeps masters.
    clamped : Out(8)
        Elements clamped, columns beyond n left out.
    done : Out(1)
        All column tiles have been written.
    """
    #: Cycles from a row's request to its last effect: read, choose columns, add, requantise,
    #: write, count.
    LATENCY = READ_LATENCY + 1 + ResultLane.LATENCY + 1

    def __init__(self, params):
        self.params = params
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "finished": In(1), "released": Out(1),
            "row": Out(range(MAX_M + 1)),
            "results": In(data.ArrayLayout(signed(ACC_BITS), params.cols)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "wide_w": Out(WritePort(wide_word(params))),
            "clamped": Out(8), "done": Out(1),
        }
        if params.masters:
            members["wide_taken"] = In(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        vector, parts = self.params.vector, self.params.cols // self.params.vector
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
        clamped = Signal(vector)
        results = self.wide_w.data
        if self.params.masters:
            m.submodules.queue = queue = WriteQueue(wide_word(self.params))
            results = queue.i
        row_shift = Signal(4)
        m.d.sync += row_shift.eq(Mux(control.row_groups, self.group_r.data[:4], 0))
        for col in range(vector):
            m.submodules[f"lane{col}"] = lane = ResultLane(left_shift(self.params))
            chosen = Signal(signed(ACC_BITS), name=f"chosen{col}", reset_less=True)
            m.d.sync += chosen.eq(Array(
                self.results[part * vector + col] for part in range(parts))[control.part])
            m.d.comb += [
                lane.take_zero.eq(arrived_zero[-1]),
                lane.i.eq(chosen),
                lane.shift.eq(control.shifts[col]),
                lane.row_shift.eq(row_shift),
                Value.cast(results[col]).eq(lane.o),
                clamped[col].eq(lane.clamped & (control.left_cols > col)),
            ]
        # Stage 3: write. Stage 4: count what was clamped.
        destination = Signal(ADDRESS_BITS)
        written = arrived[-2]
        if self.params.masters:
            # The last is written, and counted, in the cycle before the columns may change.
            assert self.LATENCY < queue.DEPTH
            m.d.comb += [
                control.room.eq(queue.room), control.idle.eq(queue.idle),
                queue.reserve.eq(control.reading), queue.push.eq(arrived[-2]),
                queue.taken.eq(self.wide_taken), Value.cast(self.wide_w.data).eq(queue.o),
            ]
            written = queue.pop
        m.d.comb += [self.wide_w.en.eq(written), self.wide_w.addr.eq(destination)]
        m.d.sync += self.clamped.eq(Mux(arrived[-2], _count(clamped), 0))
        with m.If(self.start):
            m.d.sync += destination.eq(self.instruction.dst0)
        with m.Elif(written | control.ended):
            m.d.sync += destination.eq(destination + Mux(
                control.ended, self.instruction.key1[16:], 1))
        return m


def _count(bits):
    """Ones in a value, by a balanced tree of adders."""
    if len(bits) == 1:
        return bits
    return _count(bits[:len(bits) // 2]) + _count(bits[len(bits) // 2:])

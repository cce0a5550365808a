"""From the accumulators to wide memory: one column tile of a GEMM's result."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import ACC_BITS, INDEX_BITS, MAX_M, WIDE_BITS
from hdl.protocol import MAX_SHIFT, GemmFlag
from hdl.requantise import Requantise, left_shift
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT, wide_word

__all__ = ["Readout", "ResultLane"]


class ResultLane(wiring.Component):
    """One column: ``requantise((i + (ones << bits - 1)) * 2**left, shift + row_shift)``.

    ``ones`` is the last ``i`` that came with ``take_ones``, 0 without ``unsigned``. The sum is
    exact: it is the result for the unsigned operand, below ``2**34``. One element per clock, lock
    step.

    Parameters
    ----------
    bits : int
        Of an element of the streamed operand.
    left : int
        See :class:`hdl.requantise.Requantise`.

    Members
    -------
    unsigned : In(1)
    take_ones : In(1)
        ``i`` is of the row of ones.
    i : In(signed(ACC_BITS))
    shift, row_shift : In(range(MAX_SHIFT + left + 1))
        Their sum is in this range too.
    o : Out(signed(WIDE_BITS))
    clamped : Out(1)
    """
    LATENCY = 1 + Requantise.LATENCY

    def __init__(self, bits, left):
        self.bits = bits
        self.left = left
        shift = range(MAX_SHIFT + left + 1)
        super().__init__({
            "unsigned": In(1), "take_ones": In(1), "i": In(signed(ACC_BITS)),
            "shift": In(shift), "row_shift": In(shift),
            "o": Out(signed(WIDE_BITS)), "clamped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        correction = Signal(signed(ACC_BITS), reset_less=True)
        with m.If(~self.unsigned):
            m.d.sync += correction.eq(0)
        with m.Elif(self.take_ones):
            m.d.sync += correction.eq(self.i << self.bits - 1)
        m.submodules.requantise = requantise = Requantise(self.left)
        m.d.sync += [
            requantise.i.eq(self.i + correction),
            requantise.shift.eq(self.shift + self.row_shift),
        ]
        m.d.comb += [self.o.eq(requantise.o), self.clamped.eq(requantise.clamped)]
        return m


class Readout(wiring.Component):
    """``y = requantise((acc[i] + (acc[m] << bits - 1)) << e, shift)`` for every row of a tile.

    ``acc[m]``, the row of ones, counts with ``UNSIGNED`` alone. ``e`` is the exponent of the row
    and of the column, see :mod:`hdl.protocol`. Column tiles follow each other: row i of tile t
    goes to wide word ``dst0 + t * m + i``.

    One row per clock; nothing stalls. A tile takes ``m + 3 + LATENCY`` cycles, one more with
    ``UNSIGNED`` and ``cols + READ_LATENCY`` more with ``COL_GROUPS``, whose groups are read first.

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
    begun : Out(1)
        Its rows are being read, from the next cycle on; the row of ones first, then the others
        in order.
    row : Out(range(MAX_M + 1)), acc : In(ArrayLayout(signed(ACC_BITS), cols))
        The accumulators' port.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
        Idle on a machine without groups.
    wide_w : Out(WritePort(wide_word))
    clamped : Out(8)
        Elements clamped, columns beyond n left out.
    done : Out(1)
        All column tiles have been written.
    """
    #: Cycles from a row's request to its last effect: read, add, requantise, write, count.
    LATENCY = READ_LATENCY + ResultLane.LATENCY + 1

    def __init__(self, params):
        self.params = params
        self.grouped = params.max_groups > 1
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "finished": In(1), "begun": Out(1),
            "row": Out(range(MAX_M + 1)),
            "acc": In(data.ArrayLayout(signed(ACC_BITS), params.cols)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "wide_w": Out(WritePort(wide_word(params))),
            "clamped": Out(8), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        fields, flags, cols = self.instruction, self.instruction.flags, self.params.cols
        left = left_shift(self.params)
        unsigned_a = (flags & GemmFlag.UNSIGNED).any()
        row_groups, col_groups = Signal(), Signal()
        if self.grouped:
            m.d.comb += [row_groups.eq((flags & GemmFlag.ROW_GROUPS).any()),
                         col_groups.eq((flags & GemmFlag.COL_GROUPS).any())]

        # Control: column groups, then the row of ones, then the others.
        waiting, reading, ones = Signal(), Signal(), Signal()
        count = Signal(range(max(cols, self.LATENCY) + READ_LATENCY + 1))
        row, left_cols = Signal.like(self.row), Signal(INDEX_BITS)
        row_group, col_group, destination = (Signal(ADDRESS_BITS) for _ in range(3))
        base = Signal(range(MAX_SHIFT + left + 1))
        shifts = [Signal.like(base, name=f"shift{col}") for col in range(cols)]
        m.d.sync += base.eq(fields.shift + left - Mux(row_groups, fields.arg[:4], 0)
                            - Mux(col_groups, fields.arg[4:], 0))
        with m.If(self.finished):
            m.d.sync += waiting.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [count.eq(0), row.eq(0), ones.eq(unsigned_a),
                             row_group.eq(fields.tab1)]
                m.d.sync += [shift.eq(base) for shift in shifts]
                with m.If(waiting):
                    m.d.sync += waiting.eq(0)
                    m.next = "BEGIN"
                    if self.grouped:
                        with m.If(col_groups):
                            m.next = "COLUMNS"
            if self.grouped:
                with m.State("COLUMNS"):
                    m.d.sync += count.eq(count + 1)
                    with m.If((count < cols) & (count < left_cols)):
                        m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(col_group)]
                        m.d.sync += col_group.eq(col_group + 1)
                    with m.If(count >= READ_LATENCY):
                        following = [*shifts[1:], base + self.group_r.data[:4]]
                        m.d.sync += [shift.eq(value) for shift, value in zip(
                            shifts, following, strict=True)]
                    with m.If(count == cols + READ_LATENCY - 1):
                        m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += self.begun.eq(1)
                m.d.sync += count.eq(0)
                m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += [reading.eq(1), self.row.eq(Mux(ones, fields.m, row))]
                m.d.sync += ones.eq(0)
                with m.If(~ones):
                    with m.If(row_groups):
                        m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(row_group)]
                    m.d.sync += [row.eq(row + 1), row_group.eq(row_group + 1)]
                    with m.If(row + 1 == fields.m):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self.LATENCY):
                    m.d.sync += left_cols.eq(left_cols - cols)
                    m.d.comb += self.done.eq(left_cols <= cols)
                    m.next = "IDLE"

        # Stage 1: a row has been read. Stage 2: its lanes.
        arrived, arrived_ones = Signal(self.LATENCY), Signal(READ_LATENCY)
        m.d.sync += [arrived.eq(Cat(reading & ~ones, arrived)),
                     arrived_ones.eq(Cat(reading & ones, arrived_ones))]
        clamped = Signal(cols)
        for col in range(cols):
            m.submodules[f"lane{col}"] = lane = ResultLane(self.params.bits, left)
            m.d.comb += [
                lane.unsigned.eq(unsigned_a),
                lane.take_ones.eq(arrived_ones[-1]),
                lane.i.eq(self.acc[col]),
                lane.shift.eq(shifts[col]),
                lane.row_shift.eq(Mux(row_groups, self.group_r.data[:4], 0)),
                Value.cast(self.wide_w.data[col]).eq(lane.o),
                clamped[col].eq(lane.clamped & (left_cols > col)),
            ]
        # Stage 3: write. Stage 4: count what was clamped.
        m.d.comb += [self.wide_w.en.eq(arrived[-2]), self.wide_w.addr.eq(destination)]
        m.d.sync += self.clamped.eq(Mux(arrived[-2], _count(clamped), 0))
        with m.If(self.start):
            m.d.sync += [left_cols.eq(fields.n), col_group.eq(fields.tab2),
                         destination.eq(fields.dst0)]
        with m.Elif(arrived[-2]):
            m.d.sync += destination.eq(destination + 1)
        return m


def _count(bits):
    """Ones in a value, by a balanced tree of adders."""
    if len(bits) == 1:
        return bits
    return _count(bits[:len(bits) // 2]) + _count(bits[len(bits) // 2:])

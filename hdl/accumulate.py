"""Accumulators: sums over the tiles along the inner dimension."""

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay, register
from hdl.buffer import Buffer
from hdl.chain import SelectAdd
from hdl.memory import READ_LATENCY
from hdl.params import ACC_BITS, MAX_M
from hdl.timing import ACCUMULATORS_AHEAD, ACCUMULATORS_SPACING

__all__ = ["Accumulators", "results_shape", "sum_tag"]


def results_shape(params):
    """A row of results, as it is kept until it is read out."""
    return data.ArrayLayout(signed(ACC_BITS), params.cols)


def sum_tag(params):
    """What travels with a row of sums."""
    return data.StructLayout({
        "valid": 1,
        #: The first row of a column tile's first tile, and of its others.
        "first": 1, "again": 1,
        #: The first tile along the inner dimension: what was accumulated is forgotten.
        "fresh": 1,
        #: The last tile along the inner dimension: the sums are results.
        "final": 1,
        #: Its last row.
        "last": 1,
        #: How far what was accumulated is shifted left.
        "shifts": range(params.max_groups),
    })


def _steps(params):
    """Control of a group's three steps, each in the cycle in which it takes it."""
    row = range(MAX_M + 1)
    return data.StructLayout({
        #: A row's read;
        "read": row,
        #: how far it is shifted left, by twice so many places, or forgotten, ``READ_LATENCY``
        #: cycles later;
        "fresh": 1, "fours": range((params.max_groups + 1) // 2),
        #: and whether by one place more, with the sum, a cycle later;
        "doubled": 1,
        #: its write, and that of a result, and of the last one.
        "valid": 1, "written": row, "final": 1, "last": 1,
    })


class AccumulatorGroup(wiring.Component):
    """Accumulators and results of a few columns.

    A shift is made of two: by an even number of places on the way from the block RAM, a LUT for a
    bit with up to four groups, and by one place more in the inputs that the adder's chain has to
    spare.

    Parameters
    ----------
    params : hdl.params.Params
    sums : ArrayLayout
        Of these columns.
    mapped : bool
        Adders are cells of the ECP5, :mod:`hdl.chain`.

    Members
    -------
    i : In(_steps)
    o : Out(_steps)
        A cycle later, for the group to the right.
    sums : In(sums)
        ``READ_LATENCY`` cycles after the read.
    number : In(range(MAX_M + 1)), results : Out(ArrayLayout(signed(ACC_BITS), columns))
        See :class:`Accumulators`.
    """
    def __init__(self, params, sums, *, mapped=False):
        self.params = params
        self.mapped = mapped
        super().__init__({
            "i": In(_steps(params)), "o": Out(_steps(params)), "sums": In(sums),
            "number": In(range(MAX_M + 1)),
            "results": Out(data.ArrayLayout(signed(ACC_BITS), sums.length)),
        })

    def elaborate(self, platform):
        m = Module()
        shape, step = self.results.shape(), self.i
        # Sums and their control are registers.
        m.submodules.memory = memory = Buffer(shape, MAX_M + 1, registered=False)
        m.submodules.kept = kept = Buffer(shape, MAX_M + 1, read_domain="readout",
                                          registered=False)
        m.d.comb += Value.cast(self.o).eq(register(m, "following", Value.cast(step)))
        m.d.comb += [
            memory.raddr.eq(step.read),
            memory.waddr.eq(step.written), memory.wen.eq(step.valid),
            kept.waddr.eq(step.written), kept.wen.eq(step.final),
            kept.raddr.eq(self.number), self.results.eq(kept.data),
        ]
        for col in range(shape.length):
            # The ways from the block RAM and from the array are long: a stage of their own.
            word = register(m, f"word{col}", Mux(
                step.fresh, 0, memory.data[col] << (step.fours << 1))[:ACC_BITS].as_signed())
            add = SelectAdd(a=self.sums[col].shape(), b=signed(ACC_BITS + 1),
                            c=signed(ACC_BITS), o=signed(ACC_BITS), mapped=self.mapped)
            m.submodules[f"add{col}"] = add
            m.d.comb += [add.a.eq(register(m, f"sum{col}", self.sums[col])),
                         add.b.eq(word << 1), add.c.eq(word), add.select.eq(step.doubled)]
            total = register(m, f"total{col}", add.o)
            m.d.comb += [Value.cast(memory.wdata[col]).eq(total),
                         Value.cast(kept.wdata[col]).eq(total)]
        return m


class Accumulators(wiring.Component):
    """``acc[row][c] = (fresh ? 0 : acc[row][c] << shifts) + sums[c]``, and results apart.

    Rows are numbered round the memories, ``MAX_M + 1`` of them: one after the other from the first
    row of a column tile, which follows the last one of the column tile before, and ``again`` from
    there. The first after ``start`` is number 0. So a column tile does not touch results of those
    before it as long as all of them fit.

    One row per clock, lock step. The sums of every group of columns come a cycle after those of the
    group to the left, as the mesh gives them, and control goes from group to group. The same row
    may come again ``SPACING`` cycles later at the earliest, so that it has been written before it
    is read. Sums never leave ``ACC_BITS`` bits: the largest, for ``MAX_K`` products of 8 bits
    shifted 7 times, is below ``2**34``.

    Results are read in the clock domain ``readout``, which may be another.

    Parameters
    ----------
    params : hdl.params.Params
    sums : ArrayLayout
        Of the mesh.
    groups : list of range
        Columns of each group, in order.
    mapped : bool
        See :class:`AccumulatorGroup`.

    Members
    -------
    start : In(1)
        Nothing is under way.
    tag : In(sum_tag)
        ``AHEAD`` cycles before the sums of the first group.
    sums : In(sums)
    finished : Out(1)
        The last row of a column tile is being written.
    number : In(range(MAX_M + 1))
    results : Out(ArrayLayout(signed(ACC_BITS), cols))
        What the row of that number was in the last ``final`` tile that has been written,
        ``READ_LATENCY`` cycles of ``readout`` later.
    """
    #: Cycles from a tag to its sums, and to the first cycle after the row was written.
    AHEAD, SPACING = ACCUMULATORS_AHEAD, ACCUMULATORS_SPACING

    def __init__(self, params, sums, groups, *, mapped=False):
        self.params = params
        self.mapped = mapped
        self.groups = groups
        super().__init__({
            "start": In(1), "tag": In(sum_tag(params)), "sums": In(sums), "finished": Out(1),
            "number": In(range(MAX_M + 1)), "results": Out(results_shape(params)),
        })

    def elaborate(self, platform):
        m = Module()
        tag, step = self.tag, Signal(_steps(self.params))
        # The last row's number, and what comes before the column tile's first.
        row, before = (Signal(range(MAX_M + 1), name=name, reset_less=True)
                       for name in ("row", "before"))
        m.submodules.count = count = SelectAdd(
            a=unsigned(1), b=row.shape(), c=row.shape(), o=row.shape(), mapped=self.mapped)
        m.d.comb += [count.a.eq(1), count.b.eq(before), count.c.eq(row),
                     count.select.eq(tag.again)]
        with m.If(tag.valid):
            m.d.sync += row.eq(count.o)
        with m.If(tag.first):
            m.d.sync += before.eq(row)
        with m.If(self.start):
            m.d.sync += row.eq(MAX_M)
        m.submodules.shift = shift = Delay(tag.shape(), 1 + READ_LATENCY)
        m.submodules.write = write = Delay(
            data.StructLayout({"valid": 1, "final": 1, "last": 1}), self.SPACING)
        m.submodules.row = written = Delay(row.shape(), self.SPACING - 1)
        m.d.comb += [
            shift.i.eq(tag), written.i.eq(row),
            step.read.eq(row), step.fresh.eq(shift.o.fresh),
            step.fours.eq(shift.o.shifts >> 1), step.written.eq(written.o),
            # Where no number of groups makes it otherwise, none is doubled.
            step.doubled.eq(register(m, "doubled", shift.o.shifts[0])
                            if self.params.max_groups > 1 else 0),
        ]
        for name in ("valid", "final", "last"):
            m.d.comb += [write.i[name].eq(tag.valid & tag[name]), step[name].eq(write.o[name])]
        for number, columns in enumerate(self.groups):
            sums = data.ArrayLayout(self.sums.shape().elem_shape, len(columns))
            m.submodules[f"group{number}"] = group = AccumulatorGroup(
                self.params, sums, mapped=self.mapped)
            m.d.comb += [group.i.eq(step), group.number.eq(self.number)]
            for place, col in enumerate(columns):
                m.d.comb += [group.sums[place].eq(self.sums[col]),
                             self.results[col].eq(group.results[place])]
            last, step = step, group.o
        m.d.comb += self.finished.eq(last.last)
        return m

"""The weight-stationary systolic mesh."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.generate import ColumnTable, Steps
from hdl.array.skew import Delay, delayed, register
from hdl.array.table import TableMac, recode, sum_shape
from hdl.timing import SHARE, MeshTiming

__all__ = ["Mesh"]


class Mesh(wiring.Component):
    """``rows`` x ``cols`` elements: ``sums[c] = K[c] + sum_s a[s] * w[s][c] * 2**(marks below s)``.

    Slot s is product ``s % depth`` of row ``s // depth``. "Marks below s" counts the marked rows
    below that of s: a mark doubles the partial sum that enters its row, so a mark on row 0 does
    nothing here (what the previous tile left is doubled by whoever adds the tiles up). K is what
    the weights and marks of a tile decide: the sum that a row of zeros gives.

    Operands move right by ``share`` columns per clock, partial sums down by one row per clock. So
    the operands of row r come r cycles after those of row 0, as :class:`hdl.memory.StreamPort`
    gives them; sums leave together, or with ``skewed``, those of every group of ``share`` columns a
    cycle after the group to its left. Lock step: one row of operands per clock and one row of sums,
    ``latency`` cycles after row 0's; nothing stalls, and there is no valid.

    The entries of the tables enter at the top of every column and move down, and with them, once
    for the columns that share addresses, their place and to which row they belong: a row that has
    taken its last one hands over to the row above it.

    Weights are loaded row by row, the *last* row first, with ``load`` at most every
    ``load_cycles`` cycles. ``swap`` comes with the first operands of the new tile and travels with
    them: they and all after them meet the new weights and marks, all before them the old ones.
    Tiles may follow each other without a gap under two rules:

    * ``swap`` comes at the earliest ``swap_wait`` cycles after the last ``load``;
    * the first ``load`` of a tile comes at the earliest ``swap_cycles`` cycles after the ``swap``
      to the tile before it (0: in the same cycle, negative: so long before it).

    Parameters
    ----------
    params : hdl.params.Params
    share : int
        Columns that share addresses.
    marks, mapped : bool
        See :class:`hdl.array.table.TableMac`.
    skewed : bool

    Attributes
    ----------
    groups, latency, load_cycles, swap_wait, swap_cycles
        Those of :class:`~hdl.timing.MeshTiming`.

    Members
    -------
    load : In(1)
    weights : In(ArrayLayout(ArrayLayout(signed(bits), depth), cols))
        One row of weights for every column, with ``load``.
    mark : In(1)
        The mark of that row.
    swap : In(1)
    a : In(ArrayLayout(signed(bits), rows * depth))
        One row of operands, by slot; those of row r are r cycles late.
    sums : Out(ArrayLayout(sum_shape, cols))
    """
    def __init__(self, params, *, share=SHARE, marks=True, mapped=False, skewed=False):
        self.params = params
        self.mapped = mapped
        rows, cols = params.rows, params.cols
        timing = MeshTiming(params, share=share, skewed=skewed)
        for name in ("groups", "latency", "load_cycles", "swap_wait", "swap_cycles"):
            setattr(self, name, getattr(timing, name))
        self.elements = [[TableMac(params, row, columns=len(group), marks=marks, mapped=mapped)
                          for group in self.groups] for row in range(rows)]
        self.steps = Steps(params)
        self._deskewed = 0 if skewed else len(self.groups) - 1
        super().__init__({
            "load": In(1),
            "weights": In(data.ArrayLayout(data.ArrayLayout(signed(params.bits), params.depth),
                                           cols)),
            "mark": In(1),
            "swap": In(1),
            "a": In(data.ArrayLayout(signed(params.bits), params.slots)),
            "sums": Out(data.ArrayLayout(sum_shape(params, rows), cols)),
        })

    def elaborate(self, platform):
        m = Module()
        for row, elements in enumerate(self.elements):
            for number, element in enumerate(elements):
                m.submodules[f"row{row}_group{number}"] = element

        marked = self._load(m)

        # The wave moves right, the mark with the sums.
        kept, bank = Signal(), Signal()
        m.d.comb += bank.eq(kept ^ self.swap)
        m.d.sync += kept.eq(bank)
        depth = self.params.depth
        for row, elements in enumerate(self.elements):
            first = elements[0]
            operands = [self.a[row * depth + lane] for lane in range(depth)]
            wave = recode(self.params, operands, bank)
            bank = register(m, f"bank{row}", bank)
            m.d.comb += first.wave_i.eq(wave)
            if first.has_mark:
                marks = Signal(2, name=f"marks{row}", reset_less=True)
                with m.If(first.written):
                    m.d.sync += marks.bit_select(first.write_o.address.bank, 1).eq(marked[row])
                m.d.comb += first.mark_i.eq(delayed(
                    m, f"mark{row}", marks.bit_select(wave[-1], 1), first.latency - 1 - first.STEP))
            for left, right in pairwise(elements):
                m.d.comb += right.wave_i.eq(left.wave_o)
                if first.has_mark:
                    m.d.comb += right.mark_i.eq(left.mark_o)

        # Sums move down and leave group by group.
        for above, below in pairwise(self.elements):
            for source, sink in zip(above, below, strict=True):
                m.d.comb += sink.sum_i.eq(source.sum_o)
        for number, (group, element) in enumerate(zip(self.groups, self.elements[-1],
                                                      strict=True)):
            sums = delayed(m, f"deskew{number}", element.sum_o,
                           max(0, self._deskewed - number))
            m.d.comb += Cat(Value.cast(self.sums[col]) for col in group).eq(sums)
        return m

    def _load(self, m):
        """Generators, and what moves down. Of every row the mark of the entries at its first
        element."""
        params = self.params
        m.submodules.steps = steps = self.steps
        m.d.comb += steps.load.eq(self.load)
        entries = []
        for col in range(params.cols):
            m.submodules[f"column{col}"] = column = ColumnTable(params, mapped=self.mapped)
            m.d.comb += [column.load.eq(self.load), column.weights.eq(self.weights[col])]
            m.d.comb += [getattr(column, name).eq(getattr(steps, name))
                         for name in ("pick", "subtract", "first", "carry")]
            entries.append(column.entry)
        mark = Signal(reset_less=True)
        with m.If(self.load):
            m.d.sync += mark.eq(self.mark)
        for stage in range(Steps.LATENCY - 1):
            mark = register(m, f"mark_{stage}", mark)
        marked = []
        for row in range(params.rows):
            mark = register(m, f"marked{row}", mark)
            marked.append(mark)

        m.submodules.begin = begin = Delay(1, params.rows - 1)
        m.d.comb += begin.i.eq(steps.begin)
        for number, group in enumerate(self.groups):
            column = [elements[number] for elements in self.elements]
            m.d.comb += [
                column[0].write_i.eq(steps.write),
                column[0].entries_i.as_value().eq(Cat(entries[col] for col in group)),
                column[-1].begin.eq(begin.o),
            ]
            for above, below in pairwise(column):
                m.d.comb += [below.write_i.eq(above.write_o), below.entries_i.eq(above.entries_o),
                             above.token_i.eq(below.token_o)]
        return marked

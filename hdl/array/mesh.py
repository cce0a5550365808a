"""The weight-stationary systolic mesh."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.mac import ShiftMac
from hdl.array.skew import Delay

__all__ = ["Mesh"]


class Mesh(wiring.Component):
    """``rows`` x ``cols`` elements: ``sums[c] = sum_s a[s] * w[s][c] * 2**(marks below s)``.

    Slot s is product ``s % depth`` of row ``s // depth``. "Marks below s" counts the marked rows
    below that of s: a mark doubles the partial sum that enters its row, so a mark on row 0 does
    nothing here (what the previous tile left is doubled by whoever adds the tiles up).

    Operands move right by one column per clock, partial sums down by one row per ``STEP`` clocks;
    the triangular delay lines that this needs are inside. Lock step: one row of operands per
    clock and one row of sums, ``latency`` cycles later; nothing stalls, and there is no valid.

    Weights are loaded row by row into shadow registers, a chain that enters at the top and moves
    down: the *last* row first, ``rows`` cycles with ``load``, not necessarily in a sequence.
    ``swap`` comes with the first operands of the new tile and travels with them: they and all
    after them meet the new weights and marks, all before them the old ones. Tiles may follow each
    other without a gap under two rules:

    * ``swap`` comes at the earliest one cycle after the last ``load``;
    * ``load`` comes at the earliest ``swap_cycles`` cycles after the last ``swap`` (0: in the
      same cycle), when the wave has swapped its last element.

    Parameters
    ----------
    params : hdl.params.Params
    pe : class
        The element, see :mod:`hdl.array.mac`.

    Attributes
    ----------
    latency : int
        Cycles from ``a`` to ``sums``.
    swap_cycles : int
        Cycles after ``swap`` in which there must be no ``load``.

    Members
    -------
    load : In(1)
    weights : In(ArrayLayout(ArrayLayout(weight_shape, depth), cols))
        One row of weights for every column, with ``load``.
    mark : In(1)
        The mark of that row.
    swap : In(1)
    a : In(ArrayLayout(operand_shape, rows * depth))
        One row of operands, by slot.
    sums : Out(ArrayLayout(sum_shape, cols))
    """
    def __init__(self, params, pe=ShiftMac):
        self.params = params
        rows, cols = params.rows, params.cols
        self.elements = [[pe(params, row) for _ in range(cols)] for row in range(rows)]
        last = self.elements[-1][-1]
        # Operands wait one cycle at the edge, so that the swap is a cycle ahead of them.
        self.latency = 1 + (rows - 1) * last.STEP + (cols - 1) + last.latency
        self.swap_cycles = (rows - 1) * last.STEP + (cols - 1)
        super().__init__({
            "load": In(1),
            "weights": In(data.ArrayLayout(
                data.ArrayLayout(last.weight_shape, params.depth), cols)),
            "mark": In(1),
            "swap": In(1),
            "a": In(data.ArrayLayout(last.operand_shape, params.slots)),
            "sums": Out(data.ArrayLayout(last.sum_shape, cols)),
        })

    def elaborate(self, platform):
        m = Module()
        for row, elements in enumerate(self.elements):
            for col, element in enumerate(elements):
                m.submodules[f"row{row}_col{col}"] = element

        def delayed(name, value, cycles):
            delay = Delay(Value.cast(value).shape(), cycles)
            m.submodules[name] = delay
            m.d.comb += delay.i.eq(value)
            return delay.o

        # Weights move down, and with them the marks, kept once per row.
        weights, mark = list(self.weights), self.mark
        marks = []
        for row, elements in enumerate(self.elements):
            for col, element in enumerate(elements):
                m.d.comb += [element.load.eq(self.load), element.w_i.eq(weights[col])]
                weights[col] = element.w_o
            shadow = Signal(name=f"shadow_mark{row}", reset_less=True)
            with m.If(self.load):
                m.d.sync += shadow.eq(mark)
            mark = shadow
            marks.append(shadow)

        # The wave moves right: the swap, operands one cycle behind it, the mark with the sums.
        for row, elements in enumerate(self.elements):
            first = elements[0]
            operands = Cat(self.a[row * self.params.depth + lane]
                           for lane in range(self.params.depth))
            swap = delayed(f"swap{row}", self.swap, row * first.STEP)
            active = Signal(name=f"active_mark{row}", reset_less=True)
            with m.If(swap):
                m.d.sync += active.eq(marks[row])
            wave = {"swap": swap, "a": delayed(f"skew{row}", operands, 1 + row * first.STEP)}
            if first.has_mark:
                wave["mark"] = delayed(f"mark{row}", active, first.latency - first.STEP)
            for col, element in enumerate(elements):
                for name, value in wave.items():
                    if col:
                        value = Signal.like(value, name=f"{name}{row}_{col}", reset_less=True)
                        m.d.sync += value.eq(wave[name])
                        wave[name] = value
                    m.d.comb += Value.cast(getattr(element, name)).eq(value)

        # Sums move down and leave column by column.
        for above, below in pairwise(self.elements):
            for source, sink in zip(above, below, strict=True):
                m.d.comb += sink.sum_i.eq(source.sum_o)
        for col, element in enumerate(self.elements[-1]):
            m.d.comb += Value.cast(self.sums[col]).eq(
                delayed(f"deskew{col}", element.sum_o, self.params.cols - 1 - col))
        return m

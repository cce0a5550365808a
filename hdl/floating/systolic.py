"""The systolic mesh of floating-point elements."""

from itertools import pairwise

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import delayed

__all__ = ["Systolic"]


class Systolic(wiring.Component):
    """``rows`` x ``cols`` elements of :mod:`hdl.floating.mac` of one product each.

    ``sums[c]`` is what the elements of column c make of one another, row 0 first. Operands move
    right by one column per clock, partial sums down by one row per ``STEP`` clocks. So the operands
    of row r come ``r * STEP`` cycles after those of row 0; sums leave together. Lock step: one row
    of operands per clock and one row of sums, ``latency`` cycles after row 0's; nothing stalls,
    and there is no valid.

    Weights are loaded row by row into shadow registers, a chain that enters at the top and moves
    down: the *last* row first, ``rows`` cycles with ``load``, not necessarily in a sequence.
    ``swap`` comes with the first operands of the new tile and travels with them: they and all
    after them meet the new weights, all before them the old ones. Tiles may follow each other
    without a gap under two rules:

    * ``swap`` comes at the earliest one cycle after the last ``load``;
    * ``load`` comes at the earliest ``swap_cycles`` cycles after the last ``swap`` (0: in the
      same cycle), when the wave has swapped its last element.

    Parameters
    ----------
    params : hdl.params.Params
        Of one product per element.
    pe : callable
        ``pe(params, row)``, the element.

    Attributes
    ----------
    latency : int
        Cycles from ``a`` of row 0 to ``sums``.
    swap_cycles : int
        Cycles after ``swap`` in which there must be no ``load``.

    Members
    -------
    load : In(1)
    weights : In(ArrayLayout(weight_shape, cols))
        One row of weights, with ``load``.
    swap : In(1)
    a : In(ArrayLayout(operand_shape, rows))
        That of row r is ``r * STEP`` cycles late.
    sums : Out(ArrayLayout(sum_shape, cols))
    """
    def __init__(self, params, pe):
        self.params = params
        rows, cols = params.rows, params.cols
        self.elements = [[pe(params, row) for _ in range(cols)] for row in range(rows)]
        last = self.elements[-1][-1]
        # Operands wait one cycle at the edge, so that the swap is a cycle ahead of them.
        self.latency = 1 + (rows - 1) * last.STEP + (cols - 1) + last.latency
        self.swap_cycles = (rows - 1) * last.STEP + (cols - 1)
        super().__init__({
            "load": In(1), "swap": In(1),
            "weights": In(data.ArrayLayout(last.weight_shape, cols)),
            "a": In(data.ArrayLayout(last.operand_shape, rows)),
            "sums": Out(data.ArrayLayout(last.sum_shape, cols)),
        })

    def elaborate(self, platform):
        m = Module()
        for row, elements in enumerate(self.elements):
            for col, element in enumerate(elements):
                m.submodules[f"row{row}_col{col}"] = element

        # Weights move down.
        weights = [Value.cast(weight) for weight in self.weights]
        for elements in self.elements:
            for col, element in enumerate(elements):
                m.d.comb += [element.load.eq(self.load),
                             Value.cast(element.w_i).eq(weights[col])]
                weights[col] = Value.cast(element.w_o)

        # The wave moves right: the swap, operands one cycle behind it.
        for row, elements in enumerate(self.elements):
            wave = {"swap": delayed(m, f"swap{row}", self.swap, row * elements[0].STEP),
                    "a": delayed(m, f"edge{row}", self.a[row], 1)}
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
                delayed(m, f"deskew{col}", element.sum_o, self.params.cols - 1 - col))
        return m

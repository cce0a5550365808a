"""Rows into columns."""

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Block"]


class Block(wiring.Component):
    """Takes in a square of elements row by row and gives it out column by column.

    In a cycle with ``step`` a row goes in and a column of the block before comes out: the elements
    move down for the length of a block, to the left for that of the next, so that one square of
    registers is enough. The k-th element of a column is of the k-th row that went in, columns come
    out in their order, and ``o`` is the column that this ``step`` makes room for.

    It has ``width**2 * bits`` flip-flops with a choice of two in front of each.

    Parameters
    ----------
    width : int
        Rows and columns.
    bits : int
        Of an element.

    Members
    -------
    step : In(1)
    turn : In(1)
        With ``step``: it is the last of a block.
    i, o : In(width x bits), Out(width x bits)
    """
    def __init__(self, width, bits):
        self.width = width
        self.bits = bits
        row = data.ArrayLayout(unsigned(bits), width)
        super().__init__({"step": In(1), "turn": In(1), "i": In(row), "o": Out(row)})

    def elaborate(self, platform):
        m = Module()
        last = self.width - 1
        # Whether elements move to the left.
        left = Signal()
        lines = [[Signal(self.bits, name=f"element_{y}_{x}", reset_less=True)
                  for x in range(self.width)] for y in range(self.width)]
        for y, line in enumerate(lines):
            for x, element in enumerate(line):
                above = lines[y - 1][x] if y else self.i[x]
                # What came in from above has its first row at the bottom.
                right = line[x + 1] if x < last else self.i[last - y]
                with m.If(self.step):
                    m.d.sync += element.eq(Mux(left, right, above))
            m.d.comb += Value.cast(self.o[last - y]).eq(Mux(left, line[0], lines[last][last - y]))
        with m.If(self.step & self.turn):
            m.d.sync += left.eq(~left)
        return m

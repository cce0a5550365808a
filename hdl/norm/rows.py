"""Walks over a tensor: the tiles of its columns, and the rows of a tile."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS
from hdl.params import INDEX_BITS, MAX_M

__all__ = ["ColumnTiles", "RowReader"]


class ColumnTiles(wiring.Component):
    """Counts the tiles of ``cols`` columns that ``n`` columns make.

    ``used`` and ``last`` describe the present tile from two cycles after ``first`` or ``step``.

    Parameters
    ----------
    cols : int

    Members
    -------
    first : In(1)
        Go to the first tile.
    step : In(1)
        Go to the next one.
    n : In(INDEX_BITS)
        At least 1.
    used : Out(cols)
        Lanes that hold a column of the tensor.
    last : Out(1)
    """
    def __init__(self, cols):
        self.cols = cols
        super().__init__({
            "first": In(1),
            "step": In(1),
            "n": In(INDEX_BITS),
            "used": Out(cols),
            "last": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal(INDEX_BITS)
        with m.If(self.first):
            m.d.sync += left.eq(self.n)
        with m.Elif(self.step):
            m.d.sync += left.eq(left - self.cols)
        m.d.sync += [
            self.used.eq(Cat(left > lane for lane in range(self.cols))),
            self.last.eq(left <= self.cols),
        ]
        return m


class RowReader(wiring.Component):
    """Issues the reads of a number of consecutive rows, from the cycle after ``start``.

    One row per cycle, or ``spaced``, one row in two cycles; then, if ``paired``, the second of
    the two reads the same row of a second tensor.

    Parameters
    ----------
    paired : bool
    most : int
        Most rows.

    Members
    -------
    start : In(1)
    rows : In(range(most + 1))
        Taken with ``start``, as the rest is.
    spaced : In(1)
    base, second : In(ADDRESS_BITS)
        Addresses of the first row; the second matters only if ``paired``.
    busy : Out(1)
        Rows are left to read.
    row : Out(1)
        This cycle reads a row of the first tensor.
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    """
    def __init__(self, *, paired, most=MAX_M):
        self.paired = paired
        super().__init__({
            "start": In(1),
            "rows": In(range(most + 1)),
            "spaced": In(1),
            "base": In(ADDRESS_BITS),
            "second": In(ADDRESS_BITS),
            "busy": Out(1),
            "row": Out(1),
            "en": Out(1),
            "addr": Out(ADDRESS_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.rows)
        spaced, odd = Signal(), Signal()
        addr, second = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [
            self.busy.eq(left != 0),
            self.row.eq(self.busy & ~odd),
            self.en.eq(self.busy if self.paired else self.row),
            self.addr.eq(Mux(odd, second, addr) if self.paired else addr),
        ]
        with m.If(self.start):
            m.d.sync += [
                left.eq(self.rows),
                spaced.eq(self.spaced),
                odd.eq(0),
                addr.eq(self.base),
                second.eq(self.second),
            ]
        with m.Elif(self.busy):
            with m.If(spaced & ~odd):
                m.d.sync += odd.eq(1)
            with m.Else():
                m.d.sync += [odd.eq(0), left.eq(left - 1),
                             addr.eq(addr + 1), second.eq(second + 1)]
        return m

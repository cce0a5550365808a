"""Accumulators: sums over the tiles along the inner dimension."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.buffer import Buffer
from hdl.memory import READ_LATENCY
from hdl.params import ACC_BITS, MAX_M

__all__ = ["Accumulators", "results_shape", "sum_tag"]


def results_shape(params):
    """A row of results, as it is kept until it is read out."""
    return data.ArrayLayout(signed(ACC_BITS), params.cols)


def sum_tag(params):
    """What travels with a row of sums."""
    return data.StructLayout({
        "valid": 1,
        #: The first row of a tile.
        "first": 1,
        #: The first tile along the inner dimension: what was accumulated is forgotten.
        "fresh": 1,
        #: The last tile along the inner dimension: the sums are results.
        "final": 1,
        #: Its last row.
        "last": 1,
        #: How far what was accumulated is shifted left.
        "shifts": range(params.max_groups),
    })


class Accumulators(wiring.Component):
    """``acc[row][c] = (fresh ? 0 : acc[row][c] << shifts) + sums[c]``, and the results of it.

    One row per clock, one row number after the other from each ``first`` on; lock step. The same
    row may come again ``SPACING`` cycles later at the earliest, so that it has been written
    before it is read. Sums never leave ``ACC_BITS`` bits: the largest, for
    ``MAX_K`` products of 8 bits shifted 7 times, is below ``2**34``.

    Parameters
    ----------
    params : hdl.params.Params
    sums : ArrayLayout
        Of the mesh.

    Members
    -------
    tag : In(sum_tag)
        ``AHEAD`` cycles before the sums.
    sums : In(sums)
    en : Out(1), row : Out(range(MAX_M + 1)), results : Out(results_shape)
        A row of a ``final`` tile, ``SPACING - 1`` cycles after its tag.
    finished : Out(1)
        It is the last of a column tile.
    """
    #: Cycles from a tag to its sums: reading and shifting.
    AHEAD = READ_LATENCY + 1
    #: Cycles from a tag to the first cycle after the row was written.
    SPACING = AHEAD + 2

    def __init__(self, params, sums):
        self.params = params
        super().__init__({
            "tag": In(sum_tag(params)), "sums": In(sums),
            "en": Out(1), "row": Out(range(MAX_M + 1)), "results": Out(results_shape(params)),
            "finished": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Buffer(self.results.shape(), MAX_M + 1)

        # Stage 1: read.
        following = Signal.like(self.row)
        row = Mux(self.tag.first, 0, following)
        with m.If(self.tag.valid):
            m.d.sync += following.eq(row + 1)
        m.d.comb += memory.raddr.eq(row)
        m.submodules.read = read = Delay(self.tag.shape(), READ_LATENCY)
        m.submodules.write = write = Delay(
            data.StructLayout({"valid": 1, "final": 1, "last": 1}), self.AHEAD + 1, reset=True)
        m.submodules.row = written = Delay(self.row.shape(), self.AHEAD + 1)
        m.d.comb += [
            read.i.eq(self.tag),
            write.i.valid.eq(self.tag.valid), write.i.final.eq(self.tag.final),
            write.i.last.eq(self.tag.last),
            written.i.eq(row),
        ]
        # Stage 2: shift; the sums arrive.
        # Stage 3: add.
        for col in range(self.params.cols):
            shifted = Signal(signed(ACC_BITS), name=f"shifted{col}", reset_less=True)
            total = Signal(signed(ACC_BITS), name=f"total{col}", reset_less=True)
            m.d.sync += [
                shifted.eq(Mux(read.o.fresh, 0, memory.data[col] << read.o.shifts)),
                total.eq(shifted + self.sums[col]),
            ]
            m.d.comb += [Value.cast(memory.wdata[col]).eq(total),
                         Value.cast(self.results[col]).eq(total)]
        # Stage 4: write.
        m.d.comb += [
            memory.wen.eq(write.o.valid),
            memory.waddr.eq(written.o),
            self.en.eq(write.o.valid & write.o.final),
            self.row.eq(written.o),
            self.finished.eq(write.o.valid & write.o.last),
        ]
        return m

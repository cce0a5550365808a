"""Where the quantiser's codes go in the quantised memory."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, LaneWritePort
from hdl.unit import quant_word

__all__ = ["CodeWriter"]


class CodeWriter(wiring.Component):
    """Writes the codes of a tensor, tile by tile of ``vector`` columns, row by row.

    A word has lanes for several tiles; each tile's codes go to lanes of their own. A row's codes
    are written in the cycle in which they come.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
        The tensor begins at ``base``.
    base : In(ADDRESS_BITS)
    enter : In(1)
        The next tile begins, in a later cycle than ``start`` and before its first row.
    en : In(1)
        ``q`` is a row's.
    q : In(vector x signed(bits))
    quant_w : Out(LaneWritePort(quant_word(params)))
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1), "base": In(ADDRESS_BITS), "enter": In(1), "en": In(1),
            "q": In(data.ArrayLayout(signed(params.bits), params.vector)),
            "quant_w": Out(LaneWritePort(quant_word(params))),
        })

    def elaborate(self, platform):
        m = Module()
        slots, vector = self.params.slots, self.params.vector
        # The next row, and the tile's first; which of a word's tiles it is.
        target, first = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        tile = Signal(slots // vector)
        m.d.comb += [
            self.quant_w.en.eq(self.en),
            self.quant_w.addr.eq(target),
            self.quant_w.lanes.eq(Cat(tile[lane // vector] for lane in range(slots))),
        ]
        m.d.comb += (self.quant_w.data[lane].eq(self.q[lane % vector]) for lane in range(slots))
        with m.If(self.start):
            # As after the last tile of a word.
            m.d.sync += [target.eq(self.base), tile.eq(1 << len(tile) - 1)]
        with m.Elif(self.enter):
            m.d.sync += tile.eq(tile.rotate_left(1))
            with m.If(tile[-1]):
                m.d.sync += first.eq(target)
            with m.Else():
                m.d.sync += target.eq(first)
        with m.Else():
            m.d.sync += target.eq(target + self.en)
        return m

"""Where the columns of a block go."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS
from hdl.params import INDEX_BITS
from hdl.transpose.walk import STEP
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["Destination"]


class Destination(wiring.Component):
    """The word that each column goes to, or that is copied, and the lanes that are written.

    Columns of a block are ``width`` rows of the destination that follow each other, from
    ``width * block`` on. They go to lanes ``width * group`` and following of word
    ``dst0 + tile * stride + row``; groups and tiles are counted along the axis. Columns beyond
    the last row are not written, nor those of which no element is.

    Parameters
    ----------
    params : hdl.params.Params
    width : int
        Elements of a column.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The field dst0.
    height : In(INDEX_BITS)
        Rows of the destination.
    stride : In(ADDRESS_BITS)
        Rows of the taller tensor that it is of.
    copy : In(1)
    advance : In(1)
        After all blocks along the axis come the next ``width`` rows, not the same again.
    rest : In(INDEX_BITS)
        Copied columns in a word of the last tile.
    word : In(STEP)
        Stage of a word that is copied, the one before it is written.
    column : In(STEP)
        Stage of a column that leaves, likewise; none but those for the quantised memory.
    taken : In(width)
        The elements of a column that are written.
    block : Out(INDEX_BITS)
        Number of the blocks of rows before.
    en : Out(1)
        In the next cycle, as all that follows.
    address : Out(ADDRESS_BITS)
    lanes : Out(slots)
    """
    def __init__(self, params, width):
        self.params = params
        self.width = width
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "height": In(INDEX_BITS),
            "stride": In(ADDRESS_BITS), "copy": In(1), "advance": In(1), "rest": In(INDEX_BITS),
            "word": In(STEP), "column": In(STEP), "taken": In(width),
            "block": Out(INDEX_BITS),
            "en": Out(1), "address": Out(ADDRESS_BITS), "lanes": Out(params.slots),
        })

    def elaborate(self, platform):
        m = Module()
        width, groups = self.width, self.params.slots // self.width
        within = width.bit_length() - 1

        # Word of the first row of the block, in the first tile and in this one; the present word.
        first, tile, word = (Signal(ADDRESS_BITS, name=name, reset_less=True)
                             for name in ("first", "tile", "word"))
        line, group = Signal(range(width)), Signal(range(groups))
        following, beside = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        step = Mux(self.copy, self.word.enter, self.column.leave)
        m.d.comb += [following.eq(Mux(self.advance, first + width, first)),
                     beside.eq(tile + self.stride)]
        with m.If(self.start):
            m.d.sync += [signal.eq(self.instruction.dst0) for signal in (first, tile, word)]
            m.d.sync += [self.block.eq(0), line.eq(0), group.eq(0)]
        with m.Elif(step):
            m.d.sync += [word.eq(word + 1), line.eq(line + 1)]
            with m.If(self.copy & self.word.entered):
                m.d.sync += [tile.eq(beside), word.eq(beside)]
            with m.If(self.column.block & ~self.copy):
                m.d.sync += [word.eq(tile), line.eq(0), group.eq(group + 1)]
                with m.If(self.column.left):
                    m.d.sync += [first.eq(following), tile.eq(following), word.eq(following),
                                 group.eq(0), self.block.eq(self.block + self.advance)]
                with m.Elif(group == groups - 1):
                    m.d.sync += [tile.eq(beside), word.eq(beside), group.eq(0)]

        row = Cat(line, self.block)
        m.d.sync += [
            self.address.eq(word),
            # The steps go on beyond the last slot, where there may be no memory.
            self.en.eq(step & (self.copy | (row < self.height) & self.taken.any())),
        ]

        # Groups of lanes that are written, those of which some are, and which.
        whole, part = Signal(groups, reset_less=True), Signal(groups, reset_less=True)
        some = Signal(width, reset_less=True)
        m.d.sync += [whole.eq(0), (part[k].eq(group == k) for k in range(groups)),
                     some.eq(self.taken)]
        with m.If(self.copy):
            quotient, remainder = self.rest[within:], self.rest[:within]
            m.d.sync += [(whole[k].eq(~self.word.tile | (quotient > k)) for k in range(groups)),
                         (part[k].eq(quotient == k) for k in range(groups)),
                         (some[k].eq(remainder > k) for k in range(width))]
        m.d.comb += (self.lanes[lane].eq(whole[lane // width]
                                         | part[lane // width] & some[lane % width])
                     for lane in range(self.params.slots))
        return m

"""The quantiser's datapath: one lane for every column of a word."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import READ_LATENCY
from hdl.noise import Noise
from hdl.params import INDEX_BITS, MAX_N
from hdl.quantise.exponent import EXPONENT_BITS, MAGNITUDE_BITS, sum_bits
from hdl.quantise.groups import GROUP_INDEX_BITS
from hdl.quantise.lane import Lane, reach_bits
from hdl.unit import INSTRUCTION_LAYOUT, wide_word

__all__ = ["Columns"]


class Columns(wiring.Component):
    """The lanes with their noise and exponents; in lock step with :class:`Schedule`.

    Parameters
    ----------
    params : hdl.params.Params
    masters : bool
        There is ``scanned_rows``.

    Members
    -------
    instruction : In(INSTRUCTION_LAYOUT)
        The fields n, key0, key1.
    unsigned, stochastic : In(1)
    searching, joining, enter, clear : In(1)
    scanned_rows : In(1)
        With ``masters``: what is searched is of :class:`~hdl.instructions.ScanRow`.
    at : In(depth + 1)
        Bit k: a step of the phase began k cycles ago.
    channel, left : In(INDEX_BITS)
        First channel of the tile, and channels from there on.
    x : In(wide_word(params))
        ``READ_LATENCY`` cycles after the step.
    row : In(MAGNITUDE_BITS)
        Instead of ``x`` to lane 0, while ``rows``.
    rows : In(1)
    group : In(cols x GROUP_INDEX_BITS + 1)
        With ``x``.
    exponent : In(signed(EXPONENT_BITS))
    load : In(cols)
        The lanes that take ``exponent``.
    magnitude, largest : Out(cols x MAGNITUDE_BITS)
    total : Out(cols x total_bits)
    row_reach : Out(reach_bits)
        Of lane 0.
    farthest : Out(cols x reach_bits)
    exponents : Out(wide_word(params))
        Exponent of every lane.
    q : Out(cols x signed(bits))
        ``depth`` cycles after the step.
    """
    #: Cycles from a step to the word it gives.
    DEPTH = READ_LATENCY + Lane.LATENCY

    def __init__(self, params, masters=False):
        cols = params.vector
        self.params = params
        #: Width of a lane's sum: it gets an element of every word.
        self.total_bits = sum_bits(params.tensor_words)
        self.scanned = masters
        self.lanes = [Lane(params.bits, self.total_bits, params.max_groups, scanned=masters)
                      for _ in range(cols)]
        reach = reach_bits(params.bits, params.max_groups)
        self.noise = Noise(cols)
        super().__init__({
            "instruction": In(INSTRUCTION_LAYOUT),
            "unsigned": In(1), "stochastic": In(1),
            "searching": In(1), "joining": In(1), "enter": In(1), "clear": In(1),
            **({"scanned_rows": In(1)} if masters else {}),
            "at": In(self.DEPTH + 1),
            "channel": In(INDEX_BITS), "left": In(INDEX_BITS),
            "x": In(wide_word(params)),
            "group": In(data.ArrayLayout(GROUP_INDEX_BITS + 1, cols)),
            "row": In(MAGNITUDE_BITS), "rows": In(1),
            "exponent": In(signed(EXPONENT_BITS)), "load": In(cols),
            "magnitude": Out(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "largest": Out(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "total": Out(data.ArrayLayout(self.total_bits, cols)),
            "row_reach": Out(reach),
            "farthest": Out(data.ArrayLayout(reach, cols)),
            "exponents": Out(wide_word(params)),
            "q": Out(data.ArrayLayout(signed(params.bits), cols)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.noise = noise = self.noise
        fields = self.instruction

        # The block of the row's first element in this tile: ``ceil(n / 8)`` further every row.
        blocks_bits = len(self.channel) - 3
        block = Signal(range(self.params.max_rows * -(-MAX_N // Noise.BLOCK)))
        blocks = Signal(blocks_bits)
        m.d.comb += [
            Cat(noise.key).eq(Cat(fields.key0, fields.key1)),
            noise.block.eq(block),
            noise.place.eq(self.channel),
        ]
        m.d.sync += blocks.eq(fields.n + Noise.BLOCK - 1 >> 3)
        with m.If(self.enter):
            m.d.sync += block.eq(self.channel >> 3)
        with m.Elif(self.at[READ_LATENCY + Lane.NOISE_STAGE - Noise.LATENCY]):
            m.d.sync += block.eq(block + blocks)

        # Rows of ScanRow follow each other: before the first there was none.
        found = READ_LATENCY + Lane.MAGNITUDE_LATENCY
        search = self.at[found] & self.searching
        if self.scanned:
            gather, high = Signal(), Signal()
            m.d.comb += [gather.eq(search & (~self.scanned_rows | self.at[found + 1])),
                         high.eq(self.scanned_rows & self.at[found + 2])]
            search = search & ~(self.scanned_rows & self.at[found + 1])
        for k, lane in enumerate(self.lanes):
            m.submodules[f"lane_{k}"] = lane
            if self.scanned:
                m.d.comb += [lane.gather.eq(gather), lane.high.eq(high)]
            active = Signal(name=f"active_{k}", reset_less=True)
            exponent = Signal(signed(EXPONENT_BITS), name=f"exponent_{k}", reset_less=True)
            m.d.sync += active.eq(self.left > k)
            with m.If(self.load[k]):
                m.d.sync += exponent.eq(self.exponent)
            m.d.comb += [
                # Random bits and groups join the row on its way.
                lane.x.eq(self.x[k]),
                lane.active.eq(active),
                lane.group.eq(self.group[k]),
                lane.noise.eq(noise.bits[k]),
                lane.unsigned.eq(self.unsigned),
                lane.stochastic.eq(self.stochastic),
                lane.exponent.eq(exponent),
                lane.clear.eq(self.clear),
                lane.search.eq(search),
                lane.join.eq(self.at[READ_LATENCY + Lane.REACH_LATENCY] & self.joining),
                # What was found.
                self.magnitude[k].eq(lane.magnitude),
                self.largest[k].eq(lane.largest),
                self.total[k].eq(lane.total),
                self.farthest[k].eq(lane.farthest),
                self.exponents[k].eq(exponent),
                self.q[k].eq(lane.q),
            ]

        # A row's magnitude takes the way of its elements.
        with m.If(self.rows):
            m.d.comb += self.lanes[0].x.eq(self.row)
        m.d.comb += self.row_reach.eq(self.lanes[0].reach)
        return m

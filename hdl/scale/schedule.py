"""When the scaler reads what."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import ScaleFlag, ScaleRow
from hdl.memory import READ_LATENCY
from hdl.noise import Noise
from hdl.params import INDEX_BITS, MAX_K
from hdl.scale.align import Alignment
from hdl.scale.lane import PRODUCT, RESCALED, UPDATE
from hdl.scale.update import Update
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["Schedule"]


class Schedule(wiring.Component):
    """Tile by tile, ``LEAD`` cycles in which the scale tensor is read and then a row a clock.

    A tile begins when the one before has been read, if that took ``SHORTEST`` cycles. With
    ``PLUS`` a row takes two clocks, so that what is added to it is read in the second, ``BESIDE``
    clocks later, and a tile begins ``GAP`` cycles after the last row, when all that is read. With
    ``ALIGN`` there is a pass before: each of its tiles is followed by ``DRAIN`` cycles until the
    last row is in the lanes and one for every lane, the last of them by ``SETTLE`` cycles until the
    exponent is there and one for every tile, in which it is written.

    Parameters
    ----------
    lanes : int

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields flags, m, up to ``MAX_K``, n.
    scalar : Out(1)
        Read what all exponents are added to.
    scale : Out(3)
        Read that row of the scale tensor.
    step, first, final : Out(1)
        Read a row; it is the first, the last of its tile.
    summing, plus : Out(1)
        The instruction is one with ``SUM``, or ``PLUS``; steady.
    searching : Out(1)
        The pass is the one before.
    gather, settle, put_exponent : Out(1)
    again : Out(1)
        The pass after it begins, before anything is read.
    channel : Out(INDEX_BITS)
        Number of the tile's first channel; no later than ``first`` and until the next tile begins.
    used : Out(lanes)
        Lanes that hold a column, from ``scale`` until the next tile's.
    done : Out(1)
    """
    #: From the beginning of a tile to its first row: so many that noise ends the tile before and
    #: is told the place one cycle before the first block.
    LEAD = Noise.LATENCY + 1
    #: Rows of the scale tensor are read at the end of that.
    _SCALE = LEAD - len(ScaleRow)
    #: From a row's read to the block that its noise is of.
    NOISE = READ_LATENCY + UPDATE + Update.NOISE - Noise.LATENCY
    #: From a row's read to that of what is added to it: to the lane's bias in time. An odd number.
    BESIDE = RESCALED - 2
    #: With ``PLUS``, from a tile's last row to the next tile: no row of the scale tensor is read
    #: before what is added to that row.
    GAP = BESIDE - _SCALE
    assert BESIDE % 2 == 1 and GAP > 0
    #: From the last row to what it leaves in the lanes.
    DRAIN = READ_LATENCY + PRODUCT
    SETTLE = Alignment.LATENCY
    #: From the last row to the last write.
    DEPTH = READ_LATENCY + UPDATE + Update.WEIGHT
    #: What the next tile replaces has been taken when this one is so old: its bias when its first
    #: row is a cycle before RESCALED, the used lanes and the shift a cycle before PRODUCT, the
    #: channel a cycle before NOISE.
    SHORTEST = max(
        LEAD + NOISE,
        LEAD + READ_LATENCY + RESCALED - 1 - (_SCALE + ScaleRow.BIAS + READ_LATENCY),
        LEAD + READ_LATENCY + PRODUCT - 1 - _SCALE,
        # Two cycles from an exponent to its shift.
        LEAD + READ_LATENCY + PRODUCT - 1 - (_SCALE + ScaleRow.EXPONENT + READ_LATENCY + 2))
    assert LEAD + 1 + GAP >= SHORTEST

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "scalar": Out(1), "scale": Out(len(ScaleRow)),
            "step": Out(1), "first": Out(1), "final": Out(1),
            "summing": Out(1), "plus": Out(1),
            "searching": Out(1), "gather": Out(1), "settle": Out(1), "put_exponent": Out(1),
            "again": Out(1),
            "channel": Out(INDEX_BITS),
            "used": Out(lanes),
            "done": Out(1),
        })

    def cycles(self, m, n, *, align=False, plus=False):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        tiles = -(-n // self.lanes)
        read = self.LEAD + (2 * m - 1 if plus else m)
        tile = read + self.GAP if plus else max(read, self.SHORTEST)
        cycles = (tiles - 1) * tile + read + self.DEPTH + 1
        if align:
            cycles += tiles * (self.LEAD + m + self.DRAIN + self.lanes) + self.SETTLE + tiles
        return cycles

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction

        def chosen(flag):
            return (fields.flags & int(flag)).any()

        m.d.comb += [
            self.plus.eq(chosen(ScaleFlag.SUM) & chosen(ScaleFlag.BIAS)),
            self.summing.eq(chosen(ScaleFlag.SUM) & ~chosen(ScaleFlag.BIAS)),
        ]

        # Cycles in the present state, and rows of the tile that were read; with ``PLUS``, whether
        # the clock is what is added's.
        age = Signal(range(max(self.LEAD, self.DRAIN, self.SETTLE, self.DEPTH + 1, self.lanes)))
        beside = Signal()
        rows = Signal(range(MAX_K + 1))
        left = Signal(INDEX_BITS)
        last, begun = Signal(), Signal()
        m.d.comb += last.eq(left <= self.lanes)
        m.d.sync += [age.eq(age + 1), self.again.eq(0)]

        def go(state):
            m.d.sync += age.eq(0)
            m.next = state

        def next_tile():
            m.d.sync += [left.eq(left - self.lanes), self.channel.eq(self.channel + self.lanes)]

        def first_tile():
            m.d.sync += [left.eq(fields.n), self.channel.eq(0)]

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                first_tile()
                m.d.sync += [self.searching.eq(chosen(ScaleFlag.ALIGN)), begun.eq(0)]
                go("LEAD")
            with m.State("LEAD"):
                m.d.comb += self.scalar.eq((age == 0) & ~begun & chosen(ScaleFlag.ADD)
                                           & ~self.summing)
                m.d.sync += [begun.eq(1), rows.eq(1), beside.eq(0)]
                for row in ScaleRow:
                    m.d.comb += self.scale[row].eq((age == self._SCALE + row) & ~self.summing)
                with m.If(age == self._SCALE):
                    m.d.sync += [self.used[lane].eq(left > lane) for lane in range(self.lanes)]
                with m.If(age == self.LEAD - 1):
                    go("ROWS")
            with m.State("ROWS"):
                m.d.comb += [self.step.eq(~beside), self.first.eq(~beside & (rows == 1)),
                             self.final.eq(~beside & (rows == fields.m))]
                m.d.sync += beside.eq(self.plus & ~beside)
                with m.If(self.step):
                    m.d.sync += rows.eq(rows + 1)
                with m.If(self.final):
                    with m.If(self.searching):
                        go("DRAIN")
                    with m.Elif(last):
                        go("END")
                    with m.Elif(self.plus | (rows < self.SHORTEST - self.LEAD)):
                        go("WAIT")
                    with m.Else():
                        next_tile()
                        go("LEAD")
            with m.State("WAIT"):
                m.d.sync += rows.eq(rows + 1)
                with m.If(Mux(self.plus, age == self.GAP - 1,
                              rows == self.SHORTEST - self.LEAD)):
                    next_tile()
                    go("LEAD")
            with m.State("END"), m.If(age == self.DEPTH):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"

            with m.State("DRAIN"), m.If(age == self.DRAIN - 1):
                go("GATHER")
            with m.State("GATHER"):
                m.d.comb += self.gather.eq(1)
                with m.If(age == self.lanes - 1):
                    with m.If(last):
                        go("SETTLE")
                    with m.Else():
                        next_tile()
                        go("LEAD")
            with m.State("SETTLE"), m.If(age == self.SETTLE - 1):
                m.d.comb += self.settle.eq(1)
                first_tile()
                go("EXPONENT")
            with m.State("EXPONENT"):
                m.d.comb += self.put_exponent.eq(1)
                next_tile()
                with m.If(last):
                    first_tile()
                    m.d.sync += [self.searching.eq(0), self.again.eq(1)]
                    go("LEAD")
        return m

"""The quantiser's side of the group table."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import INDEX_BITS
from hdl.quantise.groups import GROUP_INDEX_BITS, GroupChoice, Maximum
from hdl.quantise.lane import Lane
from hdl.quantise.reduction import Reduction
from hdl.quantise.scale import MAGNITUDE_BITS
from hdl.quantise.schedule import Phase
from hdl.unit import GROUP_BITS

__all__ = ["GroupTable"]


class GroupTable(wiring.Component):
    """Finds the groups of rows and columns, keeps them in the group table, and reads them back.

    During ``SCAN`` the words of the table hold every row's largest magnitude so far; ``ROWS``
    replaces them by the rows' groups, ``CHOOSE`` writes the columns' groups and keeps those of
    the tile; in ``COLUMNS`` and ``ROUND`` ``group`` is an element's group. All is in lock step
    with the lanes, one step a clock; with groups along one axis only, the other axis has group 0
    everywhere, which is written too.

    Parameters
    ----------
    cols : int
        Lanes.
    sample_groups, channel_groups : int

    Members
    -------
    enable : In(1)
        Without it the table is left alone and every group is 0.
    phase : In(Phase)
    enter : In(1)
    at : In(depth + 1)
        Bit k: a step of the phase began k cycles ago.
    row_table, column_table : In(ADDRESS_BITS)
        Addresses of the group of row 0 and of column 0.
    channel, left : In(INDEX_BITS)
        First channel of the tile, and channels from there on.
    magnitude : In(cols x MAGNITUDE_BITS)
        ``Lane.MAGNITUDE_LATENCY`` cycles after the row's data.
    picked : In(MAGNITUDE_BITS)
        Largest magnitude of a column, ``Reduction.LATENCY`` cycles after the step.
    limit : In(MAGNITUDE_BITS)
        Range of the tensor.
    group : Out(cols x GROUP_INDEX_BITS + 1)
        ``Lane.GROUP_STAGE`` cycles after the row's data; 0 during ``SCAN``.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    group_w : Out(WritePort(unsigned(GROUP_BITS)))
    """
    def __init__(self, cols, sample_groups, channel_groups):
        self.cols = cols
        self.sample_groups = sample_groups
        self.channel_groups = channel_groups
        # A group leaves the choice here.
        assert Reduction.LATENCY == READ_LATENCY
        self.choice_stage = self.depth = READ_LATENCY + 1 + GroupChoice.LATENCY
        if sample_groups > 1:
            self.maximum = Maximum(cols)
            # A row's largest magnitude meets the table's word of that row here.
            self.merge_stage = READ_LATENCY + Lane.MAGNITUDE_LATENCY + self.maximum.latency
            #: Cycles from a step to the last write it causes.
            self.depth = max(self.choice_stage, self.merge_stage + 1)
        super().__init__({
            "enable": In(1), "phase": In(Phase), "enter": In(1), "at": In(self.depth + 1),
            "row_table": In(ADDRESS_BITS), "column_table": In(ADDRESS_BITS),
            "channel": In(INDEX_BITS), "left": In(INDEX_BITS),
            "magnitude": In(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "picked": In(MAGNITUDE_BITS),
            "limit": In(MAGNITUDE_BITS),
            "group": Out(data.ArrayLayout(GROUP_INDEX_BITS + 1, cols)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "group_w": Out(WritePort(unsigned(GROUP_BITS))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.choice = choice = GroupChoice(max(self.sample_groups, self.channel_groups))
        read, write = self.group_r, self.group_w
        at = self.at & self.enable.replicate(self.depth + 1)

        # Read the word of every row in turn, when the phase needs it.
        with m.Switch(self.phase):
            if self.sample_groups > 1:
                with m.Case(Phase.SCAN):
                    m.d.comb += read.en.eq(at[self.merge_stage - READ_LATENCY])
            with m.Case(Phase.ROWS):
                m.d.comb += read.en.eq(at[0])
            with m.Case(Phase.COLUMNS, Phase.ROUND):
                m.d.comb += read.en.eq(at[Lane.GROUP_STAGE])

        # The magnitude that is to be kept or to get a group.
        sought = Signal(MAGNITUDE_BITS, reset_less=True)
        m.d.sync += sought.eq(Mux(self.phase == Phase.CHOOSE, self.picked, read.data))
        if self.sample_groups > 1:
            m.submodules.maximum = maximum = self.maximum
            m.d.comb += Cat(maximum.i).eq(Cat(self.magnitude))
            with m.If((self.phase == Phase.SCAN)
                      & ((self.channel == 0) | (maximum.o > read.data))):
                m.d.sync += sought.eq(maximum.o)
        m.d.comb += [
            choice.magnitude.eq(sought),
            choice.limit.eq(self.limit),
            choice.most.eq(Mux(self.phase == Phase.CHOOSE,
                               self.channel_groups - 1, self.sample_groups - 1)),
        ]

        # Write it back; columns beyond the last have no word.
        columns_left = Signal(INDEX_BITS)
        chosen = Signal()
        m.d.comb += [chosen.eq(at[self.choice_stage]), write.data.eq(choice.group)]
        with m.Switch(self.phase):
            if self.sample_groups > 1:
                with m.Case(Phase.SCAN):
                    m.d.comb += [write.en.eq(at[self.merge_stage + 1]), write.data.eq(sought)]
            with m.Case(Phase.ROWS):
                m.d.comb += write.en.eq(chosen)
            with m.Case(Phase.CHOOSE):
                m.d.comb += write.en.eq(chosen & (columns_left != 0))

        read_address, write_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [read.addr.eq(read_address), write.addr.eq(write_address)]
        with m.If(read.en):
            m.d.sync += read_address.eq(read_address + 1)
        with m.If(write.en):
            m.d.sync += [write_address.eq(write_address + 1), columns_left.eq(columns_left - 1)]
        with m.If(self.enter):
            m.d.sync += [read_address.eq(self.row_table), write_address.eq(self.row_table),
                         columns_left.eq(self.left)]
            with m.If(self.phase == Phase.CHOOSE):
                m.d.sync += write_address.eq(self.column_table + self.channel)

        # The groups of the elements of a row; those of the tile's columns arrive in order.
        columns = Signal(data.ArrayLayout(GROUP_INDEX_BITS, self.cols))
        with m.If(chosen & (self.phase == Phase.CHOOSE)):
            m.d.sync += Cat(columns).eq(
                Cat(*(columns[lane] for lane in range(1, self.cols)), choice.group))
        row = Signal(GROUP_INDEX_BITS)
        m.d.comb += row.eq(read.data)
        with m.If(self.enable), m.Switch(self.phase):
            with m.Case(Phase.COLUMNS):
                m.d.comb += (self.group[lane].eq(row) for lane in range(self.cols))
            with m.Case(Phase.ROUND):
                m.d.comb += (self.group[lane].eq(row + columns[lane])
                             for lane in range(self.cols))
        return m

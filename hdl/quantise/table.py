"""The quantiser's side of the group table."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import INDEX_BITS
from hdl.quantise.exponent import MAGNITUDE_BITS
from hdl.quantise.groups import GROUP_INDEX_BITS, GroupChoice, Maximum
from hdl.quantise.lane import Lane, reach_bits
from hdl.quantise.reduction import Reduction
from hdl.quantise.schedule import Phase
from hdl.unit import GROUP_BITS

__all__ = ["GroupTable"]


class GroupTable(wiring.Component):
    """Finds the groups of rows and columns, keeps them in the group table, and reads them back.

    During ``SCAN`` the words of the table hold every row's largest magnitude so far. ``ROWS``
    sends them through lane 0 for their reach, and replaces them by the rows' groups. ``CHOOSE``
    writes the columns' groups and keeps those of the tile; in ``COLUMNS`` and ``ROUND`` ``group``
    is an element's group. All is in lock step with the lanes, one step a clock; with groups along
    one axis only, the other axis has group 0 everywhere, which is written too.

    Parameters
    ----------
    bits : int
        Width of a code.
    cols : int
        Lanes.
    sample_groups, channel_groups : int
    scanned : bool
        Whether there is ``scanned``.

    Members
    -------
    scanned : In(1)
        What is searched are no rows, and all rows are in group 0.
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
    row : Out(MAGNITUDE_BITS)
        A row's magnitude for lane 0, while ``rows``.
    rows : Out(1)
    row_reach : In(reach_bits)
        Its reach, ``Lane.REACH_LATENCY`` cycles later.
    column_reach : In(reach_bits)
        Reach of a column, ``Reduction.LATENCY`` cycles after the step.
    group : Out(cols x GROUP_INDEX_BITS + 1)
        With the row's data; 0 but in ``COLUMNS`` and ``ROUND``.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    group_w : Out(WritePort(unsigned(GROUP_BITS)))
    """
    def __init__(self, bits, cols, sample_groups, channel_groups, *, scanned=False):
        self.bits = bits
        self.scans = scanned
        self.cols = cols
        self.sample_groups = sample_groups
        self.channel_groups = channel_groups
        self.groups = max(sample_groups, channel_groups)
        # A row's and a column's group leave the choice here.
        self.row_stage = READ_LATENCY + Lane.REACH_LATENCY + GroupChoice.LATENCY
        self.column_stage = Reduction.LATENCY + GroupChoice.LATENCY
        self.depth = max(self.row_stage, self.column_stage)
        if sample_groups > 1:
            self.maximum = Maximum(cols)
            # A row's largest magnitude meets the table's word of that row here.
            self.merge_stage = READ_LATENCY + Lane.MAGNITUDE_LATENCY + self.maximum.latency
            #: Cycles from a step to the last write it causes.
            self.depth = max(self.depth, self.merge_stage + 1)
        reach = reach_bits(bits, self.groups)
        super().__init__({
            **({"scanned": In(1)} if scanned else {}),
            "enable": In(1), "phase": In(Phase), "enter": In(1), "at": In(self.depth + 1),
            "row_table": In(ADDRESS_BITS), "column_table": In(ADDRESS_BITS),
            "channel": In(INDEX_BITS), "left": In(INDEX_BITS),
            "magnitude": In(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "row": Out(MAGNITUDE_BITS), "rows": Out(1),
            "row_reach": In(reach), "column_reach": In(reach),
            "group": Out(data.ArrayLayout(GROUP_INDEX_BITS + 1, cols)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "group_w": Out(WritePort(unsigned(GROUP_BITS))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.choice = choice = GroupChoice(self.bits, self.groups)
        read, write = self.group_r, self.group_w
        enable = self.enable
        if self.scans:
            enable = enable & ~(self.scanned & (self.phase == Phase.SCAN))
        at = self.at & enable.replicate(self.depth + 1)

        # Read the word of every row in turn, when the phase needs it.
        with m.Switch(self.phase):
            if self.sample_groups > 1:
                with m.Case(Phase.SCAN):
                    m.d.comb += read.en.eq(at[self.merge_stage - READ_LATENCY])
            with m.Case(Phase.ROWS, Phase.COLUMNS, Phase.ROUND):
                m.d.comb += read.en.eq(at[0])

        # Choose a group by the reach of a row or a column.
        choosing = self.phase == Phase.CHOOSE
        chosen = at[self.column_stage] & choosing
        m.d.comb += [
            self.row.eq(read.data),
            self.rows.eq(self.phase == Phase.ROWS),
            choice.reach.eq(Mux(choosing, self.column_reach, self.row_reach)),
            choice.most.eq(Mux(choosing, self.channel_groups - 1,
                               Mux(self.scanned, 0, self.sample_groups - 1) if self.scans
                               else self.sample_groups - 1)),
        ]

        # Write it; columns beyond the last have no word.
        columns_left = Signal(INDEX_BITS)
        m.d.comb += write.data.eq(choice.group)
        with m.Switch(self.phase):
            if self.sample_groups > 1:
                with m.Case(Phase.SCAN):
                    # A row's largest magnitude of this and all tiles before.
                    m.submodules.maximum = maximum = self.maximum
                    largest = Signal(MAGNITUDE_BITS, reset_less=True)
                    m.d.comb += [
                        Cat(maximum.i).eq(Cat(self.magnitude)),
                        write.en.eq(at[self.merge_stage + 1]), write.data.eq(largest),
                    ]
                    m.d.sync += largest.eq(read.data)
                    with m.If((self.channel == 0) | (maximum.o > read.data)):
                        m.d.sync += largest.eq(maximum.o)
            with m.Case(Phase.ROWS):
                m.d.comb += write.en.eq(at[self.row_stage])
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
        with m.If(chosen):
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

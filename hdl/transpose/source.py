"""Where the rows of a block come from."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.skew import delayed
from hdl.instructions import TABLE_HEADER
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import INDEX_BITS
from hdl.transpose.gather import Gather
from hdl.transpose.walk import STEP
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT, ORDER_ENTRY

__all__ = ["Source"]


class Source(wiring.Component):
    """The address of the row of each step.

    A row of a block lies in lanes ``width * group`` and following of word
    ``src0 + tile * height + row``, with the rows of the taller tensor that it is of, or is a word
    of the buffer. Its number is counted, or it is the index that takes the slot which is counted:
    looked up, if the table has so many slots. With ``WINDOWS`` it is that of an image's row
    (:mod:`hdl.transpose.gather`). Nothing is read of a row that the tensor has not, that is
    padding, or that is not in the buffer.

    Parameters
    ----------
    params : hdl.params.Params
    width : int
        Elements of a row of a block.
    columns : int
        Words of the buffer.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields flags, m, n, src0, src1, tab0, tab1, key0, key1.
    setup, again, copy, lookup, collecting, gathering, chunk : In
        As of :class:`~hdl.transpose.walk.Walk`.
    block : In(INDEX_BITS)
        Collecting: number of the blocks of rows before.
    look, found, request : In(STEP)
        Stages ``LOOK``, ``READ - 2`` and ``READ - 1``.
    fetch : Out(1)
        A word of the source is read; stage ``READ``, as all that follows.
    address : Out(ADDRESS_BITS)
        Of it.
    blank : Out(1)
        Nothing is, and the row is the code of 0: what an output sees outside of the image.
    place : Out(range(columns))
        Address in the buffer.
    taken : Out(1)
        There is a row.
    group : Out(range(slots / width))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    order_r : Out(ReadPort(ORDER_ENTRY))
        On a machine with groups.
    """
    #: Cycles from a step to the request of its entry of the order table, and to that of its row.
    LOOK = 1
    READ = LOOK + READ_LATENCY + 2

    def __init__(self, params, width, columns):
        self.params = params
        self.width = width
        self.columns = columns
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "setup": In(1), "again": In(1),
            "copy": In(1), "lookup": In(1), "collecting": In(1), "gathering": In(1),
            "chunk": In(range((1 << INDEX_BITS - 1) // columns)), "block": In(INDEX_BITS),
            "look": In(STEP), "found": In(STEP), "request": In(STEP),
            "fetch": Out(1), "address": Out(ADDRESS_BITS), "blank": Out(1),
            "place": Out(range(columns)), "taken": Out(1),
            "group": Out(range(params.slots // width)),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
        }
        if params.max_groups > 1:
            members["order_r"] = Out(ReadPort(ORDER_ENTRY))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction
        places = len(self.place)
        # Bits of a row's number within its block.
        within = self.width.bit_length() - 1

        # Its number.
        counted = Signal(INDEX_BITS)
        row, there = Signal(INDEX_BITS, reset_less=True), Signal(reset_less=True)
        with m.If(self.setup | self.found.entered):
            m.d.sync += counted.eq(0)
        with m.Elif(self.found.enter):
            m.d.sync += counted.eq(counted + 1)
        m.d.sync += [
            row.eq(Mux(self.collecting, Cat(counted[:within], self.block), counted)),
            there.eq(self.found.enter),
        ]
        if self.params.max_groups > 1:
            in_table = delayed(m, "in_table", self._look(m), READ_LATENCY)
            entry = self.order_r.data
            with m.If(self.lookup):
                m.d.sync += [row.eq(entry.index), there.eq(in_table & ~entry.pad)]

        # What an output sees.
        m.submodules.gather = gather = Gather()
        connect(m, gather.group_r, flipped(self.group_r))
        m.d.comb += [
            gather.start.eq(self.start), gather.instruction.eq(fields),
            gather.step.eq(self.found.enter), gather.last.eq(self.found.entered),
        ]

        # Its column's first word and lanes.
        height = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += height.eq(Mux(gather.windows, 0, fields.m) + fields.key1[:16])
        column, group = Signal(ADDRESS_BITS, reset_less=True), Signal.like(self.group)
        with m.If(self.again):
            m.d.sync += [column.eq(fields.src0), group.eq(0)]
        with m.Elif(Mux(self.collecting, self.request.block & self.request.enter,
                        self.request.entered & ~self.gathering)):
            m.d.sync += group.eq(group + 1)
            with m.If(self.copy | (group == self.params.slots // self.width - 1)):
                m.d.sync += [group.eq(0), column.eq(column + height)]

        rows = Signal(INDEX_BITS)
        present = there & (row < rows)
        m.d.sync += [
            rows.eq(Mux(self.gathering, fields.n, fields.m)),
            self.address.eq(column + Mux(gather.windows, gather.offset, row)),
            self.place.eq(row[:places]),
            self.fetch.eq(present & ~self.gathering & (gather.inside | ~gather.windows)),
            self.blank.eq(gather.windows & ~gather.inside),
            self.taken.eq(present & (~self.gathering | (row[places:] == self.chunk))),
            self.group.eq(group),
        ]
        return m

    def _look(self, m):
        """Read the table's header, then its entries; whether the slot of ``look`` is in it."""
        fields, address = self.instruction, Signal(ADDRESS_BITS, reset_less=True)
        header = Signal(READ_LATENCY + 1)
        slots, remaining = (Signal(INDEX_BITS, name=name, reset_less=True)
                            for name in ("slots", "remaining"))
        in_table = Signal()
        m.d.sync += header.eq(Cat(self.start, header))
        with m.If(header[-1]):
            m.d.sync += slots.eq(Value.cast(self.order_r.data))
        with m.If(self.start):
            m.d.sync += address.eq(fields.tab1)
        with m.Elif(self.setup | self.look.entered):
            m.d.sync += [address.eq(fields.tab1 + TABLE_HEADER), remaining.eq(slots)]
        with m.Elif(in_table):
            m.d.sync += [address.eq(address + 1), remaining.eq(remaining - 1)]
        m.d.comb += [
            in_table.eq(self.look.enter & self.lookup & remaining.any()),
            self.order_r.en.eq(in_table | header[0] & (self.lookup | self.collecting)),
            self.order_r.addr.eq(address),
        ]
        return in_table

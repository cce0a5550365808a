"""The sorter: from the groups of an inner dimension to the order of its channels."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hdl.instructions import TABLE_HEADER
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import INDEX_BITS
from hdl.unit import GROUP_BITS, GROUP_WORD, ORDER_ENTRY, UnitPort

__all__ = ["Sorter"]


class Sorter(wiring.Component):
    """Builds the order table of a GEMM's inner dimension; ``sim.model.order.order``.

    For each of the ``arg`` groups in turn all ``k`` groups are read and the indices of that group
    are written, in their own order; then the group is padded to whole schedule rows of ``depth``
    slots, an empty one (but the last) to one row. Header word g is the schedule row at which
    group g begins, all ones from ``arg`` on; header word 0 is the number of slots, padding
    included. In the cycle in which an index is written its slot is added to the group's word.

    One group is read per cycle and nothing stalls: with ``p`` slots of padding an instruction
    takes ``arg * (k + READ_LATENCY + 2) + p + TABLE_HEADER + 1`` cycles from ``start`` to
    ``done``. ``k`` is 1 or more, ``arg`` 1 to 8. An index whose group is ``arg`` or more gets no
    slot, and its word is not written. Of the words only the groups matter, so that a table may be
    sorted again.

    Parameters
    ----------
    params : hdl.params.Params
        ``rows`` and ``depth`` matter.

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: k, tab0, arg.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    group_w : Out(WritePort(unsigned(GROUP_BITS)))
        Words of ``GROUP_WORD``.
    order_w : Out(WritePort(ORDER_ENTRY))
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "control": Out(UnitPort()),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "group_w": Out(WritePort(unsigned(GROUP_BITS))),
            "order_w": Out(WritePort(ORDER_ENTRY)),
        })

    def elaborate(self, platform):
        m = Module()
        fields = self.control.instruction
        rows, depth = self.params.rows, self.params.depth
        group = Signal(range(TABLE_HEADER + 1))

        # Stage 1: read the groups.
        unread = Signal(INDEX_BITS)
        address = Signal(ADDRESS_BITS)
        m.d.comb += [self.group_r.en.eq(unread != 0), self.group_r.addr.eq(address)]
        with m.If(self.group_r.en):
            m.d.sync += [unread.eq(unread - 1), address.eq(address + 1)]

        # Stage 2: the index whose group arrives, and where its word lies.
        arriving = Signal(READ_LATENCY)
        index, word = Signal(INDEX_BITS), Signal(ADDRESS_BITS)
        m.d.sync += arriving.eq(Cat(self.group_r.en, arriving))
        with m.If(arriving[-1]):
            m.d.sync += [index.eq(index + 1), word.eq(word + 1)]

        # Stage 3: an index of this group, or padding, takes the next slot.
        take, pad, header = Signal(), Signal(), Signal()
        entry, target = (Signal(ORDER_ENTRY, reset_less=True),
                         Signal(ADDRESS_BITS, reset_less=True))
        slots = Signal(INDEX_BITS)
        slot_address = Signal(ADDRESS_BITS)
        # The schedule row, and where the next slot lies: in which place of which row of the array.
        row = Signal(INDEX_BITS)
        place, line, tile = Signal(range(depth)), Signal(range(rows)), Signal(INDEX_BITS)
        empty = Signal()
        m.d.sync += [
            take.eq(arriving[-1] & (data.View(GROUP_WORD, self.group_r.data).group == group)),
            entry.index.eq(index), target.eq(word),
        ]
        m.d.comb += [
            self.order_w.en.eq(take | pad | header),
            self.order_w.addr.eq(slot_address),
            self.order_w.data.eq(entry),
            self.group_w.en.eq(take),
            self.group_w.addr.eq(target),
        ]
        slot = data.View(GROUP_WORD, self.group_w.data)
        m.d.comb += [slot.group.eq(group), slot.place.eq(place), slot.row.eq(line),
                     slot.tile.eq(tile)]
        with m.If(pad):
            m.d.comb += Value.cast(self.order_w.data).eq(ORDER_ENTRY.const({"pad": 1}).as_bits())
        with m.If(take | pad):
            m.d.sync += [empty.eq(0), slots.eq(slots + 1), slot_address.eq(slot_address + 1)]
            m.d.sync += place.eq(Mux(place == depth - 1, 0, place + 1))
            with m.If(place == depth - 1):
                m.d.sync += [row.eq(row + 1), line.eq(line + 1)]
                with m.If(line == rows - 1):
                    m.d.sync += [line.eq(0), tile.eq(tile + 1)]

        # The header's words, once the group before each is written.
        beyond = Signal()
        m.d.comb += beyond.eq(group >= fields.arg)
        with m.If(header):
            m.d.comb += self.order_w.addr.eq(fields.tab0 + group)
            m.d.comb += Value.cast(self.order_w.data).eq(Mux(beyond, ~0, row))
            with m.If(group == TABLE_HEADER):
                m.d.comb += self.order_w.addr.eq(fields.tab0)
                m.d.comb += Value.cast(self.order_w.data).eq(slots)

        def begin_group():
            m.d.sync += [unread.eq(fields.k), address.eq(fields.tab0), word.eq(fields.tab0),
                         index.eq(0), empty.eq(1)]
            m.next = "GROUP"

        with m.FSM():
            with m.State("IDLE"), m.If(self.control.start):
                m.d.sync += [group.eq(0), row.eq(0), place.eq(0), line.eq(0), tile.eq(0),
                             slots.eq(0), slot_address.eq(fields.tab0 + TABLE_HEADER)]
                begin_group()
            with m.State("GROUP"), m.If(~self.group_r.en & ~arriving.any() & ~take):
                m.next = "PAD"
            with m.State("PAD"):
                with m.If((place != 0) | empty & (group + 1 < fields.arg)):
                    m.d.comb += pad.eq(1)
                with m.Else():
                    m.d.sync += group.eq(group + 1)
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += header.eq(1)
                with m.If(group == TABLE_HEADER):
                    m.d.comb += self.control.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(beyond):
                    m.d.sync += group.eq(group + 1)
                with m.Else():
                    begin_group()
        return m

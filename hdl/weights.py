"""Weights of a GEMM: from a tensor in device memory to the array, tile after tile."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.skew import Delay
from hdl.core import weights_row
from hdl.instructions import TABLE_HEADER, GemmFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, announced_ahead
from hdl.params import INDEX_BITS
from hdl.row_queue import RowQueue
from hdl.timing import fetch_latency, lookup_latency
from hdl.unit import INSTRUCTION_LAYOUT, ORDER_ENTRY, quant_word

__all__ = ["Header", "WeightFetch", "WeightSchedule", "Weights"]

#: What a request is for; it comes back with the weights.
TAG = {
    #: The row of weights is complete.
    "last": 1,
    #: It was the last row of its tile.
    "end": 1,
    #: The row has a mark.
    "mark": 1,
}


def request_layout(params):
    """A request for the weights of ``span`` columns beside each other at one index k."""
    return data.StructLayout({
        #: Slot of the schedule, which stands for an index k.
        "slot": INDEX_BITS + 1,
        #: Where the tile of columns begins in memory, and which ``span`` lanes of its words.
        "base": ADDRESS_BITS, "part": range(params.slots // params.span),
        #: There are no such columns; nothing is read, the result is 0.
        "skip": 1,
        **TAG,
    })


def mark_layout(params):
    """Schedule rows before which the array shifts."""
    return data.ArrayLayout(INDEX_BITS, params.max_groups - 1)


class Header(wiring.Component):
    """Reads the header of an order table.

    Parameters
    ----------
    params : hdl.params.Params
        With groups.

    Members
    -------
    start : In(1)
    table : In(ADDRESS_BITS)
    order_r : Out(ReadPort(ORDER_ENTRY))
    done : Out(1)
    used : Out(INDEX_BITS)
        Slots in use.
    marks : Out(mark_layout)
        All ones: none.
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1), "table": In(ADDRESS_BITS), "order_r": Out(ReadPort(ORDER_ENTRY)),
            "done": Out(1), "used": Out(INDEX_BITS), "marks": Out(mark_layout(params)),
        })

    def elaborate(self, platform):
        m = Module()
        words = self.params.max_groups
        count, busy = Signal(range(words + READ_LATENCY)), Signal()
        with m.If(self.start):
            m.d.sync += [busy.eq(1), count.eq(0)]
        with m.Elif(busy):
            m.d.sync += [count.eq(count + 1), busy.eq(~self.done)]
        m.d.comb += self.done.eq(busy & (count == words + READ_LATENCY - 1))
        with m.If(busy & (count < words)):
            m.d.comb += [self.order_r.en.eq(1), self.order_r.addr.eq(self.table + count)]
        # Words enter at the far end.
        with m.If(busy & (count >= READ_LATENCY)):
            chain = [self.used, *self.marks]
            m.d.sync += [word.eq(value) for word, value in zip(
                chain, [*chain[1:], self.order_r.data.as_value()[:INDEX_BITS]], strict=True)]
        return m


class WeightFetch(wiring.Component):
    """Weights of ``span`` columns at the index of a slot: the slot itself, or with
    ``INNER_GROUPS`` what the order table says.

    Element (k, j) of a tensor of K rows is lane ``j % slots`` of word
    ``src1 + (j // slots) * K + k``. Slots from ``used`` on and padding give 0 without a read.

    One request per clock, lock step, ``latency`` cycles.

    Parameters
    ----------
    params : hdl.params.Params

    Attributes
    ----------
    latency : int

    Members
    -------
    table : In(ADDRESS_BITS)
        Of the order table's first entry.
    inner : In(1)
        There is one.
    used : In(INDEX_BITS), a bit more on a machine that keeps masters
        Slots in use.
    valid : In(1), request : In(request_layout)
    done : Out(1), tag : Out(StructLayout(TAG))
    weights : Out(ArrayLayout(signed(bits), span))
    quant_r : Out(ReadPort(quant_word))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Idle on a machine without groups.
    """
    def __init__(self, params):
        self.params = params
        self.lookup_latency = lookup_latency(params)
        self.latency = fetch_latency(params)
        super().__init__({
            "table": In(ADDRESS_BITS), "inner": In(1),
            "used": In(INDEX_BITS + (params.masters > 0)),
            "valid": In(1), "request": In(request_layout(params)),
            "done": Out(1), "tag": Out(data.StructLayout(TAG)),
            "weights": Out(data.ArrayLayout(signed(params.bits), params.span)),
            "quant_r": Out(ReadPort(quant_word(params))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
        })

    def elaborate(self, platform):
        m = Module()
        request = self.request
        inside = Signal()
        m.d.comb += inside.eq((request.slot < self.used) & ~request.skip)
        valid = Signal(self.latency)
        m.d.sync += valid.eq(Cat(self.valid, valid))

        # Stage 1: the slot's entry in the order table.
        index, present = request.slot, inside
        if self.params.max_groups > 1:
            table, lookup = Signal(ADDRESS_BITS, reset_less=True), Signal(reset_less=True)
            m.d.sync += [table.eq(self.table + request.slot), lookup.eq(self.inner & inside)]
            m.d.comb += [self.order_r.en.eq(lookup & valid[0]), self.order_r.addr.eq(table)]
            m.submodules.asked = asked = Delay(
                data.StructLayout({"inside": 1, "request": request.shape()}), self.lookup_latency)
            m.d.comb += [asked.i.inside.eq(inside), asked.i.request.eq(request)]
            request = asked.o.request
            entry = self.order_r.data
            index = Mux(self.inner, entry.index, request.slot)
            present = asked.o.inside & ~(self.inner & entry.pad)

        # Stage 2: the word.
        address, read = Signal(ADDRESS_BITS, reset_less=True), Signal(reset_less=True)
        m.d.sync += [address.eq(request.base + index), read.eq(present)]
        m.d.comb += [self.quant_r.en.eq(read & valid[self.lookup_latency]),
                     self.quant_r.addr.eq(address)]

        # Stage 3: its lanes, once it has come.
        kept = data.StructLayout({"present": 1, "part": len(request.part),
                                  "tag": data.StructLayout(TAG)})
        m.submodules.arriving = arriving = Delay(kept, 1 + READ_LATENCY)
        m.d.comb += [arriving.i.present.eq(present), arriving.i.part.eq(request.part),
                     *(arriving.i.tag[name].eq(request[name]) for name in TAG)]
        width = self.params.span * self.params.bits
        weights, tag = Signal(width, reset_less=True), Signal.like(self.tag, reset_less=True)
        m.d.sync += [tag.eq(arriving.o.tag), weights.eq(Mux(
            arriving.o.present,
            Value.cast(self.quant_r.data).word_select(arriving.o.part, width), 0))]
        m.d.comb += [Value.cast(self.weights).eq(weights), self.tag.eq(tag),
                     self.done.eq(valid[-1])]
        return m


class WeightSchedule(wiring.Component):
    """Requests for the weights, tile after tile along the inner dimension, then along n.

    The last row of a tile comes first: for every ``span`` columns ``depth`` requests. A request per
    clock, as long as there is ``room`` for a row where one begins. On a machine that keeps masters
    a request also waits for ``grant``, and the slots of a tile begin anew where a tap of a kernel
    begins: the last tile of each tap has slots beyond its channels, which are not used.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    source : In(ADDRESS_BITS), last_tile : In(16), k, n : In(INDEX_BITS)
        Of the instruction: src1, tiles less one, rows and columns of the weights.
    grouped : In(1), marks : In(mark_layout)
        ``INNER_GROUPS`` and its marks; only on a machine with groups.
    room : In(1)
        A row may begin.
    grant : In(1)
        A request may be made.
    windows : In(1), channels : In(INDEX_BITS)
        ``WINDOWS``, and then the channels of a tap; without, the slots in use.
    used : Out(len(request.slot))
        Slots in use up to the end of the tap. These four only on a machine that keeps masters.
    begin : Out(1)
        A row does.
    valid : Out(1), request : Out(request_layout)
    """
    def __init__(self, params):
        self.params = params
        members = {
            "start": In(1), "source": In(ADDRESS_BITS), "last_tile": In(16),
            "k": In(INDEX_BITS), "n": In(INDEX_BITS), "room": In(1),
            "begin": Out(1), "valid": Out(1), "request": Out(request_layout(params)),
        }
        if params.max_groups > 1:
            members |= {"grouped": In(1), "marks": In(mark_layout(params))}
        if params.masters:
            members |= {"grant": In(1), "windows": In(1), "channels": In(INDEX_BITS),
                        "used": Out(INDEX_BITS + 1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        rows, cols, depth = self.params.rows, self.params.cols, self.params.depth
        span, request = self.params.span, self.request
        busy = Signal()

        # Place in the row, row in the tile, tile along the inner dimension, tile along n. All of
        # this begins anew with each start.
        place, col, row, tile = (Signal(range(most), name=name, reset_less=True) for name, most in (
            ("place", depth), ("col", cols), ("row", rows), ("tile", 1 << 16)))
        slot, row_slot, top_slot = (Signal.like(request.slot, name=name, reset_less=True)
                                    for name in ("slot", "row_slot", "top_slot"))
        schedule, top_schedule, first_col = (Signal(INDEX_BITS, name=name, reset_less=True)
                                             for name in ("schedule", "top_schedule", "first_col"))
        # Where the request's columns lie, where those after them do, and where the first of the
        # array's columns do.
        memory = data.StructLayout({"base": ADDRESS_BITS, "part": len(request.part)})
        at, after, first_at = (Signal(memory, name=name, reset_less=True)
                               for name in ("at", "after", "first_at"))
        m.d.comb += [after.base.eq(at.base), after.part.eq(at.part + 1)]
        with m.If(at.part == self.params.slots // span - 1):
            m.d.comb += [after.base.eq(at.base + self.k), after.part.eq(0)]
        mark, first = Signal(), Signal()
        m.d.comb += first.eq((place == 0) & (col == 0))
        if self.params.max_groups > 1:
            m.d.comb += mark.eq(
                self.grouped & Cat(schedule == marked for marked in self.marks).any())
        may = self.room | ~first
        m.d.comb += [
            self.valid.eq(busy & may & self.grant if self.params.masters else busy & may),
            self.begin.eq(self.valid & first),
            request.slot.eq(slot), request.base.eq(at.base), request.part.eq(at.part),
            request.skip.eq(first_col + col >= self.n),
            request.last.eq((place == depth - 1) & (col == cols - span)),
            request.end.eq(request.last & (row == 0)),
            request.mark.eq(mark),
        ]
        with m.If(self.valid):
            m.d.sync += [slot.eq(slot + 1), place.eq(place + 1)]
            with m.If(place == depth - 1):
                m.d.sync += [slot.eq(row_slot), place.eq(0), at.eq(after), col.eq(col + span)]
            with m.If(request.last):
                m.d.sync += [slot.eq(row_slot - depth), row_slot.eq(row_slot - depth), col.eq(0),
                             at.eq(first_at), row.eq(row - 1), schedule.eq(schedule - 1)]
        following, column_done = Signal.like(slot), tile == self.last_tile
        after_tile = top_slot + rows * depth
        if self.params.masters:
            tap_done = Signal()
            m.d.comb += tap_done.eq(self.windows & (top_slot + depth >= self.used))
            after_tile = Mux(tap_done, self.used + (rows - 1) * depth, after_tile)
            with m.If(self.start | request.end & self.valid & column_done):
                m.d.sync += self.used.eq(self.channels)
            with m.Elif(request.end & self.valid & tap_done):
                m.d.sync += self.used.eq(self.used + self.channels)
        m.d.comb += following.eq(Mux(column_done, (rows - 1) * depth, after_tile))
        following_schedule = Mux(column_done, rows - 1, top_schedule + rows)
        with m.If(request.end & self.valid):
            m.d.sync += [
                row.eq(rows - 1), tile.eq(tile + 1),
                slot.eq(following), row_slot.eq(following), top_slot.eq(following),
                schedule.eq(following_schedule), top_schedule.eq(following_schedule),
            ]
            with m.If(column_done):
                m.d.sync += [tile.eq(0), at.eq(after), first_at.eq(after),
                             first_col.eq(first_col + cols), busy.eq(first_col + cols < self.n)]

        top = (rows - 1) * depth
        with m.If(self.start):
            m.d.sync += [
                busy.eq(1), place.eq(0), col.eq(0), row.eq(rows - 1), tile.eq(0),
                slot.eq(top), row_slot.eq(top), top_slot.eq(top),
                schedule.eq(rows - 1), top_schedule.eq(rows - 1), first_col.eq(0),
                at.base.eq(self.source), at.part.eq(0),
                first_at.base.eq(self.source), first_at.part.eq(0),
            ]
        return m


class Weights(wiring.Component):
    """Fetches weights for the array, tile after tile, as far ahead as a queue has room.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        From before ``start`` on.
    last_tile : In(16)
        Tiles along the inner dimension, less one.
    quant_r : Out(ReadPort(quant_word))
    order_r : Out(ReadPort(ORDER_ENTRY))
    o : Out(stream.Signature(weights_row))
        Rows of weights, as :class:`hdl.core.Core` takes them, in the array's clock.
    quant_ahead : In(1)
        Another unit uses the port of ``quant_r``, :func:`~hdl.memory.announced_ahead` cycles from
        now. Only on a machine that keeps masters.
    """
    def __init__(self, params):
        self.params = params
        self.fetch = WeightFetch(params)
        # A register, and from a request to its read.
        assert announced_ahead(params) == 1 + self.fetch.lookup_latency + 1
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "last_tile": In(16),
            "quant_r": Out(ReadPort(quant_word(params))), "order_r": Out(ReadPort(ORDER_ENTRY)),
            "o": Out(stream.Signature(weights_row(params))),
        }
        if params.masters:
            members["quant_ahead"] = In(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction
        m.submodules.fetch, m.submodules.schedule = fetch, schedule = (
            self.fetch, WeightSchedule(self.params))
        m.submodules.queue = queue = RowQueue(self.params)
        m.d.comb += [
            schedule.source.eq(fields.src1), schedule.last_tile.eq(self.last_tile),
            schedule.k.eq(fields.k), schedule.n.eq(fields.n), schedule.room.eq(queue.room),
            fetch.valid.eq(schedule.valid), fetch.request.eq(schedule.request),
        ]
        used = fetch.used
        if self.params.masters:
            # The units that announce are anywhere on the die.
            reserved = Signal()
            m.d.sync += reserved.eq(self.quant_ahead)
            used = Signal(INDEX_BITS)
            windows = (fields.flags & GemmFlag.WINDOWS).any()
            m.d.comb += [
                schedule.grant.eq(~reserved), schedule.windows.eq(windows),
                schedule.channels.eq(Mux(windows, fields.key0[16:], used)),
                fetch.used.eq(schedule.used),
            ]
        m.d.comb += used.eq(fields.k)
        m.d.sync += fetch.table.eq(fields.tab0 + TABLE_HEADER)
        connect(m, fetch.quant_r, flipped(self.quant_r))

        # The header of the order table first.
        begin = self.start
        if self.params.max_groups > 1:
            m.submodules.header = header = Header(self.params)
            inner = (fields.flags & GemmFlag.INNER_GROUPS).any()
            m.d.comb += [header.start.eq(self.start & inner), header.table.eq(fields.tab0),
                         fetch.inner.eq(inner), schedule.grouped.eq(inner),
                         schedule.marks.eq(header.marks)]
            with m.If(inner):
                m.d.comb += used.eq(header.used)
            begin = self.start & ~inner | header.done
            for table in (header.order_r, fetch.order_r):
                m.d.comb += table.data.eq(self.order_r.data)
                with m.If(table.en):
                    m.d.comb += [self.order_r.en.eq(1), self.order_r.addr.eq(table.addr)]
        m.d.sync += schedule.start.eq(begin)

        # What has been fetched goes to its place in the queue.
        span = self.params.span
        place, part = Signal(range(self.params.depth)), Signal(range(self.params.cols // span))
        with m.If(fetch.done):
            m.d.sync += place.eq(place + 1)
            with m.If(place == self.params.depth - 1):
                m.d.sync += [place.eq(0), part.eq(part + 1)]
            with m.If(fetch.tag.last):
                m.d.sync += part.eq(0)
        m.d.comb += [
            queue.begin.eq(schedule.begin), queue.write.eq(fetch.done),
            queue.part.eq(part), queue.place.eq(place), queue.weights.eq(fetch.weights),
            queue.last.eq(fetch.tag.last), queue.mark.eq(fetch.tag.mark),
            queue.end.eq(fetch.tag.end),
        ]
        connect(m, queue.o, flipped(self.o))
        return m

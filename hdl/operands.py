"""From quantised tensors to the array: streamed operands to their buffer, weights to the mesh."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import INDEX_BITS, MAX_M
from hdl.protocol import TABLE_HEADER, GemmFlag
from hdl.unit import INSTRUCTION_LAYOUT, ORDER_ENTRY, quant_word

__all__ = ["Fetch", "FetchPort", "StationaryLoader", "StreamLoader", "mark_layout"]

#: What a request is for; it comes back with the element.
TAG = {
    #: For the mesh's weights; else for the streamed operand.
    "stationary": 1,
    #: The row of operands is complete.
    "last": 1,
    #: It was the last row of its tile.
    "end": 1,
    #: The row has a mark.
    "mark": 1,
    #: The element is 1, whatever is stored.
    "one": 1,
}


def request_layout(params):
    """A request for one element, at one index of the inner dimension and one of the outer."""
    return data.StructLayout({
        #: Slot of the schedule, which stands for an index of the inner dimension.
        "slot": range(params.stream_words * params.slots + params.slots),
        #: Index of the outer dimension, its quotient and its remainder by ``cols``.
        "outer": INDEX_BITS, "tile": INDEX_BITS, "lane": range(params.cols),
        #: There is no such element; nothing is read, the result is 0.
        "skip": 1,
        **TAG,
    })


def mark_layout(params):
    """Schedule rows before which the array shifts."""
    return data.ArrayLayout(INDEX_BITS, params.max_groups - 1)


class FetchPort(wiring.Signature):
    """Requests to :class:`Fetch` and its results, from the requester's point of view.

    Members
    -------
    valid : Out(1)
    request : Out(request_layout)
    done : In(1)
        A result, :attr:`Fetch.latency` cycles after ``valid``.
    tag : In(StructLayout(TAG))
    element : In(signed(bits))
    word : In(quant_word)
        The whole word that holds the element, 0 as the element is.
    """
    def __init__(self, params):
        super().__init__({
            "valid": Out(1), "request": Out(request_layout(params)),
            "done": In(1), "tag": In(data.StructLayout(TAG)),
            "element": In(signed(params.bits)), "word": In(quant_word(params)),
        })


class Fetch(wiring.Component):
    """Finds an element of either operand of a GEMM in the quantised memory.

    Element (r, s) of a tensor stored with I rows is lane ``s % cols`` of word
    ``base + (s // cols) * I + r``. One of r and s is the request's outer index, the other is the
    inner index k that takes its slot: the slot itself, or with ``INNER_GROUPS`` what the order
    table says. Slots from ``used`` on and padding give 0 without a read.

    One request per clock, lock step, ``latency`` cycles.

    Parameters
    ----------
    params : hdl.params.Params

    Attributes
    ----------
    latency : int

    Members
    -------
    instruction : In(INSTRUCTION_LAYOUT)
    used : In(INDEX_BITS)
        Slots in use.
    port : In(FetchPort(params))
    quant_r : Out(ReadPort(quant_word))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Idle on a machine without groups.
    """
    def __init__(self, params):
        self.params = params
        self.lookup_latency = 1 + READ_LATENCY if params.max_groups > 1 else 1
        self.latency = self.lookup_latency + 5 + READ_LATENCY + 1
        super().__init__({
            "instruction": In(INSTRUCTION_LAYOUT),
            "used": In(INDEX_BITS),
            "port": In(FetchPort(params)),
            "quant_r": Out(ReadPort(quant_word(params))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
        })

    def elaborate(self, platform):
        m = Module()
        fields, flags, cols = self.instruction, self.instruction.flags, self.params.cols
        grouped = self.params.max_groups > 1
        inner = Signal()
        if grouped:
            m.d.comb += inner.eq((flags & GemmFlag.INNER_GROUPS).any())

        # The request, as it passes every stage.
        passing = [self.port.request]
        for stage in range(self.latency):
            passing.append(Signal(self.port.request.shape(), name=f"passing{stage + 1}",
                                  reset_less=True))
            m.d.sync += passing[-1].eq(passing[-2])
        valid = Signal(self.latency)
        m.d.sync += valid.eq(Cat(self.port.valid, valid))

        # Stage 1: the slot's entry in the order table.
        slot = self.port.request.slot
        inside = Signal(self.lookup_latency, reset_less=True)
        m.d.sync += inside.eq(Cat((slot < self.used) & ~self.port.request.skip, inside))
        if grouped:
            table = Signal(ADDRESS_BITS, reset_less=True)
            m.d.sync += table.eq(fields.tab0 + TABLE_HEADER + slot)
            m.d.comb += [self.order_r.en.eq(inner & valid[0] & inside[0]),
                         self.order_r.addr.eq(table)]

        # Stage 2: the index.
        now = self.lookup_latency
        index, present = Signal(INDEX_BITS, reset_less=True), Signal(5, reset_less=True)
        entry = self.order_r.data
        m.d.sync += [
            index.eq(Mux(inner, entry.index, passing[now].slot)),
            present.eq(Cat(inside[-1] & ~(inner & entry.pad), present)),
        ]
        # Stage 3: its quotient by the constant cols, times a reciprocal that is exact up to
        # 2**INDEX_BITS, since k * (reciprocal - 2**scale / cols) / 2**scale < 1 / cols.
        scale = INDEX_BITS + (cols - 1).bit_length()
        quotient = Signal(INDEX_BITS, reset_less=True)
        index_3 = Signal(INDEX_BITS, reset_less=True)
        m.d.sync += [quotient.eq((index * -(-(1 << scale) // cols)) >> scale), index_3.eq(index)]
        # Stage 4: which index goes across the tensor's tiles, and which along their rows.
        request = passing[now + 2]
        across = Mux(request.stationary, (flags & GemmFlag.B_TRANSPOSED).any(),
                     ~(flags & GemmFlag.A_TRANSPOSED).any())
        tile, along, rows = (Signal(INDEX_BITS, reset_less=True) for _ in range(3))
        lanes = [Signal(range(cols), name=f"lane{stage}", reset_less=True)
                 for stage in range(3 + READ_LATENCY)]
        m.d.sync += [
            tile.eq(Mux(across, quotient, request.tile)),
            along.eq(Mux(across, request.outer, index_3)),
            lanes[0].eq(Mux(across, index_3 - quotient * cols, request.lane)),
            rows.eq(Mux(across, Mux(request.stationary, fields.n, fields.m), fields.k)),
        ]
        # Stage 5: the tile's place.
        place, along_5 = Signal(ADDRESS_BITS, reset_less=True), Signal.like(along)
        m.d.sync += [place.eq(tile * rows), along_5.eq(along)]
        # Stage 6: the address.
        address = Signal(ADDRESS_BITS, reset_less=True)
        base = Mux(passing[now + 4].stationary, fields.src1, fields.src0)
        m.d.sync += address.eq(base + place + along_5)
        m.d.comb += [self.quant_r.en.eq(valid[now + 4] & present[4]),
                     self.quant_r.addr.eq(address)]
        # Stage 7: the element's lane, once the word has come.
        arrived = Signal(READ_LATENCY, reset_less=True)
        m.d.sync += [
            arrived.eq(Cat(present[4], arrived)),
            *(lane.eq(before) for before, lane in pairwise(lanes)),
            self.port.word.eq(Mux(arrived[-1], Value.cast(self.quant_r.data), 0)),
            self.port.element.eq(Mux(passing[-2].one, 1, Mux(
                arrived[-1], self.quant_r.data[lanes[-1]], 0))),
        ]
        m.d.comb += [
            self.port.done.eq(valid[-1]),
            *(self.port.tag[name].eq(passing[-1][name]) for name in TAG),
        ]
        return m


class StreamLoader(wiring.Component):
    """Fills the streamed-operand buffer, element by element.

    For every tile along the inner dimension, for every row of the streamed operand, ``slots``
    requests and then one write: word ``tile * rows + row``. With ``UNSIGNED`` a row of ones
    follows the others. ``tiles * rows * slots`` cycles.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    last_row : In(range(MAX_M + 1))
        Rows less one, the row of ones included.
    last_tile : In(16)
        Tiles less one.
    rows : In(range(MAX_M + 1))
        Rows that are stored: the row of that number is the row of ones.
    fetch : Out(FetchPort(params))
    done : Out(1)
        With the last request.
    wen : Out(1)
    waddr : Out(range(stream_words))
    wdata : Out(ArrayLayout(signed(bits), slots))
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1), "last_row": In(range(MAX_M + 1)), "last_tile": In(16),
            "rows": In(range(MAX_M + 1)),
            "fetch": Out(FetchPort(params)), "done": Out(1),
            "wen": Out(1), "waddr": Out(range(params.stream_words)),
            "wdata": Out(data.ArrayLayout(signed(params.bits), params.slots)),
        })

    def elaborate(self, platform):
        m = Module()
        slots, request = self.params.slots, self.fetch.request

        # Requests.
        first_slot, slot = Signal.like(request.slot), Signal.like(request.slot)
        place = Signal(range(slots))
        row, row_tile, row_lane = (Signal.like(self.last_row), Signal.like(request.tile),
                                   Signal.like(request.lane))
        tile = Signal(16)
        busy = Signal()
        one = row == self.rows
        m.d.comb += [
            self.fetch.valid.eq(busy),
            request.slot.eq(slot),
            request.outer.eq(row), request.tile.eq(row_tile), request.lane.eq(row_lane),
            request.one.eq(one), request.skip.eq(one),
            request.last.eq(place == slots - 1),
        ]
        with m.If(busy):
            m.d.sync += [slot.eq(slot + 1), place.eq(place + 1)]
            with m.If(request.last):
                m.d.sync += [place.eq(0), slot.eq(first_slot),
                             row.eq(row + 1), row_lane.eq(row_lane + 1)]
                with m.If(row_lane == self.params.cols - 1):
                    m.d.sync += [row_lane.eq(0), row_tile.eq(row_tile + 1)]
                with m.If(row == self.last_row):
                    m.d.sync += [row.eq(0), row_lane.eq(0), row_tile.eq(0), tile.eq(tile + 1),
                                 slot.eq(slot + 1), first_slot.eq(slot + 1)]
                    with m.If(tile == self.last_tile):
                        m.d.comb += self.done.eq(1)
                        m.d.sync += busy.eq(0)
        with m.If(self.start):
            m.d.sync += [busy.eq(1), slot.eq(0), first_slot.eq(0), place.eq(0), row.eq(0),
                         row_lane.eq(0), row_tile.eq(0), tile.eq(0)]

        # Results: elements shift in until the word is complete.
        word = Value.cast(self.wdata)
        m.d.sync += self.wen.eq(0)
        with m.If(self.wen):
            m.d.sync += self.waddr.eq(self.waddr + 1)
        with m.If(self.fetch.done & ~self.fetch.tag.stationary):
            m.d.sync += [word.eq(Cat(word, self.fetch.element)[self.params.bits:]),
                         self.wen.eq(self.fetch.tag.last)]
        with m.If(self.start):
            m.d.sync += self.waddr.eq(0)
        return m


class StationaryLoader(wiring.Component):
    """Loads weights into the mesh, tile after tile along the inner dimension, then along n.

    A row of weights is collected from ``depth`` words that hold ``cols`` columns each, or with
    ``B_TRANSPOSED`` from ``cols * depth`` elements; the last row of a tile comes first. So a tile
    takes ``rows * depth`` or ``rows * depth * cols`` cycles, and is in the mesh
    ``fetch latency + 1`` cycles later. The next tile's requests begin after ``taken``, as soon as
    its first row cannot overtake the swap.

    Parameters
    ----------
    params : hdl.params.Params
    fetch_latency : int
    guard : int
        Cycles after ``taken`` in which there must be no ``load``.

    Members
    -------
    start : In(1)
    transposed, last_tile, n : In
        Of the instruction: ``B_TRANSPOSED``, tiles less one, columns.
    grouped : In(1), marks : In(mark_layout)
        ``INNER_GROUPS`` and its marks; only on a machine with groups.
    fetch : Out(FetchPort(params))
    load : Out(1)
    weights : Out(ArrayLayout(ArrayLayout(signed(bits), depth), cols))
    mark : Out(1)
        As :class:`hdl.array.mesh.Mesh` takes them.
    ready : Out(1)
        A tile is complete, from its last ``load`` on until ``taken``.
    shifts : Out(range(max_groups))
        Marks in that tile.
    taken : In(1)
        The tile begins.
    """
    def __init__(self, params, *, fetch_latency, guard):
        self.params = params
        # With the first request one cycle after ``taken``, its first row comes
        # ``fetch_latency + depth + 1`` cycles after ``taken``.
        self.hold = max(0, guard - (fetch_latency + params.depth + 1))
        members = {
            "start": In(1), "transposed": In(1), "last_tile": In(16), "n": In(INDEX_BITS),
            "fetch": Out(FetchPort(params)),
            "load": Out(1), "mark": Out(1),
            "weights": Out(data.ArrayLayout(
                data.ArrayLayout(signed(params.bits), params.depth), params.cols)),
            "ready": Out(1), "shifts": Out(range(params.max_groups)), "taken": In(1),
        }
        if params.max_groups > 1:
            members |= {"grouped": In(1), "marks": In(mark_layout(params))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        self._requests(m)
        self._results(m)
        return m

    def _requests(self, m):
        rows, cols, depth = self.params.rows, self.params.cols, self.params.depth
        request = self.fetch.request
        busy, left = Signal(), Signal()
        hold = Signal(range(self.hold + 1))

        # Place in the row, row in the tile, tile along the inner dimension, tile along n.
        lane, col, row, tile = (Signal(range(depth)), Signal(range(cols)), Signal(range(rows)),
                                Signal(16))
        slot, row_slot, top_slot = (Signal.like(request.slot, name=name)
                                    for name in ("slot", "row_slot", "top_slot"))
        schedule, top_schedule = Signal(INDEX_BITS), Signal(INDEX_BITS)
        first_col, col_tile = Signal(INDEX_BITS), Signal(INDEX_BITS)
        mark = Signal()
        if self.params.max_groups > 1:
            m.d.comb += mark.eq(
                self.grouped & Cat(schedule == marked for marked in self.marks).any())
        m.d.comb += [
            self.fetch.valid.eq(busy),
            request.stationary.eq(1),
            request.slot.eq(slot),
            request.outer.eq(first_col + col), request.tile.eq(col_tile), request.lane.eq(col),
            request.skip.eq(self.transposed & (request.outer >= self.n)),
            request.last.eq((lane == depth - 1) & (~self.transposed | (col == cols - 1))),
            request.end.eq(request.last & (row == 0)),
            request.mark.eq(mark),
        ]
        with m.If(busy):
            m.d.sync += [slot.eq(slot + 1), lane.eq(lane + 1)]
            with m.If(lane == depth - 1):
                m.d.sync += [slot.eq(row_slot), lane.eq(0), col.eq(col + 1)]
            with m.If(request.last):
                m.d.sync += [slot.eq(row_slot - depth), row_slot.eq(row_slot - depth), col.eq(0),
                             row.eq(row - 1), schedule.eq(schedule - 1),
                             self.shifts.eq(self.shifts + mark)]
        following, column_done = Signal.like(slot), tile == self.last_tile
        m.d.comb += following.eq(Mux(column_done, (rows - 1) * depth, top_slot + rows * depth))
        following_schedule = Mux(column_done, rows - 1, top_schedule + rows)
        with m.If(request.end & busy):
            m.d.sync += [
                busy.eq(0), row.eq(rows - 1), tile.eq(tile + 1),
                slot.eq(following), row_slot.eq(following), top_slot.eq(following),
                schedule.eq(following_schedule), top_schedule.eq(following_schedule),
            ]
            with m.If(column_done):
                m.d.sync += [tile.eq(0), col_tile.eq(col_tile + 1),
                             first_col.eq(first_col + cols), left.eq(first_col + cols < self.n)]

        # The next tile.
        with m.If(self.taken):
            m.d.sync += [self.shifts.eq(0), hold.eq(self.hold), busy.eq(left & (self.hold == 0))]
        with m.Elif(hold != 0):
            m.d.sync += [hold.eq(hold - 1), busy.eq(left & (hold == 1))]
        top = (rows - 1) * depth
        with m.If(self.start):
            m.d.sync += [
                busy.eq(1), left.eq(1), lane.eq(0), col.eq(0), row.eq(rows - 1), tile.eq(0),
                slot.eq(top), row_slot.eq(top), top_slot.eq(top),
                schedule.eq(rows - 1), top_schedule.eq(rows - 1),
                first_col.eq(0), col_tile.eq(0), self.shifts.eq(0),
            ]

    def _results(self, m):
        """A row of weights shifts in, and goes to the mesh when it is complete."""
        bits, fetch = self.params.bits, self.fetch
        row = Value.cast(self.weights)
        m.d.sync += self.load.eq(0)
        with m.If(self.taken | self.start):
            m.d.sync += self.ready.eq(0)
        with m.If(fetch.done & fetch.tag.stationary):
            with m.If(self.transposed):
                m.d.sync += row.eq(Cat(row, fetch.element)[bits:])
            with m.Else():
                for weights, element in zip(self.weights, fetch.word, strict=True):
                    weights = Value.cast(weights)
                    m.d.sync += weights.eq(Cat(weights, element)[bits:])
            m.d.sync += [self.load.eq(fetch.tag.last), self.mark.eq(fetch.tag.mark)]
            with m.If(fetch.tag.end):
                m.d.sync += self.ready.eq(1)

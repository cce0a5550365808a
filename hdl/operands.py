"""From quantised tensors to the array: streamed operands to their buffer, weights to the mesh."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.skew import Delay
from hdl.fetch import Fetch, FetchPort, request_layout
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import INDEX_BITS, MAX_M
from hdl.protocol import GemmFlag
from hdl.unit import INSTRUCTION_LAYOUT, ORDER_ENTRY, quant_word

__all__ = ["Header", "Operands", "StationaryLoader", "StationarySchedule", "StreamLoader"]


def mark_layout(params):
    """Schedule rows before which the array shifts."""
    return data.ArrayLayout(INDEX_BITS, params.max_groups - 1)


def stationary_fields(params):
    """What :class:`StationarySchedule` needs of an instruction."""
    fields = {"transposed": In(1), "last_tile": In(16), "n": In(INDEX_BITS)}
    if params.max_groups > 1:
        fields |= {"grouped": In(1), "marks": In(mark_layout(params))}
    return fields


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


class StreamLoader(wiring.Component):
    """Fills the streamed-operand buffer, element by element.

    For every tile along the inner dimension, for every row of the streamed operand, ``slots``
    requests and then one write: word ``tile * rows + row``. A row of the operand's zeros follows
    the others: all elements are the code that stands for 0. ``tiles * rows * slots`` cycles.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    last_row : In(range(MAX_M + 1))
        Rows that are stored: the row of that number is the row of zeros.
    last_tile : In(16)
        Tiles less one.
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
        zero = row == self.last_row
        m.d.comb += [
            self.fetch.valid.eq(busy),
            request.slot.eq(slot),
            request.outer.eq(row), request.tile.eq(row_tile), request.lane.eq(row_lane),
            request.zero.eq(zero), request.skip.eq(zero),
            request.last.eq(place == slots - 1),
        ]
        with m.If(busy):
            m.d.sync += [slot.eq(slot + 1), place.eq(place + 1)]
            with m.If(request.last):
                m.d.sync += [place.eq(0), slot.eq(first_slot),
                             row.eq(row + 1), row_lane.eq(row_lane + 1)]
                with m.If(row_lane == self.params.vector - 1):
                    m.d.sync += [row_lane.eq(0), row_tile.eq(row_tile + 1)]
                with m.If(zero):
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


class StationarySchedule(wiring.Component):
    """Requests for the weights, tile after tile along the inner dimension, then along n.

    The last row of a tile comes first: for every ``vector`` columns ``depth`` requests for words,
    or with ``B_TRANSPOSED`` ``cols * depth`` of single elements. Rows begin at least
    ``load_cycles`` cycles after each other. The first tile begins with ``start``, each of the
    others ``1 + hold`` cycles after the one before it was ``taken``.

    Parameters
    ----------
    params : hdl.params.Params
    load_cycles : int
    hold : int

    Members
    -------
    start : In(1)
    transposed : In(1), last_tile : In(16), n : In(INDEX_BITS)
        Of the instruction: ``B_TRANSPOSED``, tiles less one, columns.
    grouped : In(1), marks : In(mark_layout)
        ``INNER_GROUPS`` and its marks; only on a machine with groups.
    taken : In(1)
    valid : Out(1), request : Out(request_layout)
    shifts : Out(range(max_groups))
        Marks in the tile, after its last request and until ``taken``.
    """
    def __init__(self, params, *, load_cycles, hold):
        self.params = params
        self.load_cycles = load_cycles
        self.hold = hold
        super().__init__({
            "start": In(1), **stationary_fields(params), "taken": In(1),
            "valid": Out(1), "request": Out(request_layout(params)),
            "shifts": Out(range(params.max_groups)),
        })

    def elaborate(self, platform):
        m = Module()
        rows, cols, depth = self.params.rows, self.params.cols, self.params.depth
        vector = self.params.vector
        request = self.request
        busy, left = Signal(), Signal()
        hold = Signal(range(self.hold + 1))
        # Cycles until the next row may begin.
        pause = Signal(range(self.load_cycles + 1))
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)

        # Place in the row, row in the tile, tile along the inner dimension, tile along n.
        lane, col, row, tile = (Signal(range(depth)), Signal(range(cols)), Signal(range(rows)),
                                Signal(16))
        slot, row_slot, top_slot = (Signal.like(request.slot, name=name)
                                    for name in ("slot", "row_slot", "top_slot"))
        schedule, top_schedule = Signal(INDEX_BITS), Signal(INDEX_BITS)
        first_col = Signal(INDEX_BITS)
        # The word's tile of columns, and the first of the array's.
        part, col_tile = Signal(INDEX_BITS), Signal(INDEX_BITS)
        mark, first = Signal(), Signal()
        m.d.comb += first.eq((lane == 0) & (col == 0))
        if self.params.max_groups > 1:
            m.d.comb += mark.eq(
                self.grouped & Cat(schedule == marked for marked in self.marks).any())
        m.d.comb += [
            self.valid.eq(busy & ((pause == 0) | ~first)),
            request.stationary.eq(1),
            request.slot.eq(slot),
            request.outer.eq(first_col + col), request.tile.eq(part),
            request.skip.eq(request.outer >= self.n),
            request.last.eq((lane == depth - 1)
                            & (col == Mux(self.transposed, cols - 1, cols - vector))),
            request.end.eq(request.last & (row == 0)),
            request.mark.eq(mark),
        ]
        with m.If(self.valid):
            m.d.sync += [slot.eq(slot + 1), lane.eq(lane + 1)]
            with m.If(first):
                m.d.sync += pause.eq(self.load_cycles - 1)
            with m.If(lane == depth - 1):
                m.d.sync += [slot.eq(row_slot), lane.eq(0), part.eq(part + 1),
                             col.eq(col + Mux(self.transposed, 1, vector))]
            with m.If(request.last):
                m.d.sync += [slot.eq(row_slot - depth), row_slot.eq(row_slot - depth), col.eq(0),
                             part.eq(col_tile), row.eq(row - 1), schedule.eq(schedule - 1),
                             self.shifts.eq(self.shifts + mark)]
        following, column_done = Signal.like(slot), tile == self.last_tile
        m.d.comb += following.eq(Mux(column_done, (rows - 1) * depth, top_slot + rows * depth))
        following_schedule = Mux(column_done, rows - 1, top_schedule + rows)
        with m.If(request.end & self.valid):
            m.d.sync += [
                busy.eq(0), row.eq(rows - 1), tile.eq(tile + 1),
                slot.eq(following), row_slot.eq(following), top_slot.eq(following),
                schedule.eq(following_schedule), top_schedule.eq(following_schedule),
            ]
            with m.If(column_done):
                following_part = Signal.like(part)
                m.d.comb += following_part.eq(col_tile + cols // vector)
                m.d.sync += [tile.eq(0), col_tile.eq(following_part), part.eq(following_part),
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
                first_col.eq(0), col_tile.eq(0), part.eq(0), self.shifts.eq(0),
            ]
        return m


class StationaryLoader(wiring.Component):
    """Loads weights into the mesh, tile after tile.

    A row of weights is collected from words or from ``cols * depth`` elements, see
    :class:`StationarySchedule`, and is in the mesh ``fetch_latency + 1`` cycles after its last one
    was asked for. The next tile's requests begin after ``taken``, as soon as its first row cannot
    overtake the swap.

    Parameters
    ----------
    params : hdl.params.Params
    fetch_latency : int
    load_cycles : int
        From a ``load`` to the next at the earliest.
    guard : int
        Cycles after ``taken`` in which there must be no ``load``.
    wait : int
        Cycles from the last ``load`` of a tile to the earliest ``taken``.

    Members
    -------
    start, transposed, last_tile, n, grouped, marks, shifts : as of :class:`StationarySchedule`
    fetch : Out(FetchPort(params))
    load : Out(1)
    weights : Out(ArrayLayout(ArrayLayout(signed(bits), depth), cols))
    mark : Out(1)
        As :class:`hdl.array.mesh.Mesh` takes them.
    ready : Out(1)
        A tile is complete, from ``wait`` cycles after its last ``load`` until ``taken``.
    taken : In(1)
        The tile begins.
    """
    def __init__(self, params, *, fetch_latency, load_cycles, guard, wait):
        self.params = params
        self.load_cycles = load_cycles
        self.wait = wait
        # Without a hold the first row is complete ``fetch_latency + depth + 1`` cycles after
        # ``taken``.
        self.hold = max(0, guard - (fetch_latency + params.depth + 1))
        super().__init__({
            "start": In(1), **stationary_fields(params), "taken": In(1),
            "fetch": Out(FetchPort(params)),
            "load": Out(1), "mark": Out(1),
            "weights": Out(data.ArrayLayout(
                data.ArrayLayout(signed(params.bits), params.depth), params.cols)),
            "ready": Out(1), "shifts": Out(range(params.max_groups)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.schedule = schedule = StationarySchedule(
            self.params, load_cycles=self.load_cycles, hold=self.hold)
        for name in ("start", "taken", *stationary_fields(self.params)):
            m.d.comb += getattr(schedule, name).eq(getattr(self, name))
        m.d.comb += [
            self.fetch.valid.eq(schedule.valid), self.fetch.request.eq(schedule.request),
            self.shifts.eq(schedule.shifts),
        ]

        # A row of weights shifts in, and goes to the mesh when it is complete.
        bits, fetch, vector = self.params.bits, self.fetch, self.params.vector
        row = Value.cast(self.weights)
        place, part = Signal(range(self.params.depth)), Signal(range(self.params.cols // vector))
        m.d.sync += self.load.eq(0)
        with m.If(self.taken | self.start):
            m.d.sync += self.ready.eq(0)
        with m.If(fetch.done & fetch.tag.stationary):
            with m.If(self.transposed):
                m.d.sync += row.eq(Cat(row, fetch.element)[bits:])
            with m.Else():
                for col in range(self.params.cols):
                    weights = Value.cast(self.weights[col])
                    with m.If(part == col // vector):
                        m.d.sync += weights.eq(Cat(weights, fetch.word[col % vector])[bits:])
                m.d.sync += place.eq(place + 1)
                with m.If(place == self.params.depth - 1):
                    m.d.sync += [place.eq(0), part.eq(part + 1)]
                with m.If(fetch.tag.last):
                    m.d.sync += part.eq(0)
            m.d.sync += [self.load.eq(fetch.tag.last), self.mark.eq(fetch.tag.mark)]
        m.submodules.complete = complete = Delay(1, self.wait, reset=True)
        m.d.comb += complete.i.eq(fetch.done & fetch.tag.stationary & fetch.tag.end)
        with m.If(complete.o):
            m.d.sync += self.ready.eq(1)
        return m


class Operands(wiring.Component):
    """Loads both operands of a GEMM: the streamed one first, then the weights as they are taken.

    Parameters
    ----------
    params : hdl.params.Params
    load_cycles, guard, wait : int
        See :class:`StationaryLoader`.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        From before ``start`` on.
    last_row : Out(range(MAX_M + 1)), last_tile : Out(16)
        Rows to stream, the row of zeros included, and tiles along the inner dimension, less one.
    quant_r : Out(ReadPort(quant_word))
    order_r : Out(ReadPort(ORDER_ENTRY))
    wen, waddr, wdata : Out
        To the buffer, see :class:`StreamLoader`.
    load, weights, mark : Out
        To the mesh;
    ready, shifts : Out, taken : In(1)
        with those who stream through it, see :class:`StationaryLoader`.
    """
    def __init__(self, params, *, load_cycles, guard, wait):
        self.params = params
        self.fetch = Fetch(params)
        self.stream = StreamLoader(params)
        self.stationary = StationaryLoader(
            params, fetch_latency=self.fetch.latency, load_cycles=load_cycles, guard=guard,
            wait=wait)
        self._passed = {
            self.stream: ("wen", "waddr", "wdata"),
            self.stationary: ("load", "weights", "mark", "ready", "shifts"),
        }
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "last_row": Out(range(MAX_M + 1)), "last_tile": Out(16),
            "quant_r": Out(ReadPort(quant_word(params))), "order_r": Out(ReadPort(ORDER_ENTRY)),
            **{name: part.signature.members[name]
               for part, names in self._passed.items() for name in names},
            "taken": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        fields, flags = self.instruction, self.instruction.flags
        m.submodules.fetch, m.submodules.stream = fetch, stream = self.fetch, self.stream
        m.submodules.stationary = stationary = self.stationary
        for part, names in self._passed.items():
            m.d.comb += [getattr(self, name).eq(getattr(part, name)) for name in names]

        # What the instruction amounts to.
        m.d.sync += [
            self.last_row.eq(fields.m),
            self.last_tile.eq(fields.key0[:16] - 1),
        ]
        m.d.comb += [
            fetch.instruction.eq(fields), fetch.used.eq(fields.k),
            stream.last_row.eq(self.last_row), stream.last_tile.eq(self.last_tile),
            stationary.last_tile.eq(self.last_tile),
            stationary.n.eq(fields.n), stationary.taken.eq(self.taken),
            stationary.transposed.eq((flags & GemmFlag.B_TRANSPOSED).any()),
        ]

        # The header of the order table, then one operand after the other.
        begin = self.start
        tables = [fetch.order_r]
        if self.params.max_groups > 1:
            m.submodules.header = header = Header(self.params)
            inner = (flags & GemmFlag.INNER_GROUPS).any()
            tables.append(header.order_r)
            m.d.comb += [header.start.eq(self.start & inner), header.table.eq(fields.tab0),
                         stationary.grouped.eq(inner), stationary.marks.eq(header.marks)]
            with m.If(inner):
                m.d.comb += fetch.used.eq(header.used)
            begin = self.start & ~inner | header.done
        # The first tile's weights come behind all streamed operands, through the same pipeline.
        m.d.sync += [stream.start.eq(begin), stationary.start.eq(stream.done)]
        m.d.comb += [
            fetch.port.valid.eq(stream.fetch.valid | stationary.fetch.valid),
            fetch.port.request.eq(Mux(
                stream.fetch.valid, stream.fetch.request, stationary.fetch.request)),
        ]
        for loader in (stream.fetch, stationary.fetch):
            m.d.comb += [getattr(loader, name).eq(getattr(fetch.port, name))
                         for name in ("done", "tag", "element", "word")]

        # Memories.
        connect(m, fetch.quant_r, flipped(self.quant_r))
        for table in tables:
            m.d.comb += table.data.eq(self.order_r.data)
            with m.If(table.en):
                m.d.comb += [self.order_r.en.eq(1), self.order_r.addr.eq(table.addr)]
        return m

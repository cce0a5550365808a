"""The unit of ``GEMM``: operand load, array, accumulators, readout."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.accumulate import Accumulators, sum_tag
from hdl.array.mac import PlainMac, ShiftMac
from hdl.array.mesh import Mesh
from hdl.array.skew import Delay
from hdl.buffer import Buffer
from hdl.memory import READ_LATENCY, ReadPort, WritePort
from hdl.operands import Fetch, StationaryLoader, StreamLoader, mark_layout
from hdl.params import INDEX_BITS, MAX_M
from hdl.protocol import GemmFlag
from hdl.readout import Readout
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word, wide_word

__all__ = ["ELEMENTS", "Gemm", "Header", "Streamer"]

#: The array's element by ``Params.arith``.
ELEMENTS = {"shift": ShiftMac, "int": PlainMac}


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
            "start": In(1), "table": In(16), "order_r": Out(ReadPort(ORDER_ENTRY)),
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


class Streamer(wiring.Component):
    """Streams the buffered operand through the array: all its tiles for every column tile.

    A tile begins when its weights are loaded, and at the earliest ``spacing`` cycles after the
    one before it; without a gap where that allows. The first of a column tile begins after the
    one before it has begun to be read out.

    Parameters
    ----------
    params : hdl.params.Params
    spacing : int
        See :class:`hdl.accumulate.Accumulators`.

    Members
    -------
    start : In(1)
    last_row, last_tile : In
        Rows and tiles along the inner dimension, less one.
    ready : In(1)
        A tile of weights is loaded;
    shifts : In(range(max_groups))
        its marks.
    begun : In(1)
        A column tile is being read out from the next cycle on.
    taken : Out(1)
        The first row of a tile is being read: those weights are used.
    raddr : Out(range(stream_words))
    tag : Out(sum_tag)
        Of that row.
    """
    def __init__(self, params, *, spacing):
        self.params = params
        self.spacing = spacing
        super().__init__({
            "start": In(1), "last_row": In(range(MAX_M + 1)), "last_tile": In(16),
            "ready": In(1), "shifts": In(range(params.max_groups)), "begun": In(1),
            "taken": Out(1), "raddr": Out(range(params.stream_words)),
            "tag": Out(sum_tag(params)),
        })

    def elaborate(self, platform):
        m = Module()
        running, blocked = Signal(), Signal()
        gap = Signal(range(self.spacing))
        row, address = Signal.like(self.last_row), Signal.like(self.raddr)
        tile = Signal(16)
        shifts = Signal.like(self.shifts)
        fresh = tile == 0

        # A tile's first row does not wait for registers: it follows the last row before it.
        m.d.comb += [
            self.taken.eq(self.ready & ~running & (gap == 0) & ~(fresh & blocked)),
            self.tag.valid.eq(running | self.taken),
            self.tag.first.eq(self.taken),
            self.tag.fresh.eq(fresh),
            self.tag.shifts.eq(Mux(self.taken, self.shifts, shifts)),
            self.tag.last.eq((row == self.last_row) & (tile == self.last_tile)),
            self.raddr.eq(address),
        ]
        with m.If(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        with m.If(self.begun):
            m.d.sync += blocked.eq(0)
        with m.If(self.taken):
            m.d.sync += [gap.eq(self.spacing - 1), shifts.eq(self.shifts)]
        with m.If(self.tag.valid):
            m.d.sync += [running.eq(1), row.eq(row + 1), address.eq(address + 1)]
            with m.If(row == self.last_row):
                m.d.sync += [running.eq(0), row.eq(0), tile.eq(tile + 1)]
                with m.If(tile == self.last_tile):
                    m.d.sync += [tile.eq(0), address.eq(0), blocked.eq(1)]
        with m.If(self.start):
            m.d.sync += [running.eq(0), row.eq(0), address.eq(0), tile.eq(0), blocked.eq(0)]
        return m


class Gemm(wiring.Component):
    """``GEMM``; ``sim.model.gemm.gemm``. Semantics: :mod:`hdl.protocol`.

    The streamed operand is loaded into its buffer once, element by element. Then for every tile
    of columns, for every tile along the inner dimension, weights are loaded into the array while
    the tile before streams, and all rows stream through; sums add up in the accumulators; a
    finished column tile is read out while the next one begins.

    With R rows streamed (m, and one with ``UNSIGNED``), T tiles, C = ceil(n / cols) and
    L = rows * depth cycles to load weights (times cols with ``B_TRANSPOSED``), an instruction
    takes about ``T R rows depth + C (T max(R, L + 16) + rows + cols + 12) + m`` cycles.

    An instruction with 0 rows, columns, products or tiles does nothing. Of one whose ``tiles``
    contradict its ``k``, or whose streamed operand does not fit the buffer, the result is
    undefined; the unit finishes all the same.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
    quant_r : Out(ReadPort(quant_word))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Both idle on a machine without groups.
    wide_w : Out(WritePort(wide_word))
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "control": Out(UnitPort()),
            "quant_r": Out(ReadPort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def elaborate(self, platform):
        m = Module()
        params, fields = self.params, self.control.instruction
        flags = fields.flags

        m.submodules.fetch = fetch = Fetch(params)
        m.submodules.stream = stream = StreamLoader(params)
        m.submodules.buffer = buffer = Buffer(stream.wdata.shape(), params.stream_words)
        m.submodules.streamer = streamer = Streamer(params, spacing=Accumulators.SPACING)
        m.submodules.mesh = mesh = Mesh(params, ELEMENTS[params.arith])
        m.submodules.stationary = stationary = StationaryLoader(
            params, fetch_latency=fetch.latency, guard=READ_LATENCY + mesh.swap_cycles)
        m.submodules.accumulators = accumulators = Accumulators(params, mesh.sums.shape())
        m.submodules.readout = readout = Readout(params)
        if params.max_groups > 1:
            m.submodules.header = header = Header(params)

        # What the instruction amounts to.
        last_row, last_tile = Signal(range(MAX_M + 1)), Signal(16)
        tiles = fields.key0[:16]
        m.d.sync += [
            last_row.eq(fields.m - 1 + (flags & GemmFlag.UNSIGNED).any()),
            last_tile.eq(tiles - 1),
        ]
        m.d.comb += [
            fetch.instruction.eq(fields), fetch.used.eq(fields.k), readout.instruction.eq(fields),
            stream.rows.eq(fields.m),
            stationary.n.eq(fields.n),
            stationary.transposed.eq((flags & GemmFlag.B_TRANSPOSED).any()),
            *(part.last_row.eq(last_row) for part in (stream, streamer)),
            *(part.last_tile.eq(last_tile) for part in (stream, stationary, streamer)),
        ]

        # Phases: the header of the order table, the streamed operand, everything else.
        with m.FSM():
            with m.State("IDLE"), m.If(self.control.start):
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [streamer.start.eq(1), readout.start.eq(1)]
                m.next = "START"
                if params.max_groups > 1:
                    with m.If((flags & GemmFlag.INNER_GROUPS).any()):
                        m.d.comb += header.start.eq(1)
                        m.next = "HEADER"
                with m.If((fields.m == 0) | (fields.k == 0) | (fields.n == 0) | (tiles == 0)):
                    m.d.comb += self.control.done.eq(1)
                    m.next = "IDLE"
            if params.max_groups > 1:
                with m.State("HEADER"), m.If(header.done):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += stream.start.eq(1)
                m.next = "STREAM"
            with m.State("STREAM"), m.If(stream.done):
                m.d.comb += stationary.start.eq(1)
                m.next = "RUN"
            with m.State("RUN"), m.If(readout.done):
                m.d.comb += self.control.done.eq(1)
                m.next = "IDLE"

        # Requests for elements, and the elements.
        streaming = stream.fetch.valid
        m.d.comb += [
            fetch.port.valid.eq(streaming | stationary.fetch.valid),
            fetch.port.request.eq(Mux(
                streaming, stream.fetch.request, stationary.fetch.request)),
        ]
        for loader in (stream.fetch, stationary.fetch):
            m.d.comb += [getattr(loader, name).eq(getattr(fetch.port, name))
                         for name in ("done", "tag", "element", "word")]
        connect(m, fetch.quant_r, flipped(self.quant_r))
        orders = [fetch.order_r]
        if params.max_groups > 1:
            m.d.comb += [header.table.eq(fields.tab0), stationary.marks.eq(header.marks)]
            orders.append(header.order_r)
            with m.If((flags & GemmFlag.INNER_GROUPS).any()):
                m.d.comb += [fetch.used.eq(header.used), stationary.grouped.eq(1)]
        for order in orders:
            m.d.comb += order.data.eq(self.order_r.data)
            with m.If(order.en):
                m.d.comb += [self.order_r.en.eq(1), self.order_r.addr.eq(order.addr)]

        # Operands: buffer to array, the swap with the first row.
        m.submodules.swap = swap = Delay(1, READ_LATENCY, reset=True)
        m.d.comb += [
            buffer.wen.eq(stream.wen), buffer.waddr.eq(stream.waddr),
            buffer.wdata.eq(stream.wdata), buffer.raddr.eq(streamer.raddr),
            mesh.a.eq(buffer.data),
            mesh.load.eq(stationary.load), mesh.mark.eq(stationary.mark),
            mesh.weights.eq(stationary.weights),
            streamer.ready.eq(stationary.ready), streamer.shifts.eq(stationary.shifts),
            stationary.taken.eq(streamer.taken),
            swap.i.eq(streamer.taken), mesh.swap.eq(swap.o),
        ]

        # Sums: array to accumulators to memory.
        m.submodules.tag = tag = Delay(
            streamer.tag.shape(), READ_LATENCY + mesh.latency - Accumulators.AHEAD, reset=True)
        m.d.comb += [
            tag.i.eq(streamer.tag), accumulators.tag.eq(tag.o), accumulators.sums.eq(mesh.sums),
            readout.finished.eq(accumulators.finished), streamer.begun.eq(readout.begun),
            accumulators.row.eq(readout.row), readout.acc.eq(accumulators.acc),
            self.control.clamped.eq(readout.clamped),
        ]
        connect(m, readout.group_r, flipped(self.group_r))
        connect(m, readout.wide_w, flipped(self.wide_w))
        return m

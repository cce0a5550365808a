"""The unit of ``GEMM``: operand load, array, accumulators, readout."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.accumulate import Accumulators, sum_tag
from hdl.array.mesh import Mesh
from hdl.array.skew import Delay
from hdl.buffer import SkewedBuffer
from hdl.memory import READ_LATENCY, ReadPort, WritePort
from hdl.operands import Operands
from hdl.params import MAX_M
from hdl.readout import Readout
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word, wide_word

__all__ = ["Gemm", "Streamer"]


class Streamer(wiring.Component):
    """Streams the buffered operand through the array: all its tiles for every column tile.

    A tile begins when its weights are loaded, without a gap if they already are. The last of a
    column tile begins after the last columns of the column tile before it have begun to be read
    out.

    Parameters
    ----------
    params : hdl.params.Params

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
        The last columns of a column tile are being read out from the next cycle on.
    taken : Out(1)
        The first row of a tile is being read: those weights are used.
    raddr : Out(range(stream_words))
    tag : Out(sum_tag)
        Of that row.
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1), "last_row": In(range(MAX_M + 1)), "last_tile": In(16),
            "ready": In(1), "shifts": In(range(params.max_groups)), "begun": In(1),
            "taken": Out(1), "raddr": Out(range(params.stream_words)),
            "tag": Out(sum_tag(params)),
        })

    def elaborate(self, platform):
        m = Module()
        running, blocked = Signal(), Signal()
        row, address = Signal.like(self.last_row), Signal.like(self.raddr)
        tile = Signal(16)
        shifts = Signal.like(self.shifts)
        fresh, final = tile == 0, tile == self.last_tile

        # A tile's first row does not wait for registers: it follows the last row before it.
        m.d.comb += [
            self.taken.eq(self.ready & ~running & ~(final & blocked)),
            self.tag.valid.eq(running | self.taken),
            self.tag.first.eq(self.taken),
            self.tag.fresh.eq(fresh),
            self.tag.shifts.eq(Mux(self.taken, self.shifts, shifts)),
            self.tag.final.eq(final),
            self.tag.last.eq((row == self.last_row) & final),
            self.raddr.eq(address),
        ]
        with m.If(self.begun):
            m.d.sync += blocked.eq(0)
        with m.If(self.taken):
            m.d.sync += shifts.eq(self.shifts)
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
    the tile before streams, and all rows stream through, one of zeros the last; sums add up in the
    accumulators; a finished column tile is read out, ``vector`` columns after the other, while the
    next one streams.

    From ``start`` to ``done`` an instruction takes exactly
    ``T R rows depth + L + F + (T - 1) P + (C - 1) max(T P, D + (V - 1) Q, V Q) + D + (W - 1) Q
    + R + 14`` cycles, and with ``INNER_GROUPS`` ``max_groups + 3`` more, where

    * R = m + 1; T = tiles; C = ceil(n / cols);
      V = cols / vector, W = ceil(n / vector) - (C - 1) V: read out of a column tile, of the last;
    * L = (rows - 1) max(q, G) + q: until the last request for a tile of weights, with
      q = depth V, or depth cols with ``B_TRANSPOSED``: requests for a row of weights,
      and G = max(2, 2**(depth - 1)): entries of its table;
      F = latency of a request, 13, or 10 on a machine without groups, and G more for the last
      row's table;
    * P = max(R, L + F + 1 + H): from one tile to the next; H, a hold for wide arrays, is
      max(0, ceil(cols / 4) - depth - 3 - latency of a request);
    * D = R + latency of the mesh + 6: from the last tile of a column tile to its readout;
      Q = R + 13: a readout of ``vector`` columns; both ``vector + 3`` more with ``COL_GROUPS``.

    An instruction with 0 rows, columns, products or tiles does nothing. Of one whose ``tiles``
    contradict its ``k``, or whose streamed operand does not fit the buffer, the result is
    undefined; the unit finishes all the same.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        The array's adders are cells of the ECP5, :mod:`hdl.chain`.

    Members
    -------
    control : Out(UnitPort())
    quant_r : Out(ReadPort(quant_word))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Both idle on a machine without groups.
    wide_w : Out(WritePort(wide_word))
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.mapped = mapped
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
        mesh = Mesh(params, mapped=self.mapped)
        # The swap comes so many cycles after a tile is taken.
        operands = Operands(params, load_cycles=mesh.load_cycles,
                            guard=READ_LATENCY + mesh.swap_cycles,
                            wait=max(0, mesh.swap_wait - READ_LATENCY))
        buffer = SkewedBuffer(params.bits * params.depth, params.rows, params.stream_words)
        streamer = Streamer(params)
        accumulators = Accumulators(params, mesh.sums.shape())
        # A row comes again no earlier than weights have been fetched for it.
        assert operands.fetch.latency >= accumulators.SPACING
        readout = Readout(params)

        # Control.
        begin, nothing = Signal(), Signal()
        m.d.sync += [
            begin.eq(self.control.start),
            nothing.eq(~Cat(value.any() for value in (
                fields.m, fields.k, fields.n, fields.key0[:16])).all()),
        ]
        for part in (operands, streamer, readout):
            m.d.comb += part.start.eq(begin & ~nothing)
        m.d.comb += [
            self.control.done.eq(readout.done | begin & nothing),
            self.control.clamped.eq(readout.clamped),
            operands.instruction.eq(fields), readout.instruction.eq(fields),
        ]

        # Memory to operands.
        m.submodules.operands = operands
        connect(m, operands.quant_r, flipped(self.quant_r))
        connect(m, operands.order_r, flipped(self.order_r))

        # Streamed operands to the buffer and, tile by tile, to the array.
        m.submodules.buffer = buffer
        m.submodules.streamer = streamer
        m.submodules.swap = swap = Delay(1, READ_LATENCY, reset=True)
        m.d.comb += [
            buffer.wen.eq(operands.wen), buffer.waddr.eq(operands.waddr),
            buffer.wdata.eq(Value.cast(operands.wdata)),
            streamer.last_row.eq(operands.last_row), streamer.last_tile.eq(operands.last_tile),
            streamer.ready.eq(operands.ready), streamer.shifts.eq(operands.shifts),
            streamer.begun.eq(readout.begun),
            operands.taken.eq(streamer.taken), swap.i.eq(streamer.taken),
            buffer.raddr.eq(streamer.raddr),
        ]

        # The array.
        m.submodules.mesh = mesh
        m.d.comb += [
            mesh.load.eq(operands.load), mesh.weights.eq(operands.weights),
            mesh.mark.eq(operands.mark), mesh.swap.eq(swap.o), Value.cast(mesh.a).eq(buffer.data),
        ]

        # Sums to the accumulators.
        m.submodules.tag = tag = Delay(
            streamer.tag.shape(), READ_LATENCY + mesh.latency - Accumulators.AHEAD, reset=True)
        m.submodules.accumulators = accumulators
        m.d.comb += [
            tag.i.eq(streamer.tag), accumulators.tag.eq(tag.o), accumulators.sums.eq(mesh.sums),
            accumulators.row.eq(readout.row),
        ]

        # Accumulators to memory.
        m.submodules.readout = readout
        m.d.comb += [readout.finished.eq(accumulators.finished),
                     readout.results.eq(accumulators.results)]
        connect(m, readout.group_r, flipped(self.group_r))
        connect(m, readout.wide_w, flipped(self.wide_w))
        return m

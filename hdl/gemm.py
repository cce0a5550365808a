"""The unit of ``GEMM``: streamed operand, weights, array, accumulators, readout."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.accumulate import Accumulators, sum_tag
from hdl.array.mesh import Mesh
from hdl.array.skew import Delay, register
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, StreamPort, WritePort
from hdl.params import MAX_M
from hdl.protocol import GemmFlag
from hdl.readout import Readout
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word, wide_word
from hdl.weights import Weights

__all__ = ["Gemm", "Streamer"]


class Streamer(wiring.Component):
    """Streams the operand through the array: all its tiles for every column tile.

    Row i of tile t is word ``source + t * m + i`` of the memory; a row of zeros, which is not
    read, follows the ``m`` rows of each tile. A tile begins when its weights are loaded, without a
    gap if they already are. The last of a column tile begins after the last columns of the column
    tile before it have begun to be read out.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    source : In(ADDRESS_BITS)
    last_row, last_tile : In
        Rows, that of zeros included, and tiles along the inner dimension, less one.
    ready : In(1)
        A tile of weights is loaded;
    shifts : In(range(max_groups))
        its marks.
    begun : In(1)
        The last columns of a column tile are being read out from the next cycle on.
    taken : Out(1)
        The first row of a tile is being read: those weights are used.
    read : Out(1), addr : Out(ADDRESS_BITS)
        To the memory, ``LATE`` cycles after the tag.
    tag : Out(sum_tag)
        Of that row.
    """
    #: Cycles from a row's tag to its request to the memory.
    LATE = 1

    def __init__(self, params):
        self.params = params
        super().__init__({
            "start": In(1), "source": In(ADDRESS_BITS),
            "last_row": In(range(MAX_M + 1)), "last_tile": In(16),
            "ready": In(1), "shifts": In(range(params.max_groups)), "begun": In(1),
            "taken": Out(1), "read": Out(1), "addr": Out(ADDRESS_BITS),
            "tag": Out(sum_tag(params)),
        })

    def elaborate(self, platform):
        m = Module()
        running, blocked = Signal(), Signal()
        row = Signal.like(self.last_row)
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
        ]
        with m.If(self.begun):
            m.d.sync += blocked.eq(0)
        with m.If(self.taken):
            m.d.sync += shifts.eq(self.shifts)
        with m.If(self.tag.valid):
            m.d.sync += [running.eq(1), row.eq(row + 1)]
            with m.If(row == self.last_row):
                m.d.sync += [running.eq(0), row.eq(0), tile.eq(tile + 1)]
                with m.If(tile == self.last_tile):
                    m.d.sync += [tile.eq(0), blocked.eq(1)]
        with m.If(self.start):
            m.d.sync += [running.eq(0), row.eq(0), tile.eq(0), blocked.eq(0)]

        # The memory's address, a cycle later. A column tile ends with a row that is not read.
        again = Signal()
        m.d.sync += [self.read.eq(self.tag.valid & (row != self.last_row)),
                     again.eq(self.tag.valid & self.tag.last | self.start)]
        with m.If(self.read):
            m.d.sync += self.addr.eq(self.addr + 1)
        with m.If(again):
            m.d.sync += self.addr.eq(self.source)
        return m


class Gemm(wiring.Component):
    """``GEMM``; ``sim.model.gemm.gemm``. Semantics: :mod:`hdl.protocol`.

    For every tile of columns, for every tile along the inner dimension, weights are loaded into the
    array while the tile before streams, and all rows stream through, a word of the memory per clock
    and a row of zeros the last; sums add up in the accumulators; a finished column tile is read
    out, ``vector`` columns after the other, while the next one streams.

    From ``start`` to ``done`` an instruction takes exactly
    ``L + F + (T - 1) P + (C - 1) max(T P, D + (V - 1) Q, V Q) + D + (W - 1) Q + R + 13`` cycles,
    and with ``INNER_GROUPS`` ``max_groups + 3`` more, where

    * R = m + 1; T = tiles; C = ceil(n / cols);
      V = cols / vector, W = ceil(n / vector) - (C - 1) V: read out of a column tile, of the last;
    * L = (rows - 1) max(q, G) + q: until the last request for a tile of weights, with
      q = depth cols / span: requests for a row of weights,
      and G = max(2, 2**(depth - 1)): entries of its table;
      F = from then on until they are in the array, 8, or 4 on a machine without groups, and G
      more for the last row's table;
    * P = max(R, L + F + 1 + H): from one tile to the next; H, a hold for wide arrays, is
      max(0, ceil(cols / 4) - depth - 11), or - 7 on a machine without groups;
    * D = R + latency of the mesh + 7: from the last tile of a column tile to its readout;
      Q = R + 13: a readout of ``vector`` columns; both ``vector + 3`` more with ``COL_GROUPS``.

    So the array is busy ``C T R`` of these cycles, ``C T m`` of them with rows of the operand.

    An instruction with 0 rows, columns, products or tiles does nothing. Of one whose ``tiles``
    contradict its ``k`` the result is undefined; the unit finishes all the same.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        The array's adders are cells of the ECP5, :mod:`hdl.chain`.

    Members
    -------
    control : Out(UnitPort())
    quant_s : Out(StreamPort(quant_word))
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
            "quant_s": Out(StreamPort(quant_word(params))),
            "quant_r": Out(ReadPort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def elaborate(self, platform):
        m = Module()
        params, fields = self.params, self.control.instruction
        mesh = Mesh(params, mapped=self.mapped)
        # Operands, and the swap with the first of them, come so late after a tile is taken.
        late = Streamer.LATE + READ_LATENCY
        weights = Weights(params, load_cycles=mesh.load_cycles,
                          guard=late + mesh.swap_cycles, wait=max(0, mesh.swap_wait - late))
        streamer = Streamer(params)
        accumulators = Accumulators(params, mesh.sums.shape())
        # A row comes again no earlier than weights have been fetched and loaded for it.
        assert weights.fetch.latency + mesh.load_cycles >= accumulators.SPACING
        readout = Readout(params)

        # Control.
        begin, nothing = Signal(), Signal()
        m.d.sync += [
            begin.eq(self.control.start),
            nothing.eq(~Cat(value.any() for value in (
                fields.m, fields.k, fields.n, fields.key0[:16])).all()),
        ]
        for part in (weights, streamer, readout):
            m.d.comb += part.start.eq(begin & ~nothing)
        m.d.comb += [
            self.control.done.eq(readout.done | begin & nothing),
            self.control.clamped.eq(readout.clamped),
            weights.instruction.eq(fields), readout.instruction.eq(fields),
        ]
        last_tile = Signal(16)
        m.d.sync += last_tile.eq(fields.key0[:16] - 1)

        # Memory to weights.
        m.submodules.weights = weights
        connect(m, weights.quant_r, flipped(self.quant_r))
        connect(m, weights.order_r, flipped(self.order_r))

        # Streamed operands, tile by tile, to the array.
        m.submodules.streamer = streamer
        m.submodules.swap = swap = Delay(1, late, reset=True)
        m.d.comb += [
            streamer.source.eq(fields.src0), streamer.last_row.eq(fields.m),
            streamer.last_tile.eq(last_tile), weights.last_tile.eq(last_tile),
            streamer.ready.eq(weights.ready), streamer.shifts.eq(weights.shifts),
            streamer.begun.eq(readout.begun),
            weights.taken.eq(streamer.taken), swap.i.eq(streamer.taken),
            self.quant_s.en.eq(streamer.read), self.quant_s.addr.eq(streamer.addr),
        ]

        # The array.
        m.submodules.mesh = mesh
        m.d.comb += [
            mesh.load.eq(weights.load), mesh.weights.eq(weights.weights),
            mesh.mark.eq(weights.mark), mesh.swap.eq(swap.o),
        ]
        # Where nothing was read, the code that stands for 0.
        is_unsigned = Signal()
        m.d.sync += is_unsigned.eq((fields.flags & GemmFlag.UNSIGNED).any())
        zero = Mux(is_unsigned, Const(-1 << params.bits - 1, signed(params.bits)), 0)
        there = streamer.read
        for cycle in range(READ_LATENCY + params.rows - 1):
            there = register(m, f"there{cycle}", there)
            row = cycle + 1 - READ_LATENCY
            for place in range(params.depth if row >= 0 else 0):
                lane = row * params.depth + place
                m.d.comb += mesh.a[lane].eq(Mux(there, self.quant_s.data[lane], zero))

        # Sums to the accumulators.
        m.submodules.tag = tag = Delay(
            streamer.tag.shape(), late + mesh.latency - Accumulators.AHEAD, reset=True)
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

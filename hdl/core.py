"""What runs with the array's clock: streamed operand, array, accumulators."""

from amaranth.hdl import Const, DomainRenamer, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.accumulate import Accumulators, results_shape, sum_tag
from hdl.array.mesh import Mesh
from hdl.array.skew import Delay, register
from hdl.chain import SelectAdd
from hdl.crossing import array_domain
from hdl.memory import ADDRESS_BITS, READ_LATENCY, LaneWritePort, ReadPort, StreamPort
from hdl.operand_memory import OperandMemory
from hdl.params import MAX_M
from hdl.timing import STREAMER_LATENCY, CoreTiming, Handover
from hdl.unit import quant_word
from hdl.windows import WALK, Walk

__all__ = ["Core", "CoreWithMemories", "Streamer", "weights_row"]


def weights_row(params):
    """A row of weights for the array."""
    return data.StructLayout({
        "weights": data.ArrayLayout(data.ArrayLayout(signed(params.bits), params.depth),
                                    params.cols),
        #: The row has a mark.
        "mark": 1,
        #: It is the last of its tile.
        "end": 1,
    })


def _operand(params):
    """Members that say what streams."""
    members = {"start": In(1), "source": In(ADDRESS_BITS), "last_row": In(range(MAX_M + 1)),
               "last_tile": In(16), "more_rows": In(ADDRESS_BITS)}
    if params.masters:
        del members["source"], members["more_rows"]
        members["walk"] = In(WALK)
    return members


class Streamer(wiring.Component):
    """Streams the operand through the array: all its tiles for every column tile.

    Row i of tile t is word ``source + t * (m + more_rows) + i`` of the memory, or on a machine that
    keeps masters what :class:`hdl.windows.Walk` says; a row of zeros, which is not read, follows
    the ``m`` rows of each tile. A tile begins when its weights are loaded, without a gap if they
    already are. The last of a column tile begins when the memory of results, ``MAX_M + 1`` rows,
    has room beside those of column tiles that have not been ``released``.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        Adders are cells of the ECP5, :mod:`hdl.chain`.

    Members
    -------
    start : In(1)
    source : In(ADDRESS_BITS)
    last_row, last_tile : In
        Rows, that of zeros included, and tiles along the inner dimension, less one.
    more_rows : In(ADDRESS_BITS)
        Of the operand, that this product leaves out.
    walk : In(WALK)
        Instead of ``source`` and ``more_rows`` on a machine that keeps masters.
    ready : In(1)
        A tile of weights is loaded;
    shifts : In(range(max_groups))
        its marks.
    released : In(1)
        Results of the oldest column tile may be written over.
    taken : Out(1)
        A tile begins: those weights are used.
    tag : Out(sum_tag)
        Of a row, from the cycle after ``taken`` on.
    read : Out(1), addr : Out(ADDRESS_BITS)
        To the memory, with the tag.
    """
    #: Cycles from ``taken`` to the first row's tag.
    LATENCY = STREAMER_LATENCY

    def __init__(self, params, *, mapped=False):
        self.params = params
        self.mapped = mapped
        super().__init__({
            **_operand(params),
            "ready": In(1), "shifts": In(range(params.max_groups)), "released": In(1),
            "taken": Out(1), "read": Out(1), "addr": Out(ADDRESS_BITS),
            "tag": Out(sum_tag(params)),
        })

    def elaborate(self, platform):
        m = Module()
        # Counters end below zero, so that what a row or a tile is stands in a register.
        rows, tiles = Signal(signed(len(self.last_row) + 1)), Signal(signed(17))
        first_rows, first_tiles = Signal.like(rows), Signal.like(tiles)
        m.d.sync += [first_rows.eq(self.last_row - 2), first_tiles.eq(self.last_tile - 1)]
        # Weights decide that tiles begin at least four cycles apart, CoreTiming.tile_cycles: of
        # the next one all may be late, so that little waits for ``taken``.
        next_tiles = self._add(m, "next_tiles", tiles[-1], first_tiles, tiles,
                               (~tiles[-1]).replicate(len(tiles)))
        # Of the row that streams; of the tile that comes next.
        running, last_row = Signal(), rows[-1]
        fresh, final, may = Signal(), tiles[-1], Signal()
        # Rows of results that are free, less those of a column tile: less ``last_row + 1``, or
        # more, when one begins or is released.
        restart, taking, giving = Signal(), Signal(), Signal()
        change, more = Signal(len(self.last_row) + 1), Signal()
        m.d.sync += [
            restart.eq(self.start), taking.eq(self.taken & final), giving.eq(self.released),
            change.eq(Mux(taking == giving, 0, self.last_row ^ taking.replicate(len(change)))),
            more.eq(giving & ~taking),
        ]
        free = Signal.like(change)
        left = ~self.last_row
        more_room = Handover(self.params).has_more_room(self.last_row)
        if more_room is not False:
            left = register(m, "left", Mux(more_room, MAX_M, left))
        m.d.comb += free.eq(self._add(m, "free_rows", restart, left, free, change, more))
        full = free[-1]

        # A tile's first row follows the last row before it: whether it may has been known since the
        # cycle before, in which that tile had begun already.
        m.d.comb += self.taken.eq(may & ~running)
        m.d.sync += may.eq(self.ready & ~(final & full) & ~self.start)
        with m.If(running):
            m.d.sync += [rows.eq(rows - 1), running.eq(~last_row), fresh.eq(self.tag.final)]
        with m.Else():
            m.d.sync += [rows.eq(first_rows), running.eq(may),
                         self.tag.fresh.eq(fresh), self.tag.final.eq(final),
                         self.tag.shifts.eq(self.shifts)]
        began = register(m, "began", self.taken)
        with m.If(began):
            m.d.sync += tiles.eq(next_tiles)
        with m.If(self.start):
            m.d.sync += [running.eq(0), fresh.eq(1), taking.eq(0), giving.eq(0), change.eq(0),
                         more.eq(0)]
        with m.If(restart):
            m.d.sync += tiles.eq(first_tiles)

        # A tile ends with a row that is not read.
        last = Signal()
        reading = self.taken | running & ~last_row
        m.d.comb += last.eq(running & last_row & self.tag.final)
        m.d.sync += [
            self.tag.valid.eq(running | may), self.tag.first.eq(self.taken & fresh),
            self.tag.again.eq(self.taken & ~fresh), self.tag.last.eq(last),
        ]
        if self.params.masters:
            m.submodules.walk = walk = Walk(mapped=self.mapped)
            m.d.comb += [
                walk.start.eq(self.start), walk.i.eq(self.walk), walk.taken.eq(self.taken),
                walk.final.eq(final), walk.waiting.eq(Mux(running, last_row, ~may)),
                self.read.eq(register(m, "reading", reading) & walk.inside),
                self.addr.eq(walk.addr),
            ]
            return m
        again, step = Signal(), Signal(ADDRESS_BITS)
        m.d.sync += [
            self.read.eq(reading), again.eq(last | self.start),
            step.eq(Mux(running & last_row, Mux(self.tag.final, 0, self.more_rows),
                        running | may)),
        ]
        m.d.comb += self.addr.eq(self._add(m, "following", again, self.source, self.addr, step))
        return m

    def _add(self, m, name, select, first, value, step, carry=0):
        """``(select ? first : value) + step + carry`` of the cycle before."""
        add = SelectAdd(a=len(step), b=len(step), c=len(step), o=len(step), mapped=self.mapped)
        m.submodules[name] = add
        m.d.comb += [add.a.eq(step), add.b.eq(first), add.c.eq(value), add.select.eq(select),
                     add.carry.eq(carry)]
        return register(m, f"{name}_register", add.o)


class Core(wiring.Component):
    """Products of the rows that stream in, tile after tile, with the weights that are loaded.

    All of it is in one clock domain, but that results are read in ``readout``. What only ``start``
    takes holds until the last row of results is written.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        The array's adders are cells of the ECP5, :mod:`hdl.chain`.

    Attributes
    ----------
    timing : hdl.timing.CoreTiming

    Members
    -------
    start : In(1)
        Begin with the first tile.
    source, last_row, last_tile, more_rows, walk : In
        See :class:`Streamer`.
    is_unsigned : In(1)
        Where nothing is read, the operand is the code of an unsigned 0.
    rows : In(stream.Signature(weights_row))
        Weights, the last row of a tile first. A payload holds in the cycle after the one in which
        it is taken.
    taken : Out(1)
        A tile begins.
    released : In(1)
        Results of the oldest column tile may be written over.
    quant_s : Out(StreamPort(quant_word))
    finished : Out(1)
        The last row of a column tile is being written.
    number : In(range(MAX_M + 1)), results : Out(results_shape)
        A row of results, ``READ_LATENCY`` cycles of ``readout`` later.
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.mesh = Mesh(params, mapped=mapped, skewed=True)
        self.timing = CoreTiming(params)
        super().__init__({
            **_operand(params), "is_unsigned": In(1),
            "rows": In(stream.Signature(weights_row(params))), "taken": Out(1), "released": In(1),
            "quant_s": Out(StreamPort(quant_word(params))),
            "finished": Out(1),
            "number": In(range(MAX_M + 1)), "results": Out(results_shape(params)),
        })

    def elaborate(self, platform):
        m = Module()
        params, mesh, timing = self.params, self.mesh, self.timing
        late = timing.LATE
        assert timing.tile_cycles >= 4, "what the streamer knows of the next tile comes late"

        # Rows of weights as they may come: those of a tile so far apart, the first one after the
        # tile before has begun. All of the array waits for them, so they have a register.
        load, first, opened = Signal(), Signal(), Signal()
        weights, pause = self.rows.payload, Signal(range(timing.load_cycles))
        m.d.comb += self.rows.ready.eq(opened)
        m.d.sync += load.eq(self.rows.valid & opened)
        m.submodules.reopen = reopen = Delay(1, timing.guard - 2, reset=True)
        m.d.comb += reopen.i.eq(self.taken)
        with m.If(self.rows.valid & opened):
            m.d.sync += [opened.eq(0), first.eq(weights.end), pause.eq(timing.load_cycles - 2)]
        with m.Elif(reopen.o):
            m.d.sync += [opened.eq(1), first.eq(0)]
        with m.Elif(~first & (pause == 0)):
            m.d.sync += opened.eq(1)
        with m.If(~opened & (pause != 0)):
            m.d.sync += pause.eq(pause - 1)

        # A tile of weights is complete.
        ready, shifts = Signal(), Signal(range(params.max_groups))
        m.submodules.complete = complete = Delay(1, timing.complete - 2)
        m.d.comb += complete.i.eq(load & weights.end)
        with m.If(load):
            m.d.sync += shifts.eq(shifts + weights.mark)
        # The next tile's marks come two cycles after its ``taken`` at the earliest.
        used = register(m, "used", self.taken | self.start)
        with m.If(used):
            m.d.sync += shifts.eq(0)
        with m.If(self.taken | self.start):
            m.d.sync += ready.eq(0)
        with m.If(complete.o):
            m.d.sync += ready.eq(1)

        # Streamed operands, tile by tile.
        m.submodules.streamer = streamer = Streamer(params, mapped=mesh.mapped)
        m.submodules.swap = swap = Delay(1, late)
        for name in _operand(params):
            m.d.comb += getattr(streamer, name).eq(getattr(self, name))
        m.d.comb += [
            streamer.ready.eq(ready), streamer.shifts.eq(shifts),
            streamer.released.eq(self.released),
            self.taken.eq(streamer.taken), swap.i.eq(streamer.taken),
            self.quant_s.en.eq(streamer.read), self.quant_s.addr.eq(streamer.addr),
        ]

        # The array.
        m.submodules.mesh = mesh
        m.d.comb += [mesh.load.eq(load), mesh.weights.eq(weights.weights),
                     mesh.mark.eq(weights.mark), mesh.swap.eq(swap.o)]
        # Where nothing was read, the code that stands for 0.
        zero = Mux(self.is_unsigned, Const(-1 << params.bits - 1, signed(params.bits)), 0)
        there = streamer.read
        for cycle in range(READ_LATENCY + params.rows):
            there = register(m, f"there{cycle}", there)
            row = cycle - READ_LATENCY
            for place in range(params.depth if row >= 0 else 0):
                lane = row * params.depth + place
                word = register(m, f"word{lane}", self.quant_s.data[lane])
                m.d.comb += mesh.a[lane].eq(Mux(there, word, zero))

        # Sums.
        m.submodules.tag = tag = Delay(
            streamer.tag.shape(), late - Streamer.LATENCY + mesh.latency - Accumulators.AHEAD)
        m.submodules.accumulators = accumulators = Accumulators(params, mesh.sums.shape(),
                                                                mesh.groups, mapped=mesh.mapped)
        m.d.comb += [
            tag.i.eq(streamer.tag), accumulators.tag.eq(tag.o), accumulators.sums.eq(mesh.sums),
            accumulators.start.eq(self.start),
            self.finished.eq(accumulators.finished),
            accumulators.number.eq(self.number), self.results.eq(accumulators.results),
        ]
        return m


class CoreWithMemories(wiring.Component):
    """The core with the memory of its operands.

    What it takes to run the array, measured by :mod:`hdl.build.alone`; a machine connects the same
    parts in :mod:`hdl.gemm` and :mod:`hdl.top`.

    Parameters
    ----------
    params : hdl.params.Params
        With ``array_clock`` 1 all is in domain ``sync``.
    mapped : bool

    Attributes
    ----------
    slow : tuple of str
        Members whose clock is that of the machine, ``sync``; all others' is the array's.

    Members
    -------
    start, source, last_row, last_tile, more_rows, walk, is_unsigned, rows, taken, released,
    finished, number, results
        Those of :class:`Core`.
    w : In(LaneWritePort(quant_word)), r : In(ReadPort(quant_word)), fault : Out(1)
        Those of :class:`hdl.operand_memory.OperandMemory`.
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.core = Core(params, mapped=mapped)
        self.slow = ("w", "r", "fault", "number", "results") if params.array_clock > 1 else ()
        self._shared = {name: member for name, member in self.core.signature.members.items()
                        if name != "quant_s"}
        word = quant_word(params)
        super().__init__({
            **self._shared, "w": In(LaneWritePort(word)), "r": In(ReadPort(word)),
            "fault": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        core = self.core
        m.submodules.core = DomainRenamer({"sync": array_domain(self.params),
                                           "readout": "sync"})(core)
        m.submodules.operands = operands = OperandMemory(self.params, readers=1, writers=1)
        connect(m, flipped(self.rows), core.rows)
        for name, member in self._shared.items():
            inner, outer = getattr(core, name), getattr(self, name)
            if member.is_port:
                m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        connect(m, core.quant_s, operands.s[0])
        connect(m, flipped(self.w), operands.w[0])
        connect(m, flipped(self.r), operands.r[0])
        m.d.comb += self.fault.eq(operands.fault)
        return m

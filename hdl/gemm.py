"""The unit of ``GEMM``: weights, the core with the array, readout."""

from amaranth.hdl import Cat, DomainRenamer, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.core import Core
from hdl.crossing import array_domain, crossed
from hdl.instructions import GemmFlag
from hdl.memory import ReadPort, StreamPort
from hdl.readout import Readout, results_port
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word
from hdl.weights import Weights
from hdl.windows import WindowTable

__all__ = ["Gemm"]


class Gemm(wiring.Component):
    """``GEMM``; ``sim.model.gemm.gemm``. Semantics: :mod:`hdl.instructions`.

    For every tile of columns, for every tile along the inner dimension, weights are loaded into the
    array while the tile before streams, and all rows stream through, a word of the memory per clock
    and a row of zeros the last; sums add up in the accumulators; a finished column tile is read
    out, ``read_cols`` columns after the other, while the next one streams.

    Weights are fetched as far ahead as their queue has room. Results wait in a memory of 512 rows,
    those of several column tiles if they fit.

    From ``start`` to ``done`` an instruction takes
    :func:`~hdl.product_cycles.product_cycles`, which does not depend on data. With R = m + 1 and
    an array's clock of ``a`` times the machine's, the array begins a tile every
    ``max(R, W, a rows depth cols / span)`` of its clocks, W being
    :attr:`hdl.timing.CoreTiming.tile_cycles`; ``read_cols`` columns are read out in R clocks of
    the machine, and with ``COL_GROUPS`` in ``read_cols - 1`` more. The array waits for readouts
    where they take longer, and they for the array where not; of all other latencies only those of
    the first tile and of the last readout are seen.

    On a machine that keeps masters rows may be windows of images, :mod:`hdl.windows`, with taps of
    the kernel along the inner dimension, in the same time. Other units go first there where they
    meet: results wait for the wide memory in a queue, and weights for the quantised one; what
    streams waits for nothing.

    An instruction with 0 rows, columns, products or tiles does nothing. Of one whose ``tiles``
    contradict its ``k`` the result is undefined; the unit finishes all the same.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        The array's adders are cells of the ECP5, :mod:`hdl.chain`.

    Attributes
    ----------
    settle_cycles : int
        Cycles of the array's clock in reset after which nothing of an earlier instruction is left.

    Members
    -------
    control : Out(UnitPort())
    quant_s : Out(StreamPort(quant_word))
    quant_r : Out(ReadPort(quant_word))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    order_r : Out(ReadPort(ORDER_ENTRY))
        Both idle on a machine without groups.
    wide_w : Out(results_port(params))
    wide_taken : In(1)
        Another unit writes to the wide memory in this cycle; results wait.
    quant_ahead : In(1)
        Another unit uses the port of ``quant_r``, :func:`~hdl.memory.announced_ahead` cycles from
        now; weights wait. Both only on a machine that keeps masters.
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.core = Core(params, mapped=mapped)
        self.settle_cycles = self.core.timing.settle
        members = {
            "control": Out(UnitPort()),
            "quant_s": Out(StreamPort(quant_word(params))),
            "quant_r": Out(ReadPort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
            "wide_w": Out(results_port(params)),
        }
        if params.masters:
            members |= {"wide_taken": In(1), "quant_ahead": In(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        params, fields = self.params, self.control.instruction
        core = self.core
        weights, readout = Weights(params), Readout(params)

        # Control.
        begin, nothing = Signal(), Signal()
        m.d.sync += [
            begin.eq(self.control.start),
            nothing.eq(~Cat(value.any() for value in (
                fields.m, fields.k, fields.n, fields.key0[:16])).all()),
        ]
        start = begin & ~nothing
        m.d.comb += [weights.start.eq(start), readout.start.eq(start),
                     core.start.eq(crossed(m, "start", params, start, into_array=True))]
        m.d.comb += [
            self.control.done.eq(readout.done | begin & nothing),
            self.control.clamped.eq(readout.clamped),
            weights.instruction.eq(fields), readout.instruction.eq(fields),
        ]
        last_tile, is_unsigned = Signal(16), Signal()
        m.d.sync += [last_tile.eq(fields.key0[:16] - 1),
                     is_unsigned.eq((fields.flags & GemmFlag.UNSIGNED).any())]

        # Memory to weights, and to the array.
        m.submodules.weights = weights
        connect(m, weights.quant_r, flipped(self.quant_r))
        connect(m, weights.order_r, flipped(self.order_r))
        m.submodules.core = DomainRenamer({"sync": array_domain(params), "readout": "sync"})(core)
        connect(m, core.quant_s, flipped(self.quant_s))
        connect(m, weights.o, core.rows)
        if params.masters:
            m.submodules.windows = windows = WindowTable()
            m.d.comb += [windows.start.eq(start), windows.instruction.eq(fields)]
            operand = [core.last_row.eq(fields.m), core.last_tile.eq(last_tile),
                       core.walk.eq(windows.o)]
        else:
            operand = [core.source.eq(fields.src0), core.last_row.eq(fields.m),
                       core.last_tile.eq(last_tile), core.more_rows.eq(fields.key1[:16])]
        m.d.comb += [
            *operand,
            core.is_unsigned.eq(is_unsigned), weights.last_tile.eq(last_tile),
            core.released.eq(crossed(m, "released", params, readout.released, into_array=True)),
        ]

        # Results to memory.
        m.submodules.readout = readout
        m.d.comb += [
            readout.finished.eq(crossed(m, "finished", params, core.finished, into_array=False)),
            core.number.eq(readout.row), readout.results.eq(core.results),
        ]
        if params.masters:
            # Tables of windows are read before there are results.
            for table in (windows.group_r, readout.group_r):
                m.d.comb += table.data.eq(self.group_r.data)
                with m.If(table.en):
                    m.d.comb += [self.group_r.en.eq(1), self.group_r.addr.eq(table.addr)]
        else:
            connect(m, readout.group_r, flipped(self.group_r))
        connect(m, readout.wide_w, flipped(self.wide_w))

        # Units that do not wait.
        if params.masters:
            m.d.comb += [readout.wide_taken.eq(self.wide_taken),
                         weights.quant_ahead.eq(self.quant_ahead)]
        return m

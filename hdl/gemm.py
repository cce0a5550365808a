"""The unit of ``GEMM``: weights, the core with the array, readout."""

from amaranth.hdl import Cat, DomainRenamer, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.accumulate import Accumulators
from hdl.core import Core
from hdl.crossing import HELD, array_domain, crossed
from hdl.instructions import GemmFlag
from hdl.memory import ReadPort, StreamPort, WritePort
from hdl.readout import Readout
from hdl.unit import GROUP_BITS, ORDER_ENTRY, UnitPort, quant_word, wide_word
from hdl.weights import Weights

__all__ = ["Gemm"]


class Gemm(wiring.Component):
    """``GEMM``; ``sim.model.gemm.gemm``. Semantics: :mod:`hdl.instructions`.

    For every tile of columns, for every tile along the inner dimension, weights are loaded into the
    array while the tile before streams, and all rows stream through, a word of the memory per clock
    and a row of zeros the last; sums add up in the accumulators; a finished column tile is read
    out, ``vector`` columns after the other, while the next one streams.

    From ``start`` to ``done`` an instruction takes, where ``array_clock`` is 1, exactly
    ``L + F + (T - 1) P + (C - 1) max(T P, D + 1 + (V - 1) Q, V Q) + D + (W - 1) Q + R + 13``
    cycles, and with ``INNER_GROUPS`` ``max_groups + 3`` more, where

    * R = m + 1; T = tiles; C = ceil(n / cols);
      V = cols / vector, W = ceil(n / vector) - (C - 1) V: read out of a column tile, of the last;
    * L = (rows - 1) max(q, G) + q: until the last request for a tile of weights, with
      q = depth cols / span: requests for a row of weights,
      and G = max(2, 2**(depth - 1)): entries of its table;
      F = from then on until they are in the array, 9, or 5 on a machine without groups, and
      max(2, G - 1) more for the last row's table;
    * P = max(R, L + F + 1 + H): from one tile to the next; H, a hold for wide arrays, is
      max(0, ceil(cols / 4) - depth - 10), or - 6 on a machine without groups;
    * D = R + latency of the mesh + 8: from the last tile of a column tile to its readout;
      Q = R + 13: a readout of ``vector`` columns; both ``vector + 3`` more with ``COL_GROUPS``.

    So the array is busy ``C T R`` of these cycles, ``C T m`` of them with rows of the operand.

    With a faster clock of the array, ``a`` times that of the machine, results of a column tile are
    read out before the last tile of the next one begins, and an instruction takes at most
    ``L + F + (T - 1) P + (C - 1) max(T P, P + D + V Q) + D + (W - 1) Q + R + 13`` cycles, where

    * a tile streams for R / a cycles: P = max(R / a, L + F + 1) + 8, D = R / a + latency / a + 16;
    * G = max(2, 2**(depth - 1), 5) / a, each rounded up.

    On a machine that keeps masters other units go first where they meet: results wait for the wide
    memory in a queue, and weights for the quantised one; what streams waits for nothing. Where
    none of them waits, an instruction takes as long as without masters if the array's clock is
    faster; if not, results are read out there, too, before the last tile of the next column tile
    begins, and of the cycles above ``max(T P, D + 1 + (V - 1) Q, V Q)`` are
    ``max(T P, D + 1 + (V - 1) Q + R)``.

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
    wide_w : Out(WritePort(wide_word))
    wide_taken : In(1)
        Another unit writes to the wide memory in this cycle; results wait.
    quant_ahead : In(1)
        Another unit uses the port of ``quant_r``, :func:`~hdl.memory.announced_ahead` cycles from
        now; weights wait. Both only on a machine that keeps masters.
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.core = Core(params, mapped=mapped)
        self.settle_cycles = self.core.settle_cycles
        members = {
            "control": Out(UnitPort()),
            "quant_s": Out(StreamPort(quant_word(params))),
            "quant_r": Out(ReadPort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "order_r": Out(ReadPort(ORDER_ENTRY)),
            "wide_w": Out(WritePort(wide_word(params))),
        }
        if params.masters:
            members |= {"wide_taken": In(1), "quant_ahead": In(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        params, fields = self.params, self.control.instruction
        domain, ratio = array_domain(params), params.array_clock
        core = self.core
        # Of rows of weights, in cycles of this clock.
        spacing = core.load_cycles if ratio == 1 else -(-max(core.load_cycles, HELD) // ratio)
        weights = Weights(params, load_cycles=spacing, guard=core.guard)
        # A row comes again no earlier than weights have come for it: L + F + 1, with one request.
        assert 1 + (weights.fetch.latency + 2) + 1 >= Accumulators.SPACING
        readout = Readout(params)

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
        m.submodules.core = DomainRenamer({"sync": domain, "readout": "sync"})(core)
        connect(m, core.quant_s, flipped(self.quant_s))
        row = weights.row
        if ratio > 1:
            # It holds until the array has taken it; the next one begins to come before that.
            row = Signal(weights.row.shape(), reset_less=True)
            with m.If(weights.load):
                m.d.sync += row.eq(weights.row)
        m.d.comb += [
            core.source.eq(fields.src0), core.last_row.eq(fields.m), core.last_tile.eq(last_tile),
            core.more_rows.eq(fields.key1[:16]),
            core.is_unsigned.eq(is_unsigned), weights.last_tile.eq(last_tile),
            core.row.eq(row),
            core.load.eq(crossed(m, "load", params, weights.load, into_array=True)),
            weights.taken.eq(crossed(m, "taken", params, core.taken, into_array=False)),
            core.released.eq(crossed(m, "released", params, readout.released, into_array=True)),
        ]

        # Results to memory.
        m.submodules.readout = readout
        m.d.comb += [
            readout.finished.eq(crossed(m, "finished", params, core.finished, into_array=False)),
            core.number.eq(readout.row), readout.results.eq(core.results),
        ]
        connect(m, readout.group_r, flipped(self.group_r))
        connect(m, readout.wide_w, flipped(self.wide_w))

        # Units that do not wait.
        if params.masters:
            m.d.comb += [readout.wide_taken.eq(self.wide_taken),
                         weights.quant_ahead.eq(self.quant_ahead)]
        return m

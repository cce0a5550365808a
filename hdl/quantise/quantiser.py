"""The quantiser unit."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import SCAN_SHIFT, STATE_ROWS, QuantiseFlag, ScaleRow, ScanRow
from hdl.memory import (
    ADDRESS_BITS,
    READ_LATENCY,
    LaneWritePort,
    ReadPort,
    WritePort,
    announced_ahead,
)
from hdl.params import MAX_N
from hdl.quantise.codes import CodeWriter
from hdl.quantise.columns import Columns
from hdl.quantise.exponent import ScaleExponent, sum_bits
from hdl.quantise.lane import reach_bits
from hdl.quantise.mantissa import ColumnScale
from hdl.quantise.masters import Masters
from hdl.quantise.reduction import Reduction
from hdl.quantise.schedule import Phase, Schedule
from hdl.quantise.table import GroupTable
from hdl.unit import GROUP_BITS, UnitPort, lanes_word, quant_word, wide_word

__all__ = ["Quantiser"]


class Quantiser(wiring.Component):
    """Quantises a wide tensor; the unit of ``QUANTISE``, ``sim.model.quantise.quantise``.

    ``vector`` lanes, one row per clock, once to search for magnitudes (twice
    with channel groups) and once to quantise; nothing stalls. :class:`Schedule` has the order,
    :class:`Lane` the arithmetic, :meth:`cycles` the time.

    Noise is that of the element's place under the instruction's key. Pad lanes, those from column
    n on, influence nothing, and what is written to them does not matter. A machine with one group
    along both axes has no group logic and ignores ``GROUPED``.

    With ``masters`` there is ``MASTER``, ``sim.model.quantise.quantise_weights``: src0 is an
    address in the masters' memory, and dst1 that of a scale tensor (:class:`ScaleRow`), whose
    FACTOR becomes the mantissas 4..7 and whose EXPONENT the exponents of the columns; BIAS stays
    as it is. A master is read three times: for the mantissa of its column, for the exponent of
    the column over its mantissa, and to quantise, which leaves every third clock at the quantised
    memory to products. ``PER_COLUMN`` belongs to it, other flags do not.
    There too are ``SCAN``, which ends each tile after the first search and writes what the lanes
    found, and ``SCANNED``, which searches that instead of the rows.

    Tensors have up to ``params.max_rows`` rows; sums are as wide as ``params.tensor_words`` asks
    for.

    Parameters
    ----------
    params : hdl.params.Params
    masters : bool

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, dst0, dst1, tab1, tab2, arg, key0, key1.
        ``clamped`` stays 0: a clip is part of the function.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    quant_w : Out(LaneWritePort(quant_word(params)))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    group_w : Out(WritePort(unsigned(GROUP_BITS)))
    master_r : Out(ReadPort(lanes_word(params, params.master_bits)))
    quant_ahead : Out(1)
        Codes are written :func:`~hdl.memory.announced_ahead` cycles from now. Both only with
        ``masters``.
    """
    def __init__(self, params, masters=False):
        self.params = params
        groups = params.sample_groups, params.channel_groups
        self.masters = self.column_scale = None
        if masters:
            self.masters = Masters(params)
            self.column_scale = ColumnScale(params.bits, params.vector, params.master_bits)
        self.schedule = Schedule(params.vector, *groups,
                                 self.column_scale.steps if masters else 0)
        self.columns = Columns(params, masters)
        most = min(params.max_rows * MAX_N, params.tensor_words * params.vector)
        self.reduction = Reduction(params.vector, self.columns.total_bits, sum_bits(most),
                                   reach_bits(params.bits, params.max_groups), picking=masters)
        self.scale = ScaleExponent(params.bits, most)
        self.table = None
        if params.max_groups > 1:
            self.table = GroupTable(params.bits, params.vector, *groups, scanned=masters)
        #: Cycles from a step of a phase to the last write it causes.
        self.depth = max(Columns.DEPTH + (Masters.LATENCY - READ_LATENCY if masters else 0),
                         self.table.depth if self.table else 0)
        members = {
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
            "quant_w": Out(LaneWritePort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "group_w": Out(WritePort(unsigned(GROUP_BITS))),
        }
        if masters:
            members["master_r"] = Out(ReadPort(lanes_word(params, params.master_bits)))
            members["quant_ahead"] = Out(1)
        super().__init__(members)

    def cycles(self, m, n, *, per_column=False, clip=0, grouped=False, master=False, scan=False,
               scanned=False):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        def phase(steps):
            return 1 + steps + self.depth + 1

        tiles, lanes = -(-n // self.params.vector), phase(self.params.vector)
        if master:
            find = 1 + self.column_scale.steps + self.column_scale.latency
            return tiles * (2 * (phase(m) + find) + 2 + phase(m + (m - 1) // 2))
        if scan:
            return tiles * (phase(m) + len(ScanRow))
        searched = (len(ScanRow) if clip else 1) if scanned else m
        cycles = tiles * (phase(searched) + 1 + phase(m))
        scale = 1 + self.scale.latency(clip)
        if per_column:
            return cycles + tiles * self.params.vector * (phase(1) + scale)
        cycles += lanes + scale
        if grouped:
            cycles += phase(m) + tiles * lanes
            if self.params.channel_groups > 1:
                cycles += tiles * phase(1 if scanned else m)
        return cycles

    def elaborate(self, platform):
        m = Module()
        m.submodules.schedule = schedule = self.schedule
        m.submodules.columns = columns = self.columns
        m.submodules.reduction = reduction = self.reduction
        m.submodules.scale = scale = self.scale
        control, fields = self.control, self.control.instruction
        per_column = (fields.flags & int(QuantiseFlag.PER_COLUMN)).any()
        grouped = (fields.flags & int(QuantiseFlag.GROUPED)).any()
        is_unsigned = (fields.flags & int(QuantiseFlag.UNSIGNED)).any()
        scanned = C(0)
        if self.masters is not None:
            scanned = (fields.flags & int(QuantiseFlag.SCANNED)).any()
        phase, enter = schedule.phase, schedule.enter

        # Steps on their way: bit k began k cycles ago.
        at, behind = Signal(self.depth + 1), Signal(self.depth)
        m.d.comb += at.eq(Cat(schedule.step, behind))
        # Whether any is behind, known from where they are in the cycle before.
        occupied = Signal()
        m.d.sync += [behind.eq(at), occupied.eq(at[:-1].any())]
        m.d.comb += [
            schedule.start.eq(control.start),
            schedule.instruction.eq(fields),
            schedule.per_column.eq(per_column),
            schedule.grouped.eq(grouped),
            schedule.drained.eq(~occupied),
            schedule.scaled.eq(scale.done),
            control.done.eq(schedule.done),
        ]

        # Read rows.
        source = Signal(ADDRESS_BITS)
        m.d.comb += [
            self.wide_r.en.eq(schedule.step & (schedule.searching | schedule.joining
                                                 | schedule.rounding)),
            self.wide_r.addr.eq(source),
            columns.x.eq(self.wide_r.data),
        ]
        with m.If(enter):
            m.d.sync += source.eq(schedule.source)
        with m.Elif(schedule.step):
            m.d.sync += source.eq(source + 1)

        # Search or quantise them.
        m.d.comb += [
            columns.instruction.eq(fields),
            columns.unsigned.eq(is_unsigned),
            columns.stochastic.eq((fields.flags & int(QuantiseFlag.STOCHASTIC)).any()),
            columns.searching.eq(schedule.searching),
            columns.joining.eq(schedule.joining),
            columns.enter.eq(enter),
            columns.clear.eq(schedule.clear),
            columns.at.eq(at),
            columns.channel.eq(schedule.channel),
            columns.left.eq(schedule.left),
            columns.exponent.eq(scale.exponent),
            columns.load.eq(schedule.load),
        ]

        # Gather what the lanes found, and count the tensor's elements: n for every row.
        elements = Signal(scale.count.shape())
        with m.If((phase == Phase.SCAN) & (schedule.channel == 0)):
            with m.If(enter):
                m.d.sync += elements.eq(0)
            with m.Elif(schedule.step):
                m.d.sync += elements.eq(elements + fields.n)
        m.d.comb += [
            reduction.enter.eq(enter),
            reduction.restart.eq(schedule.restart),
            reduction.step.eq(schedule.step),
            reduction.lane_largest.eq(columns.largest),
            reduction.lane_total.eq(columns.total),
            reduction.lane_farthest.eq(columns.farthest),
            scale.start.eq(schedule.scale),
            scale.largest.eq(reduction.largest),
            scale.total.eq(reduction.total),
            scale.count.eq(Mux(per_column, fields.m, elements)),
            scale.clip.eq(fields.arg),
            scale.unsigned.eq(is_unsigned),
        ]

        # Choose groups.
        if self.table is not None:
            m.submodules.table = table = self.table
            if self.masters is not None:
                m.d.comb += table.scanned.eq(scanned)
            m.d.comb += [
                table.enable.eq(grouped),
                table.phase.eq(phase),
                table.enter.eq(enter),
                table.at.eq(at),
                table.row_table.eq(fields.tab1),
                table.column_table.eq(fields.tab2),
                table.channel.eq(schedule.channel),
                table.left.eq(schedule.left),
                table.magnitude.eq(columns.magnitude),
                table.row_reach.eq(columns.row_reach),
                table.column_reach.eq(reduction.farthest),
                columns.row.eq(table.row),
                columns.rows.eq(table.rows),
                columns.group.eq(table.group),
            ]
            wiring.connect(m, wiring.flipped(self.group_r), table.group_r)
            wiring.connect(m, wiring.flipped(self.group_w), table.group_w)

        # Write exponents and codes.
        exponent_target = Signal(ADDRESS_BITS)
        m.submodules.codes = codes = CodeWriter(self.params)
        wiring.connect(m, wiring.flipped(self.quant_w), codes.quant_w)
        m.d.comb += [
            self.wide_w.en.eq(schedule.write_exponents),
            self.wide_w.addr.eq(exponent_target),
            self.wide_w.data.eq(columns.exponents),
            codes.start.eq(control.start),
            codes.base.eq(fields.dst0),
            codes.enter.eq(enter & schedule.rounding),
            codes.en.eq(at[Columns.DEPTH] & schedule.rounding),
            codes.q.eq(columns.q),
        ]
        with m.If(control.start):
            m.d.sync += exponent_target.eq(fields.dst1)
        with m.Else():
            m.d.sync += exponent_target.eq(exponent_target + self.wide_w.en)

        # Masters instead of wide elements, over the mantissas of their columns.
        if self.masters is not None:
            m.submodules.masters = masters = self.masters
            m.submodules.column_scale = column_scale = self.column_scale
            wiring.connect(m, wiring.flipped(self.master_r), masters.master_r)
            master = (fields.flags & int(QuantiseFlag.MASTER)).any()
            reducing = phase == Phase.REDUCE
            late = Masters.LATENCY - READ_LATENCY
            ahead = Columns.DEPTH - announced_ahead(self.params)
            m.d.comb += [
                self.quant_ahead.eq(Mux(master, at[late + ahead], at[ahead]) & schedule.rounding),
                schedule.master.eq(master),
                masters.read.eq(schedule.step & (schedule.searching | schedule.rounding) & master),
                masters.address.eq(source),
                masters.arrived.eq(at[READ_LATENCY]),
                masters.clear.eq(schedule.clear & ~schedule.normalised),
                masters.load.eq(column_scale.load
                                & (~schedule.normalised).replicate(self.params.vector)),
                masters.mantissa.eq(column_scale.mantissa),
                column_scale.exponents.eq(schedule.normalised),
                column_scale.rows.eq(fields.m),
                column_scale.clip.eq(fields.arg),
                column_scale.step.eq(schedule.step & reducing & master),
                column_scale.largest.eq(reduction.picked_largest),
                column_scale.total.eq(reduction.picked_total),
            ]
            with m.If(master):
                m.d.comb += [
                    self.wide_r.en.eq(0),
                    columns.at.eq(at[late:]),
                    codes.en.eq(at[late + Columns.DEPTH] & schedule.rounding),
                    reduction.restart.eq(column_scale.restart),
                    reduction.step.eq(column_scale.pick),
                    columns.exponent.eq(column_scale.exponent),
                    columns.load.eq(column_scale.load
                                    & schedule.normalised.replicate(self.params.vector)),
                ]
                m.d.comb += (columns.x[k].eq(masters.x[k]) for k in range(self.params.vector))
                with m.If(reducing):
                    m.d.comb += schedule.drained.eq(column_scale.done)
                with m.If(schedule.write_exponents):
                    m.d.sync += exponent_target.eq(
                        exponent_target + len(ScaleRow) - ScaleRow.EXPONENT)
            m.d.comb += [
                schedule.scan.eq((fields.flags & int(QuantiseFlag.SCAN)).any()),
                schedule.scanned.eq(scanned), columns.scanned_rows.eq(scanned),
            ]
            # Of a tensor that was scanned nobody counts the elements.
            product = Signal(elements.shape(), reset_less=True)
            m.d.sync += product.eq(fields.m * fields.n)
            with m.If(scanned):
                m.d.comb += scale.count.eq(product)
            found = {ScanRow.LARGEST: columns.largest,
                     ScanRow.TOTAL_LOW: [total[:SCAN_SHIFT] for total in columns.total],
                     ScanRow.TOTAL_HIGH: [total[SCAN_SHIFT:] for total in columns.total]}
            for row in ScanRow:
                with m.If(schedule.write_found[row]):
                    m.d.comb += self.wide_w.en.eq(1)
                    m.d.comb += (self.wide_w.data[k].eq(found[row][k])
                                 for k in range(self.params.vector))
            with m.If(schedule.write_found[-1]):
                m.d.sync += exponent_target.eq(exponent_target + 1 + STATE_ROWS - len(ScanRow))
            with m.If(schedule.write_mantissas):
                m.d.comb += self.wide_w.en.eq(1)
                m.d.comb += (self.wide_w.data[k].eq(masters.mantissas[k])
                             for k in range(self.params.vector))
        return m

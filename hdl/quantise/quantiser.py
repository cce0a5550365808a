"""The quantiser unit."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.instructions import QuantiseFlag
from hdl.memory import ADDRESS_BITS, LaneWritePort, ReadPort, WritePort
from hdl.params import MAX_M, MAX_N
from hdl.quantise.codes import CodeWriter
from hdl.quantise.columns import Columns
from hdl.quantise.exponent import ScaleExponent, sum_bits
from hdl.quantise.lane import reach_bits
from hdl.quantise.reduction import Reduction
from hdl.quantise.schedule import Phase, Schedule
from hdl.quantise.table import GroupTable
from hdl.unit import GROUP_BITS, UnitPort, quant_word, wide_word

__all__ = ["Quantiser"]


class Quantiser(wiring.Component):
    """Quantises a wide tensor; the unit of ``QUANTISE``, ``sim.model.quantise.quantise``.

    ``vector`` lanes, one row per clock, once to search for magnitudes (twice
    with channel groups) and once to quantise; nothing stalls. :class:`Schedule` has the order,
    :class:`Lane` the arithmetic, :meth:`cycles` the time.

    Noise is that of the element's place under the instruction's key. Pad lanes, those from column
    n on, influence nothing, and what is written to them does not matter. A machine with one group
    along both axes has no group logic and ignores ``GROUPED``.

    Parameters
    ----------
    params : hdl.params.Params

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
    """
    def __init__(self, params):
        self.params = params
        groups = params.sample_groups, params.channel_groups
        self.schedule = Schedule(params.vector, *groups)
        self.columns = Columns(params)
        self.reduction = Reduction(params.vector, self.columns.total_bits, sum_bits(MAX_M * MAX_N),
                                   reach_bits(params.bits, params.max_groups))
        self.scale = ScaleExponent(params.bits, MAX_M * MAX_N)
        self.table = None
        if params.max_groups > 1:
            self.table = GroupTable(params.bits, params.vector, *groups)
        #: Cycles from a step of a phase to the last write it causes.
        self.depth = max(Columns.DEPTH, self.table.depth if self.table else 0)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
            "quant_w": Out(LaneWritePort(quant_word(params))),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            "group_w": Out(WritePort(unsigned(GROUP_BITS))),
        })

    def cycles(self, m, n, *, per_column=False, clip=0, grouped=False):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        def phase(steps):
            return 1 + steps + self.depth + 1

        tiles, lanes = -(-n // self.params.vector), phase(self.params.vector)
        cycles = tiles * (phase(m) + 1 + phase(m))
        scale = 1 + self.scale.latency(clip)
        if per_column:
            return cycles + tiles * self.params.vector * (phase(1) + scale)
        cycles += lanes + scale
        if grouped:
            cycles += phase(m) + tiles * lanes
            if self.params.channel_groups > 1:
                cycles += tiles * phase(m)
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
        return m

"""The forward norm: the unit of ``NORM_FORWARD``."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import STATE_ROWS, NormFlag, StateRow
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.norm.forward_lane import (
    CENTRED,
    CLAMPED,
    FORWARD_CONTROL,
    HELD_ROWS,
    QUOTIENT_BITS,
    XHAT,
    ForwardLane,
    Y,
)
from hdl.norm.l1 import MeanMagnitude
from hdl.norm.reciprocal import LaneDivider, Operation, divider_options
from hdl.norm.rows import ColumnTiles, RowReader
from hdl.unit import INSTRUCTION_LAYOUT, UnitPort, wide_word

__all__ = ["LaneCount", "NormForward"]


class NormForward(wiring.Component):
    """L1 normalisation per column, with a ReLU if asked; ``sim.model.norm.l1_forward``.

    Works on one tile of ``cols`` columns after the other: reads gamma and beta; reads all rows
    for the mean and again for the deviation, one row per cycle; takes the reciprocals; writes
    mean and deviation; reads all rows again, one row every two cycles, and writes context and y
    of each. With ``INFERENCE``, mean and deviation are read with gamma and beta, and the output
    pass follows at once. A row is read before it is written, so the source may be the
    destination.

    The time does not depend on the data: :meth:`cycles`.

    ``control.clamped`` counts the elements of the n columns that were clamped in x (once, though
    x is read three times), in xhat and in y. Nothing can stall the unit.

    Parameters
    ----------
    params : hdl.params.Params
    statistic : type
        What makes the deviation in the lanes: the L1 norm's, unless another norm is to be compared
        with it.

    Members
    -------
    control : Out(UnitPort)
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    def __init__(self, params, statistic=MeanMagnitude):
        self.params = params
        self.statistic = statistic
        self.divider = LaneDivider(params.vector, statistic.total_bits(params.max_rows),
                                   QUOTIENT_BITS, unit=statistic.DIVIDER,
                                   **divider_options(params))
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def cycles(self, m, n, *, inference=False):
        """Cycles from ``start`` to ``done``.

        With four columns or more, the L1 norm takes ``4 m + 698`` for each tile, or ``2 m + 332``
        in inference, and one; on a machine that keeps masters ``4 m + 164`` or ``2 m + 80``.
        """
        drain = READ_LATENCY + _Writer.STAGES
        divide, spread, invert = (
            self.divider.latency(operation)
            for operation in (Operation.DIVIDE, self.statistic.OPERATION, Operation.INVERT))
        tile = (2 * m + 2 * drain + 5 + invert if inference
                else 4 * m + 4 * drain + 7 + divide + spread + invert)
        return -(-n // self.params.vector) * tile + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = _Control(self.params, self.statistic)
        m.submodules.divider = divider = self.divider
        m.submodules.count = count = LaneCount(self.params.vector)
        m.d.comb += [
            control.start.eq(self.control.start),
            control.instruction.eq(self.control.instruction),
            self.control.done.eq(control.done),
            self.control.clamped.eq(count.o),
            self.wide_r.en.eq(control.read),
            self.wide_r.addr.eq(control.read_addr),
            self.wide_w.en.eq(control.write),
            self.wide_w.addr.eq(control.write_addr),
            divider.start.eq(control.divide),
            divider.operation.eq(control.operation),
            divider.denominator.eq(self.control.instruction.m),
            control.divided.eq(divider.done),
        ]
        for j in range(self.params.vector):
            m.submodules[f"lane_{j}"] = lane = ForwardLane(self.statistic(self.params.max_rows))
            m.d.comb += [
                lane.control.eq(control.lanes),
                lane.used.eq(control.used[j]),
                lane.i.eq(self.wide_r.data[j]),
                divider.numerator[j].eq(lane.total),
                divider.value[j].eq(lane.deviation),
                lane.take.eq(divider.take[j]),
                lane.quotient.eq(divider.quotient[j // divider.span]),
                lane.length.eq(divider.length[j // divider.span]),
                self.wide_w.data[j].eq(lane.o),
                count.i[j].eq(lane.clamped),
            ]
        return m


class LaneCount(wiring.Component):
    """Sums two bits of every lane, in two cycles: at most 3 * 64.

    Members
    -------
    i : In(2) x cols
    o : Out(8)
    """
    def __init__(self, cols):
        self.cols = cols
        super().__init__({"i": In(2).array(cols), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        sums = []
        for first in range(0, self.cols, 8):
            part = Signal(range(3 * 8 + 1), name=f"part_{first}")
            m.d.sync += part.eq(sum(self.i[j] for j in range(first, min(first + 8, self.cols))))
            sums.append(part)
        m.d.sync += self.o.eq(sum(sums))
        return m


class _Control(wiring.Component):
    """The sequence of the unit: which rows are read, and what the lanes do with them."""
    def __init__(self, params, statistic):
        self.params = params
        self.statistic = statistic
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "done": Out(1),
            "read": Out(1),
            "read_addr": Out(ADDRESS_BITS),
            "write": Out(1),
            "write_addr": Out(ADDRESS_BITS),
            "divide": Out(1),
            "operation": Out(Operation),
            "divided": In(1),
            "used": Out(params.vector),
            "lanes": Out(FORWARD_CONTROL),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = ColumnTiles(self.params.vector)
        m.submodules.reader = reader = RowReader(paired=False, most=self.params.max_rows)
        m.submodules.writer = writer = _Writer()
        fields, lanes = self.instruction, self.lanes
        training = Signal()
        x, state = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [
            training.eq((fields.flags & int(NormFlag.INFERENCE)) == 0),
            tiles.n.eq(fields.n),
            reader.rows.eq(fields.m),
            reader.base.eq(x),
            writer.instruction.eq(fields),
            writer.training.eq(training),
            writer.state.eq(state),
            self.read.eq(reader.en),
            self.read_addr.eq(reader.addr),
            self.write.eq(writer.en),
            self.write_addr.eq(writer.addr),
            self.used.eq(tiles.used),
        ]

        # rows[c]: a row that was on the read port c cycles ago.
        way = Signal(READ_LATENCY - 1 + writer.STAGES)
        rows = way[READ_LATENCY - 1:]
        drained = Signal()
        m.d.sync += way.eq(Cat(reader.row, way))
        m.d.comb += [drained.eq(~reader.busy & ~way.any()), writer.rows.eq(rows)]

        m.d.comb += [
            lanes.given.eq(~training),
            lanes.rectify.eq((fields.flags & int(NormFlag.RELU)) != 0),
            lanes.clamped.eq(writer.active & rows[CLAMPED]),
            lanes.xhat.eq(writer.active & rows[XHAT]),
            lanes.y.eq(writer.active & rows[Y]),
            lanes.context.eq(Cat(rows[XHAT + 2 * row] for row in range(HELD_ROWS))),
            lanes.put_context.eq(rows[Y]),
            lanes.put_y.eq(rows[Y + 1]),
        ]

        def divide(operation, following):
            m.d.comb += [self.divide.eq(1), self.operation.eq(operation)]
            m.next = following

        def read(following):
            m.d.comb += reader.start.eq(1)
            m.next = following

        def save(row):
            m.d.comb += [writer.save.eq(1), writer.row.eq(row)]

        parameter = Signal(range(STATE_ROWS))
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [x.eq(fields.src0), state.eq(fields.src1)]
                m.d.comb += [tiles.first.eq(self.start), writer.start.eq(self.start)]
                with m.If(self.start):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.comb += [lanes.clear.eq(1), reader.base.eq(state),
                             reader.rows.eq(StateRow.DEVIATION + 1)]
                m.d.sync += parameter.eq(0)
                read("PARAMETERS")
            with m.State("PARAMETERS"):
                m.d.sync += parameter.eq(parameter + rows[0])
                for row, load in ((StateRow.GAMMA, lanes.load_gamma),
                                  (StateRow.BETA, lanes.load_beta)):
                    m.d.comb += load.eq(rows[0] & (parameter == row))
                for row, load in ((StateRow.MEAN, lanes.load_mean),
                                  (StateRow.DEVIATION, lanes.load_deviation)):
                    m.d.comb += load.eq(rows[0] & (parameter == row) & ~training)
                with m.If(drained & training):
                    read("MEAN")
                with m.Elif(drained):
                    divide(Operation.INVERT, "INVERT")
            with m.State("MEAN"):
                m.d.comb += lanes.accumulate.eq(rows[CENTRED])
                with m.If(drained):
                    divide(Operation.DIVIDE, "DIVIDE_MEAN")
            with m.State("DIVIDE_MEAN"):
                m.d.comb += [lanes.divided_mean.eq(1), lanes.clear_total.eq(self.divided)]
                with m.If(self.divided):
                    m.next = "SAVE_MEAN"
            with m.State("SAVE_MEAN"):
                save(StateRow.MEAN)
                read("DEVIATION")
            with m.State("DEVIATION"):
                m.d.comb += [lanes.accumulate.eq(rows[CENTRED + self.statistic.LATENCY]),
                             lanes.spread.eq(1)]
                with m.If(drained):
                    divide(self.statistic.OPERATION, "DIVIDE_DEVIATION")
            with m.State("DIVIDE_DEVIATION"):
                m.d.comb += lanes.divided_deviation.eq(1)
                with m.If(self.divided):
                    m.next = "SAVE_DEVIATION"
            with m.State("SAVE_DEVIATION"):
                save(StateRow.DEVIATION)
                divide(Operation.INVERT, "INVERT")
            with m.State("INVERT"):
                m.d.comb += [lanes.inverted.eq(1), reader.spaced.eq(1)]
                with m.If(self.divided):
                    read("OUTPUT")
            with m.State("OUTPUT"):
                m.d.comb += writer.active.eq(1)
                with m.If(drained):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += tiles.step.eq(1)
                m.d.sync += [x.eq(x + fields.m), state.eq(state + STATE_ROWS)]
                m.next = "TILE"
                with m.If(tiles.last):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        return m


class _Writer(wiring.Component):
    """Where the lanes' output goes in the wide memory."""
    #: Cycles after a row was on the read port in which something is left to do.
    STAGES = Y + 2

    def __init__(self):
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "training": In(1),
            # The output pass: for every row its context, then its y.
            "active": In(1),
            "rows": In(self.STAGES),
            # Save this row of the state at ``state``.
            "save": In(1),
            "row": In(StateRow),
            "state": In(ADDRESS_BITS),
            "en": Out(1),
            "addr": Out(ADDRESS_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        context, y = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.sync += self.en.eq(0)
        with m.If(self.start):
            m.d.sync += [context.eq(self.instruction.dst1), y.eq(self.instruction.dst0)]
        with m.Elif(self.save):
            m.d.sync += [self.en.eq(1), self.addr.eq(self.state + self.row)]
        with m.Elif(self.active & self.rows[Y]):
            m.d.sync += [self.en.eq(self.training), self.addr.eq(context),
                         context.eq(context + 1)]
        with m.Elif(self.active & self.rows[Y + 1]):
            m.d.sync += [self.en.eq(1), self.addr.eq(y), y.eq(y + 1)]
        return m

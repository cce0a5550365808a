"""The forward norm in binary16."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.norm_fp16.lane import (
    LANE_CONTROL,
    NARROWED,
    OPERAND,
    PARTIAL_SUMS,
    SUM_IN,
    Addend,
    Factor,
)
from hdl.baseline.norm_fp16.program import (
    CENTRE_CYCLES,
    CENTRE_HIGH,
    CENTRE_LOW,
    centre,
    operation,
)
from hdl.baseline.norm_fp16.reduction import Reduction
from hdl.baseline.norm_fp16.state import STATE_ROWS, StateRow
from hdl.baseline.norm_fp16.unit import NormUnit
from hdl.memory import ADDRESS_BITS, READ_LATENCY
from hdl.norm.reciprocal import Operation
from hdl.norm.rows import ColumnTiles, RowReader
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["Fp16NormForward"]


class Fp16NormForward(NormUnit):
    """L2 batch normalisation in binary16 with sums in binary32; ``sim.model.norm_fp16.forward``.

    Works on one tile of ``cols`` columns after the other: reads all rows for the mean, one per
    cycle; reads them again for the deviation, one every two cycles; writes mean and 1 / s; reads
    all rows a third time, one every two cycles, and writes xhat and y of each. A row is read before
    it is written, so the source may be the destination.

    The instruction is ``NORM_FORWARD``'s: x at ``src0``, the state
    (:class:`~hdl.baseline.norm_fp16.state.StateRow`) at ``src1``, y to ``dst0``, xhat to ``dst1``,
    all as binary16 in the lower half of a wide element; the upper half is written as 0. There is
    neither a rectifier nor inference.

    The time does not depend on the data: :meth:`cycles`. Nothing can stall the unit.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        See :class:`~hdl.baseline.norm_fp16.lane.Lane`.

    Members
    -------
    control : Out(UnitPort)
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``.

        A tile of four columns or more takes ``5 m`` and about 600.
        """
        drain = READ_LATENCY + 2 * NARROWED - 1
        divide, root = (self.lanes.divider.latency(operation)
                        for operation in (Operation.DIVIDE, Operation.ROOT))
        # Reductions wait for slot 0.
        wait = -(m + drain + 3 - READ_LATENCY - SUM_IN) % PARTIAL_SUMS
        wait_squares = -(2 * m + drain + 3 - READ_LATENCY - NARROWED - SUM_IN) % PARTIAL_SUMS
        tile = (5 * m + 3 * drain + PARTIAL_SUMS + divide + root + _CENTRE + CENTRE_CYCLES + 8
                + Reduction.cycles(False) + wait + Reduction.cycles(True) + wait_squares)
        return -(-n // self.params.vector) * tile + 1

    def sequence(self, params):
        return _Control(params)

    def divider_operation(self, control):
        return control.operation


#: When a channel's rows of the state are operands, and when its mean is centred.
_INVERSE = 0
_BETA = READ_LATENCY - 1
_GAMMA = _BETA + 1
_CENTRE = _GAMMA + 1


class _Control(wiring.Component):
    """The sequence of the unit: which rows are read, and what the lanes do with them.

    What the lanes are told and what is written passes a register; cycles are those before it.
    """
    def __init__(self, params):
        self.params = params
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
            "lanes": Out(LANE_CONTROL),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = ColumnTiles(self.params.vector)
        m.submodules.reader = reader = RowReader(paired=False)
        m.submodules.reduction = reduction = Reduction()
        fields = self.instruction
        # ``state`` goes through the rows of the state.
        x, state, xhat, y = (Signal(ADDRESS_BITS, name=name)
                             for name in ("x", "state", "xhat", "y"))
        advance = Signal()
        lanes = Signal(LANE_CONTROL)
        m.d.sync += self.lanes.eq(lanes)
        m.d.comb += [
            tiles.n.eq(fields.n),
            reader.rows.eq(fields.m),
            reader.base.eq(x),
            self.read.eq(reader.en),
            self.read_addr.eq(reader.addr),
            lanes.hold.eq(reduction.hold),
            lanes.join.eq(reduction.join),
        ]

        # rows[c]: a row of which the first operation is in cycle c.
        way = Signal(READ_LATENCY - 1 + 2 * NARROWED)
        rows = way[READ_LATENCY - 2:]
        row = Signal()
        drained = Signal()
        m.d.sync += way.eq(Cat(row, way))
        m.d.comb += [
            row.eq(reader.row),
            drained.eq(~reader.busy & ~way.any()),
            lanes.memory.eq(rows[0]),
        ]
        # The operation of epsilon.
        epsilon = Signal(READ_LATENCY + OPERAND - 1)
        reads_epsilon = Signal()
        m.d.sync += epsilon.eq(Cat(reads_epsilon, epsilon))

        count = Signal(range(_CENTRE + CENTRE_CYCLES + 1))
        with m.If(~count.all()):
            m.d.sync += count.eq(count + 1)
        with m.If(advance):
            m.d.sync += state.eq(state + 1)

        def read(following):
            m.d.comb += reader.start.eq(1)
            m.d.sync += count.eq(0)
            m.next = following

        def first_slot(slot, cycle):
            """Let the slot be ``slot`` in ``cycle`` of a row whose read begins."""
            m.d.comb += [reduction.set.eq(1),
                         reduction.slot.eq((slot - cycle - READ_LATENCY + 1) % PARTIAL_SUMS)]

        m.d.sync += [self.write.eq(0), self.done.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [x.eq(fields.src0), state.eq(fields.src1), xhat.eq(fields.dst1),
                             y.eq(fields.dst0)]
                m.d.comb += [tiles.first.eq(self.start), reduction.set.eq(1)]
                with m.If(self.start):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.comb += lanes.addend.eq(Addend.ZERO)
                with m.If(reduction.last_slot):
                    first_slot(0, SUM_IN)
                    read("MEAN")
            with m.State("MEAN"):
                m.d.comb += lanes.issue.eq(rows[OPERAND])
                with m.If(drained):
                    m.d.comb += reduction.start.eq(1)
                    m.next = "ADD_MEAN"
            with m.State("ADD_MEAN"):
                m.d.comb += [self.operation.eq(Operation.DIVIDE), self.divide.eq(reduction.done)]
                with m.If(reduction.done):
                    m.next = "DIVIDE_MEAN"
            with m.State("DIVIDE_MEAN"):
                m.d.comb += [lanes.divided.eq(1), lanes.addend.eq(Addend.ZERO),
                             reader.base.eq(state), reader.rows.eq(1),
                             advance.eq(self.divided)]
                with m.If(self.divided):
                    # One cycle before the first row. That row's second operation is in slot 1.
                    first_slot(1, NARROWED + SUM_IN + 1)
                    read("EPSILON")
            with m.State("EPSILON"):
                m.d.comb += [row.eq(0), reads_epsilon.eq(1), reader.spaced.eq(1)]
                read("DEVIATION")
            with m.State("DEVIATION"):
                m.d.comb += [
                    lanes.memory.eq(rows[0] | epsilon[READ_LATENCY - 2]),
                    lanes.issue.eq(rows[OPERAND] | rows[NARROWED + OPERAND] | epsilon[-1]),
                    lanes.factor.eq(Factor.ITSELF),
                ]
                with m.If(rows[OPERAND]):
                    m.d.comb += [lanes.factor.eq(Factor.ONE), lanes.negate.eq(1)]
                with m.If(rows[SUM_IN]):
                    m.d.comb += lanes.addend.eq(Addend.KEPT)
                with m.If(drained):
                    m.d.comb += [reduction.start.eq(1), reduction.halved.eq(1)]
                    m.next = "ADD_SQUARES"
            with m.State("ADD_SQUARES"):
                m.d.comb += [self.operation.eq(Operation.ROOT), self.divide.eq(reduction.done)]
                with m.If(reduction.done):
                    m.next = "ROOT"
            with m.State("ROOT"):
                m.d.comb += [lanes.rooted.eq(1), reader.base.eq(state), reader.rows.eq(2)]
                with m.If(self.divided):
                    read("CENTRE")
            with m.State("CENTRE"):
                m.d.comb += lanes.addend.eq(Addend.ZERO)
                operation(m, lanes, count, _INVERSE, one=True, factor=Factor.FIRST)
                operation(m, lanes, count, _BETA, hold=True)
                operation(m, lanes, count, _GAMMA, issue=False, second=True)
                centre(m, lanes, count, _CENTRE)
                # Past beta and gamma; then 1 / s and the mean.
                saves = Signal()
                m.d.comb += [
                    saves.eq(Cat(count == cycle for cycle in (
                        _INVERSE + NARROWED, _CENTRE + CENTRE_HIGH, _CENTRE + CENTRE_LOW)).any()),
                    advance.eq((count < 2) | saves),
                ]
                with m.If(saves):
                    m.d.sync += [self.write.eq(1), self.write_addr.eq(state)]
                m.d.comb += reader.spaced.eq(1)
                with m.If(count == _CENTRE + CENTRE_CYCLES):
                    read("OUTPUT")
            with m.State("OUTPUT"):
                m.d.comb += [
                    lanes.issue.eq(rows[OPERAND] | rows[NARROWED + OPERAND]),
                    lanes.factor.eq(Factor.SECOND),
                    lanes.addend.eq(Addend.HELD),
                ]
                with m.If(rows[OPERAND]):
                    m.d.comb += lanes.factor.eq(Factor.FIRST)
                with m.If(rows[SUM_IN]):
                    m.d.comb += lanes.addend.eq(Addend.KEPT)
                with m.If(rows[NARROWED]):
                    m.d.sync += [self.write.eq(1), self.write_addr.eq(xhat), xhat.eq(xhat + 1)]
                with m.If(rows[2 * NARROWED]):
                    m.d.sync += [self.write.eq(1), self.write_addr.eq(y), y.eq(y + 1)]
                # Past the gradients.
                m.d.comb += advance.eq(count < STATE_ROWS - StateRow.GRAD_GAMMA)
                with m.If(drained):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += [tiles.step.eq(1), reduction.set.eq(1)]
                m.d.sync += x.eq(reader.addr)
                m.next = "TILE"
                with m.If(tiles.last):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        return m

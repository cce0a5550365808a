"""The backward norm in binary16."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.norm_fp16.lane import (
    LANE_CONTROL,
    NARROWED,
    OPERAND,
    PARTIAL_SUMS,
    SUM_IN,
    SUM_OUT,
    Addend,
    Factor,
)
from hdl.baseline.norm_fp16.program import CENTRE_CYCLES, CENTRE_HIGH, centre, operation
from hdl.baseline.norm_fp16.reduction import Reduction
from hdl.baseline.norm_fp16.state import StateRow
from hdl.baseline.norm_fp16.unit import NormUnit
from hdl.memory import ADDRESS_BITS, READ_LATENCY
from hdl.norm.reciprocal import Operation
from hdl.norm.rows import ColumnTiles, RowReader
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["Fp16NormBackward"]

#: Cycles by which the operation of a row's xhat follows that of its dy, where it is added to it:
#: the sum is held for a cycle, and the two take turns with those of other rows.
_LAG = SUM_OUT + 1 - SUM_IN
assert _LAG % 2 == 1


class Fp16NormBackward(NormUnit):
    """The gradient of an L2 batch normalisation in binary16; ``sim.model.norm_fp16.backward``.

    Works on one tile of ``cols`` columns after the other: reads all rows of dy and xhat for the
    sums, two cycles per row; writes the means; reads all rows again, two cycles per row, and writes
    dx. A row is read before it is written, so the source may be the destination.

    The instruction is ``NORM_BACKWARD``'s: dy at ``src0``, the state of
    :class:`~hdl.baseline.norm_fp16.forward.Fp16NormForward` at ``src1``, xhat at ``dst1``, dx to
    ``dst0``, all as binary16 in the lower half of a wide element; the upper half is written as 0.
    There are neither masks nor codes.

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

        A tile of four columns or more takes ``4 m`` and about 570.
        """
        drain = READ_LATENCY - 1 + NARROWED + 1
        divide = self.lanes.divider.latency(Operation.DIVIDE)
        # Reductions wait for slot 0.
        wait = -(2 * m + drain + 2 - READ_LATENCY - SUM_IN) % PARTIAL_SUMS
        wait_second = -(divide + 3) % PARTIAL_SUMS
        tile = (4 * m + 2 * drain + _LAG + PARTIAL_SUMS + 2 * divide + _FACTORS + CENTRE_CYCLES
                + 2 * Reduction.cycles(True) + wait + wait_second + 6)
        return -(-n // self.params.vector) * tile + 1

    def sequence(self, params):
        return _Control(params)

    def divider_operation(self, control):
        return Operation.DIVIDE


#: gamma / s, and its product with the rounded mean of dy * xhat: cycles of their operations.
_GAMMA = READ_LATENCY - 1
_INVERSE = _GAMMA + 1
_MEAN = _INVERSE + 1
_FACTORS = _MEAN + 2 * NARROWED + OPERAND


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
            "divided": In(1),
            "lanes": Out(LANE_CONTROL),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = ColumnTiles(self.params.vector)
        # dy and rows of the state, and xhat.
        m.submodules.reader = reader = RowReader(paired=False)
        m.submodules.second = second = RowReader(paired=False)
        m.submodules.reduction = reduction = Reduction()
        fields = self.instruction
        # ``state`` goes through the rows of the state.
        dy, xhat, state, dx = (Signal(ADDRESS_BITS, name=name)
                               for name in ("dy", "xhat", "state", "dx"))
        advance = Signal()
        lanes = Signal(LANE_CONTROL)
        m.d.sync += self.lanes.eq(lanes)

        # rows[c]: a row of which the operation of dy is in cycle c; others[c]: that of xhat.
        row_way = Signal(READ_LATENCY - 1 + SUM_IN)
        other_way = Signal(READ_LATENCY - 1 + NARROWED)
        rows, others = row_way[READ_LATENCY - 2:], other_way[READ_LATENCY - 2:]
        count = Signal(range(max(CENTRE_CYCLES, _FACTORS, _LAG) + 1))
        drained = Signal()
        m.d.sync += [row_way.eq(Cat(reader.row, row_way)),
                     other_way.eq(Cat(second.row, other_way))]
        with m.If(~count.all()):
            m.d.sync += count.eq(count + 1)
        with m.If(advance):
            m.d.sync += state.eq(state + 1)
        m.d.comb += [
            tiles.n.eq(fields.n),
            reader.rows.eq(fields.m),
            reader.base.eq(dy),
            reader.spaced.eq(1),
            second.rows.eq(fields.m),
            second.base.eq(xhat),
            second.spaced.eq(1),
            self.read.eq(reader.en | second.en),
            self.read_addr.eq(second.addr),
            lanes.hold.eq(reduction.hold),
            lanes.join.eq(reduction.join),
            lanes.memory.eq(rows[0] | others[0]),
            # The second reader has begun.
            drained.eq((count >= _LAG) & ~reader.busy & ~second.busy & ~other_way.any()),
        ]
        with m.If(reader.en):
            m.d.comb += self.read_addr.eq(reader.addr)

        def read(following):
            m.d.comb += reader.start.eq(1)
            m.d.sync += count.eq(0)
            m.next = following

        def reduce(following):
            m.d.comb += [reduction.start.eq(1), reduction.halved.eq(1)]
            m.next = following

        def divide(following):
            m.d.comb += self.divide.eq(1)
            m.d.sync += count.eq(0)
            m.next = following

        def save(when):
            with m.If(when):
                m.d.sync += [self.write.eq(1), self.write_addr.eq(state)]
                m.d.comb += advance.eq(1)

        m.d.sync += [self.write.eq(0), self.done.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [dy.eq(fields.src0), state.eq(fields.src1), xhat.eq(fields.dst1),
                             dx.eq(fields.dst0)]
                m.d.comb += [tiles.first.eq(self.start), reduction.set.eq(1)]
                with m.If(self.start):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.comb += lanes.addend.eq(Addend.ZERO)
                with m.If(reduction.last_slot):
                    m.d.comb += [
                        reduction.set.eq(1),
                        reduction.slot.eq((1 - SUM_IN - READ_LATENCY) % PARTIAL_SUMS),
                    ]
                    read("SUMS")
            with m.State("SUMS"):
                # dy becomes the second factor, for the operation that follows.
                m.d.comb += [
                    second.start.eq(count == 0),
                    lanes.issue.eq(rows[OPERAND] | others[OPERAND]),
                    lanes.load_second.eq(rows[OPERAND]),
                    lanes.factor.eq(Factor.SECOND),
                ]
                with m.If(rows[OPERAND]):
                    m.d.comb += lanes.factor.eq(Factor.ONE)
                m.d.comb += advance.eq(count < StateRow.GAMMA)
                with m.If(drained):
                    reduce("ADD_GAMMA")
            with m.State("ADD_GAMMA"), m.If(reduction.done):
                # It is slot 0. What was in even slots shall be in odd ones.
                m.d.comb += [reduction.set.eq(1), reduction.slot.eq(2)]
                divide("DIVIDE_GAMMA")
            with m.State("DIVIDE_GAMMA"):
                m.d.comb += lanes.divided.eq(1)
                with m.If(self.divided):
                    reduce("ADD_BETA")
            with m.State("ADD_BETA"):
                m.d.comb += [reader.base.eq(state), reader.rows.eq(2), reader.spaced.eq(0)]
                with m.If(reduction.done):
                    read("FACTORS")
            with m.State("FACTORS"):
                m.d.comb += lanes.addend.eq(Addend.ZERO)
                operation(m, lanes, count, _GAMMA, issue=False, second=True)
                operation(m, lanes, count, _INVERSE, factor=Factor.SECOND)
                operation(m, lanes, count, _INVERSE + NARROWED, issue=False, first=True)
                operation(m, lanes, count, _MEAN, issue=False, addend=Addend.KEPT)
                operation(m, lanes, count, _MEAN + NARROWED, factor=Factor.FIRST, negate=True)
                operation(m, lanes, count, _MEAN + 2 * NARROWED, issue=False, second=True)
                m.d.comb += advance.eq(count < StateRow.GRAD_GAMMA - StateRow.GAMMA)
                save(count == _MEAN + NARROWED)
                with m.If(count == _FACTORS):
                    divide("DIVIDE_BETA")
            with m.State("DIVIDE_BETA"):
                m.d.comb += lanes.divided.eq(1)
                with m.If(self.divided):
                    m.d.sync += count.eq(0)
                    m.next = "CENTRE"
            with m.State("CENTRE"):
                m.d.comb += lanes.addend.eq(Addend.ZERO)
                centre(m, lanes, count)
                save(count == CENTRE_HIGH)
                with m.If(count == CENTRE_CYCLES):
                    read("OUTPUT")
            with m.State("OUTPUT"):
                m.d.comb += [
                    second.start.eq(count == _LAG - 1),
                    lanes.issue.eq(rows[OPERAND] | others[OPERAND]),
                    lanes.factor.eq(Factor.SECOND),
                    lanes.addend.eq(Addend.HELD),
                    lanes.hold.eq(1),
                ]
                with m.If(rows[OPERAND]):
                    m.d.comb += lanes.factor.eq(Factor.FIRST)
                with m.If(rows[SUM_IN]):
                    m.d.comb += lanes.addend.eq(Addend.KEPT)
                with m.If(others[NARROWED]):
                    m.d.sync += [self.write.eq(1), self.write_addr.eq(dx), dx.eq(dx + 1)]
                with m.If(drained):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += [tiles.step.eq(1), reduction.set.eq(1)]
                m.d.sync += [dy.eq(reader.addr), xhat.eq(second.addr)]
                m.next = "TILE"
                with m.If(tiles.last):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        return m

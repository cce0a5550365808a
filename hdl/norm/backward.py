"""The backward norm: the unit of ``NORM_BACKWARD``."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import STATE_ROWS, BackwardFlag, StateRow
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort, announced_ahead
from hdl.norm.arithmetic import Multiplier
from hdl.norm.backward_lane import (
    BACKWARD_CONTROL,
    BACKWARD_PACKING,
    GATED,
    GRADIENT,
    PRODUCTS,
    QUOTIENT_BITS,
    RESULT_BITS,
    BackwardLane,
    total_bits,
)
from hdl.norm.l1 import SignCorrection
from hdl.norm.reciprocal import LENGTH_BITS, LaneDivider, Operation, divider_options
from hdl.norm.rows import ColumnTiles, RowReader
from hdl.params import XHAT_FRACTION
from hdl.unit import INSTRUCTION_LAYOUT, UnitPort, quant_word, wide_word

__all__ = ["NormBackward"]


class NormBackward(wiring.Component):
    """The gradient of the L1 norm with respect to its input; ``sim.model.norm.l1_backward``.

    Goes over the tiles of ``vector`` columns three times: for the smallest deviation; over all
    rows of dy and their contexts for the largest gradient, two cycles per row; and, tile after
    tile, over the rows for the sums, through the divisions, and over the rows again for dx, two
    cycles per row each; then four rows of the state. A row is read before it is written, so the
    source may be the destination. With ``CLIPPED`` a row's codes are read together with its
    dy: ``sim.model.relu.unclipped``.

    Nothing is clamped and nothing can stall the unit. The time does not depend on the data:
    :meth:`cycles`. On a machine that keeps masters, passes over rows of dy begin so much later as
    codes are announced before they are read, and reciprocals are taken beside the sums; what dx
    needs of a row is left in its place by the pass for the sums, packed into a word, so that the
    last pass takes a cycle per row. With ``SCAN`` row ``LARGEST`` of the state is written, too.

    Parameters
    ----------
    params : hdl.params.Params
    correction : type
        What makes t in the lanes: the L1 norm's, unless another norm is to be compared with it.

    Members
    -------
    control : Out(UnitPort)
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    quant_r : Out(ReadPort(quant_word(params)))
    quant_ahead : Out(1)
        A row's codes are read :func:`~hdl.memory.announced_ahead` cycles from now. Only on a
        machine that keeps masters.
    """
    def __init__(self, params, correction=SignCorrection):
        self.params = params
        self.correction = correction
        self.divider = LaneDivider(params.vector, total_bits(params.max_rows), QUOTIENT_BITS,
                                   **divider_options(params))
        members = {
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
            "quant_r": Out(ReadPort(quant_word(params))),
        }
        if params.masters:
            members["quant_ahead"] = Out(1)
        super().__init__(members)

    def cycles(self, m, n, *, scan=False):
        """Cycles from ``start`` to ``done``.

        With four columns or more, the L1 norm takes ``6 m + 1029`` for each tile, and 138; on a
        machine that keeps masters ``5 m + 187 + 2 announced_ahead``, and 24, where rows take as
        long as a reciprocal, and one more for each tile with ``SCAN``.
        """
        drain = READ_LATENCY + _Writer.stages(self.correction)
        divide, invert, length = (
            self.divider.latency(operation)
            for operation in (Operation.DIVIDE, Operation.INVERT, Operation.LENGTH))
        tile = 6 * m + 5 * drain + 19 + 2 * divide + invert + length
        if self.correction.HAS_MEAN:
            tile += Multiplier.LATENCY + divide
        if self.params.masters:
            ahead = announced_ahead(self.params)
            tile += 2 * ahead - m + 1 + max(0, invert + 2 - (2 * m + drain + ahead)) - invert + scan
        return -(-n // self.params.vector) * tile + length + 5

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = _Control(self.params, self.correction)
        m.submodules.divider = divider = self.divider
        m.submodules.extreme = extreme = _ExtremeLength(len(divider.length))
        m.d.comb += [
            control.start.eq(self.control.start),
            control.instruction.eq(self.control.instruction),
            self.control.done.eq(control.done),
            self.wide_r.en.eq(control.read),
            self.wide_r.addr.eq(control.read_addr),
            self.quant_r.en.eq(control.read_code),
            self.quant_r.addr.eq(control.code_addr),
            self.wide_w.en.eq(control.write),
            self.wide_w.addr.eq(control.write_addr),
            divider.start.eq(control.divide),
            divider.operation.eq(control.operation),
            divider.denominator.eq(self.control.instruction.m),
            control.divided.eq(divider.done),
            extreme.clear.eq(control.clear_extreme),
            extreme.smallest.eq(control.smallest),
            extreme.join.eq(divider.take.any() & control.measuring),
            control.extreme.eq(extreme.o),
        ]
        if self.params.masters:
            m.d.comb += self.quant_ahead.eq(control.code_ahead)
        # u = 2**bits - 1 is stored as 2**(bits-1) - 1. The tile's codes lie beside each other.
        slots, vector = self.params.slots, self.params.vector
        top = 2 ** (self.params.bits - 1) - 1
        clipping, clipped = Signal(), Signal(vector)
        m.d.comb += clipping.eq((self.control.instruction.flags & BackwardFlag.CLIPPED).any())
        m.d.sync += clipped.eq(Cat(
            clipping & Cat(control.code_tile[lane // vector] & (self.quant_r.data[lane] == top)
                           for lane in range(j, slots, vector)).any() for j in range(vector)))
        results = []
        for group, length in enumerate(divider.length):
            result = Signal(signed(RESULT_BITS), name=f"result_{group}")
            m.d.comb += [
                extreme.length[group].eq(length),
                # grad_gamma loses the fraction of xhat.
                result.eq(Mux(control.lanes.divided_gamma,
                              divider.quotient[group] >> XHAT_FRACTION, divider.quotient[group])),
            ]
            results.append(result)
        rows = self.params.max_rows
        for j in range(vector):
            group = j // divider.span
            m.submodules[f"lane_{j}"] = lane = BackwardLane(
                self.correction(rows), packing=self.params.masters > 0, rows=rows)
            if self.params.masters:
                m.d.comb += lane.packing.eq(control.packing)
            m.d.comb += [
                lane.control.eq(control.lanes),
                lane.used.eq(control.used[j]),
                lane.i.eq(self.wide_r.data[j]),
                lane.clipped.eq(clipped[j]),
                divider.numerator[j].eq(lane.total),
                divider.value[j].eq(lane.scan),
                lane.take.eq(divider.take[j]),
                lane.quotient.eq(results[group]),
                lane.excess.eq(divider.length[group] - control.deviation_bits),
                self.wide_w.data[j].eq(lane.o),
            ]
            if j == 0:
                m.d.comb += control.product.eq(lane.product)
        return m


class _ExtremeLength(wiring.Component):
    """The largest bit length, or the smallest that is not 0; two cycles after ``join``.

    The smallest is sought as the largest ``-length`` modulo 32, of which 0 is 0.
    """
    def __init__(self, groups):
        super().__init__({
            "clear": In(1),
            "smallest": In(1),
            "join": In(1),
            "length": In(LENGTH_BITS).array(groups),
            "o": Out(LENGTH_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        keys = []
        for group, length in enumerate(self.length):
            key = Signal(LENGTH_BITS, name=f"key_{group}")
            m.d.sync += key.eq(Mux(self.join, Mux(self.smallest, -length, length), 0))
            keys.append(key)
        largest = Signal(LENGTH_BITS)
        keys.append(largest)
        # A tree, pair by pair.
        while len(keys) > 1:
            pairs = [Mux(a > b, a, b) for a, b in zip(keys[::2], keys[1::2], strict=False)]
            keys = pairs + (keys[-1:] if len(keys) % 2 else [])
        with m.If(self.clear):
            m.d.sync += largest.eq(0)
        with m.Else():
            m.d.sync += largest.eq(keys[0])
        m.d.comb += self.o.eq(Mux(self.smallest, -largest, largest))
        return m


class _Loop(enum.Enum, shape=2):
    """What the tiles are gone through for."""
    DEVIATIONS = 0
    MAGNITUDES = 1
    CHANNELS = 2


class _Control(wiring.Component):
    """The sequence of the unit: which rows are read, and what the lanes do with them."""
    def __init__(self, params, correction):
        self.params = params
        self.correction = correction
        #: Reciprocals are taken beside the sums.
        self.beside = params.masters > 0
        members = {
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "done": Out(1),
            "read": Out(1),
            "read_addr": Out(ADDRESS_BITS),
            # With a row of dy, its codes; and which of a word's tiles the present one is.
            "read_code": Out(1),
            "code_addr": Out(ADDRESS_BITS),
            "code_tile": Out(params.slots // params.vector),
            "write": Out(1),
            "write_addr": Out(ADDRESS_BITS),
            "divide": Out(1),
            "operation": Out(Operation),
            "divided": In(1),
            # Lengths are measured for the extreme one, the smallest or the largest.
            "measuring": Out(1),
            "smallest": Out(1),
            "clear_extreme": Out(1),
            "extreme": In(LENGTH_BITS),
            "deviation_bits": Out(LENGTH_BITS),
            # The product of a channel is there.
            "product": In(1),
            "used": Out(params.vector),
            "lanes": Out(BACKWARD_CONTROL),
        }
        if params.masters:
            # Codes are read in so many cycles.
            members |= {"code_ahead": Out(1), "packing": Out(BACKWARD_PACKING)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = ColumnTiles(self.params.vector)
        m.submodules.reader = reader = RowReader(paired=True, most=self.params.max_rows)
        m.submodules.writer = writer = _Writer(self.correction, packing=self.beside)
        fields, lanes = self.instruction, self.lanes
        dy, context, state, codes = (Signal(ADDRESS_BITS) for _ in range(4))
        loop = Signal(_Loop)
        grad_bits = Signal(LENGTH_BITS)
        read_code = reader.row & lanes.gate & (fields.flags & BackwardFlag.CLIPPED).any()
        if self.beside:
            # Packed rows have passed the masks.
            read_code &= ~self.packing.packed
        m.d.comb += [
            tiles.n.eq(fields.n),
            reader.rows.eq(fields.m),
            reader.spaced.eq(1),
            reader.base.eq(dy),
            reader.second.eq(context),
            self.read.eq(reader.en),
            self.read_addr.eq(reader.addr),
            self.read_code.eq(read_code),
            writer.instruction.eq(fields),
            writer.start.eq(self.start),
            writer.state.eq(state),
            self.write.eq(writer.en),
            self.write_addr.eq(writer.addr),
            self.used.eq(tiles.used),
            self.smallest.eq(loop == _Loop.DEVIATIONS),
            # g = floor(dy * 2**(25 - bits)) = floor(dy * 2**(31 - bits) / 2**6)
            lanes.shift.eq(~grad_bits),
            lanes.bits.eq(Mux(writer.row == StateRow.GRAD_BITS, grad_bits, self.deviation_bits)),
        ]

        # rows[c]: a row of which dy was on the read port c cycles ago.
        way = Signal(READ_LATENCY - 1 + len(writer.rows))
        rows = way[READ_LATENCY - 1:]
        drained = Signal()
        m.d.sync += way.eq(Cat(reader.row, way))
        # Rows of dy are gone through once without reading, and so much later read.
        scout = None
        at_rest = ~reader.busy & ~way.any()
        if self.params.masters:
            m.submodules.scout = scout = RowReader(paired=False, most=self.params.max_rows)
            pending = Signal(announced_ahead(self.params))
            m.d.sync += pending.eq(Cat(scout.start, pending))
            m.d.comb += [
                scout.rows.eq(fields.m), scout.spaced.eq(1), reader.start.eq(pending[-1]),
                self.code_ahead.eq(scout.row & (fields.flags & BackwardFlag.CLIPPED).any()),
            ]
            at_rest &= ~pending.any()
        m.d.comb += [
            drained.eq(at_rest),
            writer.rows.eq(rows),
            lanes.dy.eq(rows[0]),
            lanes.context.eq(rows[1]),
            lanes.put_dx.eq(rows[BackwardLane.result(self.correction)]),
        ]

        with m.If(self.read_code):
            m.d.sync += self.code_addr.eq(self.code_addr + 1)

        def read(following):
            m.d.comb += reader.start.eq(1)
            m.d.sync += self.code_addr.eq(codes)
            m.next = following

        def read_dy(following):
            read(following)
            if scout is not None:
                m.d.comb += [reader.start.eq(0), scout.start.eq(1)]

        def divide(operation, following):
            m.d.comb += [self.divide.eq(1), self.operation.eq(operation)]
            m.next = following

        def multiply(a, b, following):
            m.d.comb += [lanes.multiply.eq(1), a.eq(1), b.eq(1)]
            m.next = following

        def invert():
            if self.beside:
                multiply(lanes.gamma, lanes.factor, "FACTOR")
            else:
                divide(Operation.INVERT, "INVERT")

        def save(row):
            m.d.comb += [writer.save.eq(1), writer.row.eq(row)]

        first, second = PRODUCTS
        parameter = Signal(range(STATE_ROWS))
        inverting = Signal() if self.beside else None
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += loop.eq(_Loop.DEVIATIONS)
                m.d.comb += self.clear_extreme.eq(1)
                with m.If(self.start):
                    m.next = "REWIND"

            # Of all tiles, and of every tile, in turn.
            with m.State("REWIND"):
                m.d.comb += [tiles.first.eq(1), lanes.clear_scan.eq(1)]
                m.d.sync += [dy.eq(fields.src0), context.eq(fields.dst1), state.eq(fields.src1),
                             codes.eq(fields.tab0), self.code_tile.eq(1)]
                m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += parameter.eq(0)
                with m.If(loop == _Loop.MAGNITUDES):
                    read_dy("MAGNITUDES")
                with m.Else():
                    m.d.comb += [
                        lanes.clear.eq(1), lanes.clear_sums.eq(1), lanes.clear_scan.eq(1),
                        reader.base.eq(state), reader.rows.eq(StateRow.DEVIATION + 1),
                        reader.spaced.eq(0),
                    ]
                    read("PARAMETERS")
            with m.State("NEXT"):
                m.d.comb += tiles.step.eq(1)
                m.d.sync += [dy.eq(dy + fields.m), context.eq(context + fields.m),
                             state.eq(state + STATE_ROWS),
                             self.code_tile.eq(self.code_tile.rotate_left(1))]
                with m.If(self.code_tile[-1]):
                    m.d.sync += codes.eq(codes + fields.m)
                m.next = "TILE"
                with m.If(tiles.last):
                    m.d.comb += self.clear_extreme.eq(1)
                    m.next = "REWIND"
                    with m.Switch(loop):
                        with m.Case(_Loop.DEVIATIONS):
                            m.d.sync += [loop.eq(_Loop.MAGNITUDES),
                                         self.deviation_bits.eq(self.extreme)]
                        with m.Case(_Loop.MAGNITUDES):
                            m.d.sync += [loop.eq(_Loop.CHANNELS), grad_bits.eq(self.extreme)]
                        with m.Case(_Loop.CHANNELS):
                            m.d.sync += self.done.eq(1)
                            m.next = "IDLE"

            # Rows of the state, and magnitudes.
            with m.State("PARAMETERS"):
                m.d.sync += parameter.eq(parameter + rows[GATED])
                m.d.comb += [
                    lanes.load_gamma.eq(rows[GATED] & (parameter == StateRow.GAMMA)),
                    lanes.scan.eq(rows[GATED] & (parameter == StateRow.DEVIATION)),
                ]
                with m.If(drained & (loop == _Loop.DEVIATIONS)):
                    divide(Operation.LENGTH, "MEASURE")
                with m.Elif(drained):
                    read_dy("SUMS")
                    if self.beside:
                        divide(Operation.INVERT, "SUMS")
                        m.d.sync += inverting.eq(1)
            with m.State("MAGNITUDES"):
                m.d.comb += [lanes.gate.eq(1), lanes.scan.eq(rows[GATED])]
                with m.If(drained):
                    m.next = "NEXT"
                    with m.If(tiles.last):
                        divide(Operation.LENGTH, "MEASURE")
            with m.State("MEASURE"):
                m.d.comb += self.measuring.eq(1)
                with m.If(self.divided):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "NEXT"

            # One tile's channels.
            with m.State("SUMS"):
                m.d.comb += [
                    lanes.gate.eq(1),
                    lanes.sign.eq(rows[GATED]),
                    lanes.accumulate.eq(1),
                    lanes.multiply.eq(rows[first] | rows[second]),
                    lanes.xhat.eq(rows[first - 1]),
                    lanes.one.eq(rows[second]),
                ]
                if self.beside:
                    m.d.comb += [lanes.inverted.eq(inverting),
                                 writer.pack.eq(rows[GRADIENT]),
                                 self.packing.put_packed.eq(rows[GRADIENT])]
                    with m.If(self.divided):
                        m.d.sync += inverting.eq(0)
                with m.If(drained & ~inverting if self.beside else drained):
                    divide(Operation.DIVIDE, "GRAD_BETA")
            with m.State("GRAD_BETA"):
                m.d.comb += lanes.divided_offset.eq(1)
                with m.If(self.divided):
                    m.d.comb += lanes.exchange.eq(1)
                    m.next = "SAVE_GRAD_BETA"
            with m.State("SAVE_GRAD_BETA"):
                save(StateRow.GRAD_BETA)
                divide(Operation.DIVIDE, "GRAD_GAMMA")
            with m.State("GRAD_GAMMA"):
                m.d.comb += lanes.divided_gamma.eq(1)
                with m.If(self.divided):
                    m.next = "SAVE_GRAD_GAMMA"
            with m.State("SAVE_GRAD_GAMMA"):
                m.d.comb += lanes.clear_sums.eq(1)
                save(StateRow.GRAD_GAMMA)
                if self.correction.HAS_MEAN:
                    multiply(lanes.grad_gamma, lanes.signs, "CENTRE")
                else:
                    invert()
            if self.correction.HAS_MEAN:
                with m.State("CENTRE"):
                    m.d.comb += lanes.accumulate.eq(1)
                    with m.If(self.product):
                        divide(Operation.DIVIDE, "OFFSET")
                with m.State("OFFSET"):
                    m.d.comb += lanes.divided_offset.eq(1)
                    with m.If(self.divided):
                        invert()
            if not self.beside:
                with m.State("INVERT"):
                    m.d.comb += lanes.inverted.eq(1)
                    with m.If(self.divided):
                        multiply(lanes.gamma, lanes.factor, "FACTOR")
            with m.State("FACTOR"):
                m.d.comb += lanes.scaled.eq(1)
                with m.If(self.product):
                    m.next = "SAVE_GRAD_BITS"
            with m.State("SAVE_GRAD_BITS"):
                m.d.comb += lanes.put_bits.eq(1)
                save(StateRow.GRAD_BITS)
                m.next = "SAVE_DEVIATION_BITS"
            with m.State("SAVE_DEVIATION_BITS"):
                m.d.comb += lanes.put_bits.eq(1)
                save(StateRow.DEVIATION_BITS)
                if self.beside:
                    # Packed rows.
                    m.d.comb += [reader.base.eq(writer.tile), reader.spaced.eq(0)]
                    read("OUTPUT")
                else:
                    read_dy("OUTPUT")
            with m.State("OUTPUT"):
                if self.beside:
                    m.d.comb += self.packing.packed.eq(1)
                m.d.comb += [
                    lanes.gate.eq(1),
                    lanes.multiply.eq(rows[self.correction.T]),
                    lanes.t.eq(1),
                    lanes.factor.eq(1),
                    writer.active.eq(1),
                ]
                if self.correction.MULTIPLIES:
                    # In the other cycle of each row.
                    m.d.comb += [
                        lanes.multiply.eq(rows[self.correction.T] | rows[first]),
                        lanes.t.eq(rows[self.correction.T]),
                        lanes.factor.eq(rows[self.correction.T]),
                        lanes.grad_gamma.eq(rows[first]),
                        lanes.xhat.eq(rows[first - 1]),
                        lanes.correct.eq(rows[first + Multiplier.LATENCY]),
                    ]
                with m.If(drained):
                    m.next = "NEXT"
                    if self.beside:
                        with m.If((fields.flags & BackwardFlag.SCAN).any()):
                            m.next = "SAVE_LARGEST"
            if self.beside:
                with m.State("SAVE_LARGEST"):
                    m.d.comb += self.packing.put_largest.eq(1)
                    save(StateRow.LARGEST)
                    m.next = "NEXT"
        return m


class _Writer(wiring.Component):
    """Where the lanes' output goes in the wide memory."""
    def __init__(self, correction, *, packing):
        self.result = BackwardLane.result(correction)
        self.packs = packing
        super().__init__({
            # A packed row comes; where those of the tile begin.
            **({"pack": In(1), "tile": Out(ADDRESS_BITS)} if packing else {}),
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            # The output pass.
            "active": In(1),
            "rows": In(self.stages(correction)),
            # Save this row of the state at ``state``.
            "save": In(1),
            "row": In(StateRow),
            "state": In(ADDRESS_BITS),
            "en": Out(1),
            "addr": Out(ADDRESS_BITS),
        })

    @staticmethod
    def stages(correction):
        """Cycles after a row was on the read port in which something is left to do."""
        return BackwardLane.result(correction) + 1

    def elaborate(self, platform):
        m = Module()
        dx = Signal(ADDRESS_BITS)
        m.d.sync += self.en.eq(0)
        with m.If(self.start):
            m.d.sync += dx.eq(self.instruction.dst0)
        with m.Elif(self.save):
            m.d.sync += [self.en.eq(1), self.addr.eq(self.state + self.row)]
        with m.Elif(self.active & self.rows[self.result]):
            m.d.sync += [self.en.eq(1), self.addr.eq(dx), dx.eq(dx + 1)]
        if self.packs:
            # Packed rows lie where those of dx will.
            packed = Signal(ADDRESS_BITS)
            m.d.comb += self.tile.eq(dx)
            with m.If(self.start):
                m.d.sync += packed.eq(self.instruction.dst0)
            with m.Elif(self.pack):
                m.d.sync += [self.en.eq(1), self.addr.eq(packed), packed.eq(packed + 1)]
        return m

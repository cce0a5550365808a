"""The unit of cross-entropy."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.array.skew import Delay
from hdl.buffer import Buffer
from hdl.instructions import LossRow
from hdl.loss.distance import Distances
from hdl.loss.exponential import Exponential
from hdl.loss.logarithm import SUM_BITS, Logarithm
from hdl.loss.product import VALUE_BITS
from hdl.loss.score import Score
from hdl.loss.share import GRADIENT_BITS, Shares
from hdl.loss.writer import RowWriter
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort
from hdl.params import INDEX_BITS, MAX_N, WIDE_BITS
from hdl.unit import UnitPort, wide_word

__all__ = ["CrossEntropy"]


class CrossEntropy(wiring.Component):
    """Cross-entropy of rows of logits and its gradient; the unit of ``CROSS_ENTROPY``,
    ``sim.model.softmax.cross_entropy``.

    Elements go through one by one, one every :attr:`slot` clocks, and rows follow each other
    without a pause, each in four places at a time::

        wide memory -> maximum
        wide memory -> distance -> exponential -> sum, buffer      one row later
                       buffer -> share of the sum -> wide memory   when that is complete
                                 sum -> logarithm                  meanwhile

    The buffer holds one row: while an exponential of the next one comes, that of the same column
    has already left. Each element's logit is read twice; rows are read before they are written,
    so logits and gradients may be the same tensor. What an element takes does not depend on it, see
    :meth:`cycles`.

    A label that is no column's number is that of none: 1 is taken from no share, and of the loss
    the part of the label is left out.

    Parameters
    ----------
    params : hdl.params.Params
    multipliers : int
        Of the exponential, 1, 2, 4, 8 or 16; an element takes 16 / ``multipliers`` clocks of each.
    dividers : int
        An element takes ``Shares.INTERVAL`` clocks of one of them.

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: m, n, src0, src1, dst0, dst1. ``clamped`` stays 0.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    """
    #: Clocks from the last exponential to the first one read from the buffer, and from the last
    #: one read to the row written.
    _TURN = 2
    _WRITE = READ_LATENCY + Shares.LATENCY + 1
    #: Clocks from the last exponential to the sum of the losses.
    _SCORE = 1 + Logarithm.LONGEST + Score.LATENCY

    def __init__(self, params, *, multipliers=4, dividers=8):
        self.params = params
        self.exponential = Exponential(multipliers, 2)
        self.shares = Shares(dividers)
        interval = self.exponential.interval
        least = max(2, -(-Shares.INTERVAL // dividers))
        #: Clocks from an element to the next: a multiple of the exponential's.
        self.slot = -(-least // interval) * interval
        self.distances = Distances(params, self.slot)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``; the data do not matter."""
        ready = self.distances.latency(m, n) + self.exponential.latency
        written = self._TURN + self.slot * (n - 1) + self._WRITE
        return ready + max(written, self._SCORE) + len(LossRow)

    def elaborate(self, platform):
        m = Module()
        control, fields = self.control, self.control.instruction

        # Distances from the maximum, and their exponentials.
        m.submodules.distances = distances = self.distances
        m.submodules.exponential = exponential = self.exponential
        wiring.connect(m, wiring.flipped(self.wide_r), distances.wide_r)
        marked, last = exponential.tag_o
        m.d.comb += [
            distances.start.eq(control.start),
            distances.instruction.eq(fields),
            exponential.en.eq(distances.valid),
            exponential.t.eq(distances.t),
            exponential.tag.eq(Cat(distances.marked, distances.last)),
        ]

        # Their sum, and they themselves into the buffer.
        m.submodules.buffer = buffer = Buffer(VALUE_BITS + 1, MAX_N)
        running, total = Signal(SUM_BITS, reset_less=True), Signal(SUM_BITS, reset_less=True)
        fresh, column = Signal(init=1), Signal(range(MAX_N), reset_less=True)
        complete, settled = Signal(), Signal()
        m.d.comb += [
            buffer.wen.eq(exponential.valid),
            buffer.waddr.eq(Mux(fresh, 0, column)),
            buffer.wdata.eq(Cat(exponential.e, marked)),
        ]
        m.d.sync += [complete.eq(exponential.valid & last), settled.eq(complete)]
        with m.If(exponential.valid):
            m.d.sync += [
                running.eq(Mux(fresh, 0, running) + exponential.e),
                fresh.eq(last),
                column.eq(buffer.waddr + 1),
            ]
        with m.If(settled):
            m.d.sync += total.eq(running)

        # Its logarithm, and the score.
        m.submodules.logarithm = logarithm = Logarithm()
        m.submodules.score = score = Score()
        scored = Signal(range(self._SCORE))
        m.d.comb += [
            logarithm.start.eq(complete),
            logarithm.x.eq(running),
            score.start.eq(control.start),
            score.valid.eq(distances.valid),
            score.t.eq(distances.t),
            score.marked.eq(distances.marked),
            score.last.eq(distances.last),
            score.log_valid.eq(logarithm.valid),
            score.log.eq(logarithm.o),
        ]
        with m.If(complete):
            m.d.sync += scored.eq(self._SCORE - 2)
        with m.Elif(scored != 0):
            m.d.sync += scored.eq(scored - 1)

        # Shares of the sum, while exponentials of the next row come.
        m.submodules.shares = shares = self.shares
        m.submodules.reading = reading = Delay(1, READ_LATENCY, reset=True)
        unread, phase = Signal(INDEX_BITS), Signal(range(self.slot), reset_less=True)
        address = Signal(range(MAX_N), reset_less=True)
        m.d.comb += [
            reading.i.eq((unread != 0) & (phase == 0)),
            buffer.raddr.eq(address),
            shares.start.eq(control.start),
            shares.m.eq(fields.m),
            shares.en.eq(reading.o),
            Cat(shares.e, shares.marked).eq(buffer.data),
            shares.total.eq(total),
        ]
        with m.If(complete):
            m.d.sync += [unread.eq(fields.n), phase.eq(0), address.eq(0)]
        with m.Elif(unread != 0):
            m.d.sync += phase.eq(phase + 1)
            with m.If(phase == self.slot - 1):
                m.d.sync += [phase.eq(0), unread.eq(unread - 1), address.eq(address + 1)]

        # Gradients to the memory, then the score.
        m.submodules.writer = writer = RowWriter(self.params, GRADIENT_BITS)
        wide_w, target = self.wide_w, Signal(ADDRESS_BITS, reset_less=True)
        result = Signal(WIDE_BITS)
        m.d.comb += [
            writer.start.eq(control.start),
            writer.instruction.eq(fields),
            writer.valid.eq(shares.valid),
            writer.i.eq(shares.o),
            wide_w.en.eq(writer.wide_w.en),
            wide_w.addr.eq(Mux(writer.wide_w.en, writer.wide_w.addr, target)),
            wide_w.data.eq(writer.wide_w.data),
        ]
        with m.If(~writer.wide_w.en):
            m.d.comb += wide_w.data[0].eq(result)
        results = {LossRow.LOSS_LOW: score.loss[:WIDE_BITS],
                   LossRow.LOSS_HIGH: score.loss[WIDE_BITS:],
                   LossRow.CORRECT: score.correct}
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += target.eq(fields.dst1)
                with m.If(control.start):
                    m.next = "ROWS"
            with m.State("ROWS"), m.If(writer.finished & (scored == 0)):
                m.next = LossRow(0).name
            for row in LossRow:
                with m.State(row.name):
                    m.d.comb += [wide_w.en.eq(1), result.eq(results[row])]
                    m.d.sync += target.eq(target + 1)
                    if row + 1 < len(LossRow):
                        m.next = LossRow(row + 1).name
                    else:
                        m.d.comb += control.done.eq(1)
                        m.next = "IDLE"
        return m

"""What is left of a batch: the sum of its losses, and how many labels were predicted."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.loss.exponential import DISTANCE_BITS
from hdl.loss.logarithm import LOG_BITS
from hdl.params import MAX_M

__all__ = ["LOSS_BITS", "Score"]

#: Fraction bits that a loss has and a logit has not.
_SCALE = 4
#: Width of a sum of losses, unsigned.
LOSS_BITS = (MAX_M * ((1 << DISTANCE_BITS + _SCALE) + (1 << LOG_BITS))).bit_length()


class Score(wiring.Component):
    """``loss = sum(log) + 2**4 sum(t[label])``, and the rows whose label is their first element at
    distance 0.

    Sums are apart, since a row's logarithm comes long after its label's distance.

    Members
    -------
    start : In(1)
        Begin with 0.
    valid : In(1)
    t : In(DISTANCE_BITS)
    marked, last : In(1)
        Of :class:`hdl.loss.distance.Distances`.
    log_valid : In(1)
    log : In(LOG_BITS)
    loss : Out(LOSS_BITS)
        Two clocks after the last logarithm.
    correct : Out(range(MAX_M + 1))
    """
    LATENCY = 2

    def __init__(self):
        super().__init__({
            "start": In(1),
            "valid": In(1), "t": In(DISTANCE_BITS), "marked": In(1), "last": In(1),
            "log_valid": In(1), "log": In(LOG_BITS),
            "loss": Out(LOSS_BITS), "correct": Out(range(MAX_M + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        # The sums.
        distances = Signal(range(MAX_M << DISTANCE_BITS), reset_less=True)
        logs = Signal(range(MAX_M << LOG_BITS), reset_less=True)
        loss = Signal(LOSS_BITS, reset_less=True)
        m.d.sync += loss.eq(logs + (distances << _SCALE))
        m.d.comb += self.loss.eq(loss)
        with m.If(self.start):
            m.d.sync += [distances.eq(0), logs.eq(0)]
        with m.If(self.valid & self.marked):
            m.d.sync += distances.eq(distances + self.t)
        with m.If(self.log_valid):
            m.d.sync += logs.eq(logs + self.log)

        # The prediction: the first of the largest.
        valid, zero, marked, last = Signal(), Signal(), Signal(), Signal()
        decided = Signal()
        m.d.sync += [valid.eq(self.valid), zero.eq(self.t == 0), marked.eq(self.marked),
                     last.eq(self.last)]
        with m.If(self.start):
            m.d.sync += [self.correct.eq(0), decided.eq(0)]
        with m.Elif(valid):
            m.d.sync += decided.eq(Mux(last, 0, decided | zero))
            with m.If(zero & marked & ~decided):
                m.d.sync += self.correct.eq(self.correct + 1)
        return m

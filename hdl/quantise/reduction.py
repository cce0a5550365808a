"""What the lanes found, gathered lane by lane."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.quantise.scale import MAGNITUDE_BITS

__all__ = ["Reduction"]


class Reduction(wiring.Component):
    """The largest magnitude and the sum of all lanes, one lane a clock.

    Each cycle with ``step`` takes the next lane, from lane 0 on after a cycle with ``restart``:
    ``picked``, ``LATENCY`` cycles later, is its largest magnitude; one cycle after that
    ``largest`` and ``total`` include it. They begin anew with ``enter``. Nothing stalls.

    Parameters
    ----------
    lanes : int
    lane_bits : int
        Width of a lane's sum.
    total_bits : int
        Width of the sum of sums.

    Members
    -------
    enter, restart, step : In(1)
    lane_largest : In(lanes x MAGNITUDE_BITS)
    lane_total : In(lanes x lane_bits)
    picked : Out(MAGNITUDE_BITS)
    largest : Out(MAGNITUDE_BITS)
    total : Out(total_bits)
    """
    #: Cycles from ``step`` to ``picked``.
    LATENCY = 2

    def __init__(self, lanes, lane_bits, total_bits):
        self.lanes = lanes
        self.lane_bits = lane_bits
        super().__init__({
            "enter": In(1), "restart": In(1), "step": In(1),
            "lane_largest": In(data.ArrayLayout(MAGNITUDE_BITS, lanes)),
            "lane_total": In(data.ArrayLayout(lane_bits, lanes)),
            "picked": Out(MAGNITUDE_BITS),
            "largest": Out(MAGNITUDE_BITS),
            "total": Out(total_bits),
        })

    def elaborate(self, platform):
        m = Module()
        stepped, valid = Signal(), Signal()
        lane = Signal(range(self.lanes))
        picked_total = Signal(self.lane_bits, reset_less=True)
        m.d.sync += [
            # Stage 1: which lane.
            stepped.eq(self.step),
            # Stage 2: its maximum and sum.
            valid.eq(stepped),
            self.picked.eq(Array(self.lane_largest[k] for k in range(self.lanes))[lane]),
            picked_total.eq(Array(self.lane_total[k] for k in range(self.lanes))[lane]),
        ]
        with m.If(stepped):
            m.d.sync += lane.eq(lane + 1)

        # Stage 3: those of all.
        with m.If(valid):
            m.d.sync += self.total.eq(self.total + picked_total)
            with m.If(self.picked > self.largest):
                m.d.sync += self.largest.eq(self.picked)
        with m.If(self.enter):
            m.d.sync += [self.largest.eq(0), self.total.eq(0)]
        with m.If(self.restart):
            m.d.sync += lane.eq(0)
        return m

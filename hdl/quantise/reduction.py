"""What the lanes found, gathered lane by lane."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.quantise.exponent import MAGNITUDE_BITS

__all__ = ["Reduction"]


class Reduction(wiring.Component):
    """The largest magnitude and the sum of all lanes, one lane a clock, and every lane's reach.

    Each cycle with ``step`` takes the next lane, from lane 0 on after a cycle with ``restart``:
    ``farthest``, ``LATENCY`` cycles later, is its reach; one cycle after that ``largest`` and
    ``total`` include it. They begin anew with ``enter``. Nothing stalls.

    Of a single lane there is nothing to gather: ``largest`` and ``total`` are the lane's.
    ``picked_largest`` and ``picked_total``, ``LATENCY`` cycles after its step, are a lane's own.

    Parameters
    ----------
    lanes : int
    lane_bits : int
        Width of a lane's sum.
    total_bits : int
        Width of the sum of sums.
    reach_bits : int
        Width of a reach.
    picking : bool
        With ``picked_largest`` and ``picked_total``.

    Members
    -------
    enter, restart, step : In(1)
    lane_largest : In(lanes x MAGNITUDE_BITS)
    lane_total : In(lanes x lane_bits)
    lane_farthest : In(lanes x reach_bits)
    largest : Out(MAGNITUDE_BITS)
    total : Out(total_bits)
    farthest : Out(reach_bits)
    picked_largest : Out(MAGNITUDE_BITS)
    picked_total : Out(lane_bits)
    """
    #: Cycles from ``step`` to ``farthest``.
    LATENCY = 2

    def __init__(self, lanes, lane_bits, total_bits, reach_bits, *, picking=False):
        self.lanes = lanes
        self.lane_bits = lane_bits
        self.picking = picking
        members = {
            "enter": In(1), "restart": In(1), "step": In(1),
            "lane_largest": In(data.ArrayLayout(MAGNITUDE_BITS, lanes)),
            "lane_total": In(data.ArrayLayout(lane_bits, lanes)),
            "lane_farthest": In(data.ArrayLayout(reach_bits, lanes)),
            "largest": Out(MAGNITUDE_BITS),
            "total": Out(total_bits),
            "farthest": Out(reach_bits),
        }
        if picking:
            members |= {"picked_largest": Out(MAGNITUDE_BITS), "picked_total": Out(lane_bits)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        # Stage 1: which lane.
        stepped, valid = Signal(), Signal()
        lane = Signal(range(self.lanes))
        m.d.sync += stepped.eq(self.step)
        with m.If(stepped):
            m.d.sync += lane.eq(lane + 1)
        with m.If(self.restart):
            m.d.sync += lane.eq(0)

        # Stage 2: what it found.
        def picked(of, name):
            value = Signal.like(of[0], name=name, reset_less=True)
            m.d.sync += value.eq(Array(of[k] for k in range(self.lanes))[lane])
            return value

        m.d.sync += valid.eq(stepped)
        m.d.comb += self.farthest.eq(picked(self.lane_farthest, "farthest_picked"))

        # Stage 3: the largest and the sum of all.
        if self.lanes == 1:
            m.d.comb += [self.largest.eq(self.lane_largest[0]), self.total.eq(self.lane_total[0])]
            if self.picking:
                m.d.comb += [self.picked_largest.eq(self.largest), self.picked_total.eq(self.total)]
            return m
        largest = picked(self.lane_largest, "largest_picked")
        total = picked(self.lane_total, "total_picked")
        if self.picking:
            m.d.comb += [self.picked_largest.eq(largest), self.picked_total.eq(total)]
        with m.If(valid):
            m.d.sync += self.total.eq(self.total + total)
            with m.If(largest > self.largest):
                m.d.sync += self.largest.eq(largest)
        with m.If(self.enter):
            m.d.sync += [self.largest.eq(0), self.total.eq(0)]
        return m

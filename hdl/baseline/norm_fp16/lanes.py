"""The lanes of a unit and their divider."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.norm_fp16.divide import QUOTIENT, ChannelDivider
from hdl.baseline.norm_fp16.lane import LANE_CONTROL, Lane
from hdl.norm.reciprocal import COUNT_BITS, LaneDivider, Operation
from hdl.unit import wide_word

__all__ = ["Lanes"]


class Lanes(wiring.Component):
    """One lane per column, and a divider for every four.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool
        See :class:`~hdl.baseline.norm_fp16.lane.Lane`.

    Members
    -------
    control : In(LANE_CONTROL)
    i : In(wide_word(params))
    o : Out(wide_word(params))
    m : In(COUNT_BITS)
    divide : In(1)
        Divide the lanes' held sums, or with ``operation`` take the roots.
    operation : In(Operation)
        Taken with ``divide``.
    divided : Out(1)
        All lanes have the result.
    """
    def __init__(self, params, *, mapped=False):
        self.lanes = [Lane(mapped=mapped) for _ in range(params.vector)]
        self.divider = LaneDivider(params.vector, 1, QUOTIENT.size, unit=ChannelDivider)
        super().__init__({
            "control": In(LANE_CONTROL),
            "i": In(wide_word(params)),
            "o": Out(wide_word(params)),
            "m": In(COUNT_BITS),
            "divide": In(1),
            "operation": In(Operation),
            "divided": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = self.divider
        m.d.comb += [
            divider.start.eq(self.divide),
            divider.operation.eq(self.operation),
            divider.denominator.eq(self.m),
            self.divided.eq(divider.done),
        ]
        for j, lane in enumerate(self.lanes):
            m.submodules[f"lane_{j}"] = lane
            m.d.comb += [
                lane.control.eq(self.control),
                lane.i.eq(self.i[j]),
                divider.value[j].eq(lane.value),
                lane.take.eq(divider.take[j]),
                lane.quotient.eq(divider.quotient[j // divider.SPAN]),
                self.o[j].eq(lane.o),
            ]
        return m

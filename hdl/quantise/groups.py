"""ShiftQuant groups: how far rows and columns may be doubled within the range."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.quantise.exponent import MAGNITUDE_BITS
from hdl.quantise.lane import reach_bits

__all__ = ["GROUP_INDEX_BITS", "GroupChoice", "Maximum"]

#: Width of a group.
GROUP_INDEX_BITS = 3


class Maximum(wiring.Component):
    """The largest of some magnitudes: a tree with a register after every level.

    ``o`` is the largest element of the ``i`` of ``latency = ceil(log2(lanes))`` cycles before.

    Parameters
    ----------
    lanes : int

    Members
    -------
    i : In(lanes x MAGNITUDE_BITS)
    o : Out(MAGNITUDE_BITS)
    """
    def __init__(self, lanes):
        self.lanes = lanes
        self.latency = ceil_log2(lanes)
        super().__init__({
            "i": In(data.ArrayLayout(MAGNITUDE_BITS, lanes)),
            "o": Out(MAGNITUDE_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        level = [self.i[lane] for lane in range(self.lanes)]
        while len(level) > 1:
            after = []
            for k in range(0, len(level), 2):
                after.append(Signal(MAGNITUDE_BITS, name=f"max_{len(level)}_{k}",
                                    reset_less=True))
                pair = level[k:k + 2]
                m.d.sync += after[-1].eq(Mux(pair[0] > pair[-1], pair[0], pair[-1]))
            level = after
        m.d.comb += self.o.eq(level[0])
        return m


class GroupChoice(wiring.Component):
    """The largest ``g <= most`` with ``magnitude * 2**g <= top * 2**exponent``;
    ``sim.model.quantise.largest_group``.

    The magnitude comes as its reach (:class:`~hdl.quantise.lane.Lane`), so the limits are
    constants. ``group`` belongs to the inputs of ``LATENCY`` cycles before; one a clock, nothing
    stalls. Group 0 always fits, and what fits one group fits all below it.

    Parameters
    ----------
    bits : int
        Width of a code.
    groups : int
        Most groups.

    Members
    -------
    reach : In(reach_bits(bits, groups))
    most : In(GROUP_INDEX_BITS)
    group : Out(GROUP_INDEX_BITS)
    """
    LATENCY = 1

    def __init__(self, bits, groups):
        self.bits = bits
        self.groups = groups
        super().__init__({
            "reach": In(reach_bits(bits, groups)),
            "most": In(GROUP_INDEX_BITS),
            "group": Out(GROUP_INDEX_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        top = 2 ** (self.bits - 1) - 1
        m.d.sync += self.group.eq(0)
        for g in range(1, self.groups):
            with m.If((self.reach <= top << self.groups - g) & (self.most >= g)):
                m.d.sync += self.group.eq(g)
        return m

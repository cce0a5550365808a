"""Between the machine's clock and the array's, which is faster.

The array, the operands that stream into it and the sums that come out are in the clock domain
``array``, all else is in ``sync``. On a board both clocks come from one PLL, the array's
``array_clock`` times as fast, and nothing here relies on more than that it is faster: a pulse
crosses as a change of a level, through two registers, and data beside it holds until it has
arrived. Timing analysis does not see paths between the two. Where ``array_clock`` is 1 there is one
clock, and a crossing is a wire.
"""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer, PulseSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["HELD", "LongReset", "array_domain", "crossed", "crossed_level"]

#: Cycles of the array's clock for which data must hold from a pulse on: two registers, the change
#: seen, and one more if the first register has missed it.
HELD = 5


def array_domain(params):
    """Name of the clock domain of the array."""
    return "array" if params.array_clock > 1 else "sync"


def crossed(m, name, params, pulse, *, into_array):
    """A pulse of one domain in the other: one cycle there for each here.

    Pulses out of the array are at least two cycles of ``sync`` apart, as a tile of weights takes
    longer; the others may follow each other. The cycle begins with the second edge of the other
    clock after the pulse's, or with the third.
    """
    pulse = Value.cast(pulse)
    if params.array_clock == 1:
        return pulse
    domains = ("sync", "array") if into_array else ("array", "sync")
    m.submodules[name] = synchronizer = PulseSynchronizer(*domains)
    m.d.comb += synchronizer.i.eq(pulse)
    return synchronizer.o


def crossed_level(m, name, params, level):
    """A level of domain ``array`` in ``sync``: late, and seen there however short it is."""
    if params.array_clock == 1:
        return level
    late = Signal(2 * params.array_clock, name=f"{name}_late")
    stretched, there = Signal(name=f"{name}_stretched"), Signal(name=f"{name}_there")
    m.d.array += [late.eq((late << 1) | level), stretched.eq(late.any())]
    m.submodules[name] = FFSynchronizer(stretched, there)
    return there


class LongReset(wiring.Component):
    """A reset of both domains that lasts until what is under way has left every pipeline.

    So only what begins things has to be reset, not the stages that they pass; and no change of a
    level survives on its way between the clocks. It is on after a reset of ``sync``, too: the
    array's clock needs no other.

    Parameters
    ----------
    params : hdl.params.Params
    cycles : int
        Of the array's clock.

    Members
    -------
    i : In(1)
        Pulses.
    sync : Out(1), array : Out(1)
        In the domain of that name, from the next cycle on.
    """

    def __init__(self, params, cycles):
        self.params = params
        # And the way into the array's clock.
        self.cycles = -(-cycles // params.array_clock) + HELD
        super().__init__({"i": In(1), "sync": Out(1, init=1), "array": Out(1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self.cycles), init=self.cycles - 1)
        with m.If(self.i):
            m.d.sync += [left.eq(self.cycles - 1), self.sync.eq(1)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Else():
            m.d.sync += self.sync.eq(0)
        if self.params.array_clock > 1:
            m.submodules.array = FFSynchronizer(self.sync, self.array, o_domain="array", init=1)
        return m

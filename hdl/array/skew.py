"""Delay lines: what turns the mesh's diagonal wave into whole rows at its edges."""

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Delay", "delayed", "register"]


class Delay(wiring.Component):
    """``o`` is ``i`` of ``cycles`` cycles ago; lock step.

    Parameters
    ----------
    shape : shape-like
    cycles : int
        0: a wire.
    reset : bool
        Whether the line is cleared by reset, as control must be; data need not.

    Members
    -------
    i : In(shape)
    o : Out(shape)
    """
    def __init__(self, shape, cycles, *, reset=False):
        self.cycles = cycles
        self.reset = reset
        super().__init__({"i": In(shape), "o": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        value = Value.cast(self.i)
        for stage in range(self.cycles):
            following = Signal(Shape(len(value)), name=f"stage{stage}",
                               reset_less=not self.reset)
            m.d.sync += following.eq(value)
            value = following
        m.d.comb += Value.cast(self.o).eq(value)
        return m


def delayed(m, name, value, cycles):
    """``value`` of ``cycles`` cycles ago, by a :class:`Delay` of that name."""
    delay = Delay(Value.cast(value).shape(), cycles)
    m.submodules[name] = delay
    m.d.comb += delay.i.eq(value)
    return delay.o


def register(m, name, value):
    """``value`` of the cycle before, without a reset."""
    following = Signal(Value.cast(value).shape(), name=name, reset_less=True)
    m.d.sync += following.eq(value)
    return following

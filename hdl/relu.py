"""The rectifier with its mask, and the gate that its gradient passes; one lane each."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Relu", "ReluGradient"]


class Relu(wiring.Component):
    """``o = max(i, 0)``, ``mask = i > 0``; ``sim.model.relu.relu``. Combinational.

    Switched off it passes everything: ``o = i``, ``mask = 1``.

    Parameters
    ----------
    bits : int
        Width of an element.

    Members
    -------
    i : In(signed(bits))
    on : In(1)
    o : Out(signed(bits))
    mask : Out(1)
    """
    def __init__(self, bits):
        super().__init__({
            "i": In(signed(bits)),
            "on": In(1),
            "o": Out(signed(bits)),
            "mask": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.mask.eq(~self.on | ~self.i[-1] & self.i.any()),
            self.o.eq(Mux(self.on & self.i[-1], 0, self.i)),
        ]
        return m


class ReluGradient(wiring.Component):
    """``o = mask ? i : 0``; ``sim.model.relu.relu_gradient``. Combinational.

    Parameters
    ----------
    bits : int
        Width of an element.

    Members
    -------
    i : In(signed(bits))
    mask : In(1)
    o : Out(signed(bits))
    """
    def __init__(self, bits):
        super().__init__({
            "i": In(signed(bits)),
            "mask": In(1),
            "o": Out(signed(bits)),
        })

    def elaborate(self, platform):
        m = Module()
        # A multiplexer, not a gate: a register behind it then takes the mask as its reset.
        m.d.comb += self.o.eq(Mux(self.mask, self.i, 0))
        return m

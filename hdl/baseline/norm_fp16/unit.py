"""What both units are made of: a sequence, lanes, and a port to memory each way."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.baseline.norm_fp16.lanes import Lanes
from hdl.memory import ReadPort, WritePort
from hdl.unit import UnitPort, wide_word

__all__ = ["NormUnit"]


class NormUnit(wiring.Component):
    """A unit whose sequence is ``sequence(params)``; members are those of the units."""
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.lanes = Lanes(params, mapped=mapped)
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
        })

    def sequence(self, params):
        """The component that says what is read and written, and what the lanes do."""
        raise NotImplementedError

    def divider_operation(self, control):
        """What the divider does when ``control`` starts it."""
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = self.sequence(self.params)
        m.submodules.lanes = lanes = self.lanes
        m.d.comb += [
            control.start.eq(self.control.start),
            control.instruction.eq(self.control.instruction),
            self.control.done.eq(control.done),
            self.wide_r.en.eq(control.read),
            self.wide_r.addr.eq(control.read_addr),
            self.wide_w.en.eq(control.write),
            self.wide_w.addr.eq(control.write_addr),
            lanes.control.eq(control.lanes),
            lanes.i.eq(self.wide_r.data),
            lanes.m.eq(self.control.instruction.m),
            lanes.divide.eq(control.divide),
            lanes.operation.eq(self.divider_operation(control)),
            control.divided.eq(lanes.divided),
            self.wide_w.data.eq(lanes.o),
        ]
        return m

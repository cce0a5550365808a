"""A component between registers: what it costs and how fast it is, alone."""

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards.parts import CLOCK_PINS
from boards.platforms import part_platform

__all__ = ["TARGET_MHZ", "Harness", "harness_rtlil"]

#: The clock that every harnessed design is placed for, so that the placer works as hard for all.
TARGET_MHZ = 250


def _ports(component):
    """``(inputs, outputs)``: values of the component's members in the order of its signature."""
    members = list(component.signature.flatten(component))
    return tuple([Value.cast(value) for _, member, value in members if member.flow == flow]
                 for flow in (In, Out))


class Harness(wiring.Component):
    """Registers around a component, so that all of it is kept and every path is timed.

    Inputs are the bits of one long shift register, outputs go to registers and from there, by
    exclusive or, into another one: no input is constant, no output is unread, and no path begins or
    ends at a pin. One flip-flop per input bit, two and a LUT4 per output bit, and one for reset,
    which is driven like an input; what the component does not read or holds constant takes less.
    Synthesis keeps the component apart, so that its cells are counted and the harness' are not.

    Parameters
    ----------
    component : wiring.Component
        In domain ``sync``. The instance is called ``component``.

    Members
    -------
    clk : In(1)
    i : In(1)
        What is shifted in.
    o : Out(1)
        What is left of all outputs.
    """
    def __init__(self, component):
        self.component = component
        super().__init__({"clk": In(1), "i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = self.component
        inputs, outputs = (Cat(values) for values in _ports(self.component))
        # The harness itself needs no reset.
        m.domains.io = ClockDomain(reset_less=True)
        m.domains.sync = ClockDomain()
        shift, captured, folded = (Signal(len(inputs) + 1), Signal(len(outputs)),
                                   Signal(len(outputs)))
        m.d.comb += [
            ClockSignal("io").eq(self.clk), ClockSignal("sync").eq(self.clk),
            Cat(inputs, ResetSignal("sync")).eq(shift), self.o.eq(folded[-1]),
        ]
        m.d.io += [
            shift.eq(Cat(self.i, shift)),
            captured.eq(outputs),
            folded.eq(captured ^ (folded << 1)),
        ]
        return m


def harness_rtlil(component, part):
    """``(rtlil, lpf)`` of a component in its harness, the top module ``top``.

    The clock comes in at a pin that leads to the die's clock network: from one of nextpnr's choice
    about one seed in seven is not routed.
    """
    harness = Harness(component)
    text = rtlil.convert(harness, name="top", platform=part_platform(part), emit_src=False,
                         ports=[harness.clk, harness.i, harness.o])
    lpf = f'FREQUENCY PORT "clk" {TARGET_MHZ} MHZ;\n'
    if pin := CLOCK_PINS.get(part.package):
        lpf += f'LOCATE COMP "clk" SITE "{pin}";\n'
    return text, lpf

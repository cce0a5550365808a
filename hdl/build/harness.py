"""A component between registers: what it costs and how fast it is, alone."""

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards.parts import CLOCK_PINS
from boards.platforms import part_platform

__all__ = ["SLOW_CLOCK", "TARGET_MHZ", "Harness", "harness_rtlil"]

#: The clock that every harnessed design is placed for, so that the placer works as hard for all.
TARGET_MHZ = 250
#: Name of the net of the slower clock of a component that has two, and what it is placed for: the
#: clock of a machine.
SLOW_CLOCK, SLOW_MHZ = "slow_clk", 75


def _ports(component, *, slow):
    """``(inputs, outputs)``: values of the component's members of a clock in the order of its
    signature."""
    members = [(member.flow, Value.cast(value))
               for path, member, value in component.signature.flatten(component)
               if (path[0] in _slow(component)) == slow]
    return tuple([value for side, value in members if side == flow] for flow in (In, Out))


def _slow(component):
    return getattr(component, "slow", ())


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
        In domain ``sync``, or, if it has an attribute ``slow``, in domain ``array`` but for the
        members of these names, whose clock is ``sync``, half as fast. The instance is called
        ``component``.

    Members
    -------
    clk : In(1)
    i : In(1)
        What is shifted in.
    o : Out(1)
        What is left of all outputs;
    slow_o : Out(1)
        of those that are slow.
    """
    def __init__(self, component):
        self.component = component
        members = {"clk": In(1), "i": In(1), "o": Out(1)}
        if _slow(component):
            members["slow_o"] = Out(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = self.component
        if not _slow(self.component):
            m.d.comb += self.o.eq(self._around(m, "sync", "io", self.clk))
            return m
        half = Signal(name=SLOW_CLOCK)
        m.d.comb += [self.o.eq(self._around(m, "array", "io", self.clk)),
                     self.slow_o.eq(self._around(m, "sync", "slow_io", half, slow=True))]
        m.d.io += half.eq(~half)
        return m

    def _around(self, m, domain, io, clock, *, slow=False):
        """Registers around the members of a clock domain; what is left of the outputs."""
        inputs, outputs = (Cat(values) for values in _ports(self.component, slow=slow))
        # The harness itself needs no reset.
        made = [ClockDomain(io, reset_less=True), ClockDomain(domain)]
        m.domains += made
        shift, captured, folded = (Signal(len(inputs) + 1), Signal(len(outputs)),
                                   Signal(len(outputs)))
        if slow:
            # It has no other name that the tools might prefer.
            for each in made:
                each.clk = clock
        else:
            m.d.comb += [ClockSignal(io).eq(clock), ClockSignal(domain).eq(clock)]
        m.d.comb += Cat(inputs, ResetSignal(domain)).eq(shift)
        m.d[io] += [
            shift.eq(Cat(self.i, shift)),
            captured.eq(outputs),
            folded.eq(captured ^ (folded << 1)),
        ]
        return folded[-1]


def harness_rtlil(component, part):
    """``(rtlil, lpf)`` of a component in its harness, the top module ``top``.

    The clock comes in at a pin that leads to the die's clock network: from one of nextpnr's choice
    about one seed in seven is not routed.
    """
    harness = Harness(component)
    text = rtlil.convert(harness, name="top", platform=part_platform(part), emit_src=False,
                         ports=[getattr(harness, name) for name in harness.signature.members])
    lpf = f'FREQUENCY PORT "clk" {TARGET_MHZ} MHZ;\n'
    if _slow(component):
        lpf += f'FREQUENCY NET "{SLOW_CLOCK}" {SLOW_MHZ} MHZ;\n'
    if pin := CLOCK_PINS.get(part.package):
        lpf += f'LOCATE COMP "clk" SITE "{pin}";\n'
    return text, lpf

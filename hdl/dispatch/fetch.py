"""Instructions out of their quarters, with what the dispatcher asks of each."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.dispatch.quarters import QUARTER_BITS
from hdl.instructions import OPERATIONS, QUEUES, Opcode, Queue, opcode_of
from hdl.program import InstructionCheck
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["CHECKED", "Fetch"]

#: An instruction that was checked.
CHECKED = data.StructLayout({
    "instruction": INSTRUCTION_LAYOUT,
    #: The machine can run it.
    "good": 1,
    #: Its queue, a bit for each.
    "queue": len(Queue),
})
_QUARTERS = INSTRUCTION_LAYOUT.size // QUARTER_BITS


class Fetch(wiring.Component):
    """Collects an instruction, checks it, and holds it until it is taken.

    It is ``valid`` in the third clock after its last quarter was taken; quarters are taken again
    from the clock after it was. So an instruction takes ``CYCLES`` clocks or more.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    i : In(stream.Signature(QUARTER_BITS))
    o : Out(stream.Signature(CHECKED))
    """
    CYCLES = _QUARTERS + InstructionCheck.LATENCY + 1

    def __init__(self, params):
        self.params = params
        super().__init__({
            "i": In(stream.Signature(QUARTER_BITS)), "o": Out(stream.Signature(CHECKED)),
        })

    def elaborate(self, platform):
        m = Module()
        instruction = Signal(INSTRUCTION_LAYOUT, reset_less=True)
        m.submodules.check = check = InstructionCheck(self.params)
        queue = Signal(len(Queue), reset_less=True)
        opcode = opcode_of(instruction.op, self.params)
        known = [op for op in Opcode
                 if self.params.layer_norm or not OPERATIONS[op].needs_layer_norm]
        m.d.sync += queue.eq(Cat(Cat(opcode == op for op in QUEUES[queue] if op in known).any()
                                 for queue in Queue))
        m.d.comb += [
            check.instruction.eq(instruction), self.o.payload.instruction.eq(instruction),
            self.o.payload.good.eq(check.good), self.o.payload.queue.eq(queue),
        ]

        count, checking = Signal(range(_QUARTERS)), Signal(range(check.LATENCY))
        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += count.eq(count + 1), instruction.eq(
                        Cat(instruction.as_value()[QUARTER_BITS:], self.i.payload))
                    with m.If(count == _QUARTERS - 1):
                        m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += checking.eq(checking + 1)
                with m.If(checking == check.LATENCY - 1):
                    m.d.sync += checking.eq(0)
                    m.next = "HOLD"
            with m.State("HOLD"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "COLLECT"
        return m

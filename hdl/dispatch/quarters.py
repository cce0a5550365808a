"""The bytes of instructions as words, as the program memory has them."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import INSTRUCTION_BYTES

__all__ = ["QUARTER_BITS", "Quarters"]

#: A word of the program memory, a quarter of an instruction.
QUARTER_BITS = 8 * INSTRUCTION_BYTES // 4


class Quarters(wiring.Component):
    """Collects bytes, the lowest first, one per clock; none while a whole word waits to be taken.

    Members
    -------
    clear : In(1)
        Forgets a word that is not whole.
    i : In(stream.Signature(8))
    o : Out(stream.Signature(QUARTER_BITS))
    """
    clear: In(1)
    i: In(stream.Signature(8))
    o: Out(stream.Signature(QUARTER_BITS))

    def elaborate(self, platform):
        m = Module()
        word = Signal(QUARTER_BITS, reset_less=True)
        count = Signal(range(QUARTER_BITS // 8))
        m.d.comb += [self.o.payload.eq(word), self.i.ready.eq(~self.o.valid)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += word.eq(Cat(word[8:], self.i.payload)), count.eq(count + 1)
            m.d.sync += self.o.valid.eq(count == QUARTER_BITS // 8 - 1)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.clear):
            m.d.sync += count.eq(0), self.o.valid.eq(0)
        return m

"""Stored programs: instructions from the program memory, byte by byte."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import INSTRUCTION_BYTES
from hdl.memory import READ_LATENCY, ReadPort
from hdl.protocol import PROGRAM_WORDS

__all__ = ["Stored"]

#: Bytes of a word of the program memory, and words of an instruction.
_BYTES = 8
_WORDS = INSTRUCTION_BYTES // _BYTES


class Stored(wiring.Component):
    """Reads instructions in order, from one of them on, while it is ``enable``d.

    The next word is fetched while the bytes of one leave, so a byte leaves in every clock in which
    it is taken, from 6 clocks after ``start`` on.

    Members
    -------
    enable : In(1)
        From ``start`` until no byte is wanted any more; what has been fetched by then is forgotten
        at the next ``start``.
    start : In(1)
    first : In(range(PROGRAM_WORDS / 4))
        Number of the first instruction, taken with ``start``.
    o : Out(stream.Signature(8))
    program_r : Out(ReadPort(64))
    """
    def __init__(self):
        super().__init__({
            "enable": In(1), "start": In(1), "first": In(range(PROGRAM_WORDS // _WORDS)),
            "o": Out(stream.Signature(8)), "program_r": Out(ReadPort(8 * _BYTES)),
        })

    def elaborate(self, platform):
        m = Module()
        address = Signal(range(PROGRAM_WORDS))
        # A word that has come, and one of which bytes leave.
        fetched, word = Signal(8 * _BYTES, reset_less=True), Signal(8 * _BYTES, reset_less=True)
        there, left = Signal(), Signal(range(_BYTES + 1))
        asked, coming = Signal(), Signal(READ_LATENCY)

        m.d.comb += [
            self.program_r.en.eq(self.enable & ~asked & ~self.start),
            self.program_r.addr.eq(address),
            self.o.valid.eq(left != 0), self.o.payload.eq(word[:8]),
        ]
        m.d.sync += coming.eq(coming << 1 | self.program_r.en)
        with m.If(self.program_r.en):
            m.d.sync += asked.eq(1), address.eq(address + 1)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += word.eq(word >> 8), left.eq(left - 1)
        with m.If(there & ((left == 0) | (left == 1) & self.o.ready)):
            m.d.sync += word.eq(fetched), left.eq(_BYTES), there.eq(0), asked.eq(0)
        with m.If(coming[-1]):
            m.d.sync += fetched.eq(self.program_r.data), there.eq(1)
        with m.If(self.start):
            m.d.sync += address.eq(self.first * _WORDS)
            m.d.sync += coming.eq(0), asked.eq(0), there.eq(0), left.eq(0)
        return m

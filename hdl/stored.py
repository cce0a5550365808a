"""Stored programs: instructions from the program memory, word by word."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hdl.dispatch.quarters import QUARTER_BITS
from hdl.instructions import INSTRUCTION_BYTES
from hdl.memory import READ_LATENCY, ReadPort
from hdl.protocol import PROGRAM_WORDS

__all__ = ["Stored"]

#: Words of an instruction.
_WORDS = 8 * INSTRUCTION_BYTES // QUARTER_BITS


class Stored(wiring.Component):
    """Reads instructions in order, from one of them on, while it is ``enable``d.

    An instruction is read ahead, so its words leave one per clock, from 5 clocks after ``start``
    on: whole instructions one every ``_WORDS + READ_LATENCY`` clocks.

    Members
    -------
    enable : In(1)
        From ``start`` until no word is wanted any more; what has been fetched by then is forgotten
        at the next ``start``.
    start : In(1)
    first : In(range(PROGRAM_WORDS / 4))
        Number of the first instruction, taken with ``start``.
    o : Out(stream.Signature(64))
    program_r : Out(ReadPort(64))
    """
    def __init__(self):
        super().__init__({
            "enable": In(1), "start": In(1), "first": In(range(PROGRAM_WORDS // _WORDS)),
            "o": Out(stream.Signature(QUARTER_BITS)), "program_r": Out(ReadPort(QUARTER_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        address = Signal(range(PROGRAM_WORDS))
        coming, room = Signal(READ_LATENCY), Signal(range(_WORDS + 1), init=_WORDS)
        queue = SyncFIFO(width=QUARTER_BITS, depth=_WORDS)
        m.submodules.queue = ResetInserter(self.start)(queue)

        # Ask for a word when there is room for it.
        taken = self.o.valid & self.o.ready
        m.d.comb += [
            self.program_r.en.eq(self.enable & (room != 0) & ~self.start),
            self.program_r.addr.eq(address),
        ]
        m.d.sync += coming.eq(coming << 1 | self.program_r.en)
        m.d.sync += room.eq(room - self.program_r.en + taken)
        with m.If(self.program_r.en):
            m.d.sync += address.eq(address + 1)
        # Keep it until it is taken.
        m.d.comb += [
            queue.w_en.eq(coming[-1]), queue.w_data.eq(self.program_r.data),
            self.o.valid.eq(queue.r_rdy), self.o.payload.eq(queue.r_data),
            queue.r_en.eq(self.o.ready),
        ]
        with m.If(self.start):
            m.d.sync += address.eq(self.first * _WORDS), coming.eq(0), room.eq(_WORDS)
        return m

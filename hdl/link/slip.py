"""SLIP's escapes (RFC 1055): ``hdl.protocol.escape`` and ``unescape`` one byte at a time."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.protocol import END, ESC, ESC_END, ESC_ESC

__all__ = ["SYMBOL", "Escaper", "Unescaper"]

#: What travels between SLIP and the frames.
SYMBOL = data.StructLayout({
    #: A byte of a frame; without meaning where ``end`` is set.
    "data": 8,
    #: The boundary between two frames.
    "end": 1,
    #: An escape before this symbol was wrong; the frame is damaged. Low from a sender.
    "wrong": 1,
})


class Unescaper(wiring.Component):
    """Bytes of the wire to symbols; ``hdl.protocol.unescape``.

    One symbol for every byte except a valid ``ESC``, one byte per clock, latency 1, elastic.

    Members
    -------
    i : In(stream.Signature(8))
    o : Out(stream.Signature(SYMBOL))
    """
    i: In(stream.Signature(8))
    o: Out(stream.Signature(SYMBOL))

    def elaborate(self, platform):
        m = Module()
        byte, symbol = self.i.payload, self.o.payload
        escaped = Signal()
        with m.If(~self.o.valid | self.o.ready):
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += self.o.valid.eq(self.i.valid & (escaped | (byte != ESC)))
            with m.If(self.i.valid):
                m.d.sync += [
                    escaped.eq((byte == ESC) & ~escaped),
                    symbol.data.eq(byte),
                    symbol.end.eq(byte == END),
                    symbol.wrong.eq(escaped),
                ]
                with m.If(escaped & (byte == ESC_END)):
                    m.d.sync += symbol.data.eq(END), symbol.wrong.eq(0)
                with m.If(escaped & (byte == ESC_ESC)):
                    m.d.sync += symbol.data.eq(ESC), symbol.wrong.eq(0)
        return m


class Escaper(wiring.Component):
    """Symbols to bytes of the wire; ``hdl.protocol.escape``.

    One byte per clock, two for a byte that is escaped, latency 1, elastic.

    Members
    -------
    i : In(stream.Signature(SYMBOL))
    o : Out(stream.Signature(8))
    """
    i: In(stream.Signature(SYMBOL))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        symbol = self.i.payload
        special = Signal()
        second = Signal()
        m.d.comb += special.eq(~symbol.end & ((symbol.data == END) | (symbol.data == ESC)))
        with m.If(~self.o.valid | self.o.ready):
            m.d.comb += self.i.ready.eq(~special | second)
            m.d.sync += self.o.valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [
                    second.eq(special & ~second),
                    self.o.payload.eq(Mux(symbol.end, END, symbol.data)),
                ]
                with m.If(special & ~second):
                    m.d.sync += self.o.payload.eq(ESC)
                with m.Elif(special):
                    m.d.sync += self.o.payload.eq(Mux(symbol.data == END, ESC_END, ESC_ESC))
        return m

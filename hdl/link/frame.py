"""Frames: a receiver that holds one verified request, and a sender that adds the CRC."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.link.slip import SYMBOL
from hdl.protocol import MAX_BODY

__all__ = ["ANSWER_BYTE", "FramePort", "FrameReceiver", "FrameSender"]

#: Bytes of a frame before its body (``seq``, ``kind``) and after it (the CRC).
_HEAD, _CRC = 2, 4

#: A byte of an answer.
ANSWER_BYTE = data.StructLayout({
    "data": 8,
    #: The last byte before the CRC.
    "last": 1,
})


class FramePort(wiring.Signature):
    """One request at a time, from the receiver's point of view.

    ``damaged``, ``seq``, ``kind`` and ``length`` hold while ``valid``. The taker reads as much of
    ``body`` as it likes and pulses ``done``, which forgets the rest.

    Members
    -------
    valid : Out(1)
    damaged : Out(1)
        The frame is too short or too long, or an escape or its CRC is wrong: answer it by a NAK
        and use nothing else of it.
    seq, kind : Out(8)
    length : Out(range(MAX_BODY + 1))
        Bytes of the body.
    body : Out(stream.Signature(8))
        The body from its start.
    done : In(1)
    """
    def __init__(self):
        super().__init__({
            "valid": Out(1),
            "damaged": Out(1),
            "seq": Out(8),
            "kind": Out(8),
            "length": Out(range(MAX_BODY + 1)),
            "body": Out(stream.Signature(8)),
            "done": In(1),
        })


class FrameReceiver(wiring.Component):
    """Collects a frame in a block RAM and shows it once its CRC is verified.

    One symbol per clock. From the boundary that ends a frame until ``frame.done`` no symbol is
    taken. Frames without a byte are ignored. The body then streams at one byte per clock,
    its first byte two clocks after ``valid``.

    Members
    -------
    i : In(stream.Signature(SYMBOL))
    frame : Out(FramePort())
    """
    i: In(stream.Signature(SYMBOL))
    frame: Out(FramePort())

    def elaborate(self, platform):
        m = Module()
        frame, symbol = self.frame, self.i.payload

        # Collect: head to registers, body to the buffer (its CRC too, where there is room).
        m.submodules.buffer = buffer = Memory(
            shape=8, depth=MAX_BODY, init=[], attrs={"no_rw_check": 1})
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        m.submodules.crc = crc = CRC32_ETHERNET().create()
        most = _HEAD + MAX_BODY + _CRC
        count = Signal(range(most + 2))
        wrong = Signal()
        take = Signal()
        offset = Signal.like(count)
        m.d.comb += [
            self.i.ready.eq(~frame.valid),
            take.eq(self.i.valid & self.i.ready & ~symbol.end),
            crc.start.eq(frame.valid),
            crc.valid.eq(take),
            crc.data.eq(symbol.data),
            offset.eq(count - _HEAD),
            write.addr.eq(offset),
            write.data.eq(symbol.data),
            write.en.eq(take & (count >= _HEAD) & (offset < MAX_BODY)),
        ]
        with m.If(take):
            m.d.sync += wrong.eq(wrong | symbol.wrong)
            with m.If(count <= most):
                m.d.sync += count.eq(count + 1)
            with m.If(count == 0):
                m.d.sync += frame.seq.eq(symbol.data)
            with m.If(count == 1):
                m.d.sync += frame.kind.eq(symbol.data)

        # Judge at the boundary.
        with m.If(self.i.valid & self.i.ready & symbol.end & ((count != 0) | symbol.wrong)):
            m.d.sync += [
                frame.valid.eq(1),
                frame.damaged.eq(wrong | symbol.wrong | (count < _HEAD + _CRC) | (count > most)
                                 | ~crc.match_detected),
                frame.length.eq(count - (_HEAD + _CRC)),
            ]

        # Show the body. No byte is read in the clock in which it is written, which is what lets
        # Yosys make a bare block RAM of it and of the register behind it. The way out of the block
        # takes half a clock: another register is the stream's.
        index = Signal.like(frame.length)
        word, fetched, take_word = Signal(8), Signal(), Signal()
        m.d.comb += [read.addr.eq(index),
                     take_word.eq(~fetched | ~frame.body.valid | frame.body.ready)]
        with m.If(take_word):
            m.d.sync += word.eq(read.data)
            with m.If(frame.valid):
                m.d.sync += fetched.eq(index != frame.length)
                with m.If(index != frame.length):
                    m.d.sync += index.eq(index + 1)
        with m.If(~frame.body.valid | frame.body.ready):
            m.d.sync += [frame.body.payload.eq(word), frame.body.valid.eq(fetched)]

        with m.If(frame.valid & frame.done):
            m.d.sync += [
                frame.valid.eq(0), frame.body.valid.eq(0), fetched.eq(0), index.eq(0),
                count.eq(0), wrong.eq(0),
            ]
        return m


class FrameSender(wiring.Component):
    """Puts boundaries around the bytes of an answer, and its CRC behind them.

    ``i`` carries ``seq``, ``kind`` and the body. One symbol per clock; the first byte waits one
    clock for the boundary before it, and after the last one ``i`` waits five.

    Members
    -------
    i : In(stream.Signature(ANSWER_BYTE))
    o : Out(stream.Signature(SYMBOL))
    """
    i: In(stream.Signature(ANSWER_BYTE))
    o: Out(stream.Signature(SYMBOL))

    def elaborate(self, platform):
        m = Module()
        symbol = self.o.payload
        m.submodules.crc = crc = CRC32_ETHERNET().create()
        index = Signal(range(_CRC))
        m.d.comb += crc.data.eq(self.i.payload.data)
        with m.FSM():
            with m.State("OPEN"):
                m.d.comb += [
                    symbol.end.eq(1), self.o.valid.eq(self.i.valid), crc.start.eq(1),
                ]
                with m.If(self.i.valid & self.o.ready):
                    m.next = "BYTES"
            with m.State("BYTES"):
                m.d.comb += [
                    symbol.data.eq(self.i.payload.data),
                    self.o.valid.eq(self.i.valid),
                    self.i.ready.eq(self.o.ready),
                    crc.valid.eq(self.i.valid & self.o.ready),
                ]
                with m.If(self.i.valid & self.o.ready & self.i.payload.last):
                    m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += symbol.data.eq(crc.crc.word_select(index, 8)), self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == _CRC - 1):
                        m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += symbol.end.eq(1), self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "OPEN"
        return m

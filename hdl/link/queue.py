"""Bytes of the link that wait until they are taken."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.protocol import LINK_BYTES

__all__ = ["LinkQueue"]


class LinkQueue(wiring.Component):
    """A queue of ``LINK_BYTES`` and one byte more, in LUT RAM.

    One byte per clock, latency 2, elastic.

    Members
    -------
    i : In(stream.Signature(8))
    o : Out(stream.Signature(8))
    """
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        assert LINK_BYTES & (LINK_BYTES - 1) == 0
        m.submodules.bytes = memory = Memory(shape=8, depth=LINK_BYTES, init=[],
                                             attrs={"ram_style": "distributed"})
        read, write = memory.read_port(domain="comb"), memory.write_port()
        first, last, held = Signal(range(LINK_BYTES)), Signal(range(LINK_BYTES)), Signal(
            range(LINK_BYTES + 1))
        put, get = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~held[-1]), put.eq(self.i.valid & self.i.ready),
            get.eq((held != 0) & (~self.o.valid | self.o.ready)),
            write.addr.eq(last), write.data.eq(self.i.payload), write.en.eq(put),
            read.addr.eq(first),
        ]
        m.d.sync += [held.eq(held + put - get), first.eq(first + get), last.eq(last + put)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.payload.eq(read.data), self.o.valid.eq(get)
        return m

"""Device memory: simple dual-port block RAM behind ports that several units share."""

from amaranth.hdl import Cat, Module, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.buffer import Buffer

__all__ = ["ADDRESS_BITS", "READ_LATENCY", "Ram", "ReadPort", "WritePort"]

#: Width of every word address.
ADDRESS_BITS = 16
#: Clock cycles from ``en`` and ``addr`` to ``data``: a register for the request, the block RAM and
#: its output register.
READ_LATENCY = 3


class ReadPort(wiring.Signature):
    """A read port, from the reader's point of view.

    ``data`` is the word at ``addr`` exactly ``READ_LATENCY`` cycles after a cycle with ``en``.
    One read may begin every cycle.

    Members
    -------
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    data : In(shape)
    """
    def __init__(self, shape):
        super().__init__({"en": Out(1), "addr": Out(ADDRESS_BITS), "data": In(shape)})


class WritePort(wiring.Signature):
    """A write port, from the writer's point of view; a word is written in one cycle.

    Members
    -------
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    data : Out(shape)
    """
    def __init__(self, shape):
        super().__init__({"en": Out(1), "addr": Out(ADDRESS_BITS), "data": Out(shape)})


class Ram(wiring.Component):
    """One memory with one read and one write per cycle, shared by units that take turns.

    At most one reader and one writer may be enabled in a cycle: the sequencer runs one unit at a
    time, so no arbiter is needed, and requests are merged by AND and OR. A read in the same
    cycle as a write to the same address returns an undefined word; no unit does that.

    An access beyond the end raises ``fault`` in the next cycle; such a write has no effect.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    depth : int
        Words, a power of two.
    readers, writers : int
        Number of ports.

    Members
    -------
    r : In(ReadPort) x readers
    w : In(WritePort) x writers
    fault : Out(1)
    """
    def __init__(self, shape, depth, *, readers, writers):
        assert depth & (depth - 1) == 0 and depth <= 1 << ADDRESS_BITS
        self.shape = shape
        self.depth = depth
        super().__init__({
            "r": In(ReadPort(shape)).array(readers),
            "w": In(WritePort(shape)).array(writers),
            "fault": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.memory = memory = Buffer(width, self.depth)

        def merge(ports, field, bits):
            merged = 0
            for port in ports:
                merged = merged | (Cat(getattr(port, field)) & port.en.replicate(bits))
            return merged

        raddr, waddr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        ren, wen = Signal(), Signal()
        m.d.comb += [
            raddr.eq(merge(self.r, "addr", ADDRESS_BITS)),
            ren.eq(Cat(port.en for port in self.r).any()),
            waddr.eq(merge(self.w, "addr", ADDRESS_BITS)),
            wen.eq(Cat(port.en for port in self.w).any()),
        ]
        beyond_r, beyond_w = Signal(), Signal()
        inside = len(memory.raddr)
        m.d.comb += [
            beyond_r.eq(raddr[inside:].any()),
            beyond_w.eq(waddr[inside:].any()),
            memory.raddr.eq(raddr),
            memory.waddr.eq(waddr),
            memory.wen.eq(wen & ~beyond_w),
            memory.wdata.eq(merge([_Flat(port) for port in self.w], "data", width)),
        ]
        m.d.sync += self.fault.eq(ren & beyond_r | wen & beyond_w)
        for port in self.r:
            m.d.comb += (port.data.as_value() if isinstance(port.data, data.View)
                         else port.data).eq(memory.data)
        return m


class _Flat:
    """A write port whose data is a plain value."""
    def __init__(self, port):
        self.en = port.en
        self.data = port.data.as_value() if isinstance(port.data, data.View) else port.data

"""Device memory: block RAM behind ports that several units share."""

from amaranth.hdl import Cat, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.buffer import Buffer

__all__ = ["ADDRESS_BITS", "READ_LATENCY", "LaneWritePort", "Ram", "ReadPort", "StreamPort",
           "WritePort", "merged"]

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


class LaneWritePort(wiring.Signature):
    """A write port to some lanes of a word, from the writer's point of view.

    Members
    -------
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    lanes : Out(lanes of shape)
        Those that are written; the others keep what they hold.
    data : Out(shape)
    """
    def __init__(self, shape):
        super().__init__({"en": Out(1), "addr": Out(ADDRESS_BITS), "lanes": Out(shape.length),
                          "data": Out(shape)})


class StreamPort(ReadPort):
    """A :class:`ReadPort` for the array's operands: the lanes of array row r of the word at
    ``addr`` are in ``data`` exactly ``READ_LATENCY + r`` cycles after a cycle with ``en``, cycles
    of the array's clock (:mod:`hdl.crossing`).
    """


def merged(ports, field):
    """The field of the port that is enabled; at most one may be, and if none is it does not
    matter."""
    if len(ports) == 1:
        return Value.cast(getattr(ports[0], field))
    value = 0
    for port in ports:
        bits = Value.cast(getattr(port, field))
        value = value | (bits & port.en.replicate(len(bits)))
    return value


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

        raddr, waddr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        ren, wen = Signal(), Signal()
        m.d.comb += [
            raddr.eq(merged(self.r, "addr")),
            ren.eq(Cat(port.en for port in self.r).any()),
            waddr.eq(merged(self.w, "addr")),
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
            memory.wdata.eq(merged(self.w, "data")),
        ]
        m.d.sync += self.fault.eq(ren & beyond_r | wen & beyond_w)
        for port in self.r:
            m.d.comb += Value.cast(port.data).eq(memory.data)
        return m

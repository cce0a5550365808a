"""Device memory: block RAM behind ports that several units share."""

from amaranth.hdl import Cat, Const, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.buffer import Buffer
from hdl.timing import READ_LATENCY, lookup_latency

__all__ = ["ADDRESS_BITS", "READ_LATENCY", "LaneWritePort", "Ram", "ReadPort", "StreamPort",
           "WritePort", "announced_ahead", "merged", "several"]

#: Width of every word address.
ADDRESS_BITS = 16


def announced_ahead(params):
    """Cycles by which an access to the shared port of the quantised memory is announced, on a
    machine that keeps masters: so many as a request for a weight takes to get there, which waits
    for the others (:mod:`hdl.weights`), and one.

    >>> from hdl.params import Params
    >>> announced_ahead(Params()), announced_ahead(Params(sample_groups=1, channel_groups=1))
    (6, 2)
    """
    return 2 + lookup_latency(params)


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


def several(bits):
    """More than one of them is 1: a tree of pairs that are kept for as long as it takes."""
    if len(bits) < 2:
        return Const(0)
    half = len(bits) // 2
    low, high = bits[:half], bits[half:]
    return several(low) | several(high) | low.any() & high.any()


class Ram(wiring.Component):
    """One memory with one read and one write per cycle, shared by units that take turns.

    At most one reader and one writer may be enabled in a cycle: units that run at the same time
    keep out of each other's way, so no arbiter is needed, and requests are merged by AND and OR. A
    read in the same cycle as a write to the same address returns an undefined word; no unit does
    that. A reader with a port of its own may read at any time, for as many block RAMs again.

    An access beyond the end raises ``fault`` in the next cycle; such a write has no effect.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    depth : int
        Words, a power of two.
    readers, writers : int
        Number of ports.
    own : int
        Readers with a port of their own.
    lanes : int
        Lanes of a word, where there is a writer of some of them: ``lane_w``. Of one at least.
    conflicts : bool
        Whether ``conflict`` is there.

    Members
    -------
    r : In(ReadPort) x readers
    own_r : In(ReadPort) x own
        Only where there are any.
    w : In(WritePort) x writers
    lane_w : In(LaneWritePort)
        Only where there is one; for ``conflict`` it is one of ``w``.
    fault : Out(1)
    conflict : Out(1)
        In the cycle before more than one reader was enabled at ``r``, or writer at ``w``.
    """
    def __init__(self, shape, depth, *, readers, writers, own=0, lanes=None,
                 conflicts=False):
        assert depth & (depth - 1) == 0 and depth <= 1 << ADDRESS_BITS
        self.shape = shape
        self.depth = depth
        self.own = own
        self.lanes = lanes
        self.conflicts = conflicts
        members = {
            "r": In(ReadPort(shape)).array(readers),
            "w": In(WritePort(shape)).array(writers),
            "fault": Out(1),
        }
        if lanes:
            members["lane_w"] = In(LaneWritePort(shape))
        if own:
            members["own_r"] = In(ReadPort(shape)).array(own)
        if conflicts:
            members["conflict"] = Out(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.shape).width
        parts = self.lanes or 1
        m.submodules.memory = memory = Buffer(width, self.depth, parts=parts)
        writers = [*self.w, self.lane_w] if self.lanes else list(self.w)
        written = Const(1, 1)
        if self.lanes:
            # All lanes for the others.
            written = self.lane_w.lanes | (~self.lane_w.en).replicate(parts)

        raddr, waddr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        ren, wen = Signal(), Signal()
        m.d.comb += [
            raddr.eq(merged(self.r, "addr")),
            ren.eq(Cat(port.en for port in self.r).any()),
            waddr.eq(merged(writers, "addr")),
            wen.eq(Cat(port.en for port in writers).any()),
        ]
        beyond_r, beyond_w = Signal(), Signal()
        inside = len(memory.raddr)
        m.d.comb += [
            beyond_r.eq(raddr[inside:].any()),
            beyond_w.eq(waddr[inside:].any()),
            memory.raddr.eq(raddr),
            memory.waddr.eq(waddr),
            memory.wen.eq((wen & ~beyond_w).replicate(parts) & written if self.lanes else
                          wen & ~beyond_w),
            memory.wdata.eq(merged(writers, "data")),
        ]
        wrong = ren & beyond_r | wen & beyond_w
        for port in self.r:
            m.d.comb += Value.cast(port.data).eq(memory.data)
        for number in range(self.own):
            port = self.own_r[number]
            # What is written to one is written to all.
            m.submodules[f"copy{number}"] = copy = Buffer(width, self.depth, parts=parts)
            m.d.comb += [
                copy.raddr.eq(port.addr), Value.cast(port.data).eq(copy.data),
                copy.waddr.eq(memory.waddr), copy.wen.eq(memory.wen), copy.wdata.eq(memory.wdata),
            ]
            wrong |= port.en & port.addr[inside:].any()
        m.d.sync += self.fault.eq(wrong)
        if self.conflicts:
            m.d.sync += self.conflict.eq(several(Cat(port.en for port in self.r))
                                         | several(Cat(port.en for port in writers)))
        return m

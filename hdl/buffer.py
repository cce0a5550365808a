"""Block RAM between registers."""

from amaranth.hdl import Module, Shape, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Buffer"]


class Buffer(wiring.Component):
    """Block RAM with one read and one write per clock.

    ``data`` is the word at ``raddr`` ``READ_LATENCY`` cycles earlier; a register keeps the user's
    logic apart from the way to the blocks, which lie far from each other. Where the memory is one
    block deep it is the blocks' own, see :func:`hdl.build.netlist.output_registers`. A read in the
    same cycle as a write to the same address returns an undefined word: the user spaces them out.
    The read is written as an unclocked one and a register, and the memory is marked
    ``no_rw_check``: from this Yosys makes a bare block RAM, where a clocked read port would get
    about 1.5 LUTs and 2 flip-flops per bit that rule collisions out.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    depth : int
        Words.
    read_domain : str
        Clock domain of the reads; writes are in ``sync``.
    registered : bool
        Whether a request to write passes a register here; without, the user's own must be one.
    parts : int
        Of a word, each of which is written or not.

    Members
    -------
    raddr : In(range(depth))
    data : Out(shape)
    wen : In(parts)
    waddr : In(range(depth))
    wdata : In(shape)
    """
    def __init__(self, shape, depth, *, read_domain="sync", registered=True, parts=1):
        self.shape = shape
        self.depth = depth
        self.read_domain = read_domain
        self.registered = registered
        self.parts = parts
        super().__init__({
            "raddr": In(range(depth)), "data": Out(shape),
            "wen": In(parts), "waddr": In(range(depth)), "wdata": In(shape),
        })

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.memory = memory = Memory(
            shape=unsigned(width), depth=self.depth, init=[], attrs={"no_rw_check": 1})
        read, write = memory.read_port(domain="comb"), memory.write_port(
            granularity=width // self.parts if self.parts > 1 else None)
        # The request, without a reset but for what would destroy something.
        requests = [(self.read_domain, read.addr, self.raddr)]
        writes = [(write.addr, self.waddr), (write.data, self.wdata), (write.en, self.wen)]
        if self.registered:
            requests += [("sync", port, value) for port, value in writes]
        else:
            m.d.comb += [port.eq(value) for port, value in writes]
        for domain, port, value in requests:
            request = Signal(len(port), reset_less=port is not write.en)
            m.d[domain] += request.eq(value)
            m.d.comb += port.eq(request)
        word, output = Signal(width, reset_less=True), Signal(width, reset_less=True)
        m.d.comb += Value.cast(self.data).eq(output)
        m.d[self.read_domain] += [word.eq(read.data), output.eq(word)]
        return m

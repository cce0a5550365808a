"""Memory that one unit keeps to itself."""

from amaranth.hdl import Module, Shape, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Buffer"]


class Buffer(wiring.Component):
    """Block RAM with one read and one write per clock.

    ``data`` is the word at ``raddr`` ``READ_LATENCY`` cycles earlier. A read in the same cycle as
    a write to the same address returns an undefined word: the user spaces them out. The read is
    written as an unclocked one and a register, and the memory is marked ``no_rw_check``: from
    this Yosys makes a bare block RAM, where a clocked read port would get about 1.5 LUTs and 2
    flip-flops per bit that rule collisions out.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    depth : int
        Words.

    Members
    -------
    raddr : In(range(depth))
    data : Out(shape)
    wen : In(1)
    waddr : In(range(depth))
    wdata : In(shape)
    """
    def __init__(self, shape, depth):
        self.shape = shape
        self.depth = depth
        super().__init__({
            "raddr": In(range(depth)), "data": Out(shape),
            "wen": In(1), "waddr": In(range(depth)), "wdata": In(shape),
        })

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.memory = memory = Memory(
            shape=unsigned(width), depth=self.depth, init=[], attrs={"no_rw_check": 1})
        read, write = memory.read_port(domain="comb"), memory.write_port()
        word, output = Signal(width, reset_less=True), Signal(width, reset_less=True)
        m.d.comb += [
            write.en.eq(self.wen),
            write.addr.eq(self.waddr),
            write.data.eq(self.wdata),
            read.addr.eq(self.raddr),
            Value.cast(self.data).eq(output),
        ]
        m.d.sync += [word.eq(read.data), output.eq(word)]
        return m

"""Block RAM between registers."""

from amaranth.hdl import Cat, Module, Shape, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.params import rows_per_block

__all__ = ["Buffer", "SkewedBuffer"]


class Buffer(wiring.Component):
    """Block RAM with one read and one write per clock.

    ``data`` is the word at ``raddr`` ``READ_LATENCY`` cycles earlier; a register keeps the user's
    logic apart from the way to the blocks, which lie far from each other. A read in the same
    cycle as a write to the same address returns an undefined word: the user spaces them out. The
    read is written as an unclocked one and a register, and the memory is marked ``no_rw_check``:
    from this Yosys makes a bare block RAM, where a clocked read port would get about 1.5 LUTs and
    2 flip-flops per bit that rule collisions out.

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
        # The request, without a reset but for what would destroy something.
        for port, value in ((read.addr, self.raddr), (write.addr, self.waddr),
                            (write.data, self.wdata), (write.en, self.wen)):
            request = Signal(len(port), reset_less=port is not write.en)
            m.d.sync += request.eq(value)
            m.d.comb += port.eq(request)
        word, output = Signal(width, reset_less=True), Signal(width, reset_less=True)
        m.d.comb += Value.cast(self.data).eq(output)
        m.d.sync += [word.eq(read.data), output.eq(word)]
        return m


class SkewedBuffer(wiring.Component):
    """:class:`Buffer` of words of ``rows`` parts, of which part r is read r cycles late.

    Addresses travel from block to block, which takes fewer flip-flops than to delay what is read:
    a word is as wide as the array's operands. Parts that lie in the same block are delayed.

    Parameters
    ----------
    bits : int
        Of a part.
    rows : int
    depth : int
        Words.

    Members
    -------
    raddr : In(range(depth))
    data : Out(ArrayLayout(bits, rows))
        Part r is of the word at ``raddr`` ``READ_LATENCY + r`` cycles earlier.
    wen : In(1)
    waddr : In(range(depth))
    wdata : In(ArrayLayout(bits, rows))
    """
    def __init__(self, bits, rows, depth):
        self.depth = depth
        share = rows_per_block(bits, depth)
        self.blocks = [range(first, min(first + share, rows)) for first in range(0, rows, share)]
        word = data.ArrayLayout(bits, rows)
        super().__init__({
            "raddr": In(range(depth)), "data": Out(word),
            "wen": In(1), "waddr": In(range(depth)), "wdata": In(word),
        })

    def elaborate(self, platform):
        m = Module()
        raddr = self.raddr
        for number, block in enumerate(self.blocks):
            word = data.ArrayLayout(self.data.shape().elem_shape, len(block))
            m.submodules[f"block{number}"] = buffer = Buffer(word, self.depth)
            m.submodules[f"late{number}"] = late = Delay(len(raddr), len(block))
            m.d.comb += [
                buffer.raddr.eq(raddr), late.i.eq(raddr),
                buffer.wen.eq(self.wen), buffer.waddr.eq(self.waddr),
                buffer.wdata.as_value().eq(Cat(self.wdata[row] for row in block)),
            ]
            raddr = late.o
            for place, row in enumerate(block):
                m.submodules[f"row{row}"] = delay = Delay(
                    self.data.shape().elem_shape, place)
                m.d.comb += [delay.i.eq(buffer.data[place]), self.data[row].eq(delay.o)]
        return m

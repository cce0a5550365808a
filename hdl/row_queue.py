"""Rows of weights between their memory and the array, which take them at paces of their own."""

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.core import weights_row
from hdl.crossing import array_domain
from hdl.timing import ROW_QUEUE_DEPTH

__all__ = ["RowQueue"]


def _gray(value):
    return value ^ value >> 1


def _binary(gray):
    """The number of a Gray code."""
    return Cat(gray[place:].xor() for place in range(len(gray)))


class RowQueue(wiring.Component):
    """A queue of rows of weights, from ``sync`` into the array's clock.

    A row comes in pieces, the weights of ``span`` columns at one of ``depth`` places of the
    elements, and is there with its last one. A place in the queue is taken when the row is begun,
    long before its pieces come, so whoever fetches them through a pipeline that does not stall asks
    for ``room`` at its beginning.

    The rows are in LUT RAM, a register behind it. How many rows have come and have gone crosses
    between the clocks as Gray codes (C. E. Cummings, Simulation and Synthesis Techniques for
    Asynchronous FIFO Design, SNUG 2002), where ``array_clock`` is 1 without synchronizers.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    room : Out(1)
        Another row may be begun.
    begin : In(1)
        A row is.
    write : In(1)
        A piece comes:
    part : In(range(cols // span)), place : In(range(depth))
        which one,
    weights : In(ArrayLayout(signed(bits), span))
        what is in it.
    last, mark, end : In(1)
        It completes its row, which has that mark, and is the last of its tile.
    o : Out(stream.Signature(weights_row))
        The rows, in the array's clock, one every other cycle at most. A payload holds in the cycle
        after the one in which it is taken.
    """
    DEPTH = ROW_QUEUE_DEPTH

    def __init__(self, params):
        self.params = params
        row = weights_row(params)
        super().__init__({
            "room": Out(1), "begin": In(1),
            "write": In(1), "part": In(range(params.cols // params.span)),
            "place": In(range(params.depth)),
            "weights": In(data.ArrayLayout(row["weights"].shape.elem_shape.elem_shape,
                                           params.span)),
            "last": In(1), "mark": In(1), "end": In(1),
            "o": Out(stream.Signature(row)),
        })

    def elaborate(self, platform):
        m = Module()
        params, domain = self.params, array_domain(self.params)
        numbers = range(2 * self.DEPTH)
        # Rows that were begun, are complete, have gone, by number.
        begun, come, gone = (Signal(numbers, name=name) for name in ("begun", "come", "gone"))
        complete = Signal()
        m.d.comb += complete.eq(self.write & self.last)
        m.d.sync += [begun.eq(begun + self.begin), come.eq(come + complete)]
        gone_here = self._crossed(m, "gone", gone, domain, "sync")
        held = Signal(numbers)
        m.d.comb += held.eq(begun - gone_here)
        m.d.sync += self.room.eq(~(held + self.begin)[len(held) - 1])

        # Towards the array: a register, filled in the cycle after the one in which it is, or comes
        # to be, empty. It is as wide as the array, so a register says when.
        come_there = self._crossed(m, "come", come, "sync", domain)
        some, fill = Signal(), Signal()
        m.d[domain] += [some.eq(come_there != (gone + fill)[:len(gone)]),
                        fill.eq(some & ~fill & (~self.o.valid | self.o.ready))]
        with m.If(fill):
            m.d[domain] += [gone.eq(gone + 1), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d[domain] += self.o.valid.eq(0)

        def memory(name, width, enable, value):
            words = Memory(shape=unsigned(width), depth=self.DEPTH, init=[],
                           attrs={"ram_style": "distributed"})
            m.submodules[name] = words
            read, write = words.read_port(domain="comb"), words.write_port()
            kept = Signal(width, name=f"{name}_kept", reset_less=True)
            m.d.comb += [
                write.addr.eq(come[:-1]), write.data.eq(value), write.en.eq(enable),
                read.addr.eq(gone[:-1]),
            ]
            with m.If(fill):
                m.d[domain] += kept.eq(read.data)
            return kept

        span, bits = params.span, params.bits
        payload = self.o.payload
        for part in range(params.cols // span):
            for place in range(params.depth):
                piece = memory(f"part{part}_place{place}", span * bits,
                               self.write & (self.part == part) & (self.place == place),
                               Value.cast(self.weights))
                m.d.comb += [
                    Value.cast(payload.weights[part * span + col][place]).eq(
                        piece.word_select(col, bits)) for col in range(span)]
        tags = memory("tags", 2, complete, self.mark | self.end << 1)
        m.d.comb += [payload.mark.eq(tags[0]), payload.end.eq(tags[1])]
        return m

    def _crossed(self, m, name, number, source, target):
        """A number that counts up, in the other domain, late."""
        if source == target:
            return number
        code, there = Signal(len(number), name=f"{name}_code"), Signal(len(number),
                                                                       name=f"{name}_there")
        m.d[source] += code.eq(_gray(number))
        m.submodules[f"{name}_crossing"] = FFSynchronizer(code, there, o_domain=target)
        late = Signal(len(number), name=f"{name}_late")
        m.d[target] += late.eq(_binary(there))
        return late

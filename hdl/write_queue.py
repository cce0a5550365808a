"""Words that wait until they can be written."""

from amaranth.hdl import Module, Shape, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["WriteQueue"]


class WriteQueue(wiring.Component):
    """A queue in front of a port to write that others use without asking.

    Its first word is written in every cycle in which the port is not ``taken``, the first of which
    is the one after ``push``. A place is reserved before its word is under way, so whoever brings
    words through a pipeline that does not stall asks for ``room`` at its beginning. Words come one
    per cycle for as long as ``DEPTH`` is more than the cycles from ``reserve`` to ``pop``.

    ``taken`` goes through one LUT to ``pop``; all else is in registers, and the words in LUT RAM.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.

    Members
    -------
    room : Out(1)
        Places are left.
    reserve : In(1)
        Take one, only while there is ``room``.
    push : In(1), i : In(shape)
        A word comes for the oldest reserved place, in a later cycle.
    taken : In(1)
        Another writes in this cycle.
    pop : Out(1), o : Out(shape)
        ``o`` is to be written in this cycle.
    idle : Out(1)
        No place is reserved any more: all that was pushed has been written.
    """
    #: Places, a power of two: what a LUT RAM has.
    DEPTH = 16

    def __init__(self, shape):
        self.shape = shape
        super().__init__({
            "room": Out(1), "reserve": In(1), "push": In(1), "i": In(shape),
            "taken": In(1), "pop": Out(1), "o": Out(shape), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # Places that are reserved, and those of them that have their word.
        reserved, held = Signal(range(self.DEPTH + 1)), Signal(range(self.DEPTH + 1))
        m.d.comb += [
            self.room.eq(~reserved[-1]),
            self.pop.eq((held != 0) & ~self.taken),
            self.idle.eq(reserved == 0),
        ]
        m.d.sync += [reserved.eq(reserved + self.reserve - self.pop),
                     held.eq(held + self.push - self.pop)]

        m.submodules.words = words = Memory(
            shape=unsigned(Shape.cast(self.shape).width), depth=self.DEPTH, init=[],
            attrs={"ram_style": "distributed"})
        read, write = words.read_port(domain="comb"), words.write_port()
        first, last = Signal(range(self.DEPTH)), Signal(range(self.DEPTH))
        m.d.sync += [first.eq(first + self.pop), last.eq(last + self.push)]
        m.d.comb += [
            write.addr.eq(last), write.data.eq(self.i), write.en.eq(self.push),
            read.addr.eq(first), Value.cast(self.o).eq(read.data),
        ]
        return m

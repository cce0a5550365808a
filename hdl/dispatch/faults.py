"""What units that overlap must not do to a memory, by the queue whose unit did it."""

from collections import namedtuple

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.crossing import crossed_level
from hdl.instructions import Queue
from hdl.memory import ADDRESS_BITS

__all__ = ["AccessFaults", "Watched"]

#: A unit's port: its queue; name and words of its memory, a power of two; whether it streams, in
#: the array's clock domain.
Watched = namedtuple("Watched", "queue memory words streamed")


class AccessFaults(wiring.Component):
    """``fault`` of a queue in the clock after one of its units accessed a memory beyond its end, or
    accessed one that had a conflict.

    A memory of units that overlap cannot tell whose access it was: every port of a unit is watched.

    Parameters
    ----------
    params : hdl.params.Params
    watched : sequence of Watched
        An access in the array's clock domain is reported some clocks late.

    Attributes
    ----------
    memories : list of str

    Members
    -------
    access : In({"en": 1, "addr": ADDRESS_BITS}) x watched
    conflict : In(1) x memories
        Two units were at one port of it in the clock before.
    fault : Out(len(Queue))
    """
    def __init__(self, params, watched):
        self.params = params
        self.watched = watched
        self.memories = list(dict.fromkeys(port.memory for port in watched))
        port = wiring.Signature({"en": Out(1), "addr": Out(ADDRESS_BITS)})
        super().__init__({
            "access": In(port).array(len(watched)),
            "conflict": In(1).array(len(self.memories)), "fault": Out(len(Queue)),
        })

    def elaborate(self, platform):
        m = Module()
        faults = {queue: [] for queue in Queue}
        enables = {(memory, queue): [] for memory in self.memories for queue in Queue}
        for number, (port, access) in enumerate(zip(self.watched, self.access, strict=True)):
            assert port.words & (port.words - 1) == 0
            wrong = access.en & access.addr[(port.words - 1).bit_length():].any()
            if port.streamed:
                wrong = crossed_level(m, f"port{number}", self.params, wrong)
            else:
                enables[port.memory, port.queue].append(access.en)
            beyond = Signal(name=f"beyond{number}")
            m.d.sync += beyond.eq(wrong)
            faults[port.queue].append(beyond)
        for (memory, queue), enabled in enables.items():
            used = Signal(name=f"{queue.name.lower()}_used_{memory}")
            m.d.sync += used.eq(Cat(enabled).any())
            faults[queue].append(used & self.conflict[self.memories.index(memory)])
        m.d.comb += self.fault.eq(Cat(Cat(faults[queue]).any() for queue in Queue))
        return m

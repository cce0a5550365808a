"""How far the logits of a row lie below its maximum."""

from amaranth.hdl import Array, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.loss.exponential import DISTANCE_BITS
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import INDEX_BITS, MAX_M
from hdl.unit import INSTRUCTION_LAYOUT, wide_word

__all__ = ["Distances"]

#: Width of a logit, signed: the low bits of an element.
_LOGIT_BITS = DISTANCE_BITS


def _request(lanes):
    """What is known of a word on its way."""
    return data.StructLayout({
        "lane": range(lanes),
        #: The maximum of a row is sought, and the lane counts; its first element's time has come.
        "search": 1, "first": 1,
        #: A distance is wanted; of the row's label, of its last element.
        "follow": 1, "marked": 1, "last": 1,
        #: The word is a label.
        "label": 1,
    })


class Distances(wiring.Component):
    """``t = max(row) - logit`` for every element, row after row.

    A slot of ``slot`` clocks reads an element of one row, to find its maximum, and the one of
    the same column of the row before, whose distance then goes out. A row takes :meth:`slots`
    slots, at least as many as ``SHORTEST`` clocks have; its label is read in the first of them,
    which is an additional one if slots have two clocks only.

    Parameters
    ----------
    params : hdl.params.Params
    slot : int
        Clocks, 2 or more.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields m, n, src0, src1.
    wide_r : Out(ReadPort(wide_word(params)))
    valid : Out(1)
    t : Out(DISTANCE_BITS)
    marked : Out(1)
        The column is the row's label.
    last : Out(1)
        It is the row's last one.
    """
    #: Clocks between rows that the logarithm needs.
    SHORTEST = 16
    #: Clocks from ``start`` to the first slot, and from the beginning of a slot to its distance.
    SETUP = 3
    LATENCY = 2 + READ_LATENCY + 2

    def __init__(self, params, slot):
        assert slot >= 2
        self.params = params
        self.slot = slot
        #: Slots of a row before its first element.
        self.ahead = int(slot == 2)
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "wide_r": Out(ReadPort(wide_word(params))),
            "valid": Out(1),
            "t": Out(DISTANCE_BITS),
            "marked": Out(1),
            "last": Out(1),
        })

    def slots(self, n):
        """Slots of a row of n elements."""
        return max(n + self.ahead, -(-self.SHORTEST // self.slot))

    def latency(self, m, n):
        """Clocks from ``start`` to the last distance."""
        slots = m * self.slots(n) + self.ahead + n - 1
        return self.SETUP + self.slot * slots + self.LATENCY

    def elaborate(self, platform):
        m = Module()
        fields, lanes = self.instruction, self.params.vector
        running, opening, fresh = Signal(), Signal(), Signal()
        phase = Signal(range(self.slot))
        slots, left, unread = (Signal(INDEX_BITS, reset_less=True) for _ in range(3))
        row = Signal(range(MAX_M + 1), reset_less=True)
        # Whether there is a row to search, and one whose distances are wanted.
        searching, following = Signal(), Signal()
        lane = Signal(range(lanes), reset_less=True)
        base, word, label_word = (Signal(ADDRESS_BITS, reset_less=True) for _ in range(3))
        label, until = Signal(INDEX_BITS, reset_less=True), Signal(INDEX_BITS, reset_less=True)

        def begin_row():
            m.d.sync += [left.eq(slots), unread.eq(fields.n), lane.eq(0), opening.eq(1),
                         fresh.eq(1), until.eq(label), phase.eq(0)]

        # Walk over the slots of a row, its words and lanes; the label is counted down to 0.
        active = Signal()
        m.d.comb += active.eq((unread != 0) & ~opening if self.ahead else unread != 0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += slots.eq(fields.n + self.ahead)
                with m.If(self.start):
                    m.next = "LENGTH"
            with m.State("LENGTH"):
                shortest = self.slots(0)
                with m.If(slots < shortest):
                    m.d.sync += slots.eq(shortest)
                m.d.sync += [row.eq(0), base.eq(fields.src0), word.eq(fields.src0),
                             label_word.eq(fields.src1), searching.eq(1), following.eq(0)]
                m.next = "BEGIN"
            with m.State("BEGIN"):
                begin_row()
                m.d.sync += running.eq(1)
                m.next = "WALK"
            with m.State("WALK"):
                m.d.sync += phase.eq(phase + 1)
                with m.If(phase == self.slot - 1):
                    m.d.sync += [phase.eq(0), opening.eq(0), left.eq(left - 1)]
                    with m.If(active):
                        m.d.sync += [fresh.eq(0), unread.eq(unread - 1), until.eq(until - 1),
                                     lane.eq(lane + 1)]
                        with m.If(lane == lanes - 1):
                            m.d.sync += [lane.eq(0), word.eq(word + fields.m)]
                    with m.If(left == 1):
                        begin_row()
                        m.d.sync += [
                            row.eq(row + 1), base.eq(base + 1), word.eq(base + 1),
                            label_word.eq(label_word + 1),
                            searching.eq(row + 1 != fields.m), following.eq(1),
                        ]
                        with m.If(~searching):
                            m.d.sync += running.eq(0)
                            m.next = "IDLE"

        # Ask for a word.
        en, addr = Signal(), Signal(ADDRESS_BITS, reset_less=True)
        request = Signal(_request(lanes))
        m.d.sync += [en.eq(0), request.eq(0), request.lane.eq(lane)]
        with m.If(running):
            with m.If(phase == 0):
                m.d.sync += [en.eq(active & searching), addr.eq(word),
                             request.search.eq(active & searching),
                             request.first.eq(active & fresh)]
            with m.If(phase == 1):
                m.d.sync += [en.eq(active & following), addr.eq(word - 1),
                             request.follow.eq(active & following),
                             request.marked.eq(until == 0), request.last.eq(unread == 1)]
            with m.If(opening & (phase == (0 if self.ahead else 2))):
                m.d.sync += [en.eq(searching), addr.eq(label_word), request.label.eq(searching)]
        m.d.comb += [self.wide_r.en.eq(en), self.wide_r.addr.eq(addr)]

        # It arrives.
        known = request
        for _ in range(READ_LATENCY):
            following_known = Signal(_request(lanes))
            m.d.sync += following_known.eq(known)
            known = following_known
        element = Signal(signed(_LOGIT_BITS), reset_less=True)
        arrived = Signal(_request(lanes))
        m.d.sync += [element.eq(Value.cast(Array(self.wide_r.data[k] for k in range(lanes))[
            known.lane])[:_LOGIT_BITS]), arrived.eq(known)]
        with m.If(known.label):
            m.d.sync += label.eq(self.wide_r.data[0])

        # The maximum of a row is that of the row before once its first element's turn has come.
        highest = Signal(signed(_LOGIT_BITS), reset_less=True)
        top = Signal(signed(_LOGIT_BITS), reset_less=True)
        with m.If(arrived.first):
            m.d.sync += top.eq(highest)
        with m.If(arrived.search & (arrived.first | (element > highest))):
            m.d.sync += highest.eq(element)
        t = Signal(DISTANCE_BITS, reset_less=True)
        m.d.sync += [t.eq(top - element), self.valid.eq(arrived.follow),
                     self.marked.eq(arrived.marked), self.last.eq(arrived.last)]
        m.d.comb += self.t.eq(t)
        return m

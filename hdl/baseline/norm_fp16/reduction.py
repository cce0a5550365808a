"""The order in which the partial sums of the adders are added up."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.norm_fp16.lane import PARTIAL_SUMS

__all__ = ["Reduction"]


def _rounds():
    """Slots that are live in every round: pairs of neighbours are added, in the second's slot, and
    an odd last one is left.

    >>> _rounds()
    [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 3, 5, 7, 9], [3, 7, 9], [7, 9], [9]]
    """
    rounds = [list(range(PARTIAL_SUMS))]
    while len(rounds[-1]) > 1:
        live = rounds[-1]
        rounds.append(live[1::2] + live[len(live) // 2 * 2:])
    return rounds


class Reduction(wiring.Component):
    """Adds up the partial sums that go round in the adders; ``sim.model.norm_fp16.tree``.

    Sums are told apart by *slots*, the cycle modulo ``PARTIAL_SUMS`` in which one leaves the adder.
    A round takes all slots once: of a pair, the first is held, and added to the second when that
    comes. After the last round the sum of all is held, and ``done`` pulses one cycle later.

    Members
    -------
    set : In(1)
    slot : In(range(PARTIAL_SUMS))
        With ``set``, the slot of the next cycle.
    start : In(1)
        Begin with the next slot 0.
    halved : In(1)
        Taken with ``start``: only the odd slots have sums.
    last_slot : Out(1)
        The slot of this cycle is the last one.
    hold, join : Out(1)
        For the lanes.
    done : Out(1)
    """
    ROUNDS = len(_rounds())

    def __init__(self):
        super().__init__({
            "set": In(1),
            "slot": In(range(PARTIAL_SUMS)),
            "start": In(1),
            "halved": In(1),
            "last_slot": Out(1),
            "hold": Out(1),
            "join": Out(1),
            "done": Out(1),
        })

    @classmethod
    def cycles(cls, halved):
        """Cycles from slot 0 to ``done``."""
        return (cls.ROUNDS - halved) * PARTIAL_SUMS

    def elaborate(self, platform):
        m = Module()
        slot = Signal(range(PARTIAL_SUMS))
        round_ = Signal(range(self.ROUNDS))
        waiting, busy = Signal(), Signal()
        end = Signal()
        m.d.comb += [self.last_slot.eq(slot == PARTIAL_SUMS - 1),
                     end.eq(busy & self.last_slot & (round_ == self.ROUNDS - 1))]
        m.d.sync += self.done.eq(end)
        with m.If(self.set):
            m.d.sync += slot.eq(self.slot)
        with m.Elif(self.last_slot):
            m.d.sync += slot.eq(0)
        with m.Else():
            m.d.sync += slot.eq(slot + 1)
        with m.If(self.start):
            m.d.sync += [waiting.eq(1), round_.eq(self.halved)]
        with m.Elif(self.last_slot & waiting):
            m.d.sync += [waiting.eq(0), busy.eq(1)]
        with m.Elif(self.last_slot & busy):
            m.d.sync += [round_.eq(round_ + 1), busy.eq(~end)]
        with m.If(busy), m.Switch(round_):
            for number, live in enumerate(_rounds()):
                with m.Case(number):
                    m.d.comb += [self.hold.eq(_is_one_of(slot, live[::2])),
                                 self.join.eq(_is_one_of(slot, live[1::2]))]
        return m


def _is_one_of(slot, slots):
    return Const(sum(1 << each for each in slots), PARTIAL_SUMS).bit_select(slot, 1)

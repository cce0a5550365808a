"""Elements that come one by one, as words of a tensor."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, WritePort
from hdl.params import INDEX_BITS, MAX_M
from hdl.unit import INSTRUCTION_LAYOUT, wide_word

__all__ = ["RowWriter"]


class RowWriter(wiring.Component):
    """Writes a tensor whose elements come row after row, a word with its last element. Lanes
    beyond the last column get what the lane held before.

    Parameters
    ----------
    params : hdl.params.Params
    bits : int
        Width of an element, signed.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields m, n, dst0.
    valid : In(1)
    i : In(signed(bits))
    wide_w : Out(WritePort(wide_word(params)))
        In the clock after the element.
    finished : Out(1)
        From the last write on, until the next ``start``.
    """
    def __init__(self, params, bits):
        self.params = params
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "valid": In(1),
            "i": In(signed(bits)),
            "wide_w": Out(WritePort(wide_word(params))),
            "finished": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        fields, lanes = self.instruction, self.params.vector
        rows, left = Signal(range(MAX_M + 1)), Signal(INDEX_BITS, reset_less=True)
        lane = Signal(range(lanes), reset_less=True)
        base, place = Signal(ADDRESS_BITS, reset_less=True), Signal(ADDRESS_BITS, reset_less=True)
        en, addr = Signal(), Signal(ADDRESS_BITS, reset_less=True)
        word = Signal(wide_word(self.params), reset_less=True)
        m.d.comb += [self.finished.eq(rows == 0), self.wide_w.en.eq(en),
                     self.wide_w.addr.eq(addr), self.wide_w.data.eq(word)]

        m.d.sync += [en.eq(0), addr.eq(place)]
        with m.If(self.start):
            m.d.sync += [rows.eq(fields.m), left.eq(fields.n), lane.eq(0), base.eq(fields.dst0),
                         place.eq(fields.dst0)]
        with m.Elif(self.valid):
            with m.Switch(lane):
                for number in range(lanes):
                    with m.Case(number):
                        m.d.sync += word[number].eq(self.i)
            m.d.sync += [left.eq(left - 1), lane.eq(lane + 1)]
            with m.If(lane == lanes - 1):
                m.d.sync += [en.eq(1), lane.eq(0), place.eq(place + fields.m)]
            with m.If(left == 1):
                m.d.sync += [en.eq(1), lane.eq(0), left.eq(fields.n), rows.eq(rows - 1),
                             base.eq(base + 1), place.eq(base + 1)]
        return m

"""What the sequencer sees of every unit, and the shapes that units share."""

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import INSTRUCTION
from hdl.params import INDEX_BITS, WIDE_BITS

__all__ = ["GROUP_BITS", "GROUP_WORD", "INSTRUCTION_LAYOUT", "ORDER_ENTRY", "UnitPort",
           "lanes_word", "quant_word", "wide_word"]

#: One instruction; the fields of :data:`hdl.instructions.INSTRUCTION`.
INSTRUCTION_LAYOUT = data.StructLayout(dict(INSTRUCTION))

#: Width of a word of the group table: a group, or a row's largest magnitude while one is sought.
GROUP_BITS = 32

#: What ``SORT`` leaves in a word of the group table: the group, and the slot of its index.
GROUP_WORD = data.StructLayout({
    "group": 4,
    #: The slot is ``place + depth * (row + rows * tile)``: lane ``place + depth * row`` of a word.
    "place": 4, "row": 8, "tile": 16,
})

#: A word of the order table: which index of the inner dimension takes a slot.
ORDER_ENTRY = data.StructLayout({
    "index": INDEX_BITS,
    #: The slot is padding.
    "pad": 1,
})


def wide_word(params):
    """A word of the wide memory: one wide element per lane."""
    return data.ArrayLayout(signed(WIDE_BITS), params.vector)


def quant_word(params):
    """A word of the quantised memory: a row of the array's operands, by slot."""
    return data.ArrayLayout(signed(params.bits), params.slots)


def lanes_word(params, bits):
    """A word of the masters' or the velocities' memory: one number of so many bits per lane."""
    return data.ArrayLayout(signed(bits), params.vector)


class UnitPort(wiring.Signature):
    """The control port of a unit, from the unit's point of view.

    The sequencer pulses ``start`` for one cycle; ``instruction`` holds from then until ``done``,
    which the unit pulses for one cycle when its last write has been issued. Ports of a unit that
    is not busy have ``en`` low.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
    done : Out(1)
    clamped : Out(8)
        Elements clamped in this cycle; the sequencer sums them up.
    """
    def __init__(self):
        super().__init__({
            "start": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "done": Out(1),
            "clamped": Out(8),
        })

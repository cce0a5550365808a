"""Which rows of images a move takes: those that the outputs of a convolution see with one tap."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.instructions import POSITION_BITS, MoveFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT
from hdl.windows import WindowWords

__all__ = ["Gather"]

#: An address with half words; a position with half inputs, outside of the image too. What is left
#: of a line of outputs and of its lines, after this one and less one: below zero at the last.
_HALVES, _POSITION, _LEFT = unsigned(ADDRESS_BITS + 1), signed(POSITION_BITS), signed(9)


class Gather(wiring.Component):
    """The rows of one output after the other; ``sim.model.convolution.windows`` with one tap.

    It is at the first output ``LATENCY`` cycles after ``start``, and after a ``step`` with
    ``last``.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields flags, src1, tab0, key0.
    step : In(1)
        The next output, at least two cycles after the step before.
    last : In(1)
        With ``step``: the first one comes next.
    windows : Out(1)
        Whether there is anything to gather; steady.
    offset : Out(ADDRESS_BITS)
        The row's word less that of the first row, modulo ``2**ADDRESS_BITS``. In the cycle of
        ``step`` and the one after, as ``inside``.
    inside : Out(1)
        There is such a row.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    """
    #: The words, where the first output is, what follows from it.
    LATENCY = WindowWords.WORDS + READ_LATENCY + 3

    def __init__(self):
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "step": In(1), "last": In(1),
            "windows": Out(1), "offset": Out(ADDRESS_BITS), "inside": Out(1),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
        })

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction
        m.submodules.words = words = WindowWords()
        connect(m, words.group_r, flipped(self.group_r))
        sizes, image, steps = words.sizes, words.image, words.steps
        windows = (fields.flags & MoveFlag.WINDOWS).any()
        m.d.sync += self.windows.eq(windows)
        m.d.comb += [words.start.eq(self.start & windows), words.instruction.eq(fields)]

        # The output: where it sees the image, and the word of position 0 of that line.
        columns, lines, line = Signal(_LEFT), Signal(_LEFT), Signal(_HALVES)
        at_x, at_y = Signal(_POSITION), Signal(_POSITION)
        x, y = (fields.key0.word_select(half, 16)[:POSITION_BITS] for half in range(2))

        # Until the first step it is the first one, whatever the words say meanwhile.
        opening, down = Signal(), Signal(_HALVES)
        with m.If(self.start):
            m.d.sync += opening.eq(1)
        with m.Elif(self.step):
            m.d.sync += opening.eq(0)
        again = Mux(self.step, self.last, opening)
        new_line, new_image = again | columns[-1], again | lines[-1]
        m.d.sync += down.eq(sizes.width << steps.stride_y)
        with m.If(self.step | opening):
            m.d.sync += [
                columns.eq(Mux(new_line, sizes.out_width - 2, columns - 1)),
                at_x.eq(Mux(new_line, x, at_x + (1 << steps.stride_x))),
            ]
            with m.If(new_line):
                m.d.sync += [
                    # Rounded down it was that of an image: its lowest bit is the position's.
                    line.eq(Mux(again, Cat(y[0] & sizes.width[0], fields.src1),
                                line + Mux(lines[-1], image.image_step, down))),
                    lines.eq(Mux(new_image, sizes.out_height - 2, lines - 1)),
                    at_y.eq(Mux(new_image, y, at_y + (1 << steps.stride_y))),
                ]

        # Its row.
        m.d.sync += [
            self.offset.eq((line + at_x)[1:]),
            # A position below zero is a large one.
            self.inside.eq(~at_x[0] & (at_x.as_unsigned()[1:] < sizes.width)
                           & ~at_y[0] & (at_y.as_unsigned()[1:] < sizes.height)),
        ]
        return m

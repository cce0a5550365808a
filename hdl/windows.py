"""Which words a GEMM streams: rows of a tensor, or the windows of a convolution; the tables that
say so."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.skew import register
from hdl.chain import SelectAdd
from hdl.instructions import POSITION_BITS, WINDOW_RUN, WINDOW_TABLE, GemmFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.params import MAX_M
from hdl.unit import GROUP_BITS, INSTRUCTION_LAYOUT

__all__ = ["WALK", "Walk", "WindowTable", "WindowWords"]

#: An address with half words; a position with half inputs, outside of the image too; what one step
#: of a position takes at most.
_HALVES = unsigned(ADDRESS_BITS + 1)
_POSITION = signed(POSITION_BITS)
_STEP = unsigned(4)
#: What is left of a line of outputs, of its lines, of a tap's words and of a line of the kernel,
#: after this one and less one: below zero at the last. Of a plain operand there is no end to them.
_COLUMNS, _LINES, _PARTS, _PLACES = signed(10), signed(9), signed(14), signed(4)

#: What :class:`Walk` needs to know of an instruction; positions are in half inputs, addresses in
#: half words.
WALK = data.StructLayout({
    #: The first line of the first tap;
    "line": _HALVES,
    #: where it begins, and the first output from there.
    "x": _POSITION, "y": _POSITION, "first_x": _POSITION, "first_y": _POSITION,
    #: From an output to the next, from a tap to the next.
    "step_x": _STEP, "step_y": _STEP, "step_tap": _STEP,
    #: The same of addresses: to the next line of outputs, to the next image, to the next line of
    #: taps; to the next word of a tap.
    "down": _HALVES, "image": _HALVES, "tap": _HALVES, "part": _HALVES,
    #: Of the image.
    "width": range(MAX_M + 1), "height": range(1 << 8),
    "columns": _COLUMNS, "first_columns": _COLUMNS, "lines": _LINES, "first_lines": _LINES,
    "parts": _PARTS, "places": _PLACES,
})


def _word(layout):
    """A word of the group table with these fields."""
    return data.StructLayout({**dict(layout), "rest": GROUP_BITS - sum(
        width for _, width in layout)})


class WindowWords(wiring.Component):
    """Reads the words ``WINDOW_TABLE``, and ``WINDOW_RUN`` of an instruction that has one.

    They are there ``WORDS + READ_LATENCY + 1`` cycles after ``start``, or one more with that.

    Parameters
    ----------
    run : bool
        There is a word ``WINDOW_RUN`` at dst1.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields tab0, dst1.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    sizes, image, steps : Out
        The words of ``WINDOW_TABLE``; they hold.
    run : Out
        ``WINDOW_RUN``, where it is read.
    """
    WORDS = len(WINDOW_TABLE)

    def __init__(self, *, run=False):
        layouts = {"sizes": WINDOW_TABLE[0], "image": WINDOW_TABLE[1], "steps": WINDOW_TABLE[2],
                   **({"run": WINDOW_RUN} if run else {})}
        self._names = list(layouts)
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))),
            **{name: Out(_word(layout)) for name, layout in layouts.items()},
        })

    def elaborate(self, platform):
        m = Module()
        fields, words = self.instruction, [Value.cast(getattr(self, name)) for name in self._names]
        count, busy = Signal(range(len(words) + READ_LATENCY)), Signal()
        with m.If(self.start):
            m.d.sync += [busy.eq(1), count.eq(0)]
        with m.Elif(busy):
            m.d.sync += [count.eq(count + 1), busy.eq(count != len(words) + READ_LATENCY - 1)]
        m.d.comb += [
            self.group_r.en.eq(busy & (count < len(words))),
            self.group_r.addr.eq(Mux(count == self.WORDS, fields.dst1, fields.tab0 + count)),
        ]
        # What is read enters at the far end.
        with m.If(busy & (count >= READ_LATENCY)):
            m.d.sync += [word.eq(following) for word, following in zip(
                words, [*words[1:], self.group_r.data], strict=True)]
        return m


class WindowTable(wiring.Component):
    """What the tables and the instruction say of A, ready for :class:`Walk`.

    Of a plain operand, an image of one line without an end, it is there in the cycle after
    ``start``; with ``WINDOWS``, whose words are read first, ``LATENCY`` cycles after it, before
    weights of the first tile could be loaded.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        From the cycle before ``start`` on.
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
    o : Out(WALK)
        Holds.
    """
    #: A request in each cycle from the one after ``start`` on; kept; what follows from it.
    LATENCY = 1 + WindowWords.WORDS + 1 + READ_LATENCY + 1

    def __init__(self):
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT),
            "group_r": Out(ReadPort(unsigned(GROUP_BITS))), "o": Out(WALK),
        })

    def elaborate(self, platform):
        m = Module()
        fields, o = self.instruction, self.o
        windows = Signal()
        m.d.sync += windows.eq((fields.flags & GemmFlag.WINDOWS).any())

        m.submodules.words = words = WindowWords(run=True)
        connect(m, words.group_r, flipped(self.group_r))
        m.d.comb += [words.start.eq(self.start & windows), words.instruction.eq(fields)]
        sizes, image, steps, run = words.sizes, words.image, words.steps, words.run

        first_y = (run.first_y << steps.stride_y) - image.pad_y
        with m.If(windows):
            m.d.sync += [
                # Rounded down it was that of an image: its lowest bit is the position's.
                o.line.eq(Cat(first_y[0] & sizes.width[0], fields.src0 + run.first_line)),
                o.x.eq(-image.pad_x), o.first_x.eq(run.first_x << steps.stride_x),
                o.y.eq(-image.pad_y), o.first_y.eq(run.first_y << steps.stride_y),
                o.step_x.eq(1 << steps.stride_x), o.step_y.eq(1 << steps.stride_y),
                o.step_tap.eq(1 << steps.dilation),
                o.down.eq(sizes.width << steps.stride_y), o.image.eq(image.image_step),
                o.tap.eq(sizes.width << steps.dilation), o.part.eq(fields.key1[:16] << 1),
                o.width.eq(sizes.width), o.height.eq(sizes.height),
                o.columns.eq(sizes.out_width - 2), o.lines.eq(sizes.out_height - 2),
                o.first_columns.eq(sizes.out_width - run.first_x - 2),
                o.first_lines.eq(sizes.out_height - run.first_y - 2),
                o.parts.eq(steps.channel_tiles - 2), o.places.eq(image.kernel_width - 2),
            ]
        with m.Else():
            m.d.sync += [
                o.line.eq(fields.src0 << 1), o.x.eq(0), o.first_x.eq(0), o.y.eq(0),
                o.first_y.eq(0), o.step_x.eq(2),
                o.part.eq((fields.m + fields.key1[:16]) << 1),
                o.width.eq(MAX_M), o.height.eq(1),
                # No counter of these ends.
                o.first_columns.eq(MAX_M), o.parts.eq((1 << len(o.parts) - 1) - 1),
            ]
        return m


class Walk(wiring.Component):
    """The addresses of one row of A after the other; ``sim.model.convolution.windows``.

    Tiles follow each other as the taps of a kernel do, each with a tile for every word of its
    channels, and all of them again for the next column tile. The rows of one are the outputs. What
    is at a half, or outside of the image, is not ``inside``, and not to be read.

    A row's address comes a cycle after the row. Of a tile's first row it is the one of the cycle
    before that stood ``waiting``.

    Parameters
    ----------
    mapped : bool
        Adders are cells of the ECP5, :mod:`hdl.chain`.

    Members
    -------
    start : In(1)
    i : In(WALK)
        Holds from three cycles before the first ``taken`` on.
    waiting : In(1)
        The next row is a tile's first; else it is the one after that of this cycle.
    taken : In(1)
        A tile's first row, at least four cycles after that of the tile before.
    final : In(1)
        The tile that comes next is a column tile's last; from two cycles after the ``taken`` of the
        one before to the cycle of its own.
    addr : Out(ADDRESS_BITS), inside : Out(1)
        Of the row of the cycle before.
    """
    def __init__(self, *, mapped=False):
        self.mapped = mapped
        super().__init__({
            "start": In(1), "i": In(WALK), "waiting": In(1), "taken": In(1), "final": In(1),
            "addr": Out(ADDRESS_BITS), "inside": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        walk = self.i

        # The tile that comes next: its tap and word, where it begins, and where its tap does.
        part, place = Signal(_PARTS), Signal(_PLACES)
        base, tap = Signal(_HALVES), Signal(_HALVES)
        x, y = Signal(_POSITION), Signal(_POSITION)
        began, opening = register(m, "began", self.taken), Signal()
        with m.If(self.start):
            m.d.sync += opening.eq(1)
        with m.Elif(self.taken):
            m.d.sync += opening.eq(0)
        last_part, last_place = part[-1], place[-1]
        # Known cycles before: all else follows from registers.
        last_tap = register(m, "last_tap", last_part | self.final)
        last_tap_line = register(m, "last_tap_line", last_part & last_place | self.final)
        restart = opening | register(m, "last", self.final)
        step = register(m, "step", Mux(last_part, Mux(last_place, walk.tap, 0), walk.part))
        following = register(m, "following", self._add(m, "next_base", step, last_part, tap, base))
        with m.If(opening | began):
            m.d.sync += [base.eq(Mux(restart, walk.line, following)),
                         part.eq(Mux(opening | last_tap, walk.parts, part - 1))]
        with m.If(opening | began & last_tap):
            m.d.sync += [tap.eq(Mux(restart, walk.line, following)),
                         place.eq(Mux(opening | last_tap_line, walk.places, place - 1)),
                         x.eq(Mux(opening | last_tap_line, walk.x, x + walk.step_tap))]
        with m.If(opening | began & last_tap_line):
            m.d.sync += y.eq(Mux(restart, walk.y, y + walk.step_tap))
        first_x, first_y = (register(m, f"first_{name}", (position + offset)[:len(position)])
                            for name, position, offset in (("x", x, walk.first_x),
                                                           ("y", y, walk.first_y)))

        # The row.
        columns, lines, line = Signal(_COLUMNS), Signal(_LINES), Signal(_HALVES)
        at_x, from_x, at_y, from_y = (Signal(_POSITION, name=name)
                                      for name in ("at_x", "from_x", "at_y", "from_y"))
        last_column, last_line = columns[-1], lines[-1]
        # What begins anew does so at once, so that little follows the sums.
        new_line, new_image = self.waiting | last_column, self.waiting | last_line

        def first(of_tile, of_line):
            return Mux(self.waiting, of_tile, of_line)

        below = self._add(m, "below", line, last_line, walk.image, walk.down)
        m.d.sync += [
            columns.eq(Mux(new_line, first(walk.first_columns, walk.columns), columns - 1)),
            at_x.eq(Mux(new_line, first(first_x, from_x), at_x + walk.step_x)),
        ]
        with m.If(new_line):
            m.d.sync += [
                line.eq(first(base, below)),
                lines.eq(Mux(new_image, first(walk.first_lines, walk.lines), lines - 1)),
                at_y.eq(Mux(new_image, first(first_y, from_y), at_y + walk.step_y)),
            ]
        with m.If(self.waiting):
            m.d.sync += [from_x.eq(x), from_y.eq(y)]

        # Its address, and whether it is there.
        within = []
        for name, position, size in (("x", at_x, walk.width), ("y", at_y, walk.height)):
            # A position below zero is a large one.
            within.append(register(m, f"within_{name}",
                                   ~position[0] & (position.as_unsigned()[1:] < size)))
        m.d.comb += [
            self.addr.eq(register(m, "address", (line + at_x)[:len(line)])[1:]),
            self.inside.eq(within[0] & within[1]),
        ]
        return m

    def _add(self, m, name, step, select, first, value):
        """``(select ? first : value) + step``."""
        add = SelectAdd(a=_HALVES, b=_HALVES, c=_HALVES, o=_HALVES, mapped=self.mapped)
        m.submodules[name] = add
        m.d.comb += [add.a.eq(step), add.b.eq(first), add.c.eq(value), add.select.eq(select)]
        return add.o

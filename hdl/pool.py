"""Sums over the windows of images, and gradients spread over them."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import POOL_GEOMETRY, PoolFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort, WritePort, announced_ahead
from hdl.params import INDEX_BITS, WIDE_BITS
from hdl.unit import INSTRUCTION_LAYOUT, UnitPort, quant_word, wide_word

__all__ = ["Pool"]

_GEOMETRY = data.StructLayout(dict(POOL_GEOMETRY))

#: A position of an image on its way.
_POSITION = data.StructLayout({
    "valid": 1,
    # The next one is at the beginning of the window's next line, of the window to the right, or
    # after all so far; else it is to the right.
    "line": 1, "window": 1, "band": 1,
    # Of its window: whether it is the first, the last; whether the window is a whole one.
    "first": 1, "last": 1, "whole": 1,
    #: It is the last of its column tile, of the instruction.
    "tile": 1, "end": 1,
})


class Pool(wiring.Component):
    """Sums of windows, or with ``SPREAD`` a window's number for each of its positions; the unit of
    ``POOL``, ``sim.model.pool``.

    A clock for each position of the images and column tile, window after window. What is left over
    at the edges makes windows too, with fewer positions: nothing is written of them, or with
    ``SPREAD`` zeros. A window's row and codes are read once, for its first position; codes are
    announced before, and everything is as late as they are. The source may be the destination, with
    ``SPREAD`` if windows have one position. Nothing is clamped and nothing stalls.

    Parameters
    ----------
    params : hdl.params.Params
        With masters.

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, dst0, tab0, key0.
    wide_r : Out(ReadPort(wide_word(params)))
    wide_w : Out(WritePort(wide_word(params)))
    quant_r : Out(ReadPort(quant_word(params)))
    quant_ahead : Out(1)
        Codes are read :func:`~hdl.memory.announced_ahead` cycles from now.
    """
    def __init__(self, params):
        self.params = params
        # Stages: of a position's read, of what it reads, and of its write.
        self.read = 1 + announced_ahead(params)
        self.arrived = self.read + READ_LATENCY
        self.write = self.arrived + 1
        super().__init__({
            "control": Out(UnitPort()),
            "wide_r": Out(ReadPort(wide_word(params))),
            "wide_w": Out(WritePort(wide_word(params))),
            "quant_r": Out(ReadPort(quant_word(params))),
            "quant_ahead": Out(1),
        })

    def cycles(self, rows, n):
        """Cycles from ``start`` to ``done``, for images of so many rows, ``m height width``."""
        return -(-n // self.params.vector) * rows + self.write

    def elaborate(self, platform):
        m = Module()
        control, fields, vector = self.control, self.control.instruction, self.params.vector
        spread, clipping = ((fields.flags & flag).any() for flag in PoolFlag)
        m.submodules.walk = walk = _Walk(vector)
        m.submodules.place = place = _Place()
        m.d.comb += [walk.start.eq(control.start), walk.instruction.eq(fields)]
        at = [walk.o]
        for stage in range(1, self.write + 1):
            position = Signal(_POSITION, name=f"at_{stage}")
            m.d.sync += position.eq(at[-1])
            at.append(position)
        read, arrived, write = at[self.read], at[self.arrived], at[self.write]

        # Addresses: a row of the images for each position, and one for each window.
        reading, writing, rowed = Signal(), Signal(), Signal()
        window = Signal(ADDRESS_BITS)
        m.d.comb += [
            reading.eq(read.valid & (~spread | read.first & read.whole)),
            writing.eq(write.valid & (spread | write.last & write.whole)),
            rowed.eq(Mux(spread, reading, writing)),
            place.start.eq(control.start), place.geometry.eq(fields.key0),
            place.base.eq(Mux(spread, fields.dst0, fields.src0)),
            place.position.eq(Mux(spread, write, read)),
            self.wide_r.en.eq(reading), self.wide_r.addr.eq(Mux(spread, window, place.o)),
            self.wide_w.en.eq(writing), self.wide_w.addr.eq(Mux(spread, place.o, window)),
            control.done.eq(write.valid & write.end),
        ]
        with m.If(control.start):
            m.d.sync += window.eq(Mux(spread, fields.src0, fields.dst0))
        with m.Elif(rowed):
            m.d.sync += window.eq(window + 1)

        # Codes: column tiles lie beside each other in a word, so that most begin where the one
        # before did.
        parts = self.params.slots // vector
        codes, tile, after = (Signal(ADDRESS_BITS, name=f"codes_{name}")
                              for name in ("row", "tile", "after"))
        part, arrived_part = Signal(parts), Signal(parts)
        m.d.comb += [
            self.quant_ahead.eq(at[1].valid & at[1].first & at[1].whole & clipping),
            self.quant_r.en.eq(reading & clipping), self.quant_r.addr.eq(codes),
            after.eq(codes + reading),
        ]
        m.d.sync += codes.eq(after)
        with m.If(control.start):
            m.d.sync += [codes.eq(fields.tab0), tile.eq(fields.tab0),
                         part.eq(1), arrived_part.eq(1)]
        with m.If(read.valid & read.tile):
            m.d.sync += part.eq(part.rotate_left(1))
            with m.If(part[-1]):
                m.d.sync += tile.eq(after)
            with m.Else():
                m.d.sync += codes.eq(tile)
        with m.If(arrived.valid & arrived.tile):
            m.d.sync += arrived_part.eq(arrived_part.rotate_left(1))

        # Every lane: add up, or keep what has come for a window. u = 2**bits - 1 is stored as
        # 2**(bits-1) - 1.
        top = 2 ** (self.params.bits - 1) - 1
        clear, take = Signal(), Signal()
        m.d.comb += [
            clear.eq(~arrived.valid | arrived.last | spread),
            take.eq(~spread | arrived.first),
        ]
        for k in range(vector):
            so_far, o = (Signal(signed(WIDE_BITS), name=f"{name}_{k}", reset_less=True)
                         for name in ("so_far", "o"))
            total = so_far + self.wide_r.data[k]
            m.d.sync += so_far.eq(total)
            with m.If(clear):
                m.d.sync += so_far.eq(0)
            clipped = clipping & Cat(
                arrived_part[number] & (self.quant_r.data[number * vector + k] == top)
                for number in range(parts)).any()
            with m.If(take):
                m.d.sync += o.eq(total)
                with m.If(spread & (~arrived.whole | clipped)):
                    m.d.sync += o.eq(0)
            m.d.comb += self.wide_w.data[k].eq(o)
        return m


class _Walk(wiring.Component):
    """All positions, one a clock from the cycle after ``start``: of a window, line after line; the
    windows of a line of them, these lines, images, column tiles.

    Parameters
    ----------
    vector : int
        Columns of a tile.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
    o : Out(_POSITION)
    """
    def __init__(self, vector):
        self.vector = vector
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "o": Out(_POSITION),
        })

    def elaborate(self, platform):
        m = Module()
        fields, geometry = self.instruction, data.View(_GEOMETRY, self.instruction.key0)
        busy, images, left = Signal(), Signal(INDEX_BITS), Signal(INDEX_BITS)
        axes = []
        for axis, size, window in (("x", geometry.width, geometry.window_width),
                                   ("y", geometry.height, geometry.window_height)):
            # A position's number in the window, from 1; what the image has from the window on.
            number, there = (Signal(8, name=f"{axis}_{name}") for name in ("number", "there"))
            beyond = Signal(signed(9), name=f"{axis}_beyond")
            last, more = Signal(name=f"{axis}_last"), Signal(name=f"{axis}_more")
            m.d.comb += [
                beyond.eq(there - window), more.eq(~beyond[-1] & beyond.any()),
                last.eq((number == window) | (number == there)),
            ]
            axes.append((size, number, there, beyond, last, more))
        ((width, x, columns, beyond_x, last_x, more_x),
         (height, y, lines, beyond_y, last_y, more_y)) = axes

        window, image, tile = Signal(), Signal(), Signal()
        m.d.comb += [
            window.eq(last_x & last_y), image.eq(window & ~more_x & ~more_y),
            tile.eq(image & (images == 1)),
            self.o.valid.eq(busy),
            self.o.line.eq(last_x & ~last_y), self.o.window.eq(window & more_x),
            self.o.band.eq(window & ~more_x),
            self.o.first.eq((x == 1) & (y == 1)), self.o.last.eq(window),
            self.o.whole.eq(~beyond_x[-1] & ~beyond_y[-1]),
            self.o.tile.eq(tile), self.o.end.eq(tile & (left <= self.vector)),
        ]
        m.d.sync += x.eq(x + 1)
        with m.If(last_x):
            m.d.sync += x.eq(1), y.eq(y + 1)
        with m.If(window):
            m.d.sync += y.eq(1), columns.eq(beyond_x)
            with m.If(~more_x):
                m.d.sync += columns.eq(width), lines.eq(beyond_y)
        with m.If(image):
            m.d.sync += lines.eq(height), images.eq(images - 1)
        with m.If(tile):
            m.d.sync += images.eq(fields.m), left.eq(left - self.vector)
        with m.If(self.o.end):
            m.d.sync += busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                busy.eq(1), x.eq(1), y.eq(1), columns.eq(width), lines.eq(height),
                images.eq(fields.m), left.eq(fields.n),
            ]
        return m


class _Place(wiring.Component):
    """The address of a walk's positions, of which ``position`` is the one that is there.

    Members
    -------
    start : In(1)
        The next cycle is before the first.
    base : In(ADDRESS_BITS)
        With ``start``.
    geometry : In(_GEOMETRY)
    position : In(_POSITION)
    o : Out(ADDRESS_BITS)
    """
    def __init__(self):
        super().__init__({
            "start": In(1), "base": In(ADDRESS_BITS), "geometry": In(_GEOMETRY),
            "position": In(_POSITION), "o": Out(ADDRESS_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        position = self.position
        # Where the window begins, and its line.
        window, line, following = (Signal(ADDRESS_BITS, name=name)
                                   for name in ("window", "line", "following"))
        m.d.comb += following.eq(
            Mux(position.line, line, Mux(position.window, window, self.o))
            + Mux(position.line, self.geometry.width,
                  Mux(position.window, self.geometry.window_width, 1)))
        with m.If(self.start):
            m.d.sync += self.o.eq(self.base), line.eq(self.base), window.eq(self.base)
        with m.Elif(position.valid):
            m.d.sync += self.o.eq(following)
            with m.If(position.line | position.window | position.band):
                m.d.sync += line.eq(following)
            with m.If(position.window | position.band):
                m.d.sync += window.eq(following)
        return m

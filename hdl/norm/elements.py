"""Walks over rows and columns of a tensor, element by element."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY
from hdl.params import INDEX_BITS, MAX_N, WIDE_BITS

__all__ = ["ElementReader", "ElementWriter", "pick"]


def pick(lanes, index):
    """The lane of that number."""
    return Array(lanes)[index] if len(lanes) > 1 else lanes[0]


class ElementReader(wiring.Component):
    """Issues the reads of a row's elements, or with ``down`` of a column's, from the cycle after
    ``start``.

    One element per cycle, of the first tensor; or ``spaced``, one in as many cycles as there are
    tensors, each of which is read in its turn.

    Parameters
    ----------
    lanes : int
        Lanes of a word.
    heights : tuple of (int or None)
        Of every tensor, from one of its words to the one that has the row's next elements: its
        rows, or None for ``rows``. Only the latter go down, of the others it stays one word.

    Members
    -------
    start : In(1)
    count : In(range(MAX_N + 1))
        Elements, at least 1; taken with ``start``, as what follows is.
    spaced, down : In(1)
    lane : In(range(lanes))
        Of the first element.
    base : In(ADDRESS_BITS) x tensors
        Words of the first element.
    rows : In(INDEX_BITS)
        Holds.
    busy : Out(1)
        There is something left to read.
    first, last : Out(1)
        This cycle reads an element of the first tensor; the last one.
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    arrived : Out(range(lanes))
        The lane of the element whose word is on the read port.
    """
    def __init__(self, lanes, heights):
        self.lanes = lanes
        self.heights = heights
        super().__init__({
            "start": In(1), "count": In(range(MAX_N + 1)),
            "spaced": In(1), "down": In(1), "lane": In(range(lanes)),
            "base": In(ADDRESS_BITS).array(len(heights)), "rows": In(INDEX_BITS),
            "busy": Out(1), "first": Out(1), "last": Out(1),
            "en": Out(1), "addr": Out(ADDRESS_BITS), "arrived": Out(range(lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        count = len(self.heights)
        left, lane = Signal.like(self.count), Signal.like(self.lane)
        spaced, down, wrap = Signal(), Signal(), Signal()
        turn = Signal(count, init=1)
        addresses = [Signal(ADDRESS_BITS, name=f"address_{k}") for k in range(count)]
        m.d.comb += [
            self.busy.eq(left != 0), self.en.eq(self.busy),
            self.first.eq(self.busy & turn[0]), self.last.eq(left == 1),
            self.addr.eq(reduce(or_, (Mux(mine, address, 0)
                                      for mine, address in zip(turn, addresses, strict=True)))),
            wrap.eq(~down & (lane == self.lanes - 1)),
        ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.count), lane.eq(self.lane), turn.eq(1),
                         spaced.eq(self.spaced), down.eq(self.down)]
            m.d.sync += [address.eq(base)
                         for address, base in zip(addresses, self.base, strict=True)]
        with m.Elif(self.busy & spaced & ~turn[-1]):
            m.d.sync += turn.eq(turn << 1)
        with m.Elif(self.busy):
            m.d.sync += turn.eq(1), left.eq(left - 1)
            with m.If(~down):
                m.d.sync += lane.eq(Mux(wrap, 0, lane + 1))
            for address, height in zip(addresses, self.heights, strict=True):
                step = Mux(wrap, self.rows if height is None else height, 0)
                m.d.sync += address.eq(address + step + (down if height is None else 0))
        # The lane of what is read, until it is there.
        way = lane
        for cycle in range(READ_LATENCY):
            following = Signal.like(lane, name=f"lane_{cycle}")
            m.d.sync += following.eq(way)
            way = following
        m.d.comb += self.arrived.eq(way)
        return m


class ElementWriter(wiring.Component):
    """Puts a row's elements into words and writes them, a cycle after a word's last element.

    Lanes beyond the last element of a row are not defined.

    Parameters
    ----------
    lanes : int

    Members
    -------
    start : In(1)
    base : In(ADDRESS_BITS)
        The row's first word, with ``start``.
    rows : In(INDEX_BITS)
        From one of its words to the next; holds.
    put, last : In(1)
        There is an element; it is the row's last.
    i : In(signed(WIDE_BITS))
    en : Out(1)
    addr : Out(ADDRESS_BITS)
    data : Out(ArrayLayout(signed(WIDE_BITS), lanes))
    """
    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({
            "start": In(1), "base": In(ADDRESS_BITS), "rows": In(INDEX_BITS),
            "put": In(1), "last": In(1), "i": In(signed(WIDE_BITS)),
            "en": Out(1), "addr": Out(ADDRESS_BITS),
            "data": Out(data.ArrayLayout(signed(WIDE_BITS), lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        lane, wrap = Signal(range(self.lanes)), Signal()
        m.d.comb += wrap.eq((lane == self.lanes - 1) | self.last)
        m.d.sync += self.en.eq(self.put & wrap)
        with m.If(self.put):
            m.d.sync += lane.eq(Mux(wrap, 0, lane + 1))
            for k in range(self.lanes):
                with m.If(lane == k):
                    m.d.sync += self.data[k].eq(self.i)
        with m.If(self.start):
            m.d.sync += self.addr.eq(self.base), lane.eq(0)
        with m.Elif(self.en):
            m.d.sync += self.addr.eq(self.addr + self.rows)
        return m

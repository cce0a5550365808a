"""Tensors in device memory: where they lie, and moving them.

Element ``(i, j)`` of a tensor of ``rows`` rows is lane ``j % lanes`` of word
``base + (j // lanes) * (rows + more_rows) + i``, with the lanes of its memory.
"""

from collections import namedtuple
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from hdl.params import MAX_M, WIDE_BITS
from hdl.protocol import Space, codes_in_byte
from host.errors import MemoryFullError

__all__ = ["Arena", "Place", "Tensor", "element_bits", "lanes_of", "load", "row_parts", "store",
           "words_of"]

#: What a memory is called, what sizes it, and the most of it.
_OPTIONS = {Space.WIDE: ("wide", "memory", 256), Space.QUANT: ("quantised", "codes", 512),
            Space.MASTER: ("master", "masters", 256)}


def lanes_of(space, params):
    """Elements of a word of a space.

    >>> from hdl.params import Params
    >>> [lanes_of(space, Params(rows=4, depth=2, lanes=1)) for space in Space]
    [1, 8, 1, 1, 1, 1, 8, 1, 8, 2, 9]
    """
    return {Space.QUANT: params.slots, Space.CODES: params.slots, Space.GROUP: 1,
            Space.PROGRAM: 8, Space.PATCH: 9, Space.LOG: 1,
            Space.COLUMN: codes_in_byte(params.bits)}.get(space, params.vector)


def words_of(space, params):
    """Words of a memory that tensors are in."""
    return {Space.WIDE: params.wide_words, Space.QUANT: params.quant_words,
            Space.MASTER: params.master_words, Space.GROUP: params.table_words}[space]


def element_bits(space, params):
    """Bits of an element of one; of tables those that travel."""
    return {Space.QUANT: params.bits, Space.MASTER: params.master_bits}.get(space, WIDE_BITS)


def row_parts(rows, most=MAX_M):
    """``(first, count)`` of as few parts as there are of so many rows for instructions that take
    ``most``, of much the same size: each product loads all weights.

    >>> row_parts(1000)
    [(0, 500), (500, 500)]
    """
    parts = -(-rows // most)
    firsts = [rows * part // parts for part in range(parts + 1)]
    return [(first, after - first) for first, after in pairwise(firsts)]


@dataclass(frozen=True)
class Tensor:
    """A tensor's place: ``rows`` x ``cols`` elements from word ``base`` of ``space``.

    Rows of a taller tensor have ``more_rows`` around them; only ``GEMM`` takes and makes such, and
    ``MOVE`` on machines that keep masters.
    """
    space: Space
    base: int
    rows: int
    cols: int
    more_rows: int = 0

    def view(self, rows, cols):
        """A tensor of another shape at the same place."""
        return Tensor(self.space, self.base, rows, cols)

    def rows_from(self, first, count):
        """``count`` of its rows.

        >>> Tensor(Space.WIDE, 100, 8, 4).rows_from(2, 5)
        Tensor(space=<Space.WIDE: 0>, base=102, rows=5, cols=4, more_rows=3)
        """
        return Tensor(self.space, self.base + first, count, self.cols,
                      self.more_rows + self.rows - count)

    def columns_from(self, first, count, params):
        """``count`` of its columns, from one that begins a word.

        >>> from hdl.params import Params
        >>> Tensor(Space.WIDE, 100, 8, 40).columns_from(16, 10, Params(lanes=4))
        Tensor(space=<Space.WIDE: 0>, base=132, rows=8, cols=10, more_rows=0)
        """
        tile, rest = divmod(first, lanes_of(self.space, params))
        if rest:
            raise ValueError(f"column {first} of a tensor begins no word")
        return Tensor(self.space, self.base + tile * (self.rows + self.more_rows), self.rows,
                      count, self.more_rows)


#: A place that an :class:`Arena` handed out: ``words`` from ``base`` on, for tensors of ``shapes``
#: that take turns.
Place = namedtuple("Place", "space name shapes base words")


class Arena:
    """Hands out the words of one memory from the bottom up.

    Attributes
    ----------
    places : list of Place
        All that were handed out, by arenas made with :meth:`again` too.
    """

    def __init__(self, space, params):
        self.space, self.params = space, params
        self.lanes, self.size = lanes_of(space, params), words_of(space, params)
        self.places = []
        self._next = 0

    @property
    def used(self):
        """Words that have been handed out."""
        return self._next

    @property
    def left(self):
        """Words that are left."""
        return self.size - self._next

    def again(self, base):
        """An arena of the words from one on, to hand out once more."""
        arena = Arena(self.space, self.params)
        arena.places, arena.size, arena._next = self.places, self.size, base
        return arena

    def below(self, count, places):
        """``(below, above)``: arenas of the same words but for the last ones, so many, and of
        these, which have in common the first ``places`` that were handed out here."""
        below, above = Arena(self.space, self.params), Arena(self.space, self.params)
        below.size -= count
        below._next, above._next = self._next, below.size
        below.places = above.places = self.places[:places]
        return below, above

    def words(self, rows, cols):
        """Words that a tensor takes."""
        return -(-cols // self.lanes) * rows

    def bytes(self, words):
        """Bytes that so many words hold.

        >>> from hdl.params import Params
        >>> [Arena(space, Params(masters=8, master_bits=16, lanes=4, velocity_bits=8)).bytes(3)
        ...  for space in (Space.WIDE, Space.QUANT, Space.MASTER)]
        [48, 24, 24]
        """
        return -(-words * self.lanes * element_bits(self.space, self.params) // 8)

    def allocate(self, name, *shapes):
        """A place for a tensor of the first shape that could hold each of ``shapes``."""
        need = max(self.words(*shape) for shape in shapes)
        if need > self.left:
            raise MemoryFullError(self._sentence(name, need, shapes))
        tensor = Tensor(self.space, self._next, *shapes[0])
        self.places.append(Place(self.space, name, shapes, self._next, need))
        self._next += need
        return tensor

    def _sentence(self, name, need, shapes):
        rows, cols = max(shapes, key=lambda shape: self.words(*shape))
        left = self.bytes(self.left)
        return (f"{name} of {rows}x{cols} needs {self.bytes(need)} bytes of the device's "
                f"{_OPTIONS[self.space][0]} memory, {self.bytes(need) - left} more than the {left} "
                f"left of {self.bytes(self.size)}: choose {self._remedy(self._next + need)}")

    def _remedy(self, words):
        """What would make room for so many words, and what a smaller batch leaves free."""
        _, option, limit = _OPTIONS[self.space]
        units = -(-(1 << (words - 1).bit_length()) * self.lanes // 1024)
        ways = [] if self.space == Space.MASTER else ["a smaller batch"]
        if units <= limit and words <= words_of(
                self.space, replace(self.params, **{option: units})):
            ways.append(f"--{option} {units} at least")
        elif units <= limit:
            # More words than an address reaches.
            ways.append("more --lanes" if self.space != Space.QUANT else "more --rows")
        return " or ".join(ways or ["a smaller network"])


def _parts(tensor, params):
    """``(address, count)`` of what a tensor takes, in words as they travel: a word of the
    quantised memory in as many parts as the array has rows."""
    parts = params.rows if tensor.space == Space.QUANT else 1
    words = -(-tensor.cols // lanes_of(tensor.space, params)) * tensor.rows
    return parts * tensor.base, parts * words


def _packed_ways(base, words, cols):
    """What could be written to ``CODES`` for words [tile, row, lane] of so many columns: all with
    the lanes of the longest, or the last tile by itself, each ``(space, address, words)``."""
    tiles, rows, lanes = words.shape
    words = words.reshape(-1, lanes)
    last = (tiles - 1) * rows
    yield [(Space.CODES, base, words[:, :cols])]
    yield [(Space.CODES, base, words[:last]),
           (Space.CODES, base + last, words[last:, :cols - (tiles - 1) * lanes])]


def _column_ways(base, words, each):
    """The same for words [1, row, lane] of one column: to ``COLUMN`` what fills bytes, of ``each``
    words; what is left over at either end to ``CODES``."""
    codes = words[0, :, :1]
    lead = min(-base % each, len(codes))
    last = len(codes) - (len(codes) - lead) % each
    way = [(Space.CODES, base, codes[:lead]),
           (Space.COLUMN, (base + lead) // each, codes[lead:last].reshape(-1, each)),
           (Space.CODES, base + last, codes[last:])]
    yield [one for one in way if len(one[2])]


def store(device, tensor, value):
    """Write the array ``value`` [rows, cols] to a tensor's place; codes packed where the device
    takes them so and that is shorter, which leaves lanes beyond the columns as they were."""
    params = device.params
    lanes = lanes_of(tensor.space, params)
    rows, cols = value.shape
    tiles = -(-cols // lanes)
    padded = np.zeros((rows, tiles * lanes), np.int64)
    padded[:, :cols] = value
    words = padded.reshape(rows, tiles, lanes).transpose(1, 0, 2)
    address, count = _parts(tensor.view(rows, cols), params)
    ways = [[(tensor.space, address, words.reshape(count, -1))]]
    if tensor.space == Space.QUANT and params.masters:
        ways += _packed_ways(tensor.base, words, cols)
        if cols == 1:
            ways += _column_ways(tensor.base, words, lanes_of(Space.COLUMN, params))
    for write in min(ways, key=lambda way: sum(device.write_bytes(space, part.shape)
                                               for space, _, part in way)):
        device.write(*write)


def load(device, tensor):
    """The array [rows, cols] at a tensor's place."""
    lanes = lanes_of(tensor.space, device.params)
    words = device.read(tensor.space, *_parts(tensor, device.params))
    array = words.reshape(-1, tensor.rows, lanes).transpose(1, 0, 2)
    return array.reshape(tensor.rows, -1)[:, :tensor.cols]

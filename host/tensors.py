"""Tensors in device memory: where they lie, and moving them.

Element ``(i, j)`` of a tensor of ``rows`` rows is lane ``j % lanes`` of word
``base + (j // lanes) * (rows + more_rows) + i``, with the lanes of its memory.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hdl.params import MAX_M
from hdl.protocol import Space
from host.errors import MemoryFullError

__all__ = ["Arena", "Tensor", "lanes_of", "load", "row_parts", "store"]


def lanes_of(space, params):
    """Elements of a word of a space.

    >>> from hdl.params import Params
    >>> [lanes_of(space, Params(rows=4, depth=2, lanes=1)) for space in Space]
    [1, 8, 1, 1, 1, 1, 8, 1]
    """
    return {Space.QUANT: params.slots, Space.GROUP: 1, Space.PROGRAM: 8, Space.LOG: 1}.get(
        space, params.vector)


def row_parts(rows):
    """``(first, count)`` of as few parts as there are of so many rows for instructions that take
    ``MAX_M``, of much the same size: each product loads all weights.

    >>> row_parts(1000)
    [(0, 500), (500, 500)]
    """
    parts = -(-rows // MAX_M)
    firsts = [rows * part // parts for part in range(parts + 1)]
    return [(first, after - first) for first, after in pairwise(firsts)]


@dataclass(frozen=True)
class Tensor:
    """A tensor's place: ``rows`` x ``cols`` elements from word ``base`` of ``space``.

    Rows of a taller tensor have ``more_rows`` around them; only ``GEMM`` takes and makes such.
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


class Arena:
    """Hands out the words of one memory from the bottom up."""

    def __init__(self, space, words, lanes):
        self._space = space
        self._words = words
        self._lanes = lanes
        self._next = 0

    @property
    def used(self):
        """Words that have been handed out."""
        return self._next

    @property
    def left(self):
        """Words that are left."""
        return self._words - self._next

    def again(self, base):
        """An arena of the words from one on, to hand out once more."""
        arena = Arena(self._space, self._words, self._lanes)
        arena._next = base
        return arena

    @property
    def end(self):
        """The word after the last one."""
        return self._words

    def below(self, count):
        """An arena of the same words but for the last ones, so many."""
        arena = Arena(self._space, self._words - count, self._lanes)
        arena._next = self._next
        return arena

    def words(self, rows, cols):
        """Words that a tensor takes."""
        return -(-cols // self._lanes) * rows

    def allocate(self, name, *shapes):
        """A place for a tensor of the first shape that could hold each of ``shapes``."""
        need, left = max(self.words(*shape) for shape in shapes), self.left
        if need > left:
            rows, cols = max(shapes, key=lambda shape: self.words(*shape))
            raise MemoryFullError(
                f"{name} of {rows}x{cols} needs {need} words of the device's "
                f"{self._space.name.lower()} memory, {need - left} more than the {left} left "
                f"of {self._words}: choose "
                + ("a larger --masters" if self._space == Space.MASTER
                   else "a smaller batch or a larger --memory"
                   + " or --codes" * (self._space == Space.QUANT)))
        tensor = Tensor(self._space, self._next, *shapes[0])
        self._next += need
        return tensor


def _parts(tensor, params):
    """``(address, count)`` of what a tensor takes, in words as they travel: a word of the
    quantised memory in as many parts as the array has rows."""
    parts = params.rows if tensor.space == Space.QUANT else 1
    words = -(-tensor.cols // lanes_of(tensor.space, params)) * tensor.rows
    return parts * tensor.base, parts * words


def store(device, tensor, value):
    """Write the array ``value`` [rows, cols] to a tensor's place."""
    lanes = lanes_of(tensor.space, device.params)
    rows, cols = value.shape
    tiles = -(-cols // lanes)
    padded = np.zeros((rows, tiles * lanes), np.int64)
    padded[:, :cols] = value
    words = padded.reshape(rows, tiles, lanes).transpose(1, 0, 2)
    address, count = _parts(tensor.view(rows, cols), device.params)
    device.write(tensor.space, address, words.reshape(count, -1))


def load(device, tensor):
    """The array [rows, cols] at a tensor's place."""
    lanes = lanes_of(tensor.space, device.params)
    words = device.read(tensor.space, *_parts(tensor, device.params))
    array = words.reshape(-1, tensor.rows, lanes).transpose(1, 0, 2)
    return array.reshape(tensor.rows, -1)[:, :tensor.cols]

"""Keys of random bits and rates of a training step: numbers, or places in a GPU's memory.

A step that is captured (:mod:`host.torch.captured`) runs again without Python, so what changes
from step to step must lie in memory that is filled anew before each replay.
"""

import torch

__all__ = ["Record", "passes_of", "recording", "take", "take_all", "take_number"]

_ROWS = 4096
_active = None


class Record:
    """What a captured step asks for, in the order in which it asks.

    ``words`` [rows, 4] are keys, ``numbers`` [rows] rates, ``extents`` [rows, 2] the negated
    smallest and the largest element of what is to be checked, over all replays so far.
    """

    def __init__(self, device):
        self.words = torch.zeros((_ROWS, 4), dtype=torch.int32, device=device)
        self.numbers = torch.zeros(_ROWS, dtype=torch.int64, device=device)
        self.extents = torch.full((_ROWS, 2), -torch.inf, dtype=torch.float64, device=device)
        self._words, self._numbers, self._checks = [], [], []
        self._first = {}

    def __enter__(self):
        global _active
        _active = self
        return self

    def __exit__(self, *_):
        global _active
        _active = None

    def fill(self):
        """Before a replay: everything as it is now."""
        self.words[:len(self._words)] = torch.tensor(
            [make() for make in self._words], dtype=torch.int32).view(-1, 4)
        self.numbers[:len(self._numbers)] = torch.tensor(
            [make() for make in self._numbers], dtype=torch.int64)

    def check(self):
        """After the gradients: refuse what must be refused."""
        extents = self.extents[:len(self._checks)].tolist()
        self.extents.fill_(-torch.inf)
        for (low, high), check in zip(extents, self._checks, strict=True):
            check(0.0 - low, high)

    def watch(self, low, high, check):
        """Have a range checked."""
        row = self.extents[len(self._checks)]
        row.copy_(torch.maximum(row, torch.stack((-low, high)).double()))
        self._checks.append(check)

    def passes_of(self, layer):
        """How many passes of the layer this step has seen already."""
        return layer.step - self._first.setdefault(layer, layer.step)

    def rows(self, makers):
        """Keys [n, 4] that the makers will give."""
        start = len(self._words)
        self._words += makers
        return self.words[start:start + len(makers)]

    def number(self, make):
        """A number that the maker will give."""
        self._numbers.append(make)
        return self.numbers[len(self._numbers) - 1]


def recording():
    """The record of the step that is being captured, or None."""
    return _active


def passes_of(layer):
    """Passes that a layer has made since the capture began; 0 otherwise."""
    return _active.passes_of(layer) if _active else 0


def take(make):
    """A key: four whole numbers, or int32 [4] while a step is captured."""
    return _active.rows([make])[0] if _active else make()


def take_all(makers, device):
    """Keys as int32 [n, 4]."""
    if _active:
        return _active.rows(makers)
    return torch.tensor([make() for make in makers], dtype=torch.int32).to(device)


def take_number(make):
    """A whole number, or int64 of no dimension while a step is captured."""
    return _active.number(make) if _active else make()

"""The quantiser: ranges, ShiftQuant groups and rounding.

ShiftQuant is our reconstruction of the method of arXiv 2411.10948 from its abstract and reviews;
the separable groups (one per sample and one per channel, exponents add) are ours.

All functions take wide tensors ``x`` of shape [m, n]. Magnitudes are clamped to ``2**31 - 1``, so
``-2**31`` counts as ``-(2**31 - 1)``.
"""

from dataclasses import dataclass

import numpy as np

from sim.model.rounding import bit_length, floor_divide

__all__ = ["Quantised", "channel_groups", "column_range", "largest_group", "quantise",
           "quantise_gradient", "reciprocal", "sample_groups", "tensor_range"]

_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Quantised:
    """A quantised tensor.

    ``q`` [m, n]: unsigned tensors hold u in ``0 .. 2**b-1``, signed ones q in ``-B .. B``.
    ``range`` [n]: the magnitude that the largest code stands for, per column (all equal unless
    quantised per column). ``rows`` [m] and ``cols`` [n]: groups, or None.
    The value of an element is about ``q * 2**-(rows + cols) * range / Q``.
    """
    q: np.ndarray
    range: np.ndarray
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None


def _magnitude(x):
    return np.minimum(np.abs(np.asarray(x, np.int64)), _LIMIT)


def _clipped(largest, total, count, clip):
    """``min(largest, floor(clip * total / (4 * count)))``, at least 1 if largest is."""
    if clip:
        limit = floor_divide(total * clip, 4 * count)
        largest = np.where(largest > 0, np.maximum(np.minimum(largest, limit), 1), 0)
    return largest


def tensor_range(x, clip=0):
    """One range for the tensor: the largest magnitude, or at most ``clip / 4`` times the mean one.

    >>> int(tensor_range(np.array([[1, -2], [3, 10]]))), int(tensor_range(np.array([[1, 9]]), 6))
    (10, 7)
    """
    a = _magnitude(x)
    return _clipped(a.max(), a.sum(), a.size, clip)


def column_range(x, clip=0):
    """A range for every column, as :func:`tensor_range`.

    >>> column_range(np.array([[1, -2], [3, 10]])).tolist()
    [3, 10]
    """
    a = _magnitude(x)
    return _clipped(a.max(axis=0), a.sum(axis=0), a.shape[0], clip)


def largest_group(magnitude, limit, groups):
    """The largest ``g <= groups - 1`` with ``magnitude * 2**g <= limit``.

    >>> largest_group(np.array([8, 5, 4, 1, 0]), 8, 4).tolist()
    [0, 0, 1, 3, 3]
    """
    g = np.zeros(np.shape(magnitude), np.int64)
    for candidate in range(1, groups):
        g[magnitude << candidate <= limit] = candidate
    return g


def sample_groups(x, limit, groups):
    """The group of every row: how far its largest magnitude may be doubled within ``limit``."""
    return largest_group(_magnitude(x).max(axis=1), limit, groups)


def channel_groups(x, rows, limit, groups):
    """The group of every column after row i has been doubled ``rows[i]`` times."""
    return largest_group((_magnitude(x) << rows[:, None]).max(axis=0), limit, groups)


def reciprocal(limit, bits, top):
    """``(inverse, shift)`` with ``inverse * 2**shift`` about ``top / limit``, never more.

    ``shift`` brings the range to 31 bits, ``limit << shift in [2**30, 2**31)``; then with its top
    sixteen bits rounded up, ``m = ceil(limit << shift / 2**15)``, the inverse is
    ``floor(top * 2**(31 - bits) / m) < 2**16``. A range of 0 has the inverse 0.

    >>> [int(v) for v in reciprocal(np.int64(16), 4, 15)]
    [61440, 26]
    """
    limit = np.asarray(limit, np.int64)
    shift = np.where(limit > 0, 31 - bit_length(limit), 0)
    mantissa = np.maximum(((limit << shift) + 0x7FFF) >> 15, 1)
    inverse = np.where(limit > 0, floor_divide(top << (31 - bits), mantissa), 0)
    return inverse, shift


def quantise(x, *, bits, signed, per_column=False, clip=0, noise=None, groups=None):
    """Quantise a wide tensor.

    With Q = ``2**bits - 1`` unsigned or ``B = 2**(bits-1) - 1`` signed, range r, inverse and
    shift of :func:`reciprocal`, group ``g`` of the element and y = x clamped to ``[-r, r]`` or
    ``[0, r]``: ``z = (y << (shift + g)) * inverse``, of which ``46 - bits`` are fraction bits, of
    which 17 are kept (floor); then ``q = (z + e) >> 17`` with ``e = 2**16`` for nearest and
    ``e = 2 * noise + 1`` (16 random bits and half an LSB) for stochastic rounding. ``|q| <= Q``
    because the inverse rounds down.

    Parameters
    ----------
    bits : int
        Width b.
    signed, per_column : bool
        Symmetric or from zero; a range per column or one for the tensor.
    clip : int
        Largest range in quarters of the mean magnitude; 0: the maximum.
    noise : array [m, n] or None
        16 random bits per element for stochastic rounding.
    groups : (int, int) or None
        Sample and channel groups: separable ShiftQuant.

    >>> x = np.array([[-16, 4, 0], [16, 1, 2]])
    >>> quantise(x, bits=4, signed=True).q.tolist()
    [[-7, 2, 0], [7, 0, 1]]
    >>> grouped = quantise(x, bits=4, signed=True, groups=(1, 4))
    >>> grouped.q.tolist(), grouped.cols.tolist()
    ([[-7, 7, 0], [7, 2, 7]], [0, 2, 3])
    """
    x = np.asarray(x, np.int64)
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    limit = column_range(x, clip) if per_column else np.broadcast_to(
        tensor_range(x, clip), x.shape[1:])
    rows = cols = None
    total = np.zeros(x.shape, np.int64)
    if groups:
        rows = sample_groups(x, limit[0], groups[0])
        cols = channel_groups(x, rows, limit[0], groups[1])
        total = rows[:, None] + cols
    inverse, shift = reciprocal(limit, bits, top)
    y = np.clip(x, -limit if signed else 0, limit) << (shift + total)
    z = (y * inverse) >> (29 - bits)
    q = (z + (2**16 if noise is None else 2 * np.asarray(noise, np.int64) + 1)) >> 17
    return Quantised(q, np.array(limit), rows, cols)


def quantise_gradient(x, *, bits, groups, noise):
    """Separable ShiftQuant with stochastic rounding: what gradients get."""
    return quantise(x, bits=bits, signed=True, groups=groups, noise=noise)

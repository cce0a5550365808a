"""The quantiser: power-of-two scales, ShiftQuant groups and rounding.

ShiftQuant is our reconstruction of the method of arXiv 2411.10948 from its abstract and reviews;
the separable groups (one per sample and one per channel, exponents add) are ours, and so is the
power-of-two scale: where groups lie a power of two apart, a real-valued one buys little
(docs/numerics.md). A column of weights, whose error counts for more, is normalised first, so that
its scale is a multiple of a quarter of a power of two.

All functions take wide tensors ``x`` of shape [m, n], integers of ``WIDE_BITS`` bits.
A column's or tensor's exponent counts from the unit of ``x``.
"""

from dataclasses import dataclass

import numpy as np

from sim.model.add import add_gradients
from sim.model.checks import (
    ModelError,
    check_bits,
    check_groups,
    check_number,
    check_shapes,
    check_within,
    largest_magnitude,
    whole,
)
from sim.model.rounding import bit_length, floor_divide

__all__ = ["ACTIVATION_CLIP", "INVERSE", "SIGNED_CLIP", "WEIGHT_CLIP", "Quantised",
           "channel_groups",
           "divide_by_mantissa", "fold", "largest_group", "least_exponent", "normalise_columns",
           "quantise", "quantise_gradient", "quantise_weights", "round_code", "sample_groups",
           "scale_exponent", "scan"]

#: Largest range of an unsigned activation, in quarters of the mean magnitude, by bits: what
#: trains best (docs/numerics.md). No gradient passes what is clipped
#: (:func:`sim.model.relu.unclipped`).
ACTIVATION_CLIP = {2: 12, 3: 16, 4: 20, 5: 28, 6: 40, 7: 64, 8: 80}
#: The same for signed activations: least squared error.
SIGNED_CLIP = {2: 6, 3: 10, 4: 14, 5: 17, 6: 24, 7: 30, 8: 36}
#: The same for weights.
WEIGHT_CLIP = {2: 6, 3: 8, 4: 10, 5: 14, 6: 24, 7: 30, 8: 36}

#: Largest clip, in quarters of the mean magnitude: a byte of an instruction.
_LARGEST_CLIP = 255
#: Magnitudes that are quantised together add up to fewer bits than this.
_SUM_BITS = 51

#: How far below the maximum a clip may be, in bits.
_DEEPEST = 7

#: ``floor(2**18 / m)`` for the mantissas m = 4..7 of a column's scale.
INVERSE = np.array([0, 0, 0, 0, *((1 << 18) // m for m in range(4, 8))])


@dataclass(frozen=True)
class Quantised:
    """A quantised tensor: the value of an element is ``q * 2**(exponent - rows - cols)``.

    ``q`` [m, n]: unsigned tensors hold u in ``0 .. 2**b-1``, signed ones q in ``-B .. B``.
    ``exponent`` [n]: of the scale, per column (all equal unless quantised per column).
    ``rows`` [m] and ``cols`` [n]: groups, or None.
    """
    q: np.ndarray
    exponent: np.ndarray
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None


def _magnitude(x):
    return np.abs(whole(x))


def least_exponent(top, need):
    """The smallest ``s`` with ``top * 2**s >= need``, both positive.

    >>> least_exponent(7, np.array([1, 7, 8, 100])).tolist()
    [-2, 0, 1, 4]
    """
    need, top = whole(need, "need"), whole(top, "top")
    s = bit_length(need) - bit_length(top)
    # Now top * 2**s and need have their first bit in the same place; one more if need is larger.
    return s + ((need << np.maximum(-s, 0)) > (top << np.maximum(s, 0)))


def scale_exponent(largest, total, count, top, clip=0):
    """The exponent s of the scale of ``count`` elements whose magnitudes have this maximum and sum.

    Without a clip the smallest s with ``top * 2**s >= largest``. With one, the smallest with
    ``top * 2**s >= 7/8 min(largest, clip / 4 * total / count)``, but at most ``_DEEPEST`` below
    what ``7/8 largest`` asks for: the range is a compromise already, and an eighth of it is
    worth less than another bit. If all elements are 0, 0. It does not depend on the unit:
    elements twice as large have an exponent larger by one.

    >>> scale_exponent(np.array([0, 1, 7, 8]), np.array([0, 1, 9, 9]), 2, 7).tolist()
    [0, -2, 0, 1]
    >>> scale_exponent(np.array([8, 9, 64]), np.array([16, 18, 66]), 4, 7, clip=13).tolist()
    [0, 1, 3]
    """
    largest, total = whole(largest, "largest"), whole(total, "total")
    some = np.maximum(largest, 1)
    if not clip:
        return np.where(largest > 0, least_exponent(top, some), 0)
    highest = least_exponent(8 * top, 7 * some)
    clipped = least_exponent(32 * count * top, 7 * clip * np.maximum(total, 1))
    return np.where(largest > 0, np.maximum(np.minimum(highest, clipped), highest - _DEEPEST), 0)


def largest_group(magnitude, exponent, top, groups):
    """The largest ``g <= groups - 1`` with ``magnitude * 2**g <= top * 2**exponent``.

    >>> largest_group(np.array([8, 5, 4, 1, 0]), 0, 8, 4).tolist()
    [0, 0, 1, 3, 3]
    """
    magnitude = whole(magnitude, "magnitude")
    fits = exponent - least_exponent(top, np.maximum(magnitude, 1))
    return np.where(magnitude > 0, np.minimum(np.maximum(fits, 0), groups - 1), groups - 1)


def sample_groups(x, exponent, top, groups, span=1):
    """The group of every row: how far its largest magnitude may be doubled within the range.

    ``span`` rows in a row are one sample (the positions of an image) and share their group.
    """
    largest = _magnitude(x).max(axis=1).reshape(-1, span).max(axis=1)
    return np.repeat(largest_group(largest, exponent, top, groups), span)


def channel_groups(x, rows, exponent, top, groups):
    """The group of every column after row i has been doubled ``rows[i]`` times."""
    return largest_group((_magnitude(x) << rows[:, None]).max(axis=0), exponent, top, groups)


def round_code(x, shift, noise=None):
    """``x * 2**shift`` rounded to an integer.

    ``z = floor(x * 2**(shift + 17))``, then ``(z + 2**16) >> 17``, nearest and half up, or with
    16 random bits ``(z + 2 * noise + 1) >> 17``, stochastic.

    >>> round_code(np.array([-3, -1, 1, 3]), np.array([-1] * 4)).tolist()
    [-1, 0, 1, 2]
    >>> round_code(np.array([1, 1]), np.array([-1] * 2), np.array([0x7FFF, 0x8000])).tolist()
    [0, 1]
    """
    x = whole(x)
    if isinstance(shift, int):
        z = x << min(shift + 17, 31) if shift >= -17 else x >> min(-shift - 17, 63)
    else:
        shift = whole(shift, "shift") + 17
        # One of the two shifts is by 0.
        z = (x << np.minimum(np.maximum(shift, 0), 31)) >> np.minimum(np.maximum(-shift, 0), 63)
    return (z + (2**16 if noise is None else 2 * whole(noise, "noise") + 1)) >> 17


def scan(x):
    """``(largest, total)`` of the magnitudes in every column of x [m, n].

    >>> [found.tolist() for found in scan(np.array([[-5, 1], [2, 0]]))]
    [[5, 1], [7, 1]]
    """
    a = _magnitude(x)
    return a.max(axis=0), a.sum(axis=0)


def quantise(x, *, bits, signed, per_column=False, clip=0, noise=None, groups=None,
             span=1, scanned=None):
    """Quantise a wide tensor.

    With ``top = 2**bits - 1`` unsigned or ``B = 2**(bits-1) - 1`` signed, the exponent s of
    :func:`scale_exponent` over the tensor or the column, and the element's group
    ``g = rows + cols``: ``q = round_code(x, g - s)`` clamped to ``[0, top]`` or ``[-top, top]``.
    Without a clip nothing is clamped.

    Error: with ``clip = 0``, ``|q * 2**(s-g) - x| <= 2**(s-g) / 2`` for nearest and
    ``< 2**(s-g)`` for stochastic rounding, whose mean over the noise is 0.

    Parameters
    ----------
    bits : int
        Width b.
    signed, per_column : bool
        Symmetric or from zero; a scale per column or one for the tensor.
    clip : int
        Largest range in quarters of the mean magnitude; 0: the maximum.
    noise : array [m, n] or None
        16 random bits per element for stochastic rounding.
    groups : (int, int) or None
        Sample and channel groups: separable ShiftQuant.
    span : int
        Rows of a sample.
    scanned : (array [n], array [n]) or None
        What scale and channel groups are made of, instead of :func:`scan` of x. Rows are then in
        group 0.

    >>> x = np.array([[-16, 4, 0], [16, 1, 2]])
    >>> quantise(x, bits=4, signed=True).q.tolist()
    [[-4, 1, 0], [4, 0, 1]]
    >>> grouped = quantise(x, bits=4, signed=True, groups=(1, 4))
    >>> grouped.q.tolist(), grouped.cols.tolist()
    ([[-4, 4, 0], [4, 1, 4]], [0, 2, 3])
    """
    check_bits(bits)
    x = whole(x)
    check_shapes(x.ndim == 2 and x.size, "a tensor must have two axes and an element", x)
    check_number(clip, "clip", 0, _LARGEST_CLIP)
    if noise is not None:
        noise = whole(noise, "noise")
        check_shapes(noise.shape == x.shape, "noise must have x's shape", x, noise)
        check_within(noise, "noise", 0, 0xFFFF)
    if groups is not None:
        check_groups(groups)
        if per_column:
            raise ModelError("groups need one scale for the tensor, got per_column=True")
        check_number(span, "span", 1, len(x))
        if len(x) % span:
            raise ModelError(f"span must divide the {len(x)} rows, got {span}")
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    a = _magnitude(x)
    largest = a.max(axis=0 if per_column else None)
    _check_sum(a, largest, "x")
    if scanned is not None:
        columns, totals = (whole(found, "scanned") for found in scanned)
        check_shapes(columns.shape == totals.shape == x.shape[1:] and not per_column,
                     "scanned needs n magnitudes and n sums, and one scale for the tensor", x,
                     columns, totals)
        exponent = np.broadcast_to(scale_exponent(columns.max(), totals.sum(), a.size, top, clip),
                                   x.shape[1:])
    elif per_column:
        exponent = scale_exponent(largest, a.sum(axis=0), len(a), top, clip)
    else:
        exponent = np.broadcast_to(scale_exponent(largest, a.sum(), a.size, top, clip),
                                   x.shape[1:])
    rows = cols = None
    shift = np.broadcast_to(-exponent, x.shape)
    if groups is not None:
        if scanned is None:
            rows = sample_groups(x, exponent[0], top, groups[0], span)
            cols = channel_groups(x, rows, exponent[0], top, groups[1])
        else:
            rows = np.zeros(len(x), np.int64)
            cols = largest_group(columns, exponent[0], top, groups[1])
        shift = shift + rows[:, None] + cols
    q = np.minimum(np.maximum(round_code(x, shift, noise), -top if signed else 0), top)
    return Quantised(q, exponent, rows, cols)


def _check_sum(magnitude, largest, name):
    """Scales are exact: what a clip multiplies these by stays within 63 bits."""
    largest = largest_magnitude(largest)
    if largest * magnitude.size >= 2**_SUM_BITS and float(magnitude.sum(dtype=np.float64)) >= (
            2.0**_SUM_BITS):
        raise ModelError(f"the magnitudes of {name} must add up to less than 2**{_SUM_BITS}, got "
                         f"{magnitude.size} of which the largest is {largest}")


def _quarter_steps(top, need):
    """``4 e + m`` for the smallest ``m / 4 * 2**e`` with ``m`` in 4..7 that times top is at least
    ``need``."""
    e = least_exponent(top, need)
    steps = np.full(e.shape, 4)
    for m in (7, 6, 5):
        # m / 8 of 2**e; nothing is lost by comparing eightfold.
        enough = (8 * need << np.maximum(-e, 0)) <= (top * m << np.maximum(e, 0))
        steps = np.where(enough, m - 4, steps)
    return 4 * e + steps


def normalise_columns(x, bits, clip=None):
    """``(scaled, mantissa [n])``: masters [k, n] whose columns a power-of-two scale suits.

    With ``r = min(max|x|, clip / 4 * mean|x|)`` of a column, by default of :data:`WEIGHT_CLIP`,
    or ``max|x|`` for ``clip = 0``, its scale would be the smallest
    ``m / 4 * 2**e`` with ``B m / 4 * 2**e >= r``, ``m`` in 4..7. ``scaled = floor(x INVERSE[m] /
    2**16)``, about ``4 x / m``, which :func:`quantise` then gives the exponent e. A column of
    zeros has m = 4. Error: one unit of the masters and ``2**-15`` of x.

    >>> scaled, mantissa = normalise_columns(np.array([[70, 49, 8], [-70, 49, -1]]), 4)
    >>> scaled.tolist(), mantissa.tolist()
    ([[55, 27, 6], [-56, 27, -1]], [5, 7, 5])
    """
    check_bits(bits)
    x = whole(x, "masters")
    check_shapes(x.ndim == 2 and x.size, "masters must have two axes and an element", x)
    clip = WEIGHT_CLIP[bits] if clip is None else clip
    check_number(clip, "clip", 0, _LARGEST_CLIP)
    top, a = 2 ** (bits - 1) - 1, np.abs(x)
    largest, total = np.maximum(a.max(axis=0), 1), np.maximum(a.sum(axis=0), 1)
    _check_sum(a, largest, "masters")
    steps = _quarter_steps(top, largest)
    if clip:
        steps = np.minimum(steps, _quarter_steps(4 * len(x) * top, clip * total))
    mantissa = np.where(a.any(axis=0), 4 + steps % 4, 4)
    return x * INVERSE[mantissa] >> 16, mantissa


def quantise_weights(x, bits, clip=None):
    """``(Quantised, mantissa [n])`` of masters [k, n]: a column's value is
    ``q * mantissa / 4 * 2**exponent``. ``clip`` as in :func:`normalise_columns`."""
    check_bits(bits)
    clip = WEIGHT_CLIP[bits] if clip is None else clip
    scaled, mantissa = normalise_columns(x, bits, clip)
    return quantise(scaled, bits=bits, signed=True, per_column=True, clip=clip), mantissa


def divide_by_mantissa(x, mantissa):
    """``(y, -12)``: ``y = floor(2**14 x / m)``, so ``x / (m / 4)`` is about ``y * 2**-12``.

    |x| < 2**40. Error: below one unit of y.

    >>> divide_by_mantissa(np.array([5, -7]), np.array([5, 7]))
    (array([ 16384, -16384]), -12)
    """
    x, mantissa = whole(x), _mantissas(mantissa)
    check_shapes(mantissa.ndim == 0 or mantissa.shape == x.shape[-1:],
                 "a mantissa must be one, or one for each column", x, mantissa)
    check_within(x, "x", 1 - 2**40, 2**40 - 1)
    return floor_divide(x << 14, mantissa), -12


def _mantissas(mantissa):
    mantissa = whole(mantissa, "mantissa")
    check_within(mantissa, "mantissa", 4, 7)
    return mantissa


def fold(gradient, exponent, mantissa):
    """``(folded, least)``: a gradient [m, n] times the weights' scales ``m / 4 * 2**exponent[n]``.

    The product is exact, and aligned as by :func:`sim.model.add.add_gradients`; its unit is
    ``2**least`` of the gradient's.

    >>> fold(np.array([[3, 1]]), np.array([-5, -4]), np.array([4, 6]))
    (array([[3145728, 3145728]]), -25)
    """
    gradient, exponent = whole(gradient, "gradient"), whole(exponent, "exponent")
    mantissa = _mantissas(mantissa)
    check_shapes(gradient.ndim == 2 and exponent.shape == mantissa.shape == gradient.shape[1:],
                 "a gradient [m, n] needs n exponents and n mantissas", gradient, exponent,
                 mantissa)
    check_shapes(gradient.size, "a gradient must have an element", gradient)
    lowest = int(np.min(exponent))
    by = exponent - lowest
    longest = largest_magnitude(gradient).bit_length() + int(by.max()) + 3
    if longest > 63:
        raise ModelError("a gradient times its scales must stay within 63 bits, got exponents "
                         f"from {lowest} to {exponent.max()} that may need {longest}")
    products = gradient * mantissa << by
    return add_gradients([(products, lowest - 2)])


def quantise_gradient(x, *, bits, groups, noise):
    """Separable ShiftQuant with stochastic rounding: what gradients get."""
    return quantise(x, bits=bits, signed=True, groups=groups, noise=noise)

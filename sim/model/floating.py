"""Floating-point sums of products, as the floating-point elements of the array make them.

``fused`` adds an exact product to a sum and rounds once, to nearest, ties to even; numbers are
bit patterns. Every NaN is the positive quiet one without a payload. Elements of a column add up
from row 0 down, beginning with -0, to which any product can be added unchanged.
"""

import numpy as np

__all__ = ["FORMATS", "column", "fused", "fused_values"]

#: Formats of operands and sums by the name of the arithmetic.
FORMATS = {
    "fp16": ("binary16", "binary32"),
    "fp16n": ("binary16", "binary16"),
    "bf16": ("bfloat16", "binary32"),
}


def _values(bits, form):
    """Bit patterns as float64, exactly."""
    bits = np.asarray(bits)
    if form == "binary16":
        return bits.astype(np.uint16).view(np.float16).astype(np.float64)
    shift = 16 if form == "bfloat16" else 0
    return (bits.astype(np.uint32) << np.uint32(shift)).view(np.float32).astype(np.float64)


def _pattern(values, form):
    """float64 rounded to bit patterns."""
    kind, word, quiet = ((np.float16, np.uint16, 0x7E00) if form == "binary16"
                         else (np.float32, np.uint32, 0x7FC00000))
    with np.errstate(over="ignore", under="ignore"):
        bits = values.astype(kind).view(word)
    return np.where(np.isnan(values), word(quiet), bits)


def fused(a, w, total, arith):
    """``round(total + a * w)`` in bit patterns, for arrays of them.

    The product is exact in float64. Its sum with ``total`` there is rounded to odd: a last bit
    that is set whenever something was lost makes the second rounding that of the exact sum.

    >>> one, tiny, big = 0x3C00, 0x0001, 0x7BFF
    >>> [hex(int(x)) for x in fused([one, tiny, big], [one, tiny, big], [0x3F800000, 0, 0], "fp16")]
    ['0x40000000', '0x27800000', '0x4f7fc004']
    >>> [hex(int(x)) for x in fused([big, tiny], [big, one], [0, tiny], "fp16n")]
    ['0x7c00', '0x2']
    """
    operand, result = FORMATS[arith]
    with np.errstate(invalid="ignore"):
        a, w, total = _values(a, operand), _values(w, operand), _values(total, result)
    return fused_values(a, w, total, result)


def fused_values(a, w, total, result):
    """:func:`fused` of numbers in float64 whose product is exact there: bit patterns of the format
    ``result``.

    >>> hex(int(fused_values(3.0, 2.0**-30, 1.0, "binary32")[0]))
    '0x3f800000'
    """
    with np.errstate(invalid="ignore"):
        product = np.atleast_1d(a * w)
        total = np.atleast_1d(total)
        near = product + total
        # What the sum in float64 lost: Knuth's sum of two.
        other = near - product
        lost = (product - (near - other)) + (total - other)
    lost = np.where(np.isfinite(near), lost, 0)
    even = (near.view(np.int64) & 1) == 0
    toward = np.where(lost > 0, np.inf, -np.inf)
    odd = np.where((lost != 0) & even, np.nextafter(near, toward), near)
    return _pattern(odd, result)


def column(a, w, arith):
    """Sums of one column of elements: ``a[..., row]`` times ``w[row]``, row 0 first.

    >>> hex(int(column([0x3C00, 0x4000], [0x3C00, 0x3C00], "fp16")[0]))
    '0x40400000'
    """
    a, w = np.asarray(a), np.asarray(w)
    total = np.full(a.shape[:-1] or 1, 0x8000 if FORMATS[arith][1] == "binary16" else 0x80000000)
    for row in range(a.shape[-1]):
        total = fused(a[..., row], w[..., row], total, arith)
    return total

"""The scaler: wide tensors from one unit to another by columns, and the weight update.

A scale tensor [3, n] holds what is done to every column: its factor, the exponent of the unit it
comes in, and a bias (:class:`~hdl.instructions.ScaleRow`). All functions take tensors x of shape
[m, n] in integers of ``WIDE_BITS`` bits, and n factors and exponents; with ``divide`` the factors
are mantissas 4 to 7.
"""

import numpy as np

from hdl.instructions import ScaleRow
from hdl.params import DEFAULT_FORMATS, WIDE_BITS
from sim.model.add import GRADIENT_BITS
from sim.model.checks import (
    check_number,
    check_shapes,
    check_signed,
    check_within,
    whole,
)
from sim.model.quantise import divide_by_mantissa
from sim.model.rounding import bit_length, rescale, saturate, wrap
from sim.model.update import MASTER_BITS, sgd

__all__ = ["FACTOR_BITS", "align", "column_exponents", "column_sums", "count_factor", "product",
           "read_scale", "scale", "scale_of_ones", "update"]

#: Width of a factor.
FACTOR_BITS = 10
#: Width of every number that a column's exponent is added up from, signed.
_EXPONENT_BITS = 16


def read_scale(tensor, *, divide=False):
    """``(factor [n], exponent [n], bias [n])`` of a scale tensor [3, n], as the device takes it.

    >>> factor, exponent, bias = read_scale(np.array([[1025, 5], [65535, 3], [-9, 0]]))
    >>> factor.tolist(), exponent.tolist(), bias.tolist()
    ([1, 5], [-1, 3], [-9, 0])
    """
    tensor = whole(tensor, "a scale tensor")
    check_shapes(tensor.ndim == 2 and len(tensor) == len(ScaleRow),
                 f"a scale tensor must have {len(ScaleRow)} rows", tensor)
    factor = tensor[ScaleRow.FACTOR] & (7 if divide else (1 << FACTOR_BITS) - 1)
    return factor, wrap(tensor[ScaleRow.EXPONENT], _EXPONENT_BITS), tensor[ScaleRow.BIAS]


def scale_of_ones(columns):
    """A scale tensor of factors 1 and exponents 0.

    >>> scale_of_ones(2).tolist()
    [[1, 1], [0, 0], [0, 0]]
    """
    ones = np.zeros((len(ScaleRow), columns), np.int64)
    ones[ScaleRow.FACTOR] = 1
    return ones


def count_factor(count):
    """``(factor, exponent)``: a number of rows as a scale tensor takes it, ``factor 2**exponent``.

    Exact up to 1,023, and for what is that times a power of two; else what is lost is below a part
    in 512.

    >>> count_factor(1000), count_factor(4096), count_factor(1025)
    ((1000, 0), (512, 3), (512, 1))
    """
    check_number(count, "count", 1, 2**31 - 1)
    exponent = max(0, count.bit_length() - FACTOR_BITS)
    return count >> exponent, exponent


def column_exponents(exponent, *, negate=False, offset=0, scalar=0):
    """What every column is shifted by: its exponent or the negative of it, an offset, and the low
    16 bits of a scalar.

    >>> column_exponents(np.array([3, -4]), negate=True, offset=-2, scalar=65535).tolist()
    [-6, 1]
    """
    exponent = whole(exponent, "exponents")
    check_signed(exponent, "exponents", _EXPONENT_BITS)
    check_signed(whole(offset, "offset"), "offset", _EXPONENT_BITS)
    return (-exponent if negate else exponent) + offset + wrap(scalar, _EXPONENT_BITS)


def product(x, factor, *, divide=False):
    """``x factor``, or ``floor(2**14 x / factor)``, exactly.

    >>> product(np.array([[5, -7]]), np.array([3, 7])).tolist()
    [[15, -49]]
    >>> product(np.array([[5, -8]]), np.array([5, 7]), divide=True).tolist()
    [[16384, -18725]]
    """
    x, factor = whole(x), whole(factor, "factors")
    check_shapes(x.ndim == 2 and x.size and factor.shape == x.shape[1:],
                 "a tensor [m, n] needs n factors", x, factor)
    check_signed(x, "x", WIDE_BITS)
    if divide:
        return divide_by_mantissa(x, factor)[0]
    check_within(factor, "factors", 0, (1 << FACTOR_BITS) - 1)
    return x * factor


def _checked(x, exponent):
    exponent = whole(exponent, "exponents")
    check_shapes(exponent.shape == np.shape(x)[1:], "a tensor [m, n] needs n exponents", x,
                 exponent)
    return exponent


def scale(x, factor, exponent, bits, *, divide=False, bias=None, plus=None):
    """``(y, clamped)``: every column times its factor and ``2**exponent``, and its bias added, or
    ``plus``, a tensor of the shape of x.

    ``y = rescale(product, exponent, bits)``, and then ``saturate(y + bias, bits)``; an element is
    counted for each of the two that clamps it.

    >>> scale(np.array([[5, -100]]), np.array([3, 2]), np.array([-1, 0]), 8)
    (array([[   8, -128]]), 1)
    >>> scale(np.array([[5, -100]]), np.array([3, 2]), np.array([-1, 0]), 8, bias=[120, -1])
    (array([[ 127, -128]]), 3)
    >>> scale(np.array([[5], [-100]]), np.array([1]), np.array([0]), 8, plus=[[7], [-30]])
    (array([[  12],
           [-128]]), 1)
    """
    check_number(bits, "bits", 1, WIDE_BITS)
    z, exponent = product(x, factor, divide=divide), _checked(x, exponent)
    y, clamped = rescale(z, exponent, bits)
    if plus is not None:
        bias = whole(plus, "what is added")
        check_shapes(bias.shape == y.shape, "what is added must have the shape of x", y, bias)
    elif bias is not None:
        bias = whole(bias, "biases")
        check_shapes(bias.shape == exponent.shape, "a tensor [m, n] needs n biases", y, bias)
    else:
        return y, clamped
    check_signed(bias, "what is added", WIDE_BITS)
    y, more = saturate(y + bias, bits)
    return y, clamped + more


def align(x, factor, exponent, *, divide=False):
    """``(y, least)``: every column times its factor and ``2**exponent``, in the unit ``2**least``.

    The unit is the one that gives the largest of them ``GRADIENT_BITS`` bits, as in
    :func:`sim.model.add.add_gradients`, rounded half up; that of a tensor of zeros is as if the
    largest had none. Error: half a unit.

    >>> align(np.array([[3, 1]]), np.array([4, 6]), np.array([-7, -6]))
    (array([[3145728, 3145728]]), -25)
    """
    z, exponent = product(x, factor, divide=divide), _checked(x, exponent)
    lengths = (bit_length(np.abs(z)) + exponent)[z != 0]
    least = int(max(lengths, default=0)) - GRADIENT_BITS
    return rescale(z, exponent - least, WIDE_BITS)[0], least


def column_sums(x):
    """The sum of every column [n], which wraps around at ``WIDE_BITS`` bits.

    >>> column_sums(np.array([[2**31 - 1, 3], [1, -4]])).tolist()
    [-2147483648, -1]
    """
    x = whole(x)
    check_shapes(x.ndim == 2, "x must have two axes", x)
    return wrap(x.sum(axis=0), WIDE_BITS)


def update(weight, velocity, x, factor, exponent, rate, rate_shift, noise, *, divide=False, decay=0,
           formats=DEFAULT_FORMATS):
    """``(weight, velocity, clamped)`` after a step of :func:`sim.model.update.sgd`.

    The gradient is :func:`scale` of x to ``MASTER_BITS`` bits, which is what ``clamped`` counts.

    >>> w, v, clamped = update(np.array([[1000]]), np.array([[256]]), np.array([[140]]),
    ...                        np.array([4]), np.array([-1]), 1, 2, np.array([[40000]]))
    >>> w.tolist(), v.tolist(), clamped
    ([[925]], [[300]], 0)
    """
    gradient, clamped = scale(x, factor, exponent, MASTER_BITS, divide=divide)
    weight, velocity = sgd(weight, velocity, gradient, rate, rate_shift, noise, decay=decay,
                           **formats._asdict())
    return weight, velocity, clamped

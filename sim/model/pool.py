"""Average pooling over whole maps or windows, forward and backward."""

from sim.model.add import add_gradients
from sim.model.checks import check_number, whole
from sim.model.rounding import floor_divide

__all__ = ["average", "average_gradient"]


def average(x, count):
    """``floor((2 x + count) / (2 count))`` of sums x over ``count`` elements: nearest, half up.

    Error: at most half a unit.

    >>> import numpy as np
    >>> average(np.array([3, 4, 5, -6]), 4).tolist()
    [1, 1, 1, -1]
    """
    x = whole(x)
    check_number(count, "count", 1, 2**31 - 1)
    return floor_divide(2 * x + count, 2 * count)


def average_gradient(dy, exponent, count):
    """``(dx, exponent)`` of the gradient ``dy * 2**exponent`` divided by ``count``.

    dy is aligned as by :func:`sim.model.add.add_gradients`; then
    ``dx = floor((2 dy 2**s + count) / (2 count))`` with ``s = bit_length(count) - 1``, so it
    has as many bits. Error: at most half a unit of dx.

    >>> import numpy as np
    >>> average_gradient(np.array([7, -98]), 0, 49)
    (array([  149797, -2097152]), -20)
    """
    check_number(count, "count", 1, 2**31 - 1)
    dy, exponent = add_gradients([(dy, exponent)])
    shift = int(count).bit_length() - 1
    return average(dy << shift, count), exponent - shift

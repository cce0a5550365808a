"""Average pooling over whole maps or windows, forward and backward.

A tensor of images has a row for each position, line after line and image after image, and a column
for each channel. Windows lie beside each other; what is left over at the edges is in none.
"""

import numpy as np

from hdl.params import WIDE_BITS
from sim.model.add import add_gradients
from sim.model.checks import check_number, check_shapes, whole
from sim.model.rounding import floor_divide, wrap

__all__ = ["average", "average_gradient", "spread", "sums"]


def _counts(size, window):
    """Positions of an image, and how many windows are below and beside each other."""
    for name, pair in (("an image", size), ("a window", window)):
        for side in pair:
            check_number(side, f"a side of {name}", 1, 255)
    return size[0] * size[1], size[0] // window[0], size[1] // window[1]


def sums(x, size, window):
    """The sum over every window, modulo ``2**32``: ``[images h w, n]`` of ``[images H W, n]``.

    ``size`` are H and W, ``window`` those of a window.

    >>> sums(np.arange(6)[:, None], (2, 3), (2, 2)).tolist()
    [[8]]
    """
    x = whole(x)
    positions, h, w = _counts(size, window)
    check_shapes(x.ndim == 2 and len(x) % positions == 0,
                 f"images of {size[0]} x {size[1]} must have a multiple of {positions} rows", x)
    images = x.reshape(-1, *size, x.shape[1])[:, :h * window[0], :w * window[1]]
    parts = images.reshape(len(images), h, window[0], w, window[1], x.shape[1])
    return wrap(parts.sum((2, 4)).reshape(-1, x.shape[1]), WIDE_BITS)


def spread(y, size, window, passed=None):
    """The row of its window for every position, 0 for those in none: ``[images H W, n]`` of
    ``[images h w, n]``. Where ``passed``, of the shape of y, is false y counts as 0.

    >>> spread(np.array([[7]]), (2, 3), (2, 2)).ravel().tolist()
    [7, 7, 0, 7, 7, 0]
    """
    y = whole(y, "y")
    positions, h, w = _counts(size, window)
    check_shapes(y.ndim == 2 and h * w and len(y) % (h * w) == 0,
                 f"windows of images must have a multiple of {h * w} rows", y)
    if passed is not None:
        check_shapes(np.shape(passed) == y.shape, "y and what passes must have one shape", y,
                     passed)
        y = np.where(passed, y, 0)
    images = np.zeros((len(y) // (h * w), *size, y.shape[1]), np.int64)
    each = y.reshape(len(images), h, w, -1).repeat(window[0], 1).repeat(window[1], 2)
    images[:, :h * window[0], :w * window[1]] = each
    return images.reshape(len(images) * positions, -1)


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

"""Convolution as a matrix product over patches, in the order that addresses are generated.

Exact: nothing is rounded here. Source: Chellapilla et al., 2006, "High Performance Convolutional
Neural Networks for Document Processing".
"""

import numpy as np

from sim.model.checks import ModelError, check_number, check_shapes, whole

__all__ = ["fold", "output_size", "patches", "windows"]


def output_size(size, kernel, stride, padding):
    """Outputs along one axis.

    >>> output_size(28, 3, 2, 1), output_size(5, 5, 1, 0)
    (14, 1)
    """
    return (size + 2 * padding - kernel) // stride + 1


def _outputs(shape, kernel, stride, padding):
    """Outputs along both axes of x [n, c, h, w], at least one each."""
    check_number(stride, "stride", 1, 2**31 - 1)
    check_number(padding, "padding", 0, 2**31 - 1)
    if np.shape(kernel) != (2,):
        raise ModelError(f"kernel must be (height, width), got {kernel}")
    for size, k, name in zip(shape[2:], kernel, ("height", "width"), strict=True):
        check_number(k, f"the kernel's {name}", 1, size + 2 * padding)
    return [output_size(size, k, stride, padding)
            for size, k in zip(shape[2:], kernel, strict=True)]


def patches(x, kernel, stride, padding):
    """[n * ho * wo, c * kh * kw] patches of x [n, c, h, w]; a padded input is 0.

    Rows are the output's positions, columns the inner dimension in the order of a weight
    [out, c, kh, kw] flattened.

    >>> patches(np.arange(4).reshape(1, 1, 2, 2), (2, 2), 1, 1)[[0, 4]].tolist()
    [[0, 0, 0, 0], [0, 1, 2, 3]]
    """
    x = whole(x)
    check_shapes(x.ndim == 4 and x.size, "x must have four axes and an element", x)
    n, c = x.shape[:2]
    ho, wo = _outputs(x.shape, kernel, stride, padding)
    kh, kw = kernel
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride][:, :, :ho, :wo]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * ho * wo, c * kh * kw)


def windows(table, count, taps):
    """``(words, there)``, [count, taps] each: which rows of a tensor of images [b h w, c] the
    device reads for so many outputs and taps, modulo ``2**16``, and whether it reads them at all.

    ``table`` are the fields of :data:`hdl.instructions.WINDOW_TABLE` and ``WINDOW_RUN``. Output
    (oy, ox) sees with tap (ky, kx) the position ``2**stride_y oy - pad_y + 2**dilation ky`` of a
    column, counted in half inputs, and the like of a line; where either is odd or outside of the
    image the operand is 0. Addresses are linear in all of these, in half words.

    >>> table = {"width": 3, "height": 3, "out_width": 3, "out_height": 3, "image_step": 6,
    ...          "kernel_width": 3, "stride_x": 1, "stride_y": 1, "dilation": 1, "pad_x": 2,
    ...          "pad_y": 2, "first_line": 0xFFFD, "first_x": 0, "first_y": 0}
    >>> words, there = windows(table, 9, 9)
    >>> words[4].tolist(), there[:2, 3].tolist()
    ([0, 1, 2, 3, 4, 5, 6, 7, 8], [False, True])
    """
    t = table
    # How many outputs and lines of outputs come before, in the images and in the first of them.
    lines, ox = np.divmod(t["first_x"] + np.arange(count), max(t["out_width"], 1))
    images, oy = np.divmod(t["first_y"] + lines, max(t["out_height"], 1))
    ky, kx = np.divmod(np.arange(taps), max(t["kernel_width"], 1))
    x, y = ((o[:, None] << t[f"stride_{axis}"]) - t[f"pad_{axis}"] + (k << t["dilation"])
            for axis, o, k in (("x", ox, kx), ("y", oy, ky)))
    down = t["width"] << t["stride_y"]
    # Rounded down: what is lost is the lowest bit of the first line's position.
    first = 2 * t["first_line"] + ((t["first_y"] << t["stride_y"]) - t["pad_y"] & t["width"] & 1)
    line = first + down * (oy - t["first_y"]) + images * (
        t["image_step"] + down * (t["out_height"] - 1))
    words = line[:, None] + t["width"] * (ky << t["dilation"]) + x >> 1
    there = np.logical_and.reduce([(p % 2 == 0) & (p >= 0) & (p < 2 * t[size]) for p, size in (
        (x, "width"), (y, "height"))])
    return words & 0xFFFF, there


def fold(columns, shape, kernel, stride, padding):
    """The transpose of :func:`patches`: every column's element added where it came from.

    >>> x = np.ones((1, 1, 2, 2), int)
    >>> fold(patches(x, (2, 2), 1, 1), x.shape, (2, 2), 1, 1).tolist()
    [[[[4, 4], [4, 4]]]]
    """
    columns = whole(columns, "columns")
    if len(shape) != 4:
        raise ModelError(f"shape must be (n, c, h, w), got {shape}")
    n, c, h, w = shape
    ho, wo = _outputs(shape, kernel, stride, padding)
    kh, kw = kernel
    expected = (n * ho * wo, c * kh * kw)
    check_shapes(columns.shape == expected, f"columns must be {expected}", columns)
    columns = columns.reshape(n, ho, wo, c, kh, kw)
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), np.int64)
    for i in range(kh):
        for j in range(kw):
            padded[:, :, i:i + stride * ho:stride, j:j + stride * wo:stride] += (
                columns[..., i, j].transpose(0, 3, 1, 2))
    return padded[:, :, padding:padding + h, padding:padding + w]

"""Convolution as a matrix product over patches, in the order that addresses are generated.

Exact: nothing is rounded here. Source: Chellapilla et al., 2006, "High Performance Convolutional
Neural Networks for Document Processing".
"""

import numpy as np

from sim.model.checks import ModelError, check_number, check_shapes, whole

__all__ = ["fold", "output_size", "patches"]


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

"""Convolution as a matrix product over patches, in the order that addresses are generated."""

import numpy as np

__all__ = ["fold", "output_size", "patches"]


def output_size(size, kernel, stride, padding):
    """Outputs along one axis.

    >>> output_size(28, 3, 2, 1), output_size(5, 5, 1, 0)
    (14, 1)
    """
    return (size + 2 * padding - kernel) // stride + 1


def patches(x, kernel, stride, padding):
    """[n * ho * wo, c * kh * kw] patches of x [n, c, h, w]; a padded input is 0.

    Rows are the output's positions, columns the inner dimension in the order of a weight
    [out, c, kh, kw] flattened.

    >>> patches(np.arange(4).reshape(1, 1, 2, 2), (2, 2), 1, 1)[[0, 4]].tolist()
    [[0, 0, 0, 0], [0, 1, 2, 3]]
    """
    n, c, h, w = x.shape
    kh, kw = kernel
    ho, wo = (output_size(size, k, stride, padding) for size, k in ((h, kh), (w, kw)))
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
    n, c, h, w = shape
    kh, kw = kernel
    ho, wo = (output_size(size, k, stride, padding) for size, k in ((h, kh), (w, kw)))
    columns = columns.reshape(n, ho, wo, c, kh, kw)
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), np.int64)
    for i in range(kh):
        for j in range(kw):
            padded[:, :, i:i + stride * ho:stride, j:j + stride * wo:stride] += (
                columns[..., i, j].transpose(0, 3, 1, 2))
    return padded[:, :, padding:padding + h, padding:padding + w]

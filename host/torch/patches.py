"""Convolutions as matrix products over patches, for devices whose own convolutions are not exact.

The gathering of :mod:`sim.model.convolution` on tensors; values only move and, in :func:`fold`,
add.
"""

from torch.nn import functional as F

__all__ = ["fold", "patches"]


def patches(x, kernel, stride, padding):
    """[n, ho * wo, kh * kw * c] of x [n, c, h, w]: what every position sees, channels innermost.

    >>> import torch
    >>> patches(torch.arange(4.0).view(1, 1, 2, 2), (2, 2), 1, 1)[0, [0, 4]].tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]]
    """
    kh, kw = kernel
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    windows = x.unfold(1, kh, stride).unfold(2, kw, stride)
    n, ho, wo, c = windows.shape[:4]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(n, ho * wo, kh * kw * c)


def fold(columns, shape, kernel, stride, padding):
    """The transpose of :func:`patches`: [n, c, h, w] of ``shape``, each element added where it
    came from.

    >>> import torch
    >>> x = torch.ones(1, 1, 2, 2)
    >>> fold(patches(x, (2, 2), 1, 1), x.shape, (2, 2), 1, 1).flatten().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """
    (n, c, h, w), (kh, kw) = shape, kernel
    ho, wo = ((size + 2 * padding - k) // stride + 1 for size, k in ((h, kh), (w, kw)))
    columns = columns.view(n, ho, wo, kh, kw, c)
    x = columns.new_zeros(n, h + 2 * padding, w + 2 * padding, c)
    for i in range(kh):
        for j in range(kw):
            x[:, i:i + stride * ho:stride, j:j + stride * wo:stride] += columns[:, :, :, i, j]
    return x[:, padding:padding + h, padding:padding + w].permute(0, 3, 1, 2)

"""Images and kernels as tensors of device memory have them."""

from itertools import product

import numpy as np

__all__ = ["rows_of", "weights_of", "windows_of"]


def rows_of(images):
    """[n, c, h, w] as a row for each position."""
    return images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1])


def weights_of(kernels):
    """[out, c, kh, kw] as a row for each tap and channel."""
    return kernels.transpose(2, 3, 1, 0).reshape(-1, len(kernels))


def windows_of(windows, x):
    """What each output of :class:`host.windows.Windows` sees of rows of images, input by input."""
    images = x.reshape(windows.images, windows.height, windows.width, -1)
    sizes, rows = (windows.height, windows.width), []
    for image, *output in product(range(windows.images), *map(range, windows.outputs)):
        row = np.zeros((windows.taps, windows.channels), np.int64)
        for number, tap in enumerate(product(*map(range, windows.kernel))):
            at = [o * stride - pad + k * windows.dilation for o, stride, pad, k in zip(
                output, windows.stride, windows.padding, tap, strict=True)]
            if all(a % windows.spread == 0 and 0 <= a // windows.spread < size
                   for a, size in zip(at, sizes, strict=True)):
                row[number] = images[image, at[0] // windows.spread, at[1] // windows.spread]
        rows.append(row.reshape(-1))
    return np.array(rows)

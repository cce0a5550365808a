"""Convolutions as products: which inputs each output sees, and the tables that say so.

A tensor of images has a row for each input position, line after line and image after image, and a
column for each channel. The weights have a row for each tap of the kernel and channel, in the
order (ky, kx, channel).
"""

from dataclasses import dataclass

import numpy as np

from hdl.instructions import WINDOW_RUN, WINDOW_TABLE, pack_fields
from hdl.params import MAX_K
from hdl.protocol import Space
from host.errors import ArgumentError
from host.tensors import row_parts
from sim.model.convolution import output_size

__all__ = ["Windows"]

#: Lines of an image and of outputs, their columns; sides of a kernel.
_MOST, _MOST_TAPS = 255, 7
#: In half inputs: what a window may begin outside of the image, the longest step, and the furthest
#: position.
_MOST_PADDING, _MOST_STEP, _FURTHEST = 31, 8, 1023


def _check(name, value, low, high, unit=""):
    if not low <= value <= high:
        raise ArgumentError(f"{name} must be a whole number from {low} to {high}{unit}, "
                            f"got {value}")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A convolution, and the place of its tables.

    Output (oy, ox) is the sum over the taps (ky, kx) of weights times the input at ``oy stride[0] -
    padding[0] + ky dilation`` of a column and the like of a line, 0 outside of the image. With
    ``spread`` 2 that counts in inputs with a 0 between any two.

    Parameters
    ----------
    base : int
        First of the ``table_words`` in the group table.
    images, height, width, channels : int
        Of the input.
    kernel, stride, padding : (int, int)
        Along the height and along the width. Strides are 1, 2, 4 or 8.
    dilation : int
        1, 2, 4 or 8. Stride and dilation are 4 at most where ``spread`` is 1.
    spread : int
        1 or 2.
    outputs : (int, int)
        Height and width; unless told otherwise as many as there is image and padding for.

    >>> Windows(base=0, images=2, height=28, width=28, channels=3, kernel=(3, 3), stride=(2, 2),
    ...         padding=(1, 1)).outputs
    (14, 14)
    """
    base: int
    images: int
    height: int
    width: int
    channels: int
    kernel: tuple
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: int = 1
    spread: int = 1
    outputs: tuple = None

    def __post_init__(self):
        for name in ("kernel", "stride", "padding", "outputs"):
            pair = getattr(self, name)
            if pair is not None and np.shape(pair) != (2,):
                raise ArgumentError(f"{name} must be (height, width), got {pair}")
        _check("images", self.images, 1, 1 << 16)
        _check("channels", self.channels, 1, MAX_K)
        if self.spread not in (1, 2):
            raise ArgumentError(f"spread must be 1 or 2, got {self.spread}")
        self._check_step("dilation", self.dilation)
        counts = []
        for axis, (name, size) in enumerate((("height", self.height), ("width", self.width))):
            taps, stride, padding = self.kernel[axis], self.stride[axis], self.padding[axis]
            _check(name, size, 1, _MOST)
            _check(f"the kernel's {name}", taps, 1, _MOST_TAPS)
            self._check_step(f"the stride along the {name}", stride)
            _check(f"the padding of the {name}", padding, 0, _MOST_PADDING // self._unit)
            whole = (size - 1) * self.spread + 1
            reach = (taps - 1) * self.dilation + 1
            if self.outputs is None:
                if reach > whole + 2 * padding:
                    raise ArgumentError(f"a window's {name} must be at most {whole + 2 * padding}, "
                                        f"image and padding, got {reach}")
                counts.append(output_size(whole, reach, stride, padding))
            else:
                counts.append(self.outputs[axis])
            _check(f"the outputs' {name}", counts[axis], 1, _MOST)
            last = (counts[axis] - 1) * stride + reach - 1 - padding
            _check(f"the last position along the {name}", last, -padding, _FURTHEST // self._unit)
        _check("the inner dimension of a convolution", self.rows, 1, MAX_K)
        object.__setattr__(self, "outputs", tuple(counts))

    def _check_step(self, name, value):
        steps = [1 << place for place in range(4) if self._unit << place <= _MOST_STEP]
        if value not in steps:
            raise ArgumentError(f"{name} must be one of {', '.join(map(str, steps))}, got {value}")

    @property
    def _unit(self):
        """Half inputs of a position."""
        return 2 // self.spread

    @property
    def taps(self):
        """Taps of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def rows(self):
        """Rows of the weights: the inner dimension."""
        return self.taps * self.channels

    @property
    def count(self):
        """Outputs of all images."""
        return self.images * self.outputs[0] * self.outputs[1]

    @property
    def table_words(self):
        """Words of the group table, those of every instruction among them."""
        return len(WINDOW_TABLE) + len(row_parts(self.count))

    def tiles(self, params):
        """Tiles along the inner dimension: each tap has its own."""
        return self.taps * self._channel_tiles(params)

    def _channel_tiles(self, params):
        return -(-self.channels // params.slots)

    def store(self, device):
        """Write the tables."""
        words = np.array([*self.table(device.params),
                          *(self.run(first) for first, _ in row_parts(self.count))])
        device.write(Space.GROUP, self.base, words[:, None])

    def table(self, params):
        """The words ``WINDOW_TABLE``."""
        unit, (pad_y, pad_x), (image, down) = self._unit, self.padding, self._steps
        places = [(steps * unit).bit_length() - 1 for steps in (*self.stride, self.dilation)]
        values = {
            "width": self.width, "height": self.height, "out_height": self.outputs[0],
            "out_width": self.outputs[1],
            "image_step": image - (self.outputs[0] - 1) * down & 0x1FFFF,
            "pad_x": pad_x * unit, "pad_y": pad_y * unit, "kernel_width": self.kernel[1],
            "channel_tiles": self._channel_tiles(params),
            **dict(zip(("stride_y", "stride_x", "dilation"), places, strict=True)),
        }
        return [pack_fields(layout, **{name: values[name] for name, _ in layout})
                for layout in WINDOW_TABLE]

    def run(self, first):
        """The word ``WINDOW_RUN`` of an instruction that begins with this output."""
        (line, x), (image, down) = divmod(first, self.outputs[1]), self._steps
        images, y = divmod(line, self.outputs[0])
        at = images * image + y * down - self.padding[0] * self._unit * self.width
        return pack_fields(WINDOW_RUN, first_line=at // 2 & 0xFFFF, first_x=x, first_y=y)

    def tap(self, ky, kx):
        """``(x, y, line)`` of MOVE with ``WINDOWS``: where the first output sees the input with
        this tap, in half inputs, and the word of position 0 of that line, rounded down."""
        places = []
        for name, tap, taps, padding in zip(("height", "width"), (ky, kx), self.kernel,
                                            self.padding, strict=True):
            _check(f"the tap along the {name}", tap, 0, taps - 1)
            places.append((tap * self.dilation - padding) * self._unit)
        y, x = places
        return x, y, y * self.width // 2

    @property
    def _steps(self):
        """Half words of an image, and from a line of outputs to the next."""
        return 2 * self.height * self.width, self.width * self.stride[0] * self._unit

    def gradient(self, base, channels):
        """What of the gradient of ``channels`` outputs the gradient of each input sees: a
        convolution with the taps in reverse order."""
        stride, _ = self.stride
        if self.spread != 1 or self.stride not in ((1, 1), (2, 2)):
            raise ArgumentError("a convolution has a gradient of its input if its strides are (1, "
                                f"1) or (2, 2) and its spread is 1, got {self.stride} and "
                                f"{self.spread}")
        padding = tuple((taps - 1) * self.dilation - pad
                        for taps, pad in zip(self.kernel, self.padding, strict=True))
        return Windows(base=base, images=self.images, height=self.outputs[0],
                       width=self.outputs[1], channels=channels, kernel=self.kernel,
                       padding=padding, dilation=self.dilation, spread=stride,
                       outputs=(self.height, self.width))

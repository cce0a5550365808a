"""The way back through a convolution, all of it instructions: on the model and on the simulated
board."""

from functools import cache

import numpy as np
import pytest

from hdl.params import MAX_K, Params
from hdl.protocol import Space
from host import program
from host.device import Device
from host.errors import ArgumentError, MemoryFullError
from host.tensors import Arena, Tensor, load, store
from host.windows import Windows
from sim.model.convolution import fold, patches
from sim.model.gemm import gemm
from tests.support.images import rows_of, weights_of

#: As in tests/host/test_resident.py; words of four codes.
PARAMS = Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4)

#: (n, c, h, w), channels of the outputs, kernel, stride, padding: words of a position that are not
#: full, just full, and several.
SHAPES = [
    ((1, 1, 1, 1), 1, (1, 1), 1, 0), ((2, 3, 5, 4), 4, (3, 3), 1, 1),
    ((3, 4, 6, 5), 5, (3, 2), 2, 1), ((2, 9, 7, 6), 3, (2, 3), 2, 0),
    ((2, 5, 4, 8), 8, (3, 3), 1, 2), ((4, 2, 6, 6), 9, (1, 1), 2, 0),
]


def named(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@cache
def device(url):
    """One for all tests: each finds what the last one has left."""
    return Device.open(url, PARAMS)


class _Places:
    """Places of tensors, one after the other."""

    def __init__(self, params):
        self.arenas = {space: Arena(space, params) for space in (Space.WIDE, Space.QUANT)}

    def __call__(self, space, rows, cols):
        return self.arenas[space].allocate("a tensor", (rows, cols))


def back(device, x, weight, dy, stride, padding, *, unsigned=False, samples=None, channels=None):
    """``(dx, dw, shifts)`` of images, kernels [out, c, kh, kw] and the outputs' gradient, as device
    memory has them.

    ``samples`` are the groups of the rows of dY and ``channels`` those of its columns; dX is
    computed without them.
    """
    params, place = device.params, _Places(device.params)
    (n, c, h, w), (k, _, *kernel) = x.shape, weight.shape
    forward = Windows(base=0, images=n, height=h, width=w, channels=c, kernel=tuple(kernel),
                      stride=(stride,) * 2, padding=(padding,) * 2)
    turned = forward.gradient(forward.table_words, k)
    first = turned.base + turned.table_words
    inner = samples is not None and program.Groups(first, forward.count, params.sample_groups)
    first += program.table_words(params, forward.count)
    cols = channels is not None and program.Groups(first, k, params.channel_groups)

    images, weights = place(Space.QUANT, n * h * w, c), place(Space.QUANT, forward.rows, k)
    gradient, reverse = place(Space.QUANT, forward.count, k), place(Space.QUANT, turned.rows, c)
    seen = place(Space.QUANT, forward.count, c)
    streamed = place(Space.QUANT, c, program.slot_columns(
        params, forward.count, params.sample_groups if inner else 1)).view(c, forward.count)
    dx, dw = place(Space.WIDE, n * h * w, c), place(Space.WIDE, forward.rows, k)
    forward.store(device)
    turned.store(device)
    for tensor, value in ((images, rows_of(x)), (weights, weights_of(weight)),
                          (gradient, rows_of(dy))):
        store(device, tensor, value)
    for groups, values in ((inner, samples), (cols, channels)):
        if groups:
            device.write(Space.GROUP, groups.base, values[:, None])

    # The weights turned: their taps from the last one on, each the other way round.
    steps = [program.move(weights.rows_from(tap * c, c),
                          reverse.rows_from((forward.taps - 1 - tap) * k, k), transposed=True)
             for tap in range(forward.taps)]
    products, dx_shift = program.convolution(params, gradient, reverse, dx, turned)
    steps += products
    if inner:
        steps.append(program.sort(inner))
    for tap in range(forward.taps):
        what = {"windows": forward, "tap": divmod(tap, kernel[1]), "unsigned": unsigned}
        if inner:
            steps += [program.move(images, seen, **what),
                      program.move(seen, streamed, transposed=True, order=inner)]
        else:
            steps.append(program.move(images, streamed, transposed=True, **what))
        products, dw_shift = program.gemm(params, streamed, gradient, dw.rows_from(tap * c, c),
                                          unsigned=unsigned, inner=inner or None, cols=cols or None)
        steps += products
    device.run(steps)
    return load(device, dx), load(device, dw), (dx_shift, dw_shift)


def check(device, shape, k, kernel, stride, padding, *, unsigned=False, grouped=False):
    rng = np.random.default_rng([*shape, k, stride])
    n, c, h, w = shape
    x, weight = rng.integers(-8, 8, shape), rng.integers(-7, 8, (k, c, *kernel))
    a = patches(x + 8 * unsigned, kernel, stride, padding)
    dy = rng.integers(-7, 8, (len(a), k))
    samples = channels = None
    options = {}
    if grouped:
        samples, channels = rng.integers(0, 4, len(a)), rng.integers(0, 4, k)
        options = {"inner": samples, "inner_groups": 4, "cols": channels, "col_groups": 4}
    images = dy.reshape(n, *(-(-(size + 2 * padding - taps + 1) // stride)
                             for size, taps in zip((h, w), kernel, strict=True)), k)
    dx, dw, (dx_shift, dw_shift) = back(device, x, weight, images.transpose(0, 3, 1, 2), stride,
                                        padding, unsigned=unsigned, samples=samples,
                                        channels=channels)
    assert dx_shift == 0
    assert (dx == rows_of(fold(dy @ weight.reshape(k, -1), shape, kernel, stride, padding))).all()
    y, _ = gemm(a.T, dy, shift=dw_shift, **options)
    assert (dw == weights_of(y.T.reshape(k, c, *kernel))).all()


@pytest.mark.parametrize("url", ["model:", "sim:"])
@pytest.mark.parametrize("shape", SHAPES, ids=named)
@pytest.mark.parametrize(("unsigned", "grouped"), [(False, False), (True, True)])
def test_the_way_back_is_that_of_the_model(url, shape, unsigned, grouped):
    check(device(url), *shape, unsigned=unsigned, grouped=grouped)


# What is refused.

@pytest.mark.parametrize(("fields", "error", "said"), [
    ({"x": (59, 3)}, ArgumentError, "the rows of images of this convolution must be 60, got 59"),
    ({"x": (60, 4)}, ArgumentError, "the channels of images of this convolution must be 3, got 4"),
    ({"out": (25, 3)}, ArgumentError,
     "the rows moved to of this convolution must be 24, got 25"),
    ({"transposed": True}, ArgumentError,
     "the rows moved to of this convolution must be 3, got 24"),
    ({"transposed": True, "out": (3, 60)}, ArgumentError,
     "the columns moved to of this convolution must be 24, got 60"),
    ({"tap": (3, 0)}, ArgumentError,
     "the tap along the height must be a whole number from 0 to 2, got 3"),
    ({"tap": (0, -1)}, ArgumentError,
     "the tap along the width must be a whole number from 0 to 2, got -1"),
    ({"order": program.Groups(0, 24, 4)}, ArgumentError,
     "what outputs see cannot be moved in the order of slots at once: move it without order"),
    ({"windows": None, "unsigned": True}, ArgumentError,
     "unsigned must come with windows: a plain move takes any code"),
    ({"windows": Windows(base=0, images=1, height=64, width=65, channels=3, kernel=(1, 1)),
      "x": (4160, 3), "out": (4160, 3)}, MemoryFullError,
     f"rows of a tensor to move must be at most {MAX_K} on this machine, got 4160")])
def test_moves_of_another_convolution_are_refused(fields, error, said):
    windows = Windows(base=0, images=2, height=6, width=5, channels=3, kernel=(3, 3))
    given = {"windows": windows, "x": (60, 3), "out": (24, 3), **fields}
    x, out = (Tensor(Space.QUANT, 0, *given.pop(name)) for name in ("x", "out"))
    with pytest.raises(error, match=said):
        program.move(x, out, **given)

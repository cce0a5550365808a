"""host.program: products that take more than one instruction, and convolutions."""

from dataclasses import replace

import numpy as np
import pytest

from hdl.instructions import STATE_ROWS, LayerRow, ScaleRow, StateRow, unpack_instruction
from hdl.params import MAX_K, MAX_M, MAX_N, Params
from hdl.product_cycles import product_cycles
from hdl.program import Program
from hdl.protocol import Space
from host import program
from host.device import Device
from host.errors import ArgumentError, MemoryFullError
from host.tensors import Tensor, load, store
from host.train import Rate
from host.windows import Windows
from sim.model.add import add, add_gradients
from sim.model.convolution import fold, patches
from sim.model.digits import stationary, streamed
from sim.model.gemm import gemm
from sim.model.norm import l1_forward, layer_backward, layer_forward
from sim.model.pool import average, average_gradient, spread, sums
from sim.model.quantise import quantise
from sim.model.relu import relu_gradient, unclipped
from sim.model.scale import scale_of_ones
from tests.support.images import rows_of, weights_of

PARAMS = Params(rows=2, cols=2, depth=2, lanes=1, memory=16)


@pytest.mark.parametrize(("params", "most"), [
    (Params(rows=8, cols=8, lanes=8, array_clock=3, masters=4), 255),
    (Params(rows=8, cols=8, lanes=8, array_clock=1), 256)], ids=["masters", "one clock"])
def test_there_are_more_products_where_two_column_tiles_need_the_room(params, most):
    def rows_of_products(m, k, n):
        steps, _ = program.gemm(params, Tensor(Space.QUANT, 0, m, k), Tensor(Space.QUANT, 0, k, n),
                                Tensor(Space.WIDE, 0, m, n))
        return [unpack_instruction(step)["m"] for step in steps]

    found = rows_of_products(511, 32, 512)
    assert len(found) == -(-511 // most) and sum(found) == 511 and max(found) <= most
    taken = sum(Program.BESIDE + product_cycles(params, m, 512, 1) for m in found)
    assert taken < 0.97 * (Program.BESIDE + product_cycles(params, 511, 512, 1))
    # Results are out before the next ones come; one column tile; they have room.
    assert rows_of_products(511, 512, 512) == [511]
    assert rows_of_products(511, 32, 8) == [511]
    assert rows_of_products(255, 32, 512) == [255]


@pytest.mark.parametrize("m", [1, MAX_M, MAX_M + 1, 1300])
def test_a_product_of_any_number_of_rows(m):
    rng = np.random.default_rng(m)
    a, b = rng.integers(-8, 8, (m, 5)), rng.integers(-7, 8, (5, 3))
    groups = rng.integers(0, 4, m)
    source, weights, out = (Tensor(Space.QUANT, 30, m, 5), Tensor(Space.QUANT, 10, 5, 3),
                            Tensor(Space.WIDE, 7, m, 3))
    rows = program.Groups(3, m, 4)
    steps, shift = program.gemm(PARAMS, source, weights, out, unsigned=True, rows=rows)
    assert len(steps) == -(-m // MAX_M)
    with Device.open("model:", PARAMS) as device:
        device.write(Space.GROUP, rows.base, groups[:, None])
        store(device, source, a)
        store(device, weights, b)
        device.run(steps)
        y, _ = gemm(a + 8, b, shift=shift, rows=groups, row_groups=4)
        assert (load(device, out) == y).all()


def test_rows_of_rows_are_rows_of_the_whole():
    whole = Tensor(Space.QUANT, 100, 50, 9)
    assert whole.rows_from(10, 30).rows_from(5, 8) == whole.rows_from(15, 8)


# Operands of more bits than codes have.

def wide_operand(rng, bits, shape, low, high):
    """Any numbers, those at the limits among them."""
    x = rng.integers(low, high, shape, endpoint=True)
    x.flat[:2] = low, high
    return x


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize(("bits", "count"), [(2, 1), (2, 4), (4, 2), (4, 3), (5, 2), (8, 2)])
def test_a_streamed_operand_in_digits(bits, count, unsigned):
    rng = np.random.default_rng(bits)
    params = Params(bits=bits, rows=2, cols=2, depth=2, lanes=2, memory=16, masters=4)
    m, k, n = 9, 7, 3
    low = 0 if unsigned else -(1 << bits * count - 1)
    a = wide_operand(rng, bits, (m, k), low, (1 << bits * count) - 1 + low)
    b = rng.integers(1 - (1 << bits - 1), 1 << bits - 1, (k, n))
    out, part = Tensor(Space.WIDE, 7, m, n), Tensor(Space.WIDE, 70, m, n)
    ones, weights = Tensor(Space.WIDE, 50, len(ScaleRow), n), Tensor(Space.QUANT, 10, k, n)
    digits = [Tensor(Space.QUANT, 100 + 50 * i, m, k) for i in range(count)]
    with Device.open("model:", params) as device:
        for i, (place, digit) in enumerate(zip(digits, streamed(a, bits, count), strict=True)):
            is_unsigned = unsigned or i < count - 1
            store(device, place, digit - (1 << bits - 1) * is_unsigned)
        store(device, weights, b)
        store(device, ones, scale_of_ones(n))
        device.run(program.digits_product(params, digits, weights, out, part, ones,
                                          unsigned=unsigned))
        assert (load(device, out) == a @ b).all()


@pytest.mark.parametrize(("bits", "count"), [(2, 3), (4, 2), (4, 3), (8, 2)])
def test_a_stationary_operand_in_digits_with_groups_of_rows(bits, count):
    rng = np.random.default_rng(bits)
    params = Params(bits=bits, rows=2, cols=2, depth=2, lanes=2, memory=16, masters=4)
    m, k, n = 9, 7, 3
    a = rng.integers(-(1 << bits - 1), 1 << bits - 1, (m, k))
    low = -((1 << bits - 1) - 1 << (bits - 1) * (count - 1))
    b = wide_operand(rng, bits, (k, n), low, (1 << (bits - 1) * count) - 1)
    groups = rng.integers(0, 4, m)
    out, part = Tensor(Space.WIDE, 7, m, n), Tensor(Space.WIDE, 70, m, n)
    ones, x = Tensor(Space.WIDE, 50, len(ScaleRow), n), Tensor(Space.QUANT, 10, m, k)
    digits = [Tensor(Space.QUANT, 100 + 50 * i, k, n) for i in range(count)]
    rows = program.Groups(3, m, 4)
    with Device.open("model:", params) as device:
        device.write(Space.GROUP, rows.base, groups[:, None])
        for place, digit in zip(digits, stationary(b, bits, count), strict=True):
            store(device, place, digit)
        store(device, x, a)
        store(device, ones, scale_of_ones(n))
        device.run(program.digits_product(params, x, digits, out, part, ones, rows=rows))
        assert (load(device, out) == (a @ b) << (3 - groups)[:, None]).all()


def test_a_convolution_of_images_of_eight_bits():
    rng = np.random.default_rng(5)
    shape, kernel, channels = (2, 5, 4, 3), (3, 3), 4
    images, height, width, count = shape
    windows = Windows(base=0, images=images, height=height, width=width, channels=count,
                      kernel=kernel, outputs=(height, width), padding=(1, 1))
    x = rng.integers(0, 256, (images, count, height, width))
    w = rng.integers(-7, 8, (channels, count, *kernel))
    m, k = images * height * width, count * 9
    out, part = Tensor(Space.WIDE, 7, m, channels), Tensor(Space.WIDE, 207, m, channels)
    ones = Tensor(Space.WIDE, 400, len(ScaleRow), channels)
    weights = Tensor(Space.QUANT, 10, k, channels)
    digits = [Tensor(Space.QUANT, 300 + 200 * i, m, count) for i in range(2)]
    with Device.open("model:", KEEPER) as device:
        windows.store(device)
        for place, digit in zip(digits, streamed(rows_of(x), 4, 2), strict=True):
            store(device, place, digit - 8)
        store(device, weights, weights_of(w))
        store(device, ones, scale_of_ones(channels))
        device.run(program.digits_product(KEEPER, digits, weights, out, part, ones, windows,
                                          unsigned=True))
        y = patches(x, kernel, 1, 1).reshape(m, -1) @ w.reshape(channels, -1).T
        assert (load(device, out) == y).all()


def test_digits_are_groups_where_there_are_more_groups_than_bits():
    """The low digits of all channels in one group, the high ones in the first: one product."""
    rng = np.random.default_rng(6)
    params = Params(bits=4, channel_groups=8, rows=2, cols=2, depth=2, lanes=2, memory=16,
                    masters=4)
    m, k, n = 9, 7, 3
    a, b = rng.integers(0, 256, (m, k)), rng.integers(-7, 8, (k, n))
    inner = program.Groups(5, 2 * k, 5)
    x = Tensor(Space.QUANT, 10, m, 2 * k)
    slots = Tensor(Space.QUANT, 100, m, program.slot_columns(params, 2 * k, 5))
    weights, out = Tensor(Space.QUANT, 300, 2 * k, n), Tensor(Space.WIDE, 7, m, n)
    with Device.open("model:", params) as device:
        store(device, x, np.hstack(streamed(a, 4, 2)) - 8)
        store(device, weights, np.vstack([b, b]))
        device.write(Space.GROUP, inner.base, np.repeat([4, 0], k)[:, None])
        product, shift = program.gemm(params, slots, weights, out, unsigned=True, inner=inner)
        device.run([program.sort(inner), program.move(x, slots, order=inner), *product])
        assert shift == 0 and (load(device, out) == a @ b).all()


def test_digits_that_need_more_than_a_wide_element_are_refused():
    place = Tensor(Space.QUANT, 0, 9, 600)
    with pytest.raises(ArgumentError, match="fit 32 bits, got one of 34"):
        program.digits_product(Params(bits=8, masters=4), [place] * 2, Tensor(
            Space.QUANT, 0, 600, 3), place, place, place, unsigned=True)
    with pytest.raises(ArgumentError, match="must have a digit, got none"):
        program.digits_product(Params(masters=4), [], place, place, place, place)


# Rows of norms and of what is quantised.

KEEPER = Params(rows=2, cols=2, depth=2, lanes=1, memory=16, masters=4)


def test_norms_and_codes_of_most_rows():
    rng = np.random.default_rng(0)
    m, n = MAX_K, 1
    x = rng.integers(-1000, 1000, (m, n))
    wide, context, q = (Tensor(space, base, m, n) for space, base in (
        (Space.WIDE, 0), (Space.WIDE, m), (Space.QUANT, 0)))
    state, exponent = Tensor(Space.WIDE, 2 * m, STATE_ROWS, n), Tensor(Space.WIDE, 3 * m, 1, n)
    rows = np.zeros((STATE_ROWS, n), np.int64)
    rows[StateRow.GAMMA] = 4096
    with Device.open("model:", KEEPER) as device:
        store(device, wide, x)
        store(device, state, rows)
        device.run([program.norm_forward(KEEPER, wide, wide, context, state, relu=True),
                    program.quantise(KEEPER, wide, q, exponent, unsigned=True, clip=20)])
        y, *_ = l1_forward(x, np.array([4096]), np.array([0]))
        expected = quantise(y, bits=4, signed=False, clip=20)
        assert (load(device, q) + 8 == expected.q).all()
        assert (load(device, exponent) == expected.exponent).all()


@pytest.mark.parametrize("params", [PARAMS, KEEPER], ids=lambda params: params.name)
def test_tensors_of_too_many_rows_or_columns_are_refused(params):
    def refused(limit, name, make):
        rows, cols = (limit + 1, 1) if name == "rows" else (1, limit + 1)
        x = Tensor(Space.WIDE, 0, rows, cols)
        with pytest.raises(MemoryFullError, match=f"{name} of a tensor must be at most {limit} on "
                                                  f"this machine, got {limit + 1}"):
            make(x)

    taken = [(params.max_rows, make) for make in (
        lambda x: program.quantise(params, x, x, x),
        lambda x: program.norm_forward(params, x, x, x, x, relu=True),
        lambda x: program.norm_backward(params, x, x, x, x))]
    if params.masters:
        rate, key = Rate(400, 12), (0,) * 4
        taken += [(MAX_K, lambda x: program.scan(x, x)),
                  (MAX_K, lambda x: program.update(x, x, x, rate, key)),
                  (MAX_K, lambda x: program.column_sums(x, x)),
                  (MAX_M, lambda x: program.cross_entropy(x, x, x, x))]
    for rows, make in taken:
        refused(rows, "rows", make)
        refused(MAX_N, "columns", make)


# Convolutions.


def convolved(windows, x, b, *, params=KEEPER, unsigned=False, groups=None):
    """The device's result on the rows of images ``x`` as they are stored, and its shift."""
    source = Tensor(Space.QUANT, 60, *x.shape)
    weights = Tensor(Space.QUANT, source.base + x.size, *b.shape)
    out = Tensor(Space.WIDE, 7, windows.count, b.shape[1])
    rows = groups is not None and program.Groups(100, windows.count, 4)
    steps, shift = program.convolution(params, source, weights, out, windows, unsigned=unsigned,
                                       rows=rows or None)
    assert len(steps) == windows.table_words - 3 == -(-windows.count // MAX_M)
    with Device.open("model:", params) as device:
        windows.store(device)
        if rows:
            device.write(Space.GROUP, rows.base, groups[:, None])
        store(device, source, x)
        store(device, weights, b)
        device.run(steps)
        return load(device, out), shift


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), [
    ((1, 1, 1, 1), (1, 1), 1, 0), ((2, 3, 5, 4), (3, 3), 1, 1), ((3, 5, 7, 6), (3, 2), 2, 1),
    ((2, 4, 9, 9), (7, 7), 2, 3), ((9, 2, 12, 11), (5, 4), 1, 0), ((2, 9, 8, 8), (4, 4), 4, 0),
    ((1, 2, 4, 4), (4, 4), 1, 0), ((40, 1, 4, 5), (2, 5), 1, 2)],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value))
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_convolution_is_that_of_the_model(shape, kernel, stride, padding, unsigned):
    rng = np.random.default_rng(shape)
    n, c, h, w = shape
    x = rng.integers(-8, 8, shape)
    weight = rng.integers(-7, 8, (3, c, *kernel))
    windows = Windows(base=20, images=n, height=h, width=w, channels=c, kernel=kernel,
                      stride=(stride,) * 2, padding=(padding,) * 2)
    a = patches(x + 8 * unsigned, kernel, stride, padding)
    groups = rng.integers(0, 4, windows.count) if unsigned else None
    found, shift = convolved(windows, rows_of(x), weights_of(weight), unsigned=unsigned,
                             groups=groups)
    y, _ = gemm(a, weight.reshape(3, -1).T, shift=shift, rows=groups, row_groups=4)
    assert (found == y).all()


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), [
    ((2, 3, 8, 8), (3, 3), 2, 1, 1), ((2, 3, 7, 5), (3, 2), 2, 0, 1),
    ((1, 2, 6, 6), (1, 1), 2, 0, 1), ((2, 3, 6, 5), (3, 3), 1, 1, 1),
    ((1, 2, 9, 8), (5, 4), 1, 2, 1), ((1, 2, 9, 8), (3, 2), 1, 1, 2),
    ((2, 1, 9, 10), (4, 7), 2, 3, 1), ((2, 3, 7, 6), (2, 2), 2, 0, 1)],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value))
def test_the_gradient_of_its_input_is_a_convolution(shape, kernel, stride, padding, dilation):
    rng = np.random.default_rng(shape)
    n, c, h, w = shape
    weight = rng.integers(-7, 8, (4, c, *kernel))
    forward = Windows(base=20, images=n, height=h, width=w, channels=c, kernel=kernel,
                      stride=(stride,) * 2, padding=(padding,) * 2, dilation=dilation)
    dy = rng.integers(-7, 8, (n, 4, *forward.outputs))
    spread = np.zeros((4, c, *((taps - 1) * dilation + 1 for taps in kernel)), np.int64)
    spread[:, :, ::dilation, ::dilation] = weight
    dx = fold(rows_of(dy) @ spread.reshape(4, -1), shape, spread.shape[2:], stride, padding)
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    found, shift = convolved(forward.gradient(40, 4), rows_of(dy), weights_of(turned))
    assert shift == 0 and (found == rows_of(dx)).all()


GOOD = {"base": 0, "images": 2, "height": 6, "width": 5, "channels": 3, "kernel": (3, 3)}


@pytest.mark.parametrize(("fields", "said"), [
    ({"kernel": 3}, r"kernel must be \(height, width\), got 3"),
    ({"outputs": (1,)}, r"outputs must be \(height, width\), got \(1,\)"),
    ({"images": 0}, "images must be a whole number from 1 to 65536, got 0"),
    ({"channels": 0}, "channels must be a whole number from 1 to 4096, got 0"),
    ({"height": 256}, "height must be a whole number from 1 to 255, got 256"),
    ({"kernel": (3, 8), "width": 9}, "the kernel's width must be a whole number from 1 to 7, got"),
    ({"stride": (3, 1)}, "the stride along the height must be one of 1, 2, 4, got 3"),
    ({"stride": (1, 8)}, "the stride along the width must be one of 1, 2, 4, got 8"),
    ({"dilation": 0}, "dilation must be one of 1, 2, 4, got 0"),
    ({"spread": 3}, "spread must be 1 or 2, got 3"),
    ({"padding": (16, 0)}, "the padding of the height must be a whole number from 0 to 15, got 16"),
    ({"padding": (0, -1)}, "the padding of the width must be a whole number from 0 to 15, got -1"),
    ({"kernel": (7, 3)}, "a window's height must be at most 6, image and padding, got 7"),
    ({"kernel": (3, 3), "dilation": 4, "padding": (2, 1)},
     "a window's width must be at most 7, image and padding, got 9"),
    ({"outputs": (0, 1)}, "the outputs' height must be a whole number from 1 to 255, got 0"),
    ({"outputs": (1, 200), "stride": (1, 4)},
     "the last position along the width must be a whole number from 0 to 511, got 798"),
    ({"channels": 1000}, "the inner dimension of a convolution must be a whole number from 1 to "
                         "4096, got 9000")])
def test_what_is_no_convolution_is_refused(fields, said):
    Windows(**GOOD)
    with pytest.raises(ArgumentError, match=said):
        Windows(**{**GOOD, **fields})


def test_a_gradient_that_is_no_convolution_is_refused():
    for fields in ({"stride": (2, 1)}, {"spread": 2}):
        with pytest.raises(ArgumentError, match=r"if its strides are \(1, 1\) or \(2, 2\) and its"):
            Windows(**GOOD, **fields).gradient(0, 3)
    with pytest.raises(ArgumentError, match=r"the padding of the height must be .* got -1"):
        Windows(**GOOD, padding=(3, 2)).gradient(0, 3)


@pytest.mark.parametrize(("changed", "said"), [
    ({"x": (59, 3)}, "the rows of images of this convolution must be 60, got 59"),
    ({"x": (60, 4)}, "the channels of images of this convolution must be 3, got 4"),
    ({"b": (28, 2)}, "the rows of weights of this convolution must be 27, got 28"),
    ({"out": (25, 2)}, "the rows of outputs of this convolution must be 24, got 25"),
    ({"out": (24, 3)}, "the columns of outputs of this convolution must be 2, got 3")])
def test_tensors_of_another_convolution_are_refused(changed, said):
    shapes = {"x": (60, 3), "b": (27, 2), "out": (24, 2)}
    tensors = {name: Tensor(Space.QUANT, 0, *shape)
               for name, shape in {**shapes, **changed}.items()}
    with pytest.raises(ArgumentError, match=said):
        program.convolution(KEEPER, **tensors, windows=Windows(**GOOD))


# Sums of gradients, and pooling.

WIDE = Params(rows=2, cols=4, depth=2, lanes=4, memory=32, masters=4)


class Places:
    """Wide tensors one after the other, on a device."""

    def __init__(self, device):
        self.device, self.base = device, 5

    def place(self, rows, cols):
        tensor = Tensor(Space.WIDE, self.base, rows, cols)
        self.base += rows * -(-cols // WIDE.vector) + 1
        return tensor

    def stored(self, x):
        x = np.atleast_2d(x)
        store(self.device, tensor := self.place(*x.shape), x)
        return tensor

    def ones(self, n):
        """A scale tensor that leaves tensors as they are."""
        scales = np.zeros((len(ScaleRow), n), np.int64)
        scales[ScaleRow.FACTOR] = 1
        return self.stored(scales)


def gradient(rng, shape, kind):
    if kind == 0:
        return np.zeros(shape, np.int64)
    x = rng.integers(-2**31, 2**31, shape) >> int(rng.integers(0, 32))
    x[rng.random(shape) < 0.3] = 0
    return x


@pytest.mark.parametrize("n", [1, 4, 7, 8])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_gradients_that_meet_are_added_as_the_model_does(n, count, seed):
    """Zeros, whose exponent counts for nothing, among them; in their places, apart, or both."""
    rng = np.random.default_rng([n, count, seed])
    with Device.open("model:", WIDE) as device:
        for kinds in range(1 << count):
            at = Places(device)
            m, width = int(rng.integers(1, 9)), -(-n // WIDE.vector) * WIDE.vector
            parts, ones = at.place(m, width * count), at.ones(n)
            table = np.zeros((len(ScaleRow), width * count), np.int64)
            for first in range(0, width * count, width):
                table[ScaleRow.FACTOR, first:first + n] = 1
            # What is beside the gradients, and in the rows that are not read.
            store(device, parts, rng.integers(-2**31, 2**31, (m, width * count)))
            scales, gradients, expected = at.stored(table), [], []
            for number in range(count):
                x, exponent = gradient(rng, (m, n), kinds >> number & 1), int(rng.integers(-90, 40))
                place = parts.columns_from(width * number, n, WIDE)
                if rng.random() < 0.5:
                    place = at.place(m, n)
                store(device, place, x)
                gradients.append((place, at.stored([[exponent]])))
                expected.append((x, exponent))
            out = parts.columns_from(0, n, WIDE) if seed % 2 else at.place(m, n)
            exponents = at.place(1, width * count)
            device.run(program.add_gradients(WIDE, gradients, parts, out, exponents, scales, ones))
            total, exponent = add_gradients(expected)
            assert (load(device, out) == total).all()
            assert (load(device, exponents) == exponent).all()


def test_a_gradient_passes_where_codes_are_not_clipped():
    rng, m, n = np.random.default_rng(0), 9, 7
    codes, x = rng.integers(0, 16, (m, n)), rng.integers(-2**23, 2**23, (m, n))
    with Device.open("model:", WIDE) as device:
        place = Places(device).stored(x)
        q = Tensor(Space.QUANT, 0, m, n)
        store(device, q, codes - 8)
        device.run([program.clip_gradient(place, q)])
        assert (load(device, place) == relu_gradient(x, unclipped(codes, 4))).all()


def test_parts_that_do_not_hold_the_gradients_are_refused():
    x, one = Tensor(Space.WIDE, 0, 3, 6), Tensor(Space.WIDE, 90, 1, 1)
    with pytest.raises(ArgumentError, match="the parts of 2 gradients must be 3 x 16, got 3 x 12"):
        program.add_gradients(WIDE, [(x, one)] * 2, x.view(3, 12), x, one, one, one)


def test_a_tensor_is_added_as_the_model_does():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-2**23, 2**23, (2, 5, 7))
    with Device.open("model:", WIDE) as device:
        at = Places(device)
        x, y, ones = at.stored(a), at.stored(b), at.ones(7)
        device.run([program.scale(x, ones, x, bits=24, plus=y)])
        total, clamped = add(a, b)
        assert (load(device, x) == total).all()
        assert device.status().saturations == clamped > 0
    with pytest.raises(ArgumentError, match="what a scale adds must be 5 x 7, got 5 x 6"):
        program.scale(x, ones, x, bits=24, plus=y.view(5, 6))
    with pytest.raises(ArgumentError, match="a scale adds a bias or a tensor, got both"):
        program.scale(x, ones, x, bits=24, plus=y, bias=True)


POOLS = [((2, 3, 5), (1, 1)), ((2, 5, 4), (1, 2)), ((3, 4, 6), (2, 2)), ((1, 9, 5), (4, 2)),
         ((2, 9, 4), (4, 4)), ((2, 8, 8), (8, 8)), ((1, 16, 16), (16, 16))]


@pytest.mark.parametrize(("images", "window"), POOLS, ids=str)
def test_averages_are_the_models(images, window):
    rng = np.random.default_rng(images)
    n, size, count = 5, images[1:], window[0] * window[1]
    x = rng.integers(-2**23, 2**23, (images[0] * size[0] * size[1], n))
    x[:, 0] = rng.choice([-2**23, 2**23 - 1])
    with Device.open("model:", WIDE) as device:
        at = Places(device)
        source, ones = at.stored(x), at.ones(n)
        expected = average(sums(x, size, window), count)
        for out in (at.place(*expected.shape), source.view(*expected.shape)):
            device.run(program.pool(source, out, ones, images, window))
            assert (load(device, out) == expected).all()
        assert device.status().saturations == 0


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(("images", "window"), POOLS, ids=str)
def test_gradients_of_averages_are_the_models(images, window, clipped):
    """What is clipped takes no part in the gradient's exponent either; a gradient may be 0."""
    rng = np.random.default_rng(images)
    n, size, count = 5, images[1:], window[0] * window[1]
    rows = images[0] * (size[0] // window[0]) * (size[1] // window[1])
    for kind in (0, 1, 1):
        with Device.open("model:", WIDE) as device:
            at = Places(device)
            dy, codes = gradient(rng, (rows, n), kind), rng.integers(-8, 8, (rows, n))
            codes[np.unravel_index(np.abs(dy).argmax(), dy.shape)] = 7
            given, q, ones = at.stored(dy), Tensor(Space.QUANT, 9, rows, n), at.ones(n)
            store(device, q, codes)
            dx, exponents = at.place(images[0] * size[0] * size[1], n), at.place(1, n)
            scalar, known = at.stored([[-37]]), int(rng.integers(-9, 9))
            device.run(program.pool_gradient(
                given, dx, exponents, ones, images, window, exponent=known, scalar=scalar,
                codes=q if clipped else None))
            passed = np.where(codes < 7, dy, 0) if clipped else dy
            each, exponent = average_gradient(passed, known - 37, count)
            assert (load(device, dx) == spread(each, size, window)).all()
            assert (load(device, exponents) == exponent).all()


@pytest.mark.parametrize(("changed", "said"), [
    ({"window": (2, 3)}, "windows of a power of two of positions, at most 256, got 2 x 3"),
    ({"window": (32, 16), "images": (1, 64, 64), "x": (4096, 3), "out": (8, 3)},
     "at most 256, got 32 x 16"),
    ({"window": (8, 1)}, "the height of a window must be 1 to that of an image, and that at most "
                         "255, got 8 and 6"),
    ({"window": (1, 0)}, "the width of a window must be 1 .* got 0 and 4"),
    ({"images": (1, 2, 300)}, "the width of a window .* at most 255, got 2 and 300"),
    ({"x": (47, 3)}, "the rows of images must be 48, got 47"),
    ({"out": (11, 3)}, "the rows of averages must be 12, got 11"),
    ({"out": (12, 4)}, "the channels of averages must be those of images, 3, got 4")])
def test_what_cannot_be_averaged_is_refused(changed, said):
    fields = {"images": (2, 6, 4), "window": (2, 2), "x": (48, 3), "out": (12, 3), **changed}
    x, out = (Tensor(Space.WIDE, 0, *fields[name]) for name in ("x", "out"))
    one = Tensor(Space.WIDE, 0, 3, 3)
    with pytest.raises(ArgumentError, match=said):
        program.pool(x, out, one, fields["images"], fields["window"])
    with pytest.raises(ArgumentError, match=said):
        program.pool_gradient(out, x, one, one, fields["images"], fields["window"])


def test_images_of_too_many_rows_are_refused():
    x, one = Tensor(Space.WIDE, 0, 5 * 1024, 3), Tensor(Space.WIDE, 0, 3, 3)
    with pytest.raises(MemoryFullError, match="rows of a tensor must be at most 4096"):
        program.pool(x, x.view(1280, 3), one, (5, 32, 32), (2, 2))


# The norm of channels.

LAYERED = replace(WIDE, layer_norm=True)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 7), (8, 2)])
def test_the_norm_of_channels_is_the_models(m, n):
    rng = np.random.default_rng([m, n])
    x, dy = rng.integers(-2**20, 2**20, (m, n)), rng.integers(-2**31, 2**31, (m, n))
    table = np.zeros((STATE_ROWS, n), np.int64)
    table[LayerRow.GAMMA] = rng.integers(-2**15, 2**15, n)
    table[LayerRow.BETA] = rng.integers(-2**20, 2**20, n)
    y, context, deviation = layer_forward(x, table[LayerRow.GAMMA], table[LayerRow.BETA])
    dx, grad_beta, grad_gamma, grad_bits, deviation_bits = layer_backward(
        dy, context, table[LayerRow.GAMMA], deviation)
    with Device.open("model:", LAYERED) as device:
        at = Places(device)
        source, given, state = at.stored(x), at.stored(dy), at.stored(table)
        kept, deviations, out = at.place(m, n), at.place(m, 1), at.place(m, n)
        device.run([program.layer_norm(LAYERED, source, out, kept, state, deviations)])
        assert (load(device, out) == y).all() and (load(device, kept) == context.pack()).all()
        assert (load(device, deviations)[:, 0] == deviation).all()
        # Trained or not, the same; another tensor's leaves nothing.
        device.run([program.layer_norm(LAYERED, given, given.view(m, n), kept, state, deviations,
                                       inference=True)])
        assert (load(device, kept) == context.pack()).all()
        assert (load(device, deviations)[:, 0] == deviation).all()
        store(device, given, dy)
        device.run([program.layer_norm_gradient(LAYERED, given, out, kept, state, deviations)])
        assert (load(device, out) == dx).all()
        found = load(device, state)
    assert all((a == b).all() for a, b in zip(program.layer_gradients(found),
                                              (grad_beta, grad_gamma), strict=True))
    assert (found[LayerRow.GRAD_BITS] == grad_bits).all()
    assert (found[LayerRow.DEVIATION_BITS] == deviation_bits).all()


@pytest.mark.parametrize(("params", "shapes", "error", "said"), [
    (WIDE, [(3, 4), (3, 1)], ArgumentError, "needs a machine that has it: add --layer-norm, got "),
    (LAYERED, [(3, 4), (4, 1)], ArgumentError, r"deviations must be \[3, 1\], .* got \[4, 1\]"),
    (LAYERED, [(3, 4), (3, 2)], ArgumentError, r"deviations must be \[3, 1\], .* got \[3, 2\]"),
    (LAYERED, [(MAX_K + 1, 1), (MAX_K + 1, 1)], MemoryFullError,
     "rows of a tensor must be at most 4096 on this machine, got 4097"),
    (LAYERED, [(1, MAX_N + 1), (1, 1)], MemoryFullError,
     "columns of a tensor must be at most 4096 on this machine, got 4097")])
def test_what_rows_cannot_be_normalised_is_refused(params, shapes, error, said):
    x, deviations = (Tensor(Space.WIDE, 0, *shape) for shape in shapes)
    for make in program.layer_norm, program.layer_norm_gradient:
        with pytest.raises(error, match=said):
            make(params, x, x, x, x, deviations)

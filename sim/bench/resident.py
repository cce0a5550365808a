"""Scenarios of machines that keep masters: their operations, memories and stored programs."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from hdl.instructions import (
    COLUMN_UNIT,
    INSTRUCTION_BYTES,
    MAX_SHIFT,
    POOL_GEOMETRY,
    STATE_ROWS,
    CombineFlag,
    LossRow,
    Opcode,
    PoolFlag,
    ScaleFlag,
    ScaleRow,
    StateRow,
    in_order,
    instruction,
    naming,
    pack_fields,
    unpack_instruction,
)
from hdl.params import MAX_K, MAX_M
from hdl.protocol import (
    MAX_BODY,
    MAX_STORED,
    PROGRAM_WORDS,
    Space,
    codes_in_byte,
    word_bytes,
)
from host import program
from host.errors import ArgumentError
from host.layers import Network
from host.network import Layer, perceptron
from host.resident import Places, Resident
from host.schedule import after, schedule, scheduled
from host.tensors import Tensor
from host.train import Rate
from host.windows import Windows
from sim.bench import draw
from sim.bench.recording import Recording

__all__ = ["SCENARIOS", "SCENARIOS_WITH_LAYER_NORM", "Mix"]


# SCALE.

def _junk_above(rng, value, bits):
    """Numbers of which a unit takes so many bits, with junk above."""
    above = rng.integers(-1 << 31 - bits, 1 << 31 - bits, np.shape(value))
    return (value & (1 << bits) - 1) + (above << bits)


def _numbers(rng, bits, m, n):
    """Masters or velocities of many magnitudes, the extremes among them."""
    x = draw.values(rng, m, n) >> 32 - bits
    ends = rng.random((m, n)) < 0.05
    x[ends] = rng.choice([-1 << bits - 1, (1 << bits - 1) - 1], ends.sum())
    return x


def _store_parameters(recording, place):
    """Masters at a place, and their velocities."""
    params, shape = recording.params, (place.rows, place.cols)
    recording.store(place, _numbers(recording.rng, params.master_bits, *shape))
    recording.store(_velocity(place), _numbers(recording.rng, params.velocity_bits, *shape))


def _velocity(place):
    return Tensor(Space.VELOCITY, place.base, place.rows, place.cols)


def _factors(rng, n):
    """Factors of which the low bits are a mantissa, so that they divide as well."""
    return rng.integers(0, 128, n) * 8 + rng.integers(4, 8, n)


def _scale(recording, x, flags, *, spread=None, bits=None):
    """One tensor scaled: ``spread`` are the exponents' ends, those of factors left aside."""
    rng, (m, n) = recording.rng, x.shape
    flags = ScaleFlag(flags)
    update, plus = bool(flags & ScaleFlag.UPDATE), flags & ScaleFlag.PLUS == ScaleFlag.PLUS
    source = recording.place(Space.MASTER if flags & ScaleFlag.MASTER else Space.WIDE, m, n)
    scales = recording.place(Space.WIDE, len(ScaleRow), n)
    scalar, exponents = recording.place(Space.WIDE, 1, 1), recording.place(Space.WIDE, 1, n)
    added_to = recording.stored(Space.WIDE, draw.values(rng, m, n)) if plus else exponents
    if update:
        out = recording.place(Space.MASTER, m, n)
    elif flags & ScaleFlag.PLUS == ScaleFlag.SUM:
        out = recording.place(Space.WIDE, 1, n)
    elif plus and rng.random() < 0.3:
        out = added_to
    elif flags & ScaleFlag.MASTER or rng.random() < 0.5:
        out = recording.place(Space.WIDE, m, n)
    else:
        out = source

    # What is added up to a column's exponent, each of 16 bits.
    ends = (-45, 10) if spread is None else spread
    added, offset = (int(e) for e in rng.choice([0, int(rng.integers(-2**15, 2**15))], 2))
    columns = rng.integers(ends[0], ends[1] + 1, n) - offset
    columns -= added * bool(flags & ScaleFlag.ADD)
    if flags & ScaleFlag.NEGATE:
        columns = -columns
    table = np.zeros((len(ScaleRow), n), np.int64)
    table[ScaleRow.FACTOR] = _junk_above(rng, _factors(rng, n), 10)
    table[ScaleRow.EXPONENT] = _junk_above(rng, np.clip(columns, -2**15, 2**15 - 1), 16)
    table[ScaleRow.BIAS] = draw.values(rng, 1, n)[0]

    recording.store(source, x)
    recording.store(scales, table)
    recording.store(scalar, _junk_above(rng, np.full((1, 1), added), 16))
    if update:
        _store_parameters(recording, out)
    bits = bits or int(rng.choice([1, 8, 16, 24, 32, rng.integers(1, 33)]))
    key0, key1 = (int(word) for word in rng.integers(0, 1 << 32, 2))
    recording.device.run([instruction(
        Opcode.SCALE, flags=flags, m=m, n=n, src0=source.base, src1=scales.base, dst0=out.base,
        dst1=int(rng.choice([0, 4095, rng.integers(4096)])) if update else added_to.base,
        tab0=int(rng.choice([0, 4095, rng.integers(4096)])),
        tab1=scalar.base, tab2=offset & 0xFFFF, arg=int(rng.integers(256)) if update else bits,
        k=int(rng.choice([0, 4095, rng.integers(4096)])), shift=int(rng.integers(18)),
        key0=key0, key1=key1)])
    recording.read(out, *([_velocity(out)] if update else []),
                   *([exponents] if flags & ScaleFlag.ALIGN else []))
    recording.read(scales)
    recording.device.status()


#: What SCALE does, and what it may do as well.
_SCALES = [ScaleFlag(0), ScaleFlag.BIAS, ScaleFlag.ALIGN, ScaleFlag.SUM, ScaleFlag.UPDATE,
           ScaleFlag.PLUS, ScaleFlag.MASTER, ScaleFlag.MASTER | ScaleFlag.BIAS,
           ScaleFlag.MASTER | ScaleFlag.ALIGN, ScaleFlag.MASTER | ScaleFlag.SUM,
           ScaleFlag.MASTER | ScaleFlag.PLUS]
_BESIDES = (ScaleFlag.DIVIDE, ScaleFlag.NEGATE, ScaleFlag.ADD)


def _source(recording, flags, m, n):
    if flags & ScaleFlag.MASTER:
        return _numbers(recording.rng, recording.params.master_bits, m, n)
    return draw.values(recording.rng, m, n)


def scale(params, seed, most=10):
    """Every mode with random tensors."""
    recording = Recording(params, f"scale {seed}")
    rng = recording.rng

    def attempt(flags, most):
        m, n = draw.dimension(rng, min(most, MAX_K)), draw.dimension(rng, most, params.vector)
        recording.begin(f"scale {m}x{n} {flags!r}")
        _scale(recording, _source(recording, flags, m, n), flags)

    for mode in _SCALES * 2:
        beside = [flag for flag in _BESIDES if rng.random() < 0.5]
        draw.fitting(partial(attempt, mode | sum(beside)), most)
    return recording.session("scale")


def scale_extremes(params, seed, most=10):
    """Every combination of flags on the ends of a wide element's range, and on zeros; exponents
    of every size; more rows than other tensors have."""
    recording = Recording(params, f"scale_extremes {seed}")
    rng = recording.rng
    shapes = [(1, 1), (2, params.vector + 1)]
    for number, (mode, beside) in enumerate(product(_SCALES, product(*((0, flag) for flag in
                                                                       _BESIDES)))):
        flags = mode | sum(beside)
        m, n = shapes[number % 2]
        low = -1 << (params.master_bits if flags & ScaleFlag.MASTER else 32) - 1
        x = [np.zeros((m, n), np.int64), rng.choice([low, -low - 1], (m, n)),
             np.full((m, n), low)][(number // 2 + seed) % 3]
        recording.begin(f"scale {m}x{n} {flags!r}")
        far = [(-2**15, 2**15 - 1), (-2**15, -2**15), (-1, 1)][number % 3]
        _scale(recording, x, flags, spread=far, bits=int(rng.choice([1, 32])))

    def long(flags, limit):
        m = min(limit, MAX_K)
        recording.begin(f"scale {m} rows {flags!r}")
        _scale(recording, draw.values(rng, m, 1), flags)
    for flags in (ScaleFlag.UPDATE, ScaleFlag.PLUS, ScaleFlag.SUM, ScaleFlag.ALIGN):
        draw.fitting(partial(long, flags), 600)
    return recording.session("scale_extremes")


# COMBINE.

def combine(params, seed, most=10):
    """Every combination of flags on rows of taller tensors."""
    recording = Recording(params, f"combine {seed}")
    rng = recording.rng

    def attempt(flags, most):
        n = draw.dimension(rng, most, params.vector)
        one = bool(flags & CombineFlag.BROADCAST)
        recording.begin(f"combine {n} {flags!r}")
        places = [recording.some_rows(Space.WIDE, 1, n) for _ in range(3)]
        (tall_a, a), (tall_b, b), (tall, out) = places
        for whole, row in places:
            x = draw.values(rng, 1, n)
            x[rng.random((1, n)) < 0.3] = rng.choice([-1 << 31, (1 << 31) - 1])
            recording.store_rows(whole, row, x)
        if rng.random() < 0.3:
            # In the place of one of the two, unless that is read more than once.
            tall, out = (tall_a, a) if one or rng.random() < 0.5 else (tall_b, b)
        recording.device.run([instruction(
            Opcode.COMBINE, flags=flags, n=n, src0=a.base, src1=b.base, dst0=out.base,
            tab0=tall_a.rows, tab1=tall_b.rows, tab2=tall.rows,
            key0=int(rng.choice([0, (1 << 32) - 1, rng.integers(1 << 32)])),
            shift=int(rng.choice([0, 1, 31, rng.integers(32)])))])
        recording.read(tall)

    # A maximum is of no other kind.
    kinds = CombineFlag.SUBTRACT | CombineFlag.FOLLOW
    every = [flags for flags in range(sum(CombineFlag) + 1)
             if not (flags & CombineFlag.MAXIMUM and flags & kinds)]
    for flags in [*every, *every]:
        draw.fitting(partial(attempt, CombineFlag(flags)), most)
    return recording.session("combine")


# CROSS_ENTROPY.

def cross_entropy(params, seed, most=10):
    """Logits of every size, of which a unit takes 24 bits; ties; one sample and one class."""
    recording = Recording(params, f"cross_entropy {seed}")
    rng = recording.rng

    def attempt(kind, most):
        m, n = draw.dimension(rng, min(most, MAX_M)), draw.dimension(rng, most, params.vector)
        recording.begin(f"cross-entropy of {m}x{n} {kind}")
        logits = {
            "usual": rng.integers(-5 << 12, 5 << 12, (m, n)),
            "any": draw.values(rng, m, n) >> 8,
            "equal": np.broadcast_to(rng.integers(-1 << 23, 1 << 23, (m, 1)), (m, n)),
            "extreme": rng.choice([-1 << 23, (1 << 23) - 1], (m, n)),
        }[kind]
        source = recording.stored(Space.WIDE, _junk_above(rng, logits, 24))
        # Some may be no column's.
        labels = rng.integers(0, n + rng.integers(3), (m, 1))
        labels = recording.stored(Space.WIDE, _junk_above(rng, labels, 13))
        gradient = source if rng.random() < 0.5 else recording.place(Space.WIDE, m, n)
        loss = recording.place(Space.WIDE, len(LossRow), 1)
        recording.device.run([program.cross_entropy(source, labels, gradient, loss)])
        recording.read(gradient, loss)

    for kind in ("usual", "usual", "any", "any", "equal", "extreme"):
        draw.fitting(partial(attempt, kind), most)
    recording.device.status()
    return recording.session("cross_entropy")


# Convolutions.

def _images(rng, params, most):
    """A convolution of any kind: its fields but for the place of the tables."""
    def pair(low, high):
        return tuple(int(value) for value in rng.integers(low, high + 1, 2))

    while True:
        spread, side = int(rng.integers(1, 3)), max(1, min(most, 12))
        fields = {
            "images": int(rng.integers(1, 4)), "channels": draw.dimension(rng, most, params.slots),
            "spread": spread, "dilation": 1 << int(rng.integers(0, 2 + (spread == 2))),
            "stride": tuple(1 << place for place in pair(0, 1 + (spread == 2))),
            "kernel": pair(1, 4), "padding": pair(0, 4),
            **dict(zip(("height", "width"), pair(1, side), strict=True))}
        if rng.random() < 0.2:
            fields["outputs"] = pair(1, side)
        try:
            return Windows(base=0, **fields)
        except ArgumentError:
            continue


def _convolve(recording, windows, n):
    """One convolution of images that are rows of a taller tensor, as often as not."""
    params, rng = recording.params, recording.rng
    windows = replace(windows, base=recording.tables(windows.table_words))
    m = windows.images * windows.height * windows.width
    held, x = recording.some_rows(Space.QUANT, m, windows.channels)
    b = recording.stored(Space.QUANT, draw.codes(rng, params, (windows.rows, n), streamed=False))
    result, out = recording.some_rows(Space.WIDE, windows.count, n)
    axes = {}
    for name, length in (("rows", windows.count), ("cols", n)):
        if params.max_groups > 1 and rng.random() < 0.5:
            axes[name] = recording.groups(length, int(rng.integers(1, params.max_groups + 1)))
            recording.store_groups(axes[name], draw.random_groups(rng, length, axes[name].count))
    recording.store_rows(held, x, draw.codes(rng, params, (m, windows.channels), streamed=True))
    recording.store(result, rng.integers(-1 << 31, 1 << 31, (result.rows, n)))
    windows.store(recording.device)
    steps, safe = program.convolution(params, x, b, out, windows, **axes,
                                      unsigned=bool(rng.integers(2)))
    shift = int(rng.choice([safe, safe, 0, min(safe + 1, MAX_SHIFT)]))
    for step in steps:
        fields = unpack_instruction(step)
        recording.device.run([instruction(fields.pop("op"), **{**fields, "shift": shift})])
    recording.read(result)


def convolution(params, seed, most=10):
    """Kernels, strides, padding, dilation and spread of every kind, and more outputs than an
    instruction has."""
    recording = Recording(params, f"convolution {seed}")
    rng = recording.rng

    def attempt(most):
        windows, n = _images(rng, params, most), draw.dimension(rng, most, params.cols)
        recording.begin(f"a convolution: {windows}, {n} outputs")
        _convolve(recording, windows, n)

    for _ in range(8):
        draw.fitting(attempt, min(most, 60))

    def many(most):
        # More than 511 outputs.
        recording.begin("many outputs")
        _convolve(recording, Windows(
            base=0, images=most, height=9, width=13, channels=1, kernel=(1, 2), padding=(2, 1)), 1)
    draw.fitting(many, 5)
    recording.device.status()
    return recording.session("convolution")


def windows_moved(params, seed, most=10):
    """What outputs see with every tap of kernels of every kind, to tensors of any height."""
    recording = Recording(params, f"windows_moved {seed}")
    rng = recording.rng

    def attempt(most):
        windows = _images(rng, params, most)
        recording.begin(f"windows moved: {windows}")
        _move_windows(recording, windows)

    for _ in range(8):
        draw.fitting(attempt, min(most, 40))

    def many(most):
        # More outputs than a product has.
        recording.begin("many windows moved")
        _move_windows(recording, Windows(
            base=0, images=most, height=9, width=13, channels=1, kernel=(1, 2), padding=(2, 1)))
    draw.fitting(many, 5)
    return recording.session("windows_moved")


def _move_windows(recording, windows):
    """A move for every tap; images are rows of a taller tensor as often as not."""
    params, rng = recording.params, recording.rng
    windows = replace(windows, base=recording.tables(windows.table_words))
    shape = windows.images * windows.height * windows.width, windows.channels
    held, x = recording.some_rows(Space.QUANT, *shape)
    recording.store_rows(held, x, draw.codes(rng, params, shape, streamed=True))
    windows.store(recording.device)
    for tap in product(*map(range, windows.kernel)):
        transposed, turned = bool(rng.integers(2)), (windows.channels, windows.count)
        tall, out = recording.some_rows(Space.QUANT, *(turned if transposed else turned[::-1]))
        recording.store(tall, draw.codes(rng, params, (tall.rows, tall.cols), streamed=True))
        recording.device.run([program.move(x, out, transposed=transposed, windows=windows, tap=tap,
                                           unsigned=bool(rng.integers(2)))])
        recording.read(tall)


# POOL.

def _geometry(rng, most):
    """``(images, size, window)`` of any kind, in at most so many positions."""
    side = max(1, int(most ** 0.5))
    size = tuple(int(length) for length in rng.integers(1, side + 1, 2))
    window = tuple(int(length) for length in rng.integers(1, min(side + 1, 6) + 1, 2))
    images = int(rng.integers(1, max(2, min(4, most // (size[0] * size[1]) + 1))))
    return images, size, window


def _pooled(flags, geometry, n, **fields):
    """The instruction."""
    images, size, window = geometry
    return instruction(Opcode.POOL, flags=flags, m=images, n=n, **fields, key0=pack_fields(
        POOL_GEOMETRY, width=size[1], height=size[0], window_width=window[1],
        window_height=window[0]))


def _windows_of(geometry):
    """``(rows, windows)`` of images."""
    images, size, window = geometry
    return (images * size[0] * size[1],
            images * (size[0] // window[0]) * (size[1] // window[1]))


def pool(params, seed, most=10):
    """Windows of every kind, both ways; images that have none; the ends of an element's range."""
    recording = Recording(params, f"pool {seed}")
    rng = recording.rng

    def attempt(flags, most):
        geometry, n = _geometry(rng, most), draw.dimension(rng, most, params.vector)
        rows, windows = _windows_of(geometry)
        recording.begin(f"pool {geometry} {n} {flags!r}")
        given, made = (windows, rows) if flags & PoolFlag.SPREAD else (rows, windows)
        x = draw.values(rng, given, n)
        x[rng.random(x.shape) < 0.2] = rng.choice([-1 << 31, (1 << 31) - 1])
        source = recording.place(Space.WIDE, max(given, 1), n).view(given, n)
        codes = recording.place(Space.QUANT, max(windows, 1), n).view(windows, n)
        # As often as not where it comes from, where that may be.
        out = recording.place(Space.WIDE, rows, n)
        if (not flags or geometry[2] == (1, 1)) and rng.random() < 0.5:
            out = source
        if given:
            recording.store(source, x)
        if windows:
            recording.store(codes, draw.codes(rng, params, (windows, n), streamed=True))
        recording.device.run([_pooled(flags, geometry, n, src0=source.base, dst0=out.base,
                                      tab0=codes.base)])
        if made:
            recording.read(out.view(made, n))

    for flags in (PoolFlag(0), PoolFlag.SPREAD, PoolFlag.SPREAD | PoolFlag.CLIPPED) * 4:
        draw.fitting(partial(attempt, flags), min(most, MAX_K))
    recording.device.status()
    return recording.session("pool")


# LAYER_FORWARD and LAYER_BACKWARD.

def layer_norm(params, seed, most=10):
    """Rows of every kind there and back, trained and not; the ends of an element's range; rows and
    columns as long as they may be."""
    recording = Recording(params, f"layer_norm {seed}")
    rng = recording.rng

    def attempt(shape, most):
        m, n = shape or (draw.dimension(rng, most, unit) for unit in (1, params.vector))
        m, n = min(m, most), min(n, most)
        recording.begin(f"layer norm {m}x{n}")
        x, dy = draw.inputs(rng, n, m).T, draw.values(rng, m, n)
        dy[rng.random(dy.shape) < 0.02] = rng.choice([-1 << 31, (1 << 31) - 1])
        source, gradient = (recording.stored(Space.WIDE, tensor) for tensor in (x, dy))
        state = recording.stored(Space.WIDE, draw.state(rng, n))
        context, deviations = (recording.place(Space.WIDE, m, cols) for cols in (n, 1))
        # As often as not where it comes from.
        y, dx = (tensor if rng.random() < 0.5 else recording.place(Space.WIDE, m, n)
                 for tensor in (source, gradient))
        recording.device.run([program.layer_norm(params, source, y, context, state, deviations)])
        recording.read(y, context, deviations)
        recording.device.run([
            program.layer_norm(params, gradient, source, context, state, deviations,
                               inference=True),
            program.layer_norm_gradient(params, gradient, dx, context, state, deviations)])
        recording.read(source, dx, state, context, deviations)

    for _ in range(3):
        draw.fitting(partial(attempt, None), min(most, MAX_K))
    for shape in ((1, 1), (1, 8 * most), (8 * most, 1)):
        draw.fitting(partial(attempt, shape), MAX_K)
    recording.device.status()
    return recording.session("layer_norm")


# QUANTISE of masters.

def quantise_masters(params, seed, most=10):
    """Every clip, with random masters and the ends of their range; more rows than a wide tensor
    has."""
    recording = Recording(params, f"quantise_masters {seed}")
    rng = recording.rng
    bits = params.master_bits
    low = -1 << bits - 1

    def quantised(x, clip):
        m, n = x.shape
        recording.begin(f"quantise masters of {m}x{n} clip {clip}")
        masters, q = recording.place(Space.MASTER, m, n), recording.place(Space.QUANT, m, n)
        scales = recording.place(Space.WIDE, len(ScaleRow), n)
        recording.store(masters, x)
        recording.store(scales, rng.integers(-1 << 31, 1 << 31, (len(ScaleRow), n)))
        recording.device.run([program.quantise_masters(masters, q, scales, clip=clip)])
        recording.read(q, scales)

    def attempt(clip, most):
        m, n = draw.dimension(rng, most), draw.dimension(rng, most, params.vector)
        quantised(_numbers(rng, bits, m, n), clip)

    for clip in (0, 1, 6, 10, 36, 255):
        draw.fitting(partial(attempt, clip), most)
    n = params.vector + 1
    alone = np.zeros((3, n), np.int64)
    alone[rng.integers(3), rng.integers(n)] = rng.choice([-1, 1, low, -low - 1])
    for x in (np.zeros((2, n), np.int64), np.full((2, n), low), np.full((1, 1), -low - 1), alone,
              rng.choice([-1, 0, 1], (4, n)), 1 << rng.integers(0, bits - 1, (4, n))):
        for clip in (0, 10):
            quantised(x, clip)
    draw.fitting(lambda limit: quantised(_numbers(rng, bits, limit, 1), 10), 600)
    recording.device.status()
    return recording.session("quantise_masters")


# Memories.

def spaces(params, seed, most=10):
    """What is written to a memory that only such machines have, at its ends and anywhere."""
    recording = Recording(params, f"spaces {seed}")
    rng, device = recording.rng, recording.device
    words = {Space.MASTER: params.master_words, Space.VELOCITY: params.master_words,
             Space.BYTES: params.wide_words, Space.PROGRAM: PROGRAM_WORDS}
    for space, depth in words.items():
        recording.begin(f"words of {space.name}")
        lanes = 8 if space == Space.PROGRAM else params.vector
        # The longest WRITE and more, somewhere.
        longest = MAX_BODY // word_bytes(space, params) + 3
        firsts = [0, depth - longest, int(rng.integers(0, depth - longest + 1))]
        for count, places in ((1, [0, depth - 1, int(rng.integers(depth))]),
                              (int(rng.integers(2, 20)), [0]), (longest, [firsts[seed % 3]])):
            for first in places:
                device.write(space, first, rng.integers(-1 << 31, 1 << 31, (count, lanes)))
                middle = first + int(rng.integers(0, count))
                device.write(space, middle, rng.integers(-1 << 31, 1 << 31, (1, lanes)))
                device.read(space, first, count)
    recording.begin("words as numbers and as bytes")
    count = 9
    base = int(rng.integers(0, params.wide_words - count))
    device.write(Space.BYTES, base, rng.integers(0, 256, (count, params.vector)))
    device.read(Space.WIDE, base, count)
    device.write(Space.WIDE, base + 1, rng.integers(-1 << 31, 1 << 31, (count - 2, params.vector)))
    device.read(Space.BYTES, base, count)
    recording.begin("packed codes")
    for lanes in {1, int(rng.integers(1, params.slots + 1)), params.slots}:
        # A WRITE and more.
        codes = rng.integers(0, 1 << params.bits, (min(params.quant_words, int(rng.integers(
            3, 2 * MAX_BODY // word_bytes(Space.CODES, params)))), lanes))
        parts = params.rows * len(codes)
        for first in (0, params.quant_words - len(codes)):
            start = params.rows * first
            device.write(Space.QUANT, start, rng.integers(-128, 128, (parts, params.depth)))
            device.write(Space.CODES, first, codes)
            device.read(Space.QUANT, start, parts)
    recording.begin("packed codes of a column")
    each = codes_in_byte(params.bits)
    words = params.quant_words // each
    taken = min(words, int(rng.integers(2, 2 * MAX_BODY)))
    for first in sorted({0, words - taken}):
        parts, start = params.rows * each * taken, params.rows * each * first
        device.write(Space.QUANT, start, rng.integers(-128, 128, (parts, params.depth)))
        device.write(Space.COLUMN, first, rng.integers(0, 1 << params.bits, (taken, each)))
        device.read(Space.QUANT, start, parts)
    recording.begin("words of a program that are apart")
    for count, first in ((1, PROGRAM_WORDS - 1), (20, 3), (150, PROGRAM_WORDS - 200),
                         (30, int(rng.integers(PROGRAM_WORDS - 30)))):
        device.write(Space.PROGRAM, 0, rng.integers(0, 256, (PROGRAM_WORDS, 8)))
        gaps = rng.integers(0, 1 + min(255, 2 * PROGRAM_WORDS // count), count)
        words = rng.integers(0, 256, (count, 8))
        device.write(Space.PATCH, first, np.column_stack([gaps, words]))
        device.read(Space.PROGRAM, 0, PROGRAM_WORDS)
    # Masters and velocities of the same address are apart.
    base = int(rng.integers(0, params.master_words - count))
    for space in (Space.MASTER, Space.VELOCITY):
        device.write(space, base, rng.integers(-1 << 23, 1 << 23, (count, params.vector)))
    for space in (Space.MASTER, Space.VELOCITY):
        device.read(space, base, count)
    device.status()
    return recording.session("spaces")


# Stored programs.

class Mix:
    """Tensors of two sizes, and instructions of every kind that take any of them."""

    def __init__(self, recording, most):
        self.recording = recording
        self.params, rng = recording.params, recording.rng
        self.rng = rng
        a, b = (draw.dimension(rng, min(most, MAX_M), unit)
                for unit in (self.params.slots, self.params.vector))
        shapes = sorted({(a, a), (a, b), (b, a), (b, b)})
        self.wide, self.masters, self.signed, self.unsigned = {}, {}, {}, {}
        self.norms, self.labels, self.rows, self.scales = {}, {}, {}, {}
        self.layer_norms = {}
        self.samples, self.channels = {}, {}
        for m, n in shapes:
            self.wide[m, n] = [recording.stored(Space.WIDE, draw.values(rng, m, n))
                               for _ in range(2)]
            self.masters[m, n] = recording.place(Space.MASTER, m, n)
            _store_parameters(recording, self.masters[m, n])
            for held in (self.signed, self.unsigned):
                held[m, n] = recording.stored(Space.QUANT, draw.codes(
                    rng, self.params, (m, n), streamed=held is self.unsigned))
            state = recording.stored(Space.WIDE, draw.state(rng, n))
            context = recording.place(Space.WIDE, m, n)
            self.norms[m, n] = context, state
            if self.params.layer_norm:
                self._normalise_rows(m, n)
            recording.device.run([program.norm_forward(
                self.params, self.wide[m, n][0], self.wide[m, n][1], context, state, relu=True)])
        for n in sorted({a, b}):
            self.labels[n] = recording.stored(Space.WIDE, _junk_above(
                rng, rng.integers(0, min(a, b), (n, 1)), 13))
            self.rows[n] = [recording.stored(Space.WIDE, rng.integers(-30, 30, (1, n)))
                            for _ in range(3)]
            table = np.stack([_factors(rng, n), rng.integers(-20, 5, n),
                              rng.integers(-1 << 20, 1 << 20, n)])
            self.scales[n] = [recording.stored(Space.WIDE, table) for _ in range(2)]
            if self.params.max_groups > 1:
                groups = recording.groups(n, self.params.sample_groups)
                self.samples[n] = groups, recording.place(
                    Space.QUANT, max(a, b), program.slot_columns(self.params, n, groups.count))
                self.channels[n] = recording.groups(n, self.params.channel_groups)
        self.loss = recording.stored(Space.WIDE, np.zeros((len(LossRow), 1), np.int64))
        self.windows = {shape: self._pixels(*shape) for shape in shapes}
        self.pooled = {shape: self._images(*shape) for shape in shapes}

    def read(self):
        """Read everything back."""
        read = self.recording.read
        for shape, pair in self.wide.items():
            read(*pair, self.masters[shape], _velocity(self.masters[shape]), self.signed[shape],
                 self.unsigned[shape], *self.norms[shape], self.pooled[shape][1],
                 *self.layer_norms.get(shape, ()))
        for n, rows in self.rows.items():
            read(*rows, *self.scales[n])
        read(self.loss)
        self.recording.device.status()

    def steps(self, count):
        """So many instructions, or a few more."""
        kinds = [self._scale, self._scale, self._align, self._sums, self._update, self._combine,
                 self._combine, self._cross_entropy, self._quantise, self._quantise_masters,
                 self._gemm, self._convolution, self._move, self._seen, self._norm,
                 self._norm_backward, self._plus, self._pool]
        if self.params.max_groups > 1:
            kinds.append(self._grouped)
        if self.params.layer_norm:
            kinds += [self._layer_norm, self._layer_norm_gradient]
        # All of them, in any order.
        steps = [step for kind in self.rng.permutation(kinds) for step in kind()]
        while len(steps) < count:
            steps += kinds[self.rng.integers(len(kinds))]()
        return steps[:MAX_STORED]

    def patched(self, step):
        """An instruction of which a field is another, and that is lawful still."""
        fields, rng = unpack_instruction(step), self.rng
        op = fields.pop("op")
        changes = {
            Opcode.SCALE: [("tab2", -40 & 0xFFFF), ("arg", int(rng.integers(1, 33))),
                           ("tab0", int(rng.integers(4096)))],
            Opcode.COMBINE: [("key0", int(rng.integers(1 << 32))),
                             ("shift", int(rng.integers(32)))],
            Opcode.QUANTISE: [("key0", int(rng.integers(1 << 32)))],
            Opcode.GEMM: [("shift", int(rng.integers(32)))],
            Opcode.NORM_FORWARD: [("flags", int(rng.integers(4)))],
            Opcode.LAYER_FORWARD: [("flags", 0)],
        }.get(op, [])
        if changes:
            name, value = changes[rng.integers(len(changes))]
            fields[name] = value
        return instruction(op, **fields)

    # Operands.

    def _one(self, choices):
        return choices[self.rng.integers(len(choices))]

    def _shape(self):
        return self._one(list(self.wide))

    def _key(self):
        return [int(word) for word in self.rng.integers(0, 1 << 16, 4)]

    def _row(self, n, *, written=False):
        """A row of so many columns of any tensor; one that may be written."""
        tables = [*self.rows[n], *self.scales[n], *(state for (_, cols), (_, state) in
                                                    self.norms.items() if cols == n)]
        if not written:
            tables += [x for (_, cols), pair in self.wide.items() if cols == n for x in pair]
        tensor = self._one(tables)
        # Factors are mantissas, and statistics positive.
        row = {len(ScaleRow): self._one([ScaleRow.EXPONENT, ScaleRow.BIAS]),
               STATE_ROWS: self._one([StateRow.GAMMA, StateRow.BETA])}.get(tensor.rows, 0)
        if not written:
            row = int(self.rng.integers(tensor.rows))
        return tensor.rows_from(int(row), 1)

    def _scalar(self):
        """An exponent that is known to the device alone, or none."""
        n = self._one(list(self.rows))
        return self._one([None, self._row(n)])

    # Operations.

    def _scale(self):
        m, n = self._shape()
        source = self._one([*self.wide[m, n], self.masters[m, n]])
        return [program.scale(
            source, self._one(self.scales[n]), self._one(self.wide[m, n]),
            bits=int(self.rng.integers(8, 33)), exponent=int(self.rng.integers(-30, 5)),
            scalar=self._scalar(), **{name: bool(self.rng.integers(2))
                                      for name in ("divide", "negate", "bias")})]

    def _align(self):
        m, n = self._shape()
        return [program.align(self._one(self.wide[m, n]), self._one(self.scales[n]),
                              self._one(self.wide[m, n]), self._one(self.rows[n]),
                              exponent=int(self.rng.integers(-30, 5)))]

    def _plus(self):
        m, n = self._shape()
        return [program.scale(
            self._one([*self.wide[m, n], self.masters[m, n]]), self._one(self.scales[n]),
            self._one(self.wide[m, n]), bits=int(self.rng.integers(8, 33)),
            exponent=int(self.rng.integers(-30, 5)), scalar=self._scalar(),
            plus=self._one(self.wide[m, n]))]

    def _pool(self):
        m, n = self._shape()
        geometry, windows = self.pooled[m, n]
        source, target = self._one(self.wide[m, n]), windows
        flags = self._one([PoolFlag(0), PoolFlag.SPREAD, PoolFlag.SPREAD | PoolFlag.CLIPPED])
        if flags:
            source, target = target, source
        return [_pooled(flags, geometry, n, src0=source.base, dst0=target.base,
                        tab0=self.unsigned[m, n].base)]

    def _images(self, m, n):
        """Images of m rows in all, and a place for the sums of their windows."""
        rng = self.rng
        width = self._one([side for side in range(1, m + 1) if m % side == 0])
        height = self._one([side for side in range(1, m // width + 1) if m // width % side == 0])
        window = tuple(int(rng.integers(1, side + 1)) for side in (height, width))
        geometry = m // (height * width), (height, width), window
        _, windows = _windows_of(geometry)
        return geometry, self.recording.stored(Space.WIDE, draw.values(rng, windows, n))

    def _sums(self):
        m, n = self._shape()
        return [program.column_sums(self._one(self.wide[m, n]), self._one(self.rows[n]))]

    def _update(self):
        m, n = self._shape()
        return [program.update(
            self.masters[m, n], self._one(self.wide[m, n]), self._one(self.scales[n]),
            Rate(int(self.rng.integers(4096)), int(self.rng.integers(18))), self._key(),
            first=COLUMN_UNIT * int(self.rng.integers(256)), more=int(self.rng.integers(4096)),
            exponent=int(self.rng.integers(-30, 5)), scalar=self._scalar(),
            divide=bool(self.rng.integers(2)), negate=bool(self.rng.integers(2)))]

    def _combine(self):
        rng, n = self.rng, self._one(list(self.rows))
        broadcast = bool(rng.integers(2))
        a, b, out = self._row(n), self._row(n), self._row(n, written=True)
        if broadcast:
            b = self._row(self._one(list(self.rows)))
            while b.base == out.base:
                b = self._row(self._one(list(self.rows)))
        kind = self._one([{"subtract": bool(rng.integers(2)),
                           "follow": self._one([None, int(rng.integers(32))])},
                          {"maximum": True}])
        return [program.combine(a, b, out, added=int(rng.integers(-20, 20)), broadcast=broadcast,
                                **kind)]

    def _cross_entropy(self):
        m, n = self._shape()
        return [program.cross_entropy(self._one(self.wide[m, n]), self.labels[m],
                                      self._one(self.wide[m, n]), self.loss)]

    def _quantise(self):
        m, n = self._shape()
        unsigned, rng = bool(self.rng.integers(2)), self.rng
        return [program.quantise(
            self.params, self._one(self.wide[m, n]),
            (self.unsigned if unsigned else self.signed)[m, n], self._one(self.rows[n]),
            unsigned=unsigned, per_column=bool(rng.integers(2)),
            clip=int(self._one([0, 13, 255])), key=self._one([None, self._key()]))]

    def _quantise_masters(self):
        m, n = self._shape()
        return [program.quantise_masters(self.masters[m, n], self.signed[m, n],
                                         self._one(self.scales[n]),
                                         clip=int(self._one([0, 10, 36])))]

    def _gemm(self):
        m, k = self._shape()
        n = self._one([cols for rows, cols in self.wide if rows == k])
        steps, _ = program.gemm(
            self.params, self._one([self.signed[m, k], self.unsigned[m, k]]), self.signed[k, n],
            self._one(self.wide[m, n]), unsigned=bool(self.rng.integers(2)))
        return steps

    def _pixels(self, m, n):
        """A convolution of images of which m, n and what is written are the shapes of tensors."""
        rng = self.rng
        width = self._one([side for side in range(1, m + 1) if m % side == 0])
        kernel = self._one([(h, w) for h in range(1, 4) for w in range(1, 4) if n % (h * w) == 0])
        windows = Windows(
            base=self.recording.tables(4), images=1, height=m // width, width=width,
            channels=n // (kernel[0] * kernel[1]), kernel=kernel, outputs=(m // width, width),
            padding=tuple(int(pad) for pad in rng.integers(0, 3, 2)))
        windows.store(self.recording.device)
        return windows

    def _convolution(self):
        m, n = self._shape()
        windows = self.windows[m, n]
        x = self._one([self.signed[m, n], self.unsigned[m, n]]).view(m, windows.channels)
        steps, _ = program.convolution(
            self.params, x, self.signed[n, n], self._one(self.wide[m, n]), windows,
            unsigned=bool(self.rng.integers(2)))
        return steps

    def _move(self):
        m, n = self._shape()
        transposed = bool(self.rng.integers(2))
        # Codes of signed tensors are those of unsigned ones, not the other way round.
        target = self.unsigned
        if transposed and m != n:
            target = self._one([self.signed, self.unsigned])
        x, out = self.signed[m, n], target[(n, m) if transposed else (m, n)]
        if self.rng.integers(2):
            # Some rows.
            count = int(self.rng.integers(1, m + 1))
            first, place = (int(row) for row in self.rng.integers(0, m - count + 1, 2))
            x = x.rows_from(first, count)
            out = replace(out, cols=count) if transposed else out.rows_from(place, count)
        return [program.move(x, out, transposed=transposed)]

    def _seen(self):
        """What outputs see with a tap, to columns or rows of a tensor."""
        m, n = self._shape()
        windows, transposed = self.windows[m, n], bool(self.rng.integers(2))
        x, channels = self.signed[m, n].view(m, windows.channels), windows.channels
        if transposed:
            out = self.unsigned[n, m].rows_from(int(self.rng.integers(n - channels + 1)), channels)
        else:
            out = replace(self.unsigned[m, n], cols=channels)
        return [program.move(
            x, out, transposed=transposed, windows=windows, unsigned=bool(self.rng.integers(2)),
            tap=[int(self.rng.integers(taps)) for taps in windows.kernel])]

    def _norm(self):
        m, n = self._shape()
        context, state = self.norms[m, n]
        return [program.norm_forward(
            self.params, self._one(self.wide[m, n]), self._one(self.wide[m, n]), context, state,
            relu=bool(self.rng.integers(2)), inference=bool(self.rng.integers(2)))]

    def _norm_backward(self):
        m, n = self._shape()
        return [program.norm_backward(
            self.params, self._one(self.wide[m, n]), self._one(self.wide[m, n]), *self.norms[m, n],
            self._one([None, self.unsigned[m, n]]))]

    def _normalise_rows(self, m, n):
        """Places of a norm of channels, with what its way back needs."""
        place = self.recording.place
        places = (place(Space.WIDE, m, n), self.recording.stored(
            Space.WIDE, draw.state(self.rng, n)), place(Space.WIDE, m, 1))
        self.layer_norms[m, n] = places
        self.recording.device.run([program.layer_norm(self.params, *self.wide[m, n], *places)])

    def _layer_norm(self):
        m, n = self._shape()
        return [program.layer_norm(
            self.params, self._one(self.wide[m, n]), self._one(self.wide[m, n]),
            *self.layer_norms[m, n], inference=bool(self.rng.integers(2)))]

    def _layer_norm_gradient(self):
        m, n = self._shape()
        return [program.layer_norm_gradient(
            self.params, self._one(self.wide[m, n]), self._one(self.wide[m, n]),
            *self.layer_norms[m, n])]

    def _grouped(self):
        """A gradient with groups, and its product with samples inside."""
        m, n = self._shape()
        k = self._one([count for rows, count in self.wide if rows == m])
        (rows, place), cols, q = self.samples[m], self.channels[n], self.signed[m, n]
        operand = place.view(k, place.cols)
        steps = [program.quantise(self.params, self._one(self.wide[m, n]), q,
                                  self._one(self.rows[n]), key=self._key(), rows=rows, cols=cols),
                 program.sort(rows)]
        x = self._one([self.signed, self.unsigned])[m, k]
        products, _ = program.gemm(self.params, operand, q, self._one(self.wide[k, n]),
                                   unsigned=True, inner=rows, cols=cols)
        return [*steps, program.move(x, operand, transposed=True, order=rows), *products]


def stored_programs(params, seed, most=10):
    """Random mixes of all operations, each on what others made; parts of them; words of them
    that change between runs."""
    recording = Recording(params, f"stored_programs {seed}")
    rng, device = recording.rng, recording.device

    def attempt(most):
        recording.begin("a stored program")
        mix = Mix(recording, most)
        steps = mix.steps(40)
        device.store_program(steps)
        device.run_stored()
        mix.read()
        for number in range(3):
            recording.about(f"a stored program, {number + 1} times changed")
            for place in rng.integers(0, len(steps), 3):
                steps[place] = mix.patched(steps[place])
            device.store_program(steps)
            words = device.read(Space.PROGRAM, 0, len(steps) * INSTRUCTION_BYTES // 8)
            assert words.astype(np.uint8).tobytes() == b"".join(map(in_order, steps))
            if number == 1:
                # A part of it, as often as not the end.
                first = int(rng.integers(len(steps)))
                count = int(rng.choice([rest := len(steps) - first, rng.integers(rest) + 1]))
                recording.run_stored(first, count)
            else:
                device.run_stored()
            mix.read()
        # Instructions that come with a RUN, on what stored ones left.
        device.run(mix.steps(0))
        mix.read()

    draw.fitting(attempt, min(most, 48))
    return recording.session("stored_programs")


def overlapping_programs(params, seed, most=10):
    """Random mixes that overlap, in the order in which they are made and in a better one."""
    recording = Recording(params, f"overlapping_programs {seed}")
    device = recording.device

    def attempt(most):
        recording.begin("a program that overlaps")
        mix = Mix(recording, most)
        steps = mix.steps(100)
        device.run([naming(step, queues) for step, queues in zip(
            steps, after(steps, params), strict=True)], overlap=True)
        mix.read()
        for _ in range(3):
            steps = mix.steps(100)
            device.store_program(scheduled(steps, schedule(steps, params)), overlap=True)
            device.run_stored()
            mix.read()

    draw.fitting(attempt, min(most, 48))
    return recording.session("overlapping_programs")


def resident_training(params, seed, most=8):
    """Training steps of a perceptron that lives on the device, with tests between some of them."""
    recording = Recording(params, f"resident_training {seed}")
    rng = recording.rng

    def attempt(most):
        sizes = tuple(max(2, draw.dimension(rng, most, params.cols)) for _ in range(4))
        batch = max(2, draw.dimension(rng, most, params.cols))
        recording.begin(f"a resident network of {sizes}, batches of {batch}")
        _train(recording, perceptron(sizes), batch, seed)

    draw.fitting(attempt, min(most, 64))
    recording.device.status()
    return recording.session("resident_training")


def resident_convolutions(params, seed, most=8):
    """The same of a network with convolutions and pools."""
    recording = Recording(params, f"resident_convolutions {seed}")
    rng = recording.rng

    def attempt(most):
        layers, batch = _layers(rng, params, most), int(rng.integers(2, 6))
        recording.begin(f"a resident network of {layers}, batches of {batch}")
        _train(recording, layers, batch, seed)

    draw.fitting(attempt, min(most, 20))
    recording.device.status()
    return recording.session("resident_convolutions")


def _layers(rng, params, most):
    """Two convolutions, some of which average, and a head that sees all of what is left."""
    (height, width), layers = rng.integers(1, min(most, 5) + 1, 2).tolist(), []
    channels = draw.dimension(rng, most, params.slots)
    for number in range(3):
        kernel = tuple(int(rng.integers(1, min(3, size) + 1)) for size in (height, width))
        shape = {"kernel": kernel, "stride": int(rng.integers(1, 3)),
                 "padding": int(rng.integers(min(kernel)))} if number < 2 else {
                     "kernel": (height, width)}
        layer = Layer(
            in_channels=channels, height=height, width=width,
            out_channels=max(2, draw.dimension(rng, most, params.slots)), **shape)
        pool = [int(rng.choice([side for side in (1, 2, 4) if side <= size]))
                for size in layer.maps]
        layers.append(replace(layer, pool=tuple(pool)))
        (height, width), channels = layers[-1].outputs, layers[-1].n
    return tuple(layers)


def _train(recording, layers, batch, seed):
    """Steps, with tests between some of them."""
    params, rng = recording.params, recording.rng
    network = Network(layers, seed, params.formats)
    trainer = Resident(network, recording.device, batch)
    # Of what is read whole, rows that nothing writes.
    at = Places(params, layers, batch)
    for place in (*at.states, *at.scales):
        recording.store(place, rng.integers(-1 << 31, 1 << 31, (place.rows, place.cols)))

    def samples(count):
        features = layers[0].pixels * layers[0].in_channels
        return rng.integers(0, 256, (count, features)), rng.integers(0, layers[-1].n, count)

    # Some find their batch on the device already.
    sizes = (batch, batch - 1, batch, batch, batch)
    steps = [(*samples(count), Rate(400, 12), step) for step, count in enumerate(sizes)]
    for step, following in enumerate([*steps[1:], None]):
        trainer.train_step(*steps[step], following)
        if step in (0, 3):
            trainer.count_correct(*samples(batch + 1), batch)
    trainer.fetch()


#: Scenarios by name, and those of machines with the norm of channels.
SCENARIOS = {function.__name__: function for function in (
    scale, scale_extremes, combine, cross_entropy, convolution, windows_moved, pool,
    quantise_masters, spaces, stored_programs, overlapping_programs, resident_training,
    resident_convolutions)}
SCENARIOS_WITH_LAYER_NORM = {"layer_norm": layer_norm}

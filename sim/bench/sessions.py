"""Scenarios: host code at work on the model of the machine, every exchange kept.

A scenario is a function of ``(params, seed, most)`` that returns a
:class:`~sim.bench.exchange.Session`; ``most`` bounds the dimensions of its random tensors. It
writes whatever it later uses, and reads back whatever the machine made of it, so a session may
start on a machine with any contents. What an instruction that fails has written is not read.
"""

from collections import namedtuple
from functools import partial
from itertools import product

import numpy as np

from hdl.instructions import (
    MAX_SHIFT,
    STATE_ROWS,
    QuantiseFlag,
    ScanRow,
    StateRow,
    instruction,
    unpack_instruction,
)
from hdl.params import MAX_K, MAX_M, NORM_IN_BITS
from hdl.protocol import Space
from host import program
from host.layers import Mlp
from host.train import Rate
from sim.bench import draw, errors, resident, started
from sim.bench.recording import Recording
from sim.model import digits

__all__ = ["record", "scenarios"]


# GEMM.

#: How the operands come to lie in memory: A stored as it is to lie, moved or transposed there; B
#: stored or transposed. Then the flags.
_Product = namedtuple("_Product", "a b unsigned inner rows cols")

#: The three products of a layer: X W, dY W^T with channels inside, X^T dY with samples inside.
_FORWARD = _Product("stored", "stored", True, False, False, False)
_INPUT = _Product("moved", "transposed", False, True, True, False)
_WEIGHT = _Product("transposed", "stored", True, True, False, True)


def _axis(recording, length, wanted, count=None):
    """The place of the groups of one axis of a product, or None."""
    most = recording.params.max_groups
    if not wanted or most == 1:
        return None
    return recording.groups(length, count or int(recording.rng.integers(1, most + 1)))


def _multiply(recording, kind, m, k, n, *, shift=None, a=None, b=None, extreme=False, count=None,
              groups=None):
    """One product of random operands, and its result."""
    params, rng = recording.params, recording.rng
    a = draw.codes(rng, params, (m, k), streamed=True, extreme=extreme) if a is None else a
    b = draw.codes(rng, params, (k, n), streamed=False, extreme=extreme) if b is None else b
    # Places first: nothing is said about a product that does not fit.
    axes = [_axis(recording, length, wanted, count)
            for length, wanted in ((k, kind.inner), (m, kind.rows), (n, kind.cols))]
    inner, rows, cols = axes
    slots = program.slot_columns(params, k, inner.count) if inner else k
    if kind.a == "stored":
        held, streamed = recording.some_rows(Space.QUANT, m, slots)
    else:
        streamed = recording.place(Space.QUANT, m, slots)
    stationary = recording.place(Space.QUANT, k, n)
    result, out = recording.some_rows(Space.WIDE, m, n)
    sources = [recording.place(Space.QUANT, *array.shape) for array in _moved(kind, a, b)]
    for axis in filter(None, axes):
        values = (draw.random_groups(rng, axis.length, axis.count) if groups is None
                  else groups(axis.length))
        # Where columns go by the order table, those of no slot stay behind.
        some = kind.a == "stored" or (params.masters and groups is None)
        if axis is inner and some and rng.random() < 0.5:
            # Some take no slot.
            values = np.where(rng.random(k) < 0.2, rng.integers(axis.count, 16, k), values)
        recording.store_groups(axis, values)
    for source, array in zip(sources, _moved(kind, a, b), strict=True):
        recording.store(source, array)
    steps = [program.sort(inner)] * int(rng.integers(1, 3)) if inner else []
    if kind.a != "stored":
        steps.append(program.move(sources[0], streamed, transposed=kind.a == "transposed",
                                  order=inner))
    elif inner:
        recording.device.run(steps)
        steps = []
        of, places = recording.read_groups(inner)
        # Columns of no index hold anything.
        in_order = draw.codes(rng, params, (m, slots), streamed=True)
        in_order[:, places[of < inner.count]] = a[:, of < inner.count]
        recording.store_rows(held, streamed, in_order)
    else:
        recording.store_rows(held, streamed, a)
    if kind.b == "transposed":
        steps.append(program.move(sources[-1], stationary, transposed=True))
    else:
        recording.store(stationary, b)
    if result != out:
        recording.store(result, rng.integers(-1 << 31, 1 << 31, (result.rows, n)))
    (step,), safe = program.gemm(params, streamed, stationary, out, unsigned=kind.unsigned,
                                 inner=inner, rows=rows, cols=cols)
    if shift is None:
        shift = rng.choice([safe, safe, 0, min(safe + 1, MAX_SHIFT), rng.integers(MAX_SHIFT + 1)])
    fields = unpack_instruction(step)
    step = instruction(fields.pop("op"), **{**fields, "shift": int(shift)})
    recording.device.run([*steps, step])
    if inner:
        recording.read_groups(inner)
    return recording.read(result)[0][out.base - result.base:][:m]


def _moved(kind, a, b):
    """The operands that are moved, as they lie before."""
    return ([a.T if kind.a == "transposed" else a] if kind.a != "stored" else []) + (
        [b.T] if kind.b == "transposed" else [])


def _products(name, kinds, params, seed, most, count=3):
    recording = Recording(params, f"{name} {seed}")
    rng = recording.rng

    def attempt(kind, most):
        m, k, n = (draw.dimension(rng, limit, unit) for limit, unit in (
            (min(most, MAX_M), params.cols), (most, params.slots), (most, params.cols)))
        recording.begin(f"{m}x{k} by {k}x{n}")
        _multiply(recording, kind, m, k, n)

    for kind in kinds:
        plain = kind._replace(inner=False, rows=False, cols=False)
        for i in range(count):
            draw.fitting(partial(attempt, plain if i == 0 else kind), most)
    recording.device.status()
    return recording.session(name)


def gemm_forward(params, seed, most=12):
    """X W: activations unsigned or signed, no groups."""
    return _products("gemm_forward", [_FORWARD, _FORWARD._replace(unsigned=False)],
                     params, seed, most)


def gemm_input(params, seed, most=12):
    """dY W^T: channel groups inside, sample groups of rows; with and without."""
    return _products("gemm_input", [_INPUT, _INPUT._replace(a="stored")], params, seed, most)


def gemm_weight(params, seed, most=12):
    """X^T dY: sample groups inside, channel groups of columns; with and without."""
    return _products("gemm_weight", [_WEIGHT], params, seed, most, count=4)


def gemm_any(params, seed, most=12):
    """Any combination of a product's flags and of ways to place its operands."""
    rng = np.random.default_rng([seed, 0])
    kinds = [_Product(str(rng.choice(["stored", "moved", "transposed"])),
                      str(rng.choice(["stored", "transposed"])),
                      *(bool(bit) for bit in rng.integers(0, 2, 4))) for _ in range(3)]
    return _products("gemm_any", kinds, params, seed, most, count=2)


def gemm_extremes(params, seed, most=12):
    """The largest sums there are, the smallest shapes, and long inner dimensions."""
    recording = Recording(params, f"gemm_extremes {seed}")
    most_groups = params.max_groups
    low, most_code = -(1 << params.bits - 1), params.qmax

    def product_of(about, kind, m, k, n, **options):
        recording.begin(about)
        _multiply(recording, kind, m, k, n, **options)

    product_of("1x1 by 1x1", _FORWARD, 1, 1, 1)
    product_of("1x1 by 1x1 with groups", _INPUT, 1, 1, 1)
    for sign in (-1, 1):
        # Every exponent at its largest, no rounding: what is too wide is clamped and counted.
        for kind in (_INPUT, _WEIGHT, _FORWARD):
            m, k, n = 2, 2 * params.slots + 1, params.cols + 1
            product_of(f"sums of {sign * low}*{most_code}", kind, m, k, n, shift=0,
                       a=np.full((m, k), low), b=np.full((k, n), -sign * most_code),
                       count=most_groups, groups=lambda length: np.zeros(length, np.int64))
    # A row of operands that is all padding but one, in every group's place.
    for group in range(most_groups):
        product_of(f"all in group {group}", _INPUT, 1, params.depth + 1, 1, count=most_groups,
                   groups=lambda length, group=group: np.full(length, group), extreme=True)

    def attempt(limit):
        recording.begin("a long inner dimension")
        _multiply(recording, _INPUT, 1, min(limit, MAX_K), 2, extreme=True)
    draw.fitting(attempt, min(MAX_K, 16 * most))
    recording.device.status()
    return recording.session("gemm_extremes")


def gemm_digits(params, seed, most=12):
    """Operands wider than the array, as digits along the inner dimension: the products of the
    whole numbers."""
    recording = Recording(params, f"gemm_digits {seed}")
    rng, bits = recording.rng, params.bits
    # Base and digits of a number: streamed and unsigned, streamed, stationary.
    kinds = [(bits, digits.streamed, "a", True), (bits - 1, digits.stationary, "a", False),
             (bits - 1, digits.stationary, "b", False)]

    def attempt(base, split, operand, unsigned, most):
        count = min(3, 1 + (params.max_groups - 1) // base)
        m, k, n = (draw.dimension(rng, limit) for limit in (min(most, MAX_M), most, most))
        shape = (m, k) if operand == "a" else (k, n)
        limit = 1 << base * count
        low = 0 if unsigned else (1 << base * (count - 1)) - limit
        wide = rng.choice([low, limit - 1, *rng.integers(low, limit, 3)], shape)
        parts = split(wide, bits, count)
        other = draw.codes(rng, params, (k, n) if operand == "a" else (m, k),
                           streamed=operand == "b")
        # Channel k of digit i is index i K + k, in the group of its shift.
        groups = base * (count - 1 - np.repeat(np.arange(count), k))
        axis = 1 if operand == "a" else 0
        offset = 1 << bits - 1 if unsigned else 0
        sides = [np.concatenate(parts, axis) - offset, np.concatenate([other] * count, 1 - axis)]
        if operand == "b":
            sides.reverse()
        recording.begin(f"{count} digits of {operand}, {m}x{k} by {k}x{n}")
        y = _multiply(recording, _Product("moved", "stored", unsigned, True, False, False),
                      m, count * k, n, shift=0, a=sides[0], b=sides[1],
                      count=int(groups.max()) + 1, groups=lambda length: groups)
        whole = wide @ other if operand == "a" else other @ wide
        assert (y == np.clip(whole, -1 << 31, (1 << 31) - 1)).all()

    for base, *kind in kinds:
        if base < params.max_groups:
            draw.fitting(partial(attempt, base, *kind), most)
    recording.device.status()
    return recording.session("gemm_digits")


# MOVE.


def _move(recording, m, n, *, transposed, ordered, extreme=False):
    """One tensor moved to where junk lies, and all that lies there then.

    ``ordered`` is False, ``"sorted"`` for the slots of random groups, ``"partly"`` for those of
    groups of which some take none, or ``"anywhere"`` for any slots, each of one column.
    """
    params, rng = recording.params, recording.rng
    rows, cols = (n, m) if transposed else (m, n)
    order, columns = None, cols
    if ordered:
        order = recording.groups(cols, int(rng.integers(1, params.max_groups + 1)))
        columns = program.slot_columns(params, cols, order.count)
    if ordered == "anywhere":
        columns += int(rng.integers(0, 3)) * params.slots
    if params.masters:
        # Rows of taller tensors, now and then.
        held, source = recording.some_rows(Space.QUANT, m, n)
        tall, out = recording.some_rows(Space.QUANT, rows, columns)
    else:
        held = source = recording.place(Space.QUANT, m, n)
        tall = out = recording.place(Space.QUANT, rows, columns)
    recording.store_rows(held, source, draw.codes(rng, params, (m, n), streamed=True,
                                                  extreme=extreme))
    recording.store(tall, draw.codes(rng, params, (tall.rows, columns), streamed=True))
    step = program.move(source, out, transposed=transposed, order=order)
    if ordered in ("sorted", "partly"):
        groups = draw.random_groups(rng, cols, order.count)
        if ordered == "partly":
            groups = np.where(rng.random(cols) < 0.3, rng.integers(order.count, 16, cols), groups)
        recording.store_groups(order, groups)
        recording.device.run([program.sort(order), step])
        recording.read_groups(order)
    else:
        if ordered:
            # The last slot is among them.
            slots = rng.permutation([*rng.permutation(columns - 1)[:cols - 1], columns - 1])
            recording.store_groups(order, rng.integers(0, 16, cols), slots)
        recording.device.run([step])
    recording.read(tall, held)


def _moves(params):
    """``(transposed, ordered)`` of everything that MOVE accepts."""
    # The mover of machines with masters goes by the order table, which only SORT writes.
    orders = ("sorted", "partly" if params.masters else "anywhere")
    return list(product((False, True), (False, *orders) if params.max_groups > 1 else (False,)))


def move(params, seed, most=12):
    """Every way to move, with random tensors."""
    recording = Recording(params, f"move {seed}")
    rng = recording.rng

    def attempt(transposed, ordered, most):
        m, n = (draw.dimension(rng, min(most, MAX_K), params.slots) for _ in range(2))
        recording.begin(f"move {m}x{n} transposed {transposed} in order {ordered}")
        _move(recording, m, n, transposed=transposed, ordered=ordered)

    for transposed, ordered in _moves(params) * 2:
        draw.fitting(partial(attempt, transposed, ordered), most)
    return recording.session("move")


def move_extremes(params, seed, most=12):
    """One element, one row and one column, whole words, and tensors as long as they may be."""
    recording = Recording(params, f"move_extremes {seed}")
    slots = params.slots

    def attempt(transposed, ordered, shape, limit):
        m, n = (min(size, limit) for size in shape)
        recording.begin(f"move {m}x{n} transposed {transposed} in order {ordered}")
        _move(recording, m, n, transposed=transposed, ordered=ordered, extreme=True)

    long = min(MAX_K, 16 * most)
    for transposed, ordered in _moves(params):
        for shape in ((1, 1), (1, slots), (slots, 1), (slots, slots), (2, slots + 1),
                      (slots + 1, 2), (1, long), (long, 1)):
            draw.fitting(partial(attempt, transposed, ordered, shape), MAX_K)
    return recording.session("move_extremes")


# QUANTISE.

#: Rows of norms and of what is quantised, more than a product has.
_LONG = MAX_M + 3


def _quantise(recording, x, *, flags=0, clip=0):
    """One tensor quantised; its codes, exponents and groups."""
    params, rng = recording.params, recording.rng
    m, n = x.shape
    key = [int(word) for word in rng.integers(0, 1 << 16, 4)]
    places = (recording.place(Space.WIDE, m, n), recording.place(Space.QUANT, m, n),
              recording.place(Space.WIDE, 1, n))
    rows = cols = None
    if flags & QuantiseFlag.GROUPED:
        rows = recording.groups(m, params.sample_groups)
        cols = recording.groups(n, params.channel_groups)
    recording.store(places[0], x)
    scanned = None
    if flags & QuantiseFlag.SCANNED:
        states = recording.place(Space.WIDE, STATE_ROWS, n)
        recording.store(states, draw.values(rng, STATE_ROWS, n))
        scanned = states.rows_from(int(rng.integers(STATE_ROWS - len(ScanRow) + 1)), 1)
        recording.device.run([program.scan(places[0], scanned)])
        recording.read(states)
    recording.device.run([program.quantise(
        params, *places, scanned=scanned, unsigned=bool(flags & QuantiseFlag.UNSIGNED), clip=clip,
        rows=rows, cols=cols, per_column=bool(flags & QuantiseFlag.PER_COLUMN),
        key=key if flags & QuantiseFlag.STOCHASTIC else None)])
    recording.read(places[1], places[2])
    if rows:
        for groups in (rows, cols):
            recording.read_groups(groups)


def _quantise_modes(params):
    """``(flags, clipped)`` of everything that QUANTISE accepts."""
    one = (QuantiseFlag.UNSIGNED, QuantiseFlag.PER_COLUMN, QuantiseFlag.STOCHASTIC)
    modes = [(sum(flag for flag, on in zip(one, chosen[:3], strict=True) if on), chosen[3])
             for chosen in product((False, True), repeat=4)]
    if params.max_groups > 1:
        modes += [(QuantiseFlag.GROUPED, False), (QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC,
                                                  False)] * 2
    if params.masters:
        modes += [(flags | QuantiseFlag.SCANNED, clipped) for flags, clipped in modes
                  if not flags & QuantiseFlag.PER_COLUMN]
    return modes


def quantise(params, seed, most=10):
    """Every mode with random tensors."""
    recording = Recording(params, f"quantise {seed}")
    rng = recording.rng

    def attempt(flags, clip, most):
        m = draw.dimension(rng, min(most, params.max_rows))
        n = draw.dimension(rng, most, params.cols)
        recording.begin(f"quantise {m}x{n} {QuantiseFlag(flags)!r} clip {clip}")
        _quantise(recording, draw.values(rng, m, n), flags=flags, clip=clip)

    for flags, clipped in _quantise_modes(params):
        clip = int(rng.choice([1, 4, 13, 14, 16, 255])) if clipped else 0
        draw.fitting(partial(attempt, flags, clip), most)
    recording.device.status()
    return recording.session("quantise")


def quantise_extremes(params, seed, most=10):
    """Zeros, the ends of a wide element's range, one element alone, groups at their limits."""
    recording = Recording(params, f"quantise_extremes {seed}")
    rng = recording.rng
    m, n = 3, params.cols + 1
    alone = np.zeros((m, n), np.int64)
    alone[rng.integers(m), rng.integers(n)] = rng.choice([-1, 1, 2**31 - 1, -2**31])
    powers = 1 << rng.integers(0, 31, (m, n))
    tensors = {
        "zeros": np.zeros((m, n), np.int64),
        "the least and the largest": rng.choice([-2**31, 2**31 - 1], (m, n)),
        "the least alone": np.full((1, 1), -2**31),
        "one element": alone,
        "ones": rng.choice([-1, 0, 1], (m, n)),
        # A magnitude that can be doubled exactly so often, and one just below and above.
        "powers of two": powers,
        "around powers of two": powers + rng.choice([-1, 0, 1], (m, n)),
        "negative": -powers,
    }
    modes = [(0, 0), (QuantiseFlag.UNSIGNED, 14), (QuantiseFlag.PER_COLUMN, 13),
             (QuantiseFlag.PER_COLUMN | QuantiseFlag.UNSIGNED | QuantiseFlag.STOCHASTIC, 1)]
    if params.max_groups > 1:
        modes += [(QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC, 0), (QuantiseFlag.GROUPED, 0)]
    for name, x in tensors.items():
        for flags, clip in modes:
            recording.begin(f"quantise {name}, {QuantiseFlag(flags)!r} clip {clip}")
            _quantise(recording, x, flags=flags, clip=clip)

    def long(flags, clip, m):
        recording.begin(f"quantise {m} rows, {QuantiseFlag(flags)!r} clip {clip}")
        _quantise(recording, draw.values(rng, m, 1), flags=flags, clip=clip)

    for flags, clip in [*modes, (QuantiseFlag.SCANNED, 13)] if params.masters else []:
        draw.fitting(partial(long, flags, clip), _LONG)
    recording.device.status()
    return recording.session("quantise_extremes")


# Norms.

def _norm(recording, x, dy, state, *, relu, in_place, inference):
    """A forward pass, its backward pass, and the same input with the statistics found."""
    m, n = x.shape
    context, states = recording.place(Space.WIDE, m, n), recording.place(Space.WIDE, STATE_ROWS, n)
    source = recording.place(Space.WIDE, m, n)
    target = source if in_place else recording.place(Space.WIDE, m, n)
    params, device = recording.params, recording.device
    recording.store(states, state)
    recording.store(source, x)
    device.run([program.norm_forward(params, source, target, context, states, relu=relu)])
    recording.read(target, context, states)
    recording.store(source, dy)
    device.run([program.norm_backward(params, source, target, context, states)])
    recording.read(target, states)
    # Once more with codes, of which some are the largest.
    recording.store(source, dy)
    codes = recording.place(Space.QUANT, m, n)
    half = 1 << params.bits - 1
    recording.store(codes, np.minimum(recording.rng.integers(-half, half + 2, (m, n)), half - 1))
    device.run([program.norm_backward(params, source, target, context, states, codes,
                                      scan=params.masters > 0)])
    recording.read(target, states)
    recording.store(source, x)
    if inference is not None:
        state = state.copy()
        state[[StateRow.MEAN, StateRow.DEVIATION]] = inference
        recording.store(states, state)
    device.run([program.norm_forward(params, source, target, context, states, relu=relu,
                                     inference=True)])
    recording.read(target, context, states)
    device.status()


def norm(params, seed, most=10):
    """Forward, backward and inference with random tensors, with and without a ReLU."""
    recording = Recording(params, f"norm {seed}")
    rng = recording.rng

    def attempt(relu, in_place, most):
        m = draw.dimension(rng, min(most, params.max_rows))
        n = draw.dimension(rng, most, params.cols)
        recording.begin(f"norm {m}x{n} relu {relu} in place {in_place}")
        x = draw.inputs(rng, m, n)
        statistics = None
        if rng.random() < 0.5:
            statistics = np.floor(np.stack([x.mean(axis=0) * 64 + rng.normal(0, 100, n),
                                            rng.integers(0, 1 << rng.integers(1, 31), n)]))
            statistics = np.clip(statistics, -2**31, 2**31 - 1).astype(np.int64)
        _norm(recording, x, draw.values(rng, m, n), draw.state(rng, n), relu=relu,
              in_place=in_place, inference=statistics)

    for relu, in_place in ((True, True), (False, False), (True, False)):
        draw.fitting(partial(attempt, relu, in_place), most)
    return recording.session("norm")


def norm_extremes(params, seed, most=10):
    """Constant channels, one sample, inputs that are clamped, xhat and y that are clamped."""
    recording = Recording(params, f"norm_extremes {seed}")
    rng = recording.rng
    n = params.cols + 1
    outlier = np.zeros((70, 1), np.int64)
    outlier[rng.integers(70)] = rng.choice([-1, 1]) << NORM_IN_BITS - 2
    tensors = {
        "one sample": draw.inputs(rng, 1, n),
        "constant channels": np.broadcast_to(rng.integers(-draw.EDGE, draw.EDGE, n), (3, n)),
        "a deviation of one": rng.integers(0, 2, (4, n)) + (1 << 20),
        "inputs beyond the range": rng.choice(
            [-2**31, 2**31 - 1, draw.EDGE, draw.EDGE - 1, -draw.EDGE - 1], (3, n)),
        "the ends of the range": rng.choice([-draw.EDGE, draw.EDGE - 1], (3, n)),
        "an outlier": outlier,
    }
    gradients = [lambda m, n: np.zeros((m, n), np.int64),
                 lambda m, n: rng.choice([-2**31, 2**31 - 1, 0], (m, n)),
                 lambda m, n: rng.choice([-1, 0, 1], (m, n))]
    for number, (name, x) in enumerate(tensors.items()):
        recording.begin(f"norm of {name}")
        m, n = x.shape
        state = draw.state(rng, n)
        if number % 2:
            state[StateRow.GAMMA] = rng.choice([-2**15, 2**15 - 1], n)
            state[StateRow.BETA] = rng.choice([-2**31, 2**31 - 1, 0], n)
        # Statistics far from the batch's: the least deviations, the ends of the mean.
        statistics = np.stack([rng.choice([-2**31, 2**31 - 1, 0, 1 << 20], n),
                               rng.choice([0, 1, 2, 2**16 - 1, 2**16 + 1, 2**31 - 1], n)])
        dy = gradients[number % 3](m, n)
        _norm(recording, x, dy, state, relu=number % 2 == 0, in_place=number % 3 == 0,
              inference=statistics)

    def long(m):
        recording.begin(f"norm {m} rows")
        x, dy = (rng.choice([-draw.EDGE, draw.EDGE - 1], (m, 1)) for _ in range(2))
        _norm(recording, x, dy, draw.state(rng, 1), relu=False, in_place=True, inference=None)
    if params.masters:
        draw.fitting(long, _LONG)
    return recording.session("norm_extremes")


# A training step.


def training_step(params, seed, most=8):
    """Two whole training steps of a small network, and predictions with its statistics."""
    recording = Recording(params, f"training_step {seed}")
    rng = recording.rng

    def attempt(most):
        sizes = tuple(max(2, draw.dimension(rng, most, params.cols)) for _ in range(4))
        batch = max(2, draw.dimension(rng, most, params.cols))
        recording.begin(f"a network of {sizes}, batches of {batch}")
        network = Mlp(sizes, seed)
        space = network.workspace(recording.device, batch)
        for step in range(2):
            network.train_step(space, rng.integers(0, 256, (batch, sizes[0])),
                               rng.integers(0, sizes[-1], batch), Rate(400, 12), step)
        network.predict(space, rng.integers(0, 256, (batch, sizes[0])))

    draw.fitting(attempt, most)
    recording.device.status()
    return recording.session("training_step")


#: Scenarios of all machines by name.
_SCENARIOS = {function.__name__: function for function in (
    gemm_forward, gemm_input, gemm_weight, gemm_any, gemm_extremes, gemm_digits, move,
    move_extremes, quantise, quantise_extremes, norm, norm_extremes, training_step
)} | errors.SCENARIOS
_WITH_MASTERS = resident.SCENARIOS | errors.SCENARIOS_WITH_MASTERS | started.SCENARIOS
_WITH_LAYER_NORM = resident.SCENARIOS_WITH_LAYER_NORM


def scenarios(params):
    """Names of the scenarios of a machine.

    >>> from hdl.params import Params
    >>> [name for name in scenarios(Params(masters=4)) if name not in scenarios(Params())][:2]
    ['scale', 'scale_extremes']
    """
    return [*_SCENARIOS, *(_WITH_MASTERS if params.masters else ()),
            *(_WITH_LAYER_NORM if params.layer_norm else ())]


def record(name, params, seed, **options):
    """The session of a scenario.

    >>> from hdl.params import Params
    >>> len(record("gemm_any", Params(), 0).exchanges) > 10
    True
    """
    return (_SCENARIOS | _WITH_MASTERS | _WITH_LAYER_NORM)[name](params, seed, **options)

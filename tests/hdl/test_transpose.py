"""hdl.transpose against NumPy's transposition and permutation, and against hdl.move."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdl.instructions import TABLE_HEADER, MoveFlag, Opcode
from hdl.move import Move
from hdl.params import MAX_K, ParameterError, Params
from hdl.transpose import Mover
from hdl.transpose.block import Block
from hdl.transpose.mover import check_sizes
from hdl.transpose.walk import slot_bound
from hdl.unit import GROUP_WORD, ORDER_ENTRY
from host.errors import ArgumentError
from host.windows import Windows
from sim.model.order import order, schedule_rows
from tests.support.images import windows_of
from tests.support.memories import UnitBench

PLAIN, TRANSPOSED, SORTED = 0, MoveFlag.TRANSPOSED, MoveFlag.SORTED
FLAGS = (PLAIN, TRANSPOSED, SORTED, TRANSPOSED | SORTED)
SRC0, TAB1 = 5, 9
#: Junk of an order table beyond its slots: what a unit that looks there moves.
JUNK = 64


def codes(rng, params, m, n):
    """Random codes, the extremes among them."""
    return rng.integers(-1 << params.bits - 1, 1 << params.bits - 1, (m, n))


def sorted_table(rng, params, count, groups=None):
    """The index of every slot, as SORT leaves it of so many random groups."""
    groups = groups or params.max_groups
    return order(rng.integers(0, rng.integers(1, groups + 1), count), groups, params.depth)[0]


async def move(ctx, bench, flags, x, table=None, *, base=SRC0, dst0=None, tab1=TAB1, tall=(0, 0),
               windows=None, tap=(0, 0)):
    """Move ``x``, column ``table[s]`` to slot s if it is sorted; the destination and nothing else
    has changed.

    ``tall`` are rows of the tensors of source and destination after those of the move. With
    ``windows`` ``x`` are the rows of images, of which the move takes what outputs see with ``tap``.
    """
    params, (m, n) = bench.params, x.shape
    fields = {"key1": tall[0] | tall[1] << 16}
    held = np.pad(x, ((0, tall[0]), (0, 0)))
    if windows:
        x = seen(bench.params, windows, x, tap, flags & MoveFlag.UNSIGNED)
        at_x, at_y, line = windows.tap(*tap)
        bench.load_groups(ctx, windows.base, windows.table(params))
        m, fields = len(x), {"key1": len(held) | tall[1] << 16, "tab0": windows.base,
                             "key0": at_x & 0xFFFF | (at_y & 0xFFFF) << 16, "src1": line & 0xFFFF}
    columns = x.T if flags & TRANSPOSED else x
    height, count = columns.shape
    if flags & SORTED:
        table = np.asarray(table)
        bench.load_order(ctx, tab1, table, [])
        for k in range(len(table), min(len(table) + JUNK, bench.params.table_words
                                       - tab1 - TABLE_HEADER)):
            entry = ORDER_ENTRY.const({"index": k % count, "pad": 0}).as_bits()
            bench.poke(ctx, "order", tab1 + TABLE_HEADER + k, entry)
    else:
        table = np.arange(count)
    slots = np.flatnonzero((table >= 0) & (table < count))
    tiles = (len(table) - 1) // params.slots + 1
    bench.load(ctx, "quant", base, held)
    if dst0 is None:
        dst0 = base + -(-n // params.slots) * len(held) + 1
    # The word before the destination, and those after it.
    stride = height + tall[1]
    whole = dst0 - 1, (tiles + 1) * stride + 2, params.slots
    expected = bench.dump(ctx, "quant", *whole)
    source = base, -(-n // params.slots) * len(held), params.slots
    kept = bench.dump(ctx, "quant", *source)
    for slot in slots:
        tile, lane = divmod(int(slot), params.slots)
        first = 1 + tile * stride
        expected[first:first + height, lane] = columns[:, table[slot]]
    # A copy has a word for every step, unless it is outside of an image.
    cycles, clamped = await bench.run(
        ctx, Opcode.MOVE, spare=flags != PLAIN, flags=flags, m=m, n=n, src0=base, dst0=dst0,
        tab1=tab1, **fields)
    found = bench.dump(ctx, "quant", *whole)
    assert (found == expected).all(), (flags, m, n, np.argwhere(found != expected))
    assert (bench.dump(ctx, "quant", *source) == kept).all()
    assert clamped == 0
    assert cycles == bench.unit.cycles(m, n, flags), (flags, m, n)


def seen(params, windows, x, tap, is_unsigned):
    """What outputs see of rows of images with a tap, [outputs, channels]."""
    zero = (1 << params.bits - 1) * bool(is_unsigned)
    rows = windows_of(windows, x + zero).reshape(-1, *windows.kernel, windows.channels)
    return rows[:, *tap] - zero


def check(unit, cases, **words):
    """Every case, arguments of :func:`move`, one after the other on one unit; a dictionary at the
    end are those by name."""
    bench = UnitBench(unit, unit.params, words=words)

    async def process(ctx):
        for case in cases:
            named = case[-1] if isinstance(case[-1], dict) else {}
            await move(ctx, bench, *case[:len(case) - bool(named)], **named)

    bench.simulate(process)


def random_cases(rng, unit, shapes, flags_of):
    """Cases of these shapes; half of the tables are no sorted ones."""
    params, cases = unit.params, []
    for k, (m, n) in enumerate(shapes):
        for flags in flags_of(k):
            count = m if flags & TRANSPOSED else n
            if k % 2:
                table = sorted_table(rng, params, count)
            else:
                # Any indices, some beyond the tensor and some twice, up to the last slot there is.
                table = rng.integers(-1, count + 2, rng.integers(
                    1, params.depth * schedule_rows(count, params.depth, params.max_groups) + 1))
            cases.append((flags, codes(rng, params, m, n), table))
    rng.shuffle(cases)
    return cases


SHAPES = [(1, 1, 4, 1, 1), (2, 1, 2, 2, 2), (1, 3, 3, 1, 4), (4, 1, 5, 4, 8), (5, 1, 8, 1, 2),
          (2, 3, 4, 2, 4), (7, 1, 4, 1, 16), (2, 4, 6, 8, 8), (3, 4, 4, 4, 8), (4, 4, 4, 8, 16),
          (4, 4, 4, 2, 512), (8, 3, 4, 8, 32)]


@pytest.mark.parametrize(("rows", "depth", "bits", "width", "columns"), SHAPES)
def test_moves_equal_numpy(rows, depth, bits, width, columns):
    params = Params(rows=rows, depth=depth, bits=bits, memory=4)
    unit = Mover(params, width, columns=columns)
    slots = params.slots
    rng = np.random.default_rng([rows, depth, width])
    sizes = sorted({1, slots - 1, slots, slots + 1} - {0})
    shapes = [*itertools.product(sizes, repeat=2), (2 * slots + 1, 2), (2, 2 * slots + 1), (13, 5)]
    check(unit, random_cases(rng, unit, shapes, lambda k: (
        FLAGS if slots < 5 else (FLAGS[k % 4], FLAGS[(k + 2 + k // 4) % 4]))))


@pytest.mark.parametrize(("rows", "depth", "width"), [(1, 1, 1), (2, 2, 4), (4, 4, 8)])
def test_rows_of_taller_tensors(rows, depth, width):
    params = Params(rows=rows, depth=depth, memory=4)
    unit = Mover(params, width, columns=16)
    rng = np.random.default_rng([rows, depth, width])
    slots = params.slots
    cases = random_cases(rng, unit, [(3, slots + 1), (slots + 1, 3), (1, 2 * slots + 1),
                                     (13, slots)], lambda k: FLAGS)
    check(unit, [(*case, {"tall": tuple(int(more) for more in rng.integers(0, 4, 2))})
                 for case in cases])


# Windows.

WINDOWS, UNSIGNED = MoveFlag.WINDOWS, MoveFlag.UNSIGNED
TAB0 = 0x35


def images(n, height, width, channels, kernel, **fields):
    return Windows(base=TAB0, images=n, height=height, width=width, channels=channels,
                   kernel=kernel, **fields)


def gathered(rng, params, windows, taps=None):
    """Cases of a convolution: some of its taps, both ways round, signed or not."""
    positions = windows.images * windows.height * windows.width
    every = list(itertools.product(*map(range, windows.kernel)))
    for number in rng.permutation(len(every))[:taps]:
        for flags in rng.choice([0, UNSIGNED]) | np.array([PLAIN, TRANSPOSED]):
            tall = tuple(int(more) for more in rng.integers(0, 4, 2) * rng.integers(2))
            yield (int(flags) | WINDOWS, codes(rng, params, positions, windows.channels),
                   {"windows": windows, "tap": every[number], "tall": tall})


@pytest.mark.parametrize(("rows", "depth", "bits", "width"), [
    (1, 1, 4, 1), (2, 2, 3, 2), (3, 4, 8, 4), (4, 4, 4, 16)])
def test_what_outputs_see(rows, depth, bits, width):
    """Words of a position that are not full, just full, and several; lines and images of one;
    strides, padding, positions between two inputs; after each other, and after plain moves."""
    params = Params(rows=rows, depth=depth, bits=bits, memory=8)
    rng = np.random.default_rng([rows, width, 3])
    slots, unit, cases = params.slots, Mover(params, width, columns=16), []
    for windows in (
            images(1, 1, 1, 1, (1, 1)), images(2, 3, 4, slots + 1, (2, 3), padding=(1, 1)),
            images(2, 5, 4, max(1, slots - 1), (3, 3), stride=(2, 2), padding=(1, 1)),
            images(3, 2, 3, 2 * slots, (2, 3)), images(1, 1, 6, slots, (1, 3), stride=(1, 2)),
            images(2, 3, 3, slots, (2, 2), padding=(1, 1), spread=2, outputs=(6, 4)),
            images(1, 4, 3, 2, (3, 3), padding=(3, 2), dilation=2)):
        cases += gathered(rng, params, windows, taps=4)
    for number, flags in enumerate(FLAGS):
        cases.insert(5 * number, (flags, codes(rng, params, 5, 6), sorted_table(
            rng, params, 5 if flags & TRANSPOSED else 6)))
    check(unit, cases)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.regress)
                                          for seed in range(2, 12))])
def test_random_windows(seed):
    rng = np.random.default_rng([seed, 5])
    rows, depth = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    params = Params(rows=rows, depth=depth, bits=int(rng.integers(2, 9)), memory=16)
    width = int(rng.choice([width for width in (1, 2, 4, 8, 16) if params.slots % width == 0]))
    cases = []
    while len(cases) < 40:
        def pair(low, most):
            return tuple(int(value) for value in rng.integers(low, most + 1, 2))
        spread = int(rng.integers(1, 3))
        try:
            windows = images(
                int(rng.integers(1, 4)), *pair(1, 7), int(rng.integers(1, 2 * params.slots + 2)),
                pair(1, 3), stride=tuple(1 << step for step in pair(0, 1 + (spread == 2))),
                padding=pair(0, 3), spread=spread, dilation=1 << int(rng.integers(0, 2)))
        except ArgumentError:
            continue
        cases += gathered(rng, params, windows, taps=2)
    check(Mover(params, width), cases)


def test_the_widest_and_the_highest_images():
    """Sizes of eight bits, and as many outputs as there may be."""
    params = Params(rows=2, depth=2, memory=256)
    rng = np.random.default_rng(8)
    cases = []
    for number, windows in enumerate((
            images(1, 16, 255, 1, (1, 7), padding=(0, 3)),
            images(1, 255, 16, 1, (7, 1), padding=(3, 0)),
            images(4, 64, 64, 1, (2, 2), stride=(2, 2), padding=(1, 0), outputs=(32, 32)))):
        assert windows.count > 4000
        # Copied and transposed in turn.
        cases.append(list(gathered(rng, params, windows, taps=1))[number % 2])
    check(Mover(params, 4), cases, quant=1 << 15)


@pytest.mark.regress
@pytest.mark.parametrize("seed", range(10))
def test_random_moves(seed):
    rng = np.random.default_rng(seed)
    rows, depth = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    groups = int(rng.choice([2, 4, 8]))
    params = Params(rows=rows, depth=depth, bits=int(rng.integers(2, 9)), memory=16,
                    sample_groups=1, channel_groups=groups)
    widths = [width for width in (1, 2, 4, 8, 16, 32) if params.slots % width == 0]
    width = int(rng.choice(widths))
    unit = Mover(params, width, columns=int(rng.choice([32, 64, 512])))
    shapes = rng.integers(1, 2 * params.slots + 2, (6, 2)).tolist()
    check(unit, random_cases(rng, unit, shapes, lambda k: FLAGS))


def test_extremes():
    params = Params(rows=2, depth=2, bits=4, memory=4)
    cases = [(flags, np.full((5, 5), code), np.array([4, -1, 3, 0, 1, 2])) for flags in FLAGS
             for code in (-8, 7, 0, -1)]
    check(Mover(params, 2, columns=4), cases)


@pytest.mark.parametrize("flags", [SORTED, TRANSPOSED | SORTED])
def test_tables_without_a_slot_and_of_padding_alone(flags):
    params = Params(memory=4)
    x = codes(np.random.default_rng(1), params, 9, 9)
    check(Mover(params, 4), [(flags, x, table) for table in (
        np.zeros(0, np.int64), np.full(20, -1), np.arange(9), np.full(5, 9))])


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_table_of_a_sort_is_gone_over(depth):
    params = Params(depth=depth)
    for count in range(1, 30):
        least = depth * schedule_rows(count, depth, params.max_groups)
        assert least <= slot_bound(params, count) <= least + (depth - 1) * (depth == 3)
    assert slot_bound(params, MAX_K) >= depth * schedule_rows(MAX_K, depth, params.max_groups)


def test_the_longest_tables():
    # Every group takes a row, of which it needs a place at most.
    params = Params(rows=3, depth=4, channel_groups=8, memory=4)
    rng = np.random.default_rng(4)
    cases = []
    for groups in ([7], [7] * 5, [5, 6, 7], [6, 7, 7, 7]):
        table, _ = order(np.array(groups), 8, params.depth)
        assert len(table) == params.depth * schedule_rows(len(groups), params.depth, 8)
        cases += [(flags, codes(rng, params, *shape), table) for flags, shape in (
            (SORTED, (5, len(groups))), (TRANSPOSED | SORTED, (len(groups), 5)))]
    check(Mover(params, 4, columns=8), cases)


def test_a_table_at_the_end_of_its_memory():
    params = Params(memory=4)
    bench = UnitBench(Mover(params, 8, columns=16), params)
    rng = np.random.default_rng(5)

    async def process(ctx):
        table = sorted_table(rng, params, 30)
        tab1 = params.table_words - TABLE_HEADER - len(table)
        await move(ctx, bench, SORTED, codes(rng, params, 7, 30), table, tab1=tab1)
        await move(ctx, bench, TRANSPOSED | SORTED, codes(rng, params, 30, 7), table, tab1=tab1)

    bench.simulate(process)


@pytest.mark.parametrize("flags", FLAGS)
def test_a_destination_at_the_end_of_its_memory(flags):
    """Steps go beyond the slots of few groups, and beyond the destination; writes do not."""
    params = Params(rows=2, depth=2, memory=4)
    bench = UnitBench(Mover(params, 4, columns=8), params)
    rng = np.random.default_rng(6)

    async def process(ctx):
        for m, n in ((1, 1), (1, 4), (4, 1), (3, 5), (5, 3), (13, 2), (2, 13)):
            x = codes(rng, params, m, n)
            columns = x.T if flags & TRANSPOSED else x
            height, count = columns.shape
            table = np.arange(count)
            dst0 = params.quant_words - -(-count // params.slots) * height
            bench.load(ctx, "quant", 0, x)
            bench.load_order(ctx, TAB1, table, [])
            await bench.run(ctx, Opcode.MOVE, flags=flags, m=m, n=n, src0=0, dst0=dst0, tab1=TAB1,
                            spare=flags != PLAIN)
            assert (bench.dump(ctx, "quant", dst0, height, count) == columns).all(), (m, n)

    bench.simulate(process)


@pytest.mark.parametrize("width", [1, 2])
def test_without_groups(width):
    params = Params(rows=3, depth=2, sample_groups=1, channel_groups=1, memory=4)
    rng = np.random.default_rng(0)
    unit = Mover(params, width)
    assert "order_r" not in unit.signature.members
    check(unit, [(flags, codes(rng, params, m, n))
                 for flags in (PLAIN, TRANSPOSED) for m, n in ((7, 13), (13, 7))])


@pytest.mark.parametrize("flags", FLAGS)
def test_the_memory_is_that_which_move_leaves(flags):
    params = Params(memory=4)
    rng = np.random.default_rng(int(flags))
    m, n = 21, 18
    count = m if flags & TRANSPOSED else n
    groups = rng.integers(0, 4, count)
    table, marks = order(groups, 4, params.depth)
    memories = []
    for unit in (Move(params), Mover(params, 8, columns=16)):
        bench = UnitBench(unit, params)

        async def process(ctx, bench=bench):
            bench.load_order(ctx, TAB1, table, marks)
            for slot, index in enumerate(table):
                if index >= 0:
                    row, place = divmod(slot, params.depth)
                    tile, row = divmod(row, params.rows)
                    fields = {"group": groups[index], "place": place, "row": row, "tile": tile}
                    bench.poke(ctx, "group", TAB1 + index, GROUP_WORD.const(fields).as_bits())
            for dst0 in (100, 200):
                await bench.run(ctx, Opcode.MOVE, spare=True, flags=flags, m=m, n=n, src0=3,
                                dst0=dst0, tab1=TAB1)
            memories.append(bench.dump(ctx, "quant", 0, 300, params.slots))

        bench.simulate(process)
    assert (memories[0] == memories[1]).all()


def test_two_transpositions_give_the_tensor():
    params = Params(memory=4)
    bench = UnitBench(Mover(params, 8), params)
    x = codes(np.random.default_rng(1), params, 21, 18)

    async def process(ctx):
        bench.load(ctx, "quant", 0, x)
        for fields in ({"m": 21, "n": 18, "src0": 0, "dst0": 100},
                       {"m": 18, "n": 21, "src0": 100, "dst0": 200}):
            cycles, _ = await bench.run(ctx, Opcode.MOVE, spare=True, flags=TRANSPOSED, **fields)
            # Nine blocks go in, and the last one out.
            assert cycles == 3 * 10 * 8 + 16
        assert (bench.dump(ctx, "quant", 100, 18, 21) == x.T).all()
        assert (bench.dump(ctx, "quant", 200, 21, 18) == x).all()

    bench.simulate(process)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("width", [1, 4])
def test_a_third_of_the_clocks_is_left_to_others(flags, width):
    """And which these are depends on no table."""
    params = Params(rows=2, depth=2, memory=4)
    unit = Mover(params, width, columns=4)
    bench = UnitBench(unit, params)
    rng = np.random.default_rng(int(flags))
    announced = []

    async def process(ctx):
        for k in range(2):
            table = sorted_table(rng, params, 9) if k else np.zeros(0, np.int64)
            announced.append([])
            await move(ctx, bench, flags, codes(rng, params, 9, 9), table)

    async def watch(ctx):
        while True:
            await ctx.tick()
            if announced:
                announced[-1].append(ctx.get(unit.quant_ahead))

    bench.simulate(process, watch)
    first, second = (np.trim_zeros(clocks) for clocks in announced)
    assert first == second
    text = "".join(map(str, first))
    assert all(text[k:k + 3] != "111" for k in range(len(text))) and "11" in text


@pytest.mark.parametrize("flags", FLAGS)
def test_longest(flags):
    params = Params(rows=4, depth=4, memory=64)
    rng = np.random.default_rng(2)
    cases = []
    for shape in ((MAX_K, 1), (1, MAX_K)):
        table = sorted_table(rng, params, shape[0] if flags & TRANSPOSED else shape[1])
        # All slots are gone over for every eight rows of a sorted tensor.
        if flags != SORTED or shape[0] == 1:
            cases.append((flags, codes(rng, params, *shape), table))
    check(Mover(params, 8, columns=2048), cases, quant=16384, order=8192)


@pytest.mark.regress
def test_the_longest_sorted_column():
    params = Params(rows=4, depth=4, memory=64)
    x = codes(np.random.default_rng(2), params, MAX_K, 1)
    check(Mover(params, 8), [(SORTED, x, np.array([-1, 0]))], quant=16384)


def test_the_last_tile_and_the_end_of_the_memory():
    params = Params(rows=8, depth=1, memory=256)
    # So many indices that the last slot is gone over; the buffer has room for all of them.
    height, count, slots = 8, 4093, 4096
    bench = UnitBench(Mover(params, 8, columns=4096), params, words={
        "quant": 1 << 16, "order": 8192})
    rng = np.random.default_rng(3)

    async def process(ctx):
        table = np.full(slots, -1)
        table[rng.permutation(slots)[:count - 1]] = np.arange(1, count)
        table[-1] = 0
        dst0 = (1 << 16) - slots
        bench.load_order(ctx, TAB1, table, [])
        for flags in (SORTED, TRANSPOSED | SORTED):
            x = codes(rng, params, height, count)
            before = bench.dump(ctx, "quant", dst0, height, slots)
            given = x.T if flags & TRANSPOSED else x
            bench.load(ctx, "quant", 0, given)
            await bench.run(ctx, Opcode.MOVE, spare=True, flags=flags, m=given.shape[0],
                            n=given.shape[1], src0=0, dst0=dst0, tab1=TAB1)
            found = bench.dump(ctx, "quant", dst0, height, slots)
            assert (found == np.where(table < 0, before, x[:, table])).all()

    bench.simulate(process)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_blocks_enter_while_others_leave(width):
    block = Block(width, 5)
    rng = np.random.default_rng(width)
    given = rng.integers(0, 32, (4, width, width))
    m = Module()
    m.submodules.block = block
    found = []

    async def process(ctx):
        for number in range(4):
            for line in range(width):
                ctx.set(block.i, [int(element) for element in given[number][line]])
                ctx.set(block.step, 0)
                # Nothing moves without a step.
                ctx.set(block.turn, 1)
                await ctx.tick().repeat(int(rng.integers(1, 3)))
                ctx.set(block.step, 1)
                ctx.set(block.turn, line == width - 1)
                found.append([ctx.get(block.o[k]) for k in range(width)])
                await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()
    found = np.array(found).reshape(4, width, width)
    for number in range(3):
        assert (found[number + 1] == given[number].T).all()


@pytest.mark.parametrize(("width", "columns", "message"), [
    (3, 512, "width must be a power of two that divides the 16 slots, got 3"),
    (32, 512, "width must be a power of two that divides the 16 slots, got 32"),
    (0, 512, "width must be a power of two that divides the 16 slots, got 0"),
    (8, 4, "columns must be a power of two from the 8 of a block to 4096, got 4"),
    (8, 24, "columns must be a power of two from the 8 of a block to 4096, got 24"),
])
def test_refused_parameters(width, columns, message):
    with pytest.raises(ParameterError) as error:
        check_sizes(Params(), width, columns)
    assert str(error.value) == message

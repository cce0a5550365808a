"""hdl.move against NumPy's transposition and permutation."""

import itertools

import numpy as np
import pytest

from hdl.instructions import MoveFlag, Opcode
from hdl.move import Move
from hdl.params import MAX_K, Params
from hdl.unit import GROUP_WORD
from sim.model.order import order
from tests.support.memories import UnitBench

PLAIN, TRANSPOSED, SORTED = 0, MoveFlag.TRANSPOSED, MoveFlag.SORTED
FLAGS = (PLAIN, TRANSPOSED, SORTED, TRANSPOSED | SORTED)
SRC0, TAB1 = 5, 9


def slot_word(slot, params, rng):
    """A word of the group table with a slot."""
    row, place = divmod(int(slot), params.depth)
    tile, row = divmod(row, params.rows)
    fields = {"group": int(rng.integers(16)), "place": place, "row": row, "tile": tile}
    return GROUP_WORD.const(fields).as_bits()


async def move(ctx, bench, flags, x, slots=None, *, base=SRC0, dst0=None):
    """Move ``x``, column c to ``slots[c]`` if it is sorted; the destination and nothing else has
    changed."""
    params, (m, n) = bench.params, x.shape
    columns = x.T if flags & TRANSPOSED else x
    height, count = columns.shape
    rng = np.random.default_rng([m, n])
    if flags & SORTED:
        bench.load_groups(ctx, TAB1, [slot_word(slot, params, rng) for slot in slots])
    else:
        slots = np.arange(count)
        bench.load_groups(ctx, TAB1, rng.integers(0, 1 << 32, count))
    tiles = max(slots) // params.slots + 1
    bench.load(ctx, "quant", base, x)
    if dst0 is None:
        dst0 = base + -(-n // params.slots) * m + 1
    # The word before the destination and the one after it, too.
    whole = dst0 - 1, tiles * height + 2, params.slots
    expected = bench.dump(ctx, "quant", *whole)
    source = base, -(-n // params.slots) * m, params.slots
    kept = bench.dump(ctx, "quant", *source)
    for column, slot in enumerate(slots):
        tile, lane = divmod(int(slot), params.slots)
        first = 1 + tile * height
        expected[first:first + height, lane] = columns[:, column]
    cycles, clamped = await bench.run(
        ctx, Opcode.MOVE, flags=flags, m=m, n=n, src0=base, dst0=dst0, tab1=TAB1)
    assert (bench.dump(ctx, "quant", *whole) == expected).all(), (flags, m, n)
    assert (bench.dump(ctx, "quant", *source) == kept).all()
    assert clamped == 0
    assert cycles == bench.unit.cycles(m, n)


def check(params, cases, **words):
    """Every case, arguments of :func:`move`, one after the other on one unit."""
    bench = UnitBench(Move(params), params, words=words)

    async def process(ctx):
        for case in cases:
            await move(ctx, bench, *case)

    bench.simulate(process)


def codes(rng, params, m, n):
    """Random codes, the extremes among them."""
    return rng.integers(-1 << params.bits - 1, 1 << params.bits - 1, (m, n))


@pytest.mark.parametrize(("rows", "depth", "bits"), [
    (1, 1, 4), (2, 1, 2), (1, 3, 3), (4, 1, 5), (5, 1, 8), (2, 3, 4), (7, 1, 4), (2, 4, 6),
    (3, 3, 4), (4, 4, 4)])
def test_moves_equal_numpy(rows, depth, bits):
    params = Params(rows=rows, depth=depth, bits=bits, memory=4)
    slots = params.slots
    rng = np.random.default_rng([rows, depth])
    sizes = {1, slots - 1, slots, slots + 1, 2 * slots + 1} - {0}
    shapes = [*itertools.product(sizes, repeat=2), (3 * slots, 2), (2, 3 * slots), (13, 5)]
    cases = []
    for k, (m, n) in enumerate(shapes):
        for flags in (FLAGS if slots < 9 else (FLAGS[k % 4], FLAGS[(k + 1) % 4])):
            count = m if flags & TRANSPOSED else n
            if k % 2:
                # Slots as SORT gives them.
                taken, _ = order(rng.integers(0, 4, count), 4, depth)
                chosen = np.argsort(taken)[-count:]
            else:
                chosen = rng.permutation(count + slots + 2)[:count]
            cases.append((flags, codes(rng, params, m, n), chosen))
    rng.shuffle(cases)
    check(params, cases)


def test_extremes():
    params = Params(rows=2, depth=2, bits=4, memory=4)
    cases = [(flags, np.full((5, 5), code), np.arange(5)) for flags in FLAGS
             for code in (-8, 7, 0, -1)]
    check(params, cases)


def test_without_groups():
    params = Params(rows=3, depth=2, sample_groups=1, channel_groups=1, memory=4)
    rng = np.random.default_rng(0)
    check(params, [(flags, codes(rng, params, m, n))
                   for flags in (PLAIN, TRANSPOSED) for m, n in ((7, 13), (13, 7))])


def test_two_transpositions_give_the_tensor():
    params = Params(memory=4)
    bench = UnitBench(Move(params), params)
    x = codes(np.random.default_rng(1), params, 21, 18)

    async def process(ctx):
        bench.load(ctx, "quant", 0, x)
        for fields in ({"m": 21, "n": 18, "src0": 0, "dst0": 100},
                       {"m": 18, "n": 21, "src0": 100, "dst0": 200}):
            cycles, _ = await bench.run(ctx, Opcode.MOVE, flags=TRANSPOSED, **fields)
            # Words of 16 elements, and of 2 or 5.
            assert cycles == 14 + fields["m"] * (17 + 6)
        assert (bench.dump(ctx, "quant", 100, 18, 21) == x.T).all()
        assert (bench.dump(ctx, "quant", 200, 21, 18) == x).all()

    bench.simulate(process)


@pytest.mark.parametrize("flags", [PLAIN, TRANSPOSED])
def test_longest(flags):
    params = Params(rows=4, depth=4, memory=64)
    rng = np.random.default_rng(2)
    check(params, [(flags, codes(rng, params, *shape)) for shape in ((MAX_K, 1), (1, MAX_K))],
          quant=16384, group=8192)


def test_the_last_tile_and_the_end_of_the_memory():
    params = Params(rows=1, depth=1, memory=64)
    assert params.quant_words == 1 << 16
    rng = np.random.default_rng(3)
    bench = UnitBench(Move(params), params)

    async def process(ctx):
        slots = np.array([4095, 0, 2731])
        for flags, shape in ((SORTED, (15, 3)), (TRANSPOSED | SORTED, (3, 15))):
            x = codes(rng, params, *shape)
            bench.load(ctx, "quant", 0, x)
            bench.load_groups(ctx, TAB1, [slot_word(slot, params, rng) for slot in slots])
            dst0 = (1 << 16) - 15 * 4096
            await bench.run(ctx, Opcode.MOVE, flags=flags, m=shape[0], n=shape[1], src0=0,
                            dst0=dst0, tab1=TAB1)
            for slot, column in zip(slots, x.T if shape[1] == 3 else x, strict=True):
                found = bench.dump(ctx, "quant", dst0 + 15 * int(slot), 15, 1)
                assert (found[:, 0] == column).all()

    bench.simulate(process)

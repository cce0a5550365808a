"""hdl.pool against sim.model.pool."""

import numpy as np
import pytest

from hdl.instructions import POOL_GEOMETRY, Opcode, PoolFlag, pack_fields
from hdl.params import Params
from hdl.pool import Pool
from sim.model.pool import spread, sums
from sim.model.relu import unclipped
from tests.support.memories import UnitBench

LOW, HIGH = -(2**31), 2**31 - 1
SOURCE, TARGET, CODES = 3, 2000, 5

#: Machines whose words of codes hold one column tile, several, and of which rows read with groups.
PARAMS = [
    Params(bits=4, rows=2, cols=2, depth=2, lanes=1, masters=1),
    Params(bits=2, rows=2, cols=2, depth=1, lanes=2, masters=1, sample_groups=1, channel_groups=1),
    Params(bits=8, rows=3, cols=3, depth=2, lanes=3, masters=1),
    Params(bits=3, rows=8, cols=8, depth=4, lanes=8, masters=1)]

#: Images, their size, that of a window: whole ones, parts at either edge, none at all, one
#: position, one image, the longest side.
SHAPES = [
    (1, (4, 4), (2, 2)), (2, (4, 6), (2, 3)), (3, (5, 7), (2, 2)), (1, (3, 3), (1, 1)),
    (2, (1, 1), (1, 1)), (2, (2, 5), (1, 4)), (2, (5, 2), (4, 1)), (1, (7, 5), (3, 5)),
    (1, (2, 3), (3, 2)), (2, (3, 2), (2, 3)), (1, (1, 255), (1, 15)), (1, (255, 1), (255, 1)),
    (2, (3, 4), (3, 4)), (1, (6, 8), (1, 8))]


def elements(rng, m, n):
    """Of any size, extremes among them."""
    x = rng.integers(LOW, HIGH + 1, (m, n)) >> rng.integers(0, 32, (m, 1))
    extreme = rng.random((m, n)) < 0.2
    x[extreme] = rng.choice([LOW, HIGH, 0, -1, 1], extreme.sum())
    return x


def check(params, cases, seed):
    """Cases ``(images, size, window, n, flags, in_place)``, one after the other on one unit."""
    unit = Pool(params)
    bench = UnitBench(unit, params, words={"wide": 4096, "quant": 4096, "group": 4, "order": 4})
    rng = np.random.default_rng(seed)

    async def process(ctx):
        for images, size, window, n, flags, in_place in cases:
            case = images, size, window, n, flags
            rows = images * size[0] * size[1]
            windows = images * (size[0] // window[0]) * (size[1] // window[1])
            given, made = (windows, rows) if flags & PoolFlag.SPREAD else (rows, windows)
            x = elements(rng, given, n)
            codes = rng.integers(-(1 << params.bits - 1), 1 << params.bits - 1, (windows, n))
            target = SOURCE if in_place else TARGET
            bench.load(ctx, "wide", SOURCE, x)
            bench.load(ctx, "quant", CODES, codes)
            around = [target - 1, target + made * -(-n // params.vector)]
            before = [bench.peek(ctx, "wide", word) for word in around]
            cycles, clamped = await bench.run(
                ctx, Opcode.POOL, flags=flags, m=images, n=n, src0=SOURCE, dst0=target, tab0=CODES,
                key0=pack_fields(POOL_GEOMETRY, width=size[1], height=size[0],
                                 window_width=window[1], window_height=window[0]))
            assert cycles == unit.cycles(rows, n) and clamped == 0, case
            assert [bench.peek(ctx, "wide", word) for word in around] == before, case
            if not flags & PoolFlag.SPREAD:
                expected = sums(x, size, window)
            elif not windows:
                expected = np.zeros((rows, n), np.int64)
            else:
                passed = unclipped(codes + (1 << params.bits - 1), params.bits)
                expected = spread(x, size, window, passed if flags & PoolFlag.CLIPPED else None)
            assert (bench.dump(ctx, "wide", target, made, n) == expected).all(), case

    bench.simulate(process)


FLAGS = [PoolFlag(0), PoolFlag.SPREAD, PoolFlag.SPREAD | PoolFlag.CLIPPED]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: params.name)
def test_windows_equal_the_model(params):
    rng = np.random.default_rng(params.vector)
    columns = [1, params.vector, params.vector + 1, params.slots, 2 * params.slots + 1]
    cases = []
    for number, (images, size, window) in enumerate(SHAPES):
        for flags in FLAGS:
            n = columns[number % len(columns)] if images * size[0] * size[1] < 80 else 1
            alone = not flags or window == (1, 1)
            cases.append((images, size, window, n, flags, bool(alone and rng.random() < 0.5)))
    check(params, cases, params.vector)


@pytest.mark.parametrize("flags", FLAGS, ids=repr)
def test_codes_of_several_words_follow_each_other(flags):
    """A word of codes has four column tiles, and there are nine of them in three words."""
    params = PARAMS[0]
    check(params, [(2, (2, 3), (1, 3), 9, flags, False), (2, (2, 3), (2, 1), 9, flags, False)], 1)


@pytest.mark.regress
@pytest.mark.parametrize("params", PARAMS, ids=lambda params: params.name)
@pytest.mark.parametrize("seed", range(4))
def test_many_more_windows_equal_the_model(params, seed):
    rng = np.random.default_rng([params.vector, seed])
    cases = []
    for _ in range(60):
        size, window = (tuple(int(side) for side in rng.integers(1, high, 2)) for high in (12, 6))
        cases.append((int(rng.integers(1, 4)), size, window, int(rng.integers(1, 4)),
                      FLAGS[rng.integers(3)], False))
    check(params, cases, seed)

"""hdl.quantise with masters against sim.model.quantise.quantise_weights."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.instructions import (
    SCAN_SHIFT,
    STATE_ROWS,
    Opcode,
    QuantiseFlag,
    ScaleRow,
    ScanRow,
    StateRow,
)
from hdl.params import MASTER_BITS, MAX_K, MAX_M, MAX_N, Params
from hdl.quantise import Quantiser
from hdl.quantise.mantissa import ColumnScale
from hdl.quantise.masters import Masters
from hdl.quantise.normalise import NormalisedProduct
from sim.model.noise import element_noise, key_words
from sim.model.quantise import (
    INVERSE,
    WEIGHT_CLIP,
    normalise_columns,
    quantise,
    quantise_weights,
    scale_exponent,
    scan,
)
from tests.support.memories import UnitBench

LOW, HIGH = -(1 << MASTER_BITS - 1), (1 << MASTER_BITS - 1) - 1
WIDTHS = MASTER_BITS, 16
SRC0, DST0, DST1 = 5, 9, 11
KEY = (0x0123, 0x4567, 0x89AB, 0xCDEF)
CLIPS = (0, 1, 2, 3, 10, 13, 36, 100, 255)


@dataclass(frozen=True)
class Weights:
    """Masters and a clip."""
    x: np.ndarray
    clip: int


@dataclass(frozen=True)
class Wide:
    """A wide tensor, which the same unit quantises without masters."""
    x: np.ndarray
    clip: int = 0
    per_column: bool = False
    key: tuple | None = None
    grouped: bool = False
    unsigned: bool = False
    scanned: bool = False


def simulate(dut, process):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def made(bits, lanes, groups=(1, 1), width=MASTER_BITS):
    """Parameters of a machine of so many lanes, two tiles to a word of codes."""
    return Params(bits=bits, rows=lanes, cols=lanes, depth=2, lanes=lanes, masters=1,
                  master_bits=width, velocity_bits=8, sample_groups=groups[0],
                  channel_groups=groups[1])


def check(params, cases):
    """Every case, one after the other on one unit, gives the model's tensor, and nothing else.

    Returns the unit.
    """
    unit = Quantiser(params, masters=True)
    most = max(-(-case.x.shape[1] // params.vector) * case.x.shape[0] for case in cases)
    words = dict.fromkeys(("wide", "master", "quant"), 1 << (most + 128).bit_length())
    # Groups of columns after those of rows.
    tab2 = max(600, *(len(case.x) for case in cases))
    bench = UnitBench(unit, params, words={**words, "group": tab2 + 400, "order": 16})

    async def process(ctx):
        for case in cases:
            await (weights if isinstance(case, Weights) else wide)(ctx, case)

    async def run(ctx, case, flags, frame, **fields):
        """Run it between words that keep what they hold; lanes of no tile do so too."""
        m, n = case.x.shape
        tiles, words = -(-n // params.vector), -(-n // params.slots)
        frame = [("quant", DST0 - 1), ("quant", DST0 + words * m), *frame]
        before = [bench.peek(ctx, *word) for word in frame]
        whole = m, words * params.slots
        kept = bench.dump(ctx, "quant", DST0, *whole)[:, tiles * params.vector:]
        taken, clamped = await bench.run(ctx, Opcode.QUANTISE, flags=flags, m=m, n=n, src0=SRC0,
                                         dst0=DST0, arg=case.clip, **fields)
        assert (bench.dump(ctx, "quant", DST0, *whole)[:, tiles * params.vector:] == kept).all()
        assert [bench.peek(ctx, *word) for word in frame] == before
        assert clamped == 0
        return taken, bench.dump(ctx, "quant", DST0, m, n)

    async def weights(ctx, case):
        m, n = case.x.shape
        tiles = -(-n // params.vector)
        bench.load(ctx, "master", SRC0, case.x)
        frame = [("wide", DST1 - 1), ("wide", DST1 + len(ScaleRow) * tiles)]
        frame += [("wide", DST1 + len(ScaleRow) * tile + ScaleRow.BIAS) for tile in range(tiles)]
        taken, q = await run(ctx, case, QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN, frame,
                             dst1=DST1)
        expected, mantissa = quantise_weights(case.x, params.bits, case.clip)
        scale = bench.dump(ctx, "wide", DST1, len(ScaleRow), n)
        assert scale[ScaleRow.FACTOR].tolist() == mantissa.tolist()
        assert scale[ScaleRow.EXPONENT].tolist() == expected.exponent.tolist()
        assert (q == expected.q).all()
        assert taken == unit.cycles(m, n, per_column=True, clip=case.clip, master=True)

    async def wide(ctx, case):
        m, n = case.x.shape
        tiles = -(-n // params.vector)
        target = SRC0 + tiles * m + 1
        bench.load(ctx, "wide", SRC0, case.x)
        fields = {}
        if case.scanned:
            state = target + tiles + 1
            fields["src1"] = await scanned(ctx, case, state)
        groups = (params.sample_groups, params.channel_groups) if case.grouped else None
        noise = element_noise(case.key, m, n) if case.key else None
        chosen = {QuantiseFlag.PER_COLUMN: case.per_column, QuantiseFlag.STOCHASTIC: case.key,
                  QuantiseFlag.GROUPED: case.grouped, QuantiseFlag.UNSIGNED: case.unsigned,
                  QuantiseFlag.SCANNED: case.scanned}
        key0, key1 = key_words(case.key or (0,) * 4)
        taken, q = await run(ctx, case, sum(flag for flag, on in chosen.items() if on),
                             [("wide", target - 1), ("wide", target + -(-n // params.vector))],
                             dst1=target, tab1=0, tab2=tab2, key0=key0, key1=key1, **fields)
        expected = quantise(case.x, bits=params.bits, signed=not case.unsigned,
                            per_column=case.per_column, clip=case.clip, noise=noise, groups=groups,
                            scanned=scan(case.x) if case.scanned else None)
        q = q + (case.unsigned << params.bits - 1)
        if case.grouped:
            assert bench.dump_groups(ctx, 0, m).tolist() == expected.rows.tolist()
            assert bench.dump_groups(ctx, tab2, n).tolist() == expected.cols.tolist()
        assert bench.dump(ctx, "wide", target, 1, n)[0].tolist() == expected.exponent.tolist()
        assert (q == expected.q).all()
        assert taken == unit.cycles(m, n, per_column=case.per_column, clip=case.clip,
                                    grouped=case.grouped, scanned=case.scanned)

    async def scanned(ctx, case, state):
        """Scan it; where what was found is."""
        m, n = case.x.shape
        first = int(StateRow.GRAD_BETA)
        rows = np.random.default_rng(m).integers(-1 << 31, 1 << 31, (STATE_ROWS, n))
        bench.load(ctx, "wide", state, rows)
        taken, _ = await bench.run(ctx, Opcode.QUANTISE, flags=QuantiseFlag.SCAN, m=m, n=n,
                                   src0=SRC0, dst1=state + first)
        largest, total = scan(case.x)
        rows[first:first + len(ScanRow)] = largest, total % (1 << SCAN_SHIFT), total >> SCAN_SHIFT
        found = bench.dump(ctx, "wide", state, STATE_ROWS, n)
        assert ((found - rows) % (1 << 32) == 0).all()
        assert taken == unit.cycles(m, n, scan=True)
        return state + first

    bench.simulate(process)
    return unit


def masters(rng, m, n, width=MASTER_BITS):
    """Columns of all sizes and shapes, with zeros and extremes."""
    low, high = LOW >> MASTER_BITS - width, HIGH >> MASTER_BITS - width
    scales = 2.0 ** rng.uniform(-1, width - 1, n)
    # From equal magnitudes to a few outliers.
    shapes = rng.choice([0.01, 0.3, 1, 3, 8], n)
    x = rng.choice([-1, 1], (m, n)) * np.abs(rng.normal(size=(m, n))) ** shapes * scales / 4
    x = np.clip(np.rint(x), low, high).astype(np.int64)
    x[rng.random((m, n)) < 0.05] = 0
    if rng.random() < 0.3:
        x[rng.integers(m), rng.integers(n)] = rng.choice([low, high, 1, -1])
    if rng.random() < 0.2:
        x[:, rng.integers(n)] = 0
    return x


def random_cases(rng, bits, lanes, count, width):
    shapes = [(1, 1), (7, 2 * lanes + 1), (24, lanes), (3, 3 * lanes), (12, max(1, lanes - 1))]
    for k in range(count):
        clip = WEIGHT_CLIP[bits] if k % 2 else int(rng.choice(CLIPS))
        yield Weights(masters(rng, *shapes[k % len(shapes)], width), clip)


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", WIDTHS)
def test_weights_equal_the_model(bits, lanes, width):
    rng = np.random.default_rng([bits, lanes, width])
    check(made(bits, lanes, width=width), list(random_cases(rng, bits, lanes, 10, width)))


@pytest.mark.regress
@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("width", WIDTHS)
def test_more_weights_equal_the_model(bits, lanes, width):
    rng = np.random.default_rng([bits, lanes, width, 1])
    check(made(bits, lanes, width=width), list(random_cases(rng, bits, lanes, 30, width)))


EXTREMES = {
    "all zero": np.zeros((3, 5)),
    "all lowest": np.full((3, 5), LOW),
    "all highest": np.full((3, 5), HIGH),
    "all one": np.full((4, 5), 1),
    "all minus one": np.full((4, 5), -1),
    "one element": [[-5]],
    "the lowest alone": [[LOW]],
    "ones and zeros": [[1, -1, 0, 0, 1], [0, 1, 0, -1, 1], [0, 0, 0, 0, 1]],
    "outliers": [[1, -2, LOW, 0, 3], [HIGH, 5, -4, 0, 7], [2, LOW, 1, 1, 0]],
    "around quarters": [[3, 4, 5, 6, 7], [1791, 1792, 1793, -1791, -1792],
                        [1536, 1537, 1535, -1280, -1281]],
    "columns of one": [[LOW, HIGH, 7 << 17, 6 << 17, 5 << 17]],
}


@pytest.mark.parametrize(("bits", "lanes"), [(8, 2), (2, 3), (4, 8)])
@pytest.mark.parametrize("width", WIDTHS)
def test_extremes(bits, lanes, width):
    # The ends of narrower masters are those of these.
    low, high = LOW >> MASTER_BITS - width, HIGH >> MASTER_BITS - width
    check(made(bits, lanes, width=width), [
        Weights(np.clip(np.array(x).astype(np.int64), low, high), clip)
        for x in EXTREMES.values() for clip in (0, 10, 255)])


@pytest.mark.parametrize("width", WIDTHS)
def test_most_rows(width):
    """A sum that needs all its bits, and a column of all sizes."""
    x = np.full((MAX_K, 2), LOW >> MASTER_BITS - width)
    x[:, 1] = masters(np.random.default_rng(0), MAX_K, 1, width)[:, 0]
    # With 2 bits the mantissa is 4, so that masters are no smaller over it.
    check(made(2, 2, width=width), [Weights(x, 255)])


@pytest.mark.parametrize("rows", [MAX_M + 2, pytest.param(MAX_K, marks=pytest.mark.regress)])
@pytest.mark.parametrize("groups", [(1, 1), (4, 4)])
def test_more_rows_than_a_product_has(rows, groups):
    """In every mode: sums of the largest, noise of the last rows, groups of rows of all sizes."""
    lowest = np.full((rows, 1), LOW << 8)
    x = np.concatenate([lowest >> np.arange(rows)[:, None] % 32, lowest], axis=1)
    cases = [Wide(lowest, clip=255, per_column=True), Wide(lowest, clip=255, key=KEY),
             Wide(lowest, clip=255, scanned=True), Wide(-lowest - 1, clip=9, unsigned=True),
             Wide(x, key=KEY)]
    if max(groups) > 1:
        cases += [Wide(x, grouped=True, key=KEY), Wide(x, grouped=True, key=KEY, scanned=True)]
    check(made(4, 1, groups), cases)


@pytest.mark.parametrize(("lanes", "memory", "elements"), [
    (1, 4, 1 << 12), (8, 32, 1 << 15), (4, 128, 1 << 17), (1, 64, MAX_K * MAX_N)])
def test_sums_are_as_wide_as_those_of_a_full_memory(lanes, memory, elements):
    params = replace(made(4, lanes), memory=memory)
    unit, high = check(params, [Wide(np.ones((1, 1), np.int64))]), 1 << 31
    assert unit.columns.total_bits == (elements // lanes * high).bit_length()
    assert unit.columns.total_bits >= unit.column_scale.sum_bits
    assert len(unit.reduction.total) == len(unit.scale.total) == (elements * high).bit_length()
    assert len(unit.scale.count) == elements.bit_length()


def test_a_tensor_that_fills_the_memory():
    """Its sums need all their bits, those of a lane and of all."""
    params = replace(made(4, 2), memory=4)
    x = np.full((params.wide_words // 2, 4), -1 << 31)
    assert x.size == params.tensor_words * params.vector == 4096
    check(params, [Wide(x, clip=255), Wide(x, clip=255, scanned=True)])


@pytest.mark.parametrize(("lanes", "groups"), [(2, (1, 1)), (3, (4, 4))])
def test_other_modes_go_on(lanes, groups):
    """Between weights, tensors in the modes that there are without masters."""
    rng = np.random.default_rng(lanes)
    wide = masters(rng, 9, 2 * lanes + 1) << 7
    cases = [Weights(masters(rng, 6, lanes + 1), 10), Wide(wide), Wide(wide, clip=9, key=KEY),
             Weights(masters(rng, 9, 3), 0), Wide(wide, clip=14, per_column=True),
             Wide(wide, per_column=True, key=KEY), Weights(masters(rng, 2, 2 * lanes), 36)]
    if groups != (1, 1):
        cases += [Wide(wide, grouped=True, key=KEY), Weights(masters(rng, 5, 2), 10)]
    check(made(4, lanes, groups), cases)


def test_a_tile_takes_little_more_than_three_passes():
    """Of which the last takes three clocks for two rows. A run of a few rows says what more rows
    take."""
    unit = check(made(4, 8), [Weights(np.ones((1, 8), np.int64), 10)])
    passes = 3 * 784 + 784 // 2
    assert passes < unit.cycles(784, 8, per_column=True, clip=10, master=True) < 1.06 * passes


@pytest.mark.parametrize(("a_bits", "b_bits", "bits", "window"),
                         [(36, 11, 46, 22), (36, 11, 46, 16), (19, 3, 22, 5), (20, 2, 22, 22)])
def test_normalised_products(a_bits, b_bits, bits, window):
    dut = NormalisedProduct(a_bits, b_bits, bits, window)
    rng = np.random.default_rng(bits)
    pairs = [(0, 0), (1, 1), (0, 1), ((1 << bits) // 3 // 2, 2)]
    for places in range(bits):
        for product in {1 << places, (1 << places) + 1, (2 << places) - 1}:
            for b in (1, int(rng.integers(1, 1 << b_bits))):
                pairs += [(product // b, b)]
    pairs = [(a, b) for a, b in pairs if a < 1 << a_bits and a * b < 1 << bits]

    async def bench(ctx):
        for cycle in range(len(pairs) + dut.latency):
            a, b = pairs[min(cycle, len(pairs) - 1)]
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            if cycle >= dut.latency:
                a, b = pairs[cycle - dut.latency]
                product = a * b
                got = ctx.get(dut.fraction)
                if product == 0:
                    assert got == 0
                else:
                    away = bits - product.bit_length()
                    shifted = product << away
                    assert (ctx.get(dut.away), got) == (away, shifted >> bits - window)
                    assert ctx.get(dut.rest) == (shifted % (1 << bits - window) > 0)
            await ctx.tick()

    simulate(dut, bench)


def expected_mantissas(columns, rows, bits, clip):
    """Of columns given by their maxima and sums, from the definition in whole numbers."""
    top = 2 ** (bits - 1) - 1
    found = []
    for largest, total in columns:
        if not largest:
            found.append(4)
            continue
        # Scales in ascending order, m / 4 * 2**e; everything times 2**40.
        steps = ((m, e) for e in range(-40, 60) for m in range(4, 8))
        found.append(next(m for m, e in steps if top * m << 40 + e >= 4 * largest << 40 or (
            clip and 4 * rows * top * m << 40 + e >= 4 * clip * total << 40)))
    return found


@pytest.mark.parametrize(("bits", "lanes", "width"), [
    (2, 3, MASTER_BITS), (3, 1, MASTER_BITS), (8, 3, MASTER_BITS), (4, 2, 16)])
def test_column_scales_equal_the_model(bits, lanes, width):
    """At every turn of a mantissa and of an exponent, for maxima and for sums; and the widest."""
    dut = ColumnScale(bits, lanes, width)
    top = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(bits)
    high = 1 << width - 1
    assert dut.sum_bits == (MAX_K * high).bit_length()
    columns = {}
    for clip in (0, 1, WEIGHT_CLIP[bits], 255):
        for rows in (1, 3, 96, MAX_K - 1, MAX_K):
            chosen = [(0, 0), (1, 1), (1, rows), (high, high), (high, rows * high)]
            # Turns of the maximum; a sum which lets it decide.
            turns = [top * m << e >> 5 for m in range(4, 8) for e in (3, 4, 9, width - 2)]
            turns += [(8 * top << e) // 7 for e in (0, 3, 16)]
            maxima = [turn + d for turn in rng.choice(turns, 9) for d in (0, 1)]
            chosen += [(int(a), int(a) * rows) for a in maxima if 0 < a <= high]
            # The smallest product that needs all bits, if it may.
            most = (8 * clip * rows * high).bit_length() - 1
            chosen += [(high, (1 << most) // (8 * clip) + 1)] if clip else []
            # Turns of the sum, under a maximum that does not.
            if clip:
                for m in rng.choice([4, 5, 6, 7], 4):
                    e = int(rng.integers(0, width - 2))
                    for turn in (rows * top * int(m) << e, (32 * rows * top << e) // 7):
                        total = turn // clip
                        chosen += [(min(high, max(1, total)), sums) for sums in (total, total + 1)
                                   if 0 < sums <= rows * high]
            for _ in range(4):
                largest = int(2 ** rng.uniform(0, width - 1))
                rest = largest * (rows - 1) * 2 ** rng.uniform(-12, 0)
                chosen.append((largest, largest + int(rest)))
            chosen += [(high, high)] * (-len(chosen) % lanes)
            columns[clip, rows] = chosen

    async def find(ctx, group, exponents, pause):
        """What the lanes get, which answer picks as :class:`hdl.quantise.reduction.Reduction`."""
        found = [None] * lanes
        lane, picked, issued, cycle, last = 0, [0] * (dut.PICK_LATENCY + 1), 0, 0, None
        while True:
            step = issued < dut.steps and not (pause and cycle % 3 == 1)
            ctx.set(dut.step, step)
            if ctx.get(dut.restart):
                lane = 0
            picked = [lane % lanes, *picked[:-1]]
            lane += ctx.get(dut.pick)
            largest, total = group[picked[dut.PICK_LATENCY]]
            ctx.set(dut.largest, largest)
            ctx.set(dut.total, total)
            for k in range(lanes):
                if ctx.get(dut.load) >> k & 1:
                    found[k] = ctx.get(dut.exponent if exponents else dut.mantissa)
            issued += step
            if step:
                last = cycle
            if ctx.get(dut.done):
                assert issued == dut.steps and cycle - last == dut.latency
                break
            await ctx.tick()
            cycle += 1
            assert cycle < 200
        await ctx.tick()
        return found

    async def bench(ctx):
        for (clip, rows), chosen in columns.items():
            ctx.set(dut.clip, clip)
            ctx.set(dut.rows, rows)
            for exponents in (0, 1):
                ctx.set(dut.exponents, exponents)
                await ctx.tick()
                await ctx.tick()
                for k in range(0, len(chosen), lanes):
                    group = chosen[k:k + lanes]
                    if exponents:
                        maxima, sums = np.array(group, np.int64).T
                        want = scale_exponent(maxima, sums, rows, top, clip).tolist()
                    else:
                        want = expected_mantissas(group, rows, bits, clip)
                    got = await find(ctx, group, exponents, k == lanes)
                    assert got == want, (group, rows, clip, exponents)

    simulate(dut, bench)


def test_mantissas_by_definition_are_those_of_the_model():
    rng = np.random.default_rng(5)
    for bits in (2, 3, 4, 8):
        for clip in CLIPS:
            x = masters(rng, 11, 20)
            a = np.abs(x)
            columns = list(zip(a.max(axis=0).tolist(), a.sum(axis=0).tolist(), strict=True))
            assert expected_mantissas(columns, 11, bits, clip) == (
                normalise_columns(x, bits, clip)[1].tolist())


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_masters_over_their_mantissas(lanes, width):
    dut = Masters(made(4, lanes, width=width))
    rng = np.random.default_rng(lanes)
    low, high = LOW >> MASTER_BITS - width, HIGH >> MASTER_BITS - width
    x = np.concatenate([np.full((1, lanes), low), np.full((1, lanes), high),
                        rng.integers(low, high + 1, (40, lanes)), rng.integers(-9, 9, (9, lanes))])

    async def bench(ctx):
        mantissas = np.full(lanes, 4)
        for turn in range(6):
            # Load them one by one, and at the end begin anew.
            for k in range(lanes):
                mantissas[k] = 4 if turn in (0, 5) else 4 + (turn + k) % 4
                ctx.set(dut.load, 1 << k if turn < 5 else 0)
                ctx.set(dut.clear, turn == 5)
                ctx.set(dut.mantissa, int(mantissas[k]))
                await ctx.tick()
            ctx.set(dut.load, 0)
            ctx.set(dut.clear, 0)
            assert [ctx.get(dut.mantissas[k]) for k in range(lanes)] == mantissas.tolist()
            late = dut.LATENCY - 3
            for cycle in range(len(x) + late):
                ctx.set(dut.arrived, cycle < len(x))
                for k in range(lanes):
                    ctx.set(dut.master_r.data[k], int(x[min(cycle, len(x) - 1), k]))
                if cycle >= late:
                    want = x[cycle - late] * INVERSE[mantissas] >> 16
                    assert [ctx.get(dut.x[k]) for k in range(lanes)] == want.tolist()
                await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize(("bits", "lanes", "groups"), [
    (4, 2, (1, 4)), (3, 1, (2, 8)), (8, 3, (1, 1)), (2, 4, (4, 2))])
def test_a_scan_before_gives_the_same(bits, lanes, groups):
    """With groups of channels, with a clip, of one sign, in any order; all rows in group 0."""
    rng = np.random.default_rng([bits, lanes])
    cases = []
    for m, n in ((1, 1), (5, 2 * lanes + 1), (9, lanes)):
        x = masters(rng, m, n) << rng.integers(0, 8)
        grouped = Wide(x, grouped=True, scanned=True, key=KEY)
        cases += [Wide(np.abs(x), clip=20, unsigned=True, scanned=True),
                  *([grouped, Wide(x), grouped] if max(groups) > 1 else []),
                  Wide(x, clip=255, scanned=True), Wide(x, scanned=True, key=KEY)]
    cases += [Wide(np.zeros((3, 2), np.int64), clip=clip, scanned=True) for clip in (0, 7)]
    cases += [Wide(np.full((3, 2 * lanes), -1 << 31), clip=clip, scanned=True) for clip in (0, 9)]
    check(made(bits, lanes, groups), cases)
    plain = [quantise(case.x, bits=bits, signed=not case.unsigned, clip=case.clip,
                      groups=(1, groups[1]) if case.grouped else None,
                      noise=element_noise(KEY, *case.x.shape) if case.key else None)
             for case in cases]
    for case, expected in zip(cases, plain, strict=True):
        found = quantise(case.x, bits=bits, signed=not case.unsigned, clip=case.clip,
                         groups=(1, groups[1]) if case.grouped else None, scanned=scan(case.x),
                         noise=element_noise(KEY, *case.x.shape) if case.key else None)
        assert (found.q == expected.q).all() and (found.exponent == expected.exponent).all()


def test_a_scan_of_most_rows():
    """Its sums need all their bits."""
    x = np.full((MAX_K, 3), -1 << 31)
    x[:, 1] = 1
    check(made(4, 2), [Wide(x, clip=255, scanned=True)])

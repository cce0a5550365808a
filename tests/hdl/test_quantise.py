"""hdl.quantise against sim.model.quantise."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdl.instructions import Opcode, QuantiseFlag
from hdl.params import MAX_M, MAX_N, Params
from hdl.quantise import Quantiser
from hdl.quantise.exponent import ScaleExponent, sum_bits
from hdl.quantise.groups import GroupChoice, Maximum
from hdl.quantise.lane import FRACTION, Lane
from sim.model.noise import element_noise, key_words
from sim.model.quantise import largest_group, quantise, round_code, scale_exponent
from tests.support.memories import UnitBench

LOW, HIGH = -(2**31), 2**31 - 1
KEY = (0x0123, 0x4567, 0x89AB, 0xCDEF)
SRC0, DST0, DST1, TAB1, TAB2 = 5, 9, 1100, 7, 600


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tensor and what to do with it."""
    x: np.ndarray
    signed: bool = True
    per_column: bool = False
    clip: int = 0
    key: tuple | None = None
    grouped: bool = False

    @property
    def flags(self):
        chosen = {QuantiseFlag.UNSIGNED: not self.signed, QuantiseFlag.PER_COLUMN: self.per_column,
                  QuantiseFlag.STOCHASTIC: self.key, QuantiseFlag.GROUPED: self.grouped}
        return sum(flag for flag, on in chosen.items() if on)

    def expected(self, params):
        noise = None
        if self.key:
            noise = element_noise(self.key, *self.x.shape)
        groups = (params.sample_groups, params.channel_groups) if self.grouped else None
        return quantise(self.x, bits=params.bits, signed=self.signed, noise=noise, groups=groups,
                        per_column=self.per_column, clip=self.clip)


def simulate(dut, process):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def check(params, cases):
    """Every case, one after the other on one unit, gives the model's tensor, and nothing else."""
    unit = Quantiser(params)
    bench = UnitBench(unit, params,
                      words={"wide": 2048, "quant": 2048, "group": 1024, "order": 16})

    async def process(ctx):
        for case in cases:
            await execute(ctx, case)

    async def execute(ctx, case):
        m, n = case.x.shape
        tiles, words = -(-n // params.vector), -(-n // params.slots)
        bench.load(ctx, "wide", SRC0, case.x)
        frame = [("quant", DST0 - 1), ("quant", DST0 + words * m), ("wide", DST1 - 1),
                 ("wide", DST1 + tiles), ("group", TAB1 - 1), ("group", TAB1 + m),
                 ("group", TAB2 - 1), ("group", TAB2 + n)]
        assert TAB1 + m < TAB2 - 1 and SRC0 + tiles * m < DST1 - 1
        before = [bench.peek(ctx, *word) for word in frame]
        # Lanes of no tile.
        whole = m, words * params.slots
        kept = bench.dump(ctx, "quant", DST0, *whole)[:, tiles * params.vector:]
        key0, key1 = key_words(case.key or (0xFFFF,) * 4)
        cycles, clamped = await bench.run(
            ctx, Opcode.QUANTISE, flags=case.flags, m=m, n=n, src0=SRC0, dst0=DST0, dst1=DST1,
            tab1=TAB1, tab2=TAB2, arg=case.clip, key0=key0, key1=key1)
        expected = case.expected(params)
        assert bench.dump(ctx, "wide", DST1, 1, n)[0].tolist() == expected.exponent.tolist()
        if case.grouped:
            assert bench.dump_groups(ctx, TAB1, m).tolist() == expected.rows.tolist()
            assert bench.dump_groups(ctx, TAB2, n).tolist() == expected.cols.tolist()
        stored = expected.q if case.signed else expected.q - (1 << params.bits - 1)
        assert (bench.dump(ctx, "quant", DST0, m, n) == stored).all()
        assert (bench.dump(ctx, "quant", DST0, *whole)[:, tiles * params.vector:] == kept).all()
        assert [bench.peek(ctx, *word) for word in frame] == before
        assert clamped == 0
        assert cycles == unit.cycles(m, n, per_column=case.per_column, clip=case.clip,
                                     grouped=case.grouped)

    bench.simulate(process)


def tensor(rng, m, n):
    """Elements of all sizes: rows and columns of different scale, zeros and extremes."""
    scale = 2.0 ** rng.integers(0, 31)
    scales = scale * 2.0 ** (-rng.uniform(0, 8, (m, 1)) - rng.uniform(0, 8, (1, n)))
    x = np.clip(np.rint(rng.normal(size=(m, n)) * scales), LOW, HIGH).astype(np.int64)
    x[rng.random((m, n)) < 0.05] = 0
    if rng.random() < 0.2:
        x[rng.integers(m), rng.integers(n)] = rng.choice([LOW, HIGH, 1, -1])
    if rng.random() < 0.2:
        x[rng.integers(m)] = 0
    if rng.random() < 0.2:
        x[:, rng.integers(n)] = 0
    return x


def random_cases(rng, count, shapes, grouped):
    """Random cases in every mode."""
    for k in range(count):
        m, n = shapes[k % len(shapes)]
        key = tuple(int(word) for word in rng.integers(0, 1 << 16, 4))
        common = {"x": tensor(rng, m, n), "key": key if rng.random() < 0.6 else None}
        if grouped and k % 2:
            yield Case(**common, grouped=True)
        else:
            yield Case(**common, signed=bool(rng.random() < 0.5),
                       per_column=bool(rng.random() < 0.5),
                       clip=int(rng.choice([0, 1, 6, 14, 48, 255])))


@pytest.mark.parametrize(("bits", "vector", "array", "groups"), [
    (4, 3, (3, 2), (1, 1)), (2, 2, (1, 2), (1, 4)), (3, 1, (3, 1), (4, 1)), (5, 3, (9, 1), (4, 4)),
    (8, 2, (2, 4), (8, 2)), (4, 3, (4, 3), (8, 8)), (8, 8, (4, 4), (2, 8)), (6, 5, (5, 1), (1, 2)),
    (7, 12, (3, 4), (2, 1)), (4, 1, (4, 4), (4, 4))],
    ids=lambda value: f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value))
def test_tensors_equal_the_model(bits, vector, array, groups):
    rng = np.random.default_rng([bits, vector, *groups])
    params = Params(bits=bits, rows=array[0], cols=vector, depth=array[1], lanes=vector,
                    sample_groups=groups[0], channel_groups=groups[1])
    shapes = [(1, 1), (1, 7), (7, 1), (5, 6), (12, 5), (3, 19)]
    check(params, random_cases(rng, 9, shapes, grouped=groups != (1, 1)))


EXTREMES = {
    "all zero": np.zeros((3, 3)),
    "all lowest": np.full((3, 3), LOW),
    "lowest and highest": [[LOW, HIGH, LOW + 1], [HIGH - 1, LOW, HIGH], [0, 1, -1]],
    "ones": [[1, -1, 1], [0, 1, -1], [1, 1, 0]],
    "one one": [[0, 0, 0], [0, -1, 0], [0, 0, 0]],
    "outlier": [[1, -2, 3], [HIGH, 5, -4], [2, 7, -1]],
    "powers of two": [[1 << 30, 1 << 29, 1 << 28], [1 << 27, -(1 << 24), 1 << 23], [8, -4, 2]],
    "below powers of two": [[(1 << 30) - 1, (1 << 29) - 1, 1], [-7, 15, 31], [3, 0, -127]],
}


@pytest.mark.parametrize(("name", "bits"), list(zip(EXTREMES, (8, 2) * 4, strict=True)))
def test_extremes(name, bits):
    x = np.array(EXTREMES[name]).astype(np.int64)
    check(Params(lanes=0, bits=bits, cols=2), [
        Case(x=x, key=KEY),
        Case(x=x, signed=False, clip=1),
        Case(x=x, signed=False, per_column=True, key=KEY),
        Case(x=x, per_column=True, clip=2),
        Case(x=x, grouped=True, key=KEY),
    ])


def test_most_rows():
    params = Params(lanes=0, cols=2, sample_groups=8, channel_groups=8)
    check(params, [
        Case(x=tensor(np.random.default_rng(0), MAX_M, 1), grouped=True, key=KEY),
        # Sums that are wider than those of one column, in a lane and in all.
        Case(x=np.full((MAX_M, 3), (LOW, 1 << 30, 1 << 30)), clip=1),
    ])


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("unsigned", [False, True])
def test_every_shift_rounds_turns_and_clamps_where_it_should(bits, unsigned):
    """Codes with every exponent; noise just below and just at where a code becomes the next."""
    dut = Lane(bits, 40, 8)
    top = 2**bits - 1 if unsigned else 2 ** (bits - 1) - 1
    rng = np.random.default_rng(bits)
    cases = []
    for exponent in range(-bits - 7, 32):
        for group in (0, 1, 14):
            shift = group - exponent
            # Magnitudes around the largest code and a half, of all sizes, and the extremes.
            around = int(top * 2.0**-shift)
            some = {0, 1, around - 1, around, around + 1, around // 2, around // 2 + 1, 2**31,
                    int(2 ** rng.uniform(0, 31))}
            if group > max(bits + exponent, 0):
                # Nothing but zeros is doubled beyond that.
                some = {0}
            for magnitude in some:
                for x in {min(magnitude, HIGH), -magnitude}:
                    if LOW <= x <= HIGH:
                        fraction = int(round_code(x, shift + 17)) % (1 << 17) if shift < 0 else (
                            (x << min(shift, 60) + 17) % (1 << 17))
                        turn = (1 << 17) - 1 - fraction + 1 >> 1
                        for noise in {None, max(turn - 1, 0), turn & 0xFFFF}:
                            cases.append((x, exponent, group, noise))

    async def bench(ctx):
        ctx.set(dut.active, 1)
        ctx.set(dut.unsigned, unsigned)
        for x, exponent, group, noise in cases:
            ctx.set(dut.x, x)
            ctx.set(dut.exponent, exponent)
            ctx.set(dut.group, group)
            ctx.set(dut.stochastic, noise is not None)
            ctx.set(dut.noise, noise or 0)
            for _ in range(dut.LATENCY):
                await ctx.tick()
            code = int(np.clip(round_code(x, group - exponent, noise),
                               0 if unsigned else -top, top))
            assert ctx.get(dut.q) == code - (unsigned << bits - 1), (x, exponent, group, noise)

    simulate(dut, bench)
    assert {noise is None for *_, noise in cases} == {False, True}
    # Half of all z are odd and reach the next code only with the half LSB.
    assert FRACTION == 17


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("count", [MAX_M, MAX_M * MAX_N])
def test_exponents_equal_the_model(bits, count):
    dut = ScaleExponent(bits, count)
    rng = np.random.default_rng(bits)
    high = 2**31
    assert sum_bits(count) == (count * high).bit_length()
    # Largest magnitude, sum, count and clip; the worst cases, and then random ones.
    cases = [(high, high * count, count, 255), (high, high * count, count, 0), (high, high, 1, 255),
             # The narrowest product that needs all bits.
             (high, (1 << (high * count * 1785).bit_length() - 1) // 1785 + 1, count, 255),
             (high, high, count, 1), (1, count, count, 255), (1, 1, count, 1),
             (0, 0, 1, 3), (0, 0, count, 0), (1, 1, count, 255), (1, 1, 1, 1), (1, 1, 1, 0)]
    # Where the exponent turns, of the maximum and of the sum.
    for top in (2**bits - 1, 2 ** (bits - 1) - 1):
        for clip in (0, 5):
            limits = [top << e for e in (0, 1, 20)] + [(8 * top << e) // 7 for e in (0, 1, 4, 22)]
            cases += [(largest, largest * 3, 3, clip * 20) for limit in limits
                      for largest in (limit - 1, limit, limit + 1) if 0 < largest <= high]
            cases += [(2**30, total, 96, 7 + clip) for e in (4, 11, 17, 20)
                      for turn in [(32 * 96 * top << e) // (7 * (7 + clip))]
                      for total in (turn - 1, turn, turn + 1)]
    for _ in range(30):
        elements = int(rng.integers(1, count + 1))
        largest = int(2 ** rng.uniform(0, 31))
        total = largest + int(largest * (elements - 1) * 2 ** rng.uniform(-12, 0))
        cases.append((largest, total, elements, int(rng.choice([0, 1, 3, 14, 48, 255]))))

    async def bench(ctx):
        for k, (largest, total, elements, clip) in enumerate(2 * cases):
            unsigned = k >= len(cases)
            inputs = {"largest": largest, "total": total, "count": elements, "clip": clip,
                      "unsigned": unsigned, "start": 1}
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            ctx.set(dut.start, 0)
            latency = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                latency += 1
            assert latency == dut.latency(clip)
            top = 2**bits - 1 if unsigned else 2 ** (bits - 1) - 1
            assert ctx.get(dut.exponent) == scale_exponent(largest, total, elements, top, clip), (
                largest, total, elements, clip, unsigned)

    simulate(dut, bench)


@pytest.mark.parametrize("lanes", [2, 5, 8])
def test_maximum_of_the_lanes(lanes):
    dut = Maximum(lanes)
    rows = np.random.default_rng(lanes).integers(0, 2**31 + 1, (20, lanes))

    async def bench(ctx):
        for cycle in range(len(rows) + dut.latency):
            for lane, value in enumerate(rows[min(cycle, len(rows) - 1)]):
                ctx.set(dut.i[lane], int(value))
            await ctx.delay(1e-9)
            if cycle >= dut.latency:
                assert ctx.get(dut.o) == rows[cycle - dut.latency].max()
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_group_choices_equal_the_model(bits, groups):
    """From a magnitude through a lane's reach to its group, at every limit."""
    lane, dut = Lane(bits, 40, groups), GroupChoice(bits, groups)
    top = 2 ** (bits - 1) - 1
    cases = []
    for exponent in (1 - bits, 0, 1, 9, 31 - (bits - 1)):
        limits = {int(top * 2.0 ** (exponent - g)) for g in range(groups + 1)}
        for magnitude in {limit + d for limit in limits for d in (-1, 0, 1)} | {0, 1}:
            if 0 <= magnitude <= min(top * 2.0**exponent, 2**31):
                cases.append((magnitude, exponent))

    m = Module()
    m.submodules += lane, dut
    m.d.comb += dut.reach.eq(lane.reach)

    async def bench(ctx):
        ctx.set(lane.active, 1)
        for magnitude, exponent in cases:
            for most in (0, groups - 1):
                ctx.set(lane.x, -magnitude)
                ctx.set(lane.exponent, exponent)
                ctx.set(dut.most, most)
                for _ in range(lane.REACH_LATENCY + dut.LATENCY):
                    await ctx.tick()
                assert ctx.get(dut.group) == largest_group(magnitude, exponent, top, most + 1)

    simulate(m, bench)

"""hdl.quantise against sim.model.quantise."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.params import MAX_M, MAX_N, Params
from hdl.protocol import Opcode, QuantiseFlag
from hdl.quantise import Quantiser
from hdl.quantise.groups import GroupChoice, Maximum
from hdl.quantise.lane import FRACTION, Lane
from hdl.quantise.scale import Scale
from sim.model.noise import bits16, key_words
from sim.model.quantise import largest_group, quantise, reciprocal
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
            noise = bits16(self.key, np.arange(self.x.size)).reshape(self.x.shape)
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
        tiles = -(-n // params.cols)
        bench.load(ctx, "wide", SRC0, case.x)
        frame = [("quant", DST0 - 1), ("quant", DST0 + tiles * m), ("wide", DST1 - 1),
                 ("wide", DST1 + tiles), ("group", TAB1 - 1), ("group", TAB1 + m),
                 ("group", TAB2 - 1), ("group", TAB2 + n)]
        assert TAB1 + m < TAB2 - 1 and SRC0 + tiles * m < DST1 - 1
        before = [bench.peek(ctx, *word) for word in frame]
        key0, key1 = key_words(case.key or (0xFFFF,) * 4)
        cycles, clamped = await bench.run(
            ctx, Opcode.QUANTISE, flags=case.flags, m=m, n=n, src0=SRC0, dst0=DST0, dst1=DST1,
            tab1=TAB1, tab2=TAB2, arg=case.clip, key0=key0, key1=key1)
        expected = case.expected(params)
        assert bench.dump(ctx, "wide", DST1, 1, n)[0].tolist() == expected.range.tolist()
        if case.grouped:
            assert bench.dump_groups(ctx, TAB1, m).tolist() == expected.rows.tolist()
            assert bench.dump_groups(ctx, TAB2, n).tolist() == expected.cols.tolist()
        stored = expected.q if case.signed else expected.q - (1 << params.bits - 1)
        assert (bench.dump(ctx, "quant", DST0, m, n) == stored).all()
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
                       clip=int(rng.choice([0, 1, 6, 14, 255])))


@pytest.mark.parametrize(("bits", "cols", "groups"), [
    (4, 3, (1, 1)), (2, 2, (1, 4)), (3, 1, (4, 1)), (5, 3, (4, 4)), (8, 2, (8, 2)),
    (4, 3, (8, 8)), (8, 8, (2, 8))],
    ids=lambda value: f"{value[0]}x{value[1]}" if isinstance(value, tuple) else str(value))
def test_tensors_equal_the_model(bits, cols, groups):
    rng = np.random.default_rng([bits, cols, *groups])
    params = Params(bits=bits, cols=cols, sample_groups=groups[0], channel_groups=groups[1])
    shapes = [(1, 1), (1, 7), (7, 1), (5, 6), (12, 5)]
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
    check(Params(bits=bits, cols=2), [
        Case(x=x, key=KEY),
        Case(x=x, signed=False, clip=1),
        Case(x=x, signed=False, per_column=True, key=KEY),
        Case(x=x, per_column=True, clip=2),
        Case(x=x, grouped=True, key=KEY),
    ])


def test_most_rows():
    params = Params(cols=2, sample_groups=8, channel_groups=8)
    check(params, [
        Case(x=tensor(np.random.default_rng(0), MAX_M, 1), grouped=True, key=KEY),
        # Sums that are wider than those of one column, in a lane and in all.
        Case(x=np.full((MAX_M, 3), (LOW, 1 << 30, 1 << 30)), clip=1),
    ])


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_stochastic_rounding_turns_where_it_should(bits):
    """The noise just below and just at the point where a code becomes the next one."""
    dut = Lane(bits, 40)
    limit = 1_000_003
    inverse, shift = (int(v) for v in reciprocal(limit, bits, 2 ** (bits - 1) - 1))
    x = np.random.default_rng(bits).integers(-limit, limit + 1, 30)
    z = (x << shift) * inverse >> 29 - bits
    point = (1 << FRACTION) - 1 - z % (1 << FRACTION)
    noise = np.stack([np.maximum((point + 1) // 2 - 1, 0), (point + 1) // 2 % (1 << 16)])
    expected = z + 2 * noise + 1 >> FRACTION
    # Half of all z are odd and reach the next code only with the half LSB.
    assert (expected != z + 2 * noise >> FRACTION).any()

    async def bench(ctx):
        ctx.set(dut.scaling, {"limit": limit, "inverse": inverse, "shift": shift})
        ctx.set(dut.stochastic, 1)
        ctx.set(dut.active, 1)
        for k, value in enumerate(x):
            for row in range(2):
                ctx.set(dut.x, int(value))
                ctx.set(dut.noise, int(noise[row, k]))
                for _ in range(dut.LATENCY):
                    await ctx.tick()
                assert ctx.get(dut.q) == expected[row, k]

    simulate(dut, bench)


@pytest.mark.parametrize("count", [MAX_M, MAX_M * MAX_N])
@pytest.mark.parametrize("bits", [2, 8])
def test_scalings_equal_the_model(bits, count):
    dut = Scale(bits, count)
    rng = np.random.default_rng(bits)
    # Largest magnitude, sum, count and clip; the worst case, and then random ones.
    cases = [(HIGH, HIGH * count, count, 255), (HIGH, HIGH * count, count, 0), (HIGH, HIGH, 1, 255),
             # The narrowest product that needs all bits.
             (HIGH, (1 << (HIGH * count * 255).bit_length() - 1) // 255 + 1, count, 255),
             (0, 0, 1, 3), (1, 1, count, 255), (1, 1, 1, 1), (1 << 30, 1 << 30, 2, 4)]
    for _ in range(12):
        elements = int(rng.integers(1, count + 1))
        largest = int(2 ** rng.uniform(0, 31))
        total = largest + int(rng.integers(0, largest * (elements - 1) + 1))
        cases.append((largest, total, elements, int(rng.choice([0, 3, 14, 255]))))

    async def bench(ctx):
        for k, (largest, total, elements, clip) in enumerate(cases):
            signed = k % 2
            inputs = {"largest": largest, "total": total, "count": elements, "clip": clip,
                      "unsigned": not signed, "start": 1}
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            ctx.set(dut.start, 0)
            latency = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                latency += 1
            assert latency == dut.latency(clip)
            limit = largest
            if clip and largest:
                limit = max(min(largest, total * clip // (4 * elements)), 1)
            inverse, shift = reciprocal(limit, bits, 2 ** (bits - 1) - 1 if signed else 2**bits - 1)
            scaling = ctx.get(dut.scaling)
            assert (scaling.limit, scaling.inverse, scaling.shift) == (limit, inverse, shift)

    simulate(dut, bench)


@pytest.mark.parametrize("lanes", [2, 5, 8])
def test_maximum_of_the_lanes(lanes):
    dut = Maximum(lanes)
    rows = np.random.default_rng(lanes).integers(0, 2**31, (20, lanes))

    async def bench(ctx):
        for cycle in range(len(rows) + dut.latency):
            for lane, value in enumerate(rows[min(cycle, len(rows) - 1)]):
                ctx.set(dut.i[lane], int(value))
            await ctx.delay(1e-9)
            if cycle >= dut.latency:
                assert ctx.get(dut.o) == rows[cycle - dut.latency].max()
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_group_choices_equal_the_model(groups):
    dut = GroupChoice(groups)
    cases = [(magnitude, limit) for limit in range(34) for magnitude in range(limit + 1)]
    cases += [(HIGH >> shift, HIGH) for shift in range(9)]
    cases += [((HIGH >> shift) + 1, HIGH) for shift in range(1, 9)]

    async def bench(ctx):
        for k, (magnitude, limit) in enumerate(cases):
            most = groups - 1 if k % 2 else 0
            ctx.set(dut.magnitude, magnitude)
            ctx.set(dut.limit, limit)
            ctx.set(dut.most, most)
            for _ in range(dut.LATENCY):
                await ctx.tick()
            assert ctx.get(dut.group) == largest_group(magnitude, limit, most + 1)

    simulate(dut, bench)

"""hdl.scale against sim.model.scale."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

import hdl.scale.update as update_constants
from hdl.instructions import COLUMN_UNIT, ScaleFlag
from hdl.params import MAX_K, MAX_M, Formats, Params
from hdl.scale import Scaler
from hdl.scale.align import ALIGNED_BITS, BitLength
from hdl.scale.factor import FACTOR_BITS, PRODUCT_BITS, Factor, coefficient
from hdl.scale.shift import AMOUNT_ZERO, Rescale, nearest_amount
from hdl.scale.update import MAX_SHIFT, Update
from sim.model import scale as model
from sim.model import update as update_model
from sim.model.add import GRADIENT_BITS, add
from sim.model.noise import element_noise, key_words
from sim.model.rounding import bit_length, rescale
from sim.model.update import sgd
from tests.support.memories import UnitBench

#: A number for the operation, which the unit does not look at.
OPERATION = 7
LOW, HIGH = -(2**31), 2**31 - 1
KEY = (0x0123, 0x4567, 0x89AB, 0xCDEF)
SRC0, SRC1, DST0, DST1, SCALAR, PARAMETER = 5, 4200, 8400, 12600, 4, 3
WIDTHS = (24, 24), (16, 8), (24, 8), (16, 16)


def simulate(dut, process):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8, if_exists=True)
    simulator.add_testbench(process)
    simulator.run()


def bounds(bits):
    return -(1 << bits - 1), (1 << bits - 1) - 1


async def streamed(ctx, dut, words, outputs, latency):
    """What comes out ``latency`` cycles after each of ``words``, one a clock; dicts of inputs."""
    out = []
    for cycle in range(len(words) + latency):
        if cycle < len(words):
            for name, value in words[cycle].items():
                ctx.set(getattr(dut, name), int(value))
        if cycle >= latency:
            out.append(tuple(ctx.get(getattr(dut, name)) for name in outputs))
        await ctx.tick()
    return out


# Parts of a lane.

def test_constants_are_the_models():
    ours = update_constants
    assert (ours.GRADIENT_BITS, ours.GRADIENT_FRACTION) == (
        update_model.MASTER_BITS, update_model.GRADIENT_FRACTION)
    for name in ("MOMENTUM", "MOMENTUM_SHIFT", "DECAY_SHIFT"):
        assert getattr(ours, name) == getattr(update_model, name)
    assert (ALIGNED_BITS, FACTOR_BITS) == (GRADIENT_BITS, model.FACTOR_BITS)


def factor_cases(rng, count):
    """Every factor's extremes; by every mantissa numbers around its multiples, of all sizes."""
    ends = [LOW, LOW + 1, LOW + 2, HIGH, HIGH - 1, HIGH - 2, -1, 0, 1, 1 << 17, -(1 << 17)]
    for factor in (0, 1, 2, 3, 511, 512, 1022, 1023):
        yield from ((x, factor, False) for x in ends)
    for mantissa in range(4, 8):
        yield from ((x, mantissa, True) for x in ends)
        # All remainders, in small numbers and where the most is left out of the reciprocal.
        for middle in (0, 1 << 12, 1 << 24, HIGH - 40, LOW + 40, -(1 << 24), 5 * 6 * 7 << 20):
            yield from ((middle + k, mantissa, True) for k in range(-40, 41))
    for _ in range(count):
        x = int(rng.choice([-1, 1]) * 2 ** rng.uniform(0, 31))
        divide = bool(rng.random() < 0.7)
        yield x, int(rng.integers(4, 8) if divide else rng.integers(1024)), divide


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("count", [200, pytest.param(40000, marks=pytest.mark.regress)])
def test_products_and_quotients_equal_the_model(divide, count):
    dut = Factor()
    cases = [case for case in factor_cases(np.random.default_rng(count), count)
             if case[2] == divide]

    async def bench(ctx):
        ctx.set(dut.divide, divide)
        words = [{"x": x} for x, *_ in cases]
        factors = [int(coefficient_of(factor, divide)) for _, factor, _ in cases]
        words += [{} for _ in range(dut.COEFFICIENT)]
        for k, value in enumerate(factors):
            words[k + dut.COEFFICIENT]["coefficient"] = value
        out = await streamed(ctx, dut, words, ("magnitude", "negative"), dut.LATENCY)
        for (x, factor, _), (magnitude, negative) in zip(cases, out, strict=False):
            z = model.product(np.array([[x]]), np.array([factor]), divide=divide)[0, 0]
            assert (-magnitude if negative else magnitude) == z, (x, factor)
            assert negative == (x < 0)

    simulate(dut, bench)
    assert len(cases) > 90


def coefficient_of(factor, divide):
    """:func:`hdl.scale.factor.coefficient` of a number, in plain integers."""
    return 4 * 4095 // factor if divide else factor


def test_quotients_of_all_magnitudes_by_the_pipelines_formula():
    """The stages' integers in NumPy: all remainders near every power of two, and millions more."""
    rng = np.random.default_rng(0)
    some = np.concatenate([
        np.arange(0, 1 << 18), 2**31 - np.arange(0, 1 << 18),
        *((1 << k) + np.arange(-5000, 5000) for k in range(18, 31)),
        rng.integers(0, 2**31 + 1, 1 << 20)])
    for mantissa in range(4, 8):
        p = some * (4 * 4095 // mantissa)
        for offset, expected in ((4, (some << 14) // mantissa),
                                 (60, -(-(some << 14) // mantissa))):
            once = (p << 6) + offset + (p >> 6)
            assert (once + (once >> 24) >> 6 == expected).all()


def test_coefficients():
    m, word, divide, o = Module(), Signal(32), Signal(), Signal(16)
    m.d.comb += o.eq(coefficient(word, divide))

    async def bench(ctx):
        for value in [*range(1024), 0xFFFFFC04]:
            ctx.set(word, value)
            ctx.set(divide, 0)
            assert ctx.get(o) == value % 1024
            if 4 <= value % 1024 < 8:
                ctx.set(divide, 1)
                assert ctx.get(o) == coefficient_of(value % 8, True)

    simulate(m, bench)


def mask(bits):
    return (1 << 32) - (1 << bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 8, 17, 24, 31, 32])
def test_every_shift_rounds_and_clamps_where_it_should(bits):
    dut = Rescale()
    rng = np.random.default_rng(bits)
    top = 1 << PRODUCT_BITS - 1
    cases = []
    for shift in (*range(-70, 45), 62, -95):
        some = {0, 1, 2, 3, 5, top, top - 1, int(2 ** rng.uniform(0, 43)) + 1}
        # Around the limits of the result, and halves.
        for edge in (1 << bits - 1, (1 << bits - 1) - 1, int(rng.integers(1 << bits))):
            for twice in range(2 * edge - 2, 2 * edge + 3):
                z = twice << -shift - 1 if shift < 0 else twice >> shift + 1
                some |= {z - 1, z, z + 1}
        for z in rng.permutation([z for z in some if 0 <= z <= top])[:14]:
            cases += [(int(z), shift), (-int(z), shift)]

    async def bench(ctx):
        ctx.set(dut.mask, mask(bits))
        words = [{"magnitude": abs(z), "negative": z < 0,
                  "amount": min(max(AMOUNT_ZERO - shift, 0), 127)}
                 for z, shift in cases]
        out = await streamed(ctx, dut, words, ("o", "over"), dut.LATENCY)
        for (z, shift), got in zip(cases, out, strict=True):
            y, over = rescale(np.array([z]), shift, bits)
            assert got == (y[0], over), (z, shift)

    simulate(dut, bench)


def test_a_negative_zero_stays_zero():
    dut = Rescale()

    async def bench(ctx):
        for bits in (1, 32):
            ctx.set(dut.mask, mask(bits))
            words = [{"magnitude": 0, "negative": 1, "amount": k} for k in range(128)]
            assert await streamed(ctx, dut, words, ("o", "over"), dut.LATENCY) == [(0, 0)] * 128

    simulate(dut, bench)


def test_nearest_amounts():
    m, value, o = Module(), Signal(signed(19)), Signal(8)
    m.d.comb += o.eq(nearest_amount(value))

    async def bench(ctx):
        for number in (-(1 << 18), -129, -128, -1, 0, 1, 44, 96, 127, 128, 129, 255, 256, 1 << 17,
                       (1 << 18) - 1):
            ctx.set(value, number)
            assert ctx.get(o) == min(max(number, 0), 127)

    simulate(m, bench)


@pytest.mark.parametrize("bits", [44, 64])
def test_bit_lengths(bits):
    dut = BitLength(bits)
    rng = np.random.default_rng(bits)
    cases = [0, *(1 << k for k in range(bits)), *((1 << k) - 1 for k in range(bits + 1)),
             *((1 << k) + int(rng.integers(1 << k)) for k in range(1, bits - 1))]

    async def bench(ctx):
        out = await streamed(ctx, dut, [{"i": i} for i in cases], ("o",), dut.LATENCY)
        assert [o for o, in out] == [i.bit_length() for i in cases]

    simulate(dut, bench)


@pytest.mark.parametrize(("master", "speed"), [
    *(Formats.of(*widths) for widths in WIDTHS), ((16, 12), (8, 6)), ((24, 20), (16, 12)),
    ((24, 19), (20, 18)), ((18, 6), (18, 6))], ids=str)
@pytest.mark.parametrize("count", [30, pytest.param(3000, marks=pytest.mark.regress)])
def test_steps_equal_the_model(master, speed, count):
    dut = Update(master, speed)
    rng = np.random.default_rng([*master, *speed, count])

    def some(low, high):
        if rng.random() < 0.3:
            return int(rng.choice([low, high, max(low, -1), 0, 1]))
        return int(np.clip(rng.choice([-1, 1]) * 2 ** rng.uniform(0, 30), low, high) if
                   rng.random() < 0.5 else rng.integers(low, high + 1))

    settings = [(4095, 0, 4095), (4095, 17, 0), (0, 0, 0), (1, 17, 1), (
        int(rng.integers(4096)), int(rng.integers(18)), int(rng.integers(4096)))]

    async def bench(ctx):
        for rate, rate_shift, decay in settings:
            rows = [(w, v, g, n) for w in bounds(master[0]) for v in bounds(speed[0])
                    for g in (*bounds(24), 0) for n in (0, 0xFFFF)]
            rows += [(some(*bounds(master[0])), some(*bounds(speed[0])), some(*bounds(24)),
                      some(0, 0xFFFF)) for _ in range(count)]
            ctx.set(dut.step, rate << MAX_SHIFT - rate_shift)
            ctx.set(dut.decay, decay)
            words = [{} for _ in range(len(rows) + dut.GRADIENT)]
            for k, (w, v, g, n) in enumerate(rows):
                words[k] |= {"weight": w, "velocity": v}
                words[k + dut.NOISE]["noise"] = n
                words[k + dut.GRADIENT]["gradient"] = g
            out = await streamed(ctx, dut, words + [{}] * dut.WEIGHT,
                                 ("new_weight", "new_velocity"), 0)
            weights = [w for w, _ in out[dut.WEIGHT:]][:len(rows)]
            velocities = [v for _, v in out[dut.VELOCITY:]][:len(rows)]
            w, v, g, n = (np.array(column) for column in zip(*rows, strict=True))
            expected = sgd(w, v, g, rate, rate_shift, n, decay=decay, master=master, speed=speed)
            assert velocities == expected[1].tolist()
            assert weights == expected[0].tolist()

    simulate(dut, bench)


# The unit.

@dataclass(frozen=True, kw_only=True)
class Case:
    """A tensor and what to do with it."""
    x: np.ndarray
    mode: str = "plain"
    factor: np.ndarray | int = 1
    exponent: np.ndarray | int = 0
    bias: np.ndarray | int | None = None
    #: Added in the place of a bias; the result may take its place.
    plus: np.ndarray | None = None
    bits: int = 32
    divide: bool = False
    negate: bool = False
    offset: int = 0
    scalar: int | None = None
    #: x comes from the masters.
    master: bool = False
    in_place: bool = False
    over_plus: bool = False
    # Of an update.
    weight: np.ndarray | None = None
    velocity: np.ndarray | None = None
    rate: int = 0
    rate_shift: int = 0
    decay: int = 0
    key: tuple = KEY
    #: The first column in a wider tensor, in units, and columns that it has besides.
    unit: int = 0
    more: int = 0
    #: Beside the mode's own.
    more_flags: ScaleFlag = field(default=ScaleFlag(0))

    @property
    def flags(self):
        own = {"plain": 0, "align": ScaleFlag.ALIGN, "sum": ScaleFlag.SUM,
               "update": ScaleFlag.UPDATE}[self.mode]
        chosen = {ScaleFlag.DIVIDE: self.divide, ScaleFlag.NEGATE: self.negate,
                  ScaleFlag.ADD: self.scalar is not None, ScaleFlag.MASTER: self.master,
                  ScaleFlag.BIAS: self.bias is not None,
                  ScaleFlag.PLUS: self.plus is not None}
        return own + sum(flag for flag, on in chosen.items() if on) | self.more_flags

    def rows(self):
        """The rows of the scale tensor, ``int64``."""
        n = self.x.shape[1]
        return np.stack([np.broadcast_to(np.asarray(row, np.int64), n) for row in (
            self.factor, self.exponent, 0 if self.bias is None else self.bias)])

    def expected(self, formats):
        """``{what: tensor}`` and how many elements were clamped."""
        factor, exponent, bias = model.read_scale(self.rows(), divide=self.divide)
        by = model.column_exponents(exponent, negate=self.negate, offset=self.offset,
                                    scalar=self.scalar or 0)
        if self.mode == "plain":
            y, clamped = model.scale(self.x, factor, by, self.bits, divide=self.divide,
                                     bias=None if self.bias is None else bias, plus=self.plus)
            return {"y": y}, clamped
        if self.mode == "align":
            y, least = model.align(self.x, factor, by, divide=self.divide)
            return {"y": y, "exponent": np.full((1, self.x.shape[1]), least)}, 0
        if self.mode == "sum":
            return {"y": model.column_sums(self.x)[None]}, 0
        noise = element_noise(self.key, *self.x.shape, first=COLUMN_UNIT * self.unit,
                              more=self.more)
        w, v, clamped = model.update(
            self.weight, self.velocity, self.x, factor, by, self.rate, self.rate_shift, noise,
            divide=self.divide, decay=self.decay, formats=formats)
        return {"weight": w, "velocity": v}, clamped


def check(params, cases):
    """Every case, one after the other on one unit, gives what the model does, and nothing else."""
    unit = Scaler(params)
    bench = UnitBench(unit, params,
                      words={"wide": 16800, "master": 4112, "velocity": 4112, "quant": 4,
                             "group": 4, "order": 4})

    async def process(ctx):
        for case in cases:
            await execute(ctx, case)

    async def execute(ctx, case):
        m, n = case.x.shape
        tiles = -(-n // params.vector)
        updating = case.mode == "update"
        bench.load(ctx, "wide", SRC1, case.rows())
        if case.master:
            bench.load(ctx, "master", SRC0, case.x)
        else:
            bench.load(ctx, "wide", SRC0, case.x)
        if updating:
            bench.load(ctx, "master", PARAMETER, case.weight)
            bench.load(ctx, "velocity", PARAMETER, case.velocity)
        if case.scalar is not None:
            bench.load(ctx, "wide", SCALAR, np.array([[case.scalar]]))
        if case.plus is not None:
            bench.load(ctx, "wide", DST1, case.plus)
        dst0 = (PARAMETER if updating else SRC0 if case.in_place else
                DST1 if case.over_plus else DST0)
        written = 1 if case.mode == "sum" else m
        assert SRC0 + tiles * m < SRC1 - 1 and DST0 + tiles * written < DST1 - 1
        frame = [("master", PARAMETER - 1), ("master", PARAMETER + tiles * m),
                 ("velocity", PARAMETER - 1), ("velocity", PARAMETER + tiles * m),
                 ("wide", DST0 - 1), ("wide", dst0 + tiles * (0 if updating else written)),
                 ("wide", DST1 - 1),
                 ("wide", DST1 + tiles * (m * case.over_plus or case.mode == "align"))]
        before = [bench.peek(ctx, *word) for word in frame]
        key0, key1 = key_words(case.key)
        cycles, clamped = await bench.run(
            ctx, OPERATION, flags=case.flags, m=m, n=n, src0=SRC0, src1=SRC1, dst0=dst0,
            dst1=case.more if updating else DST1, tab0=case.decay, tab1=SCALAR,
            tab2=case.offset & 0xFFFF, arg=case.unit if updating else case.bits, k=case.rate,
            shift=case.rate_shift, key0=key0, key1=key1)
        expected, count = case.expected(params.formats)
        places = {"y": ("wide", dst0), "exponent": ("wide", DST1),
                  "weight": ("master", PARAMETER), "velocity": ("velocity", PARAMETER)}
        for what, tensor in expected.items():
            assert (bench.dump(ctx, *places[what], *tensor.shape) == tensor).all(), (what, case)
        assert [bench.peek(ctx, *word) for word in frame] == before
        assert clamped == count
        assert cycles == unit.cycles(m, n, align=case.mode == "align",
                                     plus=case.plus is not None)

    bench.simulate(process)


def params_of(lanes, widths=(24, 24)):
    return Params(lanes=lanes, cols=lanes, rows=lanes, depth=1, masters=1, master_bits=widths[0],
                  velocity_bits=widths[1])


def tensor(rng, m, n, bits=32):
    """Elements of all sizes, zeros and extremes."""
    low, high = bounds(bits)
    scales = 2.0 ** rng.uniform(0, bits - 1, (m, n) if rng.random() < 0.5 else (1, n))
    x = np.clip(np.rint(rng.normal(size=(m, n)) * scales), low, high).astype(np.int64)
    x[rng.random((m, n)) < 0.1] = 0
    x[rng.random((m, n)) < 0.05] = rng.choice([low, high, 1, -1])
    if rng.random() < 0.2:
        x[:, rng.integers(n)] = 0
    return x


def random_cases(rng, count, shapes, widths):
    """Random cases in every mode, of masters and velocities of these widths."""
    for k in range(count):
        m, n = shapes[k % len(shapes)]
        mode = str(rng.choice(["plain", "plain", "align", "sum", "update", "update"]))
        divide = bool(rng.random() < 0.4)
        master = bool(mode != "update" and rng.random() < 0.3)
        x = tensor(rng, m, n, widths[0] if master else int(rng.choice([8, 20, 32])))
        common = {
            "x": x, "mode": mode, "divide": divide, "master": master,
            "factor": rng.integers(4, 8, n) if divide else rng.integers(0, 1024, n),
            # Bits beyond those that count.
            "exponent": rng.integers(-30, 10, n) + (rng.integers(-9, 9, n) << 16),
            "negate": bool(rng.random() < 0.4), "offset": int(rng.integers(-12, 12)),
            "scalar": int(rng.integers(-9, 9) + (rng.integers(-9, 9) << 16))
            if rng.random() < 0.4 else None,
        }
        if mode == "plain":
            common |= {"bits": int(rng.choice([1, 2, 8, 16, 24, 31, 32])),
                       "in_place": bool(rng.random() < 0.5 and not master),
                       "bias": tensor(rng, 1, n)[0] if rng.random() < 0.5 else None}
            if common["bias"] is None and rng.random() < 0.6:
                common |= {"plus": tensor(rng, m, n), "over_plus": bool(rng.random() < 0.5)}
        elif mode == "update":
            common |= {"weight": tensor(rng, m, n, widths[0]),
                       "velocity": tensor(rng, m, n, widths[1]),
                       "rate": int(rng.integers(4096)), "rate_shift": int(rng.integers(18)),
                       "decay": int(rng.integers(4096)),
                       "key": tuple(int(word) for word in rng.integers(0, 1 << 16, 4)),
                       "unit": int(rng.choice([0, 255, rng.integers(256)])),
                       "more": int(rng.choice([0, 4095, rng.integers(4096)]))}
        yield Case(**common)


SHAPES = [(1, 1), (1, 7), (7, 1), (5, 6), (12, 5), (3, 19), (2, 3), (6, 17), (8, 4)]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_tensors_equal_the_model(lanes, widths):
    rng = np.random.default_rng([lanes, *widths])
    check(params_of(lanes, widths), random_cases(rng, 14, SHAPES, widths))


@pytest.mark.regress
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 5, 7, 8, 12])
@pytest.mark.parametrize("seed", range(4))
def test_many_more_tensors_equal_the_model(lanes, widths, seed):
    rng = np.random.default_rng([lanes, *widths, seed])
    shapes = [*SHAPES, (40, 3), (1, 33), (6, 9), (5, 25)]
    check(params_of(lanes, widths), random_cases(rng, 120, shapes, widths))


EXTREMES = {
    "all zero": np.zeros((3, 3)),
    "all lowest": np.full((3, 3), LOW),
    "all highest": np.full((3, 3), HIGH),
    "lowest and highest": [[LOW, HIGH, LOW + 1], [HIGH - 1, LOW, HIGH], [0, 1, -1]],
    "ones": [[1, -1, 1], [0, 1, -1], [1, 1, 0]],
    "one one": [[0, 0, 0], [0, -1, 0], [0, 0, 0]],
    "powers of two": [[1 << 30, 1 << 29, -(1 << 30)], [1 << 27, -(1 << 24), 1 << 23], [8, -4, 2]],
    "below powers of two": [[(1 << 30) - 1, (1 << 29) - 1, 1], [-7, 15, 31], [3, 0, -127]],
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name):
    x = np.array(EXTREMES[name]).astype(np.int64)
    ends = -(2**15), 2**15 - 1
    cases = []
    for divide, factor in ((False, [1023, 1, 0]), (True, [4, 5, 7])):
        common = {"x": x, "divide": divide, "factor": factor}
        cases += [
            Case(**common),
            Case(**common, exponent=[-10, -43, -44], bits=32, bias=[LOW, HIGH, 0]),
            Case(**common, exponent=[5, 32, 31], bits=1, bias=[-1, 0, 1]),
            Case(**common, exponent=[-10, -43, 5], plus=x[::-1]),
            Case(**common, exponent=[5, 32, -31], bits=1, plus=x.T, in_place=True),
            # The largest sums of exponents, either way.
            Case(**common, exponent=ends[0], negate=True, offset=ends[1], scalar=ends[1]),
            Case(**common, exponent=ends[0], offset=ends[0], scalar=ends[0]),
            Case(**common, exponent=[ends[0], 0, ends[1]], offset=ends[0], scalar=ends[1], bits=8),
            Case(**common, mode="align"),
            Case(**common, mode="align", exponent=[ends[0], 0, ends[1]]),
            Case(**common, mode="align", exponent=[ends[1], 0, ends[0]], negate=True,
                 offset=ends[1], scalar=ends[1]),
            Case(**common, mode="align", exponent=ends[0], offset=ends[0], scalar=ends[0]),
            Case(**common, mode="sum"),
            Case(**common, mode="update", exponent=[-20, -8, 0], weight=np.full((3, 3), 2**23 - 1),
                 velocity=np.full((3, 3), -(2**23)), rate=4095, decay=4095),
            Case(**common, mode="update", exponent=-17, weight=np.full((3, 3), -(2**23)),
                 velocity=np.full((3, 3), 2**23 - 1), rate=1, rate_shift=17),
        ]
    check(params_of(2), cases)


def test_alignment_finds_what_lies_in_one_place_alone():
    """The longest in any row and lane; a column of zeros or a pad lane counts for nothing."""
    cases = []
    for place in range(10):
        x = np.zeros((2, 5), np.int64)
        x.flat[place] = (-1) ** place << 3 + place
        cases.append(Case(x=x, mode="align", factor=3, exponent=[9, -2, 30, 4, 0]))
    # -2**k is one longer than what is one less, and the floor of a quotient may be.
    for x, factor, divide in ((-(1 << 9), 1, False), (-(1 << 9) + 1, 1, False), (1 << 9, 4, True),
                              (-1, 7, True), (-5, 5, True)):
        cases.append(Case(x=np.full((1, 1), x), mode="align", factor=factor, divide=divide))
    check(params_of(3), cases)


def test_sums_wrap_around():
    check(params_of(2), [
        Case(x=np.full((MAX_M, 3), (LOW, HIGH, -1)), mode="sum"),
        Case(x=np.full((MAX_M, 1), 2**23 - 1), mode="sum", master=True),
        Case(x=np.full((1, 5), LOW), mode="sum", exponent=3, factor=9, negate=True),
    ])


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_short_tiles_in_a_row(lanes):
    """The next tile's scales come while rows of the one before are on their way."""
    rng = np.random.default_rng(lanes)
    check(params_of(lanes), [
        Case(x=tensor(rng, m, 4 * lanes + 1, 20), mode=mode, factor=rng.integers(1, 1024, n),
             exponent=rng.integers(-20, 4, n), bias=rng.integers(-999, 999, n) if plain else None,
             bits=16, weight=tensor(rng, m, n, 24), velocity=tensor(rng, m, n, 24),
             rate=int(rng.integers(4096)))
        for n in [4 * lanes + 1] for m in (1, 5, 6, 7)
        for mode, plain in (("plain", True), ("update", False))] + [
        Case(x=tensor(rng, m, 4 * lanes + 1, 20), plus=tensor(rng, m, 4 * lanes + 1, 20),
             exponent=rng.integers(-20, 4, 4 * lanes + 1), bits=16, over_plus=over)
        for m in (1, 2, 3, 7) for over in (False, True)])


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_sum_of_two_tensors_is_the_models(lanes):
    """``sim.model.add.add``, with the ends of what an activation may be."""
    rng = np.random.default_rng(lanes)
    a, b = (tensor(rng, 9, 5, 24) for _ in range(2))
    case = Case(x=a, plus=b, bits=24)
    expected, clamped = add(a, b)
    assert (case.expected(Formats.of(24, 24))[0]["y"] == expected).all()
    assert case.expected(Formats.of(24, 24))[1] == clamped
    check(params_of(lanes), [case])


def test_rows_beyond_those_of_a_product():
    rng = np.random.default_rng(1)
    x = tensor(rng, MAX_K, 1)
    check(params_of(1), [
        Case(x=x, factor=3, exponent=-9, plus=tensor(rng, MAX_K, 1), bits=24),
        Case(x=np.full((MAX_K, 1), HIGH - 7), mode="sum"),
        Case(x=x, mode="align", factor=77, exponent=-9),
    ])


def test_most_rows():
    rng = np.random.default_rng(0)
    common = {"x": tensor(rng, MAX_M, 2), "factor": [77, 5], "exponent": [-9, -12]}
    check(params_of(2), [
        Case(**common, mode="align"),
        # Masters may have more rows than any other tensor.
        Case(x=tensor(rng, 2 * MAX_M + 3, 2), mode="update", exponent=-9,
             weight=tensor(rng, 2 * MAX_M + 3, 2, 24), velocity=tensor(rng, 2 * MAX_M + 3, 2, 24),
             rate=99, rate_shift=9, decay=7),
    ])


def test_bit_length_is_the_models():
    assert bit_length(np.array([2**43])).tolist() == [PRODUCT_BITS]

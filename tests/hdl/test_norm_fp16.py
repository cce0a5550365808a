"""hdl.baseline.norm_fp16 against sim.model.norm_fp16."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.baseline.norm_fp16 import Fp16NormBackward, Fp16NormForward
from hdl.baseline.norm_fp16.adder import FusedSum
from hdl.baseline.norm_fp16.divide import QUOTIENT, ChannelDivider
from hdl.baseline.norm_fp16.edges import Narrow
from hdl.baseline.norm_fp16.state import STATE_ROWS, StateRow
from hdl.floating.edges import Encode
from hdl.floating.formats import FP16
from hdl.instructions import Opcode
from hdl.norm.reciprocal import LaneDivider, Operation
from hdl.params import Params
from sim.model.norm_fp16 import (
    backward,
    forward,
    mean,
    narrow,
    reciprocal_root,
    root_epsilon,
)
from tests.support.floats import inside
from tests.support.memories import UnitBench
from tests.support.verilated import Stream

LARGEST, SMALLEST = 65504, 2.0**-24


# Parts.


class Parts(wiring.Component):
    """The sum of two sums, and a sum narrowed."""
    def __init__(self):
        self.encode = Encode(FP16)
        super().__init__({"x": In(FP16.total_layout), "y": In(FP16.total_layout),
                          "total": Out(32), "narrowed": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.adder = adder = FusedSum()
        m.submodules.encode = encode = self.encode
        m.submodules.narrow = narrowed = Narrow()
        m.d.comb += [adder.join.eq(1), adder.other.eq(self.x), adder.sum_i.eq(self.y),
                     encode.i.eq(adder.sum_o), self.total.eq(encode.o),
                     narrowed.i.eq(self.x), self.narrowed.eq(narrowed.o)]
        return m


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    top = Parts()
    stream = Stream(top, {"x": top.x.as_value(), "y": top.y.as_value()},
                    {"total": top.total, "narrowed": top.narrowed},
                    tmp_path_factory.mktemp("parts"))
    return top, stream


def floats(rng, count, low, high):
    """binary32 with exponents from low to high."""
    return (rng.choice([-1, 1], count) * rng.uniform(1, 2, count)
            * 2.0 ** rng.integers(low, high + 1, count)).astype(np.float32)


def packed(values):
    return inside(FP16, np.asarray(values, np.float32).view(np.uint32))


def test_sums_are_added(parts):
    top, stream = parts
    rng = np.random.default_rng(1)
    x = floats(rng, 100_000, -10, 40)
    # Alike, nearly opposite, of any other exponent; and specials crossed.
    bits = x.view(np.uint32) ^ rng.integers(0, 2, x.size).astype(np.uint32) << 31
    near = (bits + rng.integers(-4, 5, x.size) * 2 ** rng.integers(0, 24, x.size)
            ).astype(np.uint32).view(np.float32)
    y = np.where(rng.integers(0, 2, x.size), near, floats(rng, x.size, -10, 40))
    specials = np.float32([0.0, 1, -1, 2, 1 + 2**-23, 2 - 2**-23, np.inf, -np.inf, np.nan, 2**30])
    crossed = np.array(list(itertools.product(specials, specials)), np.float32).T
    x, y = np.concatenate([x, crossed[0]]), np.concatenate([y, crossed[1]])
    with np.errstate(invalid="ignore"):
        expected = x + y
    expected = np.where(np.isnan(expected), 0x7FC00000, expected.view(np.uint32))
    late = FusedSum.STEP + top.encode.latency
    # The significand that is added comes a cycle later: it holds.
    found = stream(x=np.repeat(np.append(packed(x), [0] * late), 2),
                   y=np.repeat(np.append(packed(y), [0] * late), 2))["total"]
    found = found[late:][:2 * len(x):2]
    wrong = np.flatnonzero(found != expected)
    assert not len(wrong), [(x[i], y[i], hex(found[i]), hex(expected[i])) for i in wrong[:4]]


def test_sums_are_narrowed(parts):
    rng = np.random.default_rng(2)
    edges = np.float32([0.0, SMALLEST, SMALLEST / 2, 2**-14, LARGEST, 65519, 65520, 2**40, np.inf,
                        np.nan, 1.5 * SMALLEST, 2.5 * SMALLEST, 2**-14 - 2**-25])
    ties = np.float32((rng.integers(1, 1 << 11, 1000) + 0.5) * 2.0 ** rng.integers(-26, 6, 1000))
    x = np.concatenate([edges, -edges, ties, floats(rng, 20_000, -48, 20)])
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(0))])
    # As sums of products are.
    x = x[(np.abs(x) < 2.0**42) & (np.abs(x) >= 2.0**-48) | (x == 0) | ~np.isfinite(x)]
    _, stream = parts
    found = stream(x=np.append(packed(x), [0] * Narrow.LATENCY))["narrowed"][Narrow.LATENCY:]
    wrong = np.flatnonzero(found != narrow(x).view(np.uint16))
    assert not len(wrong), [(float(x[i]), hex(found[i])) for i in wrong[:4]]


def test_means_and_roots():
    dut = LaneDivider(2, 1, QUOTIENT.size, unit=ChannelDivider)
    rng = np.random.default_rng(3)
    edges = np.float32([1, 2 - 2**-23, 4, 2 - 2**-15, 2**41 - 2**17, 2.0**-18])
    values = np.concatenate([edges, np.abs(floats(rng, 20, -20, 40))])
    small = np.concatenate([np.float32([0, 2.0**-48, 2.0**-40]), np.abs(floats(rng, 5, -48, -38))])
    counts = [1, 2, 3, 511, 256, *rng.integers(1, 512, 40).tolist()]
    cases = [(operation, batch, m) for (operation, batch), m in zip(
        [(operation, pair) for operation, numbers in (
            (Operation.DIVIDE, values), (Operation.DIVIDE, small), (Operation.ROOT, values))
         for pair in numbers.reshape(-1, 2)], itertools.cycle(counts))]

    async def bench(ctx):
        for operation, batch, m in cases:
            ctx.set(dut.operation, operation)
            ctx.set(dut.denominator, m)
            for lane, word in enumerate(packed(batch)):
                ctx.set(dut.value[lane], int(word) & (1 << 31) - 1)
            ctx.set(dut.start, 1)
            found, cycles = {}, 0
            while not ctx.get(dut.done):
                await ctx.tick()
                ctx.set(dut.start, 0)
                cycles += 1
                for lane in range(2):
                    if ctx.get(dut.take) >> lane & 1:
                        bits = ctx.get(dut.quotient[0]) & (1 << QUOTIENT.size) - 1
                        found[lane] = number(operation, QUOTIENT.from_bits(bits))
            expected = (mean(batch, m) if operation == Operation.DIVIDE
                        else reciprocal_root(batch, m))
            assert [found[0], found[1]] == expected.tolist(), (operation, batch, m)
            assert cycles == dut.latency(operation)
            await ctx.tick()

    def number(operation, quotient):
        if operation == Operation.ROOT:
            return (1 + quotient.root_fraction / 2**10) * 2.0**quotient.root_exponent
        return quotient.significand * 2.0 ** (quotient.exponent - FP16.offset - 23)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


# Units.


class Memory:
    """Tensors of binary16, in the lower halves of wide elements."""
    SRC0, SRC1, DST0, DST1 = 0, 1024, 2048, 3072

    def __init__(self, ctx, bench, seed):
        self.ctx, self.bench = ctx, bench
        self.rng = np.random.default_rng(seed)

    def load(self, base, numbers):
        """With anything in the upper halves."""
        junk = self.rng.integers(-2**15, 2**15, np.shape(numbers)) << 16
        self.bench.load(self.ctx, "wide", base, junk | words(numbers))

    def state(self, n, **rows):
        state = self.rng.normal(size=(STATE_ROWS, n)).astype(np.float16)
        for name, value in rows.items():
            state[StateRow[name.upper()]] = value
        self.load(self.SRC1, state)

    def check(self, base, expected, what):
        expected = np.atleast_2d(words(expected))
        found = self.bench.dump(self.ctx, "wide", base, *expected.shape)
        wrong = np.argwhere(found != expected)
        assert not len(wrong), (what, [(at.tolist(), hex(found[tuple(at)]), hex(
            expected[tuple(at)])) for at in wrong[:4]])


def words(numbers):
    numbers = np.asarray(numbers, np.float16)
    return np.where(np.isnan(numbers), 0x7E00, numbers.view(np.uint16)).astype(np.int64)


def run(unit, cases, check):
    """Every case, one after the other; every other in place."""
    bench = UnitBench(unit, unit.params, words={"wide": 4096})

    async def process(ctx):
        for number, case in enumerate(cases):
            memory = Memory(ctx, bench, number)
            dst0 = memory.SRC0 if number % 2 else memory.DST0
            await check(memory, dst0, *case)

    bench.simulate(process)
    return unit


def check_forward(cols, cases):
    unit = Fp16NormForward(Params(lanes=cols, rows=cols, cols=cols, memory=4))

    async def check(memory, dst0, x, gamma, beta, epsilon=1e-5):
        x = np.asarray(x, np.float16)
        m, n = x.shape
        gamma, beta, root = (np.broadcast_to(np.float16(v), n)
                             for v in (gamma, beta, root_epsilon(m, epsilon)))
        memory.state(n, gamma=gamma, beta=beta, root_epsilon=root)
        memory.load(memory.SRC0, x)
        cycles, _ = await memory.bench.run(
            memory.ctx, Opcode.NORM_FORWARD, m=m, n=n, src0=memory.SRC0, src1=memory.SRC1,
            dst0=dst0, dst1=memory.DST1)
        y, xhat, inverse, high, low = forward(x, gamma, beta, root)
        for row, expected in ((StateRow.MEAN, high), (StateRow.MEAN_REST, low),
                              (StateRow.INVERSE, inverse)):
            for tile in range(0, n, cols):
                memory.check(memory.SRC1 + tile // cols * STATE_ROWS + row,
                             expected[tile:tile + cols], row.name)
        memory.check(memory.DST1, xhat, "xhat")
        memory.check(dst0, y, "y")
        assert cycles == unit.cycles(m, n)

    return run(unit, cases, check)


def check_backward(cols, cases):
    unit = Fp16NormBackward(Params(lanes=cols, rows=cols, cols=cols, memory=4))

    async def check(memory, dst0, dy, xhat, gamma, inverse):
        dy, xhat = (np.asarray(v, np.float16) for v in (dy, xhat))
        m, n = dy.shape
        gamma, inverse = (np.broadcast_to(np.float16(v), n) for v in (gamma, inverse))
        memory.state(n, gamma=gamma, inverse=inverse)
        memory.load(memory.SRC0, dy)
        memory.load(memory.DST1, xhat)
        cycles, _ = await memory.bench.run(
            memory.ctx, Opcode.NORM_BACKWARD, m=m, n=n, src0=memory.SRC0, src1=memory.SRC1,
            dst0=dst0, dst1=memory.DST1)
        dx, grad_beta, grad_gamma = backward(dy, xhat, gamma, inverse)
        for row, expected in ((StateRow.GRAD_GAMMA, grad_gamma), (StateRow.GRAD_BETA, grad_beta)):
            for tile in range(0, n, cols):
                memory.check(memory.SRC1 + tile // cols * STATE_ROWS + row,
                             expected[tile:tile + cols], row.name)
        memory.check(dst0, dx, "dx")
        assert cycles == unit.cycles(m, n)

    return run(unit, cases, check)


def normal(rng, *shape, scale=1.0):
    """Columns of different means and deviations."""
    n = shape[-1:]
    x = rng.normal(size=shape) * scale * 2.0 ** rng.integers(-4, 1, n) + rng.normal(size=n) * scale
    return np.clip(x, -LARGEST, LARGEST).astype(np.float16)


@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [1e-4, 20], 1), (5, 3, [2e-6, 2e4], 2)])
def test_forward_equals_the_model(cols, n, scales, seed):
    rng = np.random.default_rng(seed)
    check_forward(cols, [(normal(rng, m, n, scale=scale), normal(rng, n), normal(rng, n))
                         for scale in scales for m in (9, 24)])


@pytest.mark.parametrize(("cols", "n", "scales", "seed"), [
    (1, 2, [1, 1000], 0), (3, 5, [1e-4, 20], 1), (5, 3, [2e-6, 2e4], 2)])
def test_backward_equals_the_model(cols, n, scales, seed):
    rng = np.random.default_rng(seed)
    check_backward(cols, [(normal(rng, m, n, scale=scale), normal(rng, m, n), normal(rng, n),
                           np.exp(normal(rng, n))) for scale in scales for m in (9, 24)])


def test_few_rows():
    rng = np.random.default_rng(4)
    shapes = [(1, 1), (2, 3), (3, 2), (5, 1), (11, 3)]
    check_forward(2, [(normal(rng, m, n), 1.5, -0.25) for m, n in shapes])
    check_backward(2, [(normal(rng, m, n), normal(rng, m, n), 1.5, 0.75) for m, n in shapes])


def column(m, rest, *first):
    return np.array([*first] + [rest] * (m - len(first)))


def edges(m):
    """Constant columns, zeros of both signs, the largest and the smallest numbers, and no
    numbers."""
    return np.stack([
        column(m, 7), column(m, 0.0), column(m, -0.0), column(m, LARGEST),
        column(m, 1000, 1001), column(m, LARGEST, 0, 0), column(m, -LARGEST, LARGEST),
        column(m, SMALLEST, -SMALLEST), column(m, SMALLEST), column(m, 1, np.inf),
        column(m, np.inf, -np.inf), column(m, 2, np.nan), column(m, 3 * SMALLEST, 30000, -30000),
    ], axis=1)


def test_edges_forward():
    x = edges(13)
    check_forward(5, [(x, 1.5, 0.5), (x, [0.0, -0.0, *[LARGEST] * 11], LARGEST, 1e-3),
                      (x, np.nan, np.inf)])


def test_edges_backward():
    dy = edges(13)
    n = dy.shape[1]
    other = np.roll(dy, 1, axis=0)
    check_backward(5, [
        (dy, other, 1, 1), (dy, normal(np.random.default_rng(5), 13, n), LARGEST, 300),
        (normal(np.random.default_rng(6), 13, n, scale=1e-6), dy, SMALLEST, 0.5),
        (dy, dy, -0.0, np.inf)])


def test_long_columns():
    rng = np.random.default_rng(7)
    unit = check_forward(6, [(normal(rng, 511, 6, scale=9), normal(rng, 6), normal(rng, 6))])
    assert unit.cycles(511, 7) == 2 * (5 * 511 + 599) + 1
    unit = check_backward(6, [(normal(rng, 511, 6), normal(rng, 511, 6), normal(rng, 6), 2)])
    assert unit.cycles(511, 7) == 2 * (4 * 511 + 567) + 1

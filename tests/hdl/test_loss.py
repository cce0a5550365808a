"""hdl.loss against sim.model.softmax."""

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, ResetInserter, Signal
from amaranth.sim import Simulator

from hdl.instructions import LossRow
from hdl.loss import CrossEntropy
from hdl.loss.exponential import Exponential
from hdl.loss.logarithm import Logarithm
from hdl.loss.product import Product
from hdl.loss.share import Shares
from hdl.params import MAX_M, MAX_N, Params
from sim.model.rounding import floor_divide
from sim.model.softmax import cross_entropy, exponential, logarithm, softmax
from tests.support.memories import UnitBench

LOW, HIGH = -(2**23), 2**23 - 1
#: The opcode does not matter to a unit.
OP = 0


def simulate(dut, process):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def stream(dut, inputs, output, latency, limit=1000):
    """Set ``inputs``, by clock a dict of what comes with ``en``; what comes out, in order, each
    exactly ``latency`` clocks later."""
    times, found = [], []

    async def process(ctx):
        for clock in range(max(inputs) + limit):
            given = inputs.get(clock)
            ctx.set(dut.en, given is not None)
            for name, value in (given or {}).items():
                ctx.set(getattr(dut, name), value)
            if ctx.get(dut.valid):
                times.append(clock)
                found.append(output(ctx))
            await ctx.tick()
            if len(found) == len(inputs):
                break

    simulate(dut, process)
    assert times == [clock + latency for clock in inputs]
    return found


def test_products():
    dut = Product()
    rng = np.random.default_rng(0)
    ends = [0, 1, 2**17 - 1, 2**17, 2**30 - 1, 2**30, 2**31 - 1]
    cases = [(a, b) for a in ends for b in ends]
    cases += [tuple(int(v) for v in rng.integers(0, 2**31, 2)) for _ in range(200)]

    async def process(ctx):
        for clock in range(len(cases) + dut.LATENCY):
            a, b = cases[min(clock, len(cases) - 1)]
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            if clock >= dut.LATENCY:
                a, b = cases[clock - dut.LATENCY]
                assert ctx.get(dut.o) == a * b >> 30
            await ctx.tick()

    simulate(dut, process)


@pytest.mark.parametrize("multipliers", [1, 2, 4, 8, 16])
def test_exponentials_equal_the_model(multipliers):
    dut = Exponential(multipliers, 3)
    rng = np.random.default_rng(multipliers)
    # The ends, a shift of 30, 31 and more, and arguments of every size.
    arguments = [0, 1, 2, 2**24 - 1, 2**24 - 2, 2839, 2840, 85176, 85196, 88016, 88035, 90855,
                 90876, 2**23]
    arguments += [int(rng.integers(0, 2**24) >> rng.integers(0, 24)) for _ in range(60)]
    arguments += [int(t) for t in rng.integers(0, 31 * 2840, 60)]
    clock, inputs = 3, {}
    for t in arguments:
        inputs[clock] = {"t": t, "tag": int(rng.integers(8))}
        clock += dut.interval * int(rng.choice([1, 1, 1, 2, 3]))
    # Any number of clocks after all have come out.
    clock += dut.latency + 1
    for t in arguments[::-1][:10]:
        inputs[clock] = {"t": t, "tag": int(rng.integers(8))}
        clock += dut.interval
    found = stream(dut, inputs, lambda ctx: (ctx.get(dut.e), ctx.get(dut.tag_o)), dut.latency)
    given = list(inputs.values())
    expected = exponential(np.array([case["t"] for case in given]))
    assert [e for e, _ in found] == expected.tolist()
    assert [tag for _, tag in found] == [case["tag"] for case in given]
    assert {0, 1, 2**30} <= set(expected.tolist())


def test_logarithms_equal_the_model():
    dut = Logarithm()
    rng = np.random.default_rng(0)
    arguments = [1 << 30, (1 << 30) + 1, (1 << 31) - 1, 1 << 31, (1 << 42) - 1, 1 << 42,
                 3 << 29, 3 << 40]
    arguments += [int(rng.integers(1 << 30, 1 << int(rng.integers(31, 43)))) for _ in range(60)]
    clock, starts = 2, {}
    for x in arguments:
        starts[clock] = x
        clock += dut.INTERVAL + int(rng.choice([0, 0, 0, 1, 5, 20, 200]))
    times, found = [], []

    async def process(ctx):
        for clock in range(max(starts) + dut.LONGEST + 1):
            ctx.set(dut.start, clock in starts)
            ctx.set(dut.x, starts.get(clock, 2**43 - 1))
            if ctx.get(dut.valid):
                times.append(clock)
                found.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, process)
    assert found == logarithm(np.array(arguments)).tolist()
    waits = {dut.LONGEST - (time - start) for time, start in zip(times, starts, strict=True)}
    assert waits == set(range(dut.INTERVAL))


@pytest.mark.parametrize("dividers", [1, 3, 8])
@pytest.mark.parametrize("m", [1, 2, 3, 255, 256, 257, 510, 511])
def test_shares_equal_the_model(m, dividers):
    dut = Shares(dividers)
    rng = np.random.default_rng(m)
    cases = []
    for marked in (0, 1):
        cases += [(e, total, marked) for e, total in (
            (0, 1 << 30), (1 << 30, 1 << 30), (1, 1 << 30), (0, 1 << 42), (1 << 30, 1 << 42),
            ((1 << 30) - 1, 1 << 30), ((1 << 30) - 1, (1 << 31) - 1), (1 << 30, (1 << 30) + 1))]
    for _ in range(40):
        total = int(rng.integers(1 << 30, 1 << int(rng.integers(31, 43))))
        cases.append((int(rng.integers(0, 2**30 + 1) >> rng.integers(0, 31)), total,
                      int(rng.integers(2))))
    inputs = {}
    clock, step = 12, -(-dut.INTERVAL // dividers)
    for e, total, marked in cases:
        inputs[clock] = {"e": e, "total": total, "marked": marked}
        clock += step + int(rng.choice([0, 0, 0, 1, 7]))

    found = []

    async def process(ctx):
        ctx.set(dut.m, m)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for clock in range(1, max(inputs) + dut.LATENCY + 1):
            given = inputs.get(clock)
            ctx.set(dut.en, given is not None)
            for name, value in (given or {"total": 5, "e": 9, "marked": 1}).items():
                ctx.set(getattr(dut, name), value)
            assert ctx.get(dut.valid) == (clock - dut.LATENCY in inputs)
            if ctx.get(dut.valid):
                found.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, process)
    e, total, marked = (np.array(column, np.int64) for column in zip(*cases, strict=True))
    p = floor_divide(e << 22, total) - (marked << 22)
    assert found == floor_divide(p << (m - 1).bit_length(), m).tolist()


def check(params, cases, **options):
    """Every case ``(logits, labels)`` gives the model's tensors, one after the other on one unit,
    and nothing else is written."""
    unit = CrossEntropy(params, **options)
    bench = UnitBench(unit, params, words={"wide": 16384, "quant": 16, "group": 16, "order": 16})

    async def process(ctx):
        for number, (logits, labels) in enumerate(cases):
            await execute(ctx, np.asarray(logits, np.int64), np.asarray(labels, np.int64), number)

    async def execute(ctx, logits, labels, number):
        m, n = logits.shape
        words = m * -(-n // params.vector)
        # Logits end where the memory does; gradients take their place in every other case.
        src0, src1, dst1 = 16384 - words, 1, 1 + m + 1
        dst0 = src0 if number % 2 else dst1 + len(LossRow) + 1
        assert dst0 == src0 or dst0 + words < src0
        rng = np.random.default_rng(number)
        # What lies above the 24 bits of a logit and the 13 of a label does not matter.
        bench.load(ctx, "wide", src0, (logits & 0xFFFFFF) | rng.integers(0, 256, (m, n)) << 24)
        bench.load(ctx, "wide", src1, labels[:, None] | rng.integers(0, 2**19, (m, 1)) << 13)
        frame = [src1 - 1, src1 + m, dst1 + len(LossRow), dst0 - 1]
        if dst0 != src0:
            frame += [dst0 + words, *range(src0, src0 + min(words, 50))]
        before = [bench.peek(ctx, "wide", address) for address in frame]
        cycles, clamped = await bench.run(ctx, OP, m=m, n=n, src0=src0, src1=src1, dst0=dst0,
                                          dst1=dst1, limit=unit.cycles(m, n) + 1)
        inside = labels < n
        losses, gradient, _, predicted = cross_entropy(logits, np.where(inside, labels, 0))
        # A label that is no column's takes nothing from any.
        gradient[~inside] = floor_divide(softmax(logits)[~inside] << (m - 1).bit_length(), m)
        assert (bench.dump(ctx, "wide", dst0, m, n) == gradient).all()
        if inside.all():
            low, high, correct = (int(v) for v in bench.dump(
                ctx, "wide", dst1, len(LossRow), 1)[:, 0])
            assert (high << 32) + (low & 0xFFFFFFFF) == losses.sum()
            assert correct == np.count_nonzero(predicted == labels)
        assert [bench.peek(ctx, "wide", address) for address in frame] == before
        assert clamped == 0
        assert cycles == unit.cycles(m, n)

    bench.simulate(process)
    return unit


def random_case(rng, m, n):
    """Logits of any size, mostly such that several count; ties, and labels that are often right."""
    scale = 2.0 ** rng.choice([0, 8, 11, 12, 12, 13, 13, 14, 16, 23])
    logits = np.clip(np.rint(rng.normal(size=(m, n)) * scale), LOW, HIGH).astype(np.int64)
    logits += rng.integers(-100, 100, (m, 1)) << int(rng.integers(0, 12))
    logits = np.clip(logits, LOW, HIGH)
    if rng.random() < 0.5:
        # Two of the largest in a row.
        for i in range(m):
            logits[i, rng.integers(n)] = logits[i].max()
    labels = rng.integers(0, n, m)
    right = rng.random(m) < 0.5
    labels[right] = logits.argmax(axis=1)[right]
    return logits, labels


@pytest.mark.parametrize(("lanes", "shapes"), [
    (1, [(5, 10), (1, 1), (4, 3)]), (2, [(4, 5), (3, 2), (2, 1)]),
    (3, [(4, 7), (3, 10)]), (8, [(3, 17), (2, 8), (3, 3)])])
def test_random_rows_equal_the_model(lanes, shapes):
    rng = np.random.default_rng(lanes)
    check(params_of(lanes), [random_case(rng, m, n) for m, n in shapes for _ in range(2)])


def params_of(lanes):
    """A machine of so many lanes."""
    return Params(rows=lanes, cols=lanes, depth=1, lanes=lanes, memory=4)


@pytest.mark.parametrize(("multipliers", "dividers", "slot"), [
    (1, 8, 16), (2, 8, 8), (8, 8, 4), (8, 12, 2), (16, 8, 3), (16, 24, 2), (4, 1, 24), (4, 5, 8)])
def test_multipliers_and_dividers(multipliers, dividers, slot):
    rng = np.random.default_rng(slot)
    unit = check(params_of(2), [random_case(rng, m, n) for m, n in ((4, 9), (5, 1), (3, 4))],
                 multipliers=multipliers, dividers=dividers)
    assert unit.slot == slot


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_extremes(lanes):
    mixed, rising = np.full((3, 10), LOW), np.tile(np.arange(10), (2, 1))
    mixed[0, 3] = mixed[1, 0] = mixed[2, 9] = HIGH
    check(params_of(lanes), [
        (np.full((2, 10), LOW), [0, 9]), (np.full((2, 10), HIGH), [0, 9]),
        (np.zeros((2, 10)), [0, 1]), ([[LOW]], [0]), ([[HIGH], [0]], [0, 0]),
        (mixed, [3, 0, 9]), (mixed, [0, 9, 0]), (-1 - mixed, [3, 1, 9]),
        (rising, [9, 8]), (LOW + rising[:, ::-1], [0, 1])])


def test_a_label_that_is_no_column():
    # It ends, in its time, and the next instruction is right.
    rng = np.random.default_rng(0)
    good = random_case(rng, 3, 5)
    check(params_of(2), [(good[0], [8191, 5, 6]), good, (good[0], [4096, 100, 0]), good])


def test_most_columns():
    check(params_of(8), [(np.full((1, MAX_N), HIGH), [MAX_N - 1])], multipliers=8, dividers=12)


def test_most_rows_at_the_largest_loss():
    unit = check(params_of(2), [(np.tile([HIGH, LOW], (MAX_M, 1)), np.ones(MAX_M, int))])
    assert unit.cycles(128, 10) == 5371


class Resettable(Elaboratable):
    """A unit that the machine resets."""
    def __init__(self, unit):
        self.unit, self.signature, self.reset = unit, unit.signature, Signal()
        self.control, self.wide_r, self.wide_w = unit.control, unit.wide_r, unit.wide_w

    def elaborate(self, platform):
        return ResetInserter(self.reset)(self.unit)


def test_a_reset_leaves_nothing_inside():
    m, n = 4, 9
    logits, labels = random_case(np.random.default_rng(1), m, n)
    losses, gradient, _, predicted = cross_entropy(logits, labels)
    unit = CrossEntropy(params_of(2))
    resettable = Resettable(unit)
    bench = UnitBench(resettable, unit.params, words={"wide": 256})
    fields = {"m": m, "n": n, "src0": 0, "src1": 60, "dst0": 100, "dst1": 200}

    async def process(ctx):
        bench.load(ctx, "wide", 0, logits)
        bench.load(ctx, "wide", 60, labels[:, None])
        for clocks in range(20, unit.cycles(m, n), 37):
            for name, value in fields.items():
                ctx.set(unit.control.instruction[name], value)
            ctx.set(unit.control.start, 1)
            await ctx.tick()
            ctx.set(unit.control.start, 0)
            await ctx.tick().repeat(clocks)
            ctx.set(resettable.reset, 1)
            await ctx.tick()
            ctx.set(resettable.reset, 0)
            cycles, _ = await bench.run(ctx, OP, **fields)
            assert cycles == unit.cycles(m, n)
            assert (bench.dump(ctx, "wide", 100, m, n) == gradient).all()
            assert bench.dump(ctx, "wide", 200, len(LossRow), 1)[:, 0].tolist() == [
                losses.sum(), 0, np.count_nonzero(predicted == labels)]

    bench.simulate(process)


@pytest.mark.regress
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_more_random_rows(lanes, seed):
    rng = np.random.default_rng([lanes, seed])
    cases = [random_case(rng, int(rng.integers(1, 20)), int(rng.integers(1, 30)))
             for _ in range(10)]
    check(params_of(lanes), cases, multipliers=int(rng.choice([1, 2, 4, 8, 16])),
          dividers=int(rng.integers(1, 26)))


@pytest.mark.regress
@pytest.mark.parametrize(("m", "n"), [(128, 10), (MAX_M, 3), (15, 1000)])
def test_batches(m, n):
    check(params_of(2), [random_case(np.random.default_rng(m), m, n)])


@pytest.mark.regress
def test_more_columns():
    rng = np.random.default_rng(0)
    logits = np.full((3, MAX_N), LOW)
    logits[1] = rng.integers(-50000, 0, MAX_N)
    check(params_of(8), [(logits, [MAX_N - 1, 5, 0])])

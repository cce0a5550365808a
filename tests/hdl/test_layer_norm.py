"""hdl.norm.layer_forward and hdl.norm.layer_backward against sim.model.norm."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.instructions import STATE_ROWS, LayerFlag, LayerRow, Opcode
from hdl.norm.layer_backward import (
    P_BITS,
    PRODUCT_SUM_BITS,
    SUM_BITS,
    Datapath,
    LayerBackward,
)
from hdl.norm.layer_forward import TOTAL_BITS, LayerForward
from hdl.params import MAX_K, MAX_N, PARAMETER_FRACTION, Params
from sim.model.norm import Context, layer_backward, layer_clamped, layer_forward
from sim.model.rounding import round_shift, wrap
from tests.support.memories import UnitBench
from tests.support.norms import WIDE, column

#: Lanes that divide nothing, and one.
LANES = [1, 2, 5]


def params_of(lanes):
    return Params(lanes=lanes, rows=lanes, cols=lanes, depth=1, memory=4, masters=4,
                  layer_norm=True)


def bench_of(unit, cases):
    words = max(m * -(-n // unit.params.vector) for m, n in (case["x"].shape for case in cases))
    words = max(words, *(STATE_ROWS * -(-case["x"].shape[1] // unit.params.vector)
                         for case in cases), 64)
    return UnitBench(unit, unit.params, words={"wide": 8 << (words - 1).bit_length()})


def places(bench, n):
    """Where source, destination, context and deviations are, and at the end of the memory the state
    of n columns."""
    depth = bench.memories["wide"].depth
    return {**dict(zip(("src0", "dst0", "dst1", "tab0"), range(0, depth, depth // 8),
                       strict=False)),
            "src1": depth - STATE_ROWS * -(-n // bench.params.vector)}


def state_of(case, rng):
    n = case["x"].shape[1]
    state = rng.integers(*WIDE, (STATE_ROWS, n))
    # 16 bits are looked at.
    gamma = np.broadcast_to(case.get("gamma", 4096), n)
    state[LayerRow.GAMMA] = (gamma & 0xFFFF) + (rng.integers(-2**15, 2**15, n) << 16)
    beta = state[LayerRow.BETA] = np.broadcast_to(case.get("beta", 0), n)
    return state, gamma, beta


def random_case(rng, m, n, scale, **more):
    x = rng.integers(-scale, scale + 1, (m, n)) + rng.integers(-scale, scale + 1, (m, 1))
    return {"x": np.clip(x >> rng.integers(0, 6, (m, 1)), *WIDE),
            "gamma": rng.integers(-2**15, 2**15, n), "beta": rng.integers(-2**15, 2**15, n),
            **more}


def check_forward(lanes, cases):
    """Every case equals the model, one after the other: x, and perhaps gamma, beta, in_place."""
    unit = LayerForward(params_of(lanes))
    bench = bench_of(unit, cases)

    async def process(ctx):
        for number, case in enumerate(cases):
            x, rng = case["x"], np.random.default_rng(number)
            m, n = x.shape
            place = places(bench, n)
            if case.get("in_place"):
                place["dst0"] = place["src0"]
            state, gamma, beta = state_of(case, rng)
            bench.load(ctx, "wide", place["src0"], x)
            bench.load(ctx, "wide", place["src1"], state)
            inference = case.get("inference", False)
            kept = {name: bench.dump(ctx, "wide", place[name], m, cols)
                    for name, cols in (("dst1", n), ("tab0", 1))}
            cycles, clamped = await bench.run(
                ctx, Opcode.LAYER_FORWARD, m=m, n=n, flags=LayerFlag.INFERENCE * inference, **place)
            y, context, deviation = layer_forward(x, gamma, beta)
            if not inference:
                kept = {"dst1": context.pack(), "tab0": deviation[:, None]}
            assert (bench.dump(ctx, "wide", place["dst0"], m, n) == y).all(), number
            for name, value in kept.items():
                found = bench.dump(ctx, "wide", place[name], *value.shape)
                assert (found == value).all(), (number, name)
            assert (bench.dump(ctx, "wide", place["src1"], STATE_ROWS, n) == state).all()
            assert clamped == layer_clamped(x, gamma, beta)
            assert cycles == unit.cycles(m, n)

    bench.simulate(process)
    return unit


@pytest.mark.parametrize("lanes", LANES)
def test_forward_of_random_tensors(lanes):
    rng = np.random.default_rng(lanes)
    check_forward(lanes, [
        random_case(rng, m, n, scale, in_place=number % 2 == 0, inference=number % 4 == 3)
        for number, (m, n, scale) in enumerate((
            (1, 1, 9), (1, lanes, 100), (2, lanes + 1, 2**23), (7, 1, 2**31), (3, 2 * lanes, 1),
            (5, max(1, lanes - 1), 2**20), (3, 3 * lanes - 1, 1000), (4, 17, 2**31 - 1)))])


def random_gradient(rng, case, scale, **more):
    shape = case["x"].shape
    return {**case, "dy": np.clip(rng.integers(-scale, scale + 1, shape), *WIDE), **more}


def check_backward(lanes, cases):
    """Every case equals the model, one after the other: of the forward pass, with dy besides."""
    unit = LayerBackward(params_of(lanes))
    bench = bench_of(unit, cases)

    async def process(ctx):
        for number, case in enumerate(cases):
            x, dy, rng = case["x"], case["dy"], np.random.default_rng(number)
            m, n = x.shape
            place = places(bench, n)
            if case.get("in_place"):
                place["dst0"] = place["src0"]
            state, gamma, beta = state_of(case, rng)
            _, context, deviation = layer_forward(x, gamma, beta)
            # The mask does not matter.
            packed = context.pack() ^ rng.integers(0, 2, (m, n)) << 18
            for name, value in (("src0", dy), ("src1", state), ("dst1", packed),
                                ("tab0", deviation[:, None])):
                bench.load(ctx, "wide", place[name], value)
            words = range(place["src1"], place["src1"] + STATE_ROWS * -(-n // lanes))
            before = [bench.peek(ctx, "wide", word) for word in words]
            cycles, clamped = await bench.run(ctx, Opcode.LAYER_BACKWARD, m=m, n=n, **place)
            dx, grad_beta, grad_gamma, grad_bits, deviation_bits = layer_backward(
                dy, context, gamma, deviation)
            state[LayerRow.GRAD_BETA] = grad_beta
            state[LayerRow.GRAD_GAMMA_LOW] = wrap(grad_gamma & 0xFFFFFFFF, 32)
            state[LayerRow.GRAD_GAMMA_HIGH] = grad_gamma >> 32
            state[LayerRow.GRAD_BITS], state[LayerRow.DEVIATION_BITS] = grad_bits, deviation_bits
            found = bench.dump(ctx, "wide", place["src1"], STATE_ROWS, n)
            for row in range(STATE_ROWS):
                assert (found[row] == state[row]).all(), (number, row)
            # Columns beyond stay.
            top = n % lanes and 32 * (n % lanes)
            if top:
                after = [bench.peek(ctx, "wide", word) for word in words]
                assert [w >> top for w in after[-STATE_ROWS:]] == [
                    w >> top for w in before[-STATE_ROWS:]]
            assert (bench.dump(ctx, "wide", place["dst0"], m, n) == dx).all(), number
            assert (bench.dump(ctx, "wide", place["dst1"], m, n) == packed).all()
            assert clamped == 0
            assert cycles == unit.cycles(m, n)

    bench.simulate(process)
    return unit


@pytest.mark.parametrize("lanes", LANES)
def test_backward_of_random_tensors(lanes):
    rng = np.random.default_rng(lanes)
    check_backward(lanes, [
        random_gradient(rng, random_case(rng, m, n, scale), size, in_place=number % 2 == 0)
        for number, (m, n, scale, size) in enumerate((
            (1, 1, 9, 3), (1, lanes, 100, 2**18), (2, lanes + 1, 2**23, 2**31), (7, 1, 2**31, 0),
            (3, 2 * lanes, 1, 1), (5, max(1, lanes - 1), 2**20, 2**19),
            (3, 3 * lanes - 1, 1000, 2**20), (4, 17, 2**31 - 1, 2**25)))])


def extreme_rows(n=63):
    """Rows at every limit of the forward pass; of so many elements a single 1 has deviation 1."""
    low, high = -2**23, 2**23 - 1
    half = column(n, low, *[high] * (n // 2 + 1))
    return np.stack([
        column(n, low), column(n, high),     # the largest sums of x
        half, half[::-1],                    # the largest deviation
        column(n, 0, high), column(n, 0, low),   # xhat saturates
        column(n, 0, 1), column(n, -1, 0),   # deviation 1
        column(n, 0, *WIDE), column(n, 0, -low, low - 1),   # x is clamped, as little as can be
        column(n, *WIDE)])


@pytest.mark.parametrize("gamma", [-2**15, 2**15 - 1])
def test_forward_at_the_limits(gamma):
    x, ones = extreme_rows(97), column(63, 0, 1)[None]
    m, n = x.shape
    case = {"x": x, "gamma": gamma, "beta": np.resize([0, *WIDE], n)}
    y, context, deviation = layer_forward(x, np.full(n, gamma), case["beta"])
    assert 0 in deviation and deviation.max() > 2**28
    assert layer_forward(ones, np.full(63, gamma), np.zeros(63, int))[2] == 1
    assert {-2**15, 2**15 - 1} <= set(context.xhat.flat) and set(WIDE) <= set(y.flat)
    unit = check_forward(8, [case, {"x": ones, "gamma": gamma}])
    assert unit.cycles(m, n) == m * (5 * n + 135) + 1


@pytest.mark.regress
def test_forward_of_the_longest_row():
    """The sum, as far as it can go."""
    check_forward(8, [{"x": np.full((1, MAX_N), -2**23)}])


@pytest.mark.parametrize("gamma", [-2**15, 2**15 - 1])
def test_backward_at_the_limits(gamma):
    x = extreme_rows()[[0, 2, 4, 6]]
    m, n = x.shape
    # g at the end of its range, p as large as can be; then lengths of 32 and of 31 bits.
    least = -2**20 + 1
    cases = [np.where(x > 0, least, -least), np.where(np.arange(n) == 0, -2**31, 2**31 - 1) + 0 * x,
             np.full(x.shape, 2**31 - 1)]
    _, context, deviation = layer_forward(x, np.full(n, gamma), np.zeros(n, int))
    assert {0, 1} <= set(deviation) and {-2**15, 2**15 - 1} & set(context.xhat.flat)
    found = [layer_backward(dy, context, gamma, deviation)[3] for dy in cases]
    assert found == [20, 32, 31]
    unit = check_backward(8, [{"x": x, "dy": dy, "gamma": gamma} for dy in cases])
    assert unit.cycles(m, n) == 10 * m * n + 196 * m + 24 * n + 19


def test_backward_where_all_deviations_are_nothing():
    x = np.full((3, 4), 7)
    check_backward(2, [{"x": x, "dy": np.arange(12).reshape(3, 4)}, {"x": x, "dy": 0 * x}])


def test_backward_of_usual_deviations_after_small_ones():
    """The smallest is looked for anew, and those of 0 do not count."""
    rng = np.random.default_rng(5)
    cases = []
    for scales in ([1, 2**20, 2**10], [2**20, 0, 2**12], [2**23, 2**23, 2**23]):
        x = np.array([rng.integers(-scale, scale + 1, 6) for scale in scales])
        cases.append({"x": x, "dy": rng.integers(-1000, 1000, x.shape)})
    check_backward(2, cases)


@pytest.mark.regress
def test_backward_of_the_longest_row():
    """The sums of a row, as far as they can go."""
    x = np.resize([-2**23] * 63 + [2**23 - 1], (1, MAX_N))
    check_backward(8, [{"x": x, "dy": np.full(x.shape, -2**20 + 1), "gamma": -2**15}])


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_sums_of_a_column_as_far_as_they_can_go(sign):
    """xhat of any size at the datapath, as one that is saturated in all of them."""
    dut, words = Datapath(), []
    xhat = -2**15 if sign < 0 else 2**15 - 1
    for _ in range(MAX_K):
        words += [(1, -2**20 + 1), (0, xhat & 0xFFFF | 1 << 17), (0, 12345)]

    async def process(ctx):
        elements = 0
        for name, value in (("columns", 1), ("accumulate", 1), ("grad_bits", 20)):
            ctx.set(getattr(dut, name), value)
        for first, word in words + [(0, 0)] * len(dut.elements):
            elements = (elements << 1 | first) & (1 << len(dut.elements)) - 1
            ctx.set(dut.elements, elements)
            ctx.set(dut.i, word)
            await ctx.tick()
        assert ctx.get(dut.sum) == -2**19 * MAX_K == -1 << 31
        assert ctx.get(dut.product_sum) == -2**19 * xhat * MAX_K

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def test_widths_of_the_sums_are_exact():
    """With one bit less the extremes of sums would not fit."""
    assert (64 * np.full(MAX_N, -2**23)).sum() == -1 << TOTAL_BITS - 1
    g = np.full((MAX_K, 1), -2**20 + 1)
    context = Context(np.full(g.shape, -2**15), np.full(g.shape, -1), np.full(g.shape, True))
    _, grad_beta, grad_gamma, *_ = layer_backward(g, context, 0, np.zeros(MAX_K, int))
    assert grad_beta == -1 << 31 and grad_gamma == 1 << PRODUCT_SUM_BITS - 2
    # And p, at its largest, and its sum over a row.
    p = round_shift(np.array([2**15 * 2**19]), PARAMETER_FRACTION)
    assert p == 1 << P_BITS - 2 and p * MAX_N == 1 << SUM_BITS - 2

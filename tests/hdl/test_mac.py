"""hdl.array.mac: dot products, exact widths, and elements on their own."""

import itertools
import random

import pytest
from amaranth.sim import Simulator

from hdl.array.mac import Dot, PlainMac, ShiftMac
from hdl.params import Params


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def check_dot(bits, depth, cases):
    dut = Dot(bits, depth)
    expected = []

    async def bench(ctx):
        for a, w in [*cases, *[cases[0]] * dut.latency]:
            ctx.set(dut.a, a)
            ctx.set(dut.w, w)
            expected.append(sum(x * y for x, y in zip(a, w, strict=True)))
            await ctx.tick()
            if len(expected) >= dut.latency:
                assert ctx.get(dut.o) == expected[-dut.latency]

    simulate(dut, bench)
    # The largest result is among the cases, and needs every bit.
    assert max(abs(o) for o in expected) >= 1 << len(dut.o) - 2
    return dut


def operands(bits):
    return (range(-(1 << bits - 1), 1 << bits - 1),
            range(1 - (1 << bits - 1), 1 << bits - 1))


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_products_of_one_lane_exhaustively(bits):
    dut = check_dot(bits, 1, [([a], [w]) for a, w in itertools.product(*operands(bits))])
    assert dut.latency == {2: 1, 3: 2, 4: 2, 5: 3}[bits]


@pytest.mark.parametrize(("bits", "depth"), [(2, 2), (4, 2), (3, 3), (4, 4), (8, 5), (8, 16)])
def test_dot_products(bits, depth):
    a, w = operands(bits)
    rng = random.Random(bits * depth)
    low, high, most = a[0], a[-1], w[-1]
    cases = [([low] * depth, [most] * depth), ([low] * depth, [-most] * depth),
             ([high] * depth, [most] * depth), ([0] * depth, [most] * depth)]
    cases += [(rng.choices(a, k=depth), rng.choices(w, k=depth)) for _ in range(100)]
    check_dot(bits, depth, cases)


@pytest.mark.parametrize(("pe", "row", "groups"), [
    (ShiftMac, 0, 4), (ShiftMac, 3, 4), (ShiftMac, 3, 1), (PlainMac, 3, 1)])
def test_an_element(pe, row, groups):
    params = Params(bits=4, rows=4, cols=1, depth=2, sample_groups=1, channel_groups=groups)
    dut = pe(params, row)
    assert dut.has_mark == (pe is ShiftMac and row > 0 and groups > 1)
    assert ("mark" in dut.signature.members) == dut.has_mark
    assert ("sum_i" in dut.signature.members) == (row > 0)
    rng = random.Random(1)

    async def bench(ctx):
        active = None
        history = []
        for _ in range(200):
            # The operands of this cycle, the sum and the mark of those that came before.
            a = rng.choices(range(-8, 8), k=2)
            shadow, sum_i, mark = rng.choices(range(-7, 8), k=2), 0, 0
            ctx.set(dut.a, a)
            ctx.set(dut.w_i, shadow)
            swap = rng.random() < 0.3
            ctx.set(dut.swap, swap)
            if row:
                limit = 8 * 7 * 2
                sum_i = rng.randint(-limit, limit)
                ctx.set(dut.sum_i, sum_i)
            if dut.has_mark:
                mark = rng.randint(0, 1)
                ctx.set(dut.mark, mark)
            history.append((a, active, sum_i, mark))
            ctx.set(dut.load, 1)
            previous = [ctx.get(dut.w_o[lane]) for lane in range(2)]
            await ctx.tick()
            assert [ctx.get(dut.w_o[lane]) for lane in range(2)] == shadow
            if swap:
                active = previous
            if len(history) > dut.latency:
                a, weights, _, _ = history[-dut.latency]
                _, _, sum_i, mark = history[-dut.STEP]
                if weights is not None:
                    assert ctx.get(dut.sum_o) == (sum_i << mark) + sum(
                        x * y for x, y in zip(a, weights, strict=True))

    simulate(dut, bench)


def test_no_multiplier_is_inferred():
    from amaranth.back import rtlil
    params = Params(rows=4, cols=1, depth=2)
    text = rtlil.convert(ShiftMac(params, 3), emit_src=False)
    assert "$mul" not in text

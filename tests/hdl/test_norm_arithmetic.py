"""hdl.norm.arithmetic and hdl.norm.reciprocal against plain integers and sim.model.norm."""

import random

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator
from amaranth.utils import ceil_log2

from hdl.norm.arithmetic import Multiplier, SaturatingShift, clamp
from hdl.norm.reciprocal import LaneDivider, Operation
from hdl.params import MAX_K, MAX_M
from sim.model.norm import reciprocal
from sim.model.rounding import bit_length, floor_divide, saturate


def simulate(dut, bench, *, clock=True):
    simulator = Simulator(dut)
    if clock:
        simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def test_clamp_equals_the_model():
    m, value = Module(), Signal(signed(6))
    clamped, over = clamp(value, 3)

    async def bench(ctx):
        for v in range(-32, 32):
            ctx.set(value, v)
            expected, count = saturate(v, 3)
            assert (ctx.get(clamped), ctx.get(over)) == (expected, count)

    simulate(m, bench, clock=False)


@pytest.mark.parametrize(("i_bits", "o_bits", "amount_bits"), [(8, 4, 3), (9, 3, 2), (5, 4, 3)])
def test_a_shift_that_fits_is_right_and_one_that_does_not_is_noticed(i_bits, o_bits, amount_bits):
    dut = SaturatingShift(i_bits, o_bits, amount_bits)

    async def bench(ctx):
        for value in range(-(1 << i_bits - 1), 1 << i_bits - 1):
            for amount in range(1 << amount_bits):
                ctx.set(dut.i, value)
                ctx.set(dut.amount, amount)
                expected = value >> amount
                fits = -(1 << o_bits - 1) <= expected < 1 << o_bits - 1
                assert ctx.get(dut.over) == (not fits)
                assert not fits or ctx.get(dut.o) == expected

    simulate(dut, bench, clock=False)


def test_products():
    dut = Multiplier(33)
    rng = random.Random(1)
    limits = [(a, b) for a in (-2**32, 2**32 - 1, 2**17, -1) for b in (-2**17, 2**17 - 1, -1)]
    cases = [None, *limits] + [
        (rng.randrange(-2**32, 2**32), rng.randrange(-2**17, 2**17)) if rng.random() < 0.7 else None
        for _ in range(100)]

    async def bench(ctx):
        for i in range(len(cases) + dut.LATENCY):
            case = cases[i] if i < len(cases) else None
            ctx.set(dut.en, case is not None)
            ctx.set(dut.a, case[0] if case else rng.randrange(-2**32, 2**32))
            ctx.set(dut.b, case[1] if case else rng.randrange(-2**17, 2**17))
            if i >= dut.LATENCY:
                case = cases[i - dut.LATENCY]
                assert ctx.get(dut.valid) == (case is not None)
                assert ctx.get(dut.o) == (case[0] * case[1] if case else 0)
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize(("lanes", "span", "per_clock", "rows"), [
    (1, 4, 1, MAX_M), (6, 4, 1, MAX_M), (5, 1, 2, MAX_K)])
def test_every_lane_gets_its_results(lanes, span, per_clock, rows):
    bits = 32 + ceil_log2(rows)
    dut = LaneDivider(lanes, bits, 32, span=span, per_clock=per_clock, rows=rows)
    rng = random.Random(lanes)
    values = [0, 1, 2, 3, 2**15, 2**16 - 1, 2**16, 2**16 + 1, 2**17 - 1, 2**30, 2**30 + 1,
              2**31 - 1]
    values += [rng.getrandbits(rng.randrange(32)) & 2**31 - 1 for _ in range(3 * lanes)]
    values += [0] * (-len(values) % lanes)

    async def run(ctx, operation, expected):
        """``expected(lane)`` is ``(quotient, length)``; None: of no matter."""
        ctx.set(dut.operation, operation)
        ctx.set(dut.start, 1)
        served, cycles = [], 0
        while not ctx.get(dut.done):
            await ctx.tick()
            ctx.set(dut.start, 0)
            # Taken with start.
            ctx.set(dut.operation, Operation.LENGTH)
            cycles += 1
            for lane in range(lanes):
                if ctx.get(dut.take) >> lane & 1:
                    served.append(lane)
                    found = (ctx.get(dut.quotient[lane // dut.span]),
                             ctx.get(dut.length[lane // dut.span]))
                    assert all(e is None or e == f for e, f in zip(expected(lane), found,
                                                                   strict=True))
        assert sorted(served) == list(range(lanes))
        assert cycles == dut.latency(operation)
        await ctx.tick()

    async def bench(ctx):
        for first in range(0, len(values), lanes):
            batch = values[first:first + lanes]
            for lane, value in enumerate(batch):
                ctx.set(dut.value[lane], value)
            await run(ctx, Operation.INVERT, lambda lane, b=batch: reciprocal(b[lane]))
            await run(ctx, Operation.LENGTH, lambda lane, b=batch: (None, bit_length(b[lane])))
        for denominator in (1, 3, rows - 1, rows):
            numerators = [rng.randrange(-denominator << 31, denominator << 31)
                          for _ in range(lanes)]
            for lane, numerator in enumerate(numerators):
                ctx.set(dut.numerator[lane], numerator)
            ctx.set(dut.denominator, denominator)
            await run(ctx, Operation.DIVIDE, lambda lane, d=denominator, n=numerators: (
                floor_divide(n[lane], d), None))

    simulate(dut, bench)

"""hdl.floating: elements against the model, edges, chains and a mesh."""

import gc
import random
from fractions import Fraction

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.array.skew import Delay
from hdl.floating.edges import Decode, Encode
from hdl.floating.formats import BF16, FP16
from hdl.floating.mac import ELEMENTS
from hdl.floating.mesh import FloatMesh
from hdl.floating.multiply import BlockMultiplier, LutMultiplier
from hdl.params import ParameterError, Params
from sim.model.floating import column, fused
from tests.support.floats import inside
from tests.support.verilated import Stream

PARAMS = Params(rows=2, cols=1, depth=1)


class Element(wiring.Component):
    """An element between its edges, with new weights in every clock."""
    def __init__(self, pe, row):
        form = pe.arithmetic
        super().__init__({"a": In(form.operand.layout), "w": In(form.operand.layout),
                          "c": In(form.total_layout), "o": Out(form.total.layout)})
        self.element = pe(PARAMS, row)
        self.encode = Encode(form)
        #: Clocks after a number at ``a`` and ``w`` that the sum at ``c`` and ``o`` comes.
        self.c_latency = 2 + Decode.latency + self.element.latency - self.element.STEP
        self.o_latency = 2 + Decode.latency + self.element.latency + self.encode.latency

    def elaborate(self, platform):
        m = Module()
        form = self.element.arithmetic
        m.submodules.element = element = self.element
        m.submodules.a = a = Decode(form, form.offset)
        m.submodules.w = w = Decode(form)
        m.submodules.late = late = Delay(a.o.shape().size, 2)
        m.submodules.o = o = self.encode
        m.d.comb += [
            a.i.eq(self.a), w.i.eq(self.w), element.load.eq(1), element.swap.eq(1),
            element.w_i.eq(w.o), late.i.eq(a.o), element.a.eq(late.o),
            o.i.eq(element.sum_o), self.o.eq(o.o)]
        if element.row:
            m.d.comb += element.sum_i.eq(self.c)
        return m


class Elements(wiring.Component):
    """All kinds of elements: they are compiled together, which takes as long as one."""
    def __init__(self):
        self.elements = {f"{arith}_{row}": Element(pe, row) for arith, pe in ELEMENTS.items()
                         for row in (0, 1)}
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        for name, element in self.elements.items():
            m.submodules[name] = element
        return m


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    top = Elements()
    ports = {f"{name}_{port}": getattr(element, port).as_value()
             for name, element in top.elements.items() for port in "awco"}
    outputs = {name: ports.pop(name) for name in list(ports) if name.endswith("o")}
    return top.elements, Stream(top, ports, outputs, tmp_path_factory.mktemp("elements"))


def check(compiled, arith, a, w, c=None):
    """Compare elements of row 1, or those of row 0 without ``c``, with the model."""
    elements, stream = compiled
    name = f"{arith}_{0 if c is None else 1}"
    element = elements[name]
    form = ELEMENTS[arith].arithmetic
    if c is None:
        c = 1 << form.total.width - 1
    a, w, c = (np.asarray(x, np.uint64).ravel() for x in np.broadcast_arrays(a, w, c))
    expected = fused(a, w, c, arith)
    count = len(a) + element.o_latency

    def late(values, by):
        return np.concatenate([np.zeros(by, np.uint64), values,
                               np.zeros(count - by - len(values), np.uint64)])

    found = stream(**{f"{name}_a": late(a, 0), f"{name}_w": late(w, 0),
                      f"{name}_c": late(inside(form, c), element.c_latency)})[f"{name}_o"]
    found = found[element.o_latency:]
    wrong = np.flatnonzero(found != expected)
    assert not len(wrong), "\n".join(
        f"{a[i]:04x} * {w[i]:04x} + {c[i]:08x} = {found[i]:08x}, not {expected[i]:08x}"
        for i in wrong[:8]) + f"\n{len(wrong)} of {len(a)}"


def specials(form):
    """Zeros, ends of the subnormal and normal numbers, one, infinities and NaN."""
    one = form.bias << form.fraction_bits
    infinity = (1 << form.exponent_bits) - 1 << form.fraction_bits
    least = 1 << form.fraction_bits
    positive = [0, 1, least - 1, least, least + 1, one - 1, one, one + 1, infinity - 1, infinity,
                infinity + 1, infinity | least >> 1]
    return np.array([sign << form.width - 1 | x for x in positive for sign in (0, 1)], np.uint64)


def reachable(arith, c):
    """Only the sums that the elements of a column can make."""
    if ELEMENTS[arith].arithmetic.limited:
        return c
    with np.errstate(invalid="ignore"):
        value = np.abs(np.asarray(c).astype(np.uint32).view(np.float32).astype(np.float64))
    finite = np.isfinite(value)
    fine = np.where(finite, value, 0) * 2.0 ** 48
    return np.where(~finite | ((fine == np.floor(fine)) & (value < 2.0 ** 38)), c, 0)


@pytest.fixture(params=list(ELEMENTS))
def arith(request):
    return request.param


def test_special_numbers(compiled, arith):
    form = ELEMENTS[arith].arithmetic
    a, c = specials(form.operand), reachable(arith, specials(form.total))
    check(compiled, arith, *(x.ravel() for x in np.meshgrid(a, a, c)))
    check(compiled, arith, *(x.ravel() for x in np.meshgrid(a, a)))


def numbers(rng, form, exponents):
    """Numbers of these stored exponents; a quarter each has no and a full fraction."""
    full = (1 << form.fraction_bits) - 1
    kind = rng.integers(0, 4, exponents.size)
    fraction = np.select([kind == 0, kind == 1], [0, full], rng.integers(0, full, kind.size))
    sign = rng.integers(0, 2, kind.size)
    return sign << form.width - 1 | exponents.ravel() << form.fraction_bits | fraction


def exponents(rng, arith, step):
    """All exponents of both operands and of the sum, or every ``step``-th of one operand."""
    form = ELEMENTS[arith].arithmetic
    counts = (form.operand.exponent_bits, form.operand.exponent_bits, form.total.exponent_bits)
    a, w, c = np.meshgrid(*(np.arange(rng.integers(0, by), 1 << bits, by)
                            for bits, by in zip(counts, (1, step, 1), strict=True)))
    return (numbers(rng, form.operand, a), numbers(rng, form.operand, w),
            reachable(arith, numbers(rng, form.total, c)))


def test_exponents(compiled, arith):
    check(compiled, arith, *exponents(np.random.default_rng(1), arith,
                                      64 if arith == "bf16" else 1))


def near(rng, arith, count):
    """Operands, and sums near their product, of the other sign."""
    form = ELEMENTS[arith].arithmetic
    a, w = rng.integers(0, 1 << 16, (2, count))
    product = fused(a, w, 1 << form.total.width - 1, arith).astype(np.int64)
    last = rng.integers(-4, 5, count) << rng.integers(0, form.total.fraction_bits, count)
    c = (product ^ (1 << form.total.width - 1)) + last & (1 << form.total.width) - 1
    return a, w, reachable(arith, c)


def alike(rng, arith, count):
    """Operands, and sums as large as products are."""
    form = ELEMENTS[arith].arithmetic
    a, w, b, v = rng.integers(0, 1 << 16, (4, count))
    c = fused(b, v, 0, arith).astype(np.int64)
    return a, w, reachable(arith, c ^ rng.integers(0, 1 << form.total.fraction_bits, count))


def anything(rng, arith, count):
    a, w = rng.integers(0, 1 << 16, (2, count))
    return a, w, reachable(arith, rng.integers(0, 1 << ELEMENTS[arith].arithmetic.total.width,
                                               count))


@pytest.mark.parametrize("draw", [near, alike, anything])
def test_numbers(compiled, arith, draw):
    check(compiled, arith, *draw(np.random.default_rng(1), arith, 50_000))


def test_numbers_of_row_0(compiled, arith):
    check(compiled, arith, *np.random.default_rng(1).integers(0, 1 << 16, (2, 50_000)))


@pytest.mark.regress
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draw", [near, alike, anything])
def test_many_numbers(compiled, arith, draw, seed):
    check(compiled, arith, *draw(np.random.default_rng(100 + seed), arith, 1_000_000))


@pytest.mark.regress
def test_more_exponents(compiled, arith):
    check(compiled, arith, *exponents(np.random.default_rng(2), arith,
                                      8 if arith == "bf16" else 1))


# The model.


def nearest(result, form):
    """The positive number nearest to a rational one's magnitude, by search; and its sign."""
    low, high = 0, (1 << form.exponent_bits) - 1 << form.fraction_bits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if magnitude(middle, form) <= abs(result) else (low, middle)
    below, above = (abs(abs(result) - magnitude(bits, form)) for bits in (low, high))
    return low if (below, low & 1) < (above, high & 1) else high, result < 0


def magnitude(bits, form):
    """A positive number; infinity is what would follow the largest."""
    stored, fraction = bits >> form.fraction_bits, bits & (1 << form.fraction_bits) - 1
    if stored:
        fraction |= 1 << form.fraction_bits
    return Fraction(2) ** (max(stored, 1) - form.bias - form.fraction_bits) * fraction


def value(bits, form):
    sign = bits >> form.width - 1
    return (-1) ** sign * magnitude(bits & (1 << form.width - 1) - 1, form)


def test_the_model_is_exact(arith):
    form = ELEMENTS[arith].arithmetic
    rng = np.random.default_rng(3)
    for draw in (near, alike, anything):
        drawn = draw(rng, arith, 300)
        results = fused(*drawn, arith)
        for a, w, c, found in zip(*(x.tolist() for x in (*drawn, results)), strict=True):
            numbers = ((a, form.operand), (w, form.operand), (c, form.total))
            if all(bits >> each.fraction_bits & (1 << each.exponent_bits) - 1
                   < (1 << each.exponent_bits) - 1 for bits, each in numbers):
                x, y, z = (value(bits, each) for bits, each in numbers)
                bits, negative = nearest(x * y + z, form.total)
                assert found & (1 << form.total.width - 1) - 1 == bits
                if x * y + z:
                    assert found >> form.total.width - 1 == negative


# Parts.


@pytest.mark.parametrize("form", [FP16, BF16], ids=["binary16", "bfloat16"])
def test_every_operand_is_decoded(form):
    dut = Decode(form, 3)

    async def bench(ctx):
        step = 29
        words = list(range(0, 1 << 16, step))
        for bits in [*words, 0, 0]:
            ctx.set(dut.i.as_value(), bits)
            await ctx.tick()
            if (now := bits // step - Decode.latency + 1) >= 0 and bits:
                check_operand(form.operand, words[now], ctx.get(dut.o))

    def check_operand(operand, bits, o):
        stored = bits >> operand.fraction_bits & (1 << operand.exponent_bits) - 1
        fraction = bits & (1 << operand.fraction_bits) - 1
        assert o.sign == bits >> 15
        assert o.special == (stored == (1 << operand.exponent_bits) - 1)
        if o.special:
            assert o.one == (fraction == 0)
        else:
            found = Fraction(2) ** (o.exponent - 3) * o.one * (
                1 + Fraction(o.fraction, 1 << operand.fraction_bits))
            assert found == magnitude(bits & 0x7FFF, operand)

    simulate(dut, bench)


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("pe", ELEMENTS.values())
def test_one_product_per_element(pe):
    with pytest.raises(ParameterError, match=r"^depth must be 1 where elements are "
                                             r"floating-point, got 4$"):
        pe(Params(depth=4), 0)
    # Amaranth warns of what was not used, which this cannot be, where it is dropped.
    gc.collect()


@pytest.mark.parametrize("multiplier", [LutMultiplier, BlockMultiplier])
@pytest.mark.parametrize("bits", [2, 7, 10])
def test_products(multiplier, bits):
    dut = multiplier(bits)
    rng = random.Random(bits)
    top = (1 << bits) - 1
    cases = [(0, 0), (top, top), (0, top), (top, 0)]
    cases += [(rng.randint(0, top), rng.randint(0, top)) for _ in range(100)]

    async def bench(ctx):
        for now in range(len(cases) + dut.latency):
            a, w = cases[min(now, len(cases) - 1)]
            ctx.set(dut.a, a)
            ctx.set(dut.w, w)
            if now >= dut.latency:
                a, w = cases[now - dut.latency]
                assert ctx.get(dut.o) == (a + top + 1) * (w + top + 1)
            await ctx.tick()

    simulate(dut, bench)


# The mesh.


def test_a_mesh_adds_from_the_top(arith):
    """Two tiles; numbers of few magnitudes, so that sums cancel and go on from zero."""
    params = Params(lanes=0, rows=3, cols=2, depth=1)
    dut = FloatMesh(params, ELEMENTS[arith])
    rng, length = np.random.default_rng(4), 40
    form = ELEMENTS[arith].arithmetic.operand
    some = np.repeat(numbers(rng, form, np.full(4, form.bias)), 20)
    some = np.concatenate([specials(form).astype(int), some, some ^ 1 << form.width - 1])
    tiles = [(rng.choice(some, (params.rows, params.cols)), rng.choice(some, (length, params.rows)))
             for _ in range(2)]
    span = length + dut.swap_cycles + params.rows
    found = {}

    async def bench(ctx):
        for now in range(2 * span + dut.latency):
            weights, _ = tiles[min(now // span, 1)]
            cycle = now % span if now < 2 * span else span
            ctx.set(dut.load, cycle < params.rows)
            if cycle < params.rows:
                for col in range(params.cols):
                    ctx.set(dut.weights[col].as_value(),
                            int(weights[params.rows - 1 - cycle, col]))
            ctx.set(dut.swap, cycle == params.rows)
            for row in range(params.rows):
                # Operands of row r come r steps late.
                then = now - row * ELEMENTS[arith].STEP
                _, streamed = tiles[min(max(then, 0) // span, 1)]
                i = then - min(max(then, 0) // span, 1) * span - params.rows
                if 0 <= i < length:
                    ctx.set(dut.a[row].as_value(), int(streamed[i, row]))
            found[now - dut.latency] = [ctx.get(dut.sums[col].as_value())
                                        for col in range(params.cols)]
            await ctx.tick()

    simulate(dut, bench)
    for tile, (weights, rows) in enumerate(tiles):
        expected = np.stack([column(rows, weights[:, col], arith)
                             for col in range(params.cols)], 1)
        begin = tile * span + params.rows
        assert [found[begin + i] for i in range(length)] == expected.tolist()

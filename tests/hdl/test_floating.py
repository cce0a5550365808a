"""hdl.floating: elements against the model, edges, chains and a mesh."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.floating.edges import Decode, Encode
from hdl.floating.formats import BINARY16, BINARY32
from hdl.floating.mac import Bf16Mac, Fp16Mac, Fp16NarrowMac
from hdl.params import Params
from sim.model.floating import fused
from tests.support.verilated import Stream

ELEMENTS = {"fp16": Fp16Mac, "fp16n": Fp16NarrowMac, "bf16": Bf16Mac}
PARAMS = Params(rows=2, cols=1, depth=1)


class Element(wiring.Component):
    """An element between its edges, with new weights in every clock."""
    def __init__(self, pe, row):
        form = pe.arithmetic
        super().__init__({"a": In(form.operand.layout), "w": In(form.operand.layout),
                          "c": In(form.total_layout), "o": Out(form.total.layout)})
        self.element = pe(PARAMS, row)
        #: Clocks after a number at ``a`` and ``w`` that the sum at ``c`` and ``o`` comes.
        self.c_latency = 2 + Decode.latency + self.element.latency - self.element.STEP
        self.o_latency = 2 + Decode.latency + self.element.latency + Encode.latency

    def elaborate(self, platform):
        m = Module()
        form = self.element.arithmetic
        m.submodules.element = element = self.element
        m.submodules.a = a = Decode(form, form.offset)
        m.submodules.w = w = Decode(form)
        m.submodules.late = late = Delay(a.o.shape().size, 2)
        m.submodules.o = o = Encode(form)
        m.d.comb += [
            a.i.eq(self.a), w.i.eq(self.w), element.load.eq(1), element.swap.eq(1),
            element.w_i[0].eq(w.o), late.i.eq(a.o), element.a[0].eq(late.o),
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


def inside(form, bits):
    """Packed sums as they are between elements."""
    bits = np.asarray(bits, np.uint64)
    total = form.total
    fraction = bits & np.uint64((1 << total.fraction_bits) - 1)
    stored = (bits >> np.uint64(total.fraction_bits)).astype(np.int64) & (
        (1 << total.exponent_bits) - 1)
    special = stored == (1 << total.exponent_bits) - 1
    normal = stored > 0
    exponent = np.maximum(stored, 1) - total.bias + form.offset
    if not form.limited:
        # A zero may have any exponent.
        exponent = np.where(normal, exponent, np.random.default_rng(0).integers(0, 80, len(bits)))
    width = form.total_exponent.width
    place, packed = 0, np.zeros_like(bits)
    for value, size in (
            (fraction.astype(np.int64) | normal.astype(np.int64) << total.fraction_bits,
             total.precision),
            (exponent & (1 << width) - 1, width), (special & (fraction != 0), 1), (special, 1),
            (bits >> np.uint64(total.width - 1), 1)):
        packed |= value.astype(np.uint64) << np.uint64(place)
        place += size
    return packed


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


def test_special_numbers(compiled, arith):
    form = ELEMENTS[arith].arithmetic
    a, c = specials(form.operand), reachable(arith, specials(form.total))
    check(compiled, arith, *(x.ravel() for x in np.meshgrid(a, a, c)))


def test_exponents(compiled, arith):
    form = ELEMENTS[arith].arithmetic
    rng = np.random.default_rng(1)
    a, c = form.operand, form.total
    top = rng.integers
    es = np.meshgrid(np.arange(1 << a.exponent_bits), np.arange(0, 1 << a.exponent_bits, 8
                     if a.exponent_bits > 5 else 1), np.arange(1 << c.exponent_bits))
    def numbers(form, e):
        kind = top(0, 4, e.size)
        fraction = np.select([kind == 0, kind == 1], [0, (1 << form.fraction_bits) - 1],
                             top(0, 1 << form.fraction_bits, e.size))
        return top(0, 2, e.size) << form.width - 1 | e.ravel() << form.fraction_bits | fraction
    check(compiled, arith, numbers(a, es[0]), numbers(a, es[1]),
          reachable(arith, numbers(c, es[2])))


def near(rng, arith, count):
    """Operands, and sums near their product, of the other sign."""
    form = ELEMENTS[arith].arithmetic
    a, w = rng.integers(0, 1 << 16, (2, count))
    zero = np.full(count, 1 << form.total.width - 1)
    product = fused(a, w, zero, arith).astype(np.int64)
    last = rng.integers(-4, 5, count) << rng.integers(0, form.total.fraction_bits, count)
    c = (product ^ (1 << form.total.width - 1)) + last & (1 << form.total.width) - 1
    return a, w, reachable(arith, c)


def test_cancellation(compiled, arith):
    check(compiled, arith, *near(np.random.default_rng(1), arith, 200_000))


def test_random(compiled, arith):
    rng = np.random.default_rng(2)
    form = ELEMENTS[arith].arithmetic
    a, w = rng.integers(0, 1 << 16, (2, 200_000))
    c = rng.integers(0, 1 << form.total.width, 200_000)
    check(compiled, arith, a, w, reachable(arith, c))
    # Sums of the products' size.
    c = fused(rng.permutation(a), rng.permutation(w), np.full(len(a), 0), arith).astype(np.int64)
    c = c ^ rng.integers(0, 1 << form.total.fraction_bits, len(c))
    check(compiled, arith, a, w, reachable(arith, c))


def pytest_generate_tests(metafunc):
    if "arith" in metafunc.fixturenames:
        metafunc.parametrize("arith", list(ELEMENTS))

"""hdl.baseline.quantise against sim.model.quantise."""

import numpy as np
import pytest

from hdl.baseline.quantise import Fixed, GivenScale
from hdl.instructions import Opcode, QuantiseFlag
from hdl.params import Params
from hdl.quantise import Quantiser
from sim.model.noise import element_noise, key_words
from sim.model.quantise import quantise, round_code
from tests.support.memories import UnitBench

KEY = (0x0123, 0x4567, 0x89AB, 0xCDEF)
SRC0, DST0, DST1, TAB1, TAB2 = 5, 9, 700, 7, 200


def run(unit, cases):
    """Every case, fields of the instruction, a tensor and its codes as stored, one by one."""
    bench = UnitBench(unit, unit.params, words={"wide": 1024, "quant": 1024, "group": 512})
    key0, key1 = key_words(KEY)

    async def process(ctx):
        for fields, cycles, x, q in cases:
            m, n = x.shape
            bench.load(ctx, "wide", SRC0, x)
            bench.load(ctx, "quant", DST0, np.zeros((m, n)))
            taken, clamped = await bench.run(
                ctx, Opcode.QUANTISE, m=m, n=n, src0=SRC0, dst0=DST0, dst1=DST1, tab1=TAB1,
                tab2=TAB2, key0=key0, key1=key1, **fields)
            assert (bench.dump(ctx, "quant", DST0, m, n) == q).all()
            assert (taken, clamped) == (cycles, 0)

    bench.simulate(process)


@pytest.mark.parametrize(("bits", "cols", "rows"), [(2, 1, 1), (4, 3, 6), (8, 5, 5)])
def test_a_given_scale(bits, cols, rows):
    unit = GivenScale(Params(lanes=cols, bits=bits, rows=rows, cols=cols, depth=2,
                             sample_groups=1, channel_groups=1))
    rng = np.random.default_rng(bits)
    cases = []
    for m, n in ((1, 1), (5, 7), (13, 2 * cols)):
        x = rng.integers(-2**20, 2**20, (m, n)) >> rng.integers(0, 12, n)
        for exponent in (-bits, 20 - bits, 12):
            for flags in (0, QuantiseFlag.UNSIGNED, QuantiseFlag.STOCHASTIC):
                noise = element_noise(KEY, m, n) if flags == QuantiseFlag.STOCHASTIC else None
                q = round_code(x, -exponent, noise)
                if flags == QuantiseFlag.UNSIGNED:
                    q = np.clip(q, 0, 2**bits - 1) - (1 << bits - 1)
                else:
                    q = np.clip(q, 1 - (1 << bits - 1), (1 << bits - 1) - 1)
                cases.append(({"flags": flags, "arg": exponent & 0xFF}, unit.cycles(m, n), x, q))
    run(unit, cases)


def test_what_is_fixed_is_not_asked_of_the_instruction():
    params = Params(lanes=3, rows=3, cols=3)
    unit = Fixed(Quantiser(params), flags=QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC, arg=0)
    x = np.random.default_rng(1).integers(-2**20, 2**20, (6, 7))
    q = quantise(x, bits=4, signed=True, noise=element_noise(KEY, *x.shape), groups=(4, 4)).q
    run(unit, [({"flags": QuantiseFlag.UNSIGNED | QuantiseFlag.PER_COLUMN, "arg": 9},
                unit.cycles(6, 7, grouped=True), x, q)])

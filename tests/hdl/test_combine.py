"""hdl.combine against sim.model.combine."""

import numpy as np
import pytest

from hdl.combine import Combine
from hdl.instructions import CombineFlag, Opcode
from hdl.params import Params
from sim.model.combine import combine
from tests.support.memories import UnitBench

LOW, HIGH = -(2**31), 2**31 - 1
BASES = {"a": 3, "b": 500, "o": 900}


def rows(rng, n):
    """Two rows of any size, extremes among them."""
    both = rng.integers(LOW, HIGH + 1, (2, n)) >> rng.integers(0, 32, (2, 1))
    extreme = rng.random((2, n)) < 0.3
    both[extreme] = rng.choice([LOW, HIGH, 0, -1, 1], extreme.sum())
    return both


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_rows_equal_the_model(lanes):
    params = Params(rows=lanes, cols=lanes, depth=1, lanes=lanes)
    unit = Combine(params)
    bench = UnitBench(unit, params, words={"wide": 1024, "quant": 16, "group": 16, "order": 16})
    rng = np.random.default_rng(lanes)

    async def process(ctx):
        for case in range(40):
            n = int(rng.integers(1, 4 * lanes + 2))
            tiles = -(-n // lanes)
            heights = {name: int(rng.integers(1, 9)) for name in BASES}
            values = dict(zip("ab", rows(rng, n), strict=True))
            follow, maximum = case % 4 == 0, case % 4 == 1
            flags = (CombineFlag.FOLLOW if follow else CombineFlag.MAXIMUM if maximum else
                     CombineFlag.SUBTRACT * bool(case % 4 == 2))
            flags |= CombineFlag.BROADCAST * bool(rng.integers(2))
            shift, added = int(rng.integers(0, 32)), int(rng.integers(LOW, HIGH + 1))
            for name, value in values.items():
                tall = rng.integers(LOW, HIGH + 1, (heights[name], n))
                tall[0] = value
                bench.load(ctx, "wide", BASES[name], tall)
            target = rng.integers(LOW, HIGH + 1, (heights["o"], n))
            bench.load(ctx, "wide", BASES["o"], target)
            around = [BASES["o"] - 1, BASES["o"] + heights["o"] * tiles]
            before = [bench.peek(ctx, "wide", word) for word in around]
            cycles, clamped = await bench.run(
                ctx, Opcode.COMBINE, flags=flags, n=n, src0=BASES["a"], src1=BASES["b"],
                dst0=BASES["o"], tab0=heights["a"], tab1=heights["b"], tab2=heights["o"],
                shift=shift, key0=added & 0xFFFFFFFF)
            b = values["b"][:1] if flags & CombineFlag.BROADCAST else values["b"]
            expected = combine(values["a"], b, added, subtract=bool(
                flags & CombineFlag.SUBTRACT), follow=shift if follow else None, maximum=maximum)
            found = bench.dump(ctx, "wide", BASES["o"], heights["o"], n)
            assert found[0].tolist() == expected.tolist()
            assert (found[1:] == target[1:]).all()
            assert [bench.peek(ctx, "wide", word) for word in around] == before
            assert cycles == unit.cycles(n) and clamped == 0

    bench.simulate(process)

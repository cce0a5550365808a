"""hdl.sort against sim.model.order."""

import numpy as np
import pytest

from hdl.memory import READ_LATENCY
from hdl.params import Params
from hdl.protocol import TABLE_HEADER, Opcode
from hdl.sort import Sorter
from sim.model.order import order
from tests.support.memories import UnitBench


def check(params, cases, tab0=3, words=None):
    """Every case ``(groups_of, groups)`` gives the model's table, one after the other."""
    bench = UnitBench(Sorter(params), params, words=words)

    async def process(ctx):
        for groups_of, groups in cases:
            slots, marks = order(groups_of, groups, params.depth)
            k = len(groups_of)
            bench.load_groups(ctx, tab0, groups_of)
            cycles, clamped = await bench.run(
                ctx, Opcode.SORT, k=k, tab0=tab0, arg=groups)
            assert clamped == 0
            found_slots, found_marks = bench.dump_order(ctx, tab0)
            assert found_slots.tolist() == slots.tolist()
            assert found_marks == marks
            padding = int(np.count_nonzero(slots < 0))
            assert cycles == groups * (k + READ_LATENCY + 2) + padding + TABLE_HEADER + 1

    bench.simulate(process)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("depth", "cols"), [(1, 8), (2, 1), (3, 5), (4, 8), (4, 3)])
def test_tables_equal_the_model(depth, cols, seed):
    rng = np.random.default_rng(seed)
    cases = []
    for groups in range(1, 9):
        # Few indices leave groups empty; the fewer groups are drawn from, the more so.
        k = int(rng.integers(1, 40))
        cases.append((rng.integers(0, rng.integers(1, groups + 1), k), groups))
    check(Params(lanes=0, depth=depth, cols=cols, memory=4), cases)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("group", [0, 3, 7])
def test_one_index(group, depth):
    check(Params(depth=depth, memory=4), [([group], 8)])


@pytest.mark.parametrize("groups_of", [
    [0] * 8, [7] * 8, [1, 1, 1, 1, 0, 0, 0, 0], [7, 6, 5, 4, 3, 2, 1, 0]],
    ids=["all in the first", "all in the last", "whole rows", "backwards"])
def test_extremes(groups_of):
    check(Params(depth=4, memory=4), [(groups_of, 8)])


def test_longest():
    groups_of = np.random.default_rng(0).integers(0, 2, 4096)
    check(Params(lanes=0, depth=4, cols=7, memory=4), [(groups_of, 2)],
          words={"group": 8192, "order": 8192})

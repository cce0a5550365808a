"""hdl.sort against sim.model.order."""

import numpy as np
import pytest

from hdl.instructions import TABLE_HEADER, Opcode
from hdl.memory import READ_LATENCY
from hdl.params import Params
from hdl.sort import Sorter
from hdl.unit import GROUP_WORD
from sim.model.order import order
from tests.support.memories import UnitBench


def slot_words(groups_of, slots, params):
    """The words of the group table with their slots."""
    words = {}
    for slot, index in enumerate(slots):
        if index >= 0:
            row, place = divmod(slot, params.depth)
            tile, row = divmod(row, params.rows)
            fields = {"group": int(groups_of[index]), "place": place, "row": row, "tile": tile}
            words[int(index)] = GROUP_WORD.const(fields).as_bits()
    return [words[index] for index in range(len(groups_of))]


def check(params, cases, tab0=3, words=None):
    """Every case ``(groups_of, groups)`` gives the model's tables, one after the other."""
    bench = UnitBench(Sorter(params), params, words=words)
    rng = np.random.default_rng(5)

    async def process(ctx):
        for groups_of, groups in cases:
            slots, marks = order(groups_of, groups, params.depth)
            k = len(groups_of)
            padding = int(np.count_nonzero(slots < 0))
            frame = [tab0 - 1, tab0 + k]
            before = [bench.peek(ctx, "group", address) for address in frame]
            # Of a word only the group matters; then what was sorted is sorted once more.
            bench.load_groups(ctx, tab0, groups_of + (rng.integers(0, 1 << 28, k) << 4))
            for _ in range(2):
                cycles, clamped = await bench.run(
                    ctx, Opcode.SORT, k=k, tab0=tab0, arg=groups)
                assert clamped == 0
                found_slots, found_marks = bench.dump_order(ctx, tab0)
                assert found_slots.tolist() == slots.tolist()
                assert found_marks == marks
                assert bench.dump_groups(ctx, tab0, k).tolist() == slot_words(
                    groups_of, slots, params)
                assert cycles == groups * (k + READ_LATENCY + 2) + padding + TABLE_HEADER + 1
            assert [bench.peek(ctx, "group", address) for address in frame] == before

    bench.simulate(process)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("depth", "rows"), [(1, 8), (2, 1), (3, 5), (4, 8), (4, 3)])
def test_tables_equal_the_model(depth, rows, seed):
    rng = np.random.default_rng(seed)
    cases = []
    for groups in range(1, 9):
        # Few indices leave groups empty; the fewer groups are drawn from, the more so.
        k = int(rng.integers(1, 40))
        cases.append((rng.integers(0, rng.integers(1, groups + 1), k), groups))
    check(Params(depth=depth, rows=rows, memory=4), cases)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("group", [0, 3, 7])
def test_one_index(group, depth):
    check(Params(depth=depth, memory=4), [(np.array([group]), 8)])


@pytest.mark.parametrize("groups_of", [
    [0] * 8, [7] * 8, [1, 1, 1, 1, 0, 0, 0, 0], [7, 6, 5, 4, 3, 2, 1, 0]],
    ids=["all in the first", "all in the last", "whole rows", "backwards"])
def test_extremes(groups_of):
    check(Params(depth=4, memory=4), [(np.array(groups_of), 8)])


def test_an_index_of_no_group_takes_no_slot_and_keeps_its_word():
    params = Params(rows=2, depth=2, memory=4)
    groups_of = np.array([2, 4, 1, 15, 0, 1, 3, 1, 8])
    sorted_, kept = np.flatnonzero(groups_of < 3), np.flatnonzero(groups_of >= 3)
    slots, _ = order(groups_of[sorted_], 3, params.depth)
    words = groups_of + (np.random.default_rng(1).integers(0, 1 << 28, 9) << 4)
    bench = UnitBench(Sorter(params), params)

    async def process(ctx):
        bench.load_groups(ctx, 0, words)
        await bench.run(ctx, Opcode.SORT, k=9, tab0=0, arg=3)
        assert bench.dump_order(ctx, 0)[0].tolist() == [
            -1 if slot < 0 else sorted_[slot] for slot in slots]
        found = bench.dump_groups(ctx, 0, 9)
        assert (found[kept] == words[kept]).all()
        assert found[sorted_].tolist() == slot_words(groups_of[sorted_], slots, params)

    bench.simulate(process)


def test_longest():
    groups_of = np.random.default_rng(0).integers(0, 2, 4096)
    check(Params(rows=1, depth=1, memory=4), [(groups_of, 2)],
          words={"group": 8192, "order": 8192})

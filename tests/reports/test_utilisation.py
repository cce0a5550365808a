"""reports.utilisation: products on the model's device, and what is committed."""

import json

import pytest

from hdl.params import Params
from hdl.product_cycles import product_cycles
from hdl.program import Program
from host.device import Device
from reports import utilisation
from sim.model.order import inner_tiles


def test_shares_follow_from_the_clocks(monkeypatch):
    params = Params(rows=2, cols=3, depth=2, memory=4, array_clock=2)
    with Device.open("model:", params) as device:
        device.run_cycles = 0
        run = device.run

        def counted(steps):
            run(steps)
            device.run_cycles += (50 + Program.BESIDE) * len(steps)
        monkeypatch.setattr(device, "run", counted)
        found = utilisation.measured(device, 5, 9, 7, groups=4)
    # Weights of a tile take 2 x 2 x 2 x 3 clocks, a row of results two.
    assert inner_tiles(9, 2, 2, 4) == 4
    once = 2 * product_cycles(params, 5, 1, 1, inner=True) - 1
    least = once + 11 * 24
    assert found == {"m": 5, "k": 9, "n": 7, "groups": 4, "cycles": 100, "bound": least,
                     "share": 5 * 9 * 7 / 12 / 100, "of_bound": least / 100}


@pytest.mark.parametrize(("params", "m", "n", "tiles", "least"), [
    # Rows decide, then the weights, or their tables.
    (Params(array_clock=1, lanes=4), 100, 8, 3, 5 * 101),
    (Params(array_clock=1, lanes=4), 9, 8, 3, 5 * 32),
    (Params(array_clock=2, rows=3, cols=4, depth=1), 5, 8, 3, 5 * 8 * 3 + 3 * 2 * 6),
    # The lane reads the last column tile, of one column, out; all of them.
    (Params(array_clock=2), 100, 5, 20, 39 * 101),
    (Params(array_clock=2), 100, 8, 1, 7 * 202)])
def test_what_no_schedule_goes_below(params, m, n, tiles, least):
    once = params.array_clock * (product_cycles(params, m, min(n, params.vector), 1) - 1) + 1
    assert utilisation.bound(params, m, n, tiles) == once + least


def test_groups_take_their_time_once():
    params = Params(array_clock=1)
    found = [utilisation.bound(params, 9, 4, 2, **groups)
             for groups in ({}, {"inner": True}, {"cols": True})]
    assert found == [found[0], found[0] + 7, found[0]]
    params = Params(array_clock=1, lanes=4)
    assert utilisation.bound(params, 9, 4, 2, cols=True) == utilisation.bound(params, 9, 4, 2) + 3


def test_more_rows_than_an_instruction_has(monkeypatch):
    params = Params(rows=2, cols=3, depth=2, memory=16)
    instructions = []
    with Device.open("model:", params) as device:
        device.run_cycles = 0
        run = device.run

        def counted(steps):
            run(steps)
            instructions.extend(steps)
            device.run_cycles += 1 + Program.BESIDE * len(steps)
        monkeypatch.setattr(device, "run", counted)
        found = utilisation.measured(device, 1024, 7, 4)
    assert len(instructions) == 3
    assert found["bound"] == sum(utilisation.bound(params, m, 4, 2) for m in (341, 341, 342))


def test_a_wrong_product_is_an_error(monkeypatch):
    params = Params(rows=2, cols=2, depth=2, memory=4)
    with Device.open("model:", params) as device:
        device.run_cycles = 0
        monkeypatch.setattr(device, "run", lambda steps: None)
        with pytest.raises(AssertionError, match="computes another product of 3x4 by 4x2"):
            utilisation.measured(device, 3, 4, 2)


def test_what_is_committed_is_of_the_listed_products_and_as_good_as_it_is_said_to_be():
    found = json.loads(utilisation.FILE.read_text())
    assert [machine["machine"] for machine in found] == [
        params.name for params in utilisation.MACHINES]
    for machine, params in zip(found, utilisation.MACHINES, strict=True):
        assert [(one["m"], one["k"], one["n"]) for one in machine["products"][::2]] == (
            utilisation.shapes(params))
        # Every shape reaches 97 % of the bound; sixteen times what the array holds, and more, 95 %
        # of the peak, where lanes are enough to read out what the faster clock makes.
        large = machine["products"][:4] if params.cols // params.vector <= 4 else []
        assert all(one["share"] > 0.95 for one in large if one["groups"] == 1)
        assert all(one["of_bound"] > 0.97 for one in machine["products"])

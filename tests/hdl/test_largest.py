"""hdl.build.largest: the largest machine that is placed and routed."""

from itertools import pairwise

import pytest

from boards.parts import parse_part
from hdl.build.fit import EstimateError, FitError
from hdl.build.largest import FILL, largest, sizes
from hdl.build.tools import ToolError
from hdl.params import Params

PART = parse_part("LFE5U-85F-6BG381C")
SIZES = sizes(Params(), PART)


def search(*, synthesised, routed, found=SIZES):
    """Look for the largest, where so many products are synthesised and routed at most."""
    asked = {"synthesise": [], "route": []}

    def synthesise(params):
        asked["synthesise"].append(params.macs)
        if params.macs > 2 * synthesised:
            raise FitError("too large by far")
        share = FILL["comb"] + (0 if params.macs <= synthesised else 0.001)
        return {"total": {"comb": share * PART.die.comb, "ff": 1}}

    def route(params):
        asked["route"].append(params.macs)
        if params.macs > routed:
            raise ToolError("no more bels", told=True)
        return params.macs

    report = largest(found, PART, synthesise=synthesise, route=route, say=lambda line: None)
    return report, asked


@pytest.mark.parametrize("most", [SIZES[0].macs, 100, 512, 4096])
def test_the_largest_is_found_with_few_syntheses(most):
    report, asked = search(synthesised=most, routed=4096)
    assert report == max(one.macs for one in SIZES if one.macs <= most)
    assert len(asked["synthesise"]) <= len(SIZES).bit_length() + 1
    assert asked["route"] == [report]


def test_smaller_ones_are_tried_until_one_is_routed():
    report, asked = search(synthesised=600, routed=450)
    sizes_tried = [one.macs for one in reversed(SIZES) if report <= one.macs <= 600]
    assert report <= 450 and asked["route"] == sizes_tried and len(sizes_tried) > 2


def test_where_nothing_fits_that_is_said():
    with pytest.raises(FitError, match=r"^not even shift-4b-4x4-1x1x4 fits LFE5U-85F-6BG381C once"):
        search(synthesised=0, routed=0)
    with pytest.raises(FitError, match=r"not even shift-4b-4x4-1x1x4 could be routed$"):
        search(synthesised=100, routed=0)


def test_a_tool_that_is_missing_is_no_reason_to_try_less():
    def route(params):
        raise ToolError("nextpnr was not found")

    with pytest.raises(ToolError, match="not found"):
        largest(SIZES, PART, synthesise=lambda params: {"total": {"comb": 1, "ff": 1}}, route=route,
                say=lambda line: None)


def test_sizes_grow_by_a_twentieth_or_more_and_are_nearly_square():
    grown = [high / low for low, high in pairwise(one.macs for one in SIZES)]
    # There are few shapes of few rows.
    assert min(grown) >= 1.05 and max(grown[14:]) <= 1.25
    assert all(one.rows <= 2 * one.cols <= 4 * one.rows for one in SIZES)
    assert all(one.slots % one.cols == 0 for one in SIZES)
    assert SIZES[-1].macs > 3500 and {one.depth for one in SIZES} == {4}
    assert {one.memory for one in SIZES[:25]} == {32}


def test_columns_memory_and_lanes_stay_as_given():
    given = sizes(Params(lanes=0, cols=2, depth=3), PART, cols=2, memory=16)
    assert {(one.cols, one.depth, one.memory) for one in given} == {(2, 3, 16)}
    assert given[-1].rows >= 50
    assert all(one.cols in (1, 2) or one.cols % 4 == 0
               for one in sizes(Params(cols=4, lanes=4), PART))


def test_what_no_size_can_have_is_refused():
    with pytest.raises(EstimateError, match="block RAM"):
        sizes(Params(), parse_part("LFE5U-25F-6BG381C"), memory=256)

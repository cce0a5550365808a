"""reports.units: every design can be built alone."""

import pytest
from amaranth.back import rtlil

from reports.units import UNITS


@pytest.mark.parametrize("name", [
    "norm-l2-backward", "norm-fp16-forward", "norm-fp16-backward", "quantise-given", "quantise-1x1",
    "sort-4"])
def test_a_unit_is_a_top_level_of_its_own(name):
    assert "module \\top" in rtlil.convert(UNITS[name].make(1), name="top", emit_src=False)


def test_every_unit_has_something_to_be_compared_with():
    categories = [unit.category for unit in UNITS.values()]
    alone = {category for category in categories if categories.count(category) == 1}
    # The integer element is compared with arrays.
    assert alone == {"part of a quantiser", "sorter", "integer element"}

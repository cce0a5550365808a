"""reports: tables of machines, and that what is committed is what is drawn."""

import xml.etree.ElementTree as ET

import pytest

from reports import __main__ as drawing
from reports.figures import Results, read_budget

POINT = {
    "design": {"bits": 4, "groups": "4x4", "rows": 8, "cols": 1, "depth": 8, "lanes": 1,
               "arith": "shift", "memory": 32, "array_clock": 3,
               "clock_mhz": 40.0},
    "part": "LFE5U-85F-6BG381C", "board": "ulx3s-85f", "placed": True,
    "placement": "wire length",
    "total": {"comb": 2200, "ff": 1000, "ebr": 93, "dsp": 26},
    "array": {"comb": 110, "ff": 70, "ebr": 0, "dsp": 0},
    "units": {"array": {"comb": 110}, "gemm": {"comb": 2090}},
    "fmax_mhz": {"median": 50.0, "min": 48.0, "max": 52.0, "seeds": [50.0, 48.0, 52.0],
                 "failed": {}},
    "macs_per_clock": 64, "comb_per_mac": 1.72, "gops": 5.12, "tools": {"yosys": "1"},
}
PLAIN = {**POINT, "design": {**POINT["design"], "arith": "int", "groups": "1x1"},
         "total": {**POINT["total"], "comb": 2000}, "array": {**POINT["array"], "comb": 100}}


def test_the_tables_compare_what_is_comparable():
    text = drawing.readme([PLAIN, POINT])
    assert "| shift 4x4, 4 bits, 8x1x8 | LFE5U-85F-6BG381C | 2,200 |" in text
    assert "against int 1x1, 4 bits, 8x1x8 | +10.0 % | +0.0 % | +10.0 % |" in text
    other = {**PLAIN, "design": {**PLAIN["design"], "bits": 5}}
    assert "What ShiftQuant costs" not in drawing.readme([other, POINT])
    assert "Nothing has been measured yet" in drawing.readme([])


def test_bars_are_a_picture():
    root = ET.fromstring(drawing.bars([PLAIN, POINT]))
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "array: 110 COMB" in titles and "gemm: 2090 COMB" in titles


def test_what_is_committed_is_what_is_drawn(tmp_path):
    results = Results()
    assert not results.damaged
    drawing.write(results, read_budget(), tmp_path)
    for name in ("README.md", "comb.svg", "index.html"):
        assert (tmp_path / name).read_text() == (drawing.FOLDER / name).read_text(), \
            "run python -m reports"
    text = (drawing.FOLDER.parent / "README.md").read_text()
    assert drawing.project_readme(text, results) == text, "run python -m reports"
    for name, page in (("array.md", drawing.array_page), ("machine.md", drawing.machine_page)):
        text = (drawing.FOLDER.parent / "docs" / name).read_text()
        assert page(text) == text, "run python -m reports"


def test_a_readme_without_marks_is_left_alone():
    with pytest.raises(SystemExit, match="has not the marks <!-- study -->"):
        drawing.project_readme("# shiftgrad", Results())

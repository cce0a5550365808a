"""reports: what is drawn is committed, measurements resume, a point's key covers its causes."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import pytest

from boards.parts import parse_part
from hdl.build.design import Design
from hdl.build.flow import Outcome
from hdl.build.summary import measured
from hdl.params import Params
from reports import __main__ as drawing
from reports import measure

POINT = {
    "design": {"bits": 4, "groups": "4x4", "rows": 8, "cols": 1, "depth": 8, "arith": "shift",
               "memory": 32, "clock_mhz": 40.0},
    "part": "LFE5U-85F-6BG381C", "board": "ulx3s-85f", "placed": True,
    "total": {"comb": 2200, "ff": 1000, "ebr": 93, "dsp": 26},
    "array": {"comb": 110, "ff": 70, "ebr": 0, "dsp": 0},
    "units": {"array": {"comb": 110}, "gemm": {"comb": 2090}},
    "fmax_mhz": {"median": 50.0, "min": 48.0, "max": 52.0, "seeds": [50.0, 48.0, 52.0]},
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
    drawing.write(measured(), tmp_path)
    for name in ("README.md", "comb.svg"):
        assert (tmp_path / name).read_text() == (drawing.FOLDER / name).read_text(), \
            "run python -m reports"


DESIGN = Design(params=Params(), board="ulx3s-85f", part=parse_part("LFE5U-85F-6BG381C"),
                clock=40, rtlil="module \\top\nend\n", lpf="", units={})


@pytest.mark.parametrize("change", [
    {"rtlil": "module \\top\n\nend\n"}, {"part": parse_part("LFE5U-85F-7BG381C")}, {"clock": 41},
    {"lpf": "BLOCK ASYNCPATHS;"}])
def test_a_key_changes_with_each_cause(change):
    key = measure.point_key(DESIGN, 5, False, {"yosys": "1"})
    assert key == measure.point_key(replace(DESIGN), 5, False, {"yosys": "1"})
    assert key != measure.point_key(replace(DESIGN, **change), 5, False, {"yosys": "1"})
    assert key != measure.point_key(DESIGN, 4, False, {"yosys": "1"})
    assert key != measure.point_key(DESIGN, 5, False, {"yosys": "2"})
    assert key != measure.point_key(DESIGN, 5, True, {"yosys": "1"})


def test_a_finished_point_is_not_measured_again(tmp_path, monkeypatch, capsys):
    runs = []
    tools = SimpleNamespace(versions=lambda: {"yosys": "1"})
    options = SimpleNamespace(params=Params(), board="ulx3s-85f", part=DESIGN.part,
                              clock_mhz=40, seeds=2, timing_driven=False)
    monkeypatch.setattr(measure, "elaborate", lambda *_, **__: DESIGN)

    def build(design, **_):
        runs.append(design)
        return Outcome(POINT, True, "")
    monkeypatch.setattr(measure, "build", build)
    progress = measure.Progress(live=False)
    for _ in range(2):
        path = measure.measure(options, progress, tools, folder=tmp_path)
    assert len(runs) == 1
    assert json.loads(path.read_text())["report"] == POINT
    assert [file.name for file in tmp_path.iterdir()] == [
        "shift-4b-4x4-8x1x8-32k-ulx3s-85f-40mhz.json"]
    options.seeds = 3
    measure.measure(options, progress, tools, folder=tmp_path)
    assert len(runs) == 2
    assert capsys.readouterr().err.count("is finished") == 1


def test_bad_points_are_refused_as_builds_are(capsys):
    assert measure.main(["--bits", "9"]) == 2
    assert "bits must be a whole number from 2 to 8, got 9" in capsys.readouterr().err

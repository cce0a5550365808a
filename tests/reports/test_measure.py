"""reports.measure: what is asked for, what is kept, and that it can be stopped and goes on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from boards.parts import parse_part
from hdl.build.alone import MeshAlone
from hdl.build.design import Design
from hdl.build.fit import FitError
from hdl.build.flow import Outcome
from hdl.build.tools import ToolError
from hdl.params import Params
from reports import measure
from reports.points import Point, Store, UnitAlone, alone, machine, standing

PART = parse_part("LFE5U-25F-6BG381C")
DESIGN = Design(name="x", scope="accelerator", described={}, fingerprint="f", macs=64,
                board="ulx3s-85f", part=parse_part("LFE5U-85F-6BG381C"), clock=40,
                rtlil="module \\top\nend\n", lpf="", units={})
CELLS = {"comb": 4, "ff": 0, "ebr": 0, "dsp": 0}
REPORT = {
    "scope": "noise", "part": "LFE5U-85F-6BG381C", "board": None, "placement": "timing",
    "tools": {"yosys": "1"}, "total": {**CELLS, "comb": 5}, "array": CELLS,
    "fmax_mhz": {"median": 50.0, "min": 50.0, "max": 50.0, "seeds": [50.0], "failed": {},
                 "cap_mhz": 190.7, "cap_reason": "block RAM"}}


# Keys.


@pytest.mark.parametrize("change", [
    {"rtlil": "module \\top\n\nend\n"}, {"part": parse_part("LFE5U-85F-7BG381C")}, {"clock": 41},
    {"lpf": "BLOCK ASYNCPATHS;"}, {"mapping": "lut"}, {"fingerprint": None}])
def test_a_key_changes_with_each_cause(change):
    key = measure.point_key(DESIGN, 5, False, {"yosys": "1"})
    assert key == measure.point_key(replace(DESIGN), 5, False, {"yosys": "1"})
    assert key != measure.point_key(replace(DESIGN, **change), 5, False, {"yosys": "1"})


def test_a_key_changes_with_seeds_tools_and_options():
    key = measure.point_key(DESIGN, 5, False, {"yosys": "1"})
    assert len({key, measure.point_key(DESIGN, 4, False, {"yosys": "1"}),
                measure.point_key(DESIGN, 5, False, {"yosys": "2"}),
                measure.point_key(DESIGN, 5, True, {"yosys": "1"})}) == 4


# What is kept.


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def tools():
    return SimpleNamespace(versions=lambda: {"yosys": "1"})


@pytest.fixture
def runs(monkeypatch):
    """Builds that were made; ``runs.error`` is what the next ones fail with."""
    made = SimpleNamespace(designs=[], error=None)

    def build(design, *, out, **_):
        made.designs.append(design.name)
        if made.error:
            raise made.error
        out.mkdir(parents=True)
        (out / "floorplan.svg").write_text("<svg/>")
        return Outcome(REPORT, True, "")
    monkeypatch.setattr(measure, "build", build)
    monkeypatch.setattr(Point, "design", lambda point: replace(DESIGN, name=point.name))
    monkeypatch.setattr(measure, "Tools", lambda jobs=1: SimpleNamespace(
        versions=lambda: {"yosys": "1"}, stop=lambda: None))
    return made


def test_a_finished_point_is_not_measured_again(store, tools, runs):
    point = machine()
    assert measure.measure(point, tools, store) == "measured"
    assert measure.measure(point, tools, store) == "finished"
    assert len(runs.designs) == 1
    kept = json.loads(store.path(point).read_text())
    assert kept["report"] == REPORT and kept["failure"] is None
    assert kept["command"].startswith("python -m reports.measure --arith shift --bits 4 ")
    assert store.floorplan(point).read_text() == "<svg/>"
    assert [path.name for path in store.folder.glob("*.json")] == [
        "shift-4b-4x4-4x4x4-32k-ulx3s-85f-60mhz.json"]
    measure.measure(replace(point, seeds=3), tools, store)
    assert len(runs.designs) == 2


def test_what_cannot_be_placed_is_kept_with_the_reason(store, tools, runs):
    point = alone(MeshAlone())
    runs.error = ToolError("nextpnr-ecp5 failed: no more bels (logs in build-failed)", told=True)
    assert measure.measure(point, tools, store) == (
        "failed: nextpnr-ecp5 failed: no more bels")
    assert store.state(point) == "failed"
    assert measure.measure(point, tools, store) == "finished"
    runs.error = FitError("the synthesised design does not fit")
    assert measure.measure(replace(point, seeds=2), tools, store).startswith("failed: the synth")


def test_what_says_nothing_about_the_design_is_not_kept(store, tools, runs):
    point = alone(MeshAlone())
    runs.error = ToolError("nextpnr-ecp5 failed: exit status -9")
    with pytest.raises(ToolError):
        measure.measure(point, tools, store)
    assert store.state(point) == "not measured"
    assert measure.main(["--scope", "mesh"], store) == 1


def test_a_size_that_cannot_fit_is_refused_before_synthesis(store, tools, runs):
    point = alone(MeshAlone(bits=8, rows=64, cols=64))
    assert "does not fit LFE5U-25F-6BG381C: at least" in measure.measure(point, tools, store)
    assert runs.designs == [] and store.state(point) == "failed"


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"key": "x"}', '{"key": "x", "report": null, "failure": null}',
    '{"key": "x", "report": {"total": {"comb": 1}}}'])
def test_a_damaged_file_is_named_and_measured_again(store, tools, runs, content, capsys):
    point = alone(MeshAlone())
    store.path(point).parent.mkdir(parents=True)
    store.path(point).write_text(content)
    assert store.state(point) == "damaged"
    assert measure.main(["--scope", "mesh"], store) == 0
    assert f"{store.path(point)} is damaged" in capsys.readouterr().err
    assert store.state(point) == "measured" and len(runs.designs) == 1


# What is asked for.


def test_the_standing_list_is_measured_once_and_goes_on(store, runs, capsys):
    assert measure.main(["--only", "mesh-int-*-25F-6*", "--jobs", "2"], store) == 0
    said = capsys.readouterr().err.splitlines()
    count = len(runs.designs)
    assert count == len(said) >= 7
    assert all(name.startswith("mesh-int-") for name in runs.designs)
    assert said[0].startswith(f"1/{count} mesh-int-") and "min left" in said[0]
    assert "left" not in said[-1]
    store.path(standing()[-1]).unlink(missing_ok=True)
    assert measure.main(["--only", "mesh-int-*-25F-6*"], store) == 0
    assert len(runs.designs) == count
    assert capsys.readouterr().err.count("finished") == count


def test_a_list_says_what_there_is(store, runs, capsys):
    assert measure.main(["--scope", "mesh", "--bits", "3"], store) == 0
    assert measure.main(["--list", "--only", "mesh-shift-[34]b-*4x4x4-lut-*25F-6*"], store) == 0
    assert capsys.readouterr().out.splitlines() == [
        "measured      mesh-shift-3b-4x4-4x4x4-lut-LFE5U-25F-6BG381C",
        "not measured  mesh-shift-4b-4x4-4x4x4-lut-LFE5U-25F-6BG381C"]
    assert len(runs.designs) == 1


def test_a_list_can_say_what_is_stale(store, runs, capsys, monkeypatch):
    assert measure.main(["--scope", "mesh"], store) == 0
    asked = ["--list", "--check", "--scope", "mesh"]
    assert measure.main(asked, store) == 0
    assert capsys.readouterr().out.startswith("measured      mesh-shift-4b")
    changed = replace(DESIGN, rtlil=DESIGN.rtlil + " ")
    monkeypatch.setattr(Point, "design", lambda point: changed)
    assert measure.main(asked, store) == 0
    assert capsys.readouterr().out.startswith("stale         mesh-shift-4b")
    assert measure.main(asked[1:], store) == 2
    assert capsys.readouterr().err == "error: --check is for --list\n"


def test_json_is_all_that_is_printed(store, runs, capsys):
    assert measure.main(["--scope", "noise", "--lanes", "2", "--json"], store) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "noise-2lanes-dsp-LFE5U-25F-6BG381C" and found["report"] == REPORT


def test_an_interrupt_keeps_what_is_finished(store, runs, capsys):
    measure.main(["--scope", "noise"], store)
    runs.error = KeyboardInterrupt()
    assert measure.main(["--scope", "mesh"], store) == 130
    assert "finished points are kept" in capsys.readouterr().err
    assert len(list(store.folder.glob("alone/*"))) == 1


@pytest.mark.parametrize("point", [
    machine(), replace(machine(bits=3), timing_driven=True),
    Point(Params(), PART, clock_mhz=50, seeds=2), alone(MeshAlone(bits=6, rows=2), "45F", 8),
    alone(UnitAlone(scope="noise", lanes=4, mapping="lut"))], ids=lambda point: point.name)
def test_a_point_is_measured_by_its_own_command(point):
    words = point.command.removeprefix("python -m reports.measure ").split()
    _, points = measure.read_points(words)
    assert [(found.name, found.seeds) for found in points] == [(point.name, point.seeds)]


def test_without_arithmetic_a_machine_and_its_twin_are_measured():
    _, points = measure.read_points(["--bits", "5"])
    assert [point.subject.arith for point in points] == ["shift", "int"]
    assert {point.seeds for point in points} == {5}


def test_points_have_names_of_their_own():
    points = standing(large=True)
    assert len({point.name for point in points}) == len(points) > len(standing())


@pytest.mark.parametrize(("argv", "sentence"), [
    ("--bits 9", "--bits must be a whole number from 2 to 8, got 9"),
    ("--scope mesh --bits 1", "--bits must be a whole number from 2 to 8, got 1"),
    ("--scope mesh --part LFE5U-85F", "--part must be LFE5U-"),
    ("--scope mesh --part LFE5U-25F-5BG381C", "--part must be LFE5U-"),
    ("--scope mesh --arith posit", "--arith must be one of shift, int"),
    ("--scope mesh --rows 65", "--rows must be a whole number from 1 to 64, got 65"),
    ("--scope heart", "--scope must be accelerator, mesh, core or one of norm-l1-forward"),
    ("--scope noise --mapping x", "--mapping must be lut or dsp, got 'x'"),
    ("--jobs none", "--jobs must be a whole number from 1 to 256, got none"),
    ("--seeds 0", "--seeds must be a whole number from 1 to 100, got 0"),
    ("--only nothing", "--only matches none of "),
    ("--scope mesh --wide", "unrecognized arguments: --wide"),
])
def test_a_bad_argument_gets_one_sentence(argv, sentence, store, capsys):
    assert measure.main(argv.split(), store) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: {sentence}")
    assert said.err.count("\n") == 1

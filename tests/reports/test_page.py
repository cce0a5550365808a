"""reports.page and what it is drawn from: figures are linked, and what is missing is said."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

import reports
from boards.platforms import board_part, board_platform
from hdl.build.fit import estimate
from hdl.build.summary import DamagedError, read_point
from hdl.params import Params
from hdl.program import units_of
from reports.figures import CATEGORIES, Results, by_category, fits, read_budget
from reports.page import page
from reports.points import Store, standing
from reports.summary import arrays, machines, units

FOLDER = Path(reports.__file__).parent
MACHINE = {
    "design": {"rows": 4, "cols": 4, "depth": 4, "lanes": 1, "memory": 32, "array_clock": 3,
               "clock_mhz": 40.0},
    "total": {"comb": 2200, "ff": 1000, "ebr": 93, "dsp": 26},
    "array": {"comb": 110, "ff": 70, "ebr": 0, "dsp": 0},
    "units": {"array": {"comb": 110, "ff": 70, "ebr": 0, "dsp": 0},
              "gemm": {"comb": 790, "ff": 330, "ebr": 93, "dsp": 26},
              "quantise": {"comb": 500, "ff": 200, "ebr": 0, "dsp": 0},
              "norm_forward": {"comb": 400, "ff": 200, "ebr": 0, "dsp": 0},
              "norm_backward": {"comb": 300, "ff": 100, "ebr": 0, "dsp": 0},
              "sequencer": {"comb": 100, "ff": 100, "ebr": 0, "dsp": 0}},
    "macs_per_clock": 64, "comb_per_mac": 1.72, "gops": 5.12, "tools": {"yosys": "1"},
    "placement": "wire length",
}
FMAX = {"median": 50.0, "min": 48.0, "max": 52.0, "seeds": [50.0, 48.0, 52.0], "failed": {},
        "cap_mhz": 190.7, "cap_reason": "block RAM"}


class Page(HTMLParser):
    """What there is on a page: links, words, and whether every tag is closed."""
    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self._keep(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._keep(attrs)

    def _keep(self, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_every_unit_of_the_machine_has_a_category():
    known = {unit for units in CATEGORIES.values() for unit in units}
    assert {unit.name.lower() for unit in units_of(Params())} <= known


def _page(folder):
    return page(Results(folder), read_budget())


@pytest.fixture
def full(tmp_path):
    """A folder in which everything is measured: arrays take 20 LUT4 per bit and product."""
    store = Store(tmp_path)
    for point in standing(large=True):
        subject = point.subject
        if point.is_machine:
            design = {**MACHINE["design"], "bits": subject.bits, "groups": subject.groups,
                      "arith": subject.arith}
            report = {**MACHINE, "design": design, "board": point.board}
        else:
            comb = (subject.macs or 10) * 20 * getattr(subject, "bits", 4)
            cells = {"comb": comb, "ff": comb, "ebr": 0, "dsp": 0}
            report = {"scope": subject.scope, "design": subject.described(), "tools": {},
                      "board": None, "placement": "timing", "macs_per_clock": subject.macs,
                      "gops": 1.0, "total": cells, "array": cells}
        store.write(point, "key", report={**report, "part": point.part.name, "fmax_mhz": FMAX})
    return store


def test_the_page_needs_no_network_and_its_links_lead_somewhere():
    text = (FOLDER / "index.html").read_text()
    found = Page(text)
    assert found.links and len(set(found.ids)) == len(found.ids)
    for link in found.links:
        if link.startswith("#"):
            assert link[1:] in found.ids
        else:
            assert (FOLDER / link).resolve().is_file(), link
    assert "<script" not in text and "@import" not in text and "http" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_where_nothing_is_measured_that_is_said(tmp_path):
    text = _page(tmp_path)
    assert "".join(Page(text).words).count("not measured") > 2 * len(standing())
    # The command that would measure it is there.
    for point in standing(large=True):
        assert f"<code>{point.command}</code>" in text
    table = arrays(Results(tmp_path))
    assert "Not measured yet: shift 4x4, 4 bits (8x8); " in table and "%" not in table
    assert "| plain integers | not measured | not" in machines(Results(tmp_path))
    assert "| norm-l1-forward | not measured | not" in units(Results(tmp_path))


def test_every_figure_of_a_full_folder_is_shown_and_linked(full):
    text = _page(full.folder)
    links = set(Page(text).links)
    for point in standing(large=True):
        assert f"data/{full.path(point).relative_to(full.folder)}" in links
    for title in ("COMB per MAC against width", "COMB per MAC, 2x2", "Fmax by seed, 4x4",
                  "Fmax by seed, 2x2", "Fmax by seed, machines", "COMB by unit"):
        assert f'aria-label="{title}"' in text
    assert "shift 4x4, 4 bits" in text and ">80.00</a>" in text
    table = arrays(Results(full.folder))
    assert "| shift 4x4, 4 bits | [80.0](reports/data/alone/mesh-shift-4b-" in table
    assert "| shift, 4 bits, against int, 4 bits | +0.0 % |" in table
    table = machines(Results(full.folder))
    assert "| ShiftQuant's price, array alone | +0.0 % |" in table
    assert "which 3 of 3 seeds meet" in table
    table = units(Results(full.folder))
    assert "| [norm-l1-forward](reports/data/alone/norm-l1-forward-1lanes-" in table
    assert "| 2,278 | 45.6 |" in table


def test_a_failure_is_shown_with_its_reason(full):
    point = next(point for point in standing() if not point.is_machine)
    full.write(point, "key", failure="no more bels <here>")
    text = _page(full.folder)
    assert 'title="no more bels &lt;here&gt;">failed</a>' in text
    assert ">no more bels &lt;here&gt;</a>" in text


def test_norms_are_given_the_time_that_they_take(full):
    text = _page(full.folder)
    # 2,278 cycles at 50 MHz.
    assert ">2,278</a>" in text and ">45.6</a>" in text
    assert "norm-l1-forward, 1 lane" in text and "norm-l1-forward, no DSP, 1 lane" in text


def test_our_elements_stand_beside_others(full):
    text = _page(full.folder)
    text = text[text.index('<section id="elsewhere">'):]
    # 800 LUT4 at 50 MHz beside 1,063 at 67 MHz.
    for words in ("ours: fp16n, no DSP, one element", "ours: fp16n, DSP, one element",
                  "ours: fp16, no DSP, 2x2x1", "ours: packed, DSP, one element",
                  "ours: int, 4 bits, 4x4x4", ">1,600</a>", ">1,587</td>"):
        assert words in text


def test_steps_of_a_quantiser_are_differences(full):
    for scope, comb in (("quantise-given", 1000), ("quantise-1x1", 1400)):
        point = next(point for point in standing() if not point.is_machine
                     and point.subject.scope == scope)
        report = Results(full.folder).every[point.name].report
        full.write(point, "key", report={**report, "array": {**report["array"], "comb": comb}})
    text = _page(full.folder)
    assert ">+400 (+40.0 %)</a>" in text and "quantise-1x1 against quantise-given" in text


def test_a_failed_seed_is_counted_and_keeps_its_number(full):
    point = next(point for point in standing()
                 if not point.is_machine and point.subject.bits == 4)
    report = Results(full.folder).every[point.name].report
    fmax = {**FMAX, "failed": {"2": "unroutable"}}
    full.write(point, "key", report={**report, "fmax_mhz": fmax})
    results = Results(full.folder)
    text = _page(full.folder)
    assert ">50.0 (48.0 to 52.0, 3 of 4 seeds)</a>" in text
    assert f"{point.name}: 48.0 MHz with seed 3\n" in text
    assert f"{point.name}: 48.0 MHz with seed 2\n" not in text
    assert "| 50.0 (48.0 to 52.0, 3 of 4 seeds) |" in arrays(results)


def test_a_damaged_file_is_named_and_skipped(full):
    path = full.path(standing()[0])
    path.write_text("{")
    results = Results(full.folder)
    assert [str(error) for error in results.damaged] == [
        f"{path} is damaged and counts as not measured"]
    assert str(path) in page(results, read_budget())
    assert results.every[path.stem].state == "not measured"


def _changed(content, path, value):
    """A copy of nested dictionaries with another value, or without one."""
    name, *rest = path
    if rest:
        return {**content, name: _changed(content[name], rest, value)}
    kept = {key: old for key, old in content.items() if key != name}
    return kept if value is None else {**kept, name: value}


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, True, float("nan")], ids=repr)
@pytest.mark.parametrize("path", [
    ("key",), ("report", "part"), ("report", "board"), ("report", "tools"),
    ("report", "total"), ("report", "array"),
    ("report", "array", "ff"), ("report", "total", "dsp"), ("report", "macs_per_clock"),
    ("report", "gops"), ("report", "comb_per_mac"), ("report", "units"),
    ("report", "units", "gemm"), ("report", "units", "quantise", "comb"), ("report", "design"),
    ("report", "design", "arith"), ("report", "design", "memory"),
    ("report", "design", "array_clock"), ("report", "design", "clock_mhz"),
    ("report", "fmax_mhz"), ("report", "fmax_mhz", "median"),
    ("report", "fmax_mhz", "seeds"), ("report", "fmax_mhz", "failed"),
    ("report", "fmax_mhz", "cap_mhz")], ids=".".join)
def test_what_is_drawn_must_be_there_and_make_sense(tmp_path, path, value):
    result = next(one for one in Results().machines if one.report["design"]["arith"] == "shift")
    content = json.loads((FOLDER / result.href).read_text())
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(content))
    assert read_point(file)["report"] == content["report"]
    fine = {"key": "x", "part": "x", "board": "x", "tools": {}, "failed": {}}
    if fine.get(path[-1]) == value:
        return
    file.write_text(json.dumps(_changed(content, path, value)))
    with pytest.raises(DamagedError, match="is damaged and counts as not measured"):
        read_point(file)


def test_what_is_damaged_inside_is_named_and_skipped(full, tmp_path):
    mesh, machine_ = (next(point for point in standing() if point.is_machine == is_machine)
                      for is_machine in (False, True))
    every = Results(full.folder).every
    full.write(mesh, "key", report={**every[mesh.name].report, "array": {"comb": 3}})
    report = every[machine_.name].report
    full.write(machine_, "key", report={
        **report, "units": {**report["units"], "garage": report["units"]["array"]},
        "total": {**report["total"], "comb": 2310, "ff": 1070}})
    results = Results(full.folder)
    assert sorted(str(error) for error in results.damaged) == sorted([
        f"{full.path(mesh)} is damaged and counts as not measured",
        f"{full.path(machine_)} has units that reports.figures.CATEGORIES does not know, garage, "
        "and is left out"])
    text = page(results, read_budget())
    assert all(str(full.path(point)) in text for point in (mesh, machine_))


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", '{"tolerance_percent": 3, "entries": [{}]}',
    '{"tolerance_percent": 3, "entries": 3}'])
def test_damaged_sizes_are_named_and_not_drawn(tmp_path, content):
    path = tmp_path / "size_budget.json"
    assert read_budget(path).content["entries"] == []
    path.write_text(content)
    with pytest.raises(DamagedError, match="is damaged and is not drawn"):
        read_budget(path)
    assert "The file of sizes is damaged." in page(Results(tmp_path), None)


def test_what_fits_a_board_is_estimated_from_what_is_measured(tmp_path, full):
    assert {fit.shape for fit in fits(Results(tmp_path / "empty"))} == {None}
    found = {(fit.board, fit.bits): fit for fit in fits(Results(full.folder))}
    small, large = found["ulx3s-12f", 8], found["ulx3s-85f", 8]
    # 1,300 of sequencer and lane, 790 for 4 rows or columns, 20 x 8 per product.
    for fit, comb in ((small, 24_288), (large, 83_640)):
        sizes = [rows * cols * 4 for rows in range(1, 65) for cols in range(1, 65) if
                 1300 + 790 * max(1, rows / 4, cols / 4) + 640 * rows * cols <= 0.85 * comb]
        assert fit.macs == fit.shape[0] * fit.shape[1] * 4 == max(sizes)
    assert small.measured is None and large.measured.report["macs_per_clock"] == 64
    for fit in found.values():
        rows, cols = fit.shape
        params = Params(bits=fit.bits, rows=rows, cols=cols, memory=fit.memory)
        assert estimate(params)["ebr"] <= board_part(board_platform(fit.board)).die.ebr


def test_units_of_committed_machines_have_categories():
    for result in Results().machines:
        assert sum(by_category(result.report).values()) == result.report["total"]["comb"]

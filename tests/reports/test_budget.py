"""The size budget: the machine and the array may not grow without an entry."""

import json
from itertools import pairwise

import pytest

from hdl.build.summary import DamagedError
from hdl.build.tools import Progress
from reports import budget
from reports.budget import Budget


def _entry(comb, ff=100, mesh=50):
    return {"machine": {"comb": comb, "ff": ff, "units": {"board": {"comb": comb, "ff": ff}}},
            "array": {"comb": mesh, "ff": mesh}}


BUDGET = Budget({"tolerance_percent": 3, "entries": [
    {"date": "2026-11-01", "what": "first", **_entry(900)},
    {"date": "2026-11-02", "what": "second", **_entry(1000)}]})


@pytest.mark.parametrize("subjects", [("array", "quantiser"), ("machine",)], ids=" and ".join)
def test_sizes_are_within_the_budget(subjects):
    assert not Budget.read().excess(budget.synthesised(subjects, Progress(live=False)))


@pytest.mark.parametrize(("now", "grown"), [
    (_entry(1030), ""), (_entry(500, 50, 10), ""),
    (_entry(1031), "COMB of the machine from 1,000 to 1,031 (+3.1 %)"),
    (_entry(1000, 104), "FF of the machine from 100 to 104 (+4.0 %)"),
    (_entry(1000, 100, 52), "COMB of the array from 50 to 52 (+4.0 %); FF of the array"),
])
def test_what_grows_by_more_than_the_tolerance_is_named(now, grown):
    said = BUDGET.excess(now)
    assert said.startswith(f"grown: {grown}") if grown else said == ""
    assert ("--update" in said) == bool(grown)


def test_an_update_keeps_the_history(tmp_path, monkeypatch, capsys):
    path = tmp_path / "budget.json"
    monkeypatch.setattr(budget, "BUDGET", path)
    monkeypatch.setattr(budget, "synthesised", lambda: _entry(1100))
    BUDGET.write(path)
    monkeypatch.setattr(Budget, "read", classmethod(lambda cls: cls(json.loads(path.read_text()))))
    monkeypatch.setattr(Budget, "write", lambda self: path.write_text(json.dumps(self.content)))
    assert budget.main([]) == 1
    said = capsys.readouterr()
    assert "error: grown: COMB of the machine" in said.err and "+10.0 %" in said.out
    assert budget.main(["--update", "third"]) == 0
    entries = json.loads(path.read_text())["entries"]
    assert [entry["what"] for entry in entries] == ["first", "second", "third"]
    # Of a folder without git there is no commit.
    assert "commit" not in entries[-1]
    assert budget.main([]) == 0


def test_committed_entries_are_whole_and_in_order():
    entries = Budget.read().content["entries"]
    assert entries and all(first["date"] <= second["date"] for first, second in pairwise(entries))
    for entry in entries:
        machine = dict(entry["machine"])
        units = machine.pop("units")
        assert set(entry) - {"commit"} == {"date", "what", *budget.SUBJECTS}
        for resource, count in machine.items():
            assert count == sum(used[resource] for used in units.values())


def test_a_damaged_file_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "budget.json"
    for text in ("{", "[]", '{"tolerance_percent": 3}'):
        path.write_text(text)
        with pytest.raises(DamagedError, match=r"budget.json is damaged: "):
            Budget.read(path)

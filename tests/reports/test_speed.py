"""reports.speed: README says what the committed figures say."""

import json

import pytest

from reports import speed

README = speed.FILE.parents[3] / "README.md"
ROW = {"ratio": 3.0, "least_ratio": 2.0, "processor_ratio": 2.5, "seconds": 1.0,
       "float_seconds": 0.5, "repetitions": 7}


def stored(load, functions=19.0):
    return {"machine": {"processor": "any", "processors": 2, "load_before": load,
                        "load_after": 2.0},
            "figures": {"ResNet-8, PyTorch, 1 thread": ROW, speed.LINKED: ROW,
                        speed.FUNCTIONS: {**ROW, "ratio": 30.0, "processor_ratio": functions}}}


def test_readme_has_the_committed_figures():
    text = " ".join(README.read_text().split())
    assert speed.sentence(json.loads(speed.FILE.read_text())) in text


def test_a_busy_machine_is_judged_by_processor_time():
    quiet, busy = speed.sentence(stored(0.2)), speed.sentence(stored(8.0))
    assert "30.0 times as long as float NumPy, more than the 20 aimed at" in quiet
    assert "19.0 times as long as float NumPy, within the 20 aimed at" in busy
    assert "processor times" in busy and "processor times" not in quiet


def test_both_sides_take_turns_and_medians_are_theirs():
    calls = []
    row = speed._ratio(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 4
    assert row["ratio"] == pytest.approx(row["seconds"] / row["float_seconds"])


def test_a_file_that_cannot_be_written_is_a_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "perceptron", lambda: {speed.FUNCTIONS: ROW})
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    assert speed.main(["--out", str(tmp_path)]) == 1
    assert "cannot be written (Is a directory)" in capsys.readouterr().err
    assert speed.main(["--json", "--out", str(tmp_path / "speed.json")]) == 0
    assert json.loads((tmp_path / "speed.json").read_text())["machine"]["processors"] > 0

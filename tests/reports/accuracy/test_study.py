"""reports.accuracy: what is run, kept and printed."""

import json
from dataclasses import replace

import pytest

import reports.__main__ as drawing
import reports.accuracy.__main__ as command
from host.torch import functions, numbers
from reports.accuracy import ablations, run, store, table, tasks
from reports.accuracy.experiments import (
    CHANGE_NAMES,
    EXPERIMENTS,
    FLOAT,
    KEY,
    Experiment,
    Recipe,
    Variant,
)
from reports.figures import Results

SMALL = Recipe("images", "digits", "mlp", 1, 64, 0.1, 192)
EXPERIMENT = Experiment("small", "Small", SMALL, ((FLOAT, 3), (KEY(4), 3)))


def made(seed, accuracy):
    return {"seed": seed, "accuracy": accuracy, "losses": [1.0], "seconds": 1.0}


def test_a_point_is_a_function_of_its_seed():
    results = [run.run(SMALL, KEY(4), seed) for seed in (0, 0, 1)]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert results[0]["weights_sha256"] != results[2]["weights_sha256"]
    assert results[0]["losses"] == results[1]["losses"] and results[0]["device"] == "cpu"
    assert "weights_sha256" not in run.run(SMALL, FLOAT, 0)


@pytest.mark.parametrize("name", CHANGE_NAMES)
def test_every_change_changes_the_weights_and_is_undone(name):
    recipe = replace(SMALL, samples=128)
    before = (functions.quantise, functions.normalise_columns, functions.unclipped,
              functions.ACTIVATION_CLIP, numbers.round_stochastically)
    plain = run.run(recipe, KEY(4), 0)
    other = run.run(recipe, replace(KEY(4), change=name), 0)
    assert plain["weights_sha256"] != other["weights_sha256"]
    assert before == (functions.quantise, functions.normalise_columns, functions.unclipped,
                      functions.ACTIVATION_CLIP, numbers.round_stochastically)
    assert run.run(recipe, KEY(4), 0)["weights_sha256"] == plain["weights_sha256"]


def test_every_named_change_exists_and_is_explained():
    assert tuple(ablations.CHANGES) == CHANGE_NAMES
    assert all(change.about for change in ablations.CHANGES.values())


def test_results_are_kept_by_what_decides_them(tmp_path):
    store.add(EXPERIMENT, FLOAT, made(1, 50.0), tmp_path)
    store.add(EXPERIMENT, FLOAT, made(0, 40.0), tmp_path)
    store.add(EXPERIMENT, FLOAT, made(1, 60.0), tmp_path)
    assert [run["accuracy"] for run in store.load(EXPERIMENT, FLOAT, tmp_path)] == [40.0, 60.0]
    other = replace(EXPERIMENT, recipe=replace(SMALL, rate=0.2))
    said = []
    assert store.load(other, FLOAT, tmp_path, said.append) == []
    assert "of another recipe" in said[0]
    path = tmp_path / "small" / "float-l1.json"
    path.write_text(path.read_text()[:-20])
    assert store.load(EXPERIMENT, FLOAT, tmp_path, said.append) == []
    assert "is damaged" in said[1]
    store.add(EXPERIMENT, FLOAT, made(2, 70.0), tmp_path)
    assert [run["seed"] for run in store.load(EXPERIMENT, FLOAT, tmp_path)] == [2]


def test_committed_results_are_of_the_present_recipes_and_numerics():
    for experiment in EXPERIMENTS.values():
        for variant, _ in experiment.variants:
            path = store.FOLDER / experiment.name / f"{variant.name}.json"
            assert not path.exists() or store.load(experiment, variant), path
    known = {f"{e.name}/{v.name}.json" for e in EXPERIMENTS.values() for v, _ in e.variants}
    for path in store.FOLDER.glob("*/*"):
        assert f"{path.parent.name}/{path.name}" in known, f"{path} belongs to no variant"


def test_rows_are_paired_by_seed():
    runs = {"float-l1": [made(0, 90.0), made(1, 91.0), made(2, 95.0)],
            "4b-4x4": [made(0, 89.0), made(1, 90.5)]}
    first, second = table.rows(EXPERIMENT, runs)
    assert first["accuracy"] == 92.0 and "difference" not in first
    assert second["pairs"] == 2 and second["difference"] == -0.75
    # Student's t of one degree of freedom times the standard error 1 / 4.
    assert second["difference_interval"] == pytest.approx(12.706 * 0.25)


def test_the_command_runs_what_is_missing_and_no_more(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "EXPERIMENTS", {"small": EXPERIMENT})
    arguments = ["small", "--seeds", "1", "--jobs", "2", "--device", "cpu", "--folder",
                 str(tmp_path)]
    assert command.main(arguments) == 0
    said = capsys.readouterr().err
    assert "float-l1  seed 0" in said and "4b-4x4  seed 0" in said
    stored = json.loads((tmp_path / "small" / "4b-4x4.json").read_text())
    assert stored["numerics"] and stored["runs"][0]["seconds"] > 0
    assert command.main(arguments) == 0
    assert "seed 0" not in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["nothing"], "experiment must be one of digits-mlp, resnet8-fashion"),
    (["digits-mlp:9b"], "variant of digits-mlp must be one of 4b-4x4, 8b-4x4, float-l1"),
    (["--seeds", "0"], "--seeds must be at least 1, got 0"),
    (["--jobs", "x"], "--jobs: invalid int value: 'x'"),
    (["--minutes", "-1"], "--minutes must be more than 0, got -1.0"),
    (["--device", "tpu"], "--device must be cpu or cuda, got 'tpu'"),
])
def test_bad_arguments_get_a_sentence(arguments, words, capsys, tmp_path):
    assert command.main([*arguments, "--folder", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_missing_data_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHIFTGRAD_DATA", str(tmp_path))
    assert command.main(["gcn-cora:float-l1", "--seeds", "1", "--device", "cpu", "--jobs", "1",
                         "--folder", str(tmp_path)]) == 1
    assert "cora.npz cannot be read" in capsys.readouterr().err


def test_a_text_gives_only_whole_windows(monkeypatch):
    monkeypatch.setattr(tasks, "load_text", lambda name: (tasks.np.arange(10_000) % 7, 7))
    recipe = Recipe("text", "tinyshakespeare", "transformer", 1, 32, 0.1, 10**6)
    task = tasks.Text(recipe)
    batches = list(task.batches(0, 0))
    assert len(batches) == task.steps_per_epoch == (9_000 - 1) // 64 // 32
    for (x, place), y in batches:
        assert x.shape == (32, 64) and place.shape == (1, 64) and y.shape == (32 * 64,)
        assert (x.reshape(-1)[1:64] == y[:63]).all()
    assert Variant("x").bits is None


def test_committed_tables_are_those_of_the_committed_results():
    readme = (drawing.FOLDER.parent / "README.md").read_text()
    assert table.summary(store.FOLDER) in readme
    pictures = drawing.FOLDER / "pictures"
    assert (drawing.FOLDER / "accuracy.md").read_text() == table.study(store.FOLDER, pictures)


def test_the_summary_goes_between_its_marks():
    figures = "".join(f"<!-- {name} -->\n<!-- end of {name} -->\n"
                      for name in ("machines", "figures", "units"))
    text = f"a\n<!-- study -->\nold\n<!-- end of study -->\nb\n{figures}"
    written = drawing.project_readme(text, Results())
    assert written.startswith(
        f"a\n<!-- study -->\n{table.summary(store.FOLDER)}<!-- end of study -->\nb\n")
    with pytest.raises(SystemExit, match="has not the marks"):
        drawing.project_readme("no marks\n", Results())

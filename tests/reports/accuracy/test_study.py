"""reports.accuracy: what is run, kept and printed."""

import json
from dataclasses import replace

import pytest

import reports.__main__ as drawing
import reports.accuracy.__main__ as command
from host.data import load_dataset
from host.errors import HostError
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
    assert results[0]["python"] and results[0]["numpy"] and results[0]["platform"]


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


def lacking(name):
    return {key: value for key, value in made(0, 50.0).items() if key != name}


@pytest.mark.parametrize(("run_", "words"), [
    (lacking("seed"), "is damaged (it lacks 'seed')"),
    (lacking("seconds"), "is damaged (it lacks 'seconds')"),
    (lacking("losses"), "is damaged (it lacks 'losses')"),
    ({**made(0, 50.0), "seed": "0"}, "seed '0' is no whole number"),
    ({**made(0, 50.0), "accuracy": None}, "accuracy None is no number"),
    ({**made(0, 50.0), "losses": []}, "losses are no numbers"),
    (5, "is damaged"),
])
def test_a_run_that_lacks_something_is_damage_that_tables_name(run_, words, tmp_path, monkeypatch,
                                                               capsys):
    monkeypatch.setattr(command, "EXPERIMENTS", {"small": EXPERIMENT})
    monkeypatch.setattr(table, "EXPERIMENTS", {"small": EXPERIMENT})
    store.add(EXPERIMENT, FLOAT, made(1, 50.0), tmp_path)
    path = tmp_path / "small" / "float-l1.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "runs": [*stored["runs"], run_]}))
    for form in ([], ["--json"]):
        assert command.main(["--tables", *form, "--folder", str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert words in err and err.count("\n") == 1 and "50.00" not in out


def test_a_folder_that_is_none_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder, more, words in (
            ("file/below", ["digits-mlp:float-l1", "--seeds", "1"], "cannot be made (Not a dir"),
            ("file", ["--tables"], "is not a folder"),
            ("nothing", ["--tables"], "is not a folder")):
        assert command.main([*more, "--device", "cpu", "--folder", str(tmp_path / folder)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err
    (tmp_path / "small").write_text("")
    with pytest.raises(HostError, match=r"float-l1.json cannot be written"):
        store.add(EXPERIMENT, FLOAT, made(0, 50.0), tmp_path)


def test_a_file_names_its_variant_and_keeps_the_versions_of_older_runs(tmp_path):
    store.add(EXPERIMENT, FLOAT, made(0, 50.0), tmp_path)
    path = tmp_path / "small" / "float-l1.json"
    stored = json.loads(path.read_text())
    assert stored["command"] == "python -m reports.accuracy small:float-l1"
    assert "versions" not in stored
    path.write_text(json.dumps({**stored, "versions": {"numpy": "1.0"}}))
    store.add(EXPERIMENT, FLOAT, made(1, 50.0), tmp_path)
    assert json.loads(path.read_text())["versions"] == {"numpy": "1.0"}


def test_the_time_left_is_that_of_the_variant_or_of_those_like_it():
    estimate = command._Estimate(2)
    narrow, wide, other = KEY(2), KEY(8), KEY(4)
    assert estimate.left([(EXPERIMENT, narrow, 1.0)]) is None
    estimate.note(EXPERIMENT, narrow, 10.0)
    estimate.note(EXPERIMENT, wide, 30.0)
    assert estimate.left([(EXPERIMENT, narrow, 1.0)]) == 5.0
    assert estimate.left([(EXPERIMENT, wide, 0.5), (EXPERIMENT, other, 1.0)]) == 7.5 + 10.0
    assert estimate.left([(EXPERIMENT, FLOAT, 1.0)]) is None


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
    assert (second["float"], second["paired"]) == (90.5, 89.75)


def test_variants_are_compared_with_each_other_by_seed():
    other = replace(KEY(4), name="4b-other")
    experiment = replace(EXPERIMENT, variants=(*EXPERIMENT.variants, (other, 3)))
    runs = {"float-l1": [made(s, 90.0) for s in range(3)],
            "4b-4x4": [{**made(s, 80.0 + s), "losses": [9.0, 1.0 + s]} for s in range(3)],
            "4b-other": [{**made(s, 79.0 + s), "losses": [9.0, 1.5 + s]} for s in (0, 2)]}
    base, key, row = table.rows(experiment, runs)
    assert "key_pairs" not in base and "key_pairs" not in key
    assert row["key_pairs"] == 2 and row["key_difference"] == -1.0
    assert row["key_loss_difference"] == 0.5 and row["key_difference_interval"] == 0.0


def test_equal_differences_are_no_evidence():
    runs = {"float-l1": [made(s, 90.0 + s) for s in range(3)],
            "4b-4x4": [made(s, 90.0 + s) for s in range(3)]}
    row = table.rows(replace(EXPERIMENT, tested=360), runs)[1]
    assert row["verdict"] == "not shown: no spread, in steps of 0.28"


def test_rows_of_the_summary_add_up():
    lines = table.summary(store.FOLDER).splitlines()[2:]
    assert len(lines) > 10
    for line in lines:
        base, mine, difference = (float(cell.split()[0].rstrip(","))
                                  for cell in line.strip("| ").split(" | ")[3:])
        assert mine - base == pytest.approx(difference, abs=0.0101), line
    assert any("| 6, no clips |" in line for line in lines)


def test_samples_of_the_tests_are_counted_as_they_are():
    assert len(load_dataset("digits").x_test) == EXPERIMENTS["digits-mlp"].tested
    for experiment in EXPERIMENTS.values():
        for runs in store.load_all(experiment).values():
            for run_ in runs:
                right = run_["accuracy"] / 100 * experiment.tested
                assert right == pytest.approx(round(right), abs=1e-6), experiment.name


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


def test_the_document_compares_groups_as_the_results_do():
    document = (drawing.FOLDER.parent / "docs" / "numerics.md").read_text()
    document = document.replace("\N{MINUS SIGN}", "-")
    experiment = EXPERIMENTS["resnet8-fashion"]
    found = {row["variant"]: row for row in
             table.rows(experiment, store.load_all(experiment, store.FOLDER))}
    named = {"two copies, 1x4 and 4x1": "4x4-two-copies", "float gradients": "forward",
             "1x8, 1x32": "1x32"}
    lines = document.partition("| groups | seeds | training loss |")[2].split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in lines.splitlines()[2:]]
    assert len(lines) == 9
    for name, seeds, loss, accuracy in lines:
        row = found[f"4b-{named.get(name, name)}"]
        assert int(seeds) == row["key_pairs"]
        for cell, figure, digits in ((loss, "key_loss_difference", 3),
                                     (accuracy, "key_difference", 2)):
            mean, half = row[figure], row[f"{figure}_interval"]
            shown = f"{mean:.{digits}f} ± {half:.{digits}f}"
            assert cell == (f"**{shown}**" if abs(mean) > half else shown), name


def test_the_summary_goes_between_its_marks():
    figures = "".join(f"<!-- {name} -->\n<!-- end of {name} -->\n"
                      for name in ("machines", "figures", "units"))
    text = f"a\n<!-- study -->\nold\n<!-- end of study -->\nb\n{figures}"
    written = drawing.project_readme(text, Results())
    assert written.startswith(
        f"a\n<!-- study -->\n{table.summary(store.FOLDER)}<!-- end of study -->\nb\n")
    with pytest.raises(SystemExit, match="has not the marks"):
        drawing.project_readme("no marks\n", Results())

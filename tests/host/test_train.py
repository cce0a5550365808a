"""host.train: same bits everywhere, resumable, and clear about bad input."""

import functools
import io
import json
import os
import random
import re
import signal
import sys
import threading

import numpy as np
import pytest

from hdl.instructions import INSTRUCTION_BYTES
from hdl.params import Params
from host import train as host_train
from host.checkpoint import state_sha256
from host.data import load_dataset
from host.device import Device
from host.layers import Hosted, Mlp
from host.progress import Pace
from host.resident import Resident
from host.train import Recipe, main

RECIPE = Recipe("digits", "mlp", 4, "4x4", 0, 2, 64, 256)

#: The weights of RECIPE: numerics version 2. A change of any model function changes it.
GOLDEN = "4a00c63547611642d78be7a9d6f7b4ee3c3063633f156f16d76bc1c92e24c40e"


class Quiet(host_train.Progress):
    def say(self, text):
        pass

    tick = say


def run(params=None, recipe=RECIPE, **options):
    data = load_dataset("digits").limited(recipe.limit)
    with Device.open("model:", params or Params()) as device:
        return host_train.train(device, data, recipe, progress=Quiet(), **options)


def test_the_weights_are_those_of_numerics_version_2():
    assert run()["weights_sha256"] == GOLDEN


@pytest.mark.parametrize(("groups", "start"), [
    ((1, 1), "81b620bd2467"), ((4, 1), "ab289eecca56"), ((1, 4), "51c9c7ac7d8b")])
def test_the_weights_of_groups_along_one_axis_or_none(groups, start):
    samples, channels = groups
    report = run(Params(sample_groups=samples, channel_groups=channels))
    assert report["weights_sha256"].startswith(start)


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 5, 2), (3, 6, 2), (16, 2, 1)])
def test_the_array_shape_does_not_change_a_bit(shape):
    rows, cols, depth = shape
    report = run(Params(lanes=0, rows=rows, cols=cols, depth=depth))
    assert report["weights_sha256"] == GOLDEN


def test_seed_bits_and_groups_change_the_weights():
    hashes = {
        run(recipe=RECIPE._replace(seed=1))["weights_sha256"],
        run(Params(bits=5))["weights_sha256"],
        run(Params(sample_groups=1, channel_groups=1))["weights_sha256"],
        GOLDEN,
    }
    assert len(hashes) == 4


def test_int_and_one_group_train_the_same_bits():
    flat = {"sample_groups": 1, "channel_groups": 1}
    shift, plain = run(Params(**flat)), run(Params(**flat, arith="int"))
    assert shift["state_sha256"] == plain["state_sha256"]


def test_what_has_no_room_trains_with_weights_that_the_host_streams(monkeypatch):
    said = []
    monkeypatch.setattr(Quiet, "say", lambda _, text: said.append(text))
    report = run(Params(masters=4))
    assert report["weights_sha256"] == GOLDEN and not report["resident"]
    assert said[0].endswith("0 left of 12288: choose --masters 8 at least; as it is the host keeps "
                            "all weights and streams them")
    assert run(Params(masters=8), RECIPE._replace(limit=64, epochs=1))["resident"]


def test_the_device_can_keep_the_weights():
    hosted, resident = run(), run(Params(masters=8))
    assert resident["weights_sha256"] == GOLDEN
    assert resident["state_sha256"] == hosted["state_sha256"]
    assert [e["loss"] for e in resident["epochs"]] == [e["loss"] for e in hosted["epochs"]]
    assert resident["test_accuracy"] == hosted["test_accuracy"]


@pytest.mark.parametrize("widths", [(16, 8), (16, 16), (24, 8)], ids=str)
def test_narrower_weights_are_the_same_on_the_device_and_the_host(widths):
    recipe = RECIPE._replace(master_bits=widths[0], velocity_bits=widths[1], epochs=1)
    hosted = run(recipe=recipe)
    resident = run(Params(masters=8, master_bits=widths[0], velocity_bits=widths[1]), recipe)
    assert resident["state_sha256"] == hosted["state_sha256"]
    assert resident["weights_sha256"] != GOLDEN


#: Who keeps the weights before and after a run is killed.
KEEPERS = {"host": (0, 0), "device": (8, 8), "device, then host": (8, 0),
           "host, then device": (0, 8)}


@pytest.mark.parametrize(("kill_at", "keepers"), [
    (1, "host"), (5, "host"), (7, "host"), (1, "device"), (6, "device"),
    (5, "device, then host"), (8, "host, then device")])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, kill_at, keepers):
    whole = run()
    steps = 0
    before, after = (Params(masters=masters) for masters in KEEPERS[keepers])
    trainer = Resident if before.masters else Hosted
    original = trainer.train_step

    def dying(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(trainer, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(before, out=tmp_path)
    monkeypatch.undo()
    resume = (tmp_path / "checkpoint.npz").exists()
    assert resume == (kill_at > 4)
    report = run(after, out=tmp_path, resume=resume)
    assert report["state_sha256"] == whole["state_sha256"]
    assert [e["loss"] for e in report["epochs"]] == [e["loss"] for e in whole["epochs"]]


def killed(*arguments, seconds=None, patch=lambda monkeypatch: None):
    """Whether the command was killed: it is after so many seconds, or where ``patch`` does it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.waitstatus_to_exitcode(status) == 0
        return False
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in (1, 2):
            os.dup2(nowhere, output)
        patch(pytest.MonkeyPatch())
        if seconds:
            threading.Timer(seconds, kill).start()
        os._exit(main([str(argument) for argument in arguments]))
    finally:
        os._exit(99)


def kill(*_):
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


#: RECIPE as options.
OPTIONS = ["--device=model:", "--limit=256", "--epochs=2"]


def finished(folder):
    """The report of a run."""
    return json.loads((folder / "report.json").read_text())


def same(report, whole):
    """Whether two runs have the same result."""
    return all(report[name] == whole[name] for name in ("weights_sha256", "state_sha256")) and [
        (e["loss"], e["train_accuracy"], e["test_accuracy"]) for e in report["epochs"]] == [
            (e["loss"], e["train_accuracy"], e["test_accuracy"]) for e in whole["epochs"]]


@pytest.mark.parametrize("masters", [0, 8])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, masters):
    """At random moments, in steps, tests and checkpoints; it always gets on."""
    chance, whole = random.Random(masters), run(recipe=RECIPE._replace(epochs=8))
    folder = tmp_path / "run"
    arguments = [*OPTIONS, "--epochs=8", f"--masters={masters}", "--checkpoint-every=1", "--out",
                 folder]
    kills, longest = 0, 0.1
    while killed(*arguments, *["--resume"] * (folder / "checkpoint.npz").exists(),
                 seconds=chance.uniform(0.01, longest)):
        kills += 1
        longest *= 1.03
        assert kills < 200
    assert kills > 2
    assert same(finished(folder), whole)
    # What was half written is gone.
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.npz", "report.json"]


@pytest.mark.parametrize("masters", [0, 8])
@pytest.mark.parametrize("point", ["before it", "in it", "before its name", "after it"])
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(tmp_path, monkeypatch, point, masters):
    folder, saves = tmp_path / "run", iter(range(100))
    real = {name: getattr(module, name) for module, name in (
        (np, "savez"), (os, "fsync"), (os, "replace"))}

    def third(function, *arguments, after=False, **options):
        """The function, but the third time it kills."""
        number = next(saves)
        if number == 2 and not after:
            kill()
        done = real[function](*arguments, **options)
        if number == 2:
            kill()
        return done

    def half(file, **arrays):
        if next(saves) == 2:
            file.write(b"PK half a checkpoint")
            file.flush()
            kill()
        real["savez"](file, **arrays)

    def patch(patched):
        if point == "before it":
            patched.setattr(np, "savez", functools.partial(third, "savez"))
        elif point == "in it":
            patched.setattr(np, "savez", half)
        else:
            patched.setattr(os, "replace", functools.partial(third, "replace",
                                                             after=point == "after it"))

    arguments = [*OPTIONS, f"--masters={masters}", "--checkpoint-every=2", "--out", folder]
    assert killed(*arguments, patch=patch)
    saved = np.load(folder / "checkpoint.npz")
    position = json.loads(str(saved["progress"]))
    # Of 4 steps an epoch: after the second, the first epoch, and the sixth.
    steps = 2 if point == "after it" else 0
    assert (len(position["epochs"]), position["steps"]) == (1, steps)
    assert not killed(*arguments, "--resume")
    assert same(finished(folder), run())


def test_costs_of_an_epoch_that_was_resumed_add_up(tmp_path, monkeypatch):
    whole = run(Params(masters=8))
    original = Resident.train_step

    def dying(self, x, labels, rate, step, following):
        if step == 3:
            raise KeyboardInterrupt
        return original(self, x, labels, rate, step, following)

    monkeypatch.setattr(Resident, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(Params(masters=8), out=tmp_path, checkpoint_every=2)
    monkeypatch.undo()
    said = []
    monkeypatch.setattr(Quiet, "say", lambda self, text: said.append(text))
    report = run(Params(masters=8), out=tmp_path, resume=True)
    assert said[0] == "resumed after step 2 of epoch 1 of 2"
    assert same(report, whole)
    first, other = report["epochs"][0], whole["epochs"][0]
    assert first["macs"] == other["macs"] and first["cycles"] is None
    # The state came up once more, and the programs of both turns went down.
    programs = 2 * 128 * INSTRUCTION_BYTES
    assert other["bytes_down"] < first["bytes_down"] < other["bytes_down"] + 1.2 * programs


def test_a_checkpoint_keeps_its_state_hash(tmp_path):
    report = run(out=tmp_path)
    network = Mlp((64, 64, 10), 0)
    host_train.load_checkpoint(tmp_path / "checkpoint.npz", network, RECIPE._asdict())
    assert state_sha256(network) == report["state_sha256"]


def fails(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return code, err


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["--bits", "9"], 2, "bits must be a whole number from 2 to 8, got 9"),
    (["--bits", "four"], 2, "bits must be a whole number from 2 to 8, got four"),
    (["--groups", "3"], 2, "each number one of 1, 2, 4 or 8, got '3'"),
    (["--rows", "65"], 2, "rows must be a whole number from 1 to 64, got 65"),
    (["--data", "mnist"], 2, "data must be one of digits, fashion-mnist or a .npz file"),
    (["--model", "vit"], 2, "model must be one of mlp, cnn, lenet, resnet, got 'vit'"),
    (["--model", "cnn"], 2,
     "convolutions and pools need a machine that keeps the masters: add --masters 8"),
    (["--model", "resnet"], 2,
     "convolutions and pools need a machine that keeps the masters: add --masters 16"),
    (["--model", "cnn", "--masters", "8", "--batch", "200"], 1, "choose a batch of at most 122"),
    (["--model", "cnn", "--hidden", "9"], 2, "--hidden is for --model mlp, got --model cnn"),
    (["--hidden", "64,0"], 2, "hidden must be whole numbers from 1 to 4096 with commas between, "
                              "got 64,0"),
    (["--device", "gpu:"], 2, "device must be model:, sim: or serial:PORT, got 'gpu:'"),
    (["--device", "serial:/dev/nonexistent"], 1, "cannot open serial port /dev/nonexistent"),
    (["--device", "model:", "--limit", "63"], 2, "batch must be at most the 63 training samples"),
    (["--device", "model:", "--batch", "512"], 1, "choose a batch of at most 511"),
    (["--device", "model:", "--memory", "4"], 1, "needs"),
    (["--masters", "257"], 2, "masters must be a whole number from 0 to 256, got 257"),
    (["--masters", "8", "--master-bits", "8"], 2, "master-bits must be 16 or 24, got 8"),
    (["--master-bits", "sixteen"], 2, "master-bits must be 16 or 24, got sixteen"),
    (["--velocity-bits", "8"], 2, "24 and 24 on a machine that keeps no masters, got 24 and 8"),
    (["--layer-norm"], 2, "layer-norm needs a machine that keeps masters: masters must be at least "
                          "1, got 0"),
    (["--codes", "600"], 2, "codes must be a whole number from 0 to 512, got 600"),
    (["--tables", "0"], 2, "tables must be a whole number from 1 to 2, got 0"),
    (["--device", "model:", "--masters", "8", "--codes", "8"], 1,
     "a smaller batch or --codes 16 at least"),
    (["--resume"], 2, "--resume needs --out"),
    (["--checkpoint-every", "5"], 2, "--checkpoint-every needs --out"),
    (["--checkpoint-every", "0"], 2, "checkpoint-every must be a whole number from 1"),
    (["--epochs", "0"], 2, "epochs must be a whole number from 1"),
    (["--arith", "fp16"], 2, "arith must be one of shift, int"),
    (["--arith", "int"], 2, "arith int has no groups"),
    (["--frobnicate"], 2, "unrecognized arguments"),
])
def test_bad_input_is_one_sentence(capsys, arguments, code, sentence):
    got, err = fails(capsys, *arguments)
    assert got == code and sentence in err


def test_tensorboard_without_its_package_is_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    code, err = fails(capsys, "--device=model:", "--tensorboard", tmp_path / "events")
    assert code == 2 and err == (
        "host.train: --tensorboard needs the package tensorboardX: install the extra tensorboard "
        "of pyproject.toml\n")
    assert not (tmp_path / "events").exists()


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self):
        return True


@pytest.mark.parametrize("file", [Terminal, io.StringIO])
def test_progress_says_how_far_and_how_fast(monkeypatch, file):
    monkeypatch.setattr("host.progress._TICK_SECONDS", 0)
    file = file()
    data = load_dataset("digits").limited(RECIPE.limit)
    with Device.open("model:", Params(masters=8)) as device:
        host_train.train(device, data, RECIPE, progress=host_train.Progress(file))
    lines = file.getvalue().splitlines()
    if not file.isatty():
        assert len(lines) == 2
    step = (r"epoch 2/2  step 3/4  loss \d\.\d{4}  accuracy \d+\.\d\d %  [\d,]+ images/s  "
            r"\d+:\d\d:\d\d left")
    assert bool(re.search(step, file.getvalue())) == file.isatty()
    epoch = (r"epoch 1/2  loss \d\.\d{4}  training \d+\.\d\d %  test \d+\.\d\d %  \d+\.\d s"
             r"  [\d,]+ images/s  \d+:\d\d:\d\d left")
    assert re.search(epoch, file.getvalue())
    # On a terminal a line is cleared before another takes its place.
    assert file.getvalue().count("\r\x1b[K") == (10 if file.isatty() else 0)


def test_time_left_is_that_of_the_steps_so_far(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace = Pace(1000)
    for seconds, left in ((10, "2:46:30"), (30, "5:32:40"), (2, "3:52:38")):
        now[0] += seconds
        pace.step()
        assert str(pace) == f"{left} left"


def test_a_missing_file_names_itself(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SHIFTGRAD_DATA", str(tmp_path))
    monkeypatch.setattr("host.data._SYSTEM_FASHION", tmp_path / "nowhere")
    code, err = fails(capsys, "--data", "fashion-mnist")
    assert code == 1 and "train-images-idx3-ubyte.gz is missing" in err


@pytest.mark.parametrize(("value", "sentence"), [
    (np.nan, "finite numbers, got nan at (2, 1)"), (np.inf, "finite numbers, got inf at (2, 1)"),
    (0.5, "whole numbers, got 0.5 at (2, 1)"), (-1, "between 0 and"),
])
def test_data_that_is_not_whole_numbers_is_refused(capsys, tmp_path, value, sentence):
    x = np.ones((8, 3))
    x[2, 1] = value
    y = np.arange(8) % 2
    np.savez(tmp_path / "bad.npz", x_train=x, y_train=y, x_test=np.ones((8, 3)), y_test=y)
    code, err = fails(capsys, "--data", tmp_path / "bad.npz", "--device", "model:")
    assert code == 1 and sentence in err


def test_a_damaged_or_foreign_checkpoint_is_refused(capsys, tmp_path):
    arguments = ["--device", "model:", "--resume", "--out", tmp_path, "--limit", "64"]
    code, err = fails(capsys, *arguments)
    assert code == 2 and "no checkpoint" in err
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 not a zip")
    code, err = fails(capsys, *arguments)
    assert code == 1 and "damaged" in err
    run(out=tmp_path)
    code, err = fails(capsys, *arguments, "--seed", "5")
    assert code == 2 and "was made with" in err
    code, err = fails(capsys, "--device", "model:", "--resume", "--out", tmp_path, "--limit", "256",
                      "--epochs", "2", "--masters", "8", "--velocity-bits", "8")
    assert code == 2 and "was made with velocity-bits 24, not 8: resume with the same" in err


def test_hidden_layers_are_part_of_the_recipe(capsys, tmp_path):
    arguments = ["--device=model:", "--limit=64", "--epochs=1", f"--out={tmp_path}", "--json"]
    assert main([*arguments, "--hidden", "20,012"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["hidden"] == "20,12"
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert [file[f"{number}.weight"].shape for number in range(3)] == [
            (64, 20), (20, 12), (12, 10)]
    code, err = fails(capsys, *arguments, "--resume")
    assert code == 2 and "was made with hidden 20,12, not 64: resume with the same options" in err
    assert main([*arguments, "--resume", "--hidden", "20,12"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["state_sha256"] == report["state_sha256"]


#: A convolutional network of the digits on a device that keeps its weights.
CNN = ["--model=cnn", "--device=model:", "--masters=8", "--memory=128", "--limit=192",
       "--batch=48", "--epochs=2", "--json"]


@pytest.mark.parametrize("kill_at", [3, 6])
def test_a_killed_run_of_convolutions_resumes_to_the_same_bits(capsys, tmp_path, monkeypatch,
                                                               kill_at):
    assert main([*CNN, f"--out={tmp_path / 'whole'}"]) == 0
    whole = json.loads(capsys.readouterr().out)
    steps, original = iter(range(1, 100)), Resident.train_step

    def dying(self, *arguments):
        if next(steps) == kill_at:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Resident, "train_step", dying)
    arguments = [*CNN, f"--out={tmp_path / 'killed'}", "--checkpoint-every=2"]
    assert main(arguments) == 130
    monkeypatch.undo()
    # Another array goes on just as well.
    assert main([*arguments, "--resume", "--rows=3", "--cols=5", "--depth=2"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["state_sha256"] == whole["state_sha256"]
    assert again["hidden"] is None and again["test_accuracy"] == whole["test_accuracy"]


def test_a_residual_network_learns(capsys):
    arguments = ["--model=resnet", "--device=model:", "--masters=16", "--memory=64", "--limit=112",
                 "--batch=28", "--epochs=4", "--json"]
    assert main(arguments) == 0
    epochs = json.loads(capsys.readouterr().out)["epochs"]
    first, last = epochs[0], epochs[-1]
    assert last["loss"] < 0.5 * first["loss"] and last["train_accuracy"] > 60


@pytest.mark.parametrize("shape", [(50, 7), (50, 6, 6), (50, 5, 7, 3)], ids=str)
def test_images_of_any_size_and_what_are_none(capsys, tmp_path, shape):
    rng = np.random.default_rng(0)
    arrays = {f"{name}_{part}": rng.integers(0, most, size) for part in ("train", "test")
              for name, most, size in (("x", 300, shape), ("y", 3, shape[:1]))}
    np.savez(tmp_path / "own.npz", **arrays)
    arguments = [*CNN[:3], "--data", str(tmp_path / "own.npz"), "--batch=20", "--epochs=1",
                 "--memory=64"]
    if len(shape) > 2:
        assert main(arguments) == 0
        return
    code, err = fails(capsys, *arguments)
    assert code == 2 and err == (
        "host.train: model cnn needs images, x_train [samples, height, width] or with channels "
        "behind, got samples of 7 numbers in own.npz\n")


def test_a_checkpoint_from_before_there_were_widths_is_taken_up(tmp_path):
    whole = run(out=tmp_path)
    path = tmp_path / "checkpoint.npz"
    with np.load(path) as file:
        arrays = dict(file)
    recipe = json.loads(str(arrays["recipe"]))
    del recipe["master_bits"], recipe["velocity_bits"], recipe["hidden"]
    np.savez(path, **{**arrays, "recipe": json.dumps(recipe)})
    assert run(out=tmp_path, resume=True)["state_sha256"] == whole["state_sha256"]


def test_json_goes_to_standard_output_alone(capsys, tmp_path):
    assert main(["--device", "model:", "--limit", "128", "--epochs", "1", "--json",
                 "--out", str(tmp_path / "a" / "b")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "model:" and len(report["weights_sha256"]) == 64
    assert report["epochs"][0]["cycles"] is None
    assert json.loads((tmp_path / "a" / "b" / "report.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "checkpoint.npz", "report.json"]


def test_odd_sizes_train(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "odd.npz", x_train=rng.integers(0, 300, (50, 7)),
             y_train=rng.integers(0, 3, 50), x_test=rng.integers(0, 300, (11, 7)),
             y_test=rng.integers(0, 3, 11))
    arguments = ["--data", str(tmp_path / "odd.npz"), "--device", "model:", "--batch", "13",
                 "--epochs", "1", "--json"]
    assert main(arguments) == 0
    wide = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--rows", "3", "--cols", "7", "--depth", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["state_sha256"] == wide["state_sha256"]

"""host.events: what TensorBoard shows of a run, also of one that was killed and resumed."""

import json
import struct

import pytest

from host.events import EventLog
from host.resident import Resident
from host.train import main
from tests.host.test_train import OPTIONS

pytest.importorskip("tensorboardX")

STEP = {"step/loss", "step/accuracy", "step/rate", "step/images_per_second"}
EPOCH = {"epoch/loss", "epoch/train_accuracy", "epoch/test_accuracy", "epoch/images_per_second"}


def shown(folder):
    """``{(name, step): value}`` as TensorBoard has it: files in order, and a start takes back what
    there was of its step and later ones. Nothing may be there twice."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at:at + 8])
            event = Event.FromString(data[at + 12:at + 12 + length])
            at += 12 + length + 4
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def numbers(found):
    """Without how fast it was."""
    return {key: value for key, value in found.items() if "per_second" not in key[0]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert main([*OPTIONS, "--masters=8", "--out", str(folder), "--tensorboard",
                 str(folder / "events")]) == 0
    return json.loads((folder / "report.json").read_text()), shown(folder / "events")


def test_every_step_and_epoch_is_there_once(whole):
    report, found = whole
    steps = 4 * len(report["epochs"])
    assert set(found) == {(tag, step) for tag in STEP for step in range(1, steps + 1)} | {
        (tag, 4 * (epoch + 1)) for tag in EPOCH for epoch in range(len(report["epochs"]))}
    for number, epoch in enumerate(report["epochs"], 1):
        for name in ("loss", "train_accuracy", "test_accuracy"):
            assert found[f"epoch/{name}", 4 * number] == pytest.approx(epoch[name])
        own = range(4 * number - 3, 4 * number + 1)
        assert sum(found["step/loss", step] for step in own) / 4 == pytest.approx(epoch["loss"])
    assert found["step/rate", 1] == 400 / 4096
    assert all(value > 0 for (tag, _), value in found.items() if "per_second" in tag)


@pytest.mark.parametrize("every", [[], ["--checkpoint-every=1"], ["--checkpoint-every=3"]])
@pytest.mark.parametrize("last", [1, 3, 4, 6])
def test_a_resumed_run_goes_on_without_a_step_twice(tmp_path, monkeypatch, whole, every, last):
    arguments = [*OPTIONS, *every, "--masters=8", "--out", str(tmp_path), "--tensorboard",
                 str(tmp_path / "events")]
    original, steps = Resident.train_step, []

    def dying(self, x, labels, rate, step, following):
        if len(steps) == last:
            raise KeyboardInterrupt
        steps.append(step)
        return original(self, x, labels, rate, step, following)

    monkeypatch.setattr(Resident, "train_step", dying)
    assert main(arguments) == 130
    monkeypatch.undo()
    resume = ["--resume"] * (tmp_path / "checkpoint.npz").exists()
    assert main([*arguments, *resume]) == 0
    assert numbers(shown(tmp_path / "events")) == numbers(whole[1])


def test_a_run_begun_again_takes_the_place_of_the_one_before(tmp_path, whole):
    for seed in (1, 0):
        assert main([*OPTIONS, "--masters=8", f"--seed={seed}", "--tensorboard",
                     str(tmp_path)]) == 0
    assert numbers(shown(tmp_path)) == numbers(whole[1])


def test_what_is_flushed_is_there_without_a_close(tmp_path):
    events = EventLog(tmp_path)
    events.begin(3)
    events.scalars(3, {"a": 1.5, "b": None})
    events.flush()
    assert shown(tmp_path) == {("a", 3): 1.5}
    events.close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*OPTIONS, "--tensorboard", str(tmp_path / "file" / "x")]) == 2
    assert capsys.readouterr().err == (
        f"host.train: cannot write events to {tmp_path}/file/x: Not a directory\n")

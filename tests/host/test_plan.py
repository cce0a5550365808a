"""host.plan: memories, programs and bytes on the link of a training, without a device."""

import json
from itertools import pairwise

import numpy as np
import pytest

from boards.parts import parse_part
from hdl.build.fit import estimate, over
from hdl.params import Params
from host import train as host_train
from host.device import Device
from host.errors import ArgumentError, MemoryFullError
from host.layers import Mlp, Network
from host.network import convolutional, lenet, perceptron
from host.plan import plan, plan_lines
from host.resident import Places, Resident
from host.train import Rate, main

RATES = [Rate(400, 12), Rate(399, 12)]
SMALL = Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4)


def planned(params, sizes, m):
    rng = np.random.default_rng(0)
    return plan(params, Mlp(sizes, 0, params.formats), rng.integers(0, 256, (m, sizes[0])),
                rng.integers(0, sizes[-1], m), RATES)


@pytest.mark.parametrize(("sizes", "m", "params"), [
    ((64, 64, 10), 64, Params(masters=8)), ((20, 24, 17, 5), 30, SMALL),
    ((30, 20, 7), 16, Params(masters=8, sample_groups=1, channel_groups=1, lanes=4))],
    ids=lambda value: getattr(value, "name", None))
def test_programs_and_bytes_are_those_of_a_device(sizes, m, params):
    rng, network, programs = np.random.default_rng(1), Mlp(sizes, 0, params.formats), []
    with Device.open("model:", params) as device:
        resident = Resident(network, device, m)
        for step, rate in enumerate(RATES):
            down, up = device.bytes_down, device.bytes_up
            resident.train_step(rng.integers(0, 256, (m, sizes[0])),
                                rng.integers(0, sizes[-1], m), rate, step)
            down, up = device.bytes_down - down, device.bytes_up - up
        programs.append(resident.program)
        resident.count_correct(rng.integers(0, 256, (m, sizes[0])),
                               rng.integers(0, sizes[-1], m), m)
        programs.append(resident.program)
    found = planned(params, sizes, m)
    assert [found[name]["instructions"] for name in ("step", "test")] == list(map(len, programs))
    # Escapes in frames depend on data.
    link = found["step"]["link_bytes"]
    assert abs(link["down"] - down) <= 0.02 * down and abs(link["up"] - up) <= 12
    products = m * sum((3 if i else 2) * a * b for i, (a, b) in enumerate(pairwise(sizes)))
    assert found["step"]["share_of_peak"] == products / (
        params.macs * params.array_clock * found["step"]["clocks"])


def test_the_link_carries_little_more_than_packed_codes_and_labels():
    params = Params(rows=8, cols=8, depth=4, lanes=8, sample_groups=1, masters=256, memory=256)
    m, features = 128, 784
    down = planned(params, (features, 128, 10), m)["step"]["link_bytes"]["down"]
    assert 1 < down / (m * (features * params.bits // 8 + 1)) < 1.05


def test_places_that_share_words_say_so():
    found = planned(SMALL, (20, 24, 17, 5), 30)
    for memory in found["memories"].values():
        words = [set(range(place["from"], place["to"] + 1)) for place in memory["places"]]
        for number, place in enumerate(memory["places"]):
            assert place["shares"] == [other for other in range(len(words))
                                       if other != number and words[other] & words[number]]
        used = set().union(*words)
        assert memory["used_words"] == len(used) and max(used) < memory["words"]
    wide, masters = (found["memories"][name] for name in ("wide", "master"))
    assert wide["words"] * 8 == wide["bytes"] == 8 * 1024 * 4
    assert any(place["shares"] for place in wide["places"])
    assert masters["places"][0] == {
        "tensor": "the weight matrix of layer 0", "shapes": [[20, 24]], "from": 0, "to": 239,
        "bytes": 240 * 2 * 3, "shares": []}
    by_turns = [place for place in found["memories"]["quant"]["places"]
                if place["tensor"] == "a quantised gradient of layer 0 and 2"]
    assert [place["shapes"] for place in by_turns] == [[[30, 24], [30, 5]]]


def test_of_a_network_without_a_hidden_layer_there_is_a_plan():
    found = planned(SMALL, (20, 5), 8)
    assert "bound" in "\n".join(plan_lines(found))


@pytest.mark.parametrize(("params", "m", "sentence"), [
    (Params(masters=4), 16,
     "the weight matrix of layer 1 of 64x10 needs 1920 bytes of the device's master memory, 1920 "
     "more than the 0 left of 12288: choose --masters 8 at least"),
    (Params(masters=8, memory=8), 64,
     "the norm context of layer 0 of 64x64 needs 16384 bytes of the device's wide memory, 6624 "
     "more than the 9760 left of 32768: choose a smaller batch or --memory 16 at least"),
    (Params(masters=8, codes=8), 64,
     "the quantised input of layer 0 of 64x64 needs 2048 bytes of the device's quantised memory, "
     "832 more than the 1216 left of 4096: choose a smaller batch or --codes 16 at least"),
    # None is as wide.
    (Params(masters=8, memory=64), 500,
     "the norm context of layer 0 of 500x64 needs 128000 bytes of the device's wide memory, 2224 "
     "more than the 125776 left of 262144: choose a smaller batch or more --lanes")])
def test_what_does_not_fit_is_said_with_what_would(params, m, sentence):
    with pytest.raises(MemoryFullError) as refused:
        planned(params, (64, 64, 10), m)
    assert str(refused.value) == sentence


def test_what_is_advised_is_enough_for_that_tensor():
    planned(Params(masters=8), (64, 64, 10), 16)
    planned(Params(masters=8, memory=16), (64, 64, 10), 64)


@pytest.mark.parametrize(("layers", "image", "most"), [
    (convolutional, (8, 8, 1), 45), (lenet, (8, 8, 1), 14),
    (convolutional, (28, 28, 1), 5), (lenet, (28, 28, 1), 5)],
    ids=lambda value: getattr(value, "__name__", str(value)))
def test_one_machine_on_an_85f_holds_these_convolutional_networks(layers, image, most):
    """docs/machine.md: with the largest batch of each."""
    params = Params(rows=2, cols=8, lanes=4, sample_groups=1, masters=32, master_bits=16,
                    velocity_bits=8, memory=32, codes=128)
    used, available = estimate(params), parse_part("LFE5U-85F-6BG381C").die.has()
    assert used["ebr"] == 189 and not over(used, available)
    network, rng = Network(layers(image, 10), 0, params.formats), np.random.default_rng(0)
    found = plan(params, network, rng.integers(0, 256, (most, np.prod(image))),
                 rng.integers(0, 10, most), RATES)
    for memory in found["memories"].values():
        assert memory["used_words"] <= memory["words"]
    with pytest.raises(MemoryFullError):
        Places(params, layers(image, 10), most + 1)


@pytest.mark.parametrize(("layers", "m", "options", "least"), [
    # The batch gives way to what streams; the queues hold each other up; there is room for little
    # of what outputs see.
    (perceptron((784, 80, 10)), 64,
     {"lanes": 8, "codes": 128, "memory": 16, "master_bits": 16, "velocity_bits": 8}, 0.96),
    (perceptron((13, 100, 200, 50, 17, 26)), 16, {"lanes": 8, "memory": 128}, 0.96),
    (lenet((28, 28, 1), 10), 5, {"rows": 2, "cols": 8, "lanes": 4, "codes": 128, "master_bits": 16,
                                 "velocity_bits": 8}, 0.98)], ids=["gives way", "deep", "lenet"])
def test_steps_are_close_to_their_bound(layers, m, options, least):
    params = Params(**{"sample_groups": 1, "masters": 64, "memory": 32, **options})
    rng, features = np.random.default_rng(0), layers[0].pixels * layers[0].in_channels
    found = plan(params, Network(layers, 0, params.formats), rng.integers(0, 256, (m, features)),
                 rng.integers(0, layers[-1].n, m), RATES)
    assert least <= found["step"]["bound"]["share"] <= 1


def test_a_machine_without_masters_has_no_plan():
    with pytest.raises(ArgumentError) as refused:
        planned(Params(), (64, 64, 10), 64)
    assert str(refused.value) == (
        "--plan is of machines that keep masters: choose --masters 1 or more, got 0")


# The command.

@pytest.fixture
def no_device(monkeypatch):
    def refuse(*_):
        raise AssertionError("a device was opened")
    monkeypatch.setattr(host_train.Device, "open", refuse)


def test_the_command_opens_no_device_and_prints_the_plan(no_device, capsys):
    arguments = ["--plan", "--masters", "8", "--batch", "32", "--array-clock", "1"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == [[64, 64], [64, 10]] and found["batch"] == 32
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{found['step']['clocks']:,} clocks" in text
    assert f"{found['step']['link_bytes']['down']:,} bytes down" in text
    assert "the weight matrix of layer 0" in text
    # The machine that it is of.
    assert main([*arguments[:-1], "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"]["clocks"] < found["step"]["clocks"]


def test_of_a_residual_network_there_is_a_plan(no_device, capsys):
    arguments = ["--plan", "--model", "resnet", "--masters", "16", "--batch", "28", "--memory"]
    assert main([*arguments, "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == [[9, 16], *[[144, 16]] * 4, [144, 32], [128, 10]]
    # There are three layers where a shortcut begins or ends.
    assert found["step"]["units"]["POOL"]["instructions"] == 3
    stream, = (place for place in found["memories"]["wide"]["places"]
               if place["tensor"] == "what goes past layers")
    assert stream["shapes"] == [[448, 16]] * 3
    assert main([*arguments, "32"]) == 1
    assert "choose a smaller batch or --memory 64 at least\n" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code", "end"), [
    (["--masters", "4"], 1, "choose --masters 8 at least\n"),
    ([], 2, "choose --masters 1 or more, got 0\n"),
    (["--masters", "8", "--limit", "63"], 2, "at most the 63 training samples, got 64\n"),
    (["--masters", "8", "--array-clock", "5"], 2,
     "array-clock must be a whole number from 1 to 4, got 5\n")])
def test_the_command_says_what_is_wrong_in_one_sentence(no_device, capsys, arguments, code, end):
    assert main(["--plan", *arguments]) == code
    said = capsys.readouterr()
    assert said.err.endswith(end) and said.err.count("\n") == 1 and not said.out

"""host.trace: what a trace holds is what the device did, and the result is the same."""

import json
from itertools import pairwise

import numpy as np
import pytest

from hdl.instructions import OPERATIONS
from hdl.params import Params
from hdl.protocol import Unit
from host.device import Device
from host.errors import DeviceError
from host.layers import Mlp
from host.trace import Trace
from host.train import Rate, main

#: Of tests/sim/test_board.py: one library for both.
PARAMS = Params(lanes=0, rows=2, cols=2, sample_groups=2, memory=4)
ARGUMENTS = ["--rows=2", "--cols=2", "--groups=2x4", "--lanes=0", "--memory=4", "--limit=64"]


def step(device):
    """A training step; clocks in programs, and the weights."""
    rng = np.random.default_rng(0)
    network = Mlp((6, 5, 3), 0)
    space = network.workspace(device, 8)
    with device.phase("step 0"):
        network.train_step(space, rng.integers(0, 256, (8, 6)), rng.integers(0, 3, 8),
                           Rate(400, 12), 0)
    return device.run_cycles, network.head.dense.weight.master.tolist()


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    with Device.open("sim:", PARAMS) as device:
        trace = Trace(device)
        result = step(device)
        trace.write(path)
    return json.loads(path.read_text())["traceEvents"], trace, result


def slices(events, track):
    """``(start, end, name)`` of what is on a track, in order."""
    named = {event["args"]["name"]: event["tid"] for event in events
             if event["name"] == "thread_name"}
    return [(event["ts"], event["ts"] + event["dur"], event["name"]) for event in events
            if event["ph"] == "X" and event["tid"] == named[track]]


def test_a_trace_changes_neither_clocks_nor_bits(traced):
    _, _, result = traced
    with Device.open("sim:", PARAMS) as device:
        assert step(device) == result


def test_units_run_one_after_the_other_and_take_all_clocks_of_programs(traced):
    events, trace, (clocks, _) = traced
    ran = sorted(one for unit in Unit if unit for one in slices(events, unit.name))
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(ran))
    assert sum(end - start for start, end, _ in ran) == clocks
    assert sum(used.clocks for used in trace.used.values()) == clocks
    assert sum(used.instructions for used in trace.used.values()) == len(ran)
    assert {Unit(op) for op, operation in OPERATIONS.items() if operation.exists(PARAMS)} == set(
        trace.used)


def test_what_the_host_is_at_holds_what_is_done_meanwhile(traced):
    events, _, _ = traced
    phases = {name: (start, end) for start, end, name in slices(events, "host")}
    assert list(phases) == ["step 0", "the batch", "layer 0 forward", "layer 1 forward",
                            "layer 1 backward", "layer 0 backward"]
    whole = phases["step 0"]
    for track in ("link", *(unit.name for unit in Unit if unit)):
        assert all(whole[0] <= start and end <= whole[1] for start, end, _ in slices(events, track))
    # The products of a step, by layer.
    for phase, count in (("layer 0 forward", 1), ("layer 1 forward", 1), ("layer 1 backward", 2),
                         ("layer 0 backward", 1)):
        start, end = phases[phase]
        assert count == sum(start <= at < end for at, _, _ in slices(events, "GEMM")), phase


def test_shapes_and_bytes_are_in_it(traced):
    events, _, _ = traced
    assert "GEMM 8x6x5" in {name for _, _, name in slices(events, "GEMM")}
    sent = [event for event in events if event["ph"] == "X" and event["name"] == "WRITE"]
    # The batch: 8 rows of 6 features, words of 2 lanes, and the request's head.
    assert sent[0]["args"]["bytes"] == 4 + 8 * 6 * 4


def test_an_error_says_where_it_happened():
    with Device.open("model:", PARAMS) as device:
        with (pytest.raises(DeviceError, match=r"0 \(opcode 0\), in layer 2, in step 7$"),
              device.phase("step 7"), device.phase("layer 2")):
            device.run([bytes(32)])
        device.reset()
        with pytest.raises(DeviceError, match=r"instruction 0 \(opcode 0\)$"):
            device.run([bytes(32)])


def test_a_trace_that_cannot_be_written_is_said_before_anything_is_trained(capsys, tmp_path):
    assert main(["--device", "model:", "--trace", str(tmp_path / "t")]) == 2
    assert capsys.readouterr().err == (
        "host.train: --trace needs a device that counts clocks, sim:\n")
    assert main([*ARGUMENTS, "--trace", str(tmp_path / "none" / "t")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"host.train: cannot write the trace {tmp_path}/none/t: No such file or directory")


def test_a_run_that_fails_leaves_its_trace(capsys, tmp_path):
    path = tmp_path / "t.json"
    assert main([*ARGUMENTS, "--trace", str(path)]) == 1
    assert "needs" in capsys.readouterr().err
    assert json.loads(path.read_text())["traceEvents"]
    assert list(tmp_path.iterdir()) == [path]

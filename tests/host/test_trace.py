"""host.trace: what a trace holds is what the device did, and the result is the same."""

import gc
import io
import json
import warnings
from functools import cache
from itertools import pairwise
from math import gcd

import numpy as np
import pytest
from amaranth.hdl import UnusedElaboratable

from hdl.combine import Combine
from hdl.instructions import OPERATIONS, Opcode, Queue, instruction
from hdl.params import Params
from hdl.protocol import Unit
from hdl.scale import Scaler
from hdl.transpose import Mover
from host.checkpoint import state_sha256
from host.data import load_dataset
from host.device import Device
from host.errors import DeviceError
from host.layers import Mlp
from host.progress import Progress
from host.resident import Resident
from host.trace import Trace
from host.train import Rate, Recipe, main, train
from host.transport import SimTransport

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
    return device.run_cycles, network.head.product.weight.master.tolist()


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
    # All of it is one path.
    assert trace.clocks == sum(used.critical for used in trace.used.values())
    assert trace.bound == next(iter(trace.used)) and not trace.queues
    *units, last = trace.summary()[1:]
    assert [line.split()[0] for line in units] == [unit.name for unit in trace.used]
    assert last.startswith(f"{trace.bound.name} bounds the run: ")


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
        "host.train: --trace needs a device that counts clocks, sim: or a board\n")
    assert main([*ARGUMENTS, "--trace", str(tmp_path / "none" / "t")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"host.train: cannot write the trace {tmp_path}/none/t: No such file or directory")


def test_a_run_that_fails_leaves_its_trace(capsys, tmp_path):
    path = tmp_path / "t.json"
    assert main([*ARGUMENTS, "--trace", str(path)]) == 1
    assert "needs" in capsys.readouterr().err
    assert json.loads(path.read_text())["traceEvents"]
    assert list(tmp_path.iterdir()) == [path]


# Units that overlap.

#: Of tests/host/test_resident.py.
KEEPER = Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4)

#: Those of other queues run meanwhile; the last waits for the move and is in the queue of its own.
OVERLAPPING = [
    instruction(Opcode.SCALE, m=20, n=6, src0=0, src1=500, dst0=600, arg=32),
    instruction(Opcode.MOVE, m=30, n=30, src0=0, dst0=500),
    instruction(Opcode.COMBINE, n=40, src0=900, src1=950, dst0=800, tab0=1, tab1=1, tab2=1),
    instruction(Opcode.COMBINE, n=6, src0=900, src1=950, dst0=800, tab0=1, tab1=1, tab2=1,
                after=(Queue.MOVER,)),
    instruction(Opcode.MOVE, m=1, n=2, src0=0, dst0=500),
]


class Unseen(SimTransport):
    """A board: nobody sees its clock."""
    cycles = None


@cache
def known_clocks():
    """Clocks of the units of ``OVERLAPPING``, by their formulas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        scaler, combine = Scaler(KEEPER), Combine(KEEPER)
        mover = Mover(KEEPER, width=gcd(KEEPER.slots, 8))
        clocks = [scaler.cycles(20, 6), mover.cycles(30, 30, 0), combine.cycles(40),
                  combine.cycles(6), mover.cycles(1, 2, 0)]
        # Amaranth complains of them when they go.
        del scaler, combine, mover
        gc.collect()
    return clocks


def known_log():
    """When the instructions of ``OVERLAPPING`` are queued, started and done: hdl.dispatch."""
    scale, move, first, second, last = known_clocks()
    queued = [10, 17]
    started = [11, 18]
    done = [11 + scale, 18 + move]
    for clocks, free in ((first, done[0]), (second, done[0] + 4 + first)):
        queued.append(max(free + 3, queued[-1] + 7))
        started.append(queued[-1] + 1)
        if len(started) == 4:
            started[-1] = max(started[-1], done[1] + 3)
        done.append(started[-1] + clocks)
    queued.append(max(done[1] + 3, queued[-1] + 7))
    return queued, [*started, queued[-1] + 1], [*done, queued[-1] + 1 + last]


@pytest.mark.parametrize("transport", [SimTransport, Unseen])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "frame"])
def test_overlapping_instructions_have_their_true_clocks(transport, stored, tmp_path):
    with Device(transport(KEEPER, None), KEEPER) as device:
        device.reset()
        trace = Trace(device)
        with device.phase("a program"):
            if stored:
                device.store_program(OVERLAPPING, overlap=True)
                device.run_stored()
            else:
                device.run(OVERLAPPING, overlap=True)
        clocks = device.run_cycles
        trace.write(tmp_path / "t.json")
        # Without a trace it takes as long.
        device.observer = None
        if stored:
            device.run_stored()
        else:
            device.run(OVERLAPPING, overlap=True)
        assert device.run_cycles == 2 * clocks
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    ran = [slices(events, unit) for unit in ("SCALE", "MOVE", "COMBINE")]
    (scale,), (move, last), (first, second) = ran
    ran = [scale, move, first, second, last]
    assert [end - start for start, end, _ in ran] == known_clocks()
    assert move[1] > first[0] > scale[1] > move[0], "they overlap"
    assert second[0] == move[1] + 3
    assert trace.clocks == clocks
    (begin, end, _), = slices(events, "host")
    assert begin <= scale[0] and second[1] <= end
    if not stored:
        return

    queued, started, done = known_log()
    begin = scale[0] - started[0]
    assert [start - begin for start, _, _ in ran] == started
    assert [end - begin for _, end, _ in ran] == done and clocks == done[3] + 4
    # What waited, and for how long a queue was empty.
    scaler, *both = known_clocks()
    mover, combine = both[0] + both[3], both[1] + both[2]
    stalled = started[3] - queued[3] - 1
    used, queues = trace.used, trace.queues
    assert used[Unit.SCALE] == (1, scaler, 11, 0, 0)
    assert used[Unit.MOVE] == (2, mover, 18 + 4, 0, both[0])
    assert used[Unit.COMBINE] == (2, combine, 4 + 4, stalled, both[2])
    assert queues[Queue.VECTOR] == (scaler + combine, stalled, clocks - scaler - combine - stalled)
    assert queues[Queue.MOVER] == (mover, 0, clocks - mover)
    assert queues[Queue.ARRAY] == (0, 0, clocks)
    assert slices(events, "queue VECTOR") == [
        (begin + queued[3] + 1, begin + started[3], "COMBINE waits")]
    assert trace.bound == Unit.MOVE


def test_a_step_of_a_resident_network_is_told_whole(tmp_path):
    """Its bits and clocks are those without a trace, and programs in order are one path."""
    rng = np.random.default_rng(0)
    batch, labels = rng.integers(0, 17, (8, 9)), rng.integers(0, 3, 8)
    found = []
    for traced in (False, True):
        network = Mlp((9, 12, 3), 0)
        with Device.open("sim:", KEEPER) as device:
            trace = Trace(device) if traced else None
            trainer = Resident(network, device, 8)
            loss = trainer.train_step(batch, labels, Rate(400, 12), 0)
            clocks = device.run_cycles
            trainer.fetch()
        found.append((loss, state_sha256(network), clocks))
    assert found[0] == found[1]
    used = trace.used.values()
    assert trace.clocks == clocks and sum(one.instructions for one in used) > 50
    busy = sum(one.clocks for one in used)
    assert sum(use.busy for use in trace.queues.values()) == busy
    for use in trace.queues.values():
        assert use.busy + use.waiting + use.idle == clocks and min(use) >= 0
    assert 0.5 * clocks < sum(one.critical for one in used) <= clocks
    text = trace.summary()
    assert len(text) == 1 + len(trace.used) + len(Queue) + 1
    assert text[-1].startswith(f"{trace.bound.name} bounds the run: ")


def test_transfers_of_the_next_batch_lie_beside_the_program():
    rng = np.random.default_rng(0)
    steps = [(rng.integers(0, 17, (8, 9)), rng.integers(0, 3, 8), Rate(400, 12), step)
             for step in range(3)]
    with Device.open("sim:", KEEPER) as device:
        trainer = Resident(Mlp((9, 12, 3), 0), device, 8)
        trainer.train_step(*steps[0], steps[1])
        trace = Trace(device)
        trainer.train_step(*steps[1], steps[2])
    link = sorted((event["ts"], event["ts"] + event["dur"], event["name"])
                  for event in trace._events if event["tid"] == 1)
    units = [(event["ts"], event["ts"] + event["dur"]) for event in trace._events
             if event["tid"] > 1 and "waits" not in event["name"]]
    begin, end = min(start for start, _ in units), max(end for _, end in units)
    assert end - begin <= trace.clocks <= end - begin + 30
    beside = [name for start, after, name in link if begin - 30 <= start and after <= end]
    # Codes, labels and words of the program; what is read comes after.
    assert beside == ["WRITE"] * 3
    assert [name for start, _, name in link if start > end] == ["READ"] * 4
    assert all(one[1] <= other[0] for one, other in pairwise(link))


def test_nothing_has_run():
    with Device(SimTransport(KEEPER, None), KEEPER) as device:
        trace = Trace(device)
    assert trace.summary() == [] and trace.bound is None


def test_a_board_tells_its_share_of_peak(tmp_path):
    """By the clocks of its programs; those that pass meanwhile nobody sees."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "small.npz", x_train=rng.integers(0, 17, (16, 9)),
             y_train=np.arange(16) % 3, x_test=rng.integers(0, 17, (8, 9)), y_test=np.arange(8) % 3)
    data = load_dataset(str(tmp_path / "small.npz"))
    recipe = Recipe("small", "mlp", 4, "4x4", 0, 1, 8, None)
    reports = []
    for transport in (SimTransport, Unseen):
        said = io.StringIO()
        with Device(transport(KEEPER, None), KEEPER) as device:
            device.reset()
            report = train(device, data, recipe, progress=Progress(said))
        (epoch,) = report["epochs"]
        assert f"  {100 * epoch['utilisation']:.1f} % of peak" in said.getvalue()
        assert 0 < epoch["utilisation"] < 1
        reports.append((report["state_sha256"], epoch["utilisation"]))
    assert reports[0] == reports[1]
    assert epoch["cycles"] is None and epoch["utilisation_with_link"] is None

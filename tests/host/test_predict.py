"""host.predict: the clocks of a program are those that the simulated board takes."""

from collections import Counter
from itertools import combinations, permutations
from math import inf

import numpy as np
import pytest

from hdl.instructions import (
    POOL_GEOMETRY,
    NormFlag,
    Opcode,
    PoolFlag,
    Queue,
    instruction,
    naming,
    pack_fields,
    unpack_instruction,
)
from hdl.params import Params
from hdl.product_cycles import product_cycles
from host.accesses import accesses
from host.accesses import bound as depends
from host.checkpoint import state_sha256
from host.device import Device
from host.layers import Mlp, Network
from host.network import Layer, lenet, perceptron
from host.plan import plan
from host.predict import Bound, bound, one_at_a_time, predict
from host.resident import Resident
from host.schedule import after
from host.train import Rate

RATE = Rate(400, 12)
#: Those of tests/host/test_resident.py, and one that has no groups and one clock for all.
PLAIN = Params(sample_groups=1, channel_groups=1, rows=4, depth=2, lanes=4, array_clock=1,
               memory=16, masters=8)
MACHINES = [Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4),
            Params(bits=3, sample_groups=2, rows=4, cols=2, depth=2, memory=8, lanes=4, masters=4,
                   master_bits=16, velocity_bits=8, codes=32, tables=1, layer_norm=True), PLAIN]
NETWORKS = [(perceptron(sizes), m) for sizes, m in (
    ((9, 12, 10, 3), 7), ((30, 20, 7), 16), ((20, 24, 5), 30), ((13, 4), 1))]
#: Convolutions and averages.
NETWORKS += [((Layer(in_channels=2, out_channels=6, height=7, width=6, kernel=(3, 3), padding=1,
                     pool=(2, 2)),
               Layer(in_channels=6, out_channels=9, height=3, width=3, kernel=(2, 2), pool=(1, 2)),
               Layer(in_channels=9, out_channels=5, height=2, kernel=(2, 1))), 5)]
#: Shortcuts, of convolutions and of dense layers.
NETWORKS += [((Layer(in_channels=2, out_channels=6, height=4, width=5, kernel=(3, 3), padding=1),
               Layer(in_channels=6, out_channels=9, height=4, width=5, kernel=(3, 3), padding=1),
               Layer(in_channels=9, out_channels=6, height=4, width=5, shortcut=2),
               Layer(in_channels=6, out_channels=5, height=4, width=5, kernel=(4, 5))), 5),
             ((*perceptron((9, 12)), Layer(in_channels=12, out_channels=12, shortcut=1),
               Layer(in_channels=12, out_channels=12, shortcut=1), *perceptron((12, 3))), 9)]


class Log:
    """Programs of a device, with their clocks and the log that it keeps of them."""

    def __init__(self, device):
        self.runs, device.observer = [], self

    def ran_program(self, program, end, clocks, log):
        self.runs.append((program, clocks, log))

    def was_at(self, *_):
        pass

    transferred = was_at


def runs(params, layers, m, *, overlap=True):
    """A step and a test of a network on the simulated board."""
    rng, features = np.random.default_rng(0), layers[0].pixels * layers[0].in_channels

    def samples():
        return rng.integers(0, 256, (m, features)), rng.integers(0, layers[-1].n, m)

    with Device.open("sim:", params) as device:
        resident = Resident(Network(layers, 0, params.formats), device, m)
        resident.overlap = overlap
        resident.train_step(*samples(), RATE, 0)
        log = Log(device)
        resident.train_step(*samples(), RATE, 1)
        resident.count_correct(*samples(), m)
        # Between the two all is prepared.
        return [log.runs[0], log.runs[-1]]


@pytest.mark.parametrize("params", MACHINES, ids=lambda params: params.name)
def test_clocks_are_predicted_within_two_percent(params):
    for layers, m in NETWORKS:
        for program, clocks, _ in runs(params, layers, m):
            predicted, least = predict(program, params), bound(program, params)
            assert abs(predicted.clocks / clocks - 1) <= 0.02, (layers, m)
            assert max(least) == least.path <= clocks, (layers, m)


def test_a_step_of_images_of_28x28_has_the_bits_of_the_model_and_the_clocks_of_the_plan():
    """LeNet for Fashion-MNIST, on the machine of tests/host/test_plan.py that an 85F holds."""
    params = Params(rows=2, cols=8, lanes=4, sample_groups=1, masters=32, master_bits=16,
                    velocity_bits=8, memory=32, codes=128)
    layers, found = lenet((28, 28, 1), 10), []
    for url in ("model:", "sim:"):
        rng, network = np.random.default_rng(0), Network(layers, 0, params.formats)
        with Device.open(url, params) as device:
            resident = Resident(network, device, 2)
            for step in range(2):
                before = device.run_cycles
                loss = resident.train_step(rng.integers(0, 256, (2, 784)), rng.integers(0, 10, 2),
                                           RATE, step)
            clocks = device.run_cycles and device.run_cycles - before
            resident.fetch()
            found.append((loss, state_sha256(network)))
    assert found[0] == found[1]
    planned = sum(predict(part, params).clocks for part in resident.parts)
    assert abs(planned / clocks - 1) <= 0.02


def test_where_nothing_waits_at_a_memory_every_clock_is_predicted():
    for program, clocks, log in runs(PLAIN, perceptron((30, 20, 7)), 16, overlap=False):
        predicted = predict(program, PLAIN)
        assert predicted.clocks == clocks
        assert [tuple(step[2:]) for step in predicted.steps] == list(zip(*log, strict=True))


def test_products_go_slower_beside_moves_when_weights_run_out():
    """Alone, beside a move that is long, and beside one that ends before those weights do that are
    there already."""
    params = Params(rows=8, cols=8, lanes=8, array_clock=1, masters=64, memory=64)
    product = instruction(Opcode.GEMM, m=80, k=800, n=32, key0=25)
    before = instruction(Opcode.SCALE, m=400, n=1, src1=2000, dst0=1000, arg=9)

    def clocks(columns):
        moves = [naming(instruction(Opcode.MOVE, m=32, n=columns), (Queue.VECTOR,))] * bool(columns)
        step = predict([product, before, *moves], params).steps[0]
        return step.done - step.started

    # 32 words for the weights of a tile, one in three clocks; alone it streams 81 rows.
    assert clocks(0) == product_cycles(params, 80, 32, 25) == clocks(32)
    assert 1 + 0.7 * (96 / 81 - 1) < clocks(4096) / clocks(0) < 96 / 81


def test_products_go_slower_beside_pools_as_these_write():
    """A quarter of the clocks, or all, of which two in three count."""
    params = Params(rows=8, cols=8, lanes=8, array_clock=1, masters=64, memory=64)
    product = instruction(Opcode.GEMM, m=300, k=32, n=32, key0=1)
    size = pack_fields(POOL_GEOMETRY, width=20, height=20, window_width=2, window_height=2)

    def clocks(*flags):
        pools = [instruction(Opcode.POOL, flags=flag, m=20, n=8, key0=size) for flag in flags]
        step = predict([product, *pools], params).steps[0]
        return step.done - step.started

    # Results of four column tiles, 301 rows each.
    alone, results = clocks(), 4 * 301
    assert alone == product_cycles(params, 300, 32, 1)
    assert abs(clocks(0) - (alone + results / 3)) < 20
    assert abs(clocks(PoolFlag.SPREAD) - (alone + results * 2)) < 20


# Bounds.

def test_no_order_is_faster_than_the_bound():
    """Small programs, in every order that keeps what depends on each other."""
    params, rng = Params(masters=8), np.random.default_rng(0)
    for _ in range(20):
        program = []
        for _ in range(7):
            a, b = (int(word) for word in rng.integers(0, 6, 2) * 100)
            program.append([
                instruction(Opcode.SCALE, m=20, n=1, src0=a, src1=1000, dst0=b, arg=9),
                instruction(Opcode.GEMM, m=20, k=4, n=1, src0=a, src1=900, dst0=b, key0=1),
                instruction(Opcode.MOVE, m=20, n=4, src0=a, dst0=b + 20),
                instruction(Opcode.NORM_FORWARD, flags=NormFlag.INFERENCE, m=20, n=1, src0=a,
                            src1=1100, dst0=b)][rng.integers(4)])
        least = bound(program, params)
        assert max(least) == least.path
        ordered = [naming(step, tuple(Queue)) for step in program]
        assert predict(ordered, params).clocks >= least.path
        assert predict(program, params).clocks >= max(least.array, least.vector, least.mover)
    # One that reads what the other makes.
    chain = [instruction(Opcode.SCALE, m=20, n=1, dst0=100, src1=1000, arg=9),
             instruction(Opcode.NORM_FORWARD, flags=NormFlag.INFERENCE, m=20, n=1, src0=100,
                         src1=1100, dst0=200)]
    # The first begins in clock 11, the other four after that, and a run ends four after that.
    assert bound(chain, params) == (0, 184, 0, 0, 183, 184)
    apart = [chain[0], instruction(Opcode.MOVE, m=20, n=4, dst0=20)]
    assert bound(apart, params).chain == max(bound(apart, params)[:3])


def test_no_order_with_its_masks_is_faster_than_the_bound():
    """All orders of small programs, with the queues named that :func:`host.schedule.after` says:
    some come within the clocks between instructions, whatever bounds them."""
    params, rng, close = Params(masters=8), np.random.default_rng(3), Counter()
    for _ in range(25):
        program = []
        for _ in range(5):
            a, b = (int(word) for word in rng.integers(0, 6, 2) * 100)
            program.append([
                instruction(Opcode.SCALE, m=90, n=1, src0=a, src1=1000, dst0=b, arg=9),
                instruction(Opcode.GEMM, m=80, k=4, n=1, src0=a, src1=900, dst0=b, key0=1),
                instruction(Opcode.MOVE, m=60, n=4, src0=a, dst0=b + 1000),
                instruction(Opcode.QUANTISE, m=40, n=1, src0=a, dst0=b, dst1=1200)][
                    rng.integers(4)])
        words = [accesses(unpack_instruction(step), params) for step in program]
        least, fastest = bound(program, params), inf
        for order in permutations(range(5)):
            if all(not depends(words[b], words[a]) for i, a in enumerate(order)
                   for b in order[i + 1:] if b < a):
                steps = [program[i] for i in order]
                named = map(naming, steps, after(steps, params))
                fastest = min(fastest, predict(list(named), params).clocks)
        assert max(least) == least.path <= fastest
        if fastest - least.path < 60:
            close.update(name for name, value in least._asdict().items() if value == least.path)
    assert set(close) == set(Bound._fields)


def test_of_all_sets_of_jobs_the_one_that_ends_last_counts():
    rng = np.random.default_rng(1)
    for _ in range(50):
        jobs = [tuple(int(value) for value in job) for job in rng.integers(0, 20, (5, 3))]
        wanted = max(min(job[0] for job in some) + sum(job[1] for job in some)
                     + min(job[2] for job in some)
                     for count in range(1, 6) for some in combinations(jobs, count))
        assert one_at_a_time(jobs) == wanted


def test_a_plan_predicts_the_step_that_a_board_makes():
    sizes, m = (20, 24, 5), 30
    params = MACHINES[1]
    rng = np.random.default_rng(1)
    found = plan(params, Mlp(sizes, 0, params.formats), rng.integers(0, 256, (m, sizes[0])),
                 rng.integers(0, sizes[-1], m), [RATE, Rate(399, 12)])
    for name, (program, clocks, _) in zip(("step", "test"),
                                                runs(params, perceptron(sizes), m), strict=True):
        assert abs(found[name]["clocks"] / clocks - 1) <= 0.02
        assert found[name]["instructions"] == len(program)

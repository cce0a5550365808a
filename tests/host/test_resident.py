"""host.resident: networks on the device compute what they compute with the host's help."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from boards.parts import parse_part
from hdl.build.fit import estimate
from hdl.instructions import Opcode, QuantiseFlag, instruction, opcode_of, unpack_instruction
from hdl.params import Params
from hdl.protocol import MAX_STORED, Kind, Space
from host import program
from host.accesses import Memory, accesses
from host.checkpoint import state_sha256, weights_sha256
from host.device import Device
from host.errors import ArgumentError, DeviceError, MemoryFullError
from host.layers import Hosted, Mlp
from host.network import perceptron
from host.resident import Places, Resident, Steps, Unit
from host.tensors import Tensor
from host.train import Rate


def trained(sizes, params, m, steps=3, url="model:", formats=None, *, ahead=False):
    """Losses, right predictions and hash of a network after some steps and a test, twice; it has
    the machine's formats unless told otherwise. ``ahead``: with the step that follows."""
    rng = np.random.default_rng([1, *sizes])
    network = Mlp(sizes, 3, formats or params.formats)
    with Device.open(url, params) as device:
        trainer = (Resident if params.masters else Hosted)(network, device, m)

        def samples(count):
            return rng.integers(0, 17, (count, sizes[0])), rng.integers(0, sizes[-1], count)

        found, given = [], [(*samples(m), Rate(400, 12), step) for step in range(steps)]
        for step, following in enumerate([*given[1:], None]):
            found.append(trainer.train_step(*given[step], *[following] * ahead))
            if step % 3:
                # The last batch of a test is smaller.
                found.append(trainer.count_correct(*samples(m + 5), m))
        trainer.fetch()
        return found, state_sha256(network)


@pytest.mark.parametrize(("sizes", "params", "m"), [
    ((20, 24, 5), Params(memory=128), 30),
    ((20, 24, 17, 5), Params(memory=128, rows=3, cols=5, depth=2, lanes=0), 48),
    ((20, 5), Params(memory=128), 16),
    ((33, 40, 20, 9), Params(bits=8, sample_groups=8, channel_groups=8, memory=128), 31),
    ((30, 300, 7), Params(bits=3, sample_groups=1, channel_groups=1, memory=256), 64),
    ((30, 20, 7), Params(bits=5, sample_groups=1, channel_groups=4, memory=128), 1),
    ((30, 20, 300), Params(arith="int", sample_groups=1, channel_groups=1, memory=128), 40),
], ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None)
def test_bits_are_those_of_the_hosted_network(sizes, params, m):
    hosted = trained(sizes, params, m)
    assert trained(sizes, replace(params, masters=64), m) == hosted


@pytest.mark.parametrize("widths", [(16, 8), (16, 16), (24, 16), (24, 8)], ids=str)
def test_bits_of_narrower_masters_are_those_of_the_hosted_network(widths):
    sizes, params, m = (20, 24, 17, 5), Params(memory=128), 30
    resident = replace(params, masters=64, master_bits=widths[0], velocity_bits=widths[1])
    hosted = trained(sizes, params, m, formats=resident.formats)
    assert trained(sizes, resident, m) == hosted != trained(sizes, params, m)


@pytest.mark.parametrize(("memory", "codes", "m", "both"), [
    (16, 32, 100, True), (16, 16, 100, False), (8, 64, 148, True), (8, 64, 152, False)])
def test_bits_do_not_depend_on_what_is_sent_ahead(memory, codes, m, both):
    sizes, params = (20, 24, 5), Params(memory=memory, masters=8, codes=codes)
    assert (Places(params, perceptron(sizes), m).spare is not None) == both
    one = trained(sizes, params, m, steps=6)
    assert trained(sizes, params, m, steps=6, ahead=True) == one
    assert trained(sizes, Params(memory=128), m, steps=6) == one


def test_the_next_batch_goes_down_between_start_and_wait():
    rng, sizes, m = np.random.default_rng(0), (32, 24, 5), 32
    with Device.open("model:", Params(memory=16, masters=8)) as device:
        resident, said = Resident(Mlp(sizes, 0), device, m), []
        steps = [(rng.integers(0, 17, (m, 32)), rng.integers(0, 5, m), Rate(400, 12), step)
                 for step in range(4)]
        post = device._post
        device._post = lambda kind, *rest, **options: (said.append(kind),
                                                       post(kind, *rest, **options))[1]
        for step, following in enumerate([*steps[1:], None]):
            before = device.bytes_down
            resident.train_step(*steps[step], following)
            sent = device.bytes_down - before
            if step == 2:
                # All of the next step but what its own end brings: nothing is sent twice.
                assert said[0] == Kind.START and said[-2:] == [Kind.WAIT, Kind.READ]
                assert set(said[1:-2]) == {Kind.WRITE}
                own = m * sizes[0] // 2 + m
                assert own < sent < 1.6 * own
            said.clear()
        # The last one was here already.
        assert sent < 50


@pytest.mark.parametrize(("sizes", "m", "params"), [
    ((20, 24, 5), 32, Params(memory=16, masters=8)), ((13, 4), 1, Params(memory=8, masters=4)),
    ((20, 24, 5), 148, Params(memory=8, masters=8, codes=64)),
    ((20, 24, 17, 5), 48, Params(memory=32, rows=3, cols=5, depth=2, lanes=0, masters=8)),
    ((784, 128, 10), 128, Params(rows=8, cols=8, depth=4, lanes=8, sample_groups=1, masters=256,
                                 memory=256))],
    ids=lambda value: value.name if isinstance(value, Params) else None)
def test_no_step_touches_what_is_written_for_the_next(sizes, m, params):
    layers = perceptron(sizes)
    places = Places(params, layers, m)
    for turn in range(2):
        other = places.on_turn(1 - turn)
        words = {
            Memory.QUANT: range(base := other.input_of(0, m).base,
                                base + m * -(-sizes[0] // params.slots)),
            Memory.WIDE: {other.exponents[0].base, *range(
                base := other.labels.base, base + m)}}
        for step in Steps(params, layers, places.on_turn(turn), m).train(
                Rate(400, 12), lambda tensor: (tensor, 0, 0, 0), first=True):
            found = accesses(unpack_instruction(step), params)
            for memory, kept in words.items():
                touched = found.read[memory] | found.written[memory]
                assert not any(touched >> word & 1 for word in kept)


def test_a_batch_of_another_size_waits_for_the_step():
    rng, sizes = np.random.default_rng(0), (20, 24, 5)

    def run(ahead):
        network = Mlp(sizes, 0)
        with Device.open("model:", Params(memory=16, masters=8)) as device:
            resident = Resident(network, device, 32)
            for step, following in enumerate([*steps[1:], None]):
                resident.train_step(*steps[step], *[following] * ahead)
            resident.fetch()
        return state_sha256(network)
    steps = [(rng.integers(0, 17, (m, 20)), rng.integers(0, 5, m), Rate(400, 12), step)
             for step, m in enumerate((32, 32, 31, 31, 32))]
    assert run(True) == run(False)


def test_a_network_of_other_formats_is_refused():
    params = Params(masters=8, master_bits=16, velocity_bits=8)
    with Device.open("model:", params) as device, pytest.raises(ArgumentError) as refused:
        Resident(Mlp((6, 5, 3), 0), device, 4)
    assert str(refused.value) == (
        "a network's masters and velocities must have the (bits, fraction bits) of those of the "
        "machine that keeps them, (16, 13) and (8, 9), got (24, 20) and (24, 20)")


def test_bits_do_not_depend_on_how_much_memory_there_is():
    """Gradients in two parts or more that have two places, in one, or block after block in one;
    what streams for them stays, or is moved for each."""
    sizes, m, ways, found = (200, 100, 7), 20, [], []
    for codes, memory in ((64, 256), (64, 16), (64, 8), (32, 256), (32, 16), (32, 8)):
        params = Params(rows=2, lanes=2, memory=memory, codes=codes, masters=64)
        places = Places(params, perceptron(sizes), m)
        ways.append((places.stays(0), len(places.parts[0]), len(places.products[0])))
        found.append(trained(sizes, params, m))
    assert ways == [(True, 2, 2), (True, 4, 2), (True, 7, 1), (False, 1, 1), (False, 4, 2),
                    (False, 7, 1)]
    assert all(one == found[0] for one in found)


def test_deeper_networks_are_in_blocks_where_memory_is_short():
    sizes, m, ways, found = (20, 130, 60, 40, 24, 5), 20, [], []
    for memory in (32, 16):
        params = Params(rows=2, lanes=2, memory=memory, codes=256, masters=32)
        places = Places(params, perceptron(sizes), m)
        ways.append(([*map(len, places.blocks)], [*map(len, places.products)]))
        found.append(trained(sizes, params, m))
    assert ways == [([1] * 5, [1] * 5), ([3, 4, 3, 2, 1], [2, 1, 2, 2, 1])]
    assert found[0] == found[1]
    params = replace(params, memory=8)
    with pytest.raises(MemoryFullError, match="wide memory"):
        Places(params, perceptron(sizes), m)


#: Machines and networks whose first input gives way to what streams for its gradients.
GIVES_WAY = [(Params(rows=2, lanes=2, memory=32, codes=16, masters=16, sample_groups=samples,
                     channel_groups=channels), sizes, m)
             for samples, channels, sizes, m in (
                 (4, 4, (130, 24, 5), 40), (4, 4, (120, 40, 5), 31), (1, 4, (200, 40, 7), 20),
                 (1, 4, (200, 24, 7), 31), (1, 1, (160, 30, 20, 5), 31), (1, 1, (130, 24, 5), 40))]


@pytest.mark.parametrize(("params", "sizes", "m"), GIVES_WAY, ids=str)
def test_bits_do_not_depend_on_whether_the_input_gives_way(params, sizes, m):
    room = replace(params, codes=64)
    for machine in params, room:
        at = Places(machine, perceptron(sizes), m)
        assert at.stays(0) and bool(at.on_the_way(0, 0, 1, m)) == (machine is params)
    assert trained(sizes, params, m) == trained(sizes, room, m)


def test_weights_of_the_last_part_give_way_where_chunks_would_be_small():
    """Their words are written again at the beginning of the next step."""
    shared = []
    for params, sizes, m in GIVES_WAY:
        at = Places(params, perceptron(sizes), m)
        codes, (first, _) = at.codes[0], at.parts[0][-1][0]
        start = at.on_the_way(0, 0, 1, m).base
        shared.append(start < codes.base + -(-codes.cols // params.slots) * codes.rows)
        assert start >= codes.base + first // params.slots * codes.rows
    assert shared == [True] * 5 + [False]


@pytest.mark.parametrize(("params", "sizes", "m"), GIVES_WAY, ids=str)
def test_an_input_that_gives_way_is_moved_before_it_is_lost(params, sizes, m):
    """In steps of fewer samples as well; all that streams is there at the end."""
    layers = perceptron(sizes)
    places = Places(params, layers, m)
    for samples in range(1, m + 1):
        x, made, left = places.input_of(0, samples), 0, 0
        for step in Steps(params, layers, places, samples).train(
                Rate(400, 12), lambda tensor: (tensor, 0, 0, 0), first=False):
            fields = unpack_instruction(step)
            found = accesses(fields, params)
            words = (1 << x.rows * -(-x.cols // params.slots)) - 1 << x.base
            if opcode_of(fields["op"], params) != Opcode.MOVE or not (
                    x.base <= fields["src0"] < x.base + words.bit_count()):
                # Nothing else is there, and what streams is not written again.
                assert not found.written[Memory.QUANT] & (words | made)
                continue
            read, written = found.read[Memory.QUANT], found.written[Memory.QUANT]
            assert not read & written and not read & made and not written & made
            made, left = made | written, left | read
            assert not made & words & ~left
        assert left == words and made.bit_length() <= params.quant_words


@pytest.mark.parametrize(("sizes", "m"), [((9, 12, 10, 3), 7), ((13, 4), 1)], ids=str)
@pytest.mark.parametrize("params", [
    # As in tests/sim/test_sessions.py: one board is built for both.
    Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4),
    Params(bits=3, sample_groups=2, rows=4, cols=2, depth=2, memory=8, lanes=4, masters=4,
           master_bits=16, velocity_bits=8, codes=32, tables=1, layer_norm=True)],
    ids=lambda params: params.name)
def test_the_simulated_board_computes_what_the_model_does(sizes, m, params):
    assert trained(sizes, params, m, url="sim:", ahead=True) == trained(sizes, params, m)


def test_layers_of_more_rows_than_a_quantised_tensor_has():
    params = Params(masters=64, memory=256)
    # Nothing to compare with: the host quantises at most 511 rows at once.
    found = {trained((600, 20, 7), replace(params, rows=rows), 32)[1] for rows in (4, 6)}
    assert len(found) == 1


@pytest.mark.parametrize("widths", [(24, 24), (16, 8)], ids=str)
def test_parameters_come_back_as_they_went(widths):
    params = Params(masters=8, lanes=2, master_bits=widths[0], velocity_bits=widths[1])
    network = Mlp((30, 20, 10, 5), 2, params.formats)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        for parameter in layer.parameters().values():
            for name, bits in zip(("master", "velocity"), widths, strict=True):
                shape = np.shape(parameter.master)
                setattr(parameter, name, rng.integers(-1 << bits - 1, 1 << bits - 1, shape))
        for name in layer.statistics():
            setattr(layer, f"running_{name}", rng.integers(-2**31, 2**31, layer.product.shape.n))
    before = weights_sha256(network), state_sha256(network)
    with Device.open("model:", params) as device:
        resident = Resident(network, device, 8)
        for layer in network.layers:
            for parameter in layer.parameters().values():
                parameter.master, parameter.velocity = 0 * parameter.master, 0 * parameter.master
        resident.fetch()
    assert (weights_sha256(network), state_sha256(network)) == before


def test_a_step_sends_little_more_than_its_batch():
    params, m, sizes = Params(masters=8), 64, (64, 64, 10)
    network, rng = Mlp(sizes, seed=0), np.random.default_rng(0)
    with Device.open("model:", params) as device:
        resident = Resident(network, device, m)
        for step in range(3):
            down, up = device.bytes_down, device.bytes_up
            resident.train_step(rng.integers(0, 17, (m, 64)), rng.integers(0, 10, m),
                                Rate(400 - step, 12), step)
        # Two codes in a byte, and a byte for each label.
        batch = m * (64 // 2 + 1)
        assert batch < device.bytes_down - down < 1.14 * batch
        assert device.bytes_up - up < 0.12 * batch


def test_what_does_not_fit_is_said():
    network = Mlp((64, 64, 10), seed=0)
    for params, m, sentence in (
            (Params(masters=4), 16, r"^the weight matrix of layer 1 of 64x10 needs 1920 bytes of "
                                    r"the device's master memory, 1920 more than the 0 left of "
                                    r"12288"),
            (Params(masters=8, memory=8), 64, r"wide memory"),
            (Params(masters=8, memory=256), 600,
             "choose a batch of at most 511$")):
        with Device.open("model:", params) as device, pytest.raises(MemoryFullError,
                                                                    match=sentence):
            Resident(network, device, m)


@pytest.mark.parametrize("sizes", [(64,) * 5 + (10,), (784, 64, 64, 64, 10), (784, 224, 10)],
                         ids=str)
def test_steps_are_short_enough_to_be_stored(sizes):
    params = Params(rows=8, cols=8, depth=4, lanes=8, masters=256, memory=256)
    layers = perceptron(sizes)
    steps = Steps(params, layers, Places(params, layers, 128), 128)
    assert len(steps.train(Rate(400, 12), lambda tensor: (tensor, 0, 0, 0), first=False)) <= (
        MAX_STORED)


def test_the_largest_fashion_perceptrons_of_an_85f():
    """docs/machine.md: with words of 32 codes and batches of 88, and of 16 codes and of 64."""
    available = parse_part("LFE5U-85F-6BG381C").die.has()["ebr"]
    narrow = Params(sample_groups=1, tables=1, master_bits=16, velocity_bits=8, masters=64,
                    memory=16, codes=128, lanes=4)
    wide = replace(narrow, rows=8, cols=8, lanes=8, array_clock=1, masters=32, memory=32,
                   codes=128)
    for params, hidden, m, ebr, most in ((wide, 32, 88, 180, 100), (narrow, 64, 64, 194, 120),
                                         (narrow, 80, 64, 194, 400)):
        assert estimate(params)["ebr"] == ebr <= available
        layers = perceptron((784, hidden, 10))
        steps = Steps(params, layers, Places(params, layers, m), m)
        assert len(steps.train(Rate(400, 12), lambda tensor: (tensor, 0, 0, 0),
                               first=True)) < most
    for params in (wide, narrow):
        for larger in ({"masters": 2 * params.masters}, {"memory": 2 * params.memory},
                       {"codes": 2 * params.codes}):
            assert estimate(replace(params, **larger))["ebr"] > available
    assert estimate(replace(narrow, master_bits=24))["ebr"] > available
    layers = perceptron((784, 81, 10))
    with pytest.raises(MemoryFullError, match="master memory"):
        Places(narrow, layers, 64)


def test_every_block_is_quantised_once_a_step():
    """By the step before, or at its beginning."""
    params = Params(rows=8, cols=8, depth=4, lanes=8, masters=256, memory=256)
    sizes, m = (784, 224, 10), 128
    places = Places(params, perceptron(sizes), m)
    found = Counter()
    for step in Steps(params, perceptron(sizes), places, m).train(
            Rate(400, 12), lambda tensor: (tensor, 0, 0, 0), first=False):
        fields = unpack_instruction(step)
        if fields["op"] == Opcode.QUANTISE and fields["flags"] & QuantiseFlag.MASTER:
            found[fields["src0"]] += 1
    wanted = [place.columns_from(first, 32, params).base
              for place in places.weights for first in range(0, place.cols, 32)]
    assert found == Counter(wanted) and len(found) == 8


def test_units_add_up():
    a, b = Tensor(Space.WIDE, 1, 1, 1), Tensor(Space.WIDE, 2, 1, 1)
    unit = Unit((a,), const=3) + Unit((b,), (a,)) - 5
    assert unit == Unit((b,), const=-2)
    assert unit - unit == Unit() and -unit == Unit((), (b,), 2)


# Stored programs.


def combine(**fields):
    return instruction(Opcode.COMBINE, n=1, src1=1, tab0=1, tab1=1, tab2=1, **fields)


def test_only_what_changed_of_a_program_is_sent():
    steps = [combine(key0=k) for k in range(20)]
    with Device.open("model:", Params(masters=8)) as device:
        device.store_program(steps)
        before = device.bytes_down
        device.store_program(steps)
        assert device.bytes_down == before
        steps[7] = combine(key0=99)
        device.store_program(steps)
        assert 0 < device.bytes_down - before < 40
        device.run_stored()
        assert device.read(Space.WIDE, 0, 1)[0, 0] == sum(range(20)) - 7 + 99


def test_programs_run_in_order_unless_the_device_is_told_otherwise():
    with Device.open("model:", Params(masters=8)) as device:
        for overlap, op in ((False, 0x70 | Opcode.COMBINE), (True, Opcode.COMBINE)):
            device.store_program([combine()] * 3, overlap=overlap)
            assert device.read(Space.PROGRAM, 0, 12)[::4, 0].tolist() == [op] * 3
            device.run_stored()
            device.run([combine()], overlap=overlap)
        with pytest.raises(DeviceError, match=r"instruction 1 \(COMBINE\)"):
            device.run([combine(), instruction(Opcode.COMBINE)])
    with Device.open("model:", Params()) as device:
        device.run([instruction(Opcode.QUANTISE, m=1, n=1)])


@pytest.mark.parametrize(("broken", "where"), [
    ("cross_entropy", "layer 1 forward"), ("norm_backward", "layer 0 backward"),
    ("scan", "layer 0 forward")])
def test_an_error_names_the_layer(monkeypatch, broken, where):
    params = Params(rows=2, masters=8)
    with Device.open("model:", params) as device:
        resident = Resident(Mlp((9, 12, 3), 0, params.formats), device, 5)
        monkeypatch.setattr(program, broken, lambda *_, **options: instruction(Opcode.COMBINE))
        with pytest.raises(DeviceError, match=rf"instruction \d+ \(COMBINE\) of {where}$"):
            resident.train_step(np.ones((5, 9), int), np.zeros(5, int), Rate(400, 12), 0)


def test_bad_programs_are_refused_with_the_number_of_the_instruction():
    with Device.open("model:", Params(masters=8)) as device:
        with pytest.raises(MemoryFullError, match="at most 511 instructions, got 512"):
            device.store_program([combine()] * (MAX_STORED + 1))
        device.store_program([combine(), combine(), instruction(Opcode.COMBINE)])
        with pytest.raises(DeviceError, match=r"refused the instruction: instruction 2 \(COMBINE"):
            device.run_stored()

"""host.device: every request ends, damaged frames are recovered and counted, strangers refused."""

import time

import numpy as np
import pytest

from hdl.instructions import Opcode, QuantiseFlag, instruction
from hdl.params import PROTOCOL_VERSION, Params
from hdl.protocol import END, LINK_BYTES, Kind, Space, Status, encode
from host.device import Device
from host.errors import ArgumentError, DeviceError, LinkError
from host.tensors import Tensor, load, store
from host.transport import ModelTransport, open_transport

PARAMS = Params(lanes=0, rows=5, cols=5, memory=4)


class Damaged:
    """A link that applies a function to the n-th chunk in one direction, once."""
    cycles, clocked = None, False

    def __init__(self, *, down=None, up=None):
        self._inner = ModelTransport(PARAMS)
        self._down, self._up = down or {}, up or {}
        self._sent = self._got = 0

    def send(self, data):
        self._sent += 1
        self._inner.send(self._down.pop(self._sent, lambda d: d)(data))

    def receive(self, deadline):
        data = self._inner.receive(deadline)
        if data:
            self._got += 1
            data = self._up.pop(self._got, lambda d: d)(data)
        if not data:
            time.sleep(max(0, deadline - time.monotonic()))
        return data

    def close(self):
        pass


def flip(data):
    """One bit of the middle of a frame, never making an END."""
    middle = len(data) // 2
    flipped = data[middle] ^ 0x10 if data[middle] ^ 0x10 != END else data[middle] ^ 0x20
    return data[:middle] + bytes([flipped]) + data[middle + 1:]


def device_over(transport):
    return Device(transport, PARAMS, answer_seconds=0.05, run_seconds=0.05)


def test_words_survive_the_way_there_and_back():
    device = device_over(ModelTransport(PARAMS))
    rng = np.random.default_rng(0)
    wide = rng.integers(-2**31, 2**31, (300, 5))
    device.write(Space.WIDE, 7, wide)
    assert (device.read(Space.WIDE, 7, 300) == wide).all()
    # Parts of words, an array row each.
    quant = rng.integers(-8, 8, (500, 4))
    device.write(Space.QUANT, 0, quant)
    assert (device.read(Space.QUANT, 0, 500) == quant).all()
    assert (device.read(Space.QUANT, 7, 2) == quant[7:9]).all()


@pytest.mark.parametrize("space", [Space.WIDE, Space.QUANT])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 20), (2, 43)])
def test_a_stored_tensor_is_the_one_loaded_and_the_one_units_see(space, shape):
    transport = ModelTransport(PARAMS)
    device = device_over(transport)
    x = np.random.default_rng(shape).integers(-8, 8, shape)
    before, tensor, after = (Tensor(space, base, *shape) for base in (10, 30, 60))
    for place, value in ((before, 0 * x + 1), (after, 0 * x + 2), (tensor, x)):
        store(device, place, value)
    assert (load(device, tensor) == x).all()
    assert (load(device, before) == 1).all() and (load(device, after) == 2).all()
    machine = transport._machine
    memory = machine.wide if space == Space.WIDE else machine.quant
    assert (memory.get(30, *shape) == x).all()


@pytest.mark.parametrize(("bits", "shape", "most"), [
    # Packed bytes of words and frames: 8 or 9 whole words and one of the last tile, each.
    (4, (64, 8), 64 * 4 + 13), (4, (64, 9), 64 * 4 + 64 + 26), (4, (64, 1), 32 + 12),
    (4, (1, 17), 12 + 13), (4, (1000, 8), 4000 + 2 * 13), (3, (64, 7), 64 * 4 + 13),
    (2, (64, 8), 64 * 2 + 13), (2, (64, 11), 64 * 3 + 26), (5, (64, 3), 64 * 3 + 13),
    # Nothing to win.
    (5, (64, 8), 64 * 8 + 12), (8, (2, 15), 4 * 8 + 12), (8, (30, 9), 30 * 8 + 30 + 26)])
def test_codes_are_stored_packed_where_that_is_shorter(bits, shape, most):
    params = Params(bits=bits, rows=4, cols=2, depth=2, lanes=2, memory=16, masters=8)
    transport = ModelTransport(params)
    device, limit = Device(transport, params), 1 << bits - 1
    words = -(-shape[1] // params.slots) * shape[0]
    x = np.random.default_rng(shape).integers(-limit, limit, shape)
    before = device.bytes_down
    store(device, Tensor(Space.QUANT, 30, *shape), x)
    # But for what the link escapes.
    assert most <= device.bytes_down - before < 1.06 * most
    assert (load(device, Tensor(Space.QUANT, 30, *shape)) == x).all()
    held = transport._machine.quant.array
    assert not held[:30].any() and not held[30 + words:].any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("base", "rows"), [(0, 1), (29, 1), (30, 500), (31, 502), (33, 3)])
def test_codes_of_a_column_are_packed_wherever_it_is(bits, base, rows):
    params = Params(bits=bits, rows=4, cols=2, depth=2, lanes=2, memory=16, masters=8)
    transport = ModelTransport(params)
    device, limit = Device(transport, params), 1 << bits - 1
    held = transport._machine.quant.array
    held[:] = limit - 1
    x = np.random.default_rng(base).integers(-limit, limit, (rows, 1))
    before = device.bytes_down
    store(device, Tensor(Space.QUANT, base, rows, 1), x)
    assert (load(device, Tensor(Space.QUANT, base, rows, 1)) == x).all()
    assert (held[:base] == limit - 1).all() and (held[base + rows:] == limit - 1).all()
    if rows >= 500 and bits < 8:
        assert device.bytes_down - before < 1.06 * rows / (8 // bits) + 70


@pytest.mark.parametrize("damage", [
    {"down": {1: flip}}, {"up": {1: flip}}, {"down": {1: lambda d: d[:-5]}},
    {"down": {1: lambda d: b""}}, {"up": {1: lambda d: b""}},
    {"up": {1: lambda d: b"\x01\x02" + d}}, {"down": {1: lambda d: b"\xdb\x00" + d}},
], ids=["request-flipped", "answer-flipped", "request-cut", "request-lost", "answer-lost",
        "answer-after-noise", "request-after-wrong-escape"])
def test_a_damaged_frame_is_recovered(damage):
    device = device_over(Damaged(**damage))
    device.hello()
    words = np.arange(15).reshape(3, 5)
    device.write(Space.WIDE, 0, words)
    assert (device.read(Space.WIDE, 0, 3) == words).all()


def test_a_damaged_request_is_counted_by_the_device_and_the_host():
    device = device_over(Damaged(down={1: flip}))
    device.hello()
    assert device.status().bad_frames == 1
    assert device.resent == 1


def test_a_program_whose_answer_is_lost_runs_once():
    device = device_over(Damaged(up={2: lambda d: b""}))
    x = np.array([[40, -3, 9, 1, 0]])
    device.write(Space.WIDE, 0, x)
    # In place: a second execution would quantise the exponents of the first.
    device.run([instruction(Opcode.QUANTISE, flags=QuantiseFlag.PER_COLUMN, m=1, n=5, arg=6)])
    assert device.resent == 1
    assert device.read(Space.WIDE, 0, 1).tolist() == [[3, -1, 1, -3, 0]]


def test_a_silent_link_ends_with_a_sentence():
    silent = {n: (lambda d: b"") for n in range(1, 10)}
    with pytest.raises(LinkError, match="did not answer HELLO within"):
        device_over(Damaged(down=silent)).hello()


def test_another_machine_is_refused():
    other = Params(lanes=0, cols=6, memory=4)
    with pytest.raises(DeviceError, match=f"needs {other.fingerprint}"):
        Device(ModelTransport(PARAMS), other).hello()


def test_another_protocol_version_is_refused(monkeypatch):
    monkeypatch.setattr("host.device.PROTOCOL_VERSION", 99)
    with pytest.raises(DeviceError, match=f"speaks protocol version {PROTOCOL_VERSION}, this host "
                                          "version 99"):
        device_over(ModelTransport(PARAMS)).hello()


@pytest.mark.parametrize(("program", "sentence"), [
    ([instruction(99)], r"refused the instruction: instruction 0 \(opcode 99\)"),
    ([instruction(Opcode.GEMM)], r"instruction 0 \(GEMM\)"),
    ([instruction(Opcode.QUANTISE, m=1, n=5),
      instruction(Opcode.QUANTISE, m=1, n=5, src0=0xFFFF)], r"beyond the end.*instruction 1"),
])
def test_a_bad_instruction_is_named_and_sticks_until_reset(program, sentence):
    device = device_over(ModelTransport(PARAMS))
    with pytest.raises(DeviceError, match=sentence):
        device.run(program)
    assert device.status().error in (Status.BAD_INSTRUCTION, Status.ADDRESS)
    with pytest.raises(DeviceError, match="needs a reset"):
        device.run([instruction(Opcode.QUANTISE, m=1, n=5)])
    device.reset()
    device.run([instruction(Opcode.QUANTISE, m=1, n=5)])


@pytest.mark.parametrize("url", ["", "sim", "usb:", "serial:", "model:x", "serial:/dev/x?baud=0",
                                 "serial:/dev/x?baud=fast", "sim:?baud=0", "sim:?clock=fast"])
def test_a_wrong_url_is_one_sentence(url):
    with pytest.raises(ArgumentError, match="got"):
        open_transport(url, PARAMS)


def test_a_missing_port_is_one_sentence():
    with pytest.raises(LinkError, match="cannot open serial port /dev/nonexistent at 1000000"):
        open_transport("serial:/dev/nonexistent", PARAMS)


def test_a_serial_device_answers_over_a_pseudo_terminal():
    """The serial transport against a model behind a pty, byte for byte."""
    import os
    import threading
    import tty

    from sim.model.machine import Machine
    master, slave = os.openpty()
    tty.setraw(slave)
    stop = threading.Event()

    def serve():
        machine = Machine(PARAMS)
        while not stop.is_set():
            try:
                answer = machine.feed(os.read(master, 4096))
            except OSError:
                return
            os.write(master, answer)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with Device.open(f"serial:{os.ttyname(slave)}", PARAMS) as device:
        words = np.arange(50).reshape(10, 5)
        device.write(Space.WIDE, 3, words)
        assert (device.read(Space.WIDE, 3, 10) == words).all()
    stop.set()
    os.close(slave)
    os.close(master)


def test_a_silent_port_ends_with_a_sentence():
    import os
    import tty
    master, slave = os.openpty()
    tty.setraw(slave)
    with pytest.raises(LinkError, match="did not answer HELLO"):
        Device.open(f"serial:{os.ttyname(slave)}", PARAMS, answer_seconds=0.05)
    os.close(slave)
    os.close(master)


def test_a_frame_may_arrive_in_pieces():
    machine = ModelTransport(PARAMS)._machine
    frame = encode(9, Kind.STATUS)
    answers = b"".join(machine.feed(frame[i:i + 1]) for i in range(len(frame)))
    assert answers[1] == 9


class Echo:
    """A board that answers every four bytes by two, three clocks after the last of them."""
    def __init__(self, *_, **__):
        self.cycles, self.taken, self._due = 0, [], []

    def send(self, data):
        for byte in data:
            self.taken.append((self.cycles, byte))
            if len(self.taken) % 4 == 0:
                self._due.append(self.cycles + 3)

    def recv(self):
        answer = b"".join(b"ok" for due in self._due if due <= self.cycles)
        self._due = [due for due in self._due if due > self.cycles]
        return answer

    def run(self, cycles):
        due = [due - self.cycles for due in self._due if due - self.cycles <= cycles]
        count = max(1, min(due, default=cycles))
        self.cycles += count
        return count

    def close(self):
        pass


def test_a_link_with_the_pace_of_a_serial_port(monkeypatch):
    monkeypatch.setattr("sim.board.Board", Echo)
    link = open_transport("sim:?baud=2000000&clock=15000000", PARAMS)
    link.send(b"abcdefgh")
    # 75 clocks for a byte in either direction, and in both at once.
    assert link.receive(time.monotonic() + 1) == b"ok" and link.cycles == 4 * 75 + 3 + 2 * 75
    assert link.receive(time.monotonic() + 1) == b"ok" and link.cycles == 8 * 75 + 3 + 2 * 75
    assert [clock for clock, _ in link._board.taken] == [75 * (i + 1) for i in range(8)]
    assert link.receive(time.monotonic()) == b""
    # Fractions add up.
    link = open_transport("sim:?baud=4000000&clock=15000000", PARAMS)
    link.send(b"a" * 99)
    while len(link._board.taken) < 99:
        link.receive(time.monotonic() + 1)
    assert link._board.taken[-1][0] == 37 * 99 + 50


# Requests that are sent before those before them are answered.

KEEPER = Params(lanes=2, memory=4, masters=2)


class Lossy:
    """A link to a machine that keeps masters, on which something may happen to any byte down or to
    any answer, and that counts the bytes beyond the oldest request that is not answered."""
    cycles, clocked = None, False

    def __init__(self, rng, losses):
        self._machine, self._rng, self._losses = ModelTransport(KEEPER), rng, losses
        self._ends, self._sent, self._answers, self.most = [], 0, [], 0

    def send(self, data):
        damaged = bytearray()
        for byte in data:
            self._sent += 1
            lost = self._rng.random() < self._losses
            if not lost:
                damaged.append(byte)
        # A frame has an END at both ends.
        self._machine.send(bytes(damaged))
        if self._ends:
            self.most = max(self.most, self._sent - self._ends[0])
        answers = self._machine.receive(0)
        for frame in filter(None, answers.split(bytes([END]))):
            self._ends.append(self._sent)
            if self._rng.random() >= 50 * self._losses:
                self._answers.append(bytes([END]) + frame + bytes([END]))

    def receive(self, deadline):
        if not self._answers:
            time.sleep(max(0, deadline - time.monotonic()))
            return b""
        self._ends.pop(0)
        return self._answers.pop(0)

    def close(self):
        pass


@pytest.mark.parametrize("losses", [0, 1 / 8000])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_sent_ahead_arrives_in_any_weather(seed, losses):
    rng = np.random.default_rng(seed)
    link = Lossy(rng, losses)
    device = Device(link, KEEPER, answer_seconds=0.02, run_seconds=0.02)
    counter = Tensor(Space.WIDE, 0, 1, 1)
    store(device, counter, np.zeros((1, 1), int))
    device.write(Space.WIDE, 1, np.zeros((1, 2), int))
    step = instruction(Opcode.COMBINE, n=1, src1=1, tab0=1, tab1=1, tab2=1, key0=1)
    for turn in range(6):
        device.store_program([step] * (turn + 1))
        words = rng.integers(-2**31, 2**31, (700, 2))
        device.start_stored()
        with device.ahead():
            for first in range(0, 700, 100):
                device.write(Space.WIDE, 10 + first, words[first:first + 100])
                device.write(Space.WIDE, 900 + first, words[first:first + 1])
            device.wait()
        assert (device.read(Space.WIDE, 10, 700) == words).all()
        assert (device.read(Space.WIDE, 900, 601)[::100] == words[::100]).all()
        # Each program has run once.
        assert load(device, counter)[0, 0] == (turn + 1) * (turn + 2) // 2
    assert losses or (device.resent == 0 and 0 < link.most <= LINK_BYTES)
    assert not losses or device.resent


def test_an_error_of_what_was_sent_ahead_is_raised_at_the_end():
    with Device.open("model:", KEEPER) as device:
        with (pytest.raises(DeviceError, match="beyond the end of the device's memory, in a batch"),
              device.ahead(), device.phase("a batch")):
            device.write(Space.WIDE, 0xFFFF, np.zeros((1, 2), int))
            device.write(Space.WIDE, 0, np.ones((1, 2), int))
        # The others are written.
        assert device.read(Space.WIDE, 0, 1).tolist() == [[1, 1]]


def test_what_a_started_device_refuses_is_named():
    step = instruction(Opcode.COMBINE, n=1, src1=1, tab0=1, tab1=1, tab2=1)
    with Device.open("model:", KEEPER) as device:
        device.wait()
        device.store_program([step])
        device.start_stored()
        for refused in (lambda: device.read(Space.WIDE, 0, 1), device.run_stored,
                        device.start_stored, lambda: device.run([step]),
                        lambda: device.write(Space.MASTER, 0, np.zeros((1, 2), int))):
            with pytest.raises(DeviceError, match="runs a program that was not waited for"):
                refused()
        device.wait()
        device.read(Space.WIDE, 0, 1)
        device.store_program([step, instruction(Opcode.COMBINE)])
        device.start_stored()
        with pytest.raises(DeviceError, match=r"refused the instruction: instruction 1 \(COMBINE"):
            device.wait()
        with pytest.raises(DeviceError, match="stopped at an earlier error"):
            device.start_stored()
    with Device.open("model:", PARAMS) as device:
        device.store_program([])
        device._stored = [step], 0, ()
        with pytest.raises(DeviceError, match="does not know this kind"):
            device.start_stored()

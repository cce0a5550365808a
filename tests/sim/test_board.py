"""sim.board: the compiled gateware against the model of the machine, and its cache."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hdl.instructions import GemmFlag, MoveFlag, NormFlag, Opcode, QuantiseFlag, instruction
from hdl.params import PROTOCOL_VERSION, Params
from hdl.protocol import END, MAX_BODY, Kind, Space, Status, decode, encode, unescape, word_bytes
from host.tensors import lanes_of
from sim.board import Board, ToolError, cache_folder, kept_build_id, library
from sim.model.machine import Machine
from sim.model.order import inner_tiles

#: A small machine with everything.
SMALL = Params(lanes=0, bits=4, rows=2, cols=2, sample_groups=2, channel_groups=4, memory=4)
LIMIT = 1_000_000
HELLO = encode(1, Kind.HELLO, bytes([PROTOCOL_VERSION]))


@pytest.fixture
def board():
    with Board(SMALL) as board:
        yield board


def ask(board, frame):
    """The answer to one frame, as it travels."""
    board.send(frame)
    cycles = board.run(LIMIT)
    assert cycles < LIMIT
    return board.recv()


class Pair:
    """The board and the model, asked the same."""
    def __init__(self, board):
        self.board, self.model = board, Machine(SMALL)
        self.seq = 0

    def raw(self, frame):
        """The answer of both, decoded, without RUN's cycles."""
        answers = []
        for wire in (ask(self.board, frame), self.model.feed(frame)):
            assert wire[0] == wire[-1] == END
            seq, kind, body = decode(unescape(wire[1:-1]))
            if kind == Kind.RUN | Kind.ANSWER and len(body) == 7:
                body = body[:3]
            answers.append((seq, kind, body))
        assert answers[0] == answers[1]
        return answers[0]

    def __call__(self, kind, body=b""):
        self.seq = self.seq % 255 + 1
        _, _, body = self.raw(encode(self.seq, kind, body))
        return Status(body[0]), body[1:]

    def write(self, space, address, array):
        words = np.asarray(array).astype("i1" if space == Space.QUANT else "<i4").tobytes()
        size = word_bytes(space, SMALL)
        step = (MAX_BODY - 4) // size * size
        for offset in range(0, len(words), step):
            base = address + offset // size
            assert self(Kind.WRITE, bytes([space, 0]) + base.to_bytes(2, "little")
                        + words[offset:offset + step]) == (Status.OK, b"")

    def compare(self, space, address, count):
        status, words = self(Kind.READ, bytes([space, 0]) + address.to_bytes(2, "little")
                             + count.to_bytes(2, "little"))
        assert status == Status.OK
        return words

    def tensor(self, space, base, rows, cols):
        """Read the words of a tensor."""
        words = -(-cols // lanes_of(space, SMALL)) * rows
        parts = SMALL.rows if space == Space.QUANT else 1
        return self.compare(space, parts * base, parts * words)


def test_hello_is_answered_byte_for_byte(board):
    expected = encode(1, Kind.HELLO | Kind.ANSWER, bytes([Status.OK, PROTOCOL_VERSION])
                      + bytes.fromhex(SMALL.fingerprint))
    assert ask(board, HELLO) == expected


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_and_quantised_equals_the_model(board, seed):
    pair, chance = Pair(board), np.random.default_rng(seed)
    m, n = int(chance.integers(1, 12)), SMALL.slots * int(chance.integers(1, 3))
    x = chance.integers(-2**31, 2**31, (m * n // 2, 2)) >> chance.integers(0, 28)
    pair.write(Space.WIDE, 0, x)
    program = b"".join(
        instruction(Opcode.QUANTISE, m=m, n=n, src0=0, dst0=100 * i, dst1=500 + 20 * i,
                    tab1=0, tab2=100, flags=flags, arg=clip, key0=seed, key1=99)
        for i, (flags, clip) in enumerate([
            (0, 0), (QuantiseFlag.UNSIGNED, 14), (QuantiseFlag.PER_COLUMN, 13),
            (QuantiseFlag.STOCHASTIC | QuantiseFlag.PER_COLUMN | QuantiseFlag.UNSIGNED, 0),
            (QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC, 0)]))
    status, answer = pair(Kind.RUN, program)
    assert (status, answer[0]) == (Status.OK, 5)
    for i in range(5):
        pair.tensor(Space.QUANT, 100 * i, m, n)
        pair.tensor(Space.WIDE, 500 + 20 * i, 1, n)
    pair.compare(Space.GROUP, 0, m)
    pair.compare(Space.GROUP, 100, n)
    assert pair(Kind.STATUS)[0] == Status.OK


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_forward_and_backward_equals_the_model(board, seed):
    """Every unit, each on what the one before it left in memory."""
    pair, chance = Pair(board), np.random.default_rng(seed)
    m, k, n = 5, 8, 16
    pair.write(Space.WIDE, 0, chance.integers(0, 2**20, (m * k // 2, 2)))
    pair.write(Space.WIDE, 950, chance.integers(-2**20, 2**20, (k * n // 2, 2)))
    pair.write(Space.WIDE, 100, chance.integers(-2**12, 2**12, (8 * n // 2, 2)))
    pair.write(Space.WIDE, 200, chance.integers(-2**20, 2**20, (m * n // 2, 2)))
    # Padding keeps what it holds.
    pair.write(Space.QUANT, 0, chance.integers(-8, 8, (SMALL.rows * 400, SMALL.depth)))

    def gemm(m, k, n, groups=1, flags=0, **fields):
        tiles = inner_tiles(k, SMALL.depth, SMALL.rows, groups)
        return instruction(Opcode.GEMM, m=m, k=k, n=n, key0=tiles, flags=flags, **fields)

    program = [
        instruction(Opcode.QUANTISE, m=m, n=k, src0=0, dst0=0, dst1=900,
                    flags=QuantiseFlag.UNSIGNED, arg=14),
        instruction(Opcode.QUANTISE, m=k, n=n, src0=950, dst0=50, dst1=910,
                    flags=QuantiseFlag.PER_COLUMN, arg=13),
        gemm(m, k, n, flags=GemmFlag.UNSIGNED, src0=0, src1=50, dst0=300, shift=1),
        instruction(Opcode.NORM_FORWARD, m=m, n=n, src0=300, src1=100, dst0=400, dst1=500,
                    flags=NormFlag.RELU),
        instruction(Opcode.NORM_BACKWARD, m=m, n=n, src0=200, src1=100, dst0=600, dst1=500),
        instruction(Opcode.QUANTISE, m=m, n=n, src0=600, dst0=150, dst1=920, tab1=0, tab2=100,
                    flags=QuantiseFlag.GROUPED | QuantiseFlag.STOCHASTIC, key0=seed, key1=3),
        instruction(Opcode.SORT, k=n, tab0=100, arg=4),
        instruction(Opcode.SORT, k=m, tab0=0, arg=2),
        # dX: channels inside, samples outside; dW the other way round.
        instruction(Opcode.MOVE, m=k, n=n, src0=50, dst0=200, flags=MoveFlag.TRANSPOSED),
        instruction(Opcode.MOVE, m=m, n=n, src0=150, dst0=250, tab1=100, flags=MoveFlag.SORTED),
        instruction(Opcode.MOVE, m=m, n=k, src0=0, dst0=300, tab1=0,
                    flags=MoveFlag.SORTED | MoveFlag.TRANSPOSED),
        instruction(Opcode.MOVE, m=m, n=n, src0=150, dst0=350),
        gemm(m, n, k, groups=4, src0=250, src1=200, dst0=700, tab0=100, tab1=0, arg=1,
             flags=GemmFlag.INNER_GROUPS | GemmFlag.ROW_GROUPS),
        gemm(k, m, n, groups=2, src0=300, src1=150, dst0=800, tab0=0, tab2=100, arg=3 << 4,
             flags=GemmFlag.UNSIGNED | GemmFlag.INNER_GROUPS | GemmFlag.COL_GROUPS),
    ]
    status, answer = pair(Kind.RUN, b"".join(program))
    assert (status, answer[0]) == (Status.OK, len(program))
    for base, rows, cols in ((300, m, n), (400, m, n), (500, m, n), (100, 8, n), (600, m, n),
                             (700, m, k), (800, k, n)):
        assert any(pair.tensor(Space.WIDE, base, rows, cols)), base
    for base, rows, cols in ((0, m, k), (50, k, n), (150, m, n), (200, n, k),
                             (250, m, 4 * SMALL.slots), (300, k, 2 * SMALL.slots), (350, m, n)):
        assert any(pair.tensor(Space.QUANT, base, rows, cols)), base
    for base, count in ((0, m), (100, n)):
        assert any(pair.compare(Space.GROUP, base, count)), base
    assert pair(Kind.STATUS)[0] == Status.OK


def test_errors_equal_the_model(board):
    pair = Pair(board)
    chance = random.Random(1)
    good = instruction(Opcode.NORM_FORWARD, m=3, n=2, src0=0, src1=100, dst0=200, dst1=300)
    for frame in (HELLO[:-4] + HELLO[-1:], bytes([END, 0xDB, END]), encode(9, Kind.RUN, good * 65),
                  bytes([END]) + chance.randbytes(40).replace(bytes([END]), b"") + bytes([END])):
        assert pair.raw(frame) == (0, Kind.NAK | Kind.ANSWER, bytes([Status.BAD_FRAME]))
    for kind, body in ((0, b""), (Kind.NAK, b"x"), (Kind.HELLO, b""), (Kind.HELLO, b"\xFF"),
                       (Kind.WRITE, b"\3\0\0\0x"), (Kind.WRITE, b"\0\0\0\0x"),
                       (Kind.READ, b"\1\0\xFF\xFF\1\0"), (Kind.READ, b"\2\0\0\0\0\0"),
                       (Kind.RUN, good[:-1]), (Kind.RUN, b""), (Kind.RESET, b"x"),
                       (Kind.STATUS, b"x"), (Kind.STATUS, b"")):
        pair(kind, body)
    # Beyond the end, by each unit; and what cannot run.
    far, last = SMALL.wide_words - 1, SMALL.quant_words - 1
    for bad in (instruction(Opcode.NORM_FORWARD, m=3, n=2, src0=far, src1=100, dst0=200, dst1=300),
                instruction(Opcode.NORM_BACKWARD, m=3, n=2, src0=0, src1=100, dst0=far, dst1=300),
                instruction(Opcode.QUANTISE, m=3, n=2, src0=0, dst0=last, dst1=300),
                instruction(Opcode.MOVE, m=3, n=2, src0=0, dst0=last),
                instruction(Opcode.MOVE, m=3, n=2, src0=last, dst0=8),
                instruction(Opcode.GEMM, m=3, k=2, n=2, src0=0, src1=0, dst0=far, key0=1),
                instruction(Opcode.SORT, k=2, tab0=SMALL.table_words - 1, arg=2),
                instruction(9), instruction(Opcode.SORT, k=2, arg=5)):
        status, answer = pair(Kind.RUN, good + good + bad + good)
        assert status in (Status.ADDRESS, Status.BAD_INSTRUCTION) and answer[0] == 2
        assert pair(Kind.RUN, good)[0] == Status.STICKY
        pair(Kind.STATUS)
        assert pair(Kind.RESET)[0] == Status.OK
        assert pair(Kind.RUN, good)[0] == Status.OK


def test_bytes_may_come_and_go_one_by_one(board):
    whole = ask(board, HELLO)
    for byte in HELLO:
        board.send(bytes([byte]))
        board.run(7)
    board.run(LIMIT)
    assert b"".join(iter(lambda: board.recv(3), b"")) == whole


def test_run_stops_at_an_answer_or_after_the_cycles_given(board):
    before = board.cycles
    assert board.run(123) == 123
    board.send(HELLO + HELLO)
    first = board.run(LIMIT)
    assert first < 100 and decode(unescape(board.recv()[1:-1]))[0] == 1
    assert board.run(LIMIT) < 100 and board.recv()
    assert board.run(50) == 50 and board.recv() == b""
    assert board.cycles > before + 123 + 50


def test_a_reset_forgets_half_a_frame_and_keeps_the_memories(board):
    write = encode(1, Kind.WRITE, bytes([Space.GROUP, 0, 3, 0, 1, 2, 3, 4]))
    assert ask(board, write)
    board.send(write[:9])
    board.run(50)
    board.reset()
    read = encode(2, Kind.READ, bytes([Space.GROUP, 0, 3, 0, 1, 0]))
    assert decode(unescape(ask(board, read)[1:-1]))[2] == bytes([Status.OK, 1, 2, 3, 4])
    status = decode(unescape(ask(board, encode(3, Kind.STATUS))[1:-1]))[2]
    assert status == bytes(12)


def test_a_closed_board_says_so():
    board = Board(SMALL)
    board.close()
    board.close()
    with pytest.raises(ValueError, match="closed"):
        board.run(1)


def test_boards_are_independent_in_threads():
    def session(seed):
        with Board(SMALL) as board:
            pair = Pair(board)
            for i in range(20):
                pair.write(Space.GROUP, i, [seed * 100 + i])
            return pair.compare(Space.GROUP, 0, 20), board.cycles

    expected = [session(seed) for seed in range(2)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(session, [0, 1, 0, 1])) == expected * 2
    assert expected[0][0] != expected[1][0]


# The cache.


def test_a_library_is_built_once():
    lines = []
    path = library(SMALL)
    assert path.parent == cache_folder()
    assert library(SMALL, progress=lines.append) == path and not lines


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SHIFTGRAD_CACHE", raising=False)
    assert cache_folder() == tmp_path / "shiftgrad"
    monkeypatch.setenv("SHIFTGRAD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("SHIFTGRAD_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "shiftgrad"


#: What stands in for the machine where only the build matters.
STUB = "module top(input clk); endmodule"


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """An empty cache, but for what elaboration has found out; and no Yosys."""
    folder = tmp_path / "cache"
    folder.mkdir()
    library(SMALL)
    for file in cache_folder().glob("id-*"):
        (folder / file.name).write_text(file.read_text())
    monkeypatch.setenv("SHIFTGRAD_CACHE", str(folder))
    monkeypatch.setattr("hdl.top.verilog", lambda params: STUB)
    return folder


def test_what_old_modules_make_is_not_kept_for_new_sources(monkeypatch, tmp_path):
    made = []

    def build_id(params):
        made.append(params)
        return "a" * 64
    monkeypatch.setattr("hdl.top.build_id", build_id)
    monkeypatch.setattr("sim.board._sources", lambda: "changed since")
    for _ in range(2):
        assert kept_build_id(SMALL, tmp_path) == "a" * 64
    assert len(made) == 2 and not list(tmp_path.iterdir())
    monkeypatch.setattr("sim.board._IMPORTED", "changed since")
    for _ in range(2):
        kept_build_id(SMALL, tmp_path)
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 1


def test_a_missing_compiler_is_one_sentence(monkeypatch, empty_cache):
    monkeypatch.setenv("CXX", "no-such-compiler -O9")
    with pytest.raises(ToolError, match=r"^the simulated board needs a C\+\+ compiler and "
                                        r"no-such-compiler -O9 was not found: .* in CXX$"):
        Board(SMALL)


def test_a_failed_build_leaves_nothing(monkeypatch, empty_cache):
    old = empty_cache / ".build-old"
    old.mkdir()
    os.utime(old, (0, 0))
    lines = []
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ToolError, match=r"^false failed on the simulated board: "):
        Board(SMALL, progress=lines.append)
    assert [line[:29] for line in lines] == ["building the simulated board "]
    assert not list(empty_cache.glob("*.so")) and not list(empty_cache.glob(".build-*"))


def test_a_killed_build_does_not_count(empty_cache, tmp_path):
    compiler = tmp_path / "slow"
    compiler.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 60\n")
    compiler.chmod(0o755)
    command = (f"import hdl.top; hdl.top.verilog = lambda params: {STUB!r}; "
               f"from hdl.params import Params; from sim.board import library; library({SMALL!r})")
    process = subprocess.Popen([sys.executable, "-c", command], start_new_session=True,
                               env={**os.environ, "CXX": str(compiler)})
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(empty_cache.glob(".build-*")) and not list(empty_cache.glob("*.so"))


def test_a_cache_that_cannot_be_made_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHIFTGRAD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolError, match=r"^the cache folder .* cannot be made: Not a directory"):
        Board(SMALL)

"""hdl.top: the whole accelerator, its text forms and its way through a serial line."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import Opcode, instruction
from hdl.link.uart import UartReceiver, UartTransmitter
from hdl.params import PROTOCOL_VERSION, Params
from hdl.protocol import Kind, Space, Status
from hdl.top import Accelerator, VerilogError, build_id, rtlil, verilog
from tests.support.requests import simulate

#: The smallest machines, with groups and without.
TINY = Params(bits=2, rows=1, cols=1, sample_groups=1, channel_groups=2, memory=4)
PLAIN = Params(bits=2, rows=1, cols=1, sample_groups=1, channel_groups=1, memory=4)


class SerialBoard(wiring.Component):
    """What a board is: a serial line to an accelerator, and a host's line to it."""
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        clock, baud = 25_000_000, 3_000_000
        m.submodules.accelerator = accelerator = Accelerator(PLAIN)
        down, up = Signal(init=1), Signal(init=1)
        m.submodules.host_transmitter = host_transmitter = UartTransmitter(clock, baud)
        m.submodules.receiver = receiver = UartReceiver(clock, baud)
        m.submodules.transmitter = transmitter = UartTransmitter(clock, baud)
        m.submodules.host_receiver = host_receiver = UartReceiver(clock, baud)
        m.d.comb += [
            down.eq(host_transmitter.tx), receiver.rx.eq(down),
            up.eq(transmitter.tx), host_receiver.rx.eq(up),
        ]
        wiring.connect(m, wiring.flipped(self.i), host_transmitter.i)
        wiring.connect(m, receiver.o, accelerator.i)
        wiring.connect(m, accelerator.o, transmitter.i)
        wiring.connect(m, host_receiver.o, wiring.flipped(self.o))
        return m


def test_hello_over_a_serial_line():
    async def process(ctx, request):
        assert await request(Kind.HELLO, bytes([PROTOCOL_VERSION])) == (
            Status.OK, bytes([PROTOCOL_VERSION]) + bytes.fromhex(PLAIN.fingerprint))

    simulate(SerialBoard(), process)


@pytest.mark.parametrize("array_clock", [1, 3])
def test_a_product_that_was_stopped_leaves_nothing_to_the_next(array_clock):
    """Stopped where it loads, streams or is read out, with the next one as soon as can be."""
    params = Params(bits=2, rows=3, cols=2, depth=1, sample_groups=1, channel_groups=2, memory=4,
                    array_clock=array_clock)
    a, b = np.array([[1, -2, 1, 0], [-1, 1, -2, 1]]), np.array([[1, -1], [0, 1], [1, 1], [-1, 0]])
    small = {"m": 2, "k": 4, "n": 2, "src0": 0, "src1": 20, "dst0": 8, "key0": 2}

    def lanes(x):
        """Words as they travel: a part for every row of the array."""
        padded = np.zeros((len(x), 2 * params.slots), np.int64)
        padded[:, :x.shape[1]] = x
        return padded.reshape(len(x), 2, -1).transpose(1, 0, 2).astype("i1").tobytes()

    async def process(ctx, request):
        await request.write(Space.QUANT, 0, lanes(a))
        await request.write(Space.QUANT, 20 * params.rows, lanes(b)[:12])
        for m, k, n in ((500, 4, 2), (9, 4, 60), (40, 90, 2), (1, 300, 300), (30, 3, 20),
                        (60, 1, 3), (100, 9, 9), (17, 17, 17)):
            await request.write(Space.WIDE, 8, bytes(16))
            tiles = -(-k // params.slots)
            status, _ = await request(Kind.RUN, instruction(
                Opcode.GEMM, m=m, k=k, n=n, src0=100, src1=100, dst0=100, key0=tiles))
            assert status == Status.WATCHDOG
            assert await request(Kind.RESET) == (Status.OK, b"")
            status, _ = await request(Kind.RUN, instruction(Opcode.GEMM, **small))
            assert status == Status.OK, (m, k, n)
            words = np.frombuffer(await request.read(Space.WIDE, 8, 4), "<i4").reshape(2, 2).T
            assert (words == a @ b).all(), (m, k, n)

    simulate(Accelerator(params, watchdog=150), process, limit=20_000, array_clock=array_clock)


def test_the_same_machine_is_the_same_text_in_every_process(tmp_path):
    command = ("from hdl.params import Params; from hdl.top import build_id; "
               f"print(build_id({TINY!r}))")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == build_id(TINY)
    assert re.fullmatch("[0-9a-f]{64}", build_id(TINY))
    assert os.getcwd() not in rtlil(TINY)
    assert build_id(PLAIN) != build_id(TINY)


def test_a_machine_without_groups_has_no_sorter():
    assert "accelerator.sort" in rtlil(TINY)
    assert "accelerator.sort" not in rtlil(PLAIN)
    assert r"\top.accelerator.order" not in rtlil(PLAIN)


def test_a_machine_that_keeps_no_masters_has_nothing_that_is_for_them():
    keeper = rtlil(replace(PLAIN, masters=1))
    for name in ("scale", "combine", "cross_entropy", "master", "velocity", "program",
                 "sequencer.stored"):
        assert f"module \\top.accelerator.{name}\n" in keeper, name
        assert f"module \\top.accelerator.{name}\n" not in rtlil(PLAIN), name


def test_verilog_has_flat_ports_and_no_line_per_memory_word():
    text = verilog(PLAIN)
    ports = re.search(r"^module top\(([^)]*)\);", text, re.MULTILINE).group(1).split(", ")
    streams = [f"{side}__{name}" for side in "io" for name in ("payload", "valid", "ready")]
    assert set(ports) == {"clk", "rst", "clk_array", *streams}
    assert "initial begin" not in text
    assert "always @*" not in text


def test_a_missing_yosys_is_one_sentence(monkeypatch):
    monkeypatch.setenv("YOSYS", "no-such-yosys")
    with pytest.raises(VerilogError, match=r"^no-such-yosys was not found: .*YOSYS$"):
        verilog(PLAIN)
    monkeypatch.setenv("YOSYS", "false")
    with pytest.raises(VerilogError, match=r"^yosys failed: no message$"):
        verilog(PLAIN)

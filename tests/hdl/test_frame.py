"""hdl.link.frame: receiver and sender against hdl.protocol's encode and decode."""

import random
import zlib

import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

from hdl.link.frame import ANSWER_BYTE, FrameReceiver, FrameSender
from hdl.link.slip import Escaper, Unescaper
from hdl.protocol import END, ESC, MAX_BODY, encode, escape
from tests.support.streams import WEATHERS, consume, produce, race, transfer


class Receiver(Elaboratable):
    """The way in: bytes to a frame."""
    def __init__(self):
        self.unescaper = Unescaper()
        self.receiver = FrameReceiver()
        self.i = self.unescaper.i
        self.frame = self.receiver.frame

    def elaborate(self, platform):
        m = Module()
        m.submodules.unescaper, m.submodules.receiver = self.unescaper, self.receiver
        wiring.connect(m, self.unescaper.o, self.receiver.i)
        return m


class Sender(wiring.Component):
    """The way out: an answer to bytes."""
    o: Out(stream.Signature(8))

    def __init__(self):
        super().__init__()
        self.sender = FrameSender()
        self.i = self.sender.i

    def elaborate(self, platform):
        m = Module()
        m.submodules.sender, m.submodules.escaper = self.sender, (escaper := Escaper())
        wiring.connect(m, self.sender.o, escaper.i)
        wiring.connect(m, escaper.o, wiring.flipped(self.o))
        return m


def receive(wire, count, *, weather=(0, 0), read=None, limit=30_000):
    """``count`` frames of a wire: ``(seq, kind, body)``, or None where damaged.

    ``read`` is how many bytes of each body are read before ``done``; default: all.
    """
    dut, idle, stall = Receiver(), *weather
    out = []

    async def source(ctx):
        await produce(ctx, dut.i, wire, idle)

    async def sink(ctx):
        while len(out) < count:
            await ctx.tick().until(dut.frame.valid)
            if ctx.get(dut.frame.damaged):
                out.append(None)
            else:
                seq, kind, length = (ctx.get(field) for field in (
                    dut.frame.seq, dut.frame.kind, dut.frame.length))
                body, want = [], length if read is None else min(read, length)
                await consume(ctx, dut.frame.body, body, lambda got, want=want: len(got) >= want,
                              stall)
                if read is None:
                    await ctx.tick()
                    assert not ctx.get(dut.frame.body.valid), "the body goes on"
                out.append((seq, kind, bytes(body)))
            ctx.set(dut.frame.done, 1)
            await ctx.tick()
            ctx.set(dut.frame.done, 0)
        for _ in range(20):
            assert not ctx.get(dut.frame.valid), "a frame too many"
            await ctx.tick()

    race(dut, source, sink, limit, lambda: f"{len(out)} of {count} frames")
    return out


@pytest.mark.parametrize("weather", WEATHERS)
def test_receives_frames_as_the_protocol_encodes_them(weather):
    chance = random.Random(1)
    frames = [(chance.randrange(256), chance.randrange(256),
               bytes(chance.choice([END, ESC, 1, 2]) for _ in range(length)))
              for length in (0, 1, 2, 3, 4, 5, 40)]
    wire = b"".join(encode(*frame) for frame in frames)
    assert receive(wire, len(frames), weather=weather) == frames


def test_the_rest_of_a_body_is_forgotten():
    frames = [(1, 2, bytes(range(10))), (3, 4, bytes(range(50, 60)))]
    wire = b"".join(encode(*frame) for frame in frames)
    assert receive(wire, 2, read=3) == [(1, 2, bytes(range(3))), (3, 4, bytes(range(50, 53)))]


def test_the_longest_body_and_one_byte_more():
    body = random.Random(2).randbytes(MAX_BODY)
    wire = encode(1, 2, body) + encode(1, 2, body + b"x") + encode(3, 4, b"y")
    assert receive(wire, 3) == [(1, 2, body), None, (3, 4, b"y")]


def test_a_frame_of_any_length_above_is_too_long():
    # So long that a counter of the length's width would wrap.
    wire = encode(1, 2, bytes(4096 + 5)) + encode(3, 4, b"y")
    assert receive(wire, 2) == [None, (3, 4, b"y")]


def damaged_frames():
    good = encode(9, 5, b"abc")
    yield "one bit", good[:3] + bytes([good[3] ^ 4]) + good[4:]
    yield "a byte lost", good[:4] + good[5:]
    yield "a byte too many", good[:4] + b"x" + good[4:]
    # All its bytes are right.
    yield "a wrong escape", good[:3] + bytes([ESC]) + good[3:]
    yield "an escape before the end", good[:-1] + bytes([ESC, END])
    yield "only an escape", bytes([END, ESC, END])
    yield "cut off", good[:6] + bytes([END])
    # The CRC of nothing is right, but there is no seq and no kind.
    for length in range(6):
        head = bytes(max(0, length - 4))
        data = (head + zlib.crc32(head).to_bytes(4, "little"))[:length]
        if data:
            yield f"{length} bytes", bytes([END]) + escape(data) + bytes([END])


@pytest.mark.parametrize("wire", [
    pytest.param(wire, id=name) for name, wire in damaged_frames()])
def test_a_damaged_frame_is_marked_and_the_next_one_is_whole(wire):
    assert receive(wire + encode(3, 4, b"y"), 2) == [None, (3, 4, b"y")]


def test_empty_frames_are_ignored():
    assert receive(bytes([END] * 5) + encode(3, 4, b"y") + bytes([END] * 5), 1) == [(3, 4, b"y")]


@pytest.mark.parametrize("weather", WEATHERS)
def test_sends_frames_as_the_protocol_encodes_them(weather):
    chance = random.Random(3)
    frames = [(7, 5, b""), (1, 2, b"x"), (0xC0, 0xDB, bytes(chance.choice([END, ESC, 7])
                                                            for _ in range(60)))]
    answer = [ANSWER_BYTE.const({"data": byte, "last": i == len(body) + 1})
              for seq, kind, body in frames
              for i, byte in enumerate(bytes([seq, kind]) + body)]
    wire = b"".join(encode(*frame) for frame in frames)
    assert bytes(transfer(Sender(), answer, len(wire), weather=weather)) == wire

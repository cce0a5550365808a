"""hdl.link.slip against hdl.protocol's escape and unescape."""

import random

import pytest

from hdl.link.slip import SYMBOL, Escaper, Unescaper
from hdl.protocol import END, ESC, ESC_END, ESC_ESC, FrameError, escape, unescape
from tests.support.streams import WEATHERS, transfer

SPECIAL = [END, ESC, ESC_END, ESC_ESC]


def draw(seed, count):
    """Bytes, half of them those that matter."""
    chance = random.Random(seed)
    return bytes(chance.choice([*SPECIAL, chance.randrange(256), 0, 0xDA])
                 for _ in range(count))


@pytest.mark.parametrize("weather", WEATHERS)
def test_escapes_every_byte_as_the_protocol(weather):
    frame = bytes(range(256)) + draw(1, 200)
    symbols = [SYMBOL.const({"data": byte, "end": 0, "wrong": 0}) for byte in frame]
    symbols.append(SYMBOL.const({"data": ESC, "end": 1, "wrong": 0}))
    wire = escape(frame) + bytes([END])
    assert bytes(transfer(Escaper(), symbols, len(wire), weather=weather)) == wire


@pytest.mark.parametrize("weather", WEATHERS)
def test_unescapes_what_was_escaped(weather):
    frame = bytes(range(256)) + draw(2, 200)
    symbols = transfer(Unescaper(), escape(frame) + bytes([END]), len(frame) + 1, weather=weather)
    assert bytes(symbol.data for symbol in symbols[:-1]) == frame
    assert not any(symbol.wrong or symbol.end for symbol in symbols[:-1])
    assert symbols[-1].end and not symbols[-1].wrong


@pytest.mark.parametrize("seed", range(4))
def test_wrong_escapes_are_marked_in_the_frame_they_are_in(seed):
    wire = draw(seed, 400) + bytes([END])
    frames = wire.split(bytes([END]))[:-1]
    count = sum(1 for _ in _symbols(wire))
    symbols = transfer(Unescaper(), wire, count)
    got, wrong, data = [], False, bytearray()
    for symbol in symbols:
        wrong |= bool(symbol.wrong)
        if symbol.end:
            got.append(None if wrong else bytes(data))
            wrong, data = False, bytearray()
        else:
            data.append(symbol.data)
    expected = []
    for frame in frames:
        try:
            expected.append(unescape(frame))
        except FrameError:
            expected.append(None)
    assert got == expected
    assert None in got and any(got)


def _symbols(wire):
    """One for every byte that is not a valid ESC."""
    escaped = False
    for byte in wire:
        if byte != ESC or escaped:
            yield byte
        escaped = byte == ESC and not escaped

"""boards.parts and boards.platforms: names, dies and limits."""

import pytest

from boards.parts import DIES, PartError, parse_part
from boards.platforms import BOARDS, BoardError, board_part, board_platform, part_platform
from boards.top import BAUD
from host.transport import DEFAULT_BAUD


@pytest.mark.parametrize(("name", "die"), [
    ("ulx3s-12f", (24_288, 56, 28)), ("ulx3s-25f", (24_288, 56, 28)),
    ("ulx3s-45f", (43_848, 108, 72)), ("ulx3s-85f", (83_640, 208, 156))])
def test_dies_of_boards(name, die):
    part = board_part(board_platform(name))
    assert part.name == f"LFE5U-{name[-3:].upper()}-6BG381C"
    assert (part.die.comb, part.die.ebr, part.die.dsp) == die
    assert part.die.ff == part.die.comb


def test_a_board_is_found_in_any_case():
    assert isinstance(board_platform("ULX3S-85F"), BOARDS["ulx3s-85f"])
    with pytest.raises(BoardError, match=r"board must be one of ulx3s-12f, .*, got 'ulx4'"):
        board_platform("ulx4")


@pytest.mark.parametrize(("text", "reason"), [
    ("", "such as LFE5U-85F-6BG381C, got ''"),
    ("LFE5U-85F-9BG381C", "speed grade of 6, 7 or 8"),
    ("LFE5UM-12F-6BG381C", "must be an LFE5U to have a 12F die"),
    ("LFE5UM5G-85F-6BG381C", "must have speed grade 8 to be an LFE5UM5G"),
    ("LFE5U-25F-6BG756C", "packages of the LFE5U-25F, BG256, MG285, BG381, TG144"),
    ("LFE5UM-25F-6TG144C", "packages of the LFE5UM-25F"),
])
def test_a_wrong_part_is_refused_in_a_sentence(text, reason):
    with pytest.raises(PartError, match=reason) as caught:
        parse_part(text)
    assert str(caught.value).startswith("part must ") and repr(text) in str(caught.value)


def test_every_part_name_is_read_back():
    for size, die in DIES.items():
        for package in die.packages:
            name = f"LFE5U-{size}-7{package}I"
            part = parse_part(name.lower())
            assert part.name == name
            platform = part_platform(part)
            assert board_part(platform) == part


@pytest.mark.parametrize(("speed", "mhz"), [(6, 190.7), (7, 228.7), (8, 244.2)])
def test_block_ram_caps_the_clock(speed, mhz):
    cap, reason = parse_part(f"LFE5U-85F-{speed}BG381C").clock_cap()
    assert cap == mhz and f"speed grade {speed}" in reason


def test_host_and_boards_agree_on_the_line():
    assert BAUD == DEFAULT_BAUD

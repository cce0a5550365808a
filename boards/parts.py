"""ECP5 dies and part numbers: what a die has, and how fast its block RAM may be clocked."""

import re
from dataclasses import dataclass

__all__ = ["CLOCK_PINS", "DIES", "DSP_MHZ", "DUTY_CYCLE", "EBR_LOW_PULSE_NS", "Die", "Part",
           "PartError", "parse_part"]


class PartError(ValueError):
    """No such part. The message is one sentence for the user."""


@dataclass(frozen=True)
class Die:
    """What one die has.

    Parameters
    ----------
    comb : int
        LUT4 positions, nextpnr's TRELLIS_COMB. There is one flip-flop beside each.
    ebr : int
        18 kbit block RAMs (DP16KD).
    dsp : int
        18 x 18 multipliers (MULT18X18D).
    columns, rows : int
        Size of the die in tiles.
    packages : tuple of str
        Packages that the die comes in, as they stand in part numbers.
    """
    comb: int
    ebr: int
    dsp: int
    columns: int
    rows: int
    packages: tuple

    @property
    def ff(self):
        """Flip-flops (TRELLIS_FF)."""
        return self.comb

    def has(self):
        """Resources by the names the reports use."""
        return {"comb": self.comb, "ff": self.ff, "ebr": self.ebr, "dsp": self.dsp}


_SMALL = Die(24_288, 56, 28, 73, 51, ("BG256", "MG285", "BG381", "TG144"))
#: Dies by the name in part numbers. The 12F is a 25F die, whole, to the open tools.
DIES = {
    "12F": _SMALL,
    "25F": _SMALL,
    "45F": Die(43_848, 108, 72, 91, 72, ("BG256", "MG285", "BG381", "BG554", "TG144")),
    "85F": Die(83_640, 208, 156, 127, 96, ("MG285", "BG381", "BG554", "BG756")),
}

#: A ball that leads to the clock network, by package: the one of the ULX3S, on each of its dies.
CLOCK_PINS = {"BG381": "G2"}

#: Shortest clock pulse of a block RAM in ns by speed grade (Project Trellis' timing database);
#: it holds for both phases of the clock. nextpnr does not check it.
EBR_LOW_PULSE_NS = {6: 2.359, 7: 1.967, 8: 1.842}
#: Highest clock of a multiplier block with its registers at speed grade 8, from memory of the
#: data sheet. nextpnr does not check it.
DSP_MHZ = 225.0
#: The shorter phase of a PLL's output clock as a share of its period, at worst.
DUTY_CYCLE = 0.45

#: Families by the prefix of the part number, with what nextpnr calls them.
_FAMILIES = {"LFE5U": "", "LFE5UM": "um-", "LFE5UM5G": "um5g-"}
#: Package codes, with what nextpnr calls them.
_PACKAGES = {"BG256": "CABGA256", "MG285": "CSFBGA285", "BG381": "CABGA381",
             "BG554": "CABGA554", "BG756": "CABGA756", "TG144": "TQFP144"}

_PART = re.compile(r"(LFE5U|LFE5UM|LFE5UM5G)-(12F|25F|45F|85F)-([678])([A-Z]{2}[0-9]{3})([CI])")


@dataclass(frozen=True)
class Part:
    """One part number, taken apart.

    >>> Part("LFE5U", "85F", 6, "BG381", "C").name
    'LFE5U-85F-6BG381C'
    """
    family: str
    size: str
    speed: int
    package: str
    grade: str = "C"

    @property
    def name(self):
        return f"{self.family}-{self.size}-{self.speed}{self.package}{self.grade}"

    @property
    def device(self):
        """Family and size, as Amaranth's platforms name a device."""
        return f"{self.family}-{self.size}"

    @property
    def die(self):
        return DIES[self.size]

    def nextpnr_options(self):
        """Options that select this part.

        >>> " ".join(parse_part("LFE5UM5G-45F-8BG381C").nextpnr_options())
        '--um5g-45k --package CABGA381 --speed 8'
        """
        size = self.size[:-1] + "k"
        return [f"--{_FAMILIES[self.family]}{size}", "--package", _PACKAGES[self.package],
                "--speed", str(self.speed)]

    def clock_cap(self, dsp=False):
        """``(MHz, reason)``: a limit of the clock that nextpnr does not check.

        The block RAM's shortest pulse limits both phases of the clock, in every machine: its
        operands come from block RAM. With ``dsp`` there are multiplier blocks too. nextpnr times
        one without registers; through its registers it sees no path at all. What the fastest
        grade reaches is a bound for all.

        >>> parse_part("LFE5U-85F-6BG381C").clock_cap()[0]
        190.7
        >>> parse_part("LFE5U-85F-8BG381C").clock_cap(dsp=True)
        (225.0, 'multiplier block at speed grade 8')
        """
        pulse = EBR_LOW_PULSE_NS[self.speed]
        cap = int(10_000 * DUTY_CYCLE / pulse) / 10
        if dsp and cap > DSP_MHZ:
            return DSP_MHZ, "multiplier block at speed grade 8"
        return cap, (f"block RAM pulse of at least {pulse} ns in both phases at speed grade "
                     f"{self.speed}, clock phases of {DUTY_CYCLE:.0%} and {1 - DUTY_CYCLE:.0%}")


def parse_part(text):
    """Read a part number such as ``LFE5U-85F-6BG381C``; any case.

    >>> parse_part("lfe5u-25f-7bg256i").die.ebr
    56
    """
    match = _PART.fullmatch(str(text).upper())
    if match is None:
        raise PartError("part must be LFE5U-, LFE5UM- or LFE5UM5G- with a die of "
                        f"{', '.join(DIES)}, a speed grade of 6, 7 or 8, a package and C or I, "
                        f"such as LFE5U-85F-6BG381C, got {text!r}")
    family, size, speed, package, grade = match.groups()
    part = Part(family, size, int(speed), package, grade)
    if size == "12F" and family != "LFE5U":
        raise PartError(f"part must be an LFE5U to have a 12F die, got {text!r}")
    if family == "LFE5UM5G" and part.speed != 8:
        raise PartError(f"part must have speed grade 8 to be an LFE5UM5G, got {text!r}")
    packages = [name for name in part.die.packages if family == "LFE5U" or name != "TG144"]
    if package not in packages:
        raise PartError(f"part must have one of the packages of the {part.device}, "
                        f"{', '.join(packages)}, got {text!r}")
    return part

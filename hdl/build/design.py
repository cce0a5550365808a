"""One design as RTLIL: the accelerator on a board or a bare part."""

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction

from boards.parts import Part
from boards.platforms import board_part, board_platform, part_platform
from boards.top import BoardTop

__all__ = ["ARRAY", "SHELL", "Design", "elaborate", "resolve_part"]

#: Name of the unit that is the array: the mesh, wherever in the hierarchy it lies.
ARRAY = "array"
#: Name of the unit that is all around the accelerator: pins, PLL, serial port, lights.
SHELL = "board"

_ACCELERATOR = "top.accelerator"
_MESH = re.compile(r".*\.mesh")
#: Elements of the array and their parts (:mod:`hdl.array.mesh`), at the end of an instance's name.
_ELEMENT = re.compile(r"^module \\(top\.\S*\brow\d+_group\d+(?:\.part\d+)?)$", re.MULTILINE)


@dataclass(frozen=True)
class Design:
    """What there is to build.

    Parameters
    ----------
    name : str
    scope : str
        ``accelerator``, or what is built alone: ``mesh`` or the name of a unit.
    described : dict
        What ``report.json`` says of it.
    fingerprint : str or None
        What it reports in HELLO; None if it is no accelerator.
    macs : int or None
        Products per clock; None for a unit that has none.
    board : str or None
        None for a bare part.
    clock : Fraction
        The clock that the PLL makes, or that is aimed at, in MHz.
    rtlil : str
        The whole design, without source locations, so that it depends on the design alone.
    lpf : str
        Pins and clocks for nextpnr.
    units : dict of str to str
        Names of units by the instance that they are, as ``accelerator.gemm``. The longest name
        that a cell's name begins with is its unit's.
    focus : str
        The unit whose cells are counted for themselves.
    mapping : str
        ``dsp``, or ``lut`` for no multiplier block.
    array_clock : int
        How many times as fast the clock of domain ``array`` is.
    """
    name: str
    scope: str
    described: dict
    fingerprint: str | None
    macs: int | None
    board: str | None
    part: Part
    clock: Fraction
    rtlil: str
    lpf: str
    units: dict
    focus: str = ARRAY
    mapping: str = "dsp"
    array_clock: int = 1

    @property
    def alone(self):
        """Whether it is a component in a harness: it has an aim, and no clock to meet."""
        return self.scope != "accelerator"

    @property
    def build_id(self):
        """Digest of the RTLIL, 32 hex digits."""
        return hashlib.sha256(self.rtlil.encode()).hexdigest()[:32]

    @property
    def kept_modules(self):
        """Modules that stay apart through synthesis: units, so that every cell has one, and
        elements of the array, whose registers are their own where those of others are equal."""
        return [*(f"top.{instance}" for instance in self.units if instance),
                *_ELEMENT.findall(self.rtlil)]


def resolve_part(board, part):
    """``(platform, Part)`` of a board's name or, without one, of a part."""
    if board is None:
        return part_platform(part), part
    platform = board_platform(board)
    return platform, board_part(platform)


def elaborate(params, *, board, part=None, clock_mhz, accelerator=None):
    """Elaborate one design.

    ``accelerator`` stands in for ``hdl.top.Accelerator(params, mapped=True)``.
    """
    if accelerator is None:
        # Only here: what else this module does needs no gateware.
        from hdl.top import Accelerator
        accelerator = Accelerator(params, mapped=True)
    platform, part = resolve_part(board, part)
    top = BoardTop(accelerator, clock_mhz, params.array_clock)
    files = platform.prepare(top, "top", emit_src=False).files
    rtlil = _text(files["top.il"])
    described = {"bits": params.bits, "groups": params.groups, "rows": params.rows,
                 "cols": params.cols, "depth": params.depth, "arith": params.arith,
                 "lanes": params.vector, "memory": params.memory,
                 "array_clock": params.array_clock, "clock_mhz": round(float(top.pll.clock), 4)}
    described |= params.beyond_usual
    return Design(name=params.name, scope="accelerator", described=described,
                  fingerprint=params.fingerprint, macs=params.macs, board=board, part=part,
                  clock=top.pll.clock, array_clock=params.array_clock, rtlil=rtlil,
                  lpf=_text(files["top.lpf"]), units=find_units(rtlil))


def find_units(rtlil):
    r"""Units by instance: the children of the accelerator, and the mesh.

    >>> names = ("top.accelerator.gemm", "top.accelerator.gemm.mesh", "top.reset")
    >>> find_units("".join(f"module \\{name}\n" for name in names)) == {
    ...     "": "board", "accelerator": "accelerator", "accelerator.gemm": "gemm",
    ...     "accelerator.gemm.mesh": "array"}
    True
    """
    units = {"": SHELL, "accelerator": "accelerator"}
    for name in re.findall(r"^module \\(\S+)$", rtlil, re.MULTILINE):
        if not name.startswith(_ACCELERATOR + "."):
            continue
        instance = name.removeprefix("top.")
        if _MESH.fullmatch(name):
            units[instance] = ARRAY
        elif instance.count(".") == 1:
            units[instance] = instance.rpartition(".")[2]
    return units


def _text(content):
    return content.decode() if isinstance(content, bytes) else content

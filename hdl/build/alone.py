"""Components measured alone: arrays, and the designs of any component."""

from dataclasses import dataclass, replace

from hdl.build.datapaths import datapath
from hdl.build.design import ARRAY, Design
from hdl.build.fit import ebr_blocks, memories
from hdl.build.harness import TARGET_MHZ, harness_rtlil
from hdl.params import ARITHMETICS, ParameterError, Params, parse_groups

__all__ = ["ARRAYS", "HARNESS", "MAPPINGS", "CoreAlone", "MeshAlone", "check_mapping",
           "elaborate_alone"]

#: Name of the unit that is all around the component.
HARNESS = "harness"
#: Whether multipliers may become multiplier blocks.
MAPPINGS = ("lut", "dsp")


def check_mapping(mapping, choices=MAPPINGS):
    """Refuse any but the ``choices``."""
    if mapping not in choices:
        raise ParameterError(f"mapping must be {' or '.join(choices)}, got {mapping!r}")


@dataclass(frozen=True, kw_only=True)
class MeshAlone:
    """An array without the machine around it.

    Parameters
    ----------
    arith : str
        See :data:`hdl.build.datapaths.DATAPATHS`.
    bits : int
        Width of an operand.
    groups : str
        ``1x1`` without groups.
    rows, cols : int
    depth : int, optional
        The most there is for that arithmetic unless given.
    mapping : str
        ``lut`` or ``dsp``.
    """
    scope = "mesh"
    unit = ARRAY

    arith: str = "shift"
    bits: int = 4
    groups: str = "4x4"
    rows: int = 4
    cols: int = 4
    depth: int | None = None
    mapping: str = "lut"

    def __post_init__(self):
        made = datapath(self.arith)
        if self.depth is None:
            object.__setattr__(self, "depth", made.deepest)
        if self.bits not in made.widths:
            widths = (f"{made.widths[0]}" if len(made.widths) == 1 else
                      f"a whole number from {made.widths[0]} to {made.widths[-1]}")
            raise ParameterError(f"bits must be {widths} for arith {self.arith}, got {self.bits}")
        if self.depth > made.deepest:
            raise ParameterError(f"depth must be at most {made.deepest} for arith {self.arith}, "
                                 f"got {self.depth}")
        if not made.grouped and self.groups != "1x1":
            raise ParameterError(f"arith {self.arith} has no groups: groups must be 1x1, got "
                                 f"{self.groups!r}")
        check_mapping(self.mapping, made.mappings)
        # Refuses shapes and groups that there are not.
        self.params()

    def params(self):
        """Parameters of the mesh; those of arithmetic that Params does not know are plain."""
        sample, channel = parse_groups(self.groups)
        return Params(lanes=0, bits=min(self.bits, 8), sample_groups=sample, channel_groups=channel,
                      arith="shift" if datapath(self.arith).grouped else "int",
                      rows=self.rows, cols=self.cols, depth=self.depth)

    @property
    def name(self):
        return (f"{self.scope}-{self.arith}-{self.bits}b-{self.groups}-"
                f"{self.rows}x{self.cols}x{self.depth}-{self.mapping}")

    @property
    def macs(self):
        """Products per clock."""
        return self.rows * self.cols * self.depth

    def described(self):
        """What ``report.json`` says of it."""
        return {"bits": self.bits, "groups": self.groups, "rows": self.rows, "cols": self.cols,
                "depth": self.depth, "arith": self.arith}

    def arguments(self):
        """Options of ``reports.measure`` that mean this."""
        return ["--scope", self.scope, *_options(self.described()), "--mapping", self.mapping]

    def component(self):
        return datapath(self.arith).mesh(self.params(), self.mapping)

    def estimate(self):
        """Resources from below."""
        made = datapath(self.arith)
        used = {name: self.macs * count
                for name, count in made.product(self.bits, self.depth, self.mapping).items()}
        return {**used, "ebr": 0}


@dataclass(frozen=True, kw_only=True)
class CoreAlone(MeshAlone):
    """An array with its operand and result memories and accumulators, without the machine around
    it: all that has the array's clock. Parameters are those of :class:`MeshAlone`, for ``shift``
    and ``int``.
    """
    scope = "core"
    unit = "core"

    def __post_init__(self):
        if self.arith not in ARITHMETICS:
            raise ParameterError(f"arith of a core must be {' or '.join(ARITHMETICS)}, got "
                                 f"{self.arith!r}")
        super().__post_init__()

    def params(self):
        """Parameters of the core: of the machine that it would be in, with the slower clock at the
        units' port of the operands and at that of the results."""
        return replace(super().params(), array_clock=2)

    def component(self):
        # Only here: other arrays need none of it.
        from hdl.core import CoreWithMemories
        return CoreWithMemories(self.params(), mapped=True)

    def estimate(self):
        """Resources: block RAMs exactly, the rest from below."""
        ebr = sum(ebr_blocks(width, words) for name, width, words in memories(self.params())
                  if name in ("quant", "accumulators", "results"))
        return {**super().estimate(), "ebr": ebr}


#: What there is to measure of an array, by scope.
ARRAYS = {made.scope: made for made in (MeshAlone, CoreAlone)}


def _options(values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def elaborate_alone(subject, part):
    """The design of a component in its harness.

    ``subject`` is a :class:`MeshAlone`, or anything with the same properties and methods.
    """
    rtlil, lpf = harness_rtlil(subject.component(), part)
    return Design(
        name=subject.name, scope=subject.scope, described=subject.described(), fingerprint=None,
        macs=subject.macs, board=None, part=part, clock=TARGET_MHZ, rtlil=rtlil, lpf=lpf,
        units={"": HARNESS, "component": subject.unit}, focus=subject.unit,
        mapping=subject.mapping)

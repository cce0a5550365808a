"""What there is to measure: points, their names, the standing list, and the store of results."""

import json
from dataclasses import dataclass
from pathlib import Path

from boards.parts import Part, parse_part
from boards.platforms import DEFAULT_BOARD, board_part, board_platform
from hdl.build.__main__ import DEFAULT_CLOCK
from hdl.build.alone import CoreAlone, MeshAlone, check_mapping, elaborate_alone
from hdl.build.datapaths import DATAPATHS
from hdl.build.design import elaborate
from hdl.build.fit import check_alone, check_fit, estimate
from hdl.build.summary import DATA, DamagedError, read_point
from hdl.params import ARITHMETICS, ParameterError, Params
from reports.units import UNITS

__all__ = ["LARGE_MESH", "MESH", "SCALING", "SEEDS", "SMALL_MESH", "Point", "Store", "UnitAlone",
           "alone", "machine", "scaling", "standing"]

#: Place-and-route runs of a point: a median needs some.
SEEDS = 5
#: Shape of the meshes that are compared over widths and arithmetic, of the deepest elements that
#: there are: small enough for floating point on the smallest die.
MESH = {"rows": 4, "cols": 4}
#: One in which every format of floating point is placed in minutes.
SMALL_MESH = {"rows": 2, "cols": 2}
#: One of integers, whose edges count for less.
LARGE_MESH = {"rows": 8, "cols": 8}
#: Arrays that fill each die: width, die, rows, columns. Some seven to eight tenths of the LUTs;
#: with more, cells of the tables find no place.
SCALING = (
    (2, "25F", 24, 25), (2, "45F", 30, 36), (2, "85F", 44, 45),
    (3, "25F", 17, 20), (3, "45F", 24, 25), (3, "85F", 32, 35),
    (4, "25F", 16, 16), (4, "45F", 16, 28), (4, "45F", 16, 31), (4, "85F", 28, 30),
    (6, "25F", 11, 11), (6, "25F", 11, 12), (6, "45F", 14, 15), (6, "85F", 20, 20),
    (8, "25F", 9, 9), (8, "45F", 11, 12), (8, "85F", 16, 16),
)
#: Part numbers by die and speed grade.
_PART = "LFE5U-{}-{}BG381C"


@dataclass(frozen=True, kw_only=True)
class UnitAlone:
    """A unit without the machine around it.

    Parameters
    ----------
    scope : str
        See :data:`reports.units.UNITS`.
    lanes : int
    mapping : str
        ``lut`` or ``dsp``.
    """
    scope: str
    lanes: int = 1
    mapping: str = "dsp"

    def __post_init__(self):
        if self.scope not in UNITS:
            raise ParameterError("scope must be accelerator, mesh, core or one of "
                                 f"{', '.join(UNITS)}, got {self.scope!r}")
        check_mapping(self.mapping)
        if not 1 <= self.lanes <= 64:
            raise ParameterError(f"lanes must be a whole number from 1 to 64, got {self.lanes}")

    @property
    def unit(self):
        return self.scope

    @property
    def macs(self):
        """Products per clock of an element of several."""
        return UNITS[self.scope].products

    @property
    def name(self):
        return f"{self.scope}-{self.lanes}lanes-{self.mapping}"

    def described(self):
        """What ``report.json`` says of it."""
        return {"unit": self.scope, "category": UNITS[self.scope].category, "lanes": self.lanes}

    def arguments(self):
        """Options of ``reports.measure`` that mean this."""
        return ["--scope", self.scope, "--lanes", str(self.lanes), "--mapping", self.mapping]

    def component(self):
        return UNITS[self.scope].make(self.lanes)

    def estimate(self):
        """Resources from below: a lane of any unit is more than this."""
        return {"comb": 20 * self.lanes, "ff": 0, "ebr": 0, "dsp": 0}


@dataclass(frozen=True)
class Point:
    """One design to measure.

    Parameters
    ----------
    subject : hdl.params.Params, MeshAlone or UnitAlone
    part : Part
    board : str or None
    clock_mhz : number or None
        Of a machine.
    seeds : int
    timing_driven : bool
        Components alone always are.
    """
    subject: Params | MeshAlone | UnitAlone
    part: Part
    board: str | None = None
    clock_mhz: float | None = None
    seeds: int = SEEDS
    timing_driven: bool = True

    @property
    def is_machine(self):
        return isinstance(self.subject, Params)

    @property
    def name(self):
        """Of its file: later measurements of the same point replace it."""
        if not self.is_machine:
            return f"{self.subject.name}-{self.part.name}"
        placement = "-timing" if self.timing_driven else ""
        sizes = "".join(f"-{value}{name[0]}" for name, value in self.subject.beyond_usual.items()
                        if name in ("codes", "tables"))
        return (f"{self.subject.name}-{self.subject.memory}k{sizes}-{self.board or self.part.name}-"
                f"{self.clock_mhz:g}mhz{placement}")

    @property
    def weight(self):
        """Roughly the seconds it takes."""
        if self.is_machine:
            return self.seeds * estimate(self.subject)["comb"] / 50
        comb = max(500, self.subject.estimate()["comb"])
        return 10 + self.seeds * comb / 60

    def arguments(self):
        """Options of ``reports.measure`` that mean this point."""
        target = ["--board", self.board] if self.board else ["--part", self.part.name]
        seeds = ["--seeds", str(self.seeds)]
        if not self.is_machine:
            return [*self.subject.arguments(), *target, *seeds]
        params = self.subject
        options = {name: getattr(params, name) for name in (
            "arith", "bits", "groups", "rows", "cols", "depth", "memory")}
        options["array-clock"] = params.array_clock
        if params.vector > 1:
            options["lanes"] = params.vector
        options |= {name.replace("_", "-"): value for name, value in params.beyond_usual.items()}
        # What a machine has or has not is an option without a value.
        return [*(word for name, value in options.items()
                  for word in (f"--{name}", *([] if value is True else [str(value)]))),
                *target, "--clock", f"{self.clock_mhz:g}", *seeds,
                *(["--timing-driven"] if self.timing_driven else [])]

    @property
    def command(self):
        return " ".join(["python -m reports.measure", *self.arguments()])

    def check(self):
        """Refuse what cannot fit before it is synthesised."""
        (check_fit if self.is_machine else check_alone)(self.subject, self.part)

    def design(self):
        if not self.is_machine:
            return elaborate_alone(self.subject, self.part)
        return elaborate(self.subject, board=self.board, part=self.part,
                         clock_mhz=self.clock_mhz)


def machine(board=DEFAULT_BOARD, clock_mhz=DEFAULT_CLOCK, **params):
    """A point of a whole machine on a board."""
    return Point(Params(**params), board_part(board_platform(board)), board=board,
                 clock_mhz=clock_mhz, timing_driven=False)


def alone(subject, die="25F", speed=6):
    """A point of a component."""
    return Point(subject, parse_part(_PART.format(die, speed)))


def _mesh(arith, bits=None, mapping=None, *, kind=MeshAlone, **shape):
    made = DATAPATHS[arith]
    return kind(arith=arith, bits=bits or (4 if 4 in made.widths else made.widths[0]),
                groups="4x4" if made.grouped else "1x1",
                mapping=mapping or made.mappings[0], **{**MESH, **shape})


def scaling():
    """The points of :data:`SCALING`."""
    return [alone(_mesh("shift", bits, rows=rows, cols=cols), die)
            for bits, die, rows, cols in SCALING]


def _standing(large):
    integers = [name for name, made in DATAPATHS.items() if made.deepest > 1]
    floats = [name for name, made in DATAPATHS.items() if 4 not in made.widths]
    # Every arithmetic and width on the smallest die; floating point takes long to place, and one
    # format of it without multiplier blocks is enough at first.
    for name, made in DATAPATHS.items():
        for bits in made.widths:
            # What differs from shift is the same at every width.
            if name in ("int-wide", "int-mult") and bits % 2 and not large:
                continue
            for mapping in made.mappings:
                if large or name not in floats or (name, mapping) == (floats[0], "lut"):
                    yield alone(_mesh(name, bits, mapping))
    # The fastest grade, and other dies.
    for name in integers:
        yield alone(_mesh(name), speed=8)
        for die in ("45F", "85F"):
            yield alone(_mesh(name), die)
    # Other sizes, and fewer products per element.
    for name in integers:
        for shape in (SMALL_MESH, LARGE_MESH):
            yield alone(_mesh(name, **shape))
    for depth in (1, 2, 3):
        yield alone(_mesh("shift", depth=depth))
    for name in floats:
        for mapping in DATAPATHS[name].mappings:
            yield alone(_mesh(name, mapping=mapping, **SMALL_MESH))
    for name, unit in UNITS.items():
        for mapping in unit.mappings:
            yield alone(UnitAlone(scope=name, mapping=mapping))
    # An array with its memories; the machine, and its plain twin.
    for name in ARITHMETICS:
        yield alone(_mesh(name, kind=CoreAlone, **LARGE_MESH))
    yield machine()
    yield machine(arith="int", sample_groups=1, channel_groups=1)
    if not large:
        return
    yield from scaling()
    for name in integers:
        for bits in (2, 8):
            yield alone(_mesh(name, bits, rows=8, cols=8), "85F")
        for size in (8, 16):
            yield alone(_mesh(name, rows=size, cols=size), "85F")
    for name in floats:
        for mapping in DATAPATHS[name].mappings:
            yield alone(_mesh(name, mapping=mapping), speed=8)
            yield alone(_mesh(name, mapping=mapping, rows=8, cols=8), "85F")
    for name, unit in UNITS.items():
        if not unit.category.endswith("element"):
            yield alone(UnitAlone(scope=name, lanes=4), "85F")
    for bits in (2, 6, 8):
        yield machine(bits=bits)
        yield machine(bits=bits, arith="int", sample_groups=1, channel_groups=1)
    for board in ("ulx3s-25f", "ulx3s-45f"):
        yield machine(board, memory=8)


def standing(large=False):
    """The points that are measured when nothing else is asked for; with ``large`` those that
    take hours, too."""
    return list({point.name: point for point in _standing(large)}.values())


@dataclass(frozen=True)
class Store:
    """The committed results, a file a point."""
    folder: Path = DATA

    def path(self, point):
        folder = self.folder if point.is_machine else self.folder / "alone"
        return folder / f"{point.name}.json"

    def floorplan(self, point):
        return self.folder / "floorplans" / f"{point.name}.svg"

    def state(self, point):
        """``measured``, ``failed``, ``damaged`` or ``not measured``."""
        try:
            found = read_point(self.path(point))
        except FileNotFoundError:
            return "not measured"
        except DamagedError:
            return "damaged"
        return "failed" if found.get("failure") else "measured"

    def is_finished(self, point, key):
        try:
            return read_point(self.path(point))["key"] == key
        except (FileNotFoundError, DamagedError):
            return False

    def write(self, point, key, *, report=None, failure=None, floorplan=None):
        """Keep a result; nothing is half written."""
        path = self.path(point)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"key": key, "name": point.name, "command": point.command, "report": report,
                   "failure": failure}
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        if floorplan:
            self.floorplan(point).parent.mkdir(exist_ok=True)
            self.floorplan(point).write_text(floorplan)
        unfinished.replace(path)

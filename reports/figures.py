"""What is drawn: committed results, looked up by what they measure."""

import gc
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path

from amaranth.hdl import UnusedElaboratable

from boards.platforms import BOARDS, board_part, board_platform
from hdl.build.alone import ARRAYS
from hdl.build.compare import gops_per_kilocomb
from hdl.build.datapaths import DATAPATHS
from hdl.build.fit import estimate, over
from hdl.build.summary import DATA, DamagedError, read_point
from hdl.params import Params
from reports.budget import BUDGET, SUBJECTS, Budget
from reports.points import MESH, Store, standing
from reports.units import UNITS

__all__ = ["CATEGORIES", "FILL", "NORM_ROWS", "Fit", "Result", "Results", "arithmetic",
           "by_category", "by_seed", "fits", "fmax_words", "microseconds", "norm_cycles", "per_mac",
           "per_throughput", "rate", "read_budget", "seeds_words", "usable_mhz"]

#: What the units of a machine do, in the order of the data.
CATEGORIES = {
    "link": ("board", "unescaper", "receiver", "sender", "escaper"),
    "sequencer": ("accelerator", "sequencer", "array_reset", "faults"),
    "memory": ("wide", "quant", "group", "order"),
    "quantiser": ("quantise",),
    "sorter": ("sort",),
    "operands and sums": ("gemm", "move"),
    "array": ("array",),
    "norm": ("norm_forward", "norm_backward", "layer_forward", "layer_backward"),
}
#: Categories by unit.
_HOMES = {unit: category for category, units in CATEGORIES.items() for unit in units}
#: Rows of a column that a norm's cycles are counted for: the most that there are.
NORM_ROWS = 511
#: Share of a die's LUT4 that a design can be expected to be placed and routed in.
FILL = 0.85


@dataclass(frozen=True)
class Result:
    """A file of measurements, or None of everything but ``name`` and ``command``."""
    name: str
    command: str | None
    href: str | None = None
    report: dict | None = None
    failure: str | None = None

    @property
    def state(self):
        """Why there is no figure, in words."""
        if self.failure:
            return "failed"
        return "measured" if self.report else "not measured"


def _check_units(path, report):
    """Refuse a machine of which nobody knows what its units do."""
    if report and report.get("scope", "accelerator") == "accelerator":
        unknown = set(report["units"]) - set(_HOMES)
        if unknown:
            raise DamagedError(f"{path} has units that reports.figures.CATEGORIES does not know, "
                               f"{', '.join(sorted(unknown))}, and is left out")


class Results:
    """All results of a folder.

    Attributes
    ----------
    every : dict of str to Result
        By name.
    damaged : list of DamagedError
    """
    def __init__(self, folder=DATA, large=True):
        self.store = Store(folder)
        self.every, self.damaged = {}, []
        for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("alone/*.json"))]:
            try:
                found = read_point(path)
                _check_units(path, found["report"])
            except DamagedError as error:
                self.damaged.append(error)
                continue
            self.every[path.stem] = Result(
                path.stem, found["command"], f"data/{path.relative_to(folder)}", found["report"],
                found["failure"])
        self.standing = standing(large)
        self.usual = {point.name for point in standing()}
        for point in self.standing:
            known = self.every.get(point.name)
            if known is None:
                self.every[point.name] = Result(point.name, point.command)
            elif known.command is None:
                self.every[point.name] = Result(known.name, point.command, known.href,
                                                known.report, known.failure)

    def floorplan(self, name):
        """The picture of a placed machine, or None."""
        path = Path("data") / "floorplans" / f"{name}.svg"
        return str(path) if (self.store.folder.parent / path).is_file() else None

    def meshes(self, **wanted):
        """Results of arrays alone by their points; see :meth:`_matches` for what can be wanted."""
        return {point: self.every[point.name] for point in self.standing
                if getattr(point.subject, "scope", None) == "mesh" and _matches(point, wanted)}

    def cores(self):
        """Results of arrays with their memories by their points."""
        return {point: self.every[point.name] for point in self.standing
                if getattr(point.subject, "scope", None) == "core"}

    def comparison(self, shape=MESH):
        """The meshes of the deepest elements of a shape, which differ in arithmetic, width and
        mapping alone, without those of the long list that nobody has measured."""
        return {point: result for point, result
                in self.meshes(die="25F", speed=6, **shape).items()
                if point.subject.depth == DATAPATHS[point.subject.arith].deepest
                and (point.name in self.usual or result.state != "not measured")}

    @cached_property
    def machines(self):
        """Results of machines that were placed."""
        return [result for result in self.every.values() if result.report
                and result.report.get("scope", "accelerator") == "accelerator"]

    def units(self):
        """Results of units alone by their points, without those of the long list that nobody has
        measured."""
        return {point: self.every[point.name] for point in self.standing
                if not point.is_machine and point.subject.scope not in ARRAYS
                and (point.name in self.usual or self.every[point.name].state != "not measured")}


def _matches(point, wanted):
    of = {"die": point.part.size, "speed": point.part.speed, **vars(point.subject)}
    return all(of[name] == value for name, value in wanted.items())


def per_mac(result, resource):
    """Cells of an array for each product per clock, or of an element alone, or None."""
    if not result.report:
        return None
    return result.report["array"][resource] / (result.report["macs_per_clock"] or 1)


def by_seed(fmax):
    """``(seed, MHz)`` of the runs that were placed and routed; seeds count from 1.

    >>> by_seed({"seeds": [50.0, 52.0], "failed": {"2": "unroutable"}})
    [(1, 50.0), (3, 52.0)]
    """
    count = len(fmax["seeds"]) + len(fmax["failed"])
    placed = (seed for seed in range(1, count + 1) if str(seed) not in fmax["failed"])
    return list(zip(placed, fmax["seeds"], strict=True))


def usable_mhz(result):
    """The median of the seeds of a component, or the cap where that is lower; None without."""
    if not result.report:
        return None
    fmax = result.report["fmax_mhz"]
    return min(fmax["median"], fmax["cap_mhz"])


def rate(result):
    """Peak GOPS per thousand LUT4 of an array, or None."""
    return gops_per_kilocomb(result.report) if result.report else None


def per_throughput(comb_per_mac, mhz):
    """LUT4 for 100 million products a second.

    >>> per_throughput(300, 150)
    200.0
    """
    return comb_per_mac * 100 / mhz


def by_category(report, resource="comb"):
    """Cells of a machine by what they do.

    >>> by_category({"units": {"array": {"comb": 5}, "wide": {"comb": 2}, "quant": {"comb": 1}}})
    {'memory': 3, 'array': 5}
    """
    counted = dict.fromkeys(CATEGORIES, 0)
    for unit, used in report["units"].items():
        counted[_HOMES[unit]] += used[resource]
    return {category: count for category, count in counted.items() if count}


def read_budget(path=BUDGET):
    """The sizes by version; :class:`hdl.build.summary.DamagedError` if they cannot be drawn."""
    try:
        budget = Budget.read(path)
        sizes = [entry[name][resource] for entry in budget.content["entries"] for name in SUBJECTS
                 for resource in ("comb", "ff")]
        words = [entry[name] for entry in budget.content["entries"] for name in ("date", "what")]
        if not (all(type(size) is int and size > 0 for size in sizes)
                and all(isinstance(word, str) for word in words)
                and isinstance(budget.content["tolerance_percent"], int | float)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"{path} is damaged and is not drawn") from None
    return budget


# What fits a board.


@dataclass(frozen=True)
class Fit:
    """The largest machine that fits a board, estimated.

    ``rest`` is the result that says what all but the array takes and ``mesh`` the one that says
    what a product takes; without either ``shape``, rows and columns, is None, and so it is where
    nothing fits. ``measured`` is the largest machine of that width that was placed on that board.
    """
    board: str
    bits: int
    shape: tuple | None
    memory: int | None
    rest: Result | None
    mesh: Result
    measured: Result | None

    @property
    def macs(self):
        """Products per clock."""
        rows, cols = self.shape or (0, 0)
        return rows * cols * Params.depth


def _memory(bits, shape, part):
    """The largest memory that the die's block RAM allows, None where even the least is too much."""
    rows, cols = shape
    for memory in (256, 128, 64, 32, 16, 8, 4):
        sized = Params(bits=bits, rows=rows, cols=cols, memory=memory)
        if not over({"ebr": estimate(sized)["ebr"]}, part.die.has()):
            return memory
    return None


def _takes(rest, mesh, shape, of):
    """Cells of a machine of that shape, from those of a measured one and of an array.

    The unit around the array grows with operands, which are by row, or with sums, by column:
    with what grows more.
    """
    report, (rows, cols) = rest.report, shape
    design, around = report["design"], report["units"]["gemm"][of]
    shared = report["total"][of] - report["array"][of] - around
    return (shared + around * max(1, rows / design["rows"], cols / design["cols"])
            + rows * cols * Params.depth * per_mac(mesh, of))


def _fit(results, board, bits):
    part = board_part(board_platform(board))
    mesh = next(result for point, result in results.comparison().items()
                if point.subject.arith == "shift" and point.subject.bits == bits)
    machines = [result for result in results.machines
                if result.report["design"]["arith"] == "shift"]
    rest = min((result for result in machines if result.report["design"]["lanes"] == 1),
               default=None, key=lambda result: (
        abs(result.report["design"]["bits"] - bits), result.name))
    there = [result for result in machines if result.report["board"] == board
             and result.report["design"]["bits"] == bits]
    measured = max(there, default=None, key=lambda result: result.report["macs_per_clock"])
    best = memory = None
    if mesh.report and rest:
        # The largest; of equal ones that with fewer columns.
        for shape in sorted(product(range(1, 65), repeat=2), key=lambda shape: (
                -shape[0] * shape[1], shape[1])):
            if all(_takes(rest, mesh, shape, of) <= FILL * part.die.has()[of]
                   for of in ("comb", "ff")) and (memory := _memory(bits, shape, part)):
                best = shape
                break
    return Fit(board, bits, best, memory, rest, mesh, measured)


def fits(results, widths=(2, 4, 6, 8)):
    """A :class:`Fit` for every board and width."""
    return [_fit(results, board, bits) for board in BOARDS for bits in widths]


# Words.


@lru_cache
def norm_cycles(subject):
    """Cycles that a norm takes for a column of every lane."""
    with warnings.catch_warnings():
        # A unit that is only asked how long it takes is no mistake.
        warnings.simplefilter("ignore", UnusedElaboratable)
        cycles = UNITS[subject.scope].make(subject.lanes).cycles(NORM_ROWS, subject.lanes)
        gc.collect()
    return cycles


def microseconds(subject, result):
    """What a norm takes for a column."""
    return norm_cycles(subject) / usable_mhz(result) / subject.lanes


def seeds_words(fmax):
    """How many runs were placed and routed.

    >>> seeds_words({"seeds": [50.0, 52.0], "failed": {}})
    '2 seeds'
    >>> seeds_words({"seeds": [50.0, 52.0], "failed": {"2": "unroutable"}})
    '2 of 3 seeds'
    """
    count, failed = len(fmax["seeds"]), len(fmax["failed"])
    if failed:
        return f"{count} of {count + failed} seeds"
    return "one seed" if count == 1 else f"{count} seeds"


def fmax_words(fmax):
    """A median with its range, and with what is missing from it.

    >>> fmax = {"median": 51.0, "min": 50.0, "max": 52.0, "seeds": [50.0, 52.0], "failed": {}}
    >>> fmax_words(fmax)
    '51.0 (50.0 to 52.0)'
    >>> fmax_words({**fmax, "failed": {"2": "unroutable"}})
    '51.0 (50.0 to 52.0, 2 of 3 seeds)'
    """
    said = [] if len(fmax["seeds"]) == 1 else [f"{fmax['min']:.1f} to {fmax['max']:.1f}"]
    if not said or fmax["failed"]:
        said.append(seeds_words(fmax))
    return f"{fmax['median']:.1f} ({', '.join(said)})"


def arithmetic(point):
    """An array's arithmetic in words.

    >>> from reports.points import alone
    >>> from hdl.build.alone import MeshAlone
    >>> arithmetic(alone(MeshAlone(bits=3)))
    'shift 4x4, 3 bits'
    """
    subject = point.subject
    made = DATAPATHS[subject.arith]
    groups = f" {subject.groups}" if made.grouped else ""
    width = f", {subject.bits} bits" if len(made.widths) > 1 else ""
    mapping = {"lut": ", no DSP", "dsp": ", DSP"}[subject.mapping] if len(made.mappings) > 1 else ""
    return f"{subject.arith}{groups}{width}{mapping}"

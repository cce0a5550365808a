"""The table at the end of a build: this design beside plain integers of the same shape."""

import json
import math
import statistics
from pathlib import Path

from hdl.build.tables import change, columns, number
from hdl.params import ARITHMETICS, SOME_HAVE

__all__ = ["DATA", "DamagedError", "measured", "plain_twin", "read_point", "summary"]

#: Committed measurements, one report a file; ``python -m reports.measure`` makes them.
DATA = Path(__file__).resolve().parents[2] / "reports" / "data"

#: What makes two designs comparable, apart from their arithmetic and groups.
_SHAPE = ("bits", "rows", "cols", "depth", "lanes", "memory", "array_clock")


class DamagedError(ValueError):
    """A file of measurements cannot be read. The message is one sentence for the user."""


def read_point(path):
    """What ``reports.measure`` keeps of one point: ``{"key", "name", "command", "report",
    "failure"}``, of which one of the last two is None.

    Points measured before components were have neither name nor command nor failure.
    """
    try:
        point = json.loads(path.read_text())
        report = point["report"]
        point = {"name": path.stem, "command": None, "failure": None, **point}
        complete = (_are(str, point["key"], point["name"])
                    and (point["command"] is None or _are(str, point["command"]))
                    and (_are(str, point["failure"]) if report is None else
                         point["failure"] is None and _is_complete(report)))
        if not complete:
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path} is damaged and counts as not measured") from None
    return point


def _are(kind, *values):
    return all(type(value) is kind for value in values)


def _are_positive(*values):
    return all(type(value) in (int, float) and math.isfinite(value) and value > 0
               for value in values)


def _are_cells(*counts):
    return all(_are(int, counts[name]) and counts[name] >= 0
               for counts in counts for name in ("comb", "ff", "ebr", "dsp"))


def _is_complete(report):
    """Whether tables and pictures can be made of a report; it may also lack something and raise."""
    scope, array = report.get("scope", "accelerator"), report["array"]
    return (
        _are(str, scope, report["part"], report["placement"])
        and (report["board"] is None or _are(str, report["board"]))
        and _are(str, *report["tools"], *report["tools"].values())
        and _are_cells(report["total"], array) and array["comb"] > 0
        and _is_complete_clock(report["fmax_mhz"])
        and (scope not in ("accelerator", "mesh", "core")
             or (_are(int, report["macs_per_clock"])
                 and _are_positive(report["macs_per_clock"], report["gops"])))
        and (scope != "accelerator" or _is_complete_machine(report)))


def _is_complete_clock(fmax):
    """Of the runs, that their figures are theirs."""
    seeds, failed = fmax["seeds"], fmax["failed"]
    return (
        _are_positive(*seeds, fmax["median"], fmax["cap_mhz"]) and _are(str, fmax["cap_reason"])
        and abs(statistics.median(seeds) - fmax["median"]) < 0.01
        and (fmax["min"], fmax["max"]) == (min(seeds), max(seeds))
        and set(failed) <= {str(seed + 1) for seed in range(len(seeds) + len(failed))}
        and _are(str, *failed.values()))


def _is_complete_machine(report):
    """Of a machine, that its units are all of it."""
    design, units = report["design"], report["units"]
    return (
        design["arith"] in ARITHMETICS and _are(str, design["groups"])
        and _are(int, *(design[name] for name in _SHAPE))
        and _are_positive(*(design[name] for name in _SHAPE), design["clock_mhz"],
                          report["comb_per_mac"])
        and _are_cells(*units.values(), units["gemm"], units["array"])
        and all(sum(used[name] for used in units.values()) == report["total"][name]
                for name in ("comb", "ff")))


def measured(folder=DATA, damaged=None):
    """The reports of all measured machines, in the order of their files' names.

    A damaged file is skipped; its error goes to the list ``damaged``.
    """
    reports = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = read_point(path)["report"]
        except DamagedError as error:
            if damaged is not None:
                damaged.append(error)
        else:
            if report:
                reports.append(report)
    return reports


def plain_twin(report, reports):
    """The measured plain-integer design of the same shape, width and part, placed in the same way,
    or None."""
    for other in reports:
        if (other["design"]["arith"] == "int" and other["part"] == report["part"]
                and other.get("placement") == report.get("placement")
                and all(other["design"].get(name) == report["design"].get(name)
                        for name in (*_SHAPE, *SOME_HAVE))):
            return other
    return None


def _figures(report):
    total, array, fmax = report["total"], report["array"], report["fmax_mhz"]
    return {
        "COMB (LUT4)": total["comb"], "FF": total["ff"], "EBR": total["ebr"],
        "DSP": total["dsp"], "array: COMB": array["comb"], "array: FF": array["ff"],
        "array: COMB per MAC": report["comb_per_mac"],
        "clock, MHz": report["design"]["clock_mhz"],
        "array: clock, MHz": report["design"]["clock_mhz"] * report["design"]["array_clock"],
        f"Fmax, MHz (median of {len(fmax['seeds'])})": fmax["median"],
        "GOPS": report["gops"],
    }


def _name(design):
    return f"{design['arith']} {design['groups']}"


def summary(report, out, reports=None):
    """A table in words for one report; ``reports`` are the measured ones."""
    design = report["design"]
    twin = None
    if report["placed"]:
        twin = plain_twin(report, measured() if reports is None else reports)
    shape = (f"{design['bits']} bits, {design['rows']}x{design['cols']}x{design['depth']} on "
             f"{report['board'] or report['part']}")
    heads = ["", _name(design), "of the die"]
    rows = []
    mine, available = _figures(report), report["available"]
    shares = dict(zip(mine, (f"{100 * report['total'][name] / available[name]:.0f} %"
                             for name in ("comb", "ff", "ebr", "dsp")), strict=False))
    theirs = list(_figures(twin).values()) if twin else []
    if twin:
        heads += [f"plain {_name(twin['design'])}", "difference"]
    for place, (name, value) in enumerate(mine.items()):
        row = [name, number(value), shares.get(name, "")]
        if twin:
            row += [number(theirs[place]), change(value, theirs[place])]
        rows.append(row)
    lines = [shape, columns([heads, *rows])]
    if twin is None and report["placed"] and design["arith"] != "int":
        lines.append("No plain integers of this shape have been measured; this does it: "
                     f"{measure_command(report)}")
    lines.append(f"written to {out}/")
    return "\n".join(lines)


def measure_command(report):
    """The command that measures the plain twin of a design."""
    design = report["design"]
    options = [f"--{name.replace('_', '-')} {design[name]}" for name in _SHAPE]
    target = f"--board {report['board']}" if report["board"] else f"--part {report['part']}"
    return (f"python -m reports.measure --arith int {' '.join(options)} {target} "
            f"--clock {design['clock_mhz']:g}"
            + (" --timing-driven" if report.get("placement") == "timing" else ""))

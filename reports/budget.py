"""``python -m reports.budget``: sizes after synthesis against those that were entered last.

A small machine, an array and a quantiser are synthesised and not placed. ``make test`` fails when
LUT4 or flip-flops of one of them grow by more than the tolerance. ``--update WHAT`` enters the new
sizes with what caused them and the commit that they were made on. The entries are the history that
``python -m reports`` draws.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from boards.parts import parse_part
from hdl.build.__main__ import read_arguments
from hdl.build.alone import MeshAlone, elaborate_alone
from hdl.build.design import elaborate
from hdl.build.flow import build
from hdl.build.summary import DamagedError
from hdl.build.tables import change, columns, number
from hdl.build.tools import Progress, ToolError, Tools
from reports.points import UnitAlone

__all__ = ["BUDGET", "SUBJECTS", "Budget", "main", "synthesised"]

#: The committed sizes.
BUDGET = Path(__file__).resolve().parent.parent / "tests" / "hdl" / "size_budget.json"
#: The machine: everything is in it once.
MACHINE = "--bits 4 --rows 2 --cols 2 --depth 4 --memory 4 --synth-only"
_PART = parse_part("LFE5U-25F-6BG381C")
#: Resources that may not grow.
_WATCHED = {"comb": "COMB", "ff": "FF"}


def _machine(build):
    options = read_arguments(MACHINE.split())
    design = elaborate(options.params, board=options.board, part=options.part,
                       clock_mhz=options.clock_mhz)
    # Without a fingerprint nobody needs its Verilog.
    report = build(replace(design, fingerprint=None))
    return {**report["total"], "units": report["units"]}


def _component(subject):
    return lambda build: build(elaborate_alone(subject, _PART))["array"]


#: What is watched: how it is synthesised, by name. The machine takes half a minute, the others
#: seconds: the array is next to nothing of the machine, and the quantiser is its largest unit.
SUBJECTS = {
    "machine": _machine,
    "array": _component(MeshAlone()),
    "quantiser": _component(UnitAlone(scope="quantise-all")),
}


def synthesised(subjects=tuple(SUBJECTS), progress=None):
    """Cells of ``subjects`` as they are now, by name; of the machine also its ``units``."""
    progress, tools = progress or Progress(), Tools()

    def synthesise(design):
        with tempfile.TemporaryDirectory(prefix="shiftgrad-") as scratch:
            return build(design, out=Path(scratch) / "build", seeds=1, synth_only=True,
                         tools=tools, progress=progress).report

    return {subject: SUBJECTS[subject](synthesise) for subject in subjects}


@dataclass(frozen=True)
class Budget:
    """The sizes in a file.

    Parameters
    ----------
    content : dict
        ``tolerance_percent`` and ``entries``, the newest last: ``date``, ``what`` and what
        :func:`synthesised` returns.
    """
    content: dict

    @classmethod
    def read(cls, path=BUDGET):
        try:
            content = json.loads(path.read_text())
            _ = content["tolerance_percent"], [entry["machine"] for entry in content["entries"]]
            return cls(content)
        except FileNotFoundError:
            return cls({"tolerance_percent": 3, "entries": []})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged: {type(error).__name__}: {error}") from None

    @property
    def last(self):
        return self.content["entries"][-1]

    def excess(self, now):
        """What has grown too much, in a sentence; empty if nothing has."""
        limit = 1 + self.content["tolerance_percent"] / 100
        grown = [f"{label} of the {subject} from {self.last[subject][name]:,} to "
                 f"{cells[name]:,} ({change(cells[name], self.last[subject][name])})"
                 for subject, cells in now.items() for name, label in _WATCHED.items()
                 if cells[name] > limit * self.last[subject][name]]
        if not grown:
            return ""
        return (f"grown: {'; '.join(grown)}: make it smaller, or enter the new size with "
                "python -m reports.budget --update WHAT")

    def table(self, now):
        """Now against the last entry, in words; first the units of the machine."""
        rows = [["", *(f"{label}{when}" for label in _WATCHED.values()
                       for when in (" then", " now", ""))]]
        before, after = (sizes["machine"]["units"] for sizes in (self.last, now))
        rows += [[f"  {unit}", *_cells(before.get(unit), after.get(unit))]
                 for unit in sorted({**before, **after})]
        rows += [[subject, *_cells(self.last[subject], now[subject])] for subject in now]
        return columns(rows)

    def with_entry(self, now, what, date, commit=None):
        """With a new last entry."""
        made = {"commit": commit} if commit else {}
        entries = [*self.content["entries"], {"date": date, "what": what, **made, **now}]
        return Budget({**self.content, "entries": entries})

    def write(self, path=BUDGET):
        path.write_text(json.dumps(self.content, indent=1) + "\n")


def _cells(then, now):
    cells = []
    for name in _WATCHED:
        old, new = ((used or {}).get(name) for used in (then, now))
        cells += [number(old), number(new), change(new, old)]
    return cells


def _commit():
    """The commit that the sizes are of, or of what they change; None without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=BUDGET.parent,
                              capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main(argv=None):
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reports.budget", description=__doc__,
                                     allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", metavar="WHAT",
                        help="enter the size of now, with a few words on why it changed")
    given = parser.parse_args(argv)
    try:
        budget = Budget.read()
        now = synthesised()
    except (DamagedError, ToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if budget.content["entries"]:
        print(budget.table(now))
    if given.update:
        budget.with_entry(now, given.update, datetime.date.today().isoformat(), _commit()).write()
        print(f"entered in {BUDGET}")
        return 0
    excess = budget.excess(now)
    if excess:
        print(f"error: {excess}", file=sys.stderr)
    return 1 if excess else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m reports.measure``: measure designs into reports/data; finished points are skipped.

A point is one design: parameters, part, clock. Its file holds the report of ``hdl.build`` and a
key, a hash of everything that decides the figures: the RTLIL, part, clock, seeds, Yosys' script
and the tools' versions. A point whose key is in its file already is finished.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from boards.platforms import DEFAULT_BOARD
from hdl.build.__main__ import DEFAULT_CLOCK, read_arguments
from hdl.build.design import elaborate
from hdl.build.flow import build, place_and_route_options, synthesis_script
from hdl.build.summary import DATA
from hdl.build.tools import Progress, ToolError, Tools

__all__ = ["DEFAULT_POINTS", "main", "point_key", "point_path"]

#: Arguments of ``hdl.build`` for what is measured when nothing is asked for.
DEFAULT_POINTS = (("--arith", "shift"), ("--arith", "int"))
_SEEDS = 5


def point_key(design, seeds, timing_driven, versions):
    """Hash of everything that decides the figures of a point."""
    decides = {
        "build_id": design.build_id, "part": design.part.name, "lpf": design.lpf,
        "clock": str(design.clock), "seeds": seeds, "script": synthesis_script(design),
        "nextpnr": place_and_route_options(timing_driven),
        "tools": versions,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def point_path(design, folder=DATA):
    """The file of a design: later measurements of the same design replace it."""
    target = design.board or design.part.name
    params = design.params
    return folder / (f"{params.name}-{params.memory}k-{target}-"
                     f"{float(design.clock):g}mhz.json")


def _is_finished(path, key):
    try:
        return json.loads(path.read_text())["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


def measure(options, progress, tools, folder=DATA):
    """Measure one point unless it is finished; the path of its file."""
    with progress.stage(f"elaboration of {options.params.name}"):
        design = elaborate(options.params, board=options.board, part=options.part,
                           clock_mhz=options.clock_mhz)
    path = point_path(design, folder)
    key = point_key(design, options.seeds, options.timing_driven, tools.versions())
    if _is_finished(path, key):
        progress.line(f"{path.name} is finished")
        return path
    with tempfile.TemporaryDirectory(prefix="shiftgrad-") as scratch:
        outcome = build(design, out=Path(scratch) / "build", seeds=options.seeds,
                        synth_only=False, timing_driven=options.timing_driven, tools=tools,
                        progress=Progress())
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"key": key, "report": outcome.report}, indent=1) + "\n")
    unfinished.replace(path)
    progress.line(f"{path.name} measured")
    return path


def main(argv=None):
    """Run the command; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        argparse.ArgumentParser(
            prog="python -m reports.measure", description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="Options are those of python -m hdl.build; without any, the default design is "
                   f"measured with --arith shift and int, {DEFAULT_CLOCK} MHz on "
                   f"{DEFAULT_BOARD}, seeds 1 to {_SEEDS}.").print_help()
        return 0
    points = [argv] if "--arith" in argv else [[*argv, *point] for point in DEFAULT_POINTS]
    progress = Progress()
    try:
        tools = Tools()
        for point in points:
            if "--seeds" not in point:
                point = [*point, "--seeds", str(_SEEDS)]
            measure(read_arguments(point), progress, tools)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; finished points are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

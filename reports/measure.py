"""``python -m reports.measure``: measure designs into reports/data; finished points are skipped.

A point is one design on one part: a machine, an array alone in a harness (``--scope mesh``) or a
unit alone (``--scope quantise-all`` and others). Its file holds the report of ``hdl.build``, or why
it does not fit or cannot be placed, and a key: a hash of everything that decides the figures, which
is the RTLIL, part, clock, seeds, scripts, options, what goes over the netlist and the tools'
versions. A point whose key is in its file already is finished.
"""

import argparse
import contextlib
import fnmatch
import hashlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from boards.parts import PartError, parse_part
from boards.platforms import BoardError
from hdl.build.__main__ import DEFAULT_CLOCK, ArgumentError, UsageError, read_arguments
from hdl.build.alone import ARRAYS
from hdl.build.datapaths import datapath
from hdl.build.fit import EstimateError, FitError, ebr_blocks
from hdl.build.flow import build, place_and_route_options, synthesis_script
from hdl.build.summary import DamagedError, read_point
from hdl.build.tools import Progress, ToolError, Tools
from hdl.params import ARITHMETICS, ParameterError
from reports.points import MESH, SEEDS, Point, Store, UnitAlone, standing
from reports.units import UNITS

__all__ = ["main", "measure", "point_key", "read_points"]

#: Raised when figures are drawn from the tools' answers in another way.
_FORMAT = 1
_MEMORY = re.compile(r"^  memory width (\d+) size (\d+) ", re.MULTILINE)


def point_key(design, seeds, timing_driven, versions):
    """Hash of everything that decides the figures of a point."""
    decides = {
        "format": _FORMAT,
        "build_id": design.build_id, "part": design.part.name, "lpf": design.lpf,
        "clock": str(design.clock), "seeds": seeds, "script": synthesis_script(design),
        "nextpnr": place_and_route_options(timing_driven),
        "tools": versions,
        **_passes(design.rtlil),
    }
    return _hash(decides)


def _passes(rtlil):
    r"""Versions of what goes over the netlist; nothing does without block RAM, and such a point
    keeps its key.

    >>> _passes("  memory width 36 size 512 \\sums\n"), _passes("  memory width 9 size 16 \\t\n")
    ({'output_registers': 1}, {})
    """
    blocks = sum(ebr_blocks(int(width), int(depth)) for width, depth in _MEMORY.findall(rtlil))
    return {"output_registers": 1} if blocks else {}


def _hash(decides):
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def measure(point, tools, store, progress=None):
    """Measure one point unless it is finished: ``finished``, ``measured`` or ``failed: why``."""
    try:
        point.check()
    except EstimateError as error:
        # Said without a design: that of an array that is far too large takes long to make.
        return _failed(point, _hash([_FORMAT, point.arguments(), str(error)]), store, error)
    design = point.design()
    key = point_key(design, point.seeds, point.timing_driven, tools.versions())
    if store.is_finished(point, key):
        return "finished"
    with tempfile.TemporaryDirectory(prefix="shiftgrad-") as scratch:
        out = Path(scratch) / "build"
        try:
            outcome = build(design, out=out, seeds=point.seeds, synth_only=False,
                            timing_driven=point.timing_driven, tools=tools,
                            progress=progress or Progress(io.StringIO(), live=False))
        except (FitError, ToolError) as error:
            if isinstance(error, ToolError) and not error.told:
                raise
            return _failed(point, key, store, error)
        picture = (out / "floorplan.svg").read_text() if point.is_machine else None
    store.write(point, key, report=outcome.report, floorplan=picture)
    return "measured"


def _failed(point, key, store, error):
    reason, _, _ = str(error).partition(" (logs in ")
    if not store.is_finished(point, key):
        store.write(point, key, failure=reason)
    return f"failed: {reason}"


class _Counter:
    """How many points are done and how long the others will take, on stderr."""
    def __init__(self, points, stream):
        self._points = len(points)
        self._left = {point.name: point.weight for point in points}
        self._worked = 0
        self._done = 0
        self._began = time.monotonic()
        self._stream = stream

    def done(self, point, said):
        self._done += 1
        weight = self._left.pop(point.name)
        if said != "finished":
            self._worked += weight
        left = ""
        if self._left and self._worked:
            seconds = (time.monotonic() - self._began) * sum(self._left.values()) / self._worked
            left = f"; about {max(1, round(seconds / 60))} min left"
        print(f"{self._done}/{self._points} {point.name} {said}{left}", file=self._stream,
              flush=True)


def _measure_all(points, jobs, store):
    """Measure points, ``jobs`` tools at a time; the exit status."""
    tools, counter, broken = Tools(jobs), _Counter(points, sys.stderr), []
    stop = threading.Event()

    def work(point):
        if stop.is_set():
            raise ToolError("stopped")
        return measure(point, tools, store)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        running = {pool.submit(work, point): point for point in points}
        try:
            for future in as_completed(running):
                point = running[future]
                try:
                    counter.done(point, future.result())
                except ToolError as error:
                    # Not a fact about the design: nothing is kept.
                    broken.append(point)
                    counter.done(point, f"was not measured: {error}")
        except BaseException:
            stop.set()
            tools.stop()
            raise
    return 1 if broken else 0


# Arguments.


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def _parser():
    parser = _Parser(
        prog="python -m reports.measure", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A machine is asked for with the options of python -m hdl.build: without --arith "
               f"with shift and int, at {DEFAULT_CLOCK} MHz unless told otherwise. With none of "
               "these options the standing list is measured: --list prints it.")
    parser.add_argument("--list", action="store_true",
                        help="print the points and what there is of them, and measure nothing")
    parser.add_argument("--check", action="store_true",
                        help="with --list: whether the files are of the designs and tools of now; "
                             "makes every design, which takes minutes")
    parser.add_argument("--only", metavar="PATTERN",
                        help="points whose names match, such as 'mesh-shift-*' (* for anything)")
    parser.add_argument("--large", action="store_true",
                        help="large arrays, other widths of the machine and other boards, too: "
                             "many hours")
    parser.add_argument("--jobs", metavar="N", default=os.cpu_count() or 1,
                        help="tools that run at a time (default: the processors)")
    parser.add_argument("--seeds", metavar="N", default=SEEDS,
                        help=f"place and route with the seeds 1 to N (default {SEEDS})")
    parser.add_argument("--json", action="store_true",
                        help="print what the files of the points hold, as a list, and only that")
    parser.add_argument("--scope", metavar="SCOPE",
                        help="accelerator, mesh or core, a mesh with its memories (options "
                             "--arith --bits --groups --rows --cols --depth --mapping), or "
                             "--lanes --mapping of one of "
                             f"{', '.join(UNITS)}")
    return parser


def _number(name, text, low, high):
    if text is None:
        return None
    if not str(text).isdecimal() or not low <= int(text) <= high:
        raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {text}")
    return int(text)


def _given(**values):
    return {name: value for name, value in values.items() if value is not None}


def _alone(scope, argv):
    parser = _Parser(prog="python -m reports.measure", allow_abbrev=False)
    for name in ("arith", "bits", "groups", "rows", "cols", "depth", "lanes", "mapping"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--part", default="LFE5U-25F-6BG381C")
    given = parser.parse_args(argv)
    if scope in ARRAYS:
        arith = given.arith or "shift"
        made = datapath(arith)
        widths = made.widths
        subject = ARRAYS[scope](
            arith=arith, groups=given.groups or ("4x4" if made.grouped else "1x1"),
            bits=_number("bits", given.bits, widths[0], widths[-1]) or (
                4 if 4 in widths else widths[0]),
            mapping=given.mapping or made.mappings[0],
            **{**MESH, **_given(rows=_number("rows", given.rows, 1, 64),
                                cols=_number("cols", given.cols, 1, 64),
                                depth=_number("depth", given.depth, 1, made.deepest))})
    else:
        subject = UnitAlone(scope=scope, **_given(
            lanes=_number("lanes", given.lanes, 1, 64), mapping=given.mapping))
    return Point(subject, parse_part(given.part))


def _machines(argv):
    plain = [argv] if "--arith" in argv else [[*argv, "--arith", name]
                                              for name in ARITHMETICS]
    for words in plain:
        options = read_arguments(words)
        yield Point(options.params, options.part, board=options.board,
                    clock_mhz=options.clock_mhz, timing_driven=options.timing_driven)


def read_points(argv):
    """``(given, points)`` that a command line asks for."""
    given, rest = _parser().parse_known_args(argv)
    given.jobs = _number("jobs", given.jobs, 1, 256)
    if given.scope in (None, "accelerator"):
        points = list(_machines(rest)) if rest or given.scope else standing(given.large)
    else:
        points = [_alone(given.scope, rest)]
    seeds = _number("seeds", given.seeds, 1, 100)
    points = [replace(point, seeds=seeds) for point in points]
    if given.only:
        every, points = points, [point for point in points
                                 if fnmatch.fnmatchcase(point.name, given.only)]
        if not points:
            raise ArgumentError(f"only matches none of {len(every)} points, such as "
                                f"{every[0].name}, got {given.only!r}")
    return given, points


def _stored(points, store):
    for point in points:
        with contextlib.suppress(FileNotFoundError, DamagedError):
            yield read_point(store.path(point))


def _stale(points, states, store):
    """Measured points of which a design, a tool or an option has changed since."""
    versions = Tools().versions()
    for point in points:
        if states[point.name] == "measured" and not store.is_finished(point, point_key(
                point.design(), point.seeds, point.timing_driven, versions)):
            yield point


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def main(argv=None, store=None):
    """Run the command; the exit status."""
    store = store or Store()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        given, points = read_points(argv)
        states = {point.name: store.state(point) for point in points}
        for point in points:
            if states[point.name] == "damaged":
                print(f"{store.path(point)} is damaged and counts as not measured",
                      file=sys.stderr)
        status = 0
        if given.check and not given.list:
            raise ArgumentError("check is for --list")
        if given.check:
            states |= {point.name: "stale" for point in _stale(points, states, store)}
        if given.list:
            lines = [f"{states[point.name]:12}  {point.name}" for point in points]
            print("\n".join(lines), file=sys.stderr if given.json else sys.stdout)
        else:
            status = _measure_all(points, given.jobs, store)
        if given.json:
            print(json.dumps(list(_stored(points, store)), indent=1))
        return status
    except (ArgumentError, ParameterError, PartError, BoardError) as error:
        print(f"error: --{error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; finished points are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

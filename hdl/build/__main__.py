"""``python -m hdl.build``: synthesise, place, route and report one accelerator."""

import argparse
import json
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

from boards.parts import Part, PartError, parse_part
from boards.platforms import BOARDS, DEFAULT_BOARD, BoardError
from boards.pll import CLOCK_RANGE_MHZ
from hdl.build.alone import MeshAlone, elaborate_alone
from hdl.build.compare import array_table, compared
from hdl.build.datapaths import DATAPATHS, datapath
from hdl.build.design import elaborate, resolve_part
from hdl.build.fit import EstimateError, FitError, check_alone, check_fit
from hdl.build.flow import OutputError, build, check_folder
from hdl.build.largest import PATIENCE, largest, sizes
from hdl.build.summary import summary
from hdl.build.tools import Progress, ToolError, Tools
from hdl.params import ARITHMETICS, MAX_DEPTH, ParameterError, Params, parse_groups

__all__ = ["Options", "main", "read_arguments"]

#: MHz. All five seeds of the default design reach more, see reports/data.
DEFAULT_CLOCK = 60
_MAX_SEEDS = 100


class ArgumentError(ValueError):
    """A bad argument. The message is one sentence for the user."""


@dataclass(frozen=True)
class Options:
    """What the user asked for, checked.

    ``params`` are of the machine, or the array alone where there is no machine.
    """
    params: Params | MeshAlone
    board: str | None
    part: Part
    clock_mhz: float
    seeds: int
    out: Path
    synth_only: bool
    timing_driven: bool
    compare: bool
    json: bool
    #: With ``--max`` the machines to choose from.
    sizes: list | None = None


class UsageError(ValueError):
    """Arguments that cannot be read. The message is one sentence for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def _parser():
    # Defaults of the accelerator are those of Params.
    default = Params()
    parser = _Parser(prog="python -m hdl.build", allow_abbrev=False, description=__doc__)
    parser.add_argument("--bits", metavar="2..8",
                        help=f"width of a quantised element (default {default.bits})")
    parser.add_argument("--groups", metavar="SxC",
                        help="sample x channel groups, each 1, 2, 4 or 8; C means 1xC "
                             f"(default {default.groups}; 1x1 with --arith int)")
    parser.add_argument("--rows", metavar="1..64",
                        help=f"rows of the array (default {default.rows})")
    parser.add_argument("--cols", metavar="1..64",
                        help=f"columns of the array (default {default.cols})")
    parser.add_argument("--depth", metavar=f"1..{MAX_DEPTH}",
                        help="products per element of the array per clock (default "
                             f"{default.depth}; floating point has 1)")
    parser.add_argument("--arith", default=default.arith, metavar="|".join(DATAPATHS),
                        help="datapath of the array: shift, or another for comparison; floating "
                             "point is the array alone, in a harness "
                             f"(default {default.arith})")
    parser.add_argument("--memory", metavar="4..256",
                        help="wide memory in units of 1,024 elements; the quantised memory "
                             f"holds twice as many (default {default.memory})")
    parser.add_argument("--codes", metavar="8..512",
                        help="quantised memory in units of 1,024 elements (default twice the wide "
                             "memory)")
    parser.add_argument("--tables", metavar="1|2",
                        help="tables of groups and orders in units of 1,024 words (default "
                             f"{default.tables})")
    parser.add_argument("--lanes", metavar="N",
                        help="lanes of the quantiser and the norms: a divisor of the slots, rows x "
                             "depth, and of the columns, or a multiple of those; 0 for the most "
                             "that divide both "
                             f"(default {default.lanes})")
    parser.add_argument("--masters", metavar="0..256",
                        help="weights, with their velocities, that the machine keeps and updates "
                             "itself, in units of 1,024; 0: the host keeps them "
                             f"(default {default.masters})")
    parser.add_argument("--master-bits", metavar="16|24",
                        help=f"width of those weights (default {default.master_bits})")
    parser.add_argument("--velocity-bits", metavar="8|16|24",
                        help=f"width of their velocities (default {default.velocity_bits})")
    parser.add_argument("--layer-norm", action="store_true",
                        help="with --masters: the norm of channels, too")
    parser.add_argument("--array-clock", metavar="1..4",
                        help="clocks of the array in one of the machine's "
                             f"(default {default.array_clock})")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--board", help=f"one of {', '.join(BOARDS)} (default {DEFAULT_BOARD})")
    target.add_argument("--part", help="a part without a board, such as LFE5U-85F-6BG381C; pins "
                                       "are chosen freely and there is no bitstream")
    parser.add_argument("--clock", default=DEFAULT_CLOCK, metavar="MHZ",
                        help=f"clock in MHz (default {DEFAULT_CLOCK})")
    parser.add_argument("--seeds", default=1, metavar="N",
                        help="place and route with the seeds 1 to N (default 1)")
    parser.add_argument("--out", type=Path,
                        help="folder to write (default build/NAME, such as "
                             f"build/{default.name})")
    parser.add_argument("--synth-only", action="store_true",
                        help="stop after synthesis: no clock, no bitstream")
    parser.add_argument("--timing-driven", action="store_true",
                        help="place for the clock, as --max does, not for short wires alone: a "
                             "third longer, for a few MHz")
    parser.add_argument("--compare", action="store_true",
                        help="build the plain-integer twin too, and the arrays of both and of "
                             "floating point alone; print them side by side")
    parser.add_argument("--max", action="store_true",
                        help="build the largest that routes, nearly square, with less memory where "
                             "a die has less, unless columns or memory are given; takes hours on "
                             "a large die")
    parser.add_argument("--json", action="store_true", help="print report.json, and only that")
    return parser


def _whole(name, text, low=None, high=None):
    try:
        value = int(text)
    except ValueError:
        value = None
    if low is None:
        # Params says the range; what is no number at all is refused there, too.
        return text if value is None else value
    if value is None or not low <= value <= high:
        raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {text}")
    return value


def _array(given):
    shape = {"rows": given.rows, "cols": given.cols, "depth": given.depth}
    return {name: getattr(Params, name) if text is None else _whole(name, text)
            for name, text in shape.items()}


def _clock(text, array_clock):
    low, high = CLOCK_RANGE_MHZ
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ArgumentError(f"clock must be {low} to {high} MHz, got {text}")
    if value * array_clock > high:
        raise ArgumentError(f"clock must be at most {high / array_clock:g} MHz where the array's "
                            f"is {array_clock} times as fast, got {text}")
    return value


def _subject(given):
    """The machine, or the array without one."""
    made = datapath(given.arith)
    array = _array(given)
    groups = given.groups or (Params().groups if made.grouped else "1x1")
    if given.arith not in ARITHMETICS:
        # There is no machine of it.
        usual = Params.bits if Params.bits in made.widths else made.widths[0]
        bits = usual if given.bits is None else _whole("bits", given.bits)
        return MeshAlone(arith=given.arith, bits=bits, groups=groups, mapping=made.mappings[0],
                         **{**array, **({} if given.depth else {"depth": made.deepest})})
    sample_groups, channel_groups = parse_groups(groups)
    others = {name: getattr(Params, name) if text is None else _whole(name, text, *limits)
              for name, text, *limits in (("bits", given.bits), ("memory", given.memory),
                                          ("codes", given.codes), ("tables", given.tables),
                                          ("lanes", given.lanes, 0, 64),
                                          ("array_clock", given.array_clock),
                                          ("masters", given.masters),
                                          ("master_bits", given.master_bits),
                                          ("velocity_bits", given.velocity_bits))}
    return Params(sample_groups=sample_groups, channel_groups=channel_groups, arith=given.arith,
                  layer_norm=given.layer_norm, **array, **others)


def _sizes(given, params, part):
    """What ``--max`` may build."""
    if given.compare:
        raise ArgumentError("max cannot be combined with --compare: compare what it finds")
    if isinstance(params, MeshAlone):
        raise ArgumentError(f"max is for machines: arith must be {' or '.join(ARITHMETICS)}, "
                            f"got {given.arith}")
    if given.rows is not None:
        raise ArgumentError(f"max chooses the rows itself, got --rows {given.rows}")
    return sizes(params, part, cols=params.cols if given.cols else None,
                 memory=params.memory if given.memory else None)


def read_arguments(argv):
    """The :class:`Options` that a command line asks for."""
    given = _parser().parse_args(argv)
    params = _subject(given)
    clock = _clock(given.clock, getattr(params, "array_clock", 1))
    seeds = _whole("seeds", given.seeds, 1, _MAX_SEEDS)
    board = None if given.part else (given.board or DEFAULT_BOARD).lower()
    _, part = resolve_part(board, parse_part(given.part) if given.part else None)
    found = _sizes(given, params, part) if given.max else None
    name = f"max-{found[0].name.rpartition('-')[0]}" if found else params.name
    name = name if board == DEFAULT_BOARD else f"{name}-{board or part.name}"
    out = given.out or Path("build") / name
    check_folder(out)
    if given.compare and isinstance(params, MeshAlone):
        raise ArgumentError(f"compare is for machines: arith must be {' or '.join(ARITHMETICS)}, "
                            f"got {given.arith}")
    return Options(params=params, board=board, part=part, clock_mhz=clock, seeds=seeds, out=out,
                   synth_only=given.synth_only, timing_driven=given.timing_driven or given.max,
                   compare=given.compare, json=given.json, sizes=found)


class _Builds:
    """The builds of one command."""
    def __init__(self, options):
        self._options = options
        self._tools = Tools()
        #: Sentences about clocks that were missed.
        self.missed = []

    def largest(self):
        """Build the largest of the machines to choose from; its report."""
        options = self._options

        def synthesise(params):
            out = options.out.with_name(f"{options.out.name}-trial")
            try:
                return _Builds(replace(options, synth_only=True, out=out)).machine(params)
            finally:
                rmtree(out, ignore_errors=True)

        def route(params):
            return self.machine(params, patience=PATIENCE)

        return largest(options.sizes, options.part, synthesise=synthesise,
                       route=route, say=Progress().line)

    def machine(self, params, name=None, patience=None):
        """Build a machine; its report. ``patience`` as for :func:`hdl.build.flow.build`."""
        options, progress = self._options, Progress()
        check_fit(params, options.part)
        with progress.stage(f"elaboration of {params.name}", "elaborate"):
            design = elaborate(params, board=options.board, part=options.part,
                               clock_mhz=options.clock_mhz)
        cap, reason = options.part.clock_cap()
        fastest = float(design.clock * design.array_clock)
        if fastest > cap:
            progress.line(f"note: {fastest:g} MHz is above {cap} MHz ({reason}), "
                          "which the tools do not check")
        return self._build(design, name, options.timing_driven, progress, patience)

    def alone(self, subject, name=None):
        """Build an array alone; its report."""
        progress = Progress()
        check_alone(subject, self._options.part)
        with progress.stage(f"elaboration of {subject.name}, alone", "elaborate"):
            design = elaborate_alone(subject, self._options.part)
        return self._build(design, name, True, progress)

    def _build(self, design, name, timing_driven, progress, patience=None):
        options = self._options
        out = options.out if name is None else options.out.with_name(f"{options.out.name}-{name}")
        outcome = build(design, out=out, seeds=options.seeds, synth_only=options.synth_only,
                        timing_driven=timing_driven, patience=patience, tools=self._tools,
                        progress=progress)
        if not outcome.met:
            self.missed.append(outcome.message)
        return outcome.report


def _build(options):
    builds, params = _Builds(options), options.params
    if options.compare:
        found = compared(params, machine=builds.machine, alone=builds.alone)
        print(json.dumps(found.json(), indent=1) if options.json else found.table())
    else:
        if isinstance(params, MeshAlone):
            report = builds.alone(params)
            table = array_table({params.name: report})
        else:
            report = builds.largest() if options.sizes else builds.machine(params)
            table = summary(report, options.out)
        print(json.dumps(report, indent=1) if options.json else table)
    for message in builds.missed:
        print(f"error: {message}", file=sys.stderr)
    return 1 if builds.missed else 0


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def main(argv=None):
    """Run the command; the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _build(read_arguments(argv))
    except (ArgumentError, ParameterError, PartError, BoardError, OutputError) as error:
        print(f"error: --{error}", file=sys.stderr)
        return 2
    except (UsageError, EstimateError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FitError, ToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: the build was interrupted; nothing was changed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

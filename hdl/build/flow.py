"""Synthesis, place and route, bitstream and report of one design."""

import contextlib
import json
import os
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from boards.top import BAUD
from hdl.build.fit import FitError, over
from hdl.build.floorplan import floorplan
from hdl.build.harness import SLOW_CLOCK
from hdl.build.netlist import (
    critical_path,
    open_carries,
    output_registers,
    read_placed,
    synthesised_cells,
    unit_cells,
    write_modes,
)
from hdl.build.share import share_modules
from hdl.build.tools import ToolError

__all__ = ["Outcome", "OutputError", "Patience", "build", "clocks", "replace_folder"]

#: Options of Yosys' synthesis. Wide LUTs would make figures incomparable with other arrays';
#: no memory here is read in the cycle in which the same address is written.
SYNTHESIS = "-nowidelut -no-rw-check"


#: Options of nextpnr. Its first router leaves 11 to 44 % more of the clock than the second, in less
#: time, see docs/array.md.
ROUTING = ("--router", "router1")


def place_and_route_options(timing_driven):
    """Options of nextpnr that are not the design's.

    Placement for short wires alone takes three quarters of the time (an 8x2x4 array, seed 1:
    232 s against 308 s with routing) and costs some of the clock (49 MHz against 52 MHz).
    """
    return [*ROUTING, *([] if timing_driven else ["--no-tmdriv"])]


#: What the name of the array's clock ends with, a net of the whole design.
_ARRAY_CLOCK = "array_clk"


class OutputError(ValueError):
    """The output folder cannot be used. The message is one sentence for the user."""


def synthesis_options(design):
    """Options of ``synth_ecp5``."""
    return SYNTHESIS + (" -nodsp" if design.mapping == "lut" else "")


def synthesis_script(design, repeated=()):
    """Commands for Yosys.

    ``repeated`` modules, see :mod:`hdl.build.share`, are synthesised once for all instances.

    The accelerator's units and the mesh stay apart through synthesis, so that every LUT belongs
    to one of them; constants and unused ports still cross. nextpnr then sees one flat design
    whose names begin with the unit's.
    """
    kept = " ".join([*design.kept_modules, *repeated])
    options = synthesis_options(design)
    verilog = [
        # Verilog for people and simulators: what there is before synthesis.
        "design -push-copy",
        "proc -nomux -norom",
        # Zeros in memories, a line for every word.
        "delete t:$meminit_v2",
        "memory_collect",
        "write_verilog -norename -noattr top.v",
        "design -pop",
    ]
    lines = [
        "read_rtlil top.il",
        "hierarchy -top top",
        *(verilog if design.fingerprint else []),
        f"setattr -mod -set keep_hierarchy 1 {kept}" if kept else "",
        "proc",
        "flatten",
        # Names that nobody uses go first: Amaranth's name of a word's field may be Yosys' name
        # of a bit, which stops abc9.
        "opt_clean -purge",
        "opt_hier",
        "opt_clean -purge",
        # The older mapper: abc9 takes twice as long here, for about 2 % more LUTs.
        f"synth_ecp5 -top top {options} -run :map_luts",
        "techmap -map +/lattice/latches_map.v",
        "abc -lut 4",
        "clean",
        f"synth_ecp5 -top top {options} -run map_cells:",
        "write_json top.json",
    ]
    return "\n".join(line for line in lines if line) + "\n"


@dataclass(frozen=True)
class Run:
    """What one seed came to; ``failure`` says why it has no clock.

    ``mhz`` is the clock that all domains allow, ``array_mhz`` what ``array`` allows by itself, and
    ``slow_mhz`` the slower clock of a component that is measured alone.
    """
    seed: int
    mhz: float | None = None
    array_mhz: float | None = None
    slow_mhz: float | None = None
    path: dict | None = None
    failure: str | None = None


def _synthesise(design, folder, tools, progress):
    rtlil, repeated = share_modules(design.rtlil)
    (folder / "top.il").write_text(rtlil)
    (folder / "top.lpf").write_text(design.lpf)
    (folder / "top.ys").write_text(synthesis_script(design, repeated))
    with tools.slot(), progress.stage("synthesis", "synthesise") as said:
        tools.run("yosys", ["-q", "-l", "synthesis.log", "-s", "top.ys"], folder,
                  "synthesis.log")
        netlist = json.loads((folder / "top.json").read_text())
        flip_flops = synthesised_cells(netlist)[0]["ff"]
        if open_carries(netlist) + output_registers(netlist) + write_modes(netlist):
            (folder / "top.json").write_text(json.dumps(netlist))
        total, modules = synthesised_cells(netlist)
        # Of all instances of the modules that it went over.
        packed = flip_flops - total["ff"]
        said.append(f"{total['comb']} LUT4, {total['ff']} FF and {packed} in EBR, "
                    f"{total['ebr']} EBR, {total['dsp']} DSP before packing")
    units = unit_cells(total, modules, design.units)
    excess = over(total, design.part.die.has())
    if excess:
        raise FitError(f"the synthesised design does not fit {design.part.name}: {excess}")
    return total, units, packed


class Patience(NamedTuple):
    """When a place-and-route run is given up, see :func:`build`."""
    places: int
    seconds: float


def _place_and_route(design, folder, seed, timing_driven, patience, tools, progress):
    base = f"seed{seed}"
    options = [*design.part.nextpnr_options(), *place_and_route_options(timing_driven),
               "--json", "top.json", "--lpf", "top.lpf",
               "--textcfg", f"{base}.config", "--report", f"{base}.json",
               "--write", f"{base}-placed.json", "--seed", str(seed),
               "--quiet", "--log", f"{base}.log",
               # A clock that is missed is our finding, not nextpnr's.
               "--timing-allow-fail"]
    seconds = None
    if patience:
        options += ["--placer-heap-cell-placement-timeout", str(patience.places)]
        seconds = patience.seconds
    if design.board is None:
        options.append("--lpf-allow-unconstrained")
    stage = f"place and route, seed {seed}", f"place_and_route_seed{seed}"
    with tools.slot(), progress.stage(*stage) as said:
        try:
            tools.run("nextpnr-ecp5", options, folder, f"{base}.log", seconds=seconds)
        except ToolError as error:
            if not error.told:
                raise
            said.append("failed")
            return Run(seed, failure=str(error))
        report = json.loads((folder / f"{base}.json").read_text())
        mhz, array_mhz, slowest = clocks(report, design.array_clock)
        said.append(f"{mhz:.1f} MHz" + (f", the array {array_mhz:.1f} MHz" if array_mhz else ""))
        slow_mhz = min((round(clock["achieved"], 2) for net, clock in report["fmax"].items()
                        if net.endswith(SLOW_CLOCK)), default=None)
    return Run(seed, mhz, array_mhz, slow_mhz, critical_path(report, design.units, slowest))


def clocks(report, array_clock):
    """``(the clock that nextpnr's report allows, that of domain array or None, the net of the one
    that limits)``; 25 MHz of the pin is no limit, nor is the slower clock of a component that is
    measured alone."""
    allowed = {net: clock["achieved"] for net, clock in report["fmax"].items()
               if not net.endswith(SLOW_CLOCK)}
    if not allowed:
        raise ToolError("nextpnr-ecp5 reported no clock")
    array = [net for net in allowed if net.endswith(_ARRAY_CLOCK)] if array_clock > 1 else []
    if array_clock > 1 and not array:
        raise ToolError("nextpnr-ecp5 reported no clock of the array")
    limits = {net: mhz / (array_clock if net in array else 1) for net, mhz in allowed.items()}
    slowest = min(limits, key=limits.get)
    return (round(limits[slowest], 2),
            round(min(allowed[net] for net in array), 2) if array else None, slowest)


def _all_seeds(design, folder, seeds, timing_driven, patience, tools, progress):
    with ThreadPoolExecutor(max_workers=seeds) as pool:
        runs = [pool.submit(_place_and_route, design, folder, seed, timing_driven, patience, tools,
                            progress)
                for seed in range(1, seeds + 1)]
        try:
            done = [run.result() for run in runs]
        except BaseException:
            tools.stop()
            raise
    if all(run.failure for run in done):
        raise ToolError(done[0].failure, told=True)
    return done


@dataclass(frozen=True)
class Outcome:
    """The report of a build, and whether its best seed met the clock (True without seeds)."""
    report: dict
    met: bool
    message: str


def build(design, *, out, seeds, synth_only, timing_driven=False, patience=None, tools, progress):
    """Build ``design`` into the folder ``out`` and return the :class:`Outcome`.

    ``seeds`` place-and-route runs, seeds 1 and up, as many at a time as ``tools`` allow;
    ``timing_driven`` see :func:`place_and_route_options`. A seed that cannot be placed or routed
    is reported as failed if another one can. With a :class:`Patience` nextpnr gives a cell up after
    ``cells**2 / places`` places that were not legal, 8 without: what cannot be placed is then
    known in minutes.

    ``out`` appears, whole, when all is done; what was there before stays until then. When a tool
    fails its logs are in ``out`` with ``-failed`` added to its name.
    """
    out = Path(out)
    check_folder(out)
    with _new_folder(out) as folder:
        total, units, packed = _synthesise(design, folder, tools, progress)
        runs, placed, best = [], None, None
        if not synth_only:
            runs = _all_seeds(design, folder, seeds, timing_driven, patience, tools, progress)
            best = max((run for run in runs if run.mhz), key=lambda run: run.mhz)
            placed = _draw(design, folder, best, progress)
            total, units = placed.total, placed.units
        met = best is None or design.alone or best.mhz >= float(design.clock)
        if best and met and design.board:
            with tools.slot(), progress.stage("bitstream", "pack"):
                tools.run("ecppack", ["--compress", "--usercode", str(int(design.build_id[:8], 16)),
                                      "--input", f"seed{best.seed}.config",
                                      "--bit", "top.bit"], folder, "pack.log")
        report = make_report(design, total=total, units=units, packed=packed,
                             placed=placed is not None, runs=runs, best=best,
                             timing_driven=timing_driven, versions=tools.versions(),
                             seconds={**progress.seconds, "total": progress.total()})
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        for name in ("top.json", *(f"seed{run.seed}{end}" for run in runs
                                   for end in ("-placed.json", ".config"))):
            (folder / name).unlink(missing_ok=True)
        replace_folder(folder, out)
    message = ""
    if not met:
        message = (f"the clock of {float(design.clock):g} MHz was missed: the best of "
                   f"{len(runs)} seed{'s' if len(runs) > 1 else ''} reaches {best.mhz:.2f} MHz, "
                   f"limited by a path from {best.path['from_unit']} to "
                   f"{best.path['to_unit']}; no bitstream was written")
    return Outcome(report, met, message)


def _draw(design, folder, best, progress):
    with progress.stage("floorplan"):
        with open(folder / f"seed{best.seed}-placed.json") as file:
            placed = read_placed(json.load(file), design.units)
        title = (f"{design.name} on {design.board or design.part.name}, "
                 f"{best.mhz:.1f} MHz with seed {best.seed}")
        path = best.path["places"] if best.path else None
        (folder / "floorplan.svg").write_text(
            floorplan(placed, die=design.part.die, title=title, first=design.focus, path=path))
    return placed


def _figures(value, digits=2):
    return None if value is None else round(value, digits)


def make_report(design, *, total, units, packed, placed, runs, best, timing_driven, versions,
                seconds):
    """The content of ``report.json``; without ``runs`` what only they tell is None.

    ``units`` are the cells of every unit within the whole design, and ``array`` those of the mesh,
    or of the component that is measured alone. ``packed`` flip-flops became
    :func:`hdl.build.netlist.output_registers` of block RAM.

    A whole design counts with the clock that it was built for, a component with the median of its
    seeds, or the cap where that is lower.
    """
    clock = float(design.clock)
    speeds = [run.mhz for run in runs if run.mhz]
    others = {name: [getattr(run, f"{name}_mhz") for run in runs if getattr(run, f"{name}_mhz")]
              for name in ("array", "slow")}
    # Block RAM limits the faster clock, and the slower one by it.
    cap, reason = design.part.clock_cap(dsp=total["dsp"] > 0)
    median = statistics.median(speeds) if speeds else None
    array = units.get(design.focus)
    shipped = None
    if best:
        shipped = min(median, cap) if design.alone else min(clock, best.mhz)
    path = None
    if best and best.path:
        path = {name: value for name, value in best.path.items() if name != "places"}
    macs = design.macs
    return {
        "scope": design.scope,
        "design": design.described,
        "mapping": design.mapping,
        "fingerprint": design.fingerprint,
        "build_id": design.build_id,
        "part": design.part.name,
        "board": design.board,
        "tools": versions,
        "synthesis": synthesis_options(design),
        "placed": placed,
        "placement": "timing" if timing_driven else "wire length",
        "total": total,
        "available": design.part.die.has(),
        "array": array,
        "units": units,
        "output_registers": packed,
        "fmax_mhz": {
            "median": _figures(median),
            "min": min(speeds, default=None), "max": max(speeds, default=None),
            "seeds": speeds,
            "failed": {str(run.seed): run.failure for run in runs if run.failure},
            "aim_mhz": round(clock, 4),
            "cap_mhz": cap, "cap_reason": reason,
            **{name: {"median": _figures(statistics.median(mhz)), "seeds": mhz}
               for name, mhz in others.items() if mhz},
        },
        "best_seed": best.seed if best else None,
        "slowest_path": path,
        "macs_per_clock": macs,
        "comb_per_mac": _figures(array["comb"] / macs) if macs else None,
        "gops": (_figures(2 * macs * design.array_clock * shipped / 1e3, 3)
                 if macs and shipped else None),
        "baud": BAUD if design.board else None,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def check_folder(out):
    """Refuse to replace anything but an earlier build."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"out must be a folder that is new, empty or an earlier build, "
                          f"got the file {str(out)!r}")
    if out.is_dir() and any(out.iterdir()) and not (out / "report.json").is_file():
        raise OutputError(f"out must be a folder that is new, empty or an earlier build, "
                          f"got {str(out)!r}, which has other files")


@contextlib.contextmanager
def _new_folder(out):
    """A folder beside ``out`` to build in; of what failed only the logs are kept."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{os.getpid()}"
    failed = out.parent / f"{out.name}-failed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    except (ToolError, FitError) as error:
        shutil.rmtree(failed, ignore_errors=True)
        failed.mkdir()
        for log in folder.glob("*.log"):
            shutil.copy(log, failed)
        error.args = (f"{error} (logs in {failed})",)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(failed, ignore_errors=True)


def replace_folder(new, out):
    """Put ``new`` in the place of ``out``."""
    new, out = Path(new), Path(out)
    old = out.parent / f".{out.name}.{os.getpid()}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)

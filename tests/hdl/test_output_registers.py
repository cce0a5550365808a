"""hdl.build.netlist.output_registers: what is refused, and netlists with it beside Amaranth; and
write_modes."""

import copy
import json
import random
from functools import partial

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from boards.parts import parse_part
from hdl.buffer import Buffer
from hdl.build.design import Design
from hdl.build.flow import synthesis_script
from hdl.build.netlist import output_registers, write_modes
from hdl.build.tools import Tools
from hdl.operand_memory import OperandMemory
from hdl.params import Params
from tests.hdl.test_netlist import LOWERING, Gates

# By hand.


def _flip_flop(d, q):
    return {"type": "TRELLIS_FF", "attributes": {},
            "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR",
                           "REGSET": "RESET"},
            "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
            "connections": {"CLK": [2], "DI": [d], "LSR": ["0"], "Q": [q]}}


def _netlist(width=2):
    """A block RAM read at side B, two bits of it used, each by a flip-flop."""
    inputs = {"CLKA": 2, "CLKB": 2, "CEA": "1", "CEB": "1", "OCEA": "0", "OCEB": "0", "RSTA": "0",
              "RSTB": "0", "WEA": "1", "WEB": "0", "CSB0": "0", "CSB1": "0", "CSB2": "0"}
    outputs = {"DOA0": 10, "DOA1": 11, "DOB0": 20, "DOB1": 21, "DOB2": 22, "DOB3": "x"}
    used = (10, 20) if width == 36 else (20, 21)
    block = {"type": "DP16KD", "attributes": {},
             "parameters": {"DATA_WIDTH_A": f"{width:032b}", "DATA_WIDTH_B": f"{width:032b}",
                            "REGMODE_A": "NOREG", "REGMODE_B": "NOREG", "CLKAMUX": "CLKA",
                            "CLKBMUX": "CLKB", "CSDECODE_B": "0b000", "GSR": "DISABLED"},
             "port_directions": {**dict.fromkeys(inputs, "input"),
                                 **dict.fromkeys(outputs, "output")},
             "connections": {pin: [net] for pin, net in {**inputs, **outputs}.items()}}
    return {"modules": {"top": {
        "ports": {"clk": {"direction": "input", "bits": [2]},
                  "q": {"direction": "output", "bits": [30, 31]}},
        "cells": {"block": block, "low": _flip_flop(used[0], 30),
                  "high": _flip_flop(used[1], 31)}}}}


def _changed(design, name, **parts):
    cell = design["modules"]["top"]["cells"][name]
    for part, value in parts.items():
        cell[part] = value if isinstance(value, str) else {**cell[part], **value}
    return design


@pytest.mark.parametrize(("width", "sides", "pins"), [
    (2, "B", {"DOB0": [30], "DOB1": [31]}), (36, "AB", {"DOA0": [30], "DOB0": [31]})])
def test_flip_flops_become_output_registers(width, sides, pins):
    # It is written in another clock.
    design = _changed(_netlist(width), "block", connections={"CLKA": [3]})
    before = design["modules"]["top"]["cells"]["block"]["connections"]
    expected = {**before, **pins, **{f"OCE{side}": ["1"] for side in sides}}
    assert output_registers(design) == 2
    (block,) = design["modules"]["top"]["cells"].values()
    assert block["connections"] == expected
    assert [side for side in "AB" if block["parameters"][f"REGMODE_{side}"] == "OUTREG"] == [*sides]
    # There is no second one.
    assert output_registers(design) == 0


def test_a_side_that_never_writes_needs_no_read_before_it():
    design = _changed(_netlist(), "block", parameters={
        "WRITEMODE_A": "READBEFOREWRITE", "WRITEMODE_B": "READBEFOREWRITE"})
    parameters = design["modules"]["top"]["cells"]["block"]["parameters"]
    assert write_modes(design) == 1
    assert (parameters["WRITEMODE_A"], parameters["WRITEMODE_B"]) == ("READBEFOREWRITE", "NORMAL")
    assert write_modes(design) == 0
    for change in ({"connections": {"WEB": [4]}}, {"parameters": {"WEBMUX": "INV"}}):
        parameters["WRITEMODE_B"] = "READBEFOREWRITE"
        assert write_modes(_changed(copy.deepcopy(design), "block", **change)) == 0


def test_what_means_the_same_is_taken():
    design = _netlist()
    cells = design["modules"]["top"]["cells"]
    cells["low"]["parameters"]["CEMUX"] = "CE"
    cells["low"]["connections"]["CE"] = ["1"]
    del cells["high"]["connections"]["LSR"]
    for cell, mux in (("block", "CLKBMUX"), ("low", "CLKMUX"), ("high", "CLKMUX")):
        cells[cell]["parameters"][mux] = "INV"
    assert output_registers(design) == 2


#: What is changed, of which cell, for a block RAM to stay as it is.
REFUSED = {
    "no flip-flop": ("low", {"type": "LUT4"}),
    "data at another input": ("low", {"connections": {"DI": ["0"], "M": [20]}}),
    "another clock": ("low", {"connections": {"CLK": [3]}}),
    "the clock of the other side": ("block", {"connections": {"CLKB": [3]}}),
    "the other edge": ("low", {"parameters": {"CLKMUX": "INV"}}),
    "the other edge of the block": ("block", {"parameters": {"CLKBMUX": "INV"}}),
    "an enable left open": ("low", {"parameters": {"CEMUX": "CE"}}),
    "an enable": ("low", {"parameters": {"CEMUX": "CE"}, "connections": {"CE": [4]}}),
    "an inverted enable": ("low", {"parameters": {"CEMUX": "INV"}, "connections": {"CE": ["1"]}}),
    "never enabled": ("low", {"parameters": {"CEMUX": "0 "}}),
    "a reset": ("low", {"connections": {"LSR": [4]}}),
    "a reset that stays": ("low", {"parameters": {"LSRMUX": "INV"}}),
    "a start from another net": ("low", {"parameters": {"LSRMODE": "PRLD"}}),
    "a start with 1": ("low", {"parameters": {"REGSET": "SET"}}),
    "the global reset": ("low", {"parameters": {"GSR": "ENABLED"}}),
    "kept": ("low", {"attributes": {"keep": "1"}}),
    "registered already": ("block", {"parameters": {"REGMODE_B": "OUTREG"}}),
    "a read that may stop": ("block", {"connections": {"CEB": [4]}}),
    "a read that never is": ("block", {"parameters": {"CEBMUX": "INV"}}),
    "a reset of the block": ("block", {"connections": {"RSTB": [4]}}),
    "selected at times": ("block", {"connections": {"CSB1": [4]}}),
    "never selected": ("block", {"parameters": {"CSDECODE_B": "0b001"}}),
}


def _assert_unchanged(design):
    before = copy.deepcopy(design)
    assert output_registers(design) == 0
    assert design == before


@pytest.mark.parametrize(("cell", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_do_the_same_stays(cell, parts):
    _assert_unchanged(_changed(_netlist(), cell, **parts))


@pytest.mark.parametrize(("cell", "parts"), [
    ("block", {"connections": {"RSTA": [4]}}), ("block", {"parameters": {"REGMODE_A": "OUTREG"}}),
    ("low", {"parameters": {"CEMUX": "CE"}}), ("high", {"parameters": {"CEMUX": "CE"}})])
def test_words_of_both_sides_stay_whole(cell, parts):
    _assert_unchanged(_changed(_netlist(36), cell, **parts))


def test_a_bit_with_two_readers_stays():
    design = _netlist()
    design["modules"]["top"]["cells"]["other"] = _flip_flop(20, 32)
    _assert_unchanged(design)
    design = _netlist()
    design["modules"]["top"]["ports"]["q"]["bits"] = [30, 31, 20]
    _assert_unchanged(design)


def test_a_port_of_the_module_is_a_reader():
    design = _netlist()
    del design["modules"]["top"]["cells"]["low"]
    design["modules"]["top"]["ports"]["q"]["bits"] = [20, 31]
    _assert_unchanged(design)


def test_ports_are_changed_one_by_one():
    """Side A has a flip-flop with an enable, side B has not."""
    design = _netlist()
    design["modules"]["top"]["cells"]["other"] = _flip_flop(10, 32)
    design["modules"]["top"]["cells"]["other"]["parameters"]["CEMUX"] = "CE"
    assert output_registers(design) == 2
    block = design["modules"]["top"]["cells"]["block"]
    assert block["parameters"]["REGMODE_A"] == "NOREG" and block["connections"]["DOA0"] == [10]


def test_a_netlist_without_block_ram_is_unchanged():
    design = _netlist()
    del design["modules"]["top"]["cells"]["block"]
    design["modules"]["LUT4"] = {"attributes": {"blackbox": "1"}}
    _assert_unchanged(design)


# Synthesised.


class OneLane(wiring.Component):
    """An operand memory of one lane: a block RAM that is written and read at one side."""
    saddr: In(11)
    streamed: Out(8)
    addr: In(11)
    write: In(1)
    wdata: In(8)
    data: Out(8)

    def elaborate(self, platform):
        m = Module()
        params = Params(bits=8, rows=1, cols=1, depth=1, memory=4, array_clock=1)
        m.submodules.memory = memory = OperandMemory(params, readers=1, writers=1)
        reader, writer, stream = memory.r[0], memory.w[0], memory.s[0]
        m.d.comb += [
            stream.en.eq(1), stream.addr.eq(self.saddr),
            Value.cast(self.streamed).eq(Cat(stream.data)),
            reader.en.eq(~self.write), reader.addr.eq(self.addr),
            writer.en.eq(self.write), writer.addr.eq(self.addr), writer.lanes.eq(1),
            Value.cast(writer.data).eq(self.wdata), self.data.eq(Cat(reader.data)),
        ]
        return m


def _synthesised(component, folder):
    """The netlist of a component by the flow's own script."""
    text = rtlil.convert(component, name="top", emit_src=False)
    design = Design(name="x", scope="x", described={}, fingerprint=None, macs=None, board=None,
                    part=parse_part("LFE5U-25F-6BG381C"), clock=60, rtlil=text, lpf="", units={})
    (folder / "top.il").write_text(text)
    (folder / "top.ys").write_text(synthesis_script(design))
    Tools().run("yosys", ["-q", "-s", "top.ys"], folder, "synthesis.log")
    return json.loads((folder / "top.json").read_text())


def _gates(netlist, folder):
    (folder / "cells.json").write_text(json.dumps(netlist))
    (folder / "lower.ys").write_text("read_json cells.json\n" + LOWERING)
    Tools().run("yosys", ["-q", "-s", "lower.ys"], folder, "lower.log")
    return Gates(folder)


def _simulated(component, stimuli):
    """All outputs in every cycle, as Amaranth has them."""
    signals = {name: Value.cast(getattr(component, name)) for name in component.signature.members}
    outputs = [name for name, member in component.signature.members.items() if member.flow is Out]
    found = []

    async def bench(ctx):
        for inputs in stimuli:
            for name, value in inputs.items():
                ctx.set(signals[name], value)
            found.append({name: ctx.get(signals[name]) for name in outputs})
            await ctx.tick()
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def _buffer_stimuli(component, rng, cycles):
    addresses = rng.sample(range(component.depth), 6)
    for _ in range(cycles):
        raddr, waddr = rng.sample(addresses, 2)
        yield {"raddr": raddr, "waddr": waddr, "wen": rng.randint(0, 1),
               "wdata": rng.getrandbits(component.shape)}


def _lane_stimuli(component, rng, cycles):
    addresses = rng.sample(range(2048), 6)
    for _ in range(cycles):
        saddr, addr = rng.sample(addresses, 2)
        yield {"saddr": saddr, "addr": addr, "write": rng.randint(0, 1),
               "wdata": rng.getrandbits(8)}


@pytest.mark.parametrize(("make", "stimuli", "registers"), [
    (partial(Buffer, 4, 4096), _buffer_stimuli, 4),
    (partial(Buffer, 18, 1024), _buffer_stimuli, 18),
    (partial(Buffer, 36, 512), _buffer_stimuli, 36), (OneLane, _lane_stimuli, 16)],
    ids=["4 bits", "18 bits", "36 bits", "both sides"])
def test_a_netlist_with_output_registers_does_what_it_did(make, stimuli, registers, tmp_path):
    component = make()
    stimuli = list(stimuli(component, random.Random(registers), 300))
    expected = _simulated(component, stimuli)
    netlist = _synthesised(make(), tmp_path)
    before = _gates(netlist, tmp_path)
    assert output_registers(netlist) == registers
    after = _gates(netlist, tmp_path)
    assert before.registers - after.registers == registers
    for inputs, outputs in zip(stimuli, expected, strict=True):
        for gates in (before, after):
            found = gates.clock(rst=0, **inputs)
            assert {name: found[name] for name in outputs} == outputs
    assert any(output != expected[0] for output in expected)


def test_a_memory_of_several_blocks_has_logic_behind_them(tmp_path):
    _assert_unchanged(_synthesised(Buffer(1, 32768), tmp_path))

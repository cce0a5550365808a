"""Components after synthesis for ECP5, cell by cell; here those of floating point."""

import json
from functools import partial
from graphlib import TopologicalSorter

import numpy as np
import pytest
from amaranth.back import rtlil

from hdl.build.flow import SYNTHESIS
from hdl.build.tools import Tools
from hdl.floating.mac import ELEMENTS
from hdl.floating.mesh import FloatMesh
from hdl.params import Params
from sim.model.floating import column
from tests.support.ebr import BlockRam

#: Every cell replaced by Yosys's model of it, down to gates.
LOWERING = """
read_verilog -overwrite -icells +/ecp5/cells_sim.v
hierarchy -top top
proc
flatten -noscopeinfo
opt
simplemap
opt
dfflegalize -cell $_DFF_P_ 01
simplemap
opt_clean
write_json gates.json
"""
#: Synthesis as in a build, then gates.
SCRIPT = f"""
read_rtlil top.il
proc
flatten
opt_clean -purge
synth_ecp5 -top top {SYNTHESIS}
select -assert-any t:CCU2C
select -assert-any t:LUT4
select -assert-any t:TRELLIS_FF
select -assert-none t:MULT18X18D
select -assert-none t:* t:CCU2C %d t:LUT4 %d t:TRELLIS_FF %d t:$scopeinfo %d
write_verilog -noattr netlist.v
design -reset
read_verilog netlist.v
{LOWERING}"""

#: Gates as expressions of their inputs, the values 0 and 1.
GATES = {
    "$_AND_": "{A} & {B}", "$_OR_": "{A} | {B}", "$_XOR_": "{A} ^ {B}", "$_NOT_": "1 ^ {A}",
    "$_MUX_": "{B} if {S} else {A}",
}


class Gates:
    """Gates, flip-flops and block RAMs that :data:`LOWERING` leaves, clocked one by one."""
    def __init__(self, folder):
        top = json.loads((folder / "gates.json").read_text())["modules"]["top"]
        self._ports = {name: port["bits"] for name, port in top["ports"].items()}
        cells = [(cell["type"], {pin: bits[0] for pin, bits in cell["connections"].items()})
                 for cell in top["cells"].values() if cell["type"] != "DP16KD"]
        self._blocks = [(BlockRam(cell["parameters"]),
                         {pin: bits[0] for pin, bits in cell["connections"].items()})
                        for cell in top["cells"].values() if cell["type"] == "DP16KD"]
        self._flip_flops = [(pins["Q"], pins["D"]) for kind, pins in cells if kind == "$_DFF_P_"]
        gates = {pins["Y"]: (GATES[kind], pins) for kind, pins in cells if kind != "$_DFF_P_"}
        self.size, self.registers = len(gates), len(self._flip_flops)

        def expression(bit):
            return f"v[{bit}]" if isinstance(bit, int) else str(int(bit == "1"))
        order = TopologicalSorter({out: [bit for pin, bit in pins.items()
                                         if pin != "Y" and bit in gates]
                                   for out, (_, pins) in gates.items()}).static_order()
        lines = [f"v[{out}] = " + gates[out][0].format_map(
            {pin: expression(bit) for pin, bit in gates[out][1].items()}) for out in order]
        lines.append("return [" + ", ".join(expression(d) for _, d in self._flip_flops) + "]")
        scope = {}
        exec("def settle(v):\n " + "\n ".join(lines), scope)
        self._settle = scope["settle"]
        bits = [bit for net in (*self._ports.values(), *(pins.values() for _, pins in cells),
                                *(pins.values() for _, pins in self._blocks))
                for bit in net if isinstance(bit, int)]
        self._values = [0] * (1 + max(bits))

    def clock(self, **inputs):
        """One clock with these inputs; all outputs as they are before its edge."""
        values = self._values
        for name, value in inputs.items():
            for i, bit in enumerate(self._ports[name]):
                values[bit] = value >> i & 1
        following = self._settle(values)

        def level(bit):
            return values[bit] if isinstance(bit, int) else int(bit == "1")
        outputs = {name: sum(level(bit) << i for i, bit in enumerate(bits))
                   for name, bits in self._ports.items()}
        read = [(pins[pin], value) for block, pins in self._blocks for pin, value in
                block.clock({pin: level(bit) for pin, bit in pins.items()}).items() if pin in pins]
        for bit, value in [*zip((q for q, _ in self._flip_flops), following, strict=True), *read]:
            values[bit] = value
        return outputs


class Netlist(Gates):
    """A component, synthesised."""
    def __init__(self, component, folder, script=SCRIPT):
        (folder / "top.il").write_text(rtlil.convert(component, name="top", emit_src=False))
        (folder / "netlist.ys").write_text(script)
        Tools().run("yosys", ["-s", "netlist.ys"], folder, "synthesis.log")
        super().__init__(folder)


@pytest.mark.parametrize("name", [
    "fp16", *(pytest.param(name, marks=pytest.mark.regress) for name in ("fp16n", "bf16"))])
def test_the_netlist_of_a_floating_point_column_adds_as_the_model_does(name, tmp_path):
    """With the hand-mapped adders and multiplier that are measured."""
    pe = ELEMENTS[name]
    params = Params(rows=2, cols=1, depth=1)
    mesh = FloatMesh(params, partial(pe, mapped=True))
    netlist = Netlist(mesh, tmp_path)
    form, rng = pe.arithmetic.operand, np.random.default_rng(1)
    special = [sign << 15 | x for sign in (0, 1) for x in (
        0, 1, (1 << form.fraction_bits) - 1, 1 << form.fraction_bits,
        form.bias << form.fraction_bits,
        0x7FFF & ~((1 << form.fraction_bits) - 1), 0x7FFF)]
    for weights in rng.choice(special, (3, 2)).tolist() + rng.integers(0, 1 << 16, (3, 2)).tolist():
        near = rng.integers(0, 4, (60, 1)) + weights[0]
        operands = np.concatenate([rng.choice(special, (60, 2)), rng.integers(0, 1 << 16, (80, 2)),
                                   np.concatenate([near, near ^ 1 << 15], 1) & 0xFFFF])
        for row in (1, 0):
            netlist.clock(rst=0, load=1, swap=0, weights=weights[row], a=0)
        netlist.clock(rst=0, load=0, swap=1, weights=0, a=0)
        # The second row's operands come a step late.
        first, second = ([*[0] * before, *(int(a) for a in operands[:, row]), *[0] * after]
                         for row, (before, after) in enumerate(((0, pe.STEP), (pe.STEP, 0))))
        found = [netlist.clock(rst=0, load=0, swap=0, weights=0, a=a)["sums"]
                 for a in [*(low | high << 16 for low, high in zip(first, second, strict=True)),
                           *[0] * (mesh.latency - pe.STEP)]][mesh.latency:]
        assert found == column(operands, np.array(weights), name).tolist()

"""hdl.build: what is refused and how, what fits, what the netlists say, and the whole flow.

The flow runs with stand-ins for the tools, but for one synthesis; ``make regress`` has the rest.
"""

import json
import re
import stat
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from boards.parts import DIES, parse_part
from boards.platforms import BOARDS
from hdl.array.mesh import Mesh
from hdl.build import __main__ as command
from hdl.build.datapaths import DATAPATHS
from hdl.build.design import ARRAY, elaborate
from hdl.build.fit import EstimateError, check_fit, ebr_blocks, estimate, memories
from hdl.build.floorplan import floorplan
from hdl.build.flow import Patience, clocks
from hdl.build.netlist import critical_path, read_placed, synthesised_cells
from hdl.build.summary import measure_command, plain_twin, summary
from hdl.build.tools import Progress, ToolError, Tools
from hdl.memory import Ram
from hdl.params import Params
from hdl.protocol import LINK_BYTES
from hdl.top import rtlil

SMALL = Params(lanes=0, bits=2, rows=2, cols=2, depth=1, memory=4)


# Arguments.


@pytest.mark.parametrize(("argv", "sentence"), [
    ("--bits 9", "--bits must be a whole number from 2 to 8, got 9"),
    ("--bits four", "--bits must be a whole number from 2 to 8, got four"),
    ("--bits 4.0", "--bits must be a whole number from 2 to 8, got 4.0"),
    ("--groups 3x4", "--groups must be SxC or C with each number one of 1, 2, 4 or 8, got '3x4'"),
    ("--rows 0", "--rows must be a whole number from 1 to 64, got 0"),
    ("--cols -1", "--cols must be a whole number from 1 to 64, got -1"),
    ("--depth 5", "--depth must be a whole number from 1 to 4, got 5"),
    ("--memory 3", "--memory must be a whole number from 4 to 256, got 3"),
    ("--layer-norm", "--layer-norm needs a machine that keeps masters: masters must be at least 1, "
                     "got 0"),
    ("--codes 7", "--codes must be a whole number from 8 to 512, got 7"),
    ("--tables 4", "--tables must be a whole number from 1 to 2, got 4"),
    ("--masters 8 --master-bits 12", "--master-bits must be 16 or 24, got 12"),
    ("--velocity-bits 8", "--master-bits and velocity-bits must be 24 and 24 on a machine that "
     "keeps no masters, got 24 and 8"),
    ("--arith posit", f"--arith must be one of {', '.join(DATAPATHS)}, got 'posit'"),
    ("--arith int --groups 4x4", "--arith int has no groups: groups must be 1x1, got '4x4'"),
    ("--board ulx4", f"--board must be one of {', '.join(BOARDS)}, got 'ulx4'"),
    ("--part LFE5U-85F", "--part must be LFE5U-, LFE5UM- or LFE5UM5G- with a die of 12F, 25F, "
     "45F, 85F, a speed grade of 6, 7 or 8, a package and C or I, such as LFE5U-85F-6BG381C, got "
     "'LFE5U-85F'"),
    ("--clock 4.9", "--clock must be 5 to 400 MHz, got 4.9"),
    ("--clock 150 --array-clock 3",
     "--clock must be at most 133.333 MHz where the array's is 3 times as fast, got 150"),
    ("--array-clock 5", "--array-clock must be a whole number from 1 to 4, got 5"),
    ("--clock fast", "--clock must be 5 to 400 MHz, got fast"),
    ("--clock nan", "--clock must be 5 to 400 MHz, got nan"),
    ("--seeds 0", "--seeds must be a whole number from 1 to 100, got 0"),
    ("--bits", "argument --bits: expected one argument"),
    ("--contrast", "unrecognized arguments: --contrast"),
    ("--board ulx3s-85f --part LFE5U-85F-6BG381C",
     "argument --part: not allowed with argument --board"),
])
def test_a_bad_argument_gets_one_sentence(argv, sentence, capsys):
    assert command.main(argv.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {sentence}\n")


def test_a_folder_with_other_files_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert command.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: --out must be a folder that is new, empty or an earlier build, got "
        f"{str(tmp_path)!r}, which has other files\n")
    assert command.main(["--out", str(tmp_path / "thesis.tex")]) == 2
    assert "got the file" in capsys.readouterr().err


def test_options_name_the_design():
    options = command.read_arguments(["--groups", "8", "--board", "ULX3S-45F", "--bits", "3"])
    assert options.params == Params(bits=3, sample_groups=1, channel_groups=8)
    assert options.part.name == "LFE5U-45F-6BG381C"
    assert options.out.name == f"{options.params.name}-ulx3s-45f"
    options = command.read_arguments(["--masters", "32", "--master-bits", "16", "--velocity-bits",
                                      "8", "--codes", "256", "--tables", "1"])
    assert options.params == Params(masters=32, master_bits=16, velocity_bits=8, codes=256,
                                    tables=1)
    assert options.out.name == "shift-4b-4x4-4x4x4-32m16v8"
    options = command.read_arguments(["--masters", "8", "--layer-norm"])
    assert options.params == Params(masters=8, layer_norm=True)
    assert options.out.name == "shift-4b-4x4-4x4x4-8m-ln"
    assert command.read_arguments(["--arith", "int"]).params.groups == "1x1"
    assert command.read_arguments([]).out.name == Params().name
    assert command.read_arguments(["--part", "lfe5um5g-85f-8bg756i"]).board is None


# What fits.


@pytest.mark.parametrize("params", [
    SMALL, Params(lanes=0, bits=3, rows=3, cols=5, depth=2, sample_groups=1, channel_groups=1,
                  memory=8),
    Params(lanes=2, memory=8, codes=64, tables=1, masters=8, master_bits=16, velocity_bits=8,
           layer_norm=True)],
    ids=["groups", "no groups", "masters"])
def test_estimated_memories_are_those_that_exist(params):
    found = re.findall(r"^  memory width (\d+) size (\d+)", rtlil(params), re.MULTILINE)
    # Without the array's tables and the link's queue, which are LUTs.
    assert sorted(memory for memory in ((int(width), int(words)) for width, words in found)
                  if memory[1] > 16 and memory != (8, LINK_BYTES)) == sorted(
        (width, words) for _, width, words in memories(params))


@pytest.mark.parametrize(("width", "words", "blocks"), [
    (8, 64, 0), (32, 64, 1), (8, 2048, 1), (33, 2048, 4), (96, 2048, 11), (256, 4096, 58),
    (288, 512, 8), (128, 8192, 60), (12, 16384, 12), (1, 32768, 2)])
def test_block_rams_of_a_memory_are_what_yosys_makes(width, words, blocks):
    # Counted after memory_libmap.
    assert ebr_blocks(width, words) == blocks


def test_a_design_that_cannot_fit_is_refused_before_it_is_built(capsys):
    argv = "--board ulx3s-12f --bits 2 --rows 4 --cols 2 --depth 1"
    assert command.main(argv.split()) == 2
    said = capsys.readouterr()
    found = re.fullmatch(
        r"error: \S+ does not fit LFE5U-12F-6BG381C: about (\d+) of 56 block RAMs \(EBR\), (\d+) "
        r"too many; --memory (\d+) would fit\n", said.err)
    assert found and int(found[1]) - int(found[2]) == 56
    params = Params(lanes=0, bits=2, rows=4, cols=2, depth=1, memory=int(found[3]))
    check_fit(params, parse_part("LFE5U-12F-6BG381C"))
    with pytest.raises(EstimateError):
        check_fit(replace(params, memory=2 * params.memory), parse_part("LFE5U-12F-6BG381C"))


@pytest.mark.parametrize(("options", "rows", "memory"), [
    ({"rows": 64, "cols": 64}, 16, 4), ({"rows": 64, "cols": 32, "memory": 4}, 32, None),
    # Lanes divide the slots: not all numbers of rows can be.
    ({"rows": 64, "cols": 16, "lanes": 16, "bits": 8}, 12, None)])
def test_of_a_shape_that_cannot_fit_the_largest_that_may_is_named(options, rows, memory, capsys):
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert command.main(argv) == 2
    hint = f"; {rows} rows of {options['cols']} columns may fit"
    assert capsys.readouterr().err.endswith(
        hint + (f" with --memory {memory}\n" if memory else "\n"))
    part = parse_part("LFE5U-85F-6BG381C")
    check_fit(Params(**{**options, "rows": rows, **({"memory": memory} if memory else {})}), part)
    step = 4 if "lanes" in options else 1
    with pytest.raises(EstimateError):
        check_fit(Params(**{**options, "rows": rows + step, "memory": memory or 4}), part)


def test_of_columns_that_never_fit_no_rows_are_named(capsys):
    assert command.main(["--rows", "16", "--cols", "64", "--lanes", "64"]) == 2
    assert capsys.readouterr().err.endswith("; --max finds the largest that fits\n")


@pytest.mark.parametrize(("argv", "shape"), [
    ("", (Params.rows, Params.cols, Params.depth)), ("--rows 8 --cols 8", (8, 8, Params.depth)),
    ("--rows 3", (3, Params.cols, Params.depth)), ("--depth 2", (Params.rows, Params.cols, 2)),
    ("--rows 2 --cols 3 --depth 1", (2, 3, 1))])
def test_what_is_not_given_of_the_array_is_the_default(argv, shape):
    params = command.read_arguments(argv.split()).params
    assert (params.rows, params.cols, params.depth) == shape


def test_the_largest_array_is_refused_at_once(capsys):
    argv = "--rows 64 --cols 64 --bits 8 --memory 4"
    assert command.main(argv.split()) == 2
    assert "LUT4" in capsys.readouterr().err


def test_an_estimate_of_logic_is_not_above_what_was_built():
    # Figures of Yosys for the default design; nextpnr's are higher.
    assert 0.6 * 10_690 < estimate(Params())["comb"] < 10_690


#: A small machine that keeps masters.
KEEPER = Params(rows=4, cols=4, depth=2, sample_groups=1, channel_groups=1, masters=4, memory=8,
                tables=1)


@pytest.mark.parametrize(("params", "comb", "ff", "dsp"), [
    (KEEPER, 20_769, 18_639, 59), (replace(KEEPER, lanes=4), 36_727, 30_584, 107),
    (replace(KEEPER, lanes=4, sample_groups=4, channel_groups=4), 39_369, 31_701, 107),
    (replace(KEEPER, lanes=4, master_bits=16, velocity_bits=8), 35_844, 29_073, 87),
    (Params(rows=8, cols=8, lanes=8, sample_groups=1, array_clock=1, masters=32, master_bits=16,
            velocity_bits=8, codes=256, tables=1), 65_258, 50_674, 131)],
    ids=lambda value: getattr(value, "name", None))
def test_of_machines_that_keep_masters_most_is_estimated(params, comb, ff, dsp):
    # As Yosys made them.
    found = estimate(params)
    assert 0.8 * comb < found["comb"] < 0.95 * comb
    assert 0.8 * ff < found["ff"] < 0.95 * ff
    assert dsp - 1 <= found["dsp"] <= dsp


def test_of_lanes_that_cannot_fit_those_that_may_are_named(capsys):
    options = {"rows": 8, "cols": 8, "lanes": 16, "groups": "1x4", "masters": 32,
               "master-bits": 16, "velocity-bits": 8, "codes": 128, "tables": 1}
    assert command.main([f"--{name}={value}" for name, value in options.items()]) == 2
    said = capsys.readouterr().err
    assert re.search(r"about \d+ of 83640 LUT4 \(COMB\), \d+ too many", said)
    assert re.search(r"218 of 156 multipliers \(DSP\), 62 too many", said)
    assert said.endswith("; --lanes 8 may fit\n")


# Netlists.

UNITS = {"": "board", "accelerator": "accelerator", "accelerator.gemm": "gemm",
         "accelerator.gemm.mesh": ARRAY}


def _cell(kind, x=0, y=0, bel="SLICEA.K0", **nets):
    return {"type": kind, "attributes": {"NEXTPNR_BEL": f"X{x}/Y{y}/{bel}"},
            "connections": {port: [net] for port, net in nets.items()}}


PLACED_JSON = {"modules": {"top": {"cells": {
    "beat_FF": _cell("TRELLIS_FF", 1, 1),
    "accelerator.gemm.q": _cell("TRELLIS_COMB", 2, 1),
    "accelerator.gemm.mesh.row0.q": _cell("TRELLIS_COMB", 3, 1, FCI=7, FCO=8),
    # The chain's ends, of which the second is known only by the first.
    "$nextpnr_CCU2C_0$COMB1": _cell("TRELLIS_COMB", 3, 2, FCI=8, FCO=9),
    "$nextpnr_CCU2C_0$COMB0": _cell("TRELLIS_COMB", 3, 2, FCI=9),
    "accelerator.gemm.memory": _cell("DP16KD", 5, 3, "EBR0"),
    "accelerator.gemm.product": _cell("MULT18X18D", 7, 3, "MULT18_0"),
    "uart_pin": _cell("TRELLIS_IO", 0, 3),
}}}}


def test_cells_belong_to_units():
    placed = read_placed(PLACED_JSON, UNITS)
    assert placed.total == {"comb": 4, "ff": 1, "ebr": 1, "dsp": 1}
    assert placed.units[ARRAY] == {"comb": 3, "ff": 0, "ebr": 0, "dsp": 0}
    assert placed.units["gemm"] == {"comb": 1, "ff": 0, "ebr": 1, "dsp": 1}
    assert placed.units["board"]["ff"] == 1
    assert ("ebr", "gemm", 5, 3) in placed.bels


def test_a_floorplan_is_a_picture():
    placed = read_placed(PLACED_JSON, UNITS)
    text = floorplan(placed, die=DIES["85F"], title="a < b", first=ARRAY, path=[[2, 1], [3, 2]])
    root = ET.fromstring(text)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in words and ARRAY in words and "whole" in words
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 1


def _report_json(mhz, target=40.0):
    def step(kind, delay, source, sink):
        return {"type": kind, "delay": delay, "from": {"cell": source, "loc": [2, 1]},
                "to": {"cell": sink, "loc": [3, 1]}}
    return {
        "fmax": {"$glbnet$clk": {"achieved": mhz, "constraint": target}},
        "critical_paths": [
            {"from": "<async>", "to": "posedge clk", "path": []},
            {"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk", "path": [
                step("clk-to-q", 0.5, "accelerator.gemm.q", "accelerator.gemm.q"),
                step("routing", 2.25, "accelerator.gemm.q", "accelerator.gemm.mesh.row0.q"),
                step("setup", 0.25, "accelerator.gemm.mesh.row0.q",
                     "accelerator.gemm.mesh.row0.q")]}]}


def test_the_slowest_path_has_units():
    path = critical_path(_report_json(80.0), UNITS, "$glbnet$clk")
    assert (path["from_unit"], path["to_unit"]) == ("gemm", ARRAY)
    assert (path["ns"], path["logic_ns"], path["routing_ns"]) == (3.0, 0.75, 2.25)
    assert critical_path({"critical_paths": []}, UNITS, "$glbnet$clk") is None


def test_the_clock_that_limits_may_be_the_arrays():
    report = _report_json(80.0)
    assert clocks(report, 1) == (80.0, None, "$glbnet$clk")
    with pytest.raises(ToolError, match="no clock of the array"):
        clocks(report, 3)
    report["fmax"]["$glbnet$array_clk"] = {"achieved": 210.0}
    assert clocks(report, 3) == (70.0, 210.0, "$glbnet$array_clk")
    report["fmax"]["$glbnet$array_clk"] = {"achieved": 270.0}
    assert clocks(report, 3) == (80.0, 270.0, "$glbnet$clk")


def _synthesised(luts=3):
    def module(cells, **attributes):
        return {"attributes": attributes,
                "cells": {str(i): {"type": kind, "parameters": {}, "connections": {},
                                   "port_directions": {}}
                          for i, kind in enumerate(cells)}}
    return {"modules": {
        "LUT4": module([], blackbox="1"),
        "top": module(["top.accelerator", "TRELLIS_IO"], top="1"),
        "top.accelerator": module(["top.accelerator.gemm", "LUT4"]),
        "top.accelerator.gemm": module(["top.accelerator.gemm.mesh", "DP16KD"]),
        "top.accelerator.gemm.mesh": module(["top.element", "top.element"]),
        "top.element": module(["LUT4"] * luts + ["CCU2C", "TRELLIS_FF"])}}


def test_a_module_counts_as_often_as_it_is_used():
    total, modules = synthesised_cells(_synthesised())
    assert total == {"comb": 11, "ff": 2, "ebr": 1, "dsp": 0}
    assert modules["top.accelerator.gemm.mesh"]["comb"] == 10
    assert "LUT4" not in modules


# The flow.


class Gemm(wiring.Component):
    """A mesh and a memory, and not a machine."""
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.mesh = mesh = Mesh(SMALL)
        m.submodules.buffer = buffer = Ram(8, 1024, readers=1, writers=1)
        m.d.comb += [
            mesh.load.eq(self.i[0]), mesh.swap.eq(self.i[1]), mesh.mark.eq(self.i[2]),
            mesh.a.as_value().eq(self.i), mesh.weights.as_value().eq(self.i),
            buffer.w[0].en.eq(1), buffer.w[0].addr.eq(self.i), buffer.w[0].data.eq(self.i),
            buffer.r[0].en.eq(1), buffer.r[0].addr.eq(mesh.sums.as_value()),
        ]
        m.d.sync += self.o.eq(buffer.r[0].data)
        return m


class StandIn(wiring.Component):
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.gemm = gemm = Gemm()
        m.d.comb += [self.i.ready.eq(1), self.o.valid.eq(self.i.valid),
                     gemm.i.eq(self.i.payload), self.o.payload.eq(gemm.o)]
        return m


TOOL = """#!{python}
import json, os, sys
from pathlib import Path
name, options = {name!r}, sys.argv[1:]
after = lambda option: options[options.index(option) + 1]
if options == ["--version"]:
    print(name, "1.0")
    sys.exit()
if name == {fails!r}:
    print("ERROR: no more bels")
    sys.exit(1)
if name == "yosys":
    Path("top.json").write_text({synthesised!r})
    Path("top.v").write_text("module top; endmodule")
    Path(after("-l")).write_text("fine")
elif name == "nextpnr-ecp5":
    report = json.loads({report!r})
    if int(after("--seed")) > len({speeds!r}):
        print("ERROR: no such seed")
        sys.exit(1)
    report["fmax"]["$glbnet$clk"]["achieved"] = {speeds!r}[int(after("--seed")) - 1]
    report["fmax"]["$glbnet$array_clk"] = {{"achieved": 400.0}}
    Path(after("--report")).write_text(json.dumps(report))
    Path(after("--write")).write_text({placed!r})
    Path(after("--textcfg")).write_text("config of " + after("--seed"))
else:
    Path(after("--bit")).write_text(Path(after("--input")).read_text())
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command with stand-ins for the machine and the tools: ``(status, out, err)``."""
    def go(*argv, fails=None, speeds=(50.0,), luts=3):
        for name, variable in (("yosys", "YOSYS"), ("nextpnr-ecp5", "NEXTPNR_ECP5"),
                               ("ecppack", "ECPPACK")):
            path = tmp_path / name
            path.write_text(TOOL.format(
                python=sys.executable, name=name, fails=fails, speeds=list(speeds),
                synthesised=json.dumps(_synthesised(luts)), report=json.dumps(_report_json(0)),
                placed=json.dumps(PLACED_JSON)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            monkeypatch.setenv(variable, str(path))
        monkeypatch.setattr(command, "elaborate", lambda params, **options: elaborate(
            params, accelerator=StandIn(), **options))
        clock = [] if "--clock" in argv else ["--clock", "40"]
        status = command.main(["--out", str(tmp_path / "out"), *clock, *argv])
        said = capsys.readouterr()
        return status, said.out, said.err
    return go


SCHEMA = {
    "design": {"bits": int, "groups": str, "rows": int, "cols": int, "depth": int, "arith": str,
               "clock_mhz": float},
    "fingerprint": str, "build_id": str, "part": str, "tools": dict,
    "total": {"comb": int, "ff": int, "ebr": int, "dsp": int},
    "array": {"comb": int, "ff": int, "ebr": int, "dsp": int}, "output_registers": int,
    "fmax_mhz": {"median": float, "min": float, "max": float, "seeds": list, "cap_mhz": float,
                 "cap_reason": str},
    "macs_per_clock": int, "comb_per_mac": float, "gops": float, "seconds": dict,
}


def _assert_schema(value, schema):
    for name, kind in schema.items():
        if isinstance(kind, dict):
            _assert_schema(value[name], kind)
        else:
            assert isinstance(value[name], kind), name


def test_a_build_is_reported(run, tmp_path):
    status, out, err = run("--json", "--seeds", "3", "--clock", "40", speeds=(50.0, 61.5, 44.0))
    assert status == 0 and "error" not in err
    report = json.loads(out)
    _assert_schema(report, SCHEMA)
    folder = tmp_path / "out"
    assert json.loads((folder / "report.json").read_text()) == report
    assert report["fmax_mhz"]["seeds"] == [50.0, 61.5, 44.0]
    assert [report["fmax_mhz"][name] for name in ("median", "min", "max")] == [50.0, 44.0, 61.5]
    assert report["fingerprint"] == Params().fingerprint
    assert report["array"]["comb"] == 3 and report["comb_per_mac"] == round(3 / 64, 2)
    assert report["gops"] == 2 * 64 * 2 * 40 / 1e3
    # The bitstream is that of the best seed.
    assert (folder / "top.bit").read_text() == "config of 2"
    ET.parse(folder / "floorplan.svg")
    assert {"top.v", "synthesis.log", "seed1.log", "seed3.log"} <= {
        path.name for path in folder.iterdir()}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_design_has_the_same_build_id():
    first, second = (elaborate(SMALL, board="ulx3s-85f", clock_mhz=60, accelerator=StandIn())
                     for _ in range(2))
    assert first.rtlil == second.rtlil and len(first.build_id) == 32
    assert first.units["accelerator.gemm.mesh"] == ARRAY
    other = elaborate(SMALL, board="ulx3s-85f", clock_mhz=62.5, accelerator=StandIn())
    assert other.build_id != first.build_id


def test_a_missed_clock_is_an_error_and_gives_no_bitstream(run, tmp_path):
    status, out, err = run("--json", "--clock", "75", speeds=(74.9,))
    assert status == 1
    errors = [line for line in err.splitlines() if "error" in line]
    assert errors[0].startswith("error: the clock of 75 MHz was missed: the best of 1 seed "
                                "reaches 74.90 MHz, limited by a path from gemm to array")
    assert json.loads(out)["gops"] == round(2 * 64 * 2 * 74.9 / 1e3, 3)
    assert not (tmp_path / "out" / "top.bit").exists()


@pytest.mark.parametrize("tool", ["yosys", "nextpnr-ecp5", "ecppack"])
def test_what_a_failing_tool_said_is_passed_on_and_its_log_kept(run, tmp_path, tool):
    assert run()[0] == 0
    before = (tmp_path / "out" / "report.json").read_text()
    status, out, err = run("--bits", "5", fails=tool)
    assert (status, out) == (1, "")
    assert f"error: {tool} failed: no more bels (logs in {tmp_path}/out-failed)" in err
    assert list((tmp_path / "out-failed").glob("*.log"))
    # The earlier build is as it was.
    assert (tmp_path / "out" / "report.json").read_text() == before


def test_a_tool_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text(f"#!{sys.executable}\nimport os, time\nprint(os.getpid(), flush=True)\n"
                    "time.sleep(60)\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("NEXTPNR_ECP5", str(slow))
    with pytest.raises(ToolError, match="nextpnr-ecp5 was not done after 0 minutes") as raised:
        Tools().run("nextpnr-ecp5", [], tmp_path, "slow.log", seconds=2)
    # So that --max goes on with the next size.
    assert raised.value.told
    pid = (tmp_path / "slow.out").read_text()
    assert not Path(f"/proc/{pid.strip()}").exists()


def test_max_gives_up_what_is_never_routed(run, monkeypatch):
    monkeypatch.setattr(command, "PATIENCE", Patience(200, 0.01))
    status, _, err = run("--max", "--cols", "1", "--memory", "64")
    assert status == 1
    assert "2x1x4 is too large: nextpnr-ecp5 was not done after 0 minutes" in err
    assert err.splitlines()[-1].startswith("error: no size fits")


def test_a_missing_tool_is_named(run, monkeypatch, capsys):
    monkeypatch.setenv("NEXTPNR_ECP5", "/nowhere/nextpnr")
    assert command.main(["--out", "never"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("error: /nowhere/nextpnr was not found")


def test_a_synthesised_design_that_is_too_large_is_not_placed(run):
    status, _, err = run(luts=50_000)
    assert status == 1
    assert ("error: the synthesised design does not fit LFE5U-85F-6BG381C: 100005 of 83640 LUT4 "
            "(COMB), 16365 too many") in err


def test_an_interrupt_changes_nothing(run, tmp_path, monkeypatch):
    assert run()[0] == 0
    before = (tmp_path / "out" / "report.json").read_text()

    def interrupt(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr("hdl.build.flow._draw", interrupt)
    status, out, err = run("--bits", "5")
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "error: the build was interrupted; nothing was changed"
    assert (tmp_path / "out" / "report.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ecppack", "nextpnr-ecp5", "out", "yosys"]


def test_a_part_without_a_board_has_no_bitstream(run, tmp_path):
    status, out, _ = run("--part", "LFE5U-45F-8BG554I", "--json")
    report = json.loads(out)
    assert status == 0 and report["board"] is None and report["part"] == "LFE5U-45F-8BG554I"
    assert not (tmp_path / "out" / "top.bit").exists()


def test_synthesis_alone_with_yosys(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "elaborate", lambda params, **options: elaborate(
        params, accelerator=StandIn(), **options))
    assert command.main(["--synth-only", "--json", "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    _assert_schema(report, {**SCHEMA, "fmax_mhz": dict, "gops": type(None)})
    assert report["fmax_mhz"]["median"] is None and not report["placed"]
    # Four elements of 2 bits, and one block RAM beside them.
    assert 20 < report["array"]["comb"] < 200 and report["array"]["ebr"] == 0
    assert report["total"]["ebr"] == 1 and report["total"]["comb"] > report["array"]["comb"]
    # The block RAM's word is the only one behind a register of its own.
    assert report["output_registers"] == 8
    assert "endmodule" in (tmp_path / "out" / "top.v").read_text()


@pytest.mark.regress
@pytest.mark.parametrize("argv", [
    "--bits 4", "--arith int", "--bits 8 --rows 4 --cols 3 --depth 1 --memory 8 --board ulx3s-25f",
    "--bits 2 --groups 8x8 --rows 5 --cols 2 --depth 4 --memory 4 --part LFE5U-45F-7BG256C"])
def test_whole_builds(argv, tmp_path, capsys):
    assert command.main([*argv.split(), "--json", "--clock", "25", "--out",
                         str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    _assert_schema(report, SCHEMA)
    estimated = estimate(command.read_arguments(argv.split()).params)
    assert report["total"]["ebr"] == estimated["ebr"]
    assert all(report["total"][name] >= value for name, value in estimated.items())


# The table at the end.


def _report(arith, groups, comb, **design):
    return {
        "design": {"bits": 4, "groups": groups, "rows": 8, "cols": 4, "depth": 2, "arith": arith,
                   "lanes": 4, "memory": 32, "array_clock": 2,
               "clock_mhz": 40.0, **design},
        "part": "LFE5U-85F-6BG381C", "board": "ulx3s-85f", "placed": True,
        "total": {"comb": comb, "ff": 100, "ebr": 10, "dsp": 0},
        "available": DIES["85F"].has(),
        "array": {"comb": comb // 2, "ff": 50, "ebr": 0, "dsp": 0}, "comb_per_mac": 1.0,
        "fmax_mhz": {"median": 50.0, "min": 50.0, "max": 50.0, "seeds": [50.0]}, "gops": 5.12}


def test_the_summary_compares_with_plain_integers_of_the_same_shape():
    mine, plain = _report("shift", "4x4", 1010), _report("int", "1x1", 1000)
    others = [_report("int", "1x1", 5, bits=5), _report("shift", "1x1", 6), plain]
    assert plain_twin(mine, others) is plain
    text = summary(mine, "build/x", others)
    row = next(line for line in text.splitlines() if line.startswith("COMB"))
    assert row.split() == ["COMB", "(LUT4)", "1,010", "1", "%", "1,000", "+1.0", "%"]


def test_the_summary_says_how_to_measure_what_is_missing():
    mine = _report("shift", "4x4", 1010)
    text = summary(mine, "build/x", [])
    assert measure_command(mine) in text
    assert measure_command(mine) == (
        "python -m reports.measure --arith int --bits 4 --rows 8 --cols 4 --depth 2 --lanes 4 "
        "--memory 32 --array-clock 2 --board ulx3s-85f --clock 40")


def test_progress_names_stages(capsys):
    progress = Progress(live=False)
    with progress.stage("synthesis", "synthesise") as said:
        said.append("3 LUT4")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "synthesis ..."
    assert re.fullmatch(r"synthesis: 0\.\d s, 3 LUT4", lines[1])
    assert set(progress.seconds) == {"synthesise"}


# Beside its twins.


def test_compare_builds_the_twins_beside_the_design(run, tmp_path, monkeypatch):
    # The stand-ins know nothing of a floating-point array.
    monkeypatch.setattr("hdl.build.compare.FLOATS", ())
    status, out, err = run("--compare", "--json")
    assert status == 0 and "error" not in err
    found = json.loads(out)
    assert list(found["machines"]) == ["shift", "int"]
    assert found["machines"]["int"]["design"]["groups"] == "1x1"
    assert [report["scope"] for report in found["arrays"].values()] == ["mesh"] * 3
    assert all(report["mapping"] == "lut" for report in found["arrays"].values())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "out", "out-int", "out-array-shift", "out-array-int-wide", "out-array-int"}
    # A component has an aim, and no bitstream.
    assert not (tmp_path / "out-array-int" / "top.bit").exists()
    assert (tmp_path / "out-int" / "top.bit").exists()


def test_max_builds_the_largest(run, tmp_path):
    status, out, err = run("--max", "--json", "--cols", "1")
    assert status == 0 and "looking for the largest of" in err
    assert "trying shift-4b-4x4-47x1x4" in err
    report = json.loads(out)
    assert report["macs_per_clock"] == 188 and report["placement"] == "timing"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]
    assert (tmp_path / "out" / "top.bit").exists()


@pytest.mark.parametrize(("argv", "sentence"), [
    (["--rows", "4"], "--max chooses the rows itself, got --rows 4"),
    (["--compare"], "--max cannot be combined with --compare: compare what it finds"),
    (["--arith", "bf16"], "--max is for machines: arith must be shift or int, got bf16"),
])
def test_what_max_cannot_do_is_refused(run, argv, sentence):
    status, _, err = run("--max", *argv)
    assert status == 2 and err == f"error: {sentence}\n"


def test_a_seed_that_fails_is_reported_beside_those_that_do_not(run):
    status, out, err = run("--json", "--seeds", "2", speeds=(50.0,))
    report = json.loads(out)
    assert status == 0 and report["fmax_mhz"]["seeds"] == [50.0]
    assert report["fmax_mhz"]["failed"] == {"2": "nextpnr-ecp5 failed: no such seed"}
    status, _, err = run("--seeds", "1", speeds=())
    assert status == 1 and "nextpnr-ecp5 failed: no such seed" in err

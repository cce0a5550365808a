"""hdl.build.harness and what is measured in it: nothing lost, nothing counted twice, and twins."""

import json
from collections import Counter

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from boards.parts import parse_part
from hdl.array.mac import PlainMac
from hdl.array.mesh import Mesh
from hdl.build import compare
from hdl.build.alone import MeshAlone, elaborate_alone
from hdl.build.datapaths import DATAPATHS, Datapath
from hdl.build.fit import EstimateError, check_alone
from hdl.build.flow import build
from hdl.build.harness import Harness
from hdl.build.summary import DATA, read_point
from hdl.build.tools import Progress, Tools
from hdl.params import ParameterError, Params

PART = parse_part("LFE5U-25F-6BG381C")


class Component(wiring.Component):
    """Inputs and outputs of several members, some within an interface."""
    a: In(2)
    b: In(wiring.Signature({"x": Out(2)}))
    total: Out(3)
    carry: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.total.eq(self.a + (self.b.x << 2)), self.carry.eq(self.a[0])]
        return m


def test_every_input_bit_is_shifted_in_and_every_output_bit_leaves():
    """A single one, shifted through, is an input bit in every cycle, and what the component
    answers is folded into ``o``."""
    harness = Harness(Component())

    async def bench(ctx):
        seen = []
        for cycle in range(20):
            ctx.set(harness.i, cycle == 0)
            ctx.set(harness.clk, 1)
            await ctx.delay(1e-9)
            ctx.set(harness.clk, 0)
            await ctx.delay(1e-9)
            seen.append(ctx.get(harness.o))
        answers = Counter()
        for bit, outputs in enumerate((0b1001, 0b0010, 0b0100, 0b0000)):
            # Into the chain, the component, the capture; then one fold for every bit above.
            answers.update(bit + 3 + 3 - place for place in range(4) if outputs >> place & 1)
        assert [cycle for cycle, bit in enumerate(seen) if bit] == sorted(
            cycle for cycle, ones in answers.items() if ones % 2) == [3, 6]

    sim = Simulator(harness)
    sim.add_testbench(bench)
    sim.run()


def test_what_is_left_without_the_harness_is_the_component(tmp_path):
    design = elaborate_alone(MeshAlone(rows=2, cols=2), PART)
    inputs, outputs = design.ports
    # load, a row of weights, mark, swap and operands; sums.
    assert (inputs, outputs) == (1 + 8 + 1 + 1 + 8,
                                 2 * Params(rows=2, cols=2, depth=1).psum_bits)
    report = build(design, out=tmp_path / "out", seeds=1, synth_only=True, tools=Tools(),
                   progress=Progress(live=False)).report
    assert report["array"] == report["units"]["array"]
    assert report["harness"] == report["units"]["harness"]
    # The reset's register, and an exclusive or for all output bits but the first.
    assert report["harness"] == {"comb": outputs - 1, "ff": inputs + 1 + 2 * outputs, "ebr": 0,
                                 "dsp": 0}
    assert "-nodsp" in report["synthesis"]
    assert not (tmp_path / "out" / "top.v").exists()


# What is refused.


@pytest.mark.parametrize(("options", "sentence"), [
    ({"bits": 9}, "bits must be a whole number from 2 to 8 for arith shift, got 9"),
    ({"arith": "int"}, "arith int has no groups: groups must be 1x1, got '4x4'"),
    ({"mapping": "dsp"}, "mapping must be lut, got 'dsp'"),
    ({"arith": "posit"}, f"arith must be one of {', '.join(DATAPATHS)}, got 'posit'"),
    ({"rows": 65}, "rows must be a whole number from 1 to 64, got 65"),
])
def test_an_array_that_there_is_not_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(ParameterError) as caught:
        MeshAlone(**options)
    assert str(caught.value) == sentence


def test_an_array_that_cannot_fit_is_refused_by_an_estimate():
    check_alone(MeshAlone(rows=8, cols=8), PART)
    with pytest.raises(EstimateError, match=r"^mesh-shift-8b-4x4-64x64x1-lut does not fit "
                                            r"LFE5U-25F-6BG381C: at least \d+ of 24288 LUT4"):
        check_alone(MeshAlone(bits=8, rows=64, cols=64), PART)


@pytest.mark.parametrize("path", sorted(DATA.glob("alone/mesh-*.json")), ids=lambda p: p.stem)
def test_the_estimate_is_not_above_what_was_measured(path):
    report = read_point(path)["report"]
    if report:
        subject = MeshAlone(mapping=report["mapping"], **report["design"])
        assert subject.estimate()["comb"] <= report["array"]["comb"]


# Twins.


@pytest.fixture
def floating(monkeypatch):
    """As if there were a floating-point datapath of 300 LUT4."""
    monkeypatch.setitem(DATAPATHS, "fp16", Datapath(
        lambda params, mapping: Mesh(params, PlainMac), range(16, 17), ("lut", "dsp"), deepest=1,
        comb=lambda bits, mapping: {"lut": 300, "dsp": 150}[mapping]))


def test_the_floating_twin_has_as_many_products_as_fit(floating):
    large = parse_part("LFE5U-85F-6BG381C")
    assert [(twin.rows, twin.cols, twin.depth, twin.mapping)
            for twin in compare.float_twins(Params(), large)] == [
        (64, 1, 1, "lut"), (64, 1, 1, "dsp")]
    params = Params(rows=8, cols=4, depth=4, memory=8)
    assert [twin.macs for twin in compare.float_twins(params, PART)] == [64, 128]


def _report(arith, comb, macs=64):
    cells = {"comb": comb, "ff": comb // 2, "ebr": 0, "dsp": 0}
    return {"total": {**cells, "comb": comb + 1000}, "array": cells, "macs_per_clock": macs,
            "fmax_mhz": {"median": 100.0}, "gops": 2 * macs * 0.1}


def _compared(params, part):
    comb = {"shift": 2200, "int-wide": 2200, "int": 2000, "fp16": 40_000}
    built = []

    def machine(params, name):
        built.append(name)
        return _report(params.arith, comb[params.arith])

    def alone(subject, name):
        built.append(name)
        return _report(subject.arith, comb[subject.arith], subject.macs)

    return compare.compared(params, part, machine=machine, alone=alone), built


def test_a_design_is_compared_with_its_twins(floating):
    found, built = _compared(Params(), parse_part("LFE5U-85F-6BG381C"))
    assert built == [None, "int", "array-shift", "array-int-wide", "array-int",
                     "array-fp16-lut", "array-fp16-dsp"]
    assert list(found.json()["machines"]) == ["shift", "int"]
    assert list(found.json()["arrays"]) == ["shift", "int-wide", "int", "fp16-lut", "fp16-dsp"]
    rows = {row.split("  ")[0]: row.split() for row in found.table().splitlines() if row}
    assert rows["COMB per MAC"][3:] == [
        "34.38", "34.38", "31.25", "625.00", "625.00", "+0.0", "%", "+10.0", "%",
        "-94.5", "%", "-94.5", "%"]
    assert rows["GOPS per 1,000 COMB"][-2:] == ["+1718.1", "%"]
    json.dumps(found.json())


def test_plain_integers_are_compared_with_shift_alone():
    found, _ = _compared(compare.plain_twin_params(Params()), PART)
    assert list(found.machines) == ["int"]
    assert list(found.arrays)[:3] == ["shift", "int-wide", "int"]
    assert "whole machine" in found.table()

"""hdl.build.harness and what is measured in it: nothing lost, nothing counted twice, and twins."""

import json
from collections import Counter

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from boards.parts import parse_part
from hdl.build import compare
from hdl.build.alone import MeshAlone, elaborate_alone
from hdl.build.datapaths import DATAPATHS
from hdl.build.fit import EstimateError, FitError, check_alone
from hdl.build.flow import build
from hdl.build.harness import Harness, harness_rtlil
from hdl.build.summary import DATA, read_point
from hdl.build.tools import Progress, ToolError, Tools
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


class TwoClocks(wiring.Component):
    """Counts the cycles of both clocks, and adds."""
    slow = ("b", "cycles")
    a: In(2)
    b: In(2)
    fast: Out(8)
    cycles: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.array += self.fast.eq(self.fast + 1 + self.a)
        m.d.sync += self.cycles.eq(self.cycles + 1 + self.b)
        return m


def test_slow_members_have_a_clock_half_as_fast():
    text, lpf = harness_rtlil(TwoClocks(), PART)
    assert 'FREQUENCY NET "slow_clk" 75 MHZ;\n' in lpf
    assert "\\slow_clk" in text and "\\slow_o" in text
    component = TwoClocks()
    harness = Harness(component)

    async def bench(ctx):
        async def cycles(count):
            before = ctx.get(component.fast), ctx.get(component.cycles)
            for level in (1, 0) * count:
                ctx.set(harness.clk, level)
                await ctx.delay(1e-9)
            return ctx.get(component.fast) - before[0], ctx.get(component.cycles) - before[1]

        assert await cycles(20) == (20, 10)
        # Ones in all inputs, of which the last is reset.
        ctx.set(harness.i, 1)
        await cycles(20)
        assert ctx.get(component.fast) == ctx.get(component.cycles) == 0

    sim = Simulator(harness)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("constant", [0, 3])
def test_the_component_is_counted_and_not_the_harness(tmp_path, constant):
    """Of outputs that are constant nothing is counted for the component or taken from it."""
    class Subject:
        name = scope = unit = "subject"
        macs, mapping = None, "lut"

        def described(self):
            return {}

        def component(self):
            class Some(Component):
                constants: Out(max(constant, 1))

                def elaborate(self, platform):
                    m = super().elaborate(platform)
                    if not constant:
                        m.d.sync += self.constants.eq(self.b.x[1])
                    return m
            return Some()

    design = elaborate_alone(Subject(), PART)
    report = build(design, out=tmp_path / "out", seeds=1, synth_only=True, tools=Tools(),
                   progress=Progress(live=False)).report
    assert report["array"] == report["units"]["subject"]
    # The carry is the lowest bit of the total.
    assert report["array"]["ff"] == 3 + (not constant)
    # Four inputs and the reset; an output bit, if it can change; one of the way out for each.
    assert report["units"]["harness"]["ff"] == 5 + 4 + (not constant) + 4 + max(constant, 1)
    assert report["total"] == {name: sum(unit[name] for unit in report["units"].values())
                               for name in report["total"]}
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
    with pytest.raises(EstimateError, match=r"^mesh-shift-8b-4x4-64x64x4-lut does not fit "
                                            r"LFE5U-25F-6BG381C: at least \d+ of 24288 LUT4"):
        check_alone(MeshAlone(bits=8, rows=64, cols=64), PART)
    # Flip-flops and multipliers count as well.
    for subject, excess in (
            (MeshAlone(bits=2, rows=64, cols=64), "flip-flops"),
            (MeshAlone(arith="fp16", bits=16, groups="1x1", rows=8, mapping="dsp"),
             r"32 of 28 multipliers \(DSP\)"),
            (MeshAlone(arith="fp16", bits=16, groups="1x1", rows=64, cols=1), "flip-flops")):
        with pytest.raises(EstimateError, match=excess):
            check_alone(subject, parse_part("LFE5U-25F-6BG381C"))


@pytest.mark.parametrize("path", sorted(DATA.glob("alone/mesh-*.json")), ids=lambda p: p.stem)
def test_the_estimate_is_not_above_what_was_measured(path):
    report = read_point(path)["report"]
    if report:
        subject = MeshAlone(mapping=report["mapping"], **report["design"])
        estimate = subject.estimate()
        assert all(estimate[name] <= report["array"][name] for name in estimate), estimate


# Twins.


def test_the_floating_twins_fit_every_die():
    for params, shape in ((Params(), (4, 4)), (Params(lanes=0, rows=8, cols=4, depth=4), (4, 4)),
                          (Params(rows=1, cols=1, depth=1), (1, 1)),
                          (Params(rows=2, cols=1, depth=2), (2, 2)),
                          (Params(rows=3, cols=1, depth=1), (1, 3))):
        twins = compare.float_twins(params)
        assert [(twin.rows, twin.cols, twin.mapping) for twin in twins] == [
            (*shape, "lut"), (*shape, "dsp")]
        for twin in twins:
            check_alone(twin, PART)


def _report(arith, comb, macs=64):
    cells = {"comb": comb, "ff": comb // 2, "ebr": 0, "dsp": 0}
    return {"total": {**cells, "comb": comb + 1000}, "array": cells, "macs_per_clock": macs,
            "fmax_mhz": {"median": 100.0}, "gops": 2 * macs * 0.1}


def _compared(params, failing=()):
    # Per 16 floating-point products.
    comb = {"shift": 2200, "int-wide": 2200, "int": 2000, "fp16": 10_000}
    built = []

    def told(name):
        built.append(name)
        if name in failing:
            raise failing[name]

    def machine(params, name):
        told(name)
        return _report(params.arith, comb[params.arith])

    def alone(subject, name):
        told(name)
        return _report(subject.arith, comb[subject.arith], subject.macs)

    return compare.compared(params, machine=machine, alone=alone), built


def test_a_design_is_compared_with_its_twins():
    found, built = _compared(Params())
    assert built == [None, "int", "array-shift", "array-int-wide", "array-int",
                     "array-fp16-lut", "array-fp16-dsp"]
    assert list(found.json()["machines"]) == ["shift", "int"]
    assert list(found.json()["arrays"]) == ["shift", "int-wide", "int", "fp16-lut", "fp16-dsp"]
    rows = {row.split("  ")[0]: row.split() for row in found.table().splitlines() if row}
    assert rows["COMB per MAC"][3:] == [
        "34.38", "34.38", "31.25", "625.00", "625.00", "+0.0", "%", "+10.0", "%",
        "-94.5", "%", "-94.5", "%"]
    assert rows["GOPS per 1,000 COMB"][-2:] == ["+1718.2", "%"]
    json.dumps(found.json())


def test_twins_that_cannot_be_built_are_said_to_be():
    found, built = _compared(Params(), {
        "int": EstimateError("that does not fit"),
        "array-int": ToolError("nextpnr-ecp5 failed: no (logs in x)", told=True),
        "array-fp16-lut": FitError("the synthesised design does not fit (logs in y)")})
    assert len(built) == 7
    assert list(found.machines) == ["shift"]
    assert list(found.arrays) == ["shift", "int-wide", "fp16-dsp"]
    assert found.table().splitlines()[-1] == (
        "no array-fp16-lut: the synthesised design does not fit")
    assert found.json()["failed"]["array-int"] == "nextpnr-ecp5 failed: no"
    with pytest.raises(EstimateError):
        _compared(Params(), {None: EstimateError("too large")})
    # What is no fact about the design stops all.
    with pytest.raises(ToolError):
        _compared(Params(), {"array-int": ToolError("stopped")})


def test_plain_integers_are_compared_with_shift_alone():
    found, _ = _compared(compare.plain_twin_params(Params()))
    assert list(found.machines) == ["int"]
    assert list(found.arrays)[:3] == ["shift", "int-wide", "int"]
    assert "whole machine" in found.table()

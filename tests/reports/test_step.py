"""reports.step: a step on the simulated board."""

import pytest

from hdl.params import Params
from host.device import Device
from reports import step


def test_a_step_takes_less_than_its_instructions_one_at_a_time():
    # As in tests/sim/test_sessions.py: one board is built for both.
    params = Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4)
    with Device.open("sim:", params) as device:
        found = step.measured(device, (9, 20, 3), 12)
    units = found["units"]
    assert found["machine"] == params.name
    # 16 products for each clock of the array, which has two in one of the machine.
    assert found["share"] == 12 * (2 * 9 * 20 + 3 * 20 * 3) / (16 * 2 * found["cycles"])
    assert found["cycles"] < 0.97 * found["cycles_in_order"]
    assert abs(found["predicted"] / found["cycles"] - 1) < 0.02
    assert found["bound"]["path"] <= found["cycles"]
    # That is what the units take, and a few clocks for each instruction.
    alone = sum(used["clocks"] for used in units.values())
    count = sum(used["instructions"] for used in units.values())
    assert alone < found["cycles_in_order"] <= alone + 8 * count
    assert set(units) == {"GEMM", "QUANTISE", "SORT", "NORM_FORWARD", "NORM_BACKWARD", "MOVE",
                          "SCALE", "COMBINE", "CROSS_ENTROPY"}


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--groups", "3x4"], "groups must be SxC or C"),
    (["--masters", "0"], "masters must be a whole number from 1 to 256, got 0"),
    (["--hidden", "0"], "hidden must be a whole number from 1 on, got 0"),
    (["--lanes", "3"], "lanes must divide the 32 slots")])
def test_bad_arguments_are_refused_in_one_sentence(arguments, sentence, capsys):
    assert step.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"reports.step: {sentence}") and said.count("\n") == 1

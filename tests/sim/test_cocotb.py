"""The generated Verilog in cocotb: sessions recorded on the model, in every weather."""

import pytest

from hdl.params import Params
from sim.bench import verilated
from sim.bench.sessions import record, scenarios

#: Probabilities that a byte waits in a clock on its way in, and out.
WEATHERS = {"fair": (0, 0), "idle": (0.6, 0), "stall": (0, 0.6), "both": (0.4, 0.4)}


def machine(bits, groups, rows, cols, depth, **options):
    samples, channels = groups
    return Params(bits=bits, sample_groups=samples, channel_groups=channels, rows=rows, cols=cols,
                  depth=depth, **{"lanes": 0, "memory": 4, **options})


#: Rows and columns that are no powers of two, and fewer rows than groups.
MACHINES = [machine(4, (4, 4), 4, 3, 2), machine(2, (1, 2), 3, 2, 1),
            machine(8, (8, 8), 3, 6, 1, lanes=3, array_clock=3),
            # As in test_sessions.py.
            machine(4, (4, 4), 2, 4, 2, lanes=2, memory=8, masters=4)]
MORE_MACHINES = [machine(3, (2, 8), 5, 4, 3), machine(5, (8, 1), 1, 7, 4),
                 machine(6, (1, 1), 9, 1, 1, arith="int"), machine(7, (4, 2), 12, 3, 4, memory=16),
                 machine(3, (1, 2), 3, 3, 1, masters=2, array_clock=3)]

regress = pytest.mark.regress


def sessions(machines):
    """Every scenario of every machine."""
    return pytest.mark.parametrize(("params", "scenario"), [
        pytest.param(params, scenario, id=f"{params.name}-{scenario}")
        for params in machines for scenario in scenarios(params)])


def replay(params, scenario, seed, weather, folder):
    fault = verilated.replay(params, record(scenario, params, seed), folder,
                             weather=WEATHERS[weather], seed=seed)
    if fault:
        pytest.fail(fault, pytrace=False)


@sessions(MACHINES)
def test_the_verilog_answers_as_the_model(params, scenario, tmp_path):
    # Every machine meets every scenario in another weather.
    turn = MACHINES.index(params) + scenarios(params).index(scenario)
    replay(params, scenario, 0, list(WEATHERS)[turn % len(WEATHERS)], tmp_path)


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("scenario", ["errors_frames", "gemm_any"])
def test_the_link_holds_in_every_weather(scenario, weather, tmp_path):
    replay(MACHINES[0], scenario, 1, weather, tmp_path)


@regress
@pytest.mark.parametrize("seed", range(2, 6))
@sessions(MACHINES + MORE_MACHINES)
def test_more_machines_and_seeds(params, scenario, seed, tmp_path):
    replay(params, scenario, seed, list(WEATHERS)[seed % len(WEATHERS)], tmp_path)

"""Sessions recorded on the model, replayed on the simulated board: many machines and shapes."""

from functools import cache

import pytest

from hdl.params import Params
from sim.bench.exchange import Mismatch, complete, frames
from sim.bench.sessions import record, scenarios
from sim.board import Board

#: Clocks that an answer may take.
PATIENCE = 2_000_000


def machine(bits, groups, rows, cols, depth, memory=4, **options):
    samples, channels = groups
    return Params(bits=bits, sample_groups=samples, channel_groups=channels, rows=rows, cols=cols,
                  depth=depth, memory=memory,
                  **{"lanes": 0, **options})


MACHINES = [
    machine(5, (8, 2), 3, 6, 3), machine(8, (8, 8), 2, 5, 1),
    machine(3, (1, 1), 1, 1, 1, arith="int"), machine(4, (4, 4), 3, 6, 4, lanes=2, array_clock=2),
    # As in tests/host/test_resident.py.
    machine(4, (4, 4), 2, 4, 2, memory=8, lanes=2, masters=4),
    # More lanes than columns; narrower masters, and sizes of their own.
    machine(3, (2, 4), 4, 2, 2, memory=8, lanes=4, masters=4, master_bits=16, velocity_bits=8,
            codes=32, tables=1, layer_norm=True),
]
MORE_MACHINES = [
    machine(2, (1, 8), 4, 9, 4), machine(2, (2, 1), 64, 1, 1, 16), machine(3, (4, 4), 9, 3, 4, 16),
    machine(4, (4, 4), 8, 8, 1, 32), machine(4, (1, 1), 6, 6, 2), machine(4, (8, 4), 5, 12, 4, 16),
    machine(5, (1, 1), 2, 31, 1, 32, arith="int"), machine(6, (2, 4), 13, 2, 3, 16),
    machine(7, (1, 4), 3, 10, 2, 8), machine(7, (8, 1), 17, 1, 4, 32), machine(8, (4, 2), 4, 4, 4),
    machine(8, (8, 8), 4, 3, 4), machine(4, (4, 4), 3, 64, 1, 256),
    machine(8, (8, 8), 3, 3, 1, 8, masters=2), machine(3, (1, 4), 4, 8, 4, 16, masters=16),
    machine(5, (1, 1), 3, 2, 2, 8, lanes=1, masters=64, arith="int", layer_norm=True),
    machine(2, (4, 1), 6, 4, 2, 8, masters=1),
    machine(5, (1, 4), 4, 1, 3, 8, lanes=6, array_clock=2),
]

#: Scenarios of four to six random programs each.
PROGRAMS = "stored_programs", "overlapping_programs", "started_programs"

regress = pytest.mark.regress


def sessions(machines):
    """Every scenario of every machine."""
    return pytest.mark.parametrize(("params", "scenario"), [
        pytest.param(params, scenario, id=f"{params.name}-{scenario}")
        for params in machines for scenario in scenarios(params)])


@cache
def board(params):
    """One board for all sessions of a machine: each finds what the last one has left."""
    return Board(params)


def replay(board, session):
    """Send every request and check its answer."""
    for number, exchange in enumerate(session.exchanges):
        before = session.exchanges[:number]
        wanted, received = len(frames(exchange.answer)), b""
        board.send(exchange.request)
        end = board.cycles + PATIENCE
        while not complete(received, wanted):
            if board.cycles >= end:
                raise Mismatch(f"no answer after {PATIENCE} clocks, received {received.hex()}\n"
                               + exchange.explain(before))
            board.run(end - board.cycles)
            received += board.recv()
        exchange.check(received, session.shape, before)
    board.run(300)
    assert board.recv() == b"", "bytes that nobody asked for"


@pytest.mark.parametrize("seed", range(3))
@sessions(MACHINES)
def test_the_board_answers_as_the_model(params, scenario, seed):
    replay(board(params), record(scenario, params, seed, most=40))


@regress
@pytest.mark.parametrize("seed", range(10))
@sessions(MACHINES + MORE_MACHINES)
def test_more_machines_and_shapes(params, scenario, seed):
    replay(board(params), record(scenario, params, seed, most=[20, 60, 200, 511][seed % 4]))


@regress
@pytest.mark.parametrize("seed", range(10, 40))
@pytest.mark.parametrize("scenario", PROGRAMS)
@pytest.mark.parametrize("params", [params for params in MACHINES + MORE_MACHINES
                                    if params.masters], ids=lambda params: params.name)
def test_thousands_of_random_programs(params, scenario, seed):
    replay(board(params), record(scenario, params, seed, most=[5, 20, 48][seed % 3]))

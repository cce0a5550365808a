"""hdl.gemm against sim.model.gemm, through the machine's memories."""

import numpy as np
import pytest

from hdl.gemm import Gemm
from hdl.instructions import GemmFlag, Opcode
from hdl.params import MAX_M, Params
from hdl.product_cycles import product_cycles
from reports.utilisation import bound
from sim.model.gemm import gemm
from sim.model.order import inner_tiles, order
from tests.support.memories import UnitBench

A, B, D = 0x20, 0x300, 0x40
TABLE, ROWS, COLS = 0x10, 0x40, 0x100


class Case:
    """One GEMM: its operands, groups and instruction.

    ``tall`` are rows before and after those of A, and before and after those of the result.
    """
    def __init__(self, params, m, k, n, *, unsigned=False, inner=0, rows=0, cols=0, shift=0,
                 seed=0, extreme=False, tall=(0, 0, 0, 0)):
        rng = np.random.default_rng(seed)
        self.params, self.m, self.k, self.n, self.shift = params, m, k, n, shift
        self.unsigned, self.tall = unsigned, tall
        low, most = -(1 << params.bits - 1), params.qmax
        self.a = rng.integers(low, most + 1, (m, k))
        self.b = rng.integers(-most, most + 1, (k, n))
        if extreme:
            self.a[:] = most if unsigned else low
            self.b[:] = most * (1 - 2 * (np.arange(n) % 2))
        self.groups = {"inner": inner, "rows": rows, "cols": cols}
        self.inner, self.rows, self.cols = (
            rng.integers(0, count, length) if count else None
            for count, length in ((inner, k), (rows, m), (cols, n)))
        if extreme:
            for groups in (self.inner, self.rows, self.cols):
                if groups is not None:
                    groups[:] = 0

    def fields(self):
        flags = (GemmFlag.UNSIGNED * self.unsigned
                 | GemmFlag.INNER_GROUPS * bool(self.groups["inner"])
                 | GemmFlag.ROW_GROUPS * bool(self.groups["rows"])
                 | GemmFlag.COL_GROUPS * bool(self.groups["cols"]))
        tiles = inner_tiles(self.k, self.params.depth, self.params.rows,
                            self.groups["inner"] or 1)
        arg = max(self.groups["rows"] - 1, 0) | max(self.groups["cols"] - 1, 0) << 4
        return {"flags": flags, "m": self.m, "k": self.k, "n": self.n,
                "src0": A + self.tall[0], "src1": B, "dst0": D + self.tall[2],
                "tab0": TABLE, "tab1": ROWS, "tab2": COLS, "shift": self.shift,
                "arg": arg, "key0": tiles,
                "key1": sum(self.tall[:2]) | sum(self.tall[2:]) << 16}

    def check(self, bench, ctx):
        """The result, and what lies around it."""
        y, _ = self.expected()
        self.held[self.tall[2]:][:self.m] = y
        assert (bench.dump(ctx, "wide", D, *self.held.shape) == self.held).all()

    def expected(self):
        a = self.a + (1 << self.params.bits - 1) if self.unsigned else self.a
        return gemm(a, self.b, shift=self.shift, inner=self.inner,
                    inner_groups=self.groups["inner"] or 1, rows=self.rows,
                    row_groups=self.groups["rows"], cols=self.cols,
                    col_groups=self.groups["cols"])

    def cycles(self):
        """What it takes by itself."""
        return product_cycles(self.params, self.m, self.n, self.fields()["key0"],
                              inner=bool(self.groups["inner"]), cols=bool(self.groups["cols"]))

    def bound(self):
        return bound(self.params, self.m, self.n, self.fields()["key0"],
                     inner=bool(self.groups["inner"]), cols=bool(self.groups["cols"]))

    def load(self, bench, ctx):
        a = self.a
        if self.inner is not None:
            slots, marks = order(self.inner, self.groups["inner"], self.params.depth)
            bench.load_order(ctx, TABLE, slots, marks)
            # Padding and what no index takes is junk.
            a = np.random.default_rng(self.k).choice(
                [-(1 << self.params.bits - 1), self.params.qmax],
                (self.m, self.fields()["key0"] * self.params.slots))
            a[:, np.flatnonzero(slots >= 0)] = self.a[:, slots[slots >= 0]]
        before, after, *around = self.tall
        bench.load(ctx, "quant", A, np.pad(a, ((before, after), (0, 0)), constant_values=1))
        self.held = np.full((self.m + sum(around), self.n), -5)
        bench.load(ctx, "wide", D, self.held)
        bench.load(ctx, "quant", B, self.b)
        for base, groups in ((ROWS, self.rows), (COLS, self.cols)):
            if groups is not None:
                bench.load_groups(ctx, base, groups)


def run(params, cases, *, drift=0, others=()):
    """Run one instruction after the other on one unit; the cycles that each took.

    They are as many as :func:`hdl.product_cycles.product_cycles` says, but for those beside
    ``others``, for each of which all cases are run before (:attr:`UnitBench.others`).
    """
    bench = UnitBench(Gemm(params), params)
    taken = []

    async def process(ctx):
        for bench.others in (*others, (0, 0)):
            for case in cases:
                await execute(ctx, case)

    async def execute(ctx, case):
        case.load(bench, ctx)
        cycles, clamped = await bench.run(ctx, Opcode.GEMM, limit=20_000, **case.fields())
        case.check(bench, ctx)
        assert clamped == case.expected()[1]
        taken.append(cycles)
        if any(bench.others):
            return
        if not drift:
            assert cycles == case.cycles()
            assert cycles * params.array_clock >= case.bound()
        else:
            # What crosses between the clocks may come a cycle sooner or later, in every tile.
            tiles = case.fields()["key0"] * -(-case.n // params.cols)
            assert abs(cycles - case.cycles()) <= 4 + tiles

    bench.simulate(process, drift=drift)
    return taken


def machine(rows, cols, depth, *, bits=4, groups=(4, 4), **fields):
    return Params(rows=rows, cols=cols, depth=depth, bits=bits, sample_groups=groups[0],
                  channel_groups=groups[1],
                  **{"lanes": 0, "array_clock": 1, **fields})


@pytest.mark.parametrize("cols", [3, 4, 6, 8])
def test_groups_and_signs(cols):
    """Weights of all, some and one of the columns lie beside each other."""
    params = machine(4, cols, 1)
    run(params, [
        Case(params, 7, 10, 8, seed=1),
        Case(params, 5, 10, 4, inner=4, seed=2),
        Case(params, 5, 6, 4, unsigned=True, inner=4, rows=4, cols=4, shift=3, seed=3),
        Case(params, 4, 6, 4, unsigned=True, seed=4),
        Case(params, 3, 6, 19, seed=5),
    ])


@pytest.mark.parametrize("params", [
    machine(1, 1, 1), machine(1, 5, 2, bits=2), machine(5, 1, 1, bits=8, groups=(8, 2)),
    machine(2, 2, 3, groups=(1, 1)), machine(3, 2, 2, groups=(1, 1), arith="int"),
    # The swap takes longer than to fetch weights.
    machine(2, 17, 1),
    # More rows than the queue of weights has.
    machine(18, 1, 2),
    # Fewer lanes than columns.
    machine(2, 6, 2, lanes=2), machine(3, 8, 4, lanes=1), machine(2, 4, 1, lanes=2),
    # More lanes than columns.
    machine(4, 2, 3, lanes=4), machine(2, 1, 3, lanes=6), machine(4, 4, 2, lanes=8, array_clock=2),
], ids=lambda params: params.name)
def test_shapes(params):
    # Row groups are of at most the machine's number, and so on.
    groups = params.max_groups if params.max_groups > 1 else 0
    grouped = {"inner": groups, "rows": groups, "cols": groups}
    run(params, [
        Case(params, 1, 1, 1, seed=1),
        Case(params, 1, 9, 6, unsigned=True, seed=2),
        Case(params, 6, 1, 5, **grouped, seed=3),
        Case(params, 3, 5, 1, **grouped, unsigned=True, shift=1, seed=4),
    ])


def test_weights_are_fetched_sooner_than_the_swap_takes():
    params = machine(2, 17, 1)
    run(params, [Case(params, 2, 8, 18, inner=4, unsigned=True)])


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_columns_are_read_out_behind_the_next_ones(lanes):
    """A readout takes longer than a column tile, or the other way about."""
    params = machine(*((2, 8, 2) if lanes < 8 else (8, 4, 2)), lanes=lanes)
    grouped = {"inner": 4, "cols": 4}
    run(params, [
        Case(params, 9, 4, 24, seed=1), Case(params, 9, 4, 17, seed=2),
        Case(params, 9, 30, 26, seed=3), Case(params, 20, 30, 19, **grouped, seed=4)])


def test_streaming_takes_longer_than_loading():
    """So the next column tile is ready before the last one has left the array."""
    params = machine(1, 2, 1)
    run(params, [Case(params, 20, 1, 5, unsigned=True), Case(params, 20, 2, 3, cols=4)])


@pytest.mark.parametrize(("lanes", "clock"), [(2, 1), (2, 3), (4, 1), (12, 1), (12, 2)])
def test_rows_of_taller_tensors(lanes, clock):
    """What lies between the rows is not read, and stays as it is."""
    params = machine(2 if lanes < 12 else 6, 4, 2, lanes=lanes, array_clock=clock)
    run(params, [
        Case(params, 3, 14, 10, tall=(0, 1, 0, 1), seed=1),
        Case(params, 1, 9, 3, tall=(4, 0, 3, 0), inner=4, seed=2),
        Case(params, 5, 14, 7, tall=(2, 3, 0, 0), unsigned=True, rows=4, seed=3),
        Case(params, 2, 3, 9, tall=(0, 0, 2, 2), cols=4, seed=4)])


def test_columns_beyond_n_are_not_counted():
    params = machine(2, 4, 1, bits=8, groups=(8, 8))
    case = Case(params, 2, 20, 8, inner=8, rows=8, extreme=True)
    bench = UnitBench(Gemm(params), params)

    async def process(ctx):
        case.load(bench, ctx)
        for n in (5, 8):
            _, clamped = await bench.run(ctx, Opcode.GEMM, **{**case.fields(), "n": n})
            assert clamped == 2 * n

    bench.simulate(process)


def test_every_row_and_column_number_of_groups():
    params = machine(2, 3, 2, groups=(2, 8))
    run(params, [
        Case(params, 4, 6, 5, inner=2, seed=1), Case(params, 4, 6, 5, inner=8, seed=2),
        Case(params, 4, 6, 5, rows=2, cols=8, seed=3), Case(params, 4, 6, 5, rows=8, seed=4),
        Case(params, 4, 6, 5, cols=2, inner=8, seed=5),
    ])


def test_the_largest_sums_of_all():
    """8 bits, 8 groups, all exponents at their largest: clamped, and counted."""
    params = machine(2, 2, 1, bits=8, groups=(8, 8))
    grouped = {"inner": 8, "rows": 8, "cols": 8, "extreme": True}
    cases = [Case(params, 2, 20, 3, **grouped, shift=shift, unsigned=unsigned)
             for shift, unsigned in ((0, False), (31, False), (16, True), (9, True))]
    run(params, cases)
    clamped = [case.expected()[1] for case in cases]
    assert clamped == [6, 0, 0, 6]


def test_the_largest_number_of_rows():
    params = machine(1, 2, 1)
    run(params, [Case(params, 511, 1, 2, unsigned=True)])


@pytest.mark.parametrize(("lanes", "clock"), [
    (4, 1), (4, 2), (4, 3), (2, 3), (1, 1),
    *(pytest.param(*case, marks=pytest.mark.regress) for case in ((4, 4), (2, 1), (1, 4)))])
def test_column_tiles_take_the_place_of_others_as_they_are_read(lanes, clock):
    """One column tile has room, and no row is written over before it has been read; nor long
    after, so that nothing waits that need not."""
    params = machine(1, 4, 4, bits=2, groups=(1, 4), lanes=lanes, array_clock=clock)
    # What separates two column tiles' rows in their memory; where that is enough, and not.
    enough = MAX_M - 4 - lanes
    sizes = (256, enough, enough + 1, 511) if clock == 1 else (256, 390, 511)
    cases = [Case(params, m, 4 + (m < 300), 12, cols=4 * (m % 3 == 0), seed=m) for m in sizes]
    taken = run(params, cases)[-len(cases):]
    shares = {case.m: case.bound() / (cycles * clock)
              for case, cycles in zip(cases, taken, strict=True)}
    assert all(share > (0.97 if m <= enough else 0.95) for m, share in shares.items()), shares
    if clock > 1:
        # Edges fall together in no order; in 512 rows they are off by less than a cycle.
        run(params, cases[-1:], drift=0.0007)


@pytest.mark.parametrize(("ratio", "drift"), [(2, 0), (3, 0.037), (4, 0)])
def test_the_array_has_a_faster_clock(ratio, drift):
    """Rows of weights come as fast as they may, results leave slower than new ones come."""
    for params in (machine(3, 2, 4, bits=2, array_clock=ratio),
                   machine(2, 3, 1, bits=2, array_clock=ratio),
                   machine(3, 4, 2, bits=3, lanes=1, array_clock=ratio, groups=(1, 1))):
        groups = params.max_groups if params.max_groups > 1 else 0
        cases = [Case(params, 1, 9, 2, unsigned=True, seed=1),
                 Case(params, 5, 20, 7, inner=groups, cols=groups, seed=2),
                 Case(params, 30, 14, 7, rows=groups, unsigned=True, shift=2, seed=3)]
        run(params, cases, drift=drift)


#: Probabilities that other units are at the two memories.
OTHERS = [(0.8, 0.5), (0.3, 0.85)]


@pytest.mark.parametrize(("shape", "groups", "lanes", "clock"), [
    ((3, 2, 4), (4, 4), 1, 1), ((2, 4, 1), (1, 1), 2, 1), ((2, 3, 1), (2, 8), 1, 2),
    ((3, 3, 1), (4, 2), 3, 3), ((2, 8, 4), (1, 1), 8, 2)],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value))
def test_other_units_go_first(shape, groups, lanes, clock):
    """Nothing is lost, however often results and weights wait; if they need not, nothing takes
    longer than it should."""
    params = machine(*shape, groups=groups, array_clock=clock, masters=4, lanes=lanes, bits=3)
    most = params.max_groups if params.max_groups > 1 else 0
    grouped = {"inner": most, "rows": groups[0] * bool(most), "cols": groups[1] * bool(most)}
    run(params, [
        Case(params, 1, 1, 1, seed=1), Case(params, 21, 4, params.cols + 1, seed=2),
        Case(params, 3, params.slots + 1, 2 * params.cols, **grouped, unsigned=True, shift=1,
             seed=3),
    ], others=OTHERS, drift=0.01 * (clock == 3))


@pytest.mark.parametrize("clock", [1, 2])
def test_the_next_columns_wait_for_results_that_wait(clock):
    params = machine(1, 2, 1, groups=(1, 1), array_clock=clock, masters=4)
    run(params, [Case(params, 30, 1, 6, seed=1)], others=[(0.95, 0)])


@pytest.mark.regress
@pytest.mark.parametrize("clock", [1, 2, 3])
@pytest.mark.parametrize(("shape", "groups"), [
    ((2, 4, 2), (4, 4)), ((3, 8, 4), (1, 1)), ((2, 6, 1), (2, 8))],
    ids=lambda value: "x".join(map(str, value)))
def test_other_units_are_nearly_always_there(shape, groups, clock):
    params = machine(*shape, groups=groups, array_clock=clock, masters=4, lanes=2)
    most = params.max_groups if params.max_groups > 1 else 0
    grouped = {"inner": most, "rows": groups[0] * bool(most), "cols": groups[1] * bool(most)}
    run(params, [
        Case(params, 23, 9, 2 * params.cols + 3, seed=2),
        Case(params, 40, 2, 5, **grouped, unsigned=True, shift=1, seed=3),
        Case(params, 3, 2 * params.slots + 1, 3 * params.cols, **grouped, seed=4),
    ], others=[(0.5, 0.5), (0.97, 0.67), (1 / 3, 0.95)])


@pytest.mark.regress
@pytest.mark.parametrize("seed", range(12))
def test_random_machines_beside_other_units(seed):
    rng = np.random.default_rng([seed, 1])
    cols = int(rng.integers(1, 9))
    params = machine(int(rng.integers(1, 6)), cols, int(rng.integers(1, 5)),
                     groups=rng.choice([1, 2, 4, 8], 2).tolist(), array_clock=1 + seed % 3,
                     masters=4, lanes=int(rng.choice([0, 1])))
    most = params.max_groups if params.max_groups > 1 else 0
    cases = [Case(params, *(int(size) for size in rng.integers(1, (50, 30, 20))),
                  unsigned=bool(rng.integers(2)), inner=most * int(rng.integers(2)),
                  rows=most * int(rng.integers(2)), cols=most * int(rng.integers(2)),
                  shift=int(rng.integers(4)), seed=k) for k in range(3)]
    run(params, cases, others=(0.8 * rng.random((3, 2))).tolist())


def test_a_faster_clock_makes_long_products_faster():
    """By as much as it is faster, but for what is read out in the end."""
    cycles = {}
    for ratio in (1, 3):
        params = machine(1, 2, 2, array_clock=ratio)
        cycles[ratio], = run(params, [Case(params, 70, 20, 2)])
    assert cycles[3] < cycles[1] / 2


@pytest.mark.parametrize("seed", range(3))
def test_random_machines(seed):
    rng = np.random.default_rng(seed)
    params = machine(int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 4)),
                     bits=int(rng.integers(2, 9)), groups=rng.choice([2, 4, 8], 2).tolist(),
                     array_clock=seed + 1)

    def flip(value=True):
        return value if rng.integers(2) else type(value)(0)

    cases = []
    for index in range(4):
        counts = {name: flip(int(rng.integers(1, params.max_groups + 1)))
                  for name in ("inner", "rows", "cols")}
        m, k, n = (int(size) for size in rng.integers(1, (9, 14, 10)))
        cases.append(Case(
            params, m, k, n, unsigned=flip(), shift=int(rng.integers(0, 4)),
            seed=seed * 10 + index, **counts))
    run(params, cases)


def test_finishes_whatever_the_instruction_says():
    params = machine(2, 2, 4, lanes=1)
    bench = UnitBench(Gemm(params), params)
    case = Case(params, 3, 4, 2)

    async def process(ctx):
        case.load(bench, ctx)
        for fields in ({"m": 0}, {"k": 0}, {"n": 0}, {"key0": 0}, {"m": 9, "key0": 3},
                       {"k": 4096, "key0": 1}, {"key0": 5}, {"m": 601}):
            await bench.run(ctx, Opcode.GEMM, limit=2_000, **{**case.fields(), **fields})
        # Nothing of it stays.
        await bench.run(ctx, Opcode.GEMM, **case.fields())
        case.check(bench, ctx)

    bench.simulate(process)

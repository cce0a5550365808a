"""hdl.windows: convolutions on the unit of GEMM, as sums and in the time of any product."""

import numpy as np
import pytest

from hdl.gemm import Gemm
from hdl.instructions import GemmFlag, Opcode
from hdl.params import Params
from hdl.product_cycles import product_cycles
from host.errors import ArgumentError
from host.windows import Windows
from sim.model.gemm import gemm
from tests.support.images import windows_of
from tests.support.memories import UnitBench

X, B, D = 0x40, 0x400, 0x21
TABLE, RUN, ROWS, COLS = 0x15, 0x77, 0x100, 0x180


class Case:
    """One GEMM with ``WINDOWS``: ``count`` outputs from ``first`` on, or all of them.

    ``tall`` are rows of the tensor of images after those of the images, and of the result after
    the outputs.
    """
    def __init__(self, params, n, windows, *, first=0, count=None, unsigned=False, rows=0, cols=0,
                 shift=0, tall=(0, 0), seed=0):
        rng = np.random.default_rng(seed)
        self.params, self.windows, self.n = params, Windows(base=TABLE, **windows), n
        self.first, self.count = first, count or self.windows.count - first
        self.unsigned, self.shift, self.tall = unsigned, shift, tall
        low, most = -(1 << params.bits - 1), params.qmax
        positions = self.windows.images * self.windows.height * self.windows.width
        self.x = rng.integers(low, most + 1, (positions, self.windows.channels))
        self.b = rng.integers(-most, most + 1, (self.windows.rows, n))
        self.groups = {"rows": rows, "cols": cols}
        self.rows, self.cols = (rng.integers(0, groups, length) if groups else None
                                for groups, length in ((rows, self.count), (cols, n)))
        a = windows_of(self.windows, self.x + (-low if unsigned else 0))
        self.y, self.clamped = gemm(
            a[self.first:][:self.count], self.b, shift=shift, rows=self.rows, row_groups=rows,
            cols=self.cols, col_groups=cols)

    def fields(self):
        flags = (GemmFlag.WINDOWS | GemmFlag.UNSIGNED * self.unsigned
                 | GemmFlag.ROW_GROUPS * bool(self.groups["rows"])
                 | GemmFlag.COL_GROUPS * bool(self.groups["cols"]))
        return {"flags": flags, "m": self.count, "k": self.windows.rows, "n": self.n, "src0": X,
                "src1": B, "dst0": D, "dst1": RUN, "tab0": TABLE, "tab1": ROWS, "tab2": COLS,
                "shift": self.shift,
                "arg": max(self.groups["rows"] - 1, 0) | max(self.groups["cols"] - 1, 0) << 4,
                "key0": self.windows.tiles(self.params) | self.windows.channels << 16,
                "key1": len(self.x) + self.tall[0] | self.tall[1] << 16}

    def cycles(self):
        return product_cycles(self.params, self.count, self.n, self.windows.tiles(self.params),
                              cols=bool(self.groups["cols"]))

    def load(self, bench, ctx):
        bench.load(ctx, "quant", X, np.pad(self.x, ((0, self.tall[0]), (0, 0))))
        bench.load(ctx, "quant", B, self.b)
        self.held = np.full((self.count + self.tall[1], self.n), -5)
        bench.load(ctx, "wide", D, self.held)
        bench.load_groups(ctx, TABLE, self.windows.table(self.params))
        bench.load_groups(ctx, RUN, [self.windows.run(self.first)])
        for base, groups in ((ROWS, self.rows), (COLS, self.cols)):
            if groups is not None:
                bench.load_groups(ctx, base, groups)

    def check(self, bench, ctx):
        self.held[:self.count] = self.y
        assert (bench.dump(ctx, "wide", D, *self.held.shape) == self.held).all()


def run(params, cases, *, drift=0, others=()):
    """One instruction after the other on one unit, in as many cycles as any product of its
    size."""
    bench = UnitBench(Gemm(params), params)

    async def process(ctx):
        for bench.others in (*others, (0, 0)):
            for case in cases:
                case.load(bench, ctx)
                cycles, clamped = await bench.run(ctx, Opcode.GEMM, limit=20_000, **case.fields())
                case.check(bench, ctx)
                assert clamped == case.clamped
                if not any(bench.others) and not drift:
                    assert cycles == case.cycles()

    bench.simulate(process, drift=drift)


def machine(rows, cols, depth, *, bits=4, groups=(4, 4), **fields):
    return Params(rows=rows, cols=cols, depth=depth, bits=bits, sample_groups=groups[0],
                  channel_groups=groups[1],
                  **{"lanes": 0, "array_clock": 1, "memory": 16, "masters": 1, **fields})


def images(n, h, w, c, kernel, **fields):
    return {"images": n, "height": h, "width": w, "channels": c, "kernel": kernel, **fields}


MACHINES = [machine(1, 1, 1, groups=(1, 1)), machine(2, 4, 2), machine(3, 2, 4, array_clock=2),
            machine(1, 2, 1, array_clock=2, groups=(1, 1), bits=8), machine(2, 3, 1, array_clock=4)]


@pytest.mark.parametrize("params", MACHINES, ids=lambda params: params.name)
def test_windows(params):
    """Taps of a word and of several, outputs from any on, lines and images of one."""
    slots, most = params.slots, params.max_groups if params.max_groups > 1 else 0
    run(params, [
        Case(params, 1, images(1, 1, 1, 1, (1, 1)), seed=1),
        Case(params, params.cols + 1, images(2, 3, 4, slots + 1, (2, 3), padding=(1, 1)),
             unsigned=True, first=3, tall=(2, 3), seed=2),
        Case(params, 2, images(2, 5, 4, 1, (3, 3), stride=(2, 2), padding=(1, 1)), first=4, count=2,
             rows=most, cols=most, seed=3),
        Case(params, 1, images(3, 2, 3, 2 * slots, (2, 3)), unsigned=True, shift=1, seed=4),
        # The first line begins at half a word.
        Case(params, 1, images(2, 3, 3, slots, (2, 2), padding=(1, 1), spread=2, outputs=(6, 4)),
             unsigned=True, first=1, seed=5),
    ])


def test_a_plain_product_after_windows():
    """Nothing of the tables stays."""
    params = machine(2, 2, 2)
    windows = Case(params, 3, images(1, 4, 4, 5, (3, 3), padding=(1, 1)), seed=1)
    bench = UnitBench(Gemm(params), params)
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 8, (9, 14)), rng.integers(-7, 8, (14, 5))

    async def process(ctx):
        for _ in range(2):
            windows.load(bench, ctx)
            await bench.run(ctx, Opcode.GEMM, **windows.fields())
            windows.check(bench, ctx)
            bench.load(ctx, "quant", X, a)
            bench.load(ctx, "quant", B, b)
            await bench.run(ctx, Opcode.GEMM, m=9, k=14, n=5, src0=X, src1=B, dst0=D, key0=4)
            assert (bench.dump(ctx, "wide", D, 9, 5) == gemm(a, b)[0]).all()

    bench.simulate(process)


def drawn(rng, params, seed):
    """A convolution of any kind, not too large."""
    def pair(low, most):
        return tuple(int(value) for value in rng.integers(low, most + 1, 2))

    while True:
        spread = int(rng.integers(1, 3))
        fields = images(
            int(rng.integers(1, 4)), *pair(1, 6), int(rng.integers(1, 2 * params.slots + 2)),
            pair(1, 3), stride=tuple(1 << step for step in pair(0, 1 + (spread == 2))),
            padding=pair(0, 3), spread=spread, dilation=1 << int(rng.integers(0, 2)))
        if rng.random() < 0.3:
            fields["outputs"] = pair(1, 5)
        try:
            count = Windows(base=0, **fields).count
        except ArgumentError:
            continue
        first = int(rng.integers(0, count))
        most = params.max_groups if params.max_groups > 1 else 0
        return Case(
            params, int(rng.integers(1, params.cols + 3)), fields, first=first,
            count=int(rng.integers(1, min(count - first, 60) + 1)),
            unsigned=bool(rng.integers(2)), rows=most * int(rng.integers(2)),
            cols=most * int(rng.integers(2)), shift=int(rng.integers(3)),
            tall=pair(0, 2), seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_random_windows(seed):
    rng = np.random.default_rng([seed, 9])
    params = machine(int(rng.integers(1, 4)), int(rng.integers(1, 4)), [1, 2, 4, 3][seed],
                     bits=int(rng.integers(2, 9)), array_clock=1 + seed % 3,
                     groups=rng.choice([1, 2, 4], 2).tolist())
    run(params, [drawn(rng, params, index) for index in range(4)], others=[(0.3, 0.5)])


@pytest.mark.regress
@pytest.mark.parametrize("seed", range(8))
def test_more_random_windows(seed):
    rng = np.random.default_rng([seed, 10])
    params = machine(int(rng.integers(1, 6)), int(rng.integers(1, 9)), int(rng.integers(1, 5)),
                     bits=int(rng.integers(2, 9)), array_clock=1 + seed % 4,
                     groups=rng.choice([1, 2, 4, 8], 2).tolist())
    run(params, [drawn(rng, params, index) for index in range(5)], drift=0.02 * (seed % 2),
        others=(0.8 * rng.random((1, 2))).tolist())

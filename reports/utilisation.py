"""``python -m reports.utilisation``: how much of a matrix product's time the array works.

Products of random operands run on the simulated board, as :func:`host.program.gemm` has them, and
are compared with the model's. What is counted are clocks of the array between the unit's start and
its end: those of the machine that the device reports, less those for fetching the instruction,
``array_clock`` times. Of these

* ``share`` is what the products themselves would take, ``m k n / macs`` clocks, and
* ``of bound`` what no schedule on this machine goes below, :func:`bound` for every 511 rows.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from hdl.build.tables import columns
from hdl.params import Params
from hdl.product_cycles import product_cycles
from hdl.program import Program
from hdl.protocol import Space
from hdl.timing import row_entries
from host import program
from host.device import Device
from host.tensors import Arena, load, row_parts, store
from sim.model.gemm import gemm
from sim.model.order import inner_tiles, order

__all__ = ["FILE", "MACHINES", "SHAPES", "main", "markdown", "measured", "shapes"]

#: The committed figures.
FILE = Path(__file__).resolve().parent / "data" / "numerics" / "utilisation.json"
#: Arrays, with memories that such operands fit, and the most rows that they have room for.
MACHINES = {Params(memory=128): 512, Params(rows=8, cols=8, memory=128): 256,
            Params(rows=8, cols=8, memory=128, lanes=2): 256}
#: Rows, and multiples of what the array holds along k and along n, and what is added to both.
SHAPES = ((512, 16, 16, 0), (128, 16, 16, 0), (128, 4, 4, 0), (512, 16, 16, -1), (100, 3, 3, 1),
          (200, 1, 8, 0), (32, 8, 8, 0), (10, 1, 1, 0), (1, 4, 4, 0))


def shapes(params):
    """``(m, k, n)`` that are measured on a machine."""
    return [(min(m, MACHINES[params]), inner * params.slots + more, outer * params.cols + more)
            for m, inner, outer, more in SHAPES]


def bound(params, m, n, tiles, *, inner=False, cols=False):
    """Clocks of the array that an instruction takes at least, whatever its schedule.

    With ``C = ceil(n / cols)`` column tiles of ``tiles`` tiles, a multiple a of the machine's
    clock, and ``lanes`` columns read out together:

    * the first tile and the last readout take what they take, with all the latencies on their way,
      as a product of one tile and at most ``lanes`` columns does, in which nothing overlaps
      (:func:`hdl.product_cycles.product_cycles`);
    * every row and a row of zeros go through each of the other tiles, ``R = m + 1`` clocks; weights
      of a tile take ``a rows depth cols / gcd(cols, slots)`` at the memory's port, and
      ``rows 2**(depth - 1)`` in the generators of the tables, at least 2 for a row:
      ``P`` is the largest of the three;
    * results, and the row of zeros, take a clock of the machine for every row of ``lanes`` columns,
      ``E = a R`` for each readout but the last.

    Results of a column tile come with its last tile, so there are
    ``max((C tiles - 1) P + E (readouts of the last column tile - 1),
    (tiles - 1) P + E (ceil(n / lanes) - 1))`` beside the first tile and the last readout. Padding
    of groups is in the tiles.

    >>> bound(Params(array_clock=1), 100, 4, 3), bound(Params(array_clock=2), 100, 4, 3)
    (783, 1223)
    """
    a, lanes = params.array_clock, params.read_cols
    weights = a * params.rows * params.depth * params.cols // params.span
    period, readout = max(m + 1, weights, params.rows * row_entries(params)), a * (m + 1)
    column_tiles, parts = -(-n // params.cols), -(-n // lanes)
    last = parts - (column_tiles - 1) * (params.cols // lanes)
    # In clocks of the machine, the last of which the array may not have needed.
    once = a * product_cycles(params, m, min(n, lanes), 1, inner=inner, cols=cols) - (a - 1)
    return once + max((column_tiles * tiles - 1) * period + readout * (last - 1),
                      (tiles - 1) * period + readout * (parts - 1))


def measured(device, m, k, n, groups=1, seed=0):
    """One product on a device: its figures, or an error if the device's result is wrong."""
    params = device.params
    rng = np.random.default_rng([seed, m, k, n])
    low, high = -(1 << params.bits - 1), params.qmax
    a, b = rng.integers(low, high + 1, (m, k)), rng.integers(-high, high + 1, (k, n))
    tiles = inner_tiles(k, params.depth, params.rows, groups)
    quant = Arena(Space.QUANT, params)
    wide = Arena(Space.WIDE, params)
    places = (quant.allocate("A", (m, tiles * params.slots)), quant.allocate("B", (k, n)),
              wide.allocate("the product", (m, n)))
    inner, options, streamed = None, {}, a
    steps = []
    if groups > 1:
        inner = program.Groups(0, k, groups)
        groups_of = rng.integers(0, groups, k)
        device.write(Space.GROUP, 0, groups_of[:, None])
        steps.append(program.sort(inner))
        options = {"inner": groups_of, "inner_groups": groups}
        slots, _ = order(groups_of, groups, params.depth)
        streamed = np.zeros((m, tiles * params.slots), np.int64)
        streamed[:, np.flatnonzero(slots >= 0)] = a[:, slots[slots >= 0]]
    store(device, places[0].view(*streamed.shape), streamed)
    store(device, places[1], b)
    device.run(steps)
    products, shift = program.gemm(params, *places, inner=inner)
    before = device.run_cycles
    device.run(products)
    cycles = (device.run_cycles - before - len(products) * Program.BESIDE) * params.array_clock
    if (load(device, places[2]) != gemm(a, b, shift=shift, **options)[0]).any():
        raise AssertionError(f"{params.name} computes another product of {m}x{k} by {k}x{n}")
    least = sum(bound(params, count, n, tiles, inner=groups > 1) for _, count in row_parts(m))
    return {"m": m, "k": k, "n": n, "groups": groups, "cycles": cycles, "bound": least,
            "share": m * k * n / params.macs / cycles, "of_bound": least / cycles}


def _rows(found):
    yield ["machine", "m", "k", "n", "groups", "clocks", "bound", "share", "of bound"]
    for machine in found:
        for one in machine["products"]:
            yield [machine["machine"], *(f"{one[name]:,}" for name in (
                "m", "k", "n", "groups", "cycles", "bound")),
                f"{one['share']:.1%}", f"{one['of_bound']:.1%}"]


def markdown(path=FILE):
    """The committed figures as a table."""
    heads, *rows = _rows(json.loads(path.read_text()))
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, ["---"] * len(heads), *rows))


def main(argv=None):
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.utilisation",
        description=__doc__.partition("\n\n")[0].partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="file for the figures")
    given = parser.parse_args(argv)
    found = []
    for params in MACHINES:
        with Device.open("sim:", params, progress=lambda text: print(text, file=sys.stderr)
                         ) as device:
            products = []
            for m, k, n in shapes(params):
                for groups in (1, params.max_groups):
                    products.append(measured(device, m, k, n, groups))
                    print(f"{params.name}: {m}x{k} by {k}x{n}, {groups} groups",
                          file=sys.stderr)
            found.append({"machine": params.name, "products": products})
    if given.out:
        try:
            given.out.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            print(f"reports.utilisation: {given.out} cannot be written ({error.strerror})",
                  file=sys.stderr)
            return 1
    print(json.dumps(found, indent=1) if given.json else columns(list(_rows(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

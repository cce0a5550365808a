"""``python -m reports.step``: how much of a training step's time the array works.

A perceptron of one hidden layer makes steps on the simulated board, which keeps its masters. What
is counted are the clocks of the stored program of one step, with the batch on the device. Of these
``share`` is what the products of the network itself would take,
``m (2 k h + 3 h n) / macs`` clocks for m samples of k features, h hidden channels and n classes:
three products for every layer, but for the first none along which a gradient is passed on. Padding
does not count. The units' own clocks are those of a step an instruction at a time.

The data are random: how long a step takes does not depend on them. Beside what it took is what
:mod:`host.predict` says, and its bound.
"""

import json
import sys
from itertools import pairwise

import numpy as np

from hdl.build.tables import columns
from hdl.params import ParameterError
from host.device import Device
from host.errors import HostError
from host.layers import Mlp
from host.predict import bound, predict
from host.resident import Resident
from host.trace import Trace
from host.train import Rate
from reports.perceptron import machine, parser

__all__ = ["main", "measured", "products"]

_OPTIONS = (
    ("features", 784, "of a sample"), ("hidden", 224, "channels of the hidden layer"),
    ("classes", 10, "of the output"), ("batch", 128, "samples of a step"),
    ("rows", 8, "of the array"), ("cols", 8, "columns of the array"),
    ("lanes", 8, "of the vector units"), ("masters", 256, "in units of 1,024"),
    ("memory", 256, "in units of 1,024"),
    ("codes", 0, "in units of 1,024; 0 for twice the memory"),
    ("tables", 2, "in units of 1,024"), ("array-clock", 1, "clocks of the array in one"),
    ("master-bits", 24, "of a master, 16 or 24"),
    ("velocity-bits", 24, "of a velocity, 8, 16 or 24"))
#: Those of the machine, and those that are from 1 on.
_MACHINE = ("rows", "cols", "lanes", "array_clock", "memory", "codes", "tables", "masters",
            "master_bits", "velocity_bits")
_COUNTS = "features", "hidden", "classes", "batch"


def products(sizes, m):
    """Products that a step of m samples takes, of a network of these sizes.

    >>> products((784, 224, 10), 128) == 128 * (2 * 784 * 224 + 3 * 224 * 10)
    True
    """
    return m * sum((3 if number else 2) * a * b
                   for number, (a, b) in enumerate(pairwise(sizes)))


def measured(device, sizes, m):
    """The figures of one step on a device."""
    rng, params = np.random.default_rng(0), device.params
    resident = Resident(Mlp(sizes, 0, device.params.formats), device, m)

    def clocks(step):
        before = device.run_cycles
        resident.train_step(rng.integers(0, 256, (m, sizes[0])), rng.integers(0, sizes[-1], m),
                            Rate(400, 12), step)
        return device.run_cycles - before

    # The first one prepares what the others find.
    clocks(0)
    taken = clocks(1)
    predicted = sum(predict(part, params).clocks for part in resident.parts)
    least = bound(resident.program, params)
    resident.overlap = False
    trace = Trace(device)
    alone = clocks(2)
    return {"machine": params.name, "sizes": list(sizes), "batch": m, "cycles": taken,
            "share": products(sizes, m) / (params.macs * params.array_clock * taken),
            "cycles_in_order": alone, "predicted": predicted, "bound": least._asdict(),
            "units": {unit.name: used._asdict() for unit, used in trace.used.items()}}


def _rows(found):
    yield ["unit", "instructions", "clocks", "of the step"]
    for name, used in found["units"].items():
        yield [name, str(used["instructions"]), f"{used['clocks']:,}",
               f"{used['clocks'] / found['cycles']:.1%}"]


def main(argv=None):
    """Run the command line; returns the exit status."""
    given = parser("python -m reports.step", __doc__, _OPTIONS).parse_args(argv)
    try:
        params = machine(given, _MACHINE, _COUNTS)
    except ParameterError as error:
        print(f"reports.step: {error}", file=sys.stderr)
        return 2
    try:
        with Device.open("sim:", params, progress=lambda text: print(text, file=sys.stderr)
                         ) as device:
            found = measured(device, (given.features, given.hidden, given.classes), given.batch)
    except HostError as error:
        print(f"reports.step: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'-'.join(map(str, found['sizes']))}, batch {found['batch']}, on {found['machine']}: "
          f"{found['cycles']:,} clocks, {found['share']:.1%} of the array's peak; "
          f"{found['cycles_in_order']:,} an instruction at a time")
    predicted, least = found["predicted"], found["bound"]["path"]
    print(f"predicted {predicted:,} clocks, {predicted / found['cycles'] - 1:+.2%}; "
          f"bound {least:,}, {least / found['cycles']:.1%} of what it took\n")
    print(columns(list(_rows(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

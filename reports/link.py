"""``python -m reports.link``: how much of a training step's time the link works.

A perceptron of one hidden layer makes steps on the simulated board, which keeps its masters and
whose link has the pace of a serial port. A step is made by itself, and with the next batch under
way meanwhile (:meth:`host.resident.Resident.train_step`); what is counted are clocks from step to
step and those of its program, bytes that go down, and of these the batch's own: ``bits`` bits for
each code, and a byte for each label. ``busy`` is the share of the time in which a byte goes down.

The data are random, pixels of 0 to 16: how long a step takes does not depend on them, but for the
bytes that the link escapes.
"""

import json
import sys
from itertools import pairwise

import numpy as np

from hdl.build.tables import columns
from hdl.params import ParameterError, Params
from host.device import Device
from host.errors import HostError
from host.layers import Mlp
from host.resident import Resident
from host.train import Rate
from reports.perceptron import machine, parser

__all__ = ["main", "measured"]

#: Steps before the one that is counted, which bring what it finds.
_BEFORE = 1

_OPTIONS = (
    ("features", 64, "of a sample"), ("hidden", 64, "channels of the hidden layer"),
    ("classes", 10, "of the output"), ("batch", 64, "samples of a step"),
    ("rows", 4, "of the array"), ("cols", 4, "columns of the array"),
    ("lanes", 1, "of the vector units"), ("masters", 8, "in units of 1,024"),
    ("memory", Params.memory, "in units of 1,024"),
    ("codes", 0, "in units of 1,024; 0 for twice the memory"),
    ("array-clock", Params.array_clock, "clocks of the array in one"),
    ("baud", 3_000_000, "of the link"), ("clock", 50_000_000, "of the machine, Hz"))
#: Those of the machine, and those that are from 1 on.
_MACHINE = "rows", "cols", "lanes", "array_clock", "memory", "codes", "masters"
_COUNTS = "features", "hidden", "classes", "batch", "baud", "clock"


def measured(device, sizes, m, byte_clocks):
    """The figures of both kinds of step on a device whose link takes so many clocks for a byte."""
    rng, own = np.random.default_rng(0), m * sizes[0] * device.params.bits / 8 + m
    resident = Resident(Mlp(sizes, 0, device.params.formats), device, m)
    for ahead in (False, True):
        steps = [(rng.integers(0, 17, (m, sizes[0])), rng.integers(0, sizes[-1], m),
                  Rate(400, 12), step) for step in range(_BEFORE + 2)]
        for given, following in pairwise(steps):
            before = device.cycles, device.bytes_down, device.run_cycles
            resident.train_step(*given, following if ahead else None)
        after = device.cycles, device.bytes_down, device.run_cycles
        clocks, down, ran = (b - a for a, b in zip(before, after, strict=True))
        yield {"ahead": ahead, "clocks": clocks, "program": ran, "bytes": down, "own": own,
               "busy": down * byte_clocks / clocks, "ratio": down / own}


def _rows(found, clock):
    yield ["a step", "clocks", "steps per second", "its program", "bytes down", "of the batch",
           "link busy"]
    for row in found:
        yield ["beside the next batch" if row["ahead"] else "by itself", f"{row['clocks']:,}",
               f"{clock / row['clocks']:.1f}", f"{row['program']:,}", f"{row['bytes']:,}",
               f"{row['ratio']:.3f}", f"{row['busy']:.1%}"]


def main(argv=None):
    """Run the command line; returns the exit status."""
    given = parser("python -m reports.link", __doc__, _OPTIONS).parse_args(argv)
    try:
        params = machine(given, _MACHINE, _COUNTS)
    except ParameterError as error:
        print(f"reports.link: {error}", file=sys.stderr)
        return 2
    sizes = given.features, given.hidden, given.classes
    try:
        with Device.open(f"sim:?baud={given.baud}&clock={given.clock}", params,
                         progress=lambda text: print(text, file=sys.stderr)) as device:
            found = list(measured(device, sizes, given.batch, 10 * given.clock / given.baud))
    except HostError as error:
        print(f"reports.link: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"machine": params.name, "sizes": list(sizes), "batch": given.batch,
                          "baud": given.baud, "clock": given.clock, "steps": found}, indent=1))
        return 0
    print(f"{'-'.join(map(str, sizes))}, batch {given.batch}, on {params.name} at "
          f"{given.clock:,} Hz, a link of {given.baud:,} baud\n")
    print(columns(list(_rows(found, given.clock))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m reports.speed``: training steps of the device's arithmetic against float ones.

Times are ratios within one run, the two sides taking turns, medians over repetitions: a ResNet-8
of PyTorch with batch 128, and the digits perceptron in NumPy (the model's functions against the
same step in floating point). Beside the clock's ratio stand that of the fastest steps and that of
processor time, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hdl.instructions import unpack_instruction
from hdl.params import Params
from host.data import load_dataset
from host.device import Device
from host.layers import Mlp
from host.train import Rate
from sim.model.machine import Machine

__all__ = ["AIM", "AIM_PYTORCH", "FILE", "FUNCTIONS", "LINKED", "main", "perceptron", "resnet",
           "sentence"]

#: The committed figures, which README's are.
FILE = Path(__file__).resolve().parent / "data" / "numerics" / "speed.json"
#: Names of the perceptron's figures.
FUNCTIONS, LINKED = "perceptron, NumPy, functions", "perceptron, NumPy, with link"
_RESNET = "ResNet-8, PyTorch"


def _ratio(ours, theirs, repetitions):
    """Medians of alternating calls: seconds of the clock, of the processor, and their ratios."""
    clock, processor = ([], []), ([], [])
    for side in (ours, theirs):
        side()
    for _ in range(repetitions):
        for i, side in enumerate((ours, theirs)):
            used, start = time.process_time(), time.perf_counter()
            side()
            clock[i].append(time.perf_counter() - start)
            processor[i].append(time.process_time() - used)
    mine, other = map(statistics.median, clock)
    busy, others = map(statistics.median, processor)
    return {"ratio": mine / other, "least_ratio": min(clock[0]) / min(clock[1]),
            "processor_ratio": busy / others, "seconds": mine, "float_seconds": other,
            "repetitions": repetitions}


def resnet(repetitions=7, threads=1, device="cpu", captured=False):
    """A step of ResNet-8 with batch 128, converted against float; ``captured`` as CUDA graphs."""
    import torch
    from torch.nn import functional as F

    import host.torch as shiftgrad
    from reports.accuracy.networks import ResNet
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.rand(128, 1, 28, 28).contiguous(memory_format=torch.channels_last).to(device)
    y = torch.randint(0, 10, (128,)).to(device)
    net = ResNet(1, 1, 10)
    converted = shiftgrad.convert(net, bits=4, groups=4).to(device)
    net = net.to(device, memory_format=torch.channels_last)

    def step(model, loss, optimiser):
        def run():
            optimiser.zero_grad()
            loss(model(x), y).backward()
            optimiser.step()
            if device != "cpu":
                torch.cuda.synchronize()
        return run
    optimiser = shiftgrad.SGD(converted, 0.1)
    ours = step(converted, shiftgrad.cross_entropy, optimiser)
    if captured:
        graphs = shiftgrad.CapturedStep(converted, optimiser, shiftgrad.cross_entropy)

        def ours():
            graphs(x, y)
            torch.cuda.synchronize()
    return _ratio(ours, step(net, F.cross_entropy,
                             torch.optim.SGD(net.parameters(), 0.1, 0.9)), repetitions)


def _float_step(x, y, sizes):
    """One step of the perceptron in float64, by hand."""
    rng = np.random.default_rng(0)
    w1, w2 = (rng.standard_normal(pair) / pair[0]**0.5 for pair in (sizes[:2], sizes[1:]))
    gamma, beta, bias = np.ones(sizes[1]), np.zeros(sizes[1]), np.zeros(sizes[2])
    speed = [np.zeros_like(p) for p in (w1, gamma, beta, w2, bias)]
    rows = np.arange(len(y))

    def run():
        a = x @ w1
        d = a - a.mean(axis=0)
        s = np.abs(d).mean(axis=0)
        xhat = d / s
        h = np.maximum(gamma * xhat + beta, 0)
        p = h @ w2 + bias
        p = np.exp(p - p.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[rows, y] -= 1
        p /= len(y)
        dh = (p @ w2.T) * (h > 0)
        sign, g = np.sign(d), gamma * dh
        da = (g - g.mean(axis=0) - (sign - sign.mean(axis=0)) * (g * xhat).mean(axis=0)) / s
        gradients = (x.T @ da, (dh * xhat).sum(axis=0), dh.sum(axis=0), h.T @ p, p.sum(axis=0))
        for parameter, v, gradient in zip((w1, gamma, beta, w2, bias), speed, gradients,
                                          strict=True):
            v *= 0.9
            v += gradient
            parameter -= 0.01 * v
    return run


class _Unlinked:
    """The model of the machine without the link: what its functions cost, and no frames."""

    def __init__(self, params):
        self.params = params
        self._machine = Machine(params)

    def write(self, space, address, words):
        """As :meth:`host.device.Device.write`."""
        self._machine.words(space, address, len(words))[:] = words

    def read(self, space, address, count):
        """As :meth:`host.device.Device.read`."""
        return self._machine.words(space, address, count).copy()

    def run(self, program):
        """As :meth:`host.device.Device.run`."""
        for word in program:
            self._machine.execute(unpack_instruction(word))


def perceptron(repetitions=101):
    """Steps of the digits perceptron with batch 64, the model's functions and the whole of
    ``model:`` with its link, against float NumPy."""
    data = load_dataset("digits")
    x, y, sizes = data.x_train[:64], data.y_train[:64], (64, 64, 10)
    result = {}
    with Device.open("model:", Params()) as linked:
        for name, device in ((FUNCTIONS, _Unlinked(Params())), (LINKED, linked)):
            network = Mlp(sizes, 0)
            space = network.workspace(device, 64)
            steps = iter(range(10**9))
            result[name] = _ratio(
                lambda network=network, space=space, steps=steps: network.train_step(
                    space, x, y, Rate(40, 12), next(steps)),
                _float_step(x / 16, y, sizes), repetitions)
    return result


def _processor():
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines
                 if line.startswith("model name")), platform.machine())


def _machine():
    """What ran, in words: no name of a host."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": _processor(), "processors": os.cpu_count(), "load_before": load,
            "python": platform.python_version(), "numpy": np.__version__,
            "threads": os.environ.get("OMP_NUM_THREADS", "as many as processors")}


#: What the project aims at: times float NumPy, and times float PyTorch.
AIM, AIM_PYTORCH = 20, 6
#: Load per processor above which the clock says more about other programs than about ours.
_BUSY = 0.5


def sentence(stored):
    """What README says of the committed figures: by the clock, or on a busy machine by processor
    time, and whether that is what the project aims at."""
    figures, machine = stored["figures"], stored["machine"]
    # The load afterwards is the benchmark's own.
    load = machine["load_before"]
    busy = load > _BUSY * machine["processors"]
    kind = "processor_ratio" if busy else "ratio"

    def times(name):
        return f"{figures[name][kind]:.1f}"

    def met(name, aim):
        return ("within" if figures[name][kind] <= aim else "more than") + f" the {aim} aimed at"
    one = f"{_RESNET}, 1 thread"
    words = ("A training step of a converted ResNet-8 with batch 128 takes "
             f"{times(one)} times that of its float twin on one thread, {met(one, AIM_PYTORCH)}; "
             "one of the digits perceptron takes the model's NumPy functions "
             f"{times(FUNCTIONS)} times as long as float NumPy, {met(FUNCTIONS, AIM)}, and "
             f"{times(LINKED)} times with frames and link. ")
    return words + (
        f"These are processor times, measured on {machine['processors']} processors that others "
        f"used at the same time (load {load:.0f}): by the clock the ratios were "
        f"{figures[one]['ratio']:.1f}, {figures[FUNCTIONS]['ratio']:.0f} and "
        f"{figures[LINKED]['ratio']:.0f}, and a quiet machine has not been measured since."
        if busy else f"Measured on {machine['processors']} processors at a load of {load:.1f}.")


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.speed",
                                     description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="file for the figures and what they were "
                                                 "measured on")
    options = parser.parse_args(arguments)
    machine = _machine()
    result = perceptron()
    if find_spec("torch"):
        import torch
        machine["torch"] = torch.__version__
        result[f"{_RESNET}, 1 thread"] = resnet()
        result[f"{_RESNET}, 2 threads"] = resnet(3, threads=2)
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            result[f"{_RESNET}, {name}"] = resnet(25, device="cuda")
            result[f"{_RESNET}, {name}, captured"] = resnet(25, device="cuda", captured=True)
    machine["load_after"] = os.getloadavg()[0] if machine["load_before"] is not None else None
    stored = {"command": "python -m reports.speed --out reports/data/numerics/speed.json",
              "machine": machine, "figures": result}
    if options.out:
        try:
            options.out.write_text(json.dumps(stored, indent=1) + "\n")
        except OSError as error:
            print(f"reports.speed: {options.out} cannot be written ({error.strerror})",
                  file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(stored, indent=1))
    else:
        for name, row in result.items():
            print(f"{name}: {row['ratio']:.1f} times float, {1e3 * row['seconds']:.1f} ms against "
                  f"{1e3 * row['float_seconds']:.2f} ms; {row['least_ratio']:.1f} at the fastest, "
                  f"{row['processor_ratio']:.1f} in processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

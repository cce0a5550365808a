"""``python -m reports.speed``: training steps of the device's arithmetic against float ones.

Times are ratios within one run, the two sides taking turns, medians over repetitions: a ResNet-8
of PyTorch with batch 128, and the digits perceptron in NumPy (the model's functions against the
same step in floating point).
"""

import argparse
import json
import statistics
import sys
import time
from importlib.util import find_spec

import numpy as np

from hdl.params import Params
from hdl.protocol import Space, unpack_instruction
from host.data import load_dataset
from host.device import Device
from host.layers import Mlp
from host.train import Rate
from sim.model.machine import Machine

__all__ = ["main", "perceptron", "resnet"]


def _ratio(ours, theirs, repetitions):
    """``(ratio, our seconds, their seconds)``, medians of alternating calls."""
    times = ([], [])
    for side in (ours, theirs):
        side()
    for _ in range(repetitions):
        for side, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
    mine, other = (statistics.median(seconds) for seconds in times)
    return {"ratio": mine / other, "seconds": mine, "float_seconds": other}


def resnet(repetitions=7, threads=1, device="cpu"):
    """A step of ResNet-8 with batch 128, converted against float."""
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
    return _ratio(step(converted, shiftgrad.cross_entropy, shiftgrad.SGD(converted, 0.1)),
                  step(net, F.cross_entropy, torch.optim.SGD(net.parameters(), 0.1, 0.9)),
                  repetitions)


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
        self._memories = {Space.WIDE: self._machine.wide, Space.QUANT: self._machine.quant,
                          Space.GROUP: self._machine.group}

    def write(self, space, address, words):
        """As :meth:`host.device.Device.write`."""
        self._memories[space].array[address:address + len(words)] = words

    def read(self, space, address, count):
        """As :meth:`host.device.Device.read`."""
        return self._memories[space].array[address:address + count].copy()

    def run(self, program):
        """As :meth:`host.device.Device.run`."""
        for word in program:
            self._machine.execute(unpack_instruction(word))


def perceptron(repetitions=25):
    """Steps of the digits perceptron with batch 64, the model's functions and the whole of
    ``model:`` with its link, against float NumPy."""
    data = load_dataset("digits")
    x, y, sizes = data.x_train[:64], data.y_train[:64], (64, 64, 10)
    result = {}
    with Device.open("model:", Params()) as linked:
        for name, device in (("functions", _Unlinked(Params())), ("with link", linked)):
            network = Mlp(sizes, 0)
            space = network.workspace(device, 64)
            steps = iter(range(10**9))
            result[name] = _ratio(
                lambda network=network, space=space, steps=steps: network.train_step(
                    space, x, y, Rate(40, 12), next(steps)),
                _float_step(x / 16, y, sizes), repetitions)
    return result


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.speed",
                                     description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    result = {f"perceptron, NumPy, {name}": row for name, row in perceptron().items()}
    if find_spec("torch"):
        result["ResNet-8, PyTorch, 1 thread"] = resnet()
        result["ResNet-8, PyTorch, 2 threads"] = resnet(threads=2)
        import torch
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            result[f"ResNet-8, PyTorch, {name}"] = resnet(25, device="cuda")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, row in result.items():
            print(f"{name}: {row['ratio']:.1f} times float, {1e3 * row['seconds']:.1f} ms against "
                  f"{1e3 * row['float_seconds']:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())

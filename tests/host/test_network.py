"""host.network: convolutional networks, with the host's help and on the device."""

from dataclasses import replace

import numpy as np
import pytest

from hdl.params import Params
from host.checkpoint import state_sha256
from host.device import Device
from host.errors import ArgumentError, MemoryFullError
from host.layers import Hosted, Network
from host.network import Layer, check_machine, convolutional, perceptron
from host.resident import Resident
from host.train import Rate
from sim.model.update import MASTER_FRACTION, VELOCITY_FRACTION

#: A machine of the usual shape that keeps masters.
KEEPER = Params(masters=8, memory=64)


def small(height=6, width=5, channels=2, classes=5):
    """Layers with kernels, strides and paddings of several kinds, a plain product of each position
    among them."""
    return (
        Layer(in_channels=channels, out_channels=6, height=height, width=width, kernel=(3, 3),
              padding=1),
        Layer(in_channels=6, out_channels=20, height=height, width=width, kernel=(3, 2), stride=2,
              padding=1),
        Layer(in_channels=20, out_channels=7, height=3, width=3),
        Layer(in_channels=7, out_channels=18, height=3, width=3, kernel=(2, 2)),
        Layer(in_channels=18, out_channels=classes, height=2, width=2, kernel=(2, 2)),
    )


def trained(layers, params, m, trainer, steps=3, url="model:", formats=None):
    """Losses, right predictions and hash of a network after some steps and tests."""
    first, rng = layers[0], np.random.default_rng([1, m])
    network = Network(layers, 3, formats or params.formats)
    features = first.pixels * first.in_channels
    with Device.open(url, params) as device:
        keeper = trainer(network, device, m)

        def samples(count):
            return rng.integers(0, 17, (count, features)), rng.integers(0, layers[-1].n, count)

        found = []
        for step in range(steps):
            # Some batches are smaller.
            found.append(keeper.train_step(*samples(m - (step == 1)), Rate(400, 12), step))
            if step:
                found.append(keeper.count_correct(*samples(m + 3), m))
        keeper.fetch()
        return found, state_sha256(network)


@pytest.mark.parametrize("groups", [(1, 1), (1, 4), (4, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("shape", [(4, 4, 4, 1), (3, 5, 2, 1)], ids=str)
def test_bits_are_those_of_the_hosted_network(groups, shape):
    rows, cols, depth, lanes = shape
    params = replace(KEEPER, sample_groups=groups[0], channel_groups=groups[1], rows=rows,
                     cols=cols, depth=depth, lanes=lanes)
    assert trained(small(), params, 8, Resident) == trained(small(), params, 8, Hosted)


@pytest.mark.parametrize("params", [
    KEEPER, replace(KEEPER, rows=3, cols=6, depth=2, lanes=0),
    replace(KEEPER, rows=8, cols=8, lanes=8, memory=256), replace(KEEPER, rows=1, cols=1, depth=1),
    replace(KEEPER, codes=16, memory=16)], ids=lambda params: f"{params.name}-{params.codes}")
def test_bits_depend_neither_on_the_array_nor_on_memory(params):
    assert trained(small(), params, 8, Resident) == trained(small(), KEEPER, 8, Hosted)


def sight(layer, samples):
    """Which row of the input [rows, taps] each output sees, -1 for none."""
    found = []
    for sample in range(samples):
        for oy, ox in np.ndindex(layer.outputs):
            row = []
            for ky, kx in np.ndindex(layer.kernel):
                y, x = (o * layer.stride - layer.padding + k for o, k in ((oy, ky), (ox, kx)))
                inside = 0 <= y < layer.height and 0 <= x < layer.width
                row.append((sample * layer.height + y) * layer.width + x if inside else -1)
            found.append(row)
    return np.array(found)


def float_gradients(network, x, labels):
    """Gradients of a float network with the same weights, by hand."""
    def real(layer):
        return {name: p.master * 2.0**-MASTER_FRACTION for name, p in layer.parameters().items()}

    def seen(shape, h):
        h = np.vstack([h, np.zeros(h.shape[1])])
        return h[sight(shape, len(x))].reshape(-1, shape.k)

    def passed(shape, g, weight):
        dh = np.zeros((len(x) * shape.pixels + 1, shape.in_channels))
        np.add.at(dh, sight(shape, len(x)).reshape(-1),
                  (g @ weight.T).reshape(-1, shape.in_channels))
        return dh[:-1]

    kept, h = [], x.reshape(-1, network.shapes[0].in_channels).astype(float)
    for shape, p in zip(network.shapes, map(real, network.hidden), strict=False):
        a = seen(shape, h)
        d = a @ p["weight"]
        d -= d.mean(axis=0)
        s = np.abs(d).mean(axis=0)
        out = p["gamma"] * d / s + p["beta"]
        kept.append((a, d, s, out))
        h = np.maximum(out, 0)
    head, shape = real(network.head), network.shapes[-1]
    a = seen(shape, h)
    logits = a @ head["weight"] + head["bias"]
    g = np.exp(logits - logits.max(axis=1, keepdims=True))
    g /= g.sum(axis=1, keepdims=True)
    g[np.arange(len(labels)), labels] -= 1
    g /= len(labels)
    found = [{"weight": a.T @ g, "bias": g.sum(axis=0)}]
    g = passed(shape, g, head["weight"])
    for shape, p, (a, d, s, out) in reversed(list(zip(
            network.shapes, map(real, network.hidden), kept, strict=False))):
        g = g * (out > 0)
        gradients = {"gamma": (g * d / s).sum(axis=0), "beta": g.sum(axis=0)}
        sign, g = np.sign(d), p["gamma"] * g
        g = (g - g.mean(axis=0) - (sign - sign.mean(axis=0)) * (g * d / s).mean(axis=0)) / s
        found.insert(0, {"weight": a.T @ g, **gradients})
        g = passed(shape, g, p["weight"])
    return found


@pytest.mark.parametrize("groups", [1, 8])
def test_one_step_at_eight_bits_follows_the_float_gradients(monkeypatch, groups):
    # Scales are those of the maxima here: clipping is not in the float network.
    for module in ("layers", "network"):
        monkeypatch.setattr(f"host.{module}.ACTIVATION_CLIP", {8: 0})
    monkeypatch.setattr("host.layers.WEIGHT_CLIP", {8: 0})
    params = Params(bits=8, sample_groups=groups, channel_groups=groups, rows=16, memory=256,
                    masters=8)
    rng, m = np.random.default_rng(3), 24
    x, y = rng.integers(0, 17, (m, 60)), rng.integers(0, 5, m)
    network = Network(small(), 1)
    expected = float_gradients(network, x, y)
    with Device.open("model:", params) as device:
        network.train_step(network.workspace(device, m), x, y, Rate(1, 12), 0)
    for number, (layer, gradients) in enumerate(zip(network.layers, expected, strict=True)):
        for name, parameter in layer.parameters().items():
            # After one step from rest the velocity is the gradient.
            found = parameter.velocity * 2.0**-VELOCITY_FRACTION
            size = np.linalg.norm(gradients[name])
            error = np.linalg.norm(found - gradients[name]) / size
            length = (found * gradients[name]).sum() / size**2
            print(number, name, error, length)
            assert error < 0.25 and abs(length - 1) < 0.05, (number, name, error, length)

"""The digits perceptron on PyTorch and on the device: one hash."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

import host.torch as sg
from hdl.params import Params
from host.data import load_dataset
from host.device import Device
from host.network import Layer, perceptron
from host.tensor_ids import Noise, tensor_id
from host.train import MODELS, Recipe, hidden_sizes, rate_at, train
from sim.model import noise


class Past(nn.Module):
    """What comes in, added to what a part makes of it."""

    def __init__(self, part):
        super().__init__()
        self.part, self.fork = part, sg.Fork(2)

    def forward(self, x):
        through, past = self.fork(x)
        return past + self.part(through)


def form(recipe):
    return {"bits": recipe.bits, "groups": tuple(int(g) for g in recipe.groups.split("x"))}


def hidden_layer(inputs, outputs, recipe):
    return nn.Sequential(
        sg.Linear(inputs, outputs, bias=False, accumulators=True, **form(recipe)),
        sg.L1BatchNorm1d(outputs), nn.ReLU())


def torch_hash(recipe, data, *hidden):
    """Train such hidden layers as :func:`host.train.train` does; the SHA-256 of the masters as it
    hashes them."""
    width, = hidden_sizes(recipe.hidden)
    net = sg.initialise(nn.Sequential(
        *hidden, sg.Linear(width, data.classes, **form(recipe))), recipe.seed)
    optimiser = sg.SGD(net, 0.1)
    steps = len(data.x_train) // recipe.batch
    total = recipe.epochs * steps
    for epoch in range(recipe.epochs):
        order = noise.permutation(
            noise.key(recipe.seed, epoch, tensor_id(0, Noise.SHUFFLE)), len(data.x_train))
        for i in range(steps):
            index = order[i * recipe.batch:(i + 1) * recipe.batch]
            rate = rate_at(epoch * steps + i, total)
            optimiser.param_groups[0]["lr"] = rate.rate / 2**rate.shift
            x = torch.from_numpy(data.x_train[index].astype(np.float32))
            loss = sg.cross_entropy(net(x), torch.from_numpy(data.y_train[index]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    digest = hashlib.sha256()
    for master in sg.masters(net).values():
        digest.update(np.ascontiguousarray(master.numpy().T).astype("<i4").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("bits", "groups", "limit", "epochs"), [
    (4, "4x4", None, 10), (2, "1x1", 256, 2), (3, "8x2", 256, 2), (6, "4x8", 256, 2),
    (8, "2x4", 256, 2)])
def test_weights_are_those_of_the_device(bits, groups, limit, epochs):
    data = load_dataset("digits")
    if limit:
        data = data.limited(limit)
    recipe = Recipe("digits", "mlp", bits, groups, 5, epochs, 64, limit)
    sample, channel = (int(g) for g in groups.split("x"))
    params = Params(bits=bits, sample_groups=sample, channel_groups=channel)
    with Device.open("model:", params) as device:
        report = train(device, data, recipe)
    hidden = hidden_layer(data.features, *hidden_sizes(recipe.hidden), recipe)
    assert torch_hash(recipe, data, hidden) == report["weights_sha256"]


@pytest.mark.regress
@pytest.mark.parametrize("masters", [0, 8])
def test_two_hundred_steps_are_those_of_the_simulated_board(masters):
    """220 of them, with the host's help or a stored program each."""
    data, recipe = load_dataset("digits"), Recipe("digits", "mlp", 4, "4x4", 5, 10, 64, None)
    with Device.open("sim:", Params(masters=masters)) as device:
        report = train(device, data, recipe)
    hidden = hidden_layer(data.features, *hidden_sizes(recipe.hidden), recipe)
    assert torch_hash(recipe, data, hidden) == report["weights_sha256"]


def test_shortcuts_are_those_of_the_device(monkeypatch):
    data, n = load_dataset("digits").limited(256), 20
    recipe = Recipe("digits", "mlp", 4, "4x4", 5, 3, 64, 256, hidden=str(n))
    layers = (*perceptron((data.features, n, n)), *(
        Layer(in_channels=n, out_channels=n, shortcut=back) for back in (2, 1)),
        *perceptron((n, n, data.classes)))
    monkeypatch.setitem(MODELS, "mlp", lambda *_: layers)
    with Device.open("model:", Params(masters=8)) as device:
        report = train(device, data, recipe)

    def hidden(inputs=n):
        return hidden_layer(inputs, n, recipe)

    assert torch_hash(recipe, data, hidden(data.features), Past(nn.Sequential(hidden(), hidden())),
                      Past(hidden()), hidden()) == report["weights_sha256"]

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
from host.tensor_ids import Noise, tensor_id
from host.train import Recipe, hidden_sizes, rate_at, train
from sim.model import noise


def torch_hash(recipe, data):
    """Train as :func:`host.train.train` does; the SHA-256 of the masters as it hashes them."""
    (hidden,), form = hidden_sizes(recipe.hidden), {
        "bits": recipe.bits, "groups": tuple(int(g) for g in recipe.groups.split("x"))}
    net = sg.initialise(nn.Sequential(
        sg.Linear(data.features, hidden, bias=False, accumulators=True, **form),
        sg.L1BatchNorm1d(hidden), nn.ReLU(), sg.Linear(hidden, data.classes, **form)),
        recipe.seed)
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
    parts = sg.masters(net)
    digest = hashlib.sha256()
    for name in ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias"):
        k = parts[name].numpy()
        digest.update(np.ascontiguousarray(k.T).astype("<i4").tobytes())
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
    assert torch_hash(recipe, data) == report["weights_sha256"]

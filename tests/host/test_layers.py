"""host.layers: the gradients of a training step point where float gradients point."""

import numpy as np
import pytest

from hdl.instructions import MoveFlag, Opcode, unpack_instruction
from hdl.params import Params
from host.device import Device
from host.layers import Mlp
from host.train import Rate
from sim.model.update import MASTER_FRACTION, VELOCITY_FRACTION


def masters(layer):
    """A layer's parameters as real numbers."""
    return {name: p.master * 2.0 ** -MASTER_FRACTION for name, p in layer.parameters().items()}


def float_gradients(network, x, y):
    """Gradients of a float network with the same weights, L1 norm and ReLU, by hand."""
    kept, h = [], x
    for p in map(masters, network.hidden):
        a = h @ p["weight"]
        d = a - a.mean(axis=0)
        s = np.abs(d).mean(axis=0)
        out = p["gamma"] * d / s + p["beta"]
        kept.append((h, d, s, out))
        h = np.maximum(out, 0)
    head = masters(network.head)
    logits = h @ head["weight"] + head["bias"]
    g = np.exp(logits - logits.max(axis=1, keepdims=True))
    g /= g.sum(axis=1, keepdims=True)
    g[np.arange(len(y)), y] -= 1
    g /= len(y)
    found = [{"weight": h.T @ g, "bias": g.sum(axis=0)}]
    g = g @ head["weight"].T
    for p, (h, d, s, out) in zip(map(masters, reversed(network.hidden)), reversed(kept),
                                 strict=True):
        g = g * (out > 0)
        gradients = {"gamma": (g * d / s).sum(axis=0), "beta": g.sum(axis=0)}
        sign, g = np.sign(d), p["gamma"] * g
        g = (g - g.mean(axis=0) - (sign - sign.mean(axis=0)) * (g * d / s).mean(axis=0)) / s
        found.insert(0, {"weight": h.T @ g, **gradients})
        g = g @ p["weight"].T
    return found


#: Relative errors allowed. Weights and activations of 8 bits flip the rectifier of a few elements
#: near 0, which only the gradients behind it see.
BOUNDS = {"weight": 0.2, "gamma": 0.2, "beta": 0.25, "bias": 0.01}


@pytest.mark.parametrize(("sizes", "shifts"), [
    ((20, 24, 5), (0, 0)), ((30, 24, 20, 5), (0, 0, 0)),
    # Products that are brought to 24 bits before the norm or the head.
    ((300, 24, 5), (1, 0)), ((20, 280, 5), (0, 1)), ((20, 280, 24, 5), (0, 1, 0))],
    ids=lambda value: "-".join(map(str, value)))
def test_one_step_at_eight_bits_follows_the_float_gradients(monkeypatch, sizes, shifts):
    # Scales are those of the maxima here: clipping is not in the float network.
    for table in ("ACTIVATION_CLIP", "WEIGHT_CLIP"):
        monkeypatch.setattr(f"host.layers.{table}", {8: 0})
    params = Params(bits=8, sample_groups=8, channel_groups=8, rows=32, memory=256)
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 17, (48, sizes[0])), rng.integers(0, sizes[-1], 48)
    network = Mlp(sizes, seed=1)
    expected = float_gradients(network, x.astype(float), y)
    with Device.open("model:", params) as device:
        network.train_step(network.workspace(device, 48), x, y, Rate(1, 12), 0)
    assert tuple(layer.product.shift for layer in network.layers) == shifts
    for number, (layer, gradients) in enumerate(zip(network.layers, expected, strict=True)):
        for name, parameter in layer.parameters().items():
            # After one step from rest the velocity is the gradient.
            found = parameter.velocity * 2.0 ** -VELOCITY_FRACTION
            size = np.linalg.norm(gradients[name])
            error = np.linalg.norm(found - gradients[name]) / size
            assert error < BOUNDS[name], f"layer {number} {name}: relative error {error:.3f}"
            # Flips have no direction: along the float gradient the length is right.
            length = (found * gradients[name]).sum() / size**2
            assert abs(length - 1) < 0.05, f"layer {number} {name}: relative length {length:.3f}"


@pytest.mark.parametrize(("groups", "sorted_"), [((1, 1), 0), ((4, 1), 1), ((1, 4), 2),
                                                 ((4, 4), 3)])
def test_operands_are_moved_for_the_way_back_alone(monkeypatch, groups, sorted_):
    moves = []
    run = Device.run

    def watched(device, program):
        moves.extend(f for f in map(unpack_instruction, program) if f["op"] == Opcode.MOVE)
        run(device, program)
    monkeypatch.setattr(Device, "run", watched)
    samples, channels = groups
    params = Params(sample_groups=samples, channel_groups=channels)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 17, (12, 7)), rng.integers(0, 3, 12)
    network = Mlp((7, 9, 5, 3), seed=1)
    with Device.open("model:", params) as device:
        space = network.workspace(device, 12)
        network.predict(space, x)
        assert not moves
        network.train_step(space, x, y, Rate(1, 12), 0)
    by_samples = MoveFlag.TRANSPOSED | (MoveFlag.SORTED if sorted_ & 1 else 0)
    expected = []
    for fan_in, fan_out in ((5, 3), (9, 5), (7, 9)):
        if fan_in != 7:
            # The weights, and the gradient where its channels have groups.
            expected.append((fan_in, fan_out, MoveFlag.TRANSPOSED))
            expected += [(12, fan_out, MoveFlag.SORTED)] if sorted_ & 2 else []
        expected.append((12, fan_in, by_samples))
    assert [(f["m"], f["n"], f["flags"]) for f in moves] == expected


@pytest.mark.parametrize("sizes", [(20, 5), (33, 18, 5), (17, 16, 65, 3)])
@pytest.mark.parametrize("shape", [(4, 4, 4), (3, 6, 2), (1, 1, 1), (17, 2, 3)])
def test_a_step_does_not_depend_on_where_operands_lie(sizes, shape):
    rng = np.random.default_rng(sizes)
    x, y = rng.integers(0, 17, (21, sizes[0])), rng.integers(0, sizes[-1], 21)

    def trained(rows, cols, depth):
        network = Mlp(sizes, seed=2)
        params = Params(rows=rows, cols=cols, depth=depth, lanes=0, sample_groups=2,
                        channel_groups=8)
        with Device.open("model:", params) as device:
            space = network.workspace(device, 21)
            for step, count in enumerate((21, 13)):
                network.train_step(space, x[:count], y[:count], Rate(400, 12), step)
        return [p.master for layer in network.layers for p in layer.parameters().values()]
    for found, expected in zip(trained(*shape), trained(2, 3, 1), strict=True):
        assert (found == expected).all()

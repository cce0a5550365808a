"""host.layers: the gradients of a training step point where float gradients point."""

import numpy as np

from hdl.params import Params
from host.device import Device
from host.layers import Mlp
from host.train import Rate
from sim.model.initialise import MASTER_FRACTION


def float_gradients(network, x, y):
    """Gradients of a float network with the same weights, L1 norm and ReLU, by hand."""
    unit = 2.0 ** -MASTER_FRACTION
    hidden, head = network.hidden[0], network.head
    w1, w2 = hidden.dense.weight.master * unit, head.dense.weight.master * unit
    gamma, beta = hidden.gamma.master * unit, hidden.beta.master * unit
    a = x @ w1
    d = a - a.mean(axis=0)
    s = np.abs(d).mean(axis=0)
    xhat = d / s
    out = gamma * xhat + beta
    h = np.maximum(out, 0)
    logits = h @ w2 + head.bias.master * unit
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    dh = (p @ w2.T) * (out > 0)
    sign = np.sign(d)
    g = gamma * dh
    da = (g - g.mean(axis=0)
          - (sign - sign.mean(axis=0)) * (g * xhat).mean(axis=0)) / s
    return {"w1": x.T @ da, "gamma": (dh * xhat).sum(axis=0), "beta": dh.sum(axis=0),
            "w2": h.T @ p, "bias": p.sum(axis=0)}


#: Relative errors allowed. Weights and activations of 8 bits flip the rectifier of a few elements
#: near 0, which only the gradients behind it see.
BOUNDS = {"w1": 0.12, "gamma": 0.02, "beta": 0.08, "w2": 0.02, "bias": 0.01}


def test_one_step_at_eight_bits_follows_the_float_gradients(monkeypatch):
    # Ranges are maxima here: clipping is not in the float network.
    monkeypatch.setattr("host.layers.ACTIVATION_CLIP", 0)
    monkeypatch.setattr("host.layers.WEIGHT_CLIP", 0)
    params = Params(bits=8, sample_groups=8, channel_groups=8)
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 17, (48, 20)), rng.integers(0, 5, 48)
    network = Mlp((20, 24, 5), seed=1)
    expected = float_gradients(network, x.astype(float), y)
    with Device.open("model:", params) as device:
        network.train_step(network.workspace(device, 48), x, y, Rate(1, 12), 0)
    unit = 2.0 ** -MASTER_FRACTION
    hidden, head = network.hidden[0], network.head
    # After one step from rest the velocity is the gradient.
    found = {"w1": hidden.dense.weight.velocity, "gamma": hidden.gamma.velocity,
             "beta": hidden.beta.velocity, "w2": head.dense.weight.velocity,
             "bias": head.bias.velocity}
    for name, gradient in expected.items():
        error = np.linalg.norm(found[name] * unit - gradient) / np.linalg.norm(gradient)
        assert error < BOUNDS[name], f"{name}: relative error {error:.3f}"

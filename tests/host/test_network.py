"""host.network: convolutional networks, with the host's help and on the device."""

from dataclasses import replace

import numpy as np
import pytest

from hdl.params import Params
from host import program
from host.checkpoint import state_sha256
from host.device import Device
from host.errors import ArgumentError, MemoryFullError
from host.layers import Hosted, Network
from host.network import Layer, check_machine, convolutional, lenet, perceptron, residual
from host.resident import Places, Resident
from host.train import Rate
from sim.model.update import MASTER_FRACTION, VELOCITY_FRACTION

#: A machine of the usual shape that keeps masters.
KEEPER = Params(masters=8, memory=64)


#: Layers with kernels, strides and paddings of several kinds, a plain product of each position
#: among them.
LAYERS = (Layer(in_channels=2, out_channels=6, height=6, width=5, kernel=(3, 3), padding=1),
          Layer(in_channels=6, out_channels=20, height=6, width=5, kernel=(3, 2), stride=2,
                padding=1),
          Layer(in_channels=20, out_channels=7, height=3, width=3),
          Layer(in_channels=7, out_channels=18, height=3, width=3, kernel=(2, 2)),
          Layer(in_channels=18, out_channels=5, height=2, width=2, kernel=(2, 2)))
#: So few that columns are in blocks.
FEWER = (LAYERS[0], replace(LAYERS[1], out_channels=40),
         replace(LAYERS[2], in_channels=40, out_channels=5, kernel=(3, 3)))
#: Layers that average: some of what they made, lines, positions of a plain product.
POOLED = (Layer(in_channels=2, out_channels=6, height=7, width=6, kernel=(3, 3), padding=1,
                pool=(2, 2)),
          Layer(in_channels=6, out_channels=20, height=3, width=3, kernel=(2, 2), padding=1,
                pool=(1, 2)),
          Layer(in_channels=20, out_channels=40, height=4, width=2, pool=(4, 1)),
          Layer(in_channels=40, out_channels=5, width=2, kernel=(1, 2)))
#: Shortcuts, from averages on, from the end of another, beside a plain product of each position.
SHORTCUTS = (Layer(in_channels=2, out_channels=6, height=7, width=6, kernel=(3, 3), padding=1,
                   pool=(2, 2)),
             Layer(in_channels=6, out_channels=20, height=3, width=3, kernel=(3, 3), padding=1),
             Layer(in_channels=20, out_channels=6, height=3, width=3, kernel=(3, 3), padding=1,
                   shortcut=2),
             Layer(in_channels=6, out_channels=6, height=3, width=3, shortcut=1),
             Layer(in_channels=6, out_channels=5, height=3, width=3, kernel=(3, 3)))
#: The same of dense layers; one begins behind the end of another, with other channels.
DENSE = (*perceptron((10, 12, 9)), Layer(in_channels=9, out_channels=9, shortcut=1),
         *perceptron((9, 17, 33)), Layer(in_channels=33, out_channels=17, shortcut=2),
         *perceptron((17, 4)))
#: So few that columns are in blocks.
BLOCKS = (Layer(in_channels=2, out_channels=40, height=3, width=4),
          Layer(in_channels=40, out_channels=40, height=3, width=4, shortcut=1),
          Layer(in_channels=40, out_channels=5, height=3, width=4, kernel=(3, 4)))


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
@pytest.mark.parametrize("layers", [LAYERS, POOLED, SHORTCUTS, DENSE],
                         ids=["convolutions", "pools", "shortcuts", "dense"])
def test_bits_are_those_of_the_hosted_network(layers, groups, shape):
    rows, cols, depth, lanes = shape
    params = replace(KEEPER, sample_groups=groups[0], channel_groups=groups[1], rows=rows,
                     cols=cols, depth=depth, lanes=lanes)
    assert trained(layers, params, 8, Resident) == trained(layers, params, 8, Hosted)


@pytest.mark.parametrize("params", [
    # As in tests/sim/test_sessions.py: one board is built for both.
    Params(rows=2, cols=4, depth=2, memory=8, lanes=2, masters=4),
    Params(bits=3, sample_groups=2, rows=4, cols=2, depth=2, memory=8, lanes=4, masters=4,
           master_bits=16, velocity_bits=8, codes=32, tables=1, layer_norm=True)],
    ids=lambda params: params.name)
@pytest.mark.parametrize("layers", [
    (LAYERS[0], replace(LAYERS[1], out_channels=9),
     replace(LAYERS[2], in_channels=9, out_channels=5, kernel=(3, 3))),
    (POOLED[0], replace(POOLED[1], out_channels=9),
     replace(POOLED[2], in_channels=9, out_channels=11), replace(POOLED[3], in_channels=11)),
    (SHORTCUTS[0], replace(SHORTCUTS[1], out_channels=9), replace(SHORTCUTS[2], in_channels=9),
     *SHORTCUTS[3:])], ids=["convolutions", "pools", "shortcuts"])
def test_the_simulated_board_computes_what_the_model_does(layers, params):
    assert trained(layers, params, 5, Resident, url="sim:") == trained(layers, params, 5, Resident)


def test_a_gradient_of_rows_that_no_factor_is_in_is_the_same_on_the_host():
    """1,575 rows, of which the scaler takes 787 twice."""
    layers = (Layer(in_channels=1, out_channels=3, height=15, width=15, kernel=(3, 3), padding=1),
              Layer(in_channels=3, out_channels=4, height=15, width=15, kernel=(3, 3), stride=2),
              Layer(in_channels=4, out_channels=3, height=7, width=7, kernel=(7, 7)))
    assert layers[0].rows(7) == 1575
    params = replace(KEEPER, sample_groups=1, channel_groups=1)
    assert trained(layers, params, 7, Resident) == trained(layers, params, 7, Hosted)


def test_a_step_that_cannot_be_stored_whole_runs_in_parts(monkeypatch):
    whole = trained(LAYERS, KEEPER, 8, Resident)
    monkeypatch.setattr("host.schedule.MAX_STORED", 50)
    assert trained(LAYERS, KEEPER, 8, Resident) == whole


@pytest.mark.parametrize("params", [
    KEEPER, replace(KEEPER, rows=3, cols=6, depth=2, lanes=0), replace(KEEPER, rows=8, cols=8,
    lanes=8, memory=256), replace(KEEPER, rows=1, cols=1, depth=1)], ids=lambda params: params.name)
@pytest.mark.parametrize("layers", [LAYERS, FEWER, POOLED, SHORTCUTS, DENSE, BLOCKS], ids=[
    "convolutions", "fewer", "pools", "shortcuts", "dense", "blocks"])
def test_bits_do_not_depend_on_the_array(layers, params):
    assert trained(layers, params, 8, Resident) == trained(layers, KEEPER, 8, Hosted)


def test_bits_do_not_depend_on_how_much_memory_there_is():
    """Gradients in parts, what streams for them in places of its own, or, where there is little
    room, in those of inputs and weights of the layers behind, or in chunks, moved for each."""
    ways, found = [], []
    for codes, memory in ((64, 64), (32, 32)):
        params = replace(KEEPER, sample_groups=1, channel_groups=1, codes=codes, memory=memory)
        places = Places(params, FEWER, 8)
        ways.append(([places.operands(number) is places.streamed for number in range(3)],
                     len(places.parts[1]), [len(chunks) for chunks in places.chunks]))
        found.append(trained(FEWER, params, 8, Resident))
    assert ways == [([True] * 3, 2, [1, 1, 1]), ([False, False, True], 2, [1, 1, 6])]
    assert found[0] == found[1]


def test_shortcuts_of_dense_layers_need_no_machine_that_keeps_masters():
    params = replace(KEEPER, masters=0)
    assert trained(DENSE, params, 8, Hosted) == trained(DENSE, KEEPER, 8, Resident)
    plain = tuple(replace(layer, shortcut=0) for layer in DENSE)
    assert trained(plain, params, 8, Hosted) != trained(DENSE, params, 8, Hosted)


def sight(layer, samples):
    """Which row of the input [rows, taps] each output sees, -1 for none."""
    found = []
    for sample in range(samples):
        for oy, ox in np.ndindex(layer.maps):
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

    def windows(shape, values):
        """Of each window [samples, h, height, w, width, n], what is left over not among them."""
        h, w = (side * count for side, count in zip(shape.outputs, shape.pool, strict=True))
        values = values.reshape(len(x), *shape.maps, shape.n)[:, :h, :w]
        return values.reshape(len(x), shape.outputs[0], shape.pool[0], shape.outputs[1],
                              shape.pool[1], shape.n)

    def spread(shape, g):
        full = np.zeros((len(x) * shape.positions, shape.n))
        place = windows(shape, np.arange(full.size).reshape(full.shape))
        share = g.reshape(len(x), shape.outputs[0], 1, shape.outputs[1], 1, shape.n)
        full.reshape(-1)[place] = share / np.prod(shape.pool)
        return full

    kept, outs, h = [], [], x.reshape(-1, network.shapes[0].in_channels).astype(float)
    for shape, p in zip(network.shapes, map(real, network.hidden), strict=False):
        a = seen(shape, h)
        d = a @ p["weight"]
        d -= d.mean(axis=0)
        s = np.abs(d).mean(axis=0)
        out = p["gamma"] * d / s + p["beta"]
        kept.append((a, d, s, out))
        h = windows(shape, np.maximum(out, 0)).mean((2, 4)).reshape(-1, shape.n)
        h = h + (outs[-shape.shortcut] if shape.shortcut else 0)
        outs.append(h)
    head, shape = real(network.head), network.shapes[-1]
    a = seen(shape, h)
    logits = a @ head["weight"] + head["bias"]
    g = np.exp(logits - logits.max(axis=1, keepdims=True))
    g /= g.sum(axis=1, keepdims=True)
    g[np.arange(len(labels)), labels] -= 1
    g /= len(labels)
    found = [{"weight": a.T @ g, "bias": g.sum(axis=0)}]
    g = passed(shape, g, head["weight"])
    past = [0] * len(kept)
    for number, shape, p, (a, d, s, out) in reversed(list(zip(
            range(len(kept)), network.shapes, map(real, network.hidden), kept, strict=False))):
        g = g + past[number]
        if shape.shortcut:
            past[number - shape.shortcut] = g
        g = spread(shape, g) * (out > 0)
        gradients = {"gamma": (g * d / s).sum(axis=0), "beta": g.sum(axis=0)}
        sign, g = np.sign(d), p["gamma"] * g
        g = (g - g.mean(axis=0) - (sign - sign.mean(axis=0)) * (g * d / s).mean(axis=0)) / s
        found.insert(0, {"weight": a.T @ g, **gradients})
        g = passed(shape, g, p["weight"])
    return found


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("layers", [LAYERS, POOLED, SHORTCUTS],
                         ids=["convolutions", "pools", "shortcuts"])
def test_one_step_at_eight_bits_follows_the_float_gradients(monkeypatch, layers, groups):
    # Scales are those of the maxima here: clipping is not in the float network.
    for module in ("layers", "network"):
        monkeypatch.setattr(f"host.{module}.ACTIVATION_CLIP", {8: 0})
    monkeypatch.setattr("host.layers.WEIGHT_CLIP", {8: 0})
    params = Params(bits=8, sample_groups=groups, channel_groups=groups, rows=16, memory=256,
                    masters=8)
    rng, m = np.random.default_rng(3), 24
    features = layers[0].pixels * layers[0].in_channels
    x, y = rng.integers(0, 17, (m, features)), rng.integers(0, layers[-1].n, m)
    network = Network(layers, 1)
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
            assert error < 0.25 and abs(length - 1) < 0.1, (number, name, error, length)


@pytest.mark.parametrize("trainer", [Resident, Hosted])
def test_what_the_codes_of_averages_clip_passes_no_gradient(monkeypatch, trainer):
    """That is of the averages; the norm behind them clips nothing."""
    found = []

    def watched(name, give):
        original = getattr(program, name)
        monkeypatch.setattr(program, name, lambda *given, **options: [
            found.append(give(options, *given)), original(*given, **options)][1])

    watched("pool_gradient", lambda options, dy, *_: (
        options["codes"].rows, options["codes"].cols) == (dy.rows, dy.cols))
    watched("norm_backward", lambda options, params, dy, dx, context, state, codes=None: codes)
    trained(POOLED, KEEPER, 8, trainer, steps=1)
    assert found == [True, None] * 3


# Refusals.


IMAGE = {"in_channels": 1, "out_channels": 4, "height": 8, "width": 8, "kernel": (3, 3)}


@pytest.mark.parametrize(("layers", "sentence"), [
    ([Layer(**IMAGE), Layer(in_channels=4, out_channels=2)],
     "layer 1 must take 6x6 images of 4 channels, which layer 0 makes, got 1x1 images of 4 "
     "channels"),
    ([Layer(**IMAGE)], "the last layer must have outputs of 1x1, got 6x6"),
    ([Layer(**IMAGE, pool=(2, 2)), Layer(in_channels=4, out_channels=2, height=6, width=6)],
     "layer 1 must take 3x3 images of 4 channels, which layer 0 makes, got 6x6 images of 4 "
     "channels"),
    ([Layer(**{**IMAGE, "height": 4}, pool=(2, 4))], "the last layer must have no pool, got 2x4"),
    ([Layer(**IMAGE), Layer(**{**IMAGE, "in_channels": 4, "height": 6, "width": 6, "stride": 4})],
     "strides are (1, 1) or (2, 2) and its spread is 1, got (4, 4) and 1"),
    ([Layer(**IMAGE), Layer(**{**IMAGE, "in_channels": 4, "height": 6, "width": 6, "padding": 3})],
     "the padding of the height must be a whole number from 0 to 15, got -1"),
    ([Layer(**IMAGE, padding=1), Layer(**{**IMAGE, "in_channels": 4}, shortcut=1),
      Layer(in_channels=4, out_channels=2, height=6, width=6, kernel=(6, 6))],
     "the shortcut of layer 1 must add 6x6 images of 4 channels, which it makes, got 8x8 images of "
     "4 channels of layer 0"),
    ([*perceptron((5, 4)), Layer(in_channels=4, out_channels=3, shortcut=1), *perceptron((3, 2))],
     "the shortcut of layer 1 must add 1x1 images of 3 channels, which it makes, got 1x1 images of "
     "4 channels of layer 0"),
    ([Layer(in_channels=4, out_channels=4, shortcut=1), *perceptron((4, 2))],
     "the shortcut of layer 0 must be of 0 at most, got 1"),
    ([*perceptron((4, 4)), Layer(in_channels=4, out_channels=4, shortcut=1)],
     "the last layer must have no shortcut, got one of 1"),
    ([*perceptron((4, 4, 4)), *(Layer(in_channels=4, out_channels=4, shortcut=i) for i in (2, 2)),
      *perceptron((4, 2))],
     "the shortcut of layer 3 must not begin before layer 2, where the one before it ends, got "
     "layer 1")])
def test_layers_that_do_not_follow_each_other_are_refused(layers, sentence):
    with pytest.raises(ArgumentError) as refused:
        Network(layers, 0)
    assert sentence in str(refused.value)


def test_what_is_no_convolution_is_refused():
    with pytest.raises(ArgumentError, match="the kernel's height must be a whole number from 1 to"):
        Layer(**{**IMAGE, "kernel": (8, 8)})


@pytest.mark.parametrize(("pool", "sentence"), [
    (2, r"pool must be \(height, width\) of windows, got 2"),
    ((7, 1), "the height of a window must be 1 to that of an image, and that at most 255, got 7 "
             "and 6"),
    ((1, 0), "the width of a window must be 1 to that of an image, .* got 0 and 6"),
    ((3, 2), "windows of a power of two of positions, at most 256, got 3 x 2")], ids=str)
def test_what_is_no_window_is_refused(pool, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Layer(**IMAGE, pool=pool)


@pytest.mark.parametrize(("shortcut", "sentence"), [
    (-1, "shortcut must be a whole number of layers, 0 for none, got -1"),
    (1.0, "shortcut must be a whole number of layers, 0 for none, got 1.0"),
    (1, "a layer with a shortcut must have no pool, got 2x2")], ids=str)
def test_what_is_no_shortcut_is_refused(shortcut, sentence):
    with pytest.raises(ArgumentError) as refused:
        Layer(**IMAGE, pool=(2, 2), shortcut=shortcut)
    assert str(refused.value) == sentence


DIGITS, LARGER = convolutional((8, 8, 1), 10), convolutional((28, 28, 1), 10)


@pytest.mark.parametrize(("layers", "params", "batch", "sentence"), [
    ((Layer(in_channels=9, out_channels=4, width=2, pool=(1, 2)), *perceptron((4, 3))), Params(), 8,
     "convolutions and pools need a machine that keeps the masters: add --masters 1"),
    (lenet((28, 28, 1), 10), Params(masters=32, memory=256), 11,
     "the groups of layer 0, 2156 rows and 6 channels, need 2204 words of the tables, 182 more "
     "than there are: choose a batch of at most 10"),
    (DIGITS, Params(), 64,
     "convolutions and pools need a machine that keeps the masters: add --masters 8"),
    (residual((8, 8, 1), 10), Params(), 64,
     "convolutions and pools need a machine that keeps the masters: add --masters 16"),
    (LARGER, Params(masters=16, sample_groups=1, channel_groups=1), 21,
     "layer 0 has 4116 rows, 21 samples of 14x14 outputs, and this machine takes 4096: choose a "
     "batch of at most 20"),
    (LARGER, Params(masters=16), 11,
     "the groups of layer 0, 2156 rows and 8 channels, need 2204 words of the tables, 194 more "
     "than there are: choose a batch of at most 10"),
    (DIGITS, Params(masters=8, tables=1), 64,
     "the groups of layer 0, 1024 rows and 16 channels, need 1080 words of the tables, 80 more "
     "than there are: choose a batch of at most 59"),
    (convolutional((200, 200, 3), 10), Params(masters=32), 64,
     "layer 0 has 640000 rows, 64 samples of 100x100 outputs, and this machine takes 4096: choose "
     "smaller images"),
    # The largest batch of those that all limits allow.
    (LARGER, Params(masters=16), 64,
     "layer 0 has 12544 rows, 64 samples of 14x14 outputs, and this machine takes 4096: choose a "
     "batch of at most 10"),
    (perceptron((20, 9)), Params(), 512,
     "layer 0 has 512 rows, 512 samples of 1x1 outputs, and this machine takes 511: choose a batch "
     "of at most 511")],
    ids=str)
def test_what_a_machine_has_no_room_for_is_refused(layers, params, batch, sentence):
    with pytest.raises((ArgumentError, MemoryFullError)) as refused:
        check_machine(params, layers, batch)
    assert str(refused.value) == sentence
    if "at most" in sentence:
        most = int(sentence.split("at most ")[1].split()[0])
        check_machine(params, layers, most)
        with pytest.raises(MemoryFullError):
            check_machine(params, layers, most + 1)

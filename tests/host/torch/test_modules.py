"""host.torch's layers, optimiser and conversion, as a user of PyTorch meets them."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import host.torch as sg
from host.torch import modules, reference
from host.torch.optim import masters
from sim.model.noise import element_noise, key
from sim.model.quantise import ACTIVATION_CLIP
from sim.model.update import sgd


class Residual(nn.Module):
    """A block with a shortcut, calls of functions, and a convolution with a bias."""

    def __init__(self, norm=reference.L1BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.norm0 = norm(8)
        self.conv = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norm = norm(8)
        self.pool = nn.AvgPool2d(2)
        self.more = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(self.norm(self.conv(x)) + x)
        x = F.relu(self.more(self.pool(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def data(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, 1, 8, 8), generator=generator) / 256
    return x, torch.randint(0, 3, (count,), generator=generator)


def model(seed=0, **options):
    torch.manual_seed(1)
    return sg.convert(Residual(), seed=seed, **options)


def train(net, optimiser, steps, start=0):
    x, y = data()
    for i in range(start, start + steps):
        part = slice(8 * (i % 4), 8 * (i % 4) + 8)
        loss = sg.cross_entropy(net(x[part]), y[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_is_a_function_of_the_seed_and_falls():
    runs = []
    for seed in (0, 0, 1):
        net = model(seed)
        optimiser = sg.SGD(net, 0.05)
        first = train(net, optimiser, 1)
        last = train(net, optimiser, 30, 1)
        runs.append(state(net))
        assert last < first
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_threads_or_memory_format(threads):
    expected = model()
    train(expected, sg.SGD(expected, 0.05), 3)
    torch.set_num_threads(threads)
    try:
        net = model().to(memory_format=torch.channels_last)
        train(net, sg.SGD(net, 0.05), 3)
    finally:
        torch.set_num_threads(1)
    assert same(state(net), state(expected))


def test_saved_and_resumed_runs_go_on_with_the_same_bits():
    straight = model()
    train(straight, sg.SGD(straight, 0.05, weight_decay=1e-3), 6)

    net = model()
    optimiser = sg.SGD(net, 0.05, weight_decay=1e-3)
    train(net, optimiser, 3)
    file = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    resumed = model()
    resumed.load_state_dict(saved["model"])
    optimiser = sg.SGD(resumed, 0.05, weight_decay=1e-3)
    optimiser.load_state_dict(saved["optimiser"])
    train(resumed, optimiser, 3, 3)
    assert same(state(resumed), state(straight))


def test_whole_models_can_be_saved_copied_and_fed_by_a_loader():
    net = model()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    twin = copy.deepcopy(torch.load(file, weights_only=False))
    outputs = []
    for one in (net, twin):
        optimiser = sg.SGD(one, 0.05)
        for x, y in DataLoader(TensorDataset(*data()), batch_size=8):
            optimiser.zero_grad()
            sg.cross_entropy(one(x), y).backward()
            optimiser.step()
        one.eval()
        outputs.append(one(data()[0]))
    assert torch.equal(*outputs)


def test_inference_leaves_the_state_alone_and_scales_follow_the_batch():
    net = model()
    train(net, sg.SGD(net, 0.05), 4)
    before = state(net)
    net.eval()
    x, _ = data()
    with torch.no_grad():
        whole, again = net(x), net(x)
        alone = [torch.cat([net(one) for one in batch.split(1)]) for batch in (x, x.flip(0))]
    assert same(before, state(net))
    assert torch.equal(whole, again) and whole.shape == (32, 3)
    # An image with a smaller range gets a finer scale alone than among others.
    assert not torch.equal(whole, alone[0])
    assert torch.equal(alone[0], alone[1].flip(0))


def test_optimiser_is_the_models():
    layer = sg.initialise(nn.ModuleList([sg.Linear(5, 9), sg.L1LayerNorm(9)]), 3)
    optimiser = sg.SGD(layer, 0.1, weight_decay=0.01, master=(16, 12), speed=(8, 6))
    rng = np.random.default_rng(0)
    start = {name: rng.integers(-2**14, 2**14, p.shape) for name, p in layer.named_parameters()}
    weights = {name: torch.tensor(k * 2.0**-12) for name, k in start.items()}
    layer.load_state_dict(weights, strict=False)
    speeds = {name: 0 * k for name, k in start.items()}
    use = {"0.weight": (0, 1), "0.bias": (0, 4), "1.weight": (1, 3), "1.bias": (1, 4)}
    for step in range(5):
        for name, parameter in layer.named_parameters():
            g = rng.integers(-2**20, 2**20, parameter.shape)
            parameter.grad = torch.tensor(g * 2.0**-22, dtype=torch.float32)
            number, noise_of = use[name]
            noise = element_noise(key(3, step, 16 * number + noise_of),
                                  *((1, g.size) if g.ndim == 1 else g.T.shape))
            noise = noise.reshape(-1) if g.ndim == 1 else noise.T
            start[name], speeds[name] = sgd(
                start[name], speeds[name], g, 410, 12, noise, master=(16, 12), speed=(8, 6),
                decay=655 if name == "0.weight" else 0)
        optimiser.step()
    for name, parameter in layer.named_parameters():
        assert (parameter.detach().numpy() * 2**12 == start[name]).all(), name


def test_conversion_finds_signs_norms_and_forks():
    net = model()
    assert net.stem.accumulators and net.conv.accumulators and not net.more.accumulators
    assert net.more.bias is not None
    assert not any(m.form.signed for m in (net.stem, net.conv, net.more, net.head))
    assert (net.stem.form.input_bits, net.conv.form.input_bits) == (8, 4)
    assert (net.head.form.bits, net.head.form.input_bits, net.head.form.gradient_bits) == (8, 8, 8)
    forks = [m for m in net.modules() if isinstance(m, modules.Fork)]
    assert [fork.count for fork in forks] == [2]
    assert net.stem.number == net.norm0.number and net.conv.number == net.norm.number
    torch.manual_seed(1)
    float_model = Residual()
    for name, value in float_model.named_parameters():
        assert (net.get_parameter(name) - value).abs().max() <= 2.0**-21, name


def test_conversion_of_l2_norms_keeps_the_outputs():
    torch.manual_seed(0)
    float_model = Residual(nn.BatchNorm2d)
    x, _ = data(256)
    for _ in range(20):
        float_model(x)
    float_model.eval()
    net = sg.convert(float_model, bits=8, groups=8)
    assert not net.training
    error = (net(x) - float_model(x)).abs().mean() / float_model(x).abs().mean()
    assert error < 0.2


def test_gradients_point_where_float_gradients_point():
    torch.manual_seed(2)
    float_model = Residual()
    net = sg.convert(float_model, bits=8, groups=8)
    x, y = data()
    F.cross_entropy(float_model(x), y).backward()
    sg.cross_entropy(net(x), y).backward()
    for name, parameter in float_model.named_parameters():
        a, b = parameter.grad.flatten(), net.get_parameter(name).grad.flatten()
        assert F.cosine_similarity(a, b, 0) > 0.95, name
        assert 0.9 < b.norm() / a.norm() < 1.1, name


def test_forward_only_leaves_gradients_in_float():
    net = model(gradient_bits=None)
    x, y = data()
    sg.cross_entropy(net(x), y).backward()
    grad = net.stem.weight.grad * 2.0**22
    assert not torch.equal(grad, grad.round())


class Calls(nn.Module):
    """A model that calls one function."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.linear(x))


@pytest.mark.parametrize(("build", "words"), [
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU()), "1 is a GELU, which the device has not"),
    (lambda: nn.LSTM(3, 3), "LSTM"),
    (lambda: Calls(torch.sigmoid), "the call of sigmoid at sigmoid"),
    (lambda: Calls(lambda y: y + y), "uses linear twice"),
    (lambda: Calls(lambda y: y if y.sum() > 0 else -y), "torch.fx cannot trace Calls"),
    (lambda: nn.Conv2d(4, 4, 3, groups=2), "must have groups=1"),
    (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, (1, 2))), "must have a square stride, got (1, 2)"),
    (lambda: nn.Sequential(nn.MaxPool2d(3, 2)), "windows that do not overlap"),
    (lambda: nn.Sequential(nn.Dropout(0.1)), "probability 0.5, got 0.1"),
])
def test_what_the_device_has_not_is_named(build, words):
    with pytest.raises(sg.ConversionError, match=re.escape(words)):
        sg.convert(build())


def test_a_graphs_last_sum_belongs_to_its_last_layer():
    adjacency = torch.eye(3).to_sparse_coo()
    float_model = nn.Sequential(nn.Linear(4, 5, bias=False), reference.GraphConv(adjacency),
                                nn.ReLU(), nn.Linear(5, 2, bias=False),
                                reference.GraphConv(adjacency))
    model = sg.convert(float_model, bits=6, clip=0)
    forms = [layer.form for layer in model.modules() if hasattr(layer, "form")]
    assert [(form.bits, form.input_bits) for form in forms] == [(6, 8), (6, 6), (8, 8), (8, 8)]
    assert all(form.input_clip == 0 for form in forms)
    assert [form.column_clip for form in forms[::2]] == [0, 0]
    forms = [layer.form for layer in sg.convert(float_model, bits=6, first_clip=0).modules()
             if hasattr(layer, "form")]
    assert [form.input_clip for form in forms[::2]] == [0, ACTIVATION_CLIP[8]]


@pytest.mark.parametrize(("act", "words"), [
    (lambda: sg.Linear(3, 3, bits=9), "bits must be a whole number from 2 to 8, got 9"),
    (lambda: sg.Linear(3, 3, gradient_bits=1), "gradient_bits must be a whole number from 2"),
    (lambda: sg.Linear(3, 3, groups=(3, 4)), "got (3, 4)"),
    (lambda: sg.Linear(3, 3, clip=256), "clip must be a whole number from 0 to 255, got 256"),
    (lambda: sg.convert(nn.Linear(2, 2), clip=-1), "clip must be a whole number from 0 to 255"),
    (lambda: sg.Linear(3, 3, weight_clip=2.5), "weight_clip must be a whole number from 0 to 255"),
    (lambda: sg.convert(nn.Linear(2, 2), groups=5), "got (5, 5)"),
    (lambda: sg.convert(nn.Linear(2, 2), seed=-1), "seed must be a whole number"),
    (lambda: sg.Linear(3, 3)(torch.zeros(2, 4)), "takes [..., 3], got [2, 4]"),
    (lambda: sg.Conv2d(3, 3, 1)(torch.zeros(2, 4, 1, 1)), "takes [n, 3, h, w], got [2, 4, 1, 1]"),
    (lambda: sg.Linear(3, 3)(torch.zeros(0, 3)), "at least one element"),
    (lambda: sg.Linear(3, 3)(torch.full((1, 3), torch.nan)), "got values from nan to nan"),
    (lambda: sg.Linear(3, 3)(torch.full((1, 3), torch.inf)), "must lie between -2048 and 2048"),
    (lambda: sg.Linear(3, 3)(torch.full((1, 3), -1.0)), "built with signed=False, got -1"),
    (lambda: sg.L1BatchNorm2d(2)(torch.zeros(1, 3, 2, 2)), "takes [n, 2, h, w]"),
    (lambda: sg.Attention(3)(*[torch.zeros(1, 2, 4)] * 3), "3 heads divide, got 4"),
    (lambda: sg.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3])), "between 0 and 2, got 0"),
    (lambda: sg.cross_entropy(torch.zeros(2, 3), torch.tensor([0])), "got [2, 3] and [1]"),
    (lambda: sg.SGD(sg.Linear(2, 2), 0), "lr must lie between 0 and 1, got 0"),
    (lambda: sg.SGD(sg.Linear(2, 2), 0.1, weight_decay=1), "below 0.0625, got 1"),
])
def test_bad_input_gets_a_sentence(act, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        act()


def test_the_optimiser_names_what_it_does_not_know():
    with pytest.raises(TypeError, match="Linear has the parameter 'weight'"):
        sg.SGD(nn.Linear(2, 2), 0.1)


def test_masters_are_whole_numbers():
    assert masters(sg.Linear(2, 2))["weight"].dtype == torch.int64


def test_dropout_keeps_half_and_the_mean():
    layer = sg.number_layers(nn.Sequential(sg.Dropout()), 5)
    y = layer(torch.ones(64, 1000))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert abs(float(y.mean()) - 1) < 0.02
    assert not torch.equal(y, layer(torch.ones(64, 1000)))
    assert torch.equal(layer.eval()(torch.ones(2, 2)), torch.ones(2, 2))

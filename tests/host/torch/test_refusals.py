"""What host.torch refuses, each in one sentence, and that nothing has changed by then."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import host.torch as sg
from host.errors import HostError
from host.torch import products, reference

NAN, INF = torch.nan, torch.inf


class Calls(nn.Module):
    """Two layers, a parameter, and a function of them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 3), nn.Linear(3, 3), function
        self.register_buffer("constant", torch.ones(3))

    def forward(self, x):
        return self.function(self, x)


class Tied(nn.Module):
    """Embedding and output share their weight."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, index):
        return self.head(self.table(index))


def convert(*layers, **options):
    return sg.convert(nn.Sequential(*layers), **options)


def spoilt(value, layer=None, name="weight"):
    """A layer with one bad number."""
    layer = layer or nn.Linear(3, 3)
    getattr(layer, name).data.view(-1)[1] = value
    return layer


def trained_with(gradient):
    layer = sg.Linear(3, 3)
    layer.weight.grad = torch.full((3, 3), gradient)
    sg.SGD(layer, 0.1).step()


def with_lr(lr):
    layer = sg.Linear(3, 3)
    optimiser = sg.SGD(layer, 0.1)
    optimiser.param_groups[0]["lr"] = lr
    layer.weight.grad = torch.zeros(3, 3)
    optimiser.step()


def sparse(*rows):
    return torch.tensor(rows).to_sparse_coo()


def called(layer, *shape, value=0.5):
    return layer(*[torch.full(shape, value)])


# Each refusal: a name, an act, and what the sentence says.
NOT_FINITE = {
    "logits-nan": (lambda: sg.cross_entropy(torch.full((2, 3), NAN), torch.tensor([0, 1])),
                   "logits must lie between -2048 and 2048, got values from nan to nan"),
    "logits-inf": (lambda: sg.cross_entropy(torch.tensor([[INF, 0.0]]), torch.tensor([0])),
                   "logits must lie between -2048 and 2048, got values from 0 to inf"),
    "logits-large": (lambda: sg.cross_entropy(torch.tensor([[1e9, 0.0]]), torch.tensor([0])),
                     "got values from 0 to 1e+09"),
    "gradient-nan": (lambda: trained_with(NAN), "the gradient of weight must lie between -1048576 "
                     "and 1048576, got values from nan to nan"),
    "gradient-inf": (lambda: trained_with(-INF), "got values from -inf to -inf"),
    "gradient-large": (lambda: trained_with(1e9), "got values from 1e+09 to 1e+09"),
    "weight-nan": (lambda: convert(spoilt(NAN)), "0.weight must lie between -8 and 8, got values"),
    "weight-inf": (lambda: convert(spoilt(-INF)), "0.weight must lie between -8 and 8, got values"),
    "weight-large": (lambda: convert(spoilt(100.0)), "to 100"),
    "bias-nan": (lambda: convert(spoilt(NAN, name="bias")), "0.bias must lie between -8 and 8"),
    "mean-nan": (lambda: convert(spoilt(NAN, nn.BatchNorm1d(3), "running_mean")),
                 "0.running_mean must lie between -32768 and 32768"),
    "variance-inf": (lambda: convert(spoilt(INF, nn.BatchNorm1d(3), "running_var")),
                     "0.running_var must lie between"),
    "variance-negative": (lambda: convert(spoilt(-1.0, nn.BatchNorm1d(3), "running_var")),
                          "0.running_var must not be negative, got -1"),
    "adjacency-nan": (lambda: sg.GraphConv(sparse([NAN, 1.0], [1.0, 1.0])),
                      "the values of an adjacency must be finite and not negative"),
    "adjacency-inf": (lambda: sg.GraphConv(sparse([INF, 1.0], [1.0, 1.0])),
                      "finite and not negative, got values from 1 to inf"),
    "adjacency-negative": (lambda: sg.GraphConv(sparse([-1.0, 1.0], [1.0, 1.0])),
                           "finite and not negative, got values from -1 to 1"),
    "dropout": (lambda: called(sg.Dropout(), 2, 2, value=NAN),
                "the input of Dropout 0 must lie between -2048 and 2048"),
    "average": (lambda: called(sg.AvgPool2d(2), 1, 1, 2, 2, value=INF),
                "the input of AvgPool2d must lie between -2048 and 2048"),
    "global-average": (lambda: called(sg.GlobalAvgPool2d(), 1, 1, 2, 2, value=NAN),
                       "the input of GlobalAvgPool2d must lie between -2048 and 2048"),
}
TYPES = {
    "double-input": (lambda: sg.Linear(3, 3)(torch.ones(2, 3).double()),
                     "the input of Linear 0 must be float32, which holds the device's integers, "
                     "got float64: call .float()"),
    "half-input": (lambda: sg.Linear(3, 3)(torch.ones(2, 3).half()), "got float16"),
    "byte-input": (lambda: sg.Linear(3, 3)(torch.ones(2, 3).byte()), "got uint8"),
    "double-model": (lambda: called(convert(nn.Linear(3, 3)).double(), 2, 3),
                     "the weights of Linear 0 must be float32"),
    "half-model": (lambda: called(convert(nn.Linear(3, 3)).half(), 2, 3), "got float16"),
    "double-table": (lambda: sg.Embedding(5, 4).double()(torch.tensor([1])),
                     "the weights of Embedding 0 must be float32"),
    "double-logits": (lambda: sg.cross_entropy(torch.zeros(2, 3).double(), torch.tensor([0, 1])),
                      "logits must be float32"),
    "float-labels": (lambda: sg.cross_entropy(torch.zeros(2, 3), torch.zeros(2)),
                     "labels must be whole numbers such as int64, got float32"),
    "float-indices": (lambda: sg.Embedding(5, 4)(torch.zeros(2)),
                      "indices of Embedding 0 must be whole numbers such as int64, got float32"),
}
SHAPES = {
    "few-nodes": (lambda: called(sg.GraphConv(torch.eye(4).to_sparse_coo()), 3, 2),
                  "GraphConv 0 takes [4, channels], got [3, 2]"),
    "many-nodes": (lambda: called(sg.GraphConv(torch.eye(4).to_sparse_coo()), 6, 2),
                   "GraphConv 0 takes [4, channels], got [6, 2]"),
    "dense-adjacency": (lambda: sg.GraphConv(torch.eye(3)), "an adjacency must be a sparse_coo "
                        "tensor [n, n], got strided [3, 3]: Tensor.to_sparse_coo makes one"),
    "dense-reference": (lambda: reference.GraphConv(torch.eye(3)), "must be a sparse_coo tensor"),
    "oblong-adjacency": (lambda: sg.GraphConv(torch.ones(3, 4).to_sparse_coo()),
                         "got sparse_coo [3, 4]"),
    "no-adjacency": (lambda: sg.GraphConv(None), "got NoneType"),
    "empty-adjacency": (lambda: sg.GraphConv(torch.zeros(3, 3).to_sparse_coo()),
                        "an adjacency must have at least one value, got none"),
    "norm": (lambda: called(sg.L1BatchNorm2d(2), 2, 2, 2),
             "L1BatchNorm2d 0 takes [n, 2, h, w], got [2, 2, 2]"),
    "average": (lambda: called(sg.AvgPool2d(2), 1, 4, 4),
                "AvgPool2d takes [n, c, h, w] of at least [2, 2], got [1, 4, 4]"),
    "small-average": (lambda: called(sg.AvgPool2d(4), 1, 1, 2, 2), "at least [4, 4], got [1, 1, 2"),
    "global-average": (lambda: called(sg.GlobalAvgPool2d(), 1, 4, 4),
                       "GlobalAvgPool2d takes [n, c, h, w], got [1, 4, 4]"),
    "attention": (lambda: sg.Attention(2)(torch.ones(1, 2, 4), *[torch.ones(1, 3, 4)] * 2),
                  "Attention 0 takes q, k and v of one shape [n, tokens, width], got [1, 2, 4], "
                  "[1, 3, 4] and [1, 3, 4]"),
    "flat-attention": (lambda: sg.Attention(2)(*[torch.ones(2, 4)] * 3), "of one shape [n, tokens"),
    "kernel": (lambda: called(sg.Conv2d(1, 1, 5), 1, 1, 3, 3),
               "Conv2d 0 takes images of at least [5, 5] with a padding of 0, got [1, 1, 3, 3]"),
    "scalar": (lambda: sg.Linear(3, 3)(torch.tensor(1.0)), "Linear 0 takes [..., 3], got []"),
    "scalar-norm": (lambda: sg.L1LayerNorm(3)(torch.tensor(1.0)), "takes [..., 3], got []"),
    "scalar-dropout": (lambda: sg.Dropout()(torch.tensor(1.0)),
                       "Dropout 0 takes [..., channels], got []"),
    "no-index": (lambda: sg.Embedding(5, 4)(torch.zeros(0, dtype=torch.int64)),
                 "Embedding 0 takes at least one index, got [0]"),
    "index": (lambda: sg.Embedding(5, 4)(torch.tensor([0, 7])),
              "indices of Embedding 0 must lie between 0 and 4, got 0 to 7"),
    "negative-index": (lambda: sg.Embedding(5, 4)(torch.tensor([-1])), "got -1 to -1"),
    "no-classes": (lambda: sg.cross_entropy(torch.zeros(2, 0), torch.tensor([0, 1])),
                   "cross_entropy takes logits [m, classes] and labels [m], got [2, 0] and [2]"),
    "negative-input": (lambda: called(convert(nn.Linear(3, 3)), 2, 3, value=-1.0),
                       "convert the model with signed_input=True"),
}
FORMATS = {
    "pool": (lambda: sg.AvgPool2d(0), "a size of AvgPool2d must be a whole number from 1"),
    "pool-axes": (lambda: sg.AvgPool2d((2, 2, 2)),
                  "the size of AvgPool2d must be a whole number or two, got (2, 2, 2)"),
    "kernel": (lambda: sg.Conv2d(1, 1, 0), "a size of Conv2d must be a whole number from 1"),
    "kernel-axes": (lambda: sg.Conv2d(1, 1, (3, 3, 3)),
                    "kernel_size must be a whole number or two, got (3, 3, 3)"),
    "features": (lambda: sg.Linear(0, 3), "a size of Linear must be a whole number from 1"),
    "rows": (lambda: sg.Embedding(0, 3), "a size of Embedding must be a whole number from 1"),
    "norm": (lambda: sg.L1BatchNorm2d(0), "a size of L1BatchNorm2d must be a whole number from"),
    "layer-norm": (lambda: sg.L1LayerNorm("3"), "a size of L1LayerNorm must be a whole number"),
    "fork": (lambda: sg.Fork(0), "the count of Fork must be a whole number from 1 to 65536"),
    "heads": (lambda: sg.Attention(0), "heads must be a whole number from 1 to 65536, got 0"),
    "stride": (lambda: sg.Conv2d(1, 1, 3, stride=(1, 2)),
               "stride must be the same in both directions, got (1, 2)"),
    "no-stride": (lambda: sg.Conv2d(1, 1, 3, stride=0), "stride must be a whole number from 1"),
    "padding": (lambda: sg.Conv2d(1, 1, 3, padding=-1), "padding must be a whole number from 0"),
    "groups-layer": (lambda: sg.Linear(3, 3, groups=4), "groups must be (samples, channels), each "
                     "one of 1, 2, 4, 8 (16 and 32 for comparison), got 4"),
    "groups-none": (lambda: convert(nn.Linear(3, 3), groups=None), "for comparison), got None"),
    "groups-text": (lambda: convert(nn.Linear(3, 3), groups="4x4"), "got '4x4'"),
    "groups-float": (lambda: convert(nn.Linear(3, 3), groups=(4.0, 4)), "got (4.0, 4)"),
    "input-bits-0": (lambda: sg.Linear(3, 3, input_bits=0), "input_bits must be a whole number "
                     "from 2 to 8, got 0"),
    "adjacency-bits-0": (lambda: sg.GraphConv(torch.eye(3).to_sparse_coo(), adjacency_bits=0),
                         "adjacency_bits must be a whole number from 2 to 8, got 0"),
    "initialise": (lambda: sg.initialise(sg.Linear(3, 3), -1),
                   "seed must be a whole number from 0 to 2**32 - 1, got -1"),
    "large-seed": (lambda: sg.number_layers(sg.Linear(3, 3), 2**40), "got 1099511627776"),
    **{f"{name}-{value}": (lambda name=name, value=value: convert(nn.Linear(3, 3), **{name: value}),
                           f"{name} must be a whole number from 2 to 8, got {value}")
       for name in ("bits", "first_bits", "last_bits", "first_layer_bits", "gradient_bits")
       for value in (0, 9, 4.0, True)},
    "bits-text": (lambda: convert(nn.Linear(3, 3), bits="4"), "bits must be a whole number from 2"),
    "first-clip": (lambda: convert(nn.Linear(3, 3), first_clip=256),
                   "first_clip must be a whole number from 0 to 255, got 256"),
}
OPTIMISER = {
    "parameters": (lambda: sg.SGD(sg.Linear(3, 3).parameters(), 0.1),
                   "SGD takes the model itself, as in SGD(model, lr), got generator"),
    "no-parameters": (lambda: sg.SGD(nn.ReLU(), 0.1), "ReLU has none"),
    "foreign": (lambda: sg.SGD(nn.Linear(3, 3), 0.1), "convert the model first"),
    "lr-text": (lambda: sg.SGD(sg.Linear(3, 3), "x"), "lr must lie between 0 and 1, got x"),
    "lr-nan": (lambda: sg.SGD(sg.Linear(3, 3), NAN), "lr must lie between 0 and 1, got nan"),
    "lr-one": (lambda: sg.SGD(sg.Linear(3, 3), 1), "lr must lie between 0 and 1, got 1"),
    "lr-later": (lambda: with_lr(-0.5), "lr must lie between 0 and 1, got -0.5"),
    "group": (lambda: sg.SGD(sg.Linear(3, 3), 0.1).add_param_group(
        {"params": nn.Parameter(torch.ones(2))}), "SGD takes parameters of its own model alone"),
    "state": (lambda: sg.SGD(sg.Linear(3, 3), 0.1).load_state_dict(
        {"state": {0: {"momentum_buffer": None}}, "param_groups": []}),
        "SGD takes up a state of its own, which has velocities, got momentum_buffer"),
    "momentum": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, momentum=2),
                 "momentum must lie between 0 and 1, got 2"),
    "master": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, master=(60, 50)),
               "the bits of master must be a whole number from 2 to 24, got 60"),
    "master-fraction": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, master=(24, 50)),
                        "the fraction bits of master must be a whole number from 20 to 24, got 50"),
    "master-number": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, master=24),
                      "master must be (bits, fraction bits), got 24"),
    "speed": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, speed=(1, 0)),
              "the bits of speed must be a whole number from 2 to 24, got 1"),
    "speed-fraction": (lambda: sg.SGD(sg.Linear(3, 3), 0.1, master=(10, 6), speed=(16, 15)),
                       "the fraction bits of speed must be a whole number from 4 to 14, got 15"),
}
CONVERSION = {
    "tied": (lambda: sg.convert(Tied()), "head.weight and table.weight are one tensor, which the "
             "device has not: give each layer weights of its own"),
    "ceil-mode": (lambda: convert(nn.AvgPool2d(2, ceil_mode=True)), "0 must have ceil_mode=False"),
    "divisor": (lambda: convert(nn.AvgPool2d(2, divisor_override=1)), "got ceil_mode=False and "
                "divisor_override=1"),
    "padding-index": (lambda: convert(nn.Embedding(5, 4, padding_idx=0)), "got padding_idx=0"),
    "max-norm": (lambda: convert(nn.Embedding(5, 4, max_norm=1.0)), "max_norm=1.0"),
    "frequency": (lambda: convert(nn.Embedding(5, 4, scale_grad_by_freq=True)),
                  "scale_grad_by_freq=True"),
    "constant": (lambda: sg.convert(Calls(lambda s, x: s.a(x) + 0.1)), "the sum at add adds a "
                 "constant, 0.1, but the device adds outputs of layers alone: put it into the bias "
                 "of a layer"),
    "tensor": (lambda: sg.convert(Calls(lambda s, x: s.a(x) + s.constant)),
               "adds a constant, constant"),
    "size": (lambda: sg.convert(Calls(lambda s, x: s.a(x) + x.size(0))), "adds a constant, size"),
    "alpha": (lambda: sg.convert(Calls(lambda s, x: torch.add(s.a(x), s.b(x), alpha=0.3))),
              "the sum at add has alpha=0.3, which the device has not: scale the weights of"),
    "twice": (lambda: sg.convert(convert(nn.Linear(3, 3))), "GraphModule has the layers of "
              "host.torch already: convert the float model that it was made from"),
    "our-layer": (lambda: sg.convert(sg.Linear(3, 3)), "Linear has the layers of host.torch"),
    "text": (lambda: sg.convert("model"), "convert takes a torch.nn.Module, got str"),
    "affine": (lambda: convert(nn.BatchNorm1d(3, affine=False)), "0 must have affine=True and "
               "track_running_stats=True, got affine=False and track_running_stats=True"),
    "statistics": (lambda: convert(nn.BatchNorm2d(3, track_running_stats=False)),
                   "got affine=True and track_running_stats=False"),
    "layer-norm-affine": (lambda: convert(nn.LayerNorm(3, elementwise_affine=False)),
                          "0 must normalise the last axis alone with a weight and a bias, got"),
    "layer-norm-bias": (lambda: convert(nn.LayerNorm(3, bias=False)), "bias=False"),
    "layer-norm-axes": (lambda: convert(nn.LayerNorm((2, 3))), "normalized_shape=(2, 3)"),
    "attention": (lambda: sg.convert(nn.MultiheadAttention(4, 2)), "0 is a MultiheadAttention, "
                  "which the device has not: write Linear layers for q, k, v and the output around "
                  "a host.torch.reference.Attention"),
    "encoder": (lambda: sg.convert(nn.TransformerEncoderLayer(4, 2)),
                "host.torch.reference.Attention"),
    "gelu": (lambda: sg.convert(nn.GELU()), "0 is a GELU, which the device has not"),
}


@pytest.mark.parametrize(("act", "words"), [
    pytest.param(*case, id=f"{kind}-{name}")
    for kind, cases in (("finite", NOT_FINITE), ("type", TYPES), ("shape", SHAPES),
                        ("format", FORMATS), ("optimiser", OPTIMISER), ("convert", CONVERSION))
    for name, case in cases.items()])
def test_a_sentence(act, words):
    with pytest.raises(HostError, match=re.escape(words)) as caught:
        act()
    assert "\n" not in str(caught.value)


def network():
    torch.manual_seed(0)
    return sg.convert(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                                    nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(),
                                    nn.Linear(4 * 16, 3)), bits=8, seed=4)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 6, 6, generator=generator), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("factor", [NAN, INF, -INF])
def test_no_weight_changes_where_a_gradient_is_not_finite(factor):
    net = network()
    optimiser = sg.SGD(net, 0.1)
    x, y = batch()
    sg.cross_entropy(net(x), y).backward()
    optimiser.step()
    before = copy.deepcopy((net.state_dict(), optimiser.state_dict()))
    for p in net.parameters():
        p.grad = None
    (sg.cross_entropy(net.eval()(x), y) * factor).backward()
    # Every layer's gradient says so, not the last one's alone.
    assert all(p.grad.isnan().any() for p in net.parameters() if p.dim() > 1)
    with pytest.raises(sg.LimitError, match="the gradient of"):
        optimiser.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[0][name]), name
    assert str(optimiser.state_dict()) == str(before[1])


@pytest.mark.parametrize("build", [
    network, lambda: copy.deepcopy(network()),
    lambda: sg.initialise(nn.Sequential(sg.L1LayerNorm(3), sg.Linear(3, 3)))])
@pytest.mark.parametrize("value", [NAN, INF, 20.0])
def test_a_bad_state_changes_no_weight(build, value):
    net = build()
    before = copy.deepcopy(net.state_dict())
    bad = copy.deepcopy(before)
    name = [name for name in bad if name.endswith("weight")][-1]
    for key in bad:
        if key.endswith("bias"):
            bad[key] += 1
    bad[name][0, 0] = value
    with pytest.raises(sg.LimitError, match=f"{name} must lie between -8 and 8"):
        net.load_state_dict(bad)
    assert torch.equal(net.state_dict()[name], before[name])
    if isinstance(net, torch.fx.GraphModule):
        assert all(torch.equal(a, before[key]) for key, a in net.state_dict().items())


def test_a_bad_velocity_is_refused():
    layer = sg.Linear(3, 3)
    optimiser = sg.SGD(layer, 0.1)
    layer.weight.grad = torch.ones(3, 3)
    optimiser.step()
    state = copy.deepcopy(optimiser.state_dict())
    state["state"][0]["velocity"][0, 0] = NAN
    with pytest.raises(sg.LimitError, match="velocity 0 must lie between -8 and 8"):
        optimiser.load_state_dict(state)
    assert not optimiser.state[layer.weight]["velocity"].isnan().any()


def outcome(net, attention):
    """Output, gradients and weights of a step, and attention's output and gradients."""
    x, y = batch()
    optimiser = sg.SGD(net, 0.1)
    output = net(x)
    sg.cross_entropy(output, y).backward()
    optimiser.step()
    q = (torch.arange(80.0).view(2, 5, 8) * 7 % 11 / 4 - 1).float().requires_grad_()
    attended = attention(q, q * 2, q * 4)
    attended.backward(torch.arange(80.0).view(2, 5, 8).float() % 7 / 64)
    return [output, attended, q.grad, *net.parameters(), *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("gradient_bits", [8, None])
def test_autocast_changes_no_bit(gradient_bits):
    attention = sg.Attention(2, bits=8, gradient_bits=gradient_bits)
    expected = outcome(network(), copy.deepcopy(attention))
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(network(), attention)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("owner", [lambda b: b, lambda b: b.cuda.matmul, lambda b: b.mkldnn],
                         ids=["all", "cuda.matmul", "mkldnn"])
def test_the_programs_precision_changes_no_bit_and_stays(owner):
    owner = owner(torch.backends)
    if not hasattr(owner, "fp32_precision"):
        pytest.skip("this PyTorch has no fp32_precision")
    expected = outcome(network(), sg.Attention(2, bits=8))
    before = owner.fp32_precision
    owner.fp32_precision = "tf32"
    try:
        found = outcome(network(), sg.Attention(2, bits=8))
        with products._without_tf32():
            assert torch.backends.cuda.matmul.fp32_precision in ("none", "ieee")
        assert owner.fp32_precision == "tf32"
    finally:
        owner.fp32_precision = before
        torch.backends.cuda.matmul.fp32_precision = "none"
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_programs_own_type_changes_no_bit():
    def steps():
        net = sg.initialise(nn.Sequential(sg.Linear(3, 8), nn.ReLU(), sg.Dropout(),
                                          sg.L1LayerNorm(8), sg.Linear(8, 3, signed=True)), 5)
        x, y = torch.arange(12.0).view(4, 3).float() / 16, torch.tensor([0, 1, 2, 0])
        optimiser = sg.SGD(net, 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            sg.cross_entropy(net(x), y).backward()
            optimiser.step()
        return [*net.parameters()]
    expected = steps()
    torch.set_default_dtype(torch.float64)
    try:
        found = steps()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.dtype == b.dtype and torch.equal(a, b)
               for a, b in zip(expected, found, strict=True))


def test_statistics_keep_their_bits_where_a_models_type_changes():
    layer = sg.L1BatchNorm1d(3)
    layer.running_mean += 1 / 3
    expected = layer.running_mean.clone()
    for change in (layer.float, layer.half, layer.double):
        change()
        assert torch.equal(layer.running_mean, expected)


def test_the_seed_goes_with_the_state():
    saved = convert(nn.Linear(3, 3), seed=5)
    called(saved, 2, 3)
    net = convert(nn.Linear(3, 3), seed=9)
    state = saved.state_dict()
    net.load_state_dict(state)
    layer = net.get_submodule("0")
    assert (layer.seed, layer.step) == (5, 1)
    # A state that was saved without a seed has the count alone.
    state["0._extra_state"] = torch.tensor(7)
    net.load_state_dict(state)
    assert (layer.seed, layer.step) == (5, 7)


def test_python_sums_and_sizes_are_no_constants():
    net = sg.convert(Calls(lambda s, x: F.relu(sum([s.a(x), s.b(x)])).view(x.size(0) + 0, -1)))
    assert called(net, 2, 3).shape == (2, 3)


def test_square_pairs_are_numbers():
    layer = sg.Conv2d(1, 1, 3, stride=(2, 2), padding=(1, 1))
    assert (layer.stride, layer.padding) == (2, 1)


def test_labels_may_have_any_whole_type():
    logits = torch.arange(6.0).view(2, 3)
    expected = sg.cross_entropy(logits, torch.tensor([2, 0]))
    for kind in (torch.uint8, torch.int32):
        assert sg.cross_entropy(logits, torch.tensor([2, 0], dtype=kind)) == expected

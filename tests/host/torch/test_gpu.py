"""host.torch on a GPU: the bits are those of a processor."""

import numpy as np
import pytest
import torch
from torch import nn

import host.torch as sg
from host.torch import numbers, products, reference
from host.torch.errors import settle
from reports.accuracy.networks import Gcn, ResNet, Transformer, draw

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_powers_of_two_are_exact():
    exponents = torch.arange(-126, 128)
    for dtype, of in ((torch.float32, numbers.power), (torch.float64, numbers.wide_power)):
        expected = torch.tensor([2.0**e for e in exponents.tolist()], dtype=dtype)
        assert torch.equal(of(exponents.cuda()).cpu(), expected)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (300, 64), (100_352, 16)])
def test_noise(shape):
    for words in ((0, 0, 0, 0), (0x0123, 0x4567, 0x89AB, 0xCDEF), (0xFFFF,) * 4):
        expected = numbers.element_noise(words, *shape).int() & 0xFFFF
        assert torch.equal(numbers.element_noise(words, *shape, "cuda").cpu(), expected)


@pytest.mark.parametrize("seed", range(40))
def test_quantisers(seed):
    rng = np.random.default_rng(seed)
    samples, span, channels = rng.integers(1, 40, 3)
    x = rng.standard_normal((samples, span, channels)) * 2.0 ** rng.integers(-8, 1, channels)
    x = np.floor(x * 2.0 ** rng.integers(4, 20, (samples, 1, 1))) * 2.0**-30
    x = torch.from_numpy(x.astype(np.float32))
    groups = tuple(int(g) for g in rng.choice([1, 2, 4, 8], 2))
    bits = int(rng.integers(2, 9))
    a, b = (numbers.quantise_gradient(y, bits=bits, groups=groups, words=(1, 2, 3, seed))
            for y in (x, x.cuda()))
    for name in ("codes", "exponent", "rows", "cols"):
        assert torch.equal(getattr(a, name), getattr(b, name).cpu()), name
    for options in ({"signed": True, "clip": 14}, {"signed": True, "clip": 17, "dims": (1, 2)}):
        for one, other in zip(numbers.quantise(x, bits=bits, **options),
                              numbers.quantise(x.cuda(), bits=bits, **options), strict=True):
            assert torch.equal(one, other.cpu())


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_at_their_extremes(bits, tf32):
    largest, weight = 2**bits - 1, 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(bits)

    def codes(low, high, *shape):
        # Nearly all of them as large as can be, and odd.
        x = torch.full(shape, float(high))
        return torch.where(torch.rand(shape, generator=generator) < 0.01, float(low), x)
    u = codes(0, largest, 64, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    w, g = codes(-1, weight, 32, 64, 3, 3), codes(-1, weight << 7, 64, 32, 7, 7) + 1
    g = g.clamp(max=weight << 7)
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32" if tf32 else "ieee"
    try:
        y = products.conv(u.cuda(), w.cuda(), 2, 1, largest, weight)
        dx = products.conv_input_gradient(u.shape, w.cuda(), g.cuda(), 2, 1, weight << 7, weight)
        dw = products.conv_weight_gradient(u.cuda(), w.shape, g.cuda(), 2, 1, largest,
                                           weight << 7)
    finally:
        matmul.fp32_precision = before
    u, w, g = u.double(), w.double(), g.double()
    assert torch.equal(y.cpu().double(), nn.functional.conv2d(u, w, None, 2, 1))
    assert torch.equal(dx.cpu().double(), torch.nn.grad.conv2d_input(u.shape, w, g, 2, 1))
    assert torch.equal(dw.cpu().double(), torch.nn.grad.conv2d_weight(u, w.shape, g, 2, 1))


def _images():
    x = torch.randint(0, 256, (64, 1, 28, 28), generator=torch.Generator().manual_seed(1)) / 256
    return (x,), torch.arange(64) % 10


def _text():
    x = torch.randint(0, 65, (8, 32), generator=torch.Generator().manual_seed(1))
    return (x, torch.arange(32).expand(1, -1)), (x.flatten() * 7) % 65


def _graph():
    x = torch.randint(0, 2, (50, 40), generator=torch.Generator().manual_seed(1)).float()
    return (x,), torch.arange(50) % 7


def _ring():
    index = torch.arange(50)
    index = torch.stack([index.repeat(3), torch.cat([index, (index + 1) % 50, (index - 1) % 50])])
    return torch.sparse_coo_tensor(index, torch.full((150,), 1 / 3), (50, 50),
                                   check_invariants=True)


NETWORKS = pytest.mark.parametrize(("build", "data"), [
    (lambda: ResNet(1, 1, 10), _images),
    (lambda: ResNet(1, 1, 10, nn.BatchNorm2d), _images),
    (lambda: Transformer(65, 32, 32, 2, 2), _text),
    (lambda: Gcn(_ring(), 40, 16, 7), _graph),
], ids=["resnet", "batch-norm", "transformer", "gcn"])


def _objective(output, labels):
    return sg.cross_entropy(output.reshape(len(labels), -1), labels)


def _trained(build, data, device, bits, groups, captured=False, steps=6):
    """State and losses after some steps, with a rate that falls."""
    net = sg.convert(draw(build(), 3), bits, groups, seed=3).to(device)
    optimiser = sg.SGD(net, 0.05, weight_decay=1e-3)
    inputs, labels = data()
    inputs, labels = [x.to(device) for x in inputs], labels.to(device)

    def step(*batch):
        loss = _objective(net(*batch[:-1]), batch[-1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()
    if captured:
        step = sg.CapturedStep(net, optimiser, _objective)
    losses = []
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * (steps - i) / steps
        losses.append(step(*inputs, labels.roll(i)))
    net.eval()
    return {**net.state_dict(), "logits": net(*inputs).detach(), "losses": torch.stack(losses)}


@NETWORKS
@pytest.mark.parametrize(("bits", "groups"), [(4, (4, 4)), (8, (8, 8)), (2, (1, 4))])
def test_training(build, data, bits, groups):
    expected, found, captured = (
        _trained(build, data, device, bits, groups, captured)
        for device, captured in (("cpu", False), ("cuda", False), ("cuda", True)))
    for name, value in expected.items():
        assert torch.equal(value, found[name].cpu()), name
        assert torch.equal(value, captured[name].cpu()), f"{name}, captured"


def test_a_captured_step_refuses_before_a_weight_changes():
    net = sg.convert(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).cuda()
    step = sg.CapturedStep(net, sg.SGD(net, 0.1), sg.cross_entropy)
    x, y = torch.ones(2, 4).cuda(), torch.tensor([0, 1]).cuda()
    for _ in range(4):
        step(x, y)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(sg.LimitError, match="got values from nan to nan"):
        step(x * torch.nan, y)
    with pytest.raises(sg.LimitError, match="labels must lie between 0 and 2, got 0 to 7"):
        step(x, y * 7)
    for a, b in zip(before, net.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(sg.ShapeError, match=r"takes torch.float32 \[2, 4\], got"):
        step(x[:1], y)
    step(x, y)
    assert not torch.equal(before[0], next(net.parameters()))


def test_what_is_refused_is_refused_before_a_weight_changes():
    net = sg.convert(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).cuda()
    optimiser = sg.SGD(net, 0.1)
    before = [p.detach().clone() for p in net.parameters()]
    loss = sg.cross_entropy(net(torch.full((2, 4), torch.nan).cuda()), torch.tensor([0, 1]).cuda())
    loss.backward()
    with pytest.raises(sg.LimitError, match="got values from nan to nan"):
        optimiser.step()
    sg.cross_entropy(net(torch.ones(2, 4).cuda()), torch.tensor([0, 3]).cuda())
    with pytest.raises(sg.LimitError, match="labels must lie between 0 and 2, got 0 to 3"):
        settle()
    settle()
    for a, b in zip(before, net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("factor", [torch.nan, torch.inf])
def test_no_weight_changes_where_a_gradient_is_not_finite(captured, factor):
    # With all of its few ReLUs dead the first layer would have a gradient of zeros.
    torch.manual_seed(0)
    net = sg.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))).cuda()
    optimiser, scale = sg.SGD(net, 0.1), torch.ones((), device="cuda")

    def objective(output, labels):
        return sg.cross_entropy(output, labels) * scale

    def step(x, y):
        optimiser.zero_grad()
        objective(net(x), y).backward()
        optimiser.step()
    if captured:
        step = sg.CapturedStep(net, optimiser, objective)
    x, y = torch.ones(2, 4).cuda(), torch.tensor([0, 1]).cuda()
    for _ in range(4):
        step(x, y)
    before = [p.detach().clone() for p in net.parameters()]
    scale.fill_(factor)
    with pytest.raises(sg.LimitError, match=r"the gradient of 0\.weight must lie between"):
        step(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    scale.fill_(1)
    step(x, y)
    assert not torch.equal(before[0], next(net.parameters()))


def test_bad_logits_and_indices_are_refused_by_the_next_settling():
    sg.cross_entropy(torch.full((2, 3), torch.nan).cuda(), torch.tensor([0, 1]).cuda())
    with pytest.raises(sg.LimitError, match="logits must lie between"):
        settle()
    sg.Embedding(5, 4).cuda()(torch.tensor([7]).cuda())
    with pytest.raises(sg.LimitError, match="indices of Embedding 0 must lie between 0 and 4"):
        settle()


def test_autocast_and_the_programs_precision_change_no_bit():
    build, data = NETWORKS.args[1][2]
    expected = _trained(build, data, "cuda", 8, (8, 8))
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    try:
        with torch.autocast("cuda", torch.float16):
            found = _trained(build, data, "cuda", 8, (8, 8))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = before
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_the_float_twins_run_there():
    net = draw(ResNet(1, 1, 10, reference.L1BatchNorm2d), 0).cuda()
    (x,), y = _images()
    nn.functional.cross_entropy(net(x.cuda()), y.cuda()).backward()

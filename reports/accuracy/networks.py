"""The networks of the study, in float; their initial weights come from the project's own hash.

Each has the shape of its namesake in the literature; sources stand beside them.
"""

import torch
from torch import nn
from torch.nn import functional as F

from host.tensor_ids import Noise, tensor_id
from host.torch import reference
from sim.model.initialise import uniform_weights
from sim.model.noise import key
from sim.model.update import MASTER_FRACTION

__all__ = ["Gcn", "ResNet", "Transformer", "draw", "mlp"]


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, norm, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = norm(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Sequential):
    """ResNet-(6 n + 2) of 16, 32 and 64 channels (He et al. 2016, section 4.2)."""

    def __init__(self, n, channels, classes, norm=reference.L1BatchNorm2d):
        layers = [nn.Conv2d(channels, 16, 3, 1, 1, bias=False), norm(16), nn.ReLU()]
        inputs = 16
        for outputs in (16, 32, 64):
            for i in range(n):
                layers.append(_Block(norm, inputs, outputs, 2 if outputs > 16 and not i else 1))
                inputs = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def mlp(features, hidden, classes, norm=reference.L1BatchNorm1d):
    """A perceptron with one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden, bias=False), norm(hidden),
                         nn.ReLU(), nn.Linear(hidden, classes))


class _Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = reference.L1LayerNorm(width), reference.L1LayerNorm(width)
        self.q, self.k, self.v, self.project = (nn.Linear(width, width) for _ in range(4))
        self.attend = reference.Attention(heads, causal=True)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.project(self.attend(self.q(y), self.k(y), self.v(y)))
        return x + self.narrow(F.relu(self.widen(self.norm2(x))))


class Transformer(nn.Module):
    """A causal character model, normalised first (Radford et al. 2019), with ReLU."""

    def __init__(self, vocabulary, context, width, layers, heads):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.norm = reference.L1LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, index, place):
        """Logits [n, tokens, vocabulary]."""
        x = self.tokens(index) + self.places(place)
        return self.head(self.norm(self.layers(x)))


class Gcn(nn.Module):
    """Two graph convolutions (Kipf and Welling 2017)."""

    def __init__(self, adjacency, features, hidden, classes):
        super().__init__()
        self.drop1, self.drop2 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.linear1 = nn.Linear(features, hidden, bias=False)
        self.linear2 = nn.Linear(hidden, classes, bias=False)
        self.near1 = reference.GraphConv(adjacency)
        self.near2 = reference.GraphConv(adjacency)

    def forward(self, x):
        x = F.relu(self.near1(self.linear1(self.drop1(x))))
        return self.near2(self.linear2(self.drop2(x)))


def draw(model, seed):
    """Draw initial weights, uniform of variance ``1 / fan_in``, by the project's hash."""
    number = 0
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            out, inner = module.weight.shape[0], module.weight[0].numel()
            fan_in = 4 if isinstance(module, nn.Embedding) else inner
            words = key(seed, 0, tensor_id(number, Noise.WEIGHT))
            k = uniform_weights(words, fan_in, inner * out // fan_in + 1).reshape(-1)
            k = k[:inner * out].reshape(inner, out).T
            with torch.no_grad():
                module.weight.copy_((torch.from_numpy(k.copy()) * 2.0**-MASTER_FRACTION)
                                    .view_as(module.weight))
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
            number += 1
    return model

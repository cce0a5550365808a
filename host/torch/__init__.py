"""The device's arithmetic for PyTorch: same bits, at tensor speed.

An extra: nothing else imports it. ``convert`` takes an existing model; the layers can also be
used as those of ``torch.nn``. Values are ``float32`` tensors that hold the integers of
:mod:`sim.model` times powers of two, on a processor or a GPU.
"""

from host.torch.captured import CapturedStep
from host.torch.convert import convert
from host.torch.errors import ConversionError, FormatError, LimitError, ShapeError
from host.torch.loss import cross_entropy
from host.torch.modules import (
    Attention,
    AvgPool2d,
    Conv2d,
    Dropout,
    Embedding,
    Fork,
    GlobalAvgPool2d,
    GraphConv,
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1LayerNorm,
    Linear,
    initialise,
    number_layers,
)
from host.torch.optim import SGD, masters

__all__ = [
    "SGD",
    "Attention",
    "AvgPool2d",
    "CapturedStep",
    "Conv2d",
    "ConversionError",
    "Dropout",
    "Embedding",
    "Fork",
    "FormatError",
    "GlobalAvgPool2d",
    "GraphConv",
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1LayerNorm",
    "LimitError",
    "Linear",
    "ShapeError",
    "convert",
    "cross_entropy",
    "initialise",
    "masters",
    "number_layers",
]

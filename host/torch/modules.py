"""Layers with the device's arithmetic, for use as those of ``torch.nn``.

A layer's random bits come from the key (seed, step, layer): ``seed`` and the layer's ``number``
are set by :func:`number_layers`, and ``step`` counts the layer's training passes and is part of
its state, as the seed is, so a resumed run goes on with the same bits.

An activation's scale follows the range of the whole batch, in evaluation too, as on the device:
what a sample gives depends on the others of its batch, unless it is a batch of its own.
"""

from math import isqrt
from numbers import Integral

import torch
from torch import nn

from hdl.params import NORM_FRACTION, PARAMETER_FRACTION
from host.tensor_ids import Noise, tensor_id
from host.torch import functions, keys
from host.torch.attention import Attend
from host.torch.errors import (
    FormatError,
    ShapeError,
    check_adjacency,
    check_bits,
    check_dtype,
    check_finite,
    check_format,
    check_groups,
    check_index,
    check_number,
    check_seed,
    check_state,
)
from host.torch.functions import Format
from host.torch.numbers import (
    divide_by_mantissa,
    element_noise,
    quantise,
    round_half_up,
    wide_power,
)
from sim.model.initialise import uniform_weights
from sim.model.noise import key
from sim.model.norm import RUNNING_FRACTION, RUNNING_SHIFT
from sim.model.update import MASTER_FRACTION

__all__ = ["Attention", "AvgPool2d", "Conv2d", "Dropout", "Embedding", "Fork", "GlobalAvgPool2d",
           "GraphConv", "L1BatchNorm1d", "L1BatchNorm2d", "L1LayerNorm", "Layer", "Linear",
           "initialise", "number_layers"]



class Layer(nn.Module):
    """A layer that draws random bits."""

    def __init__(self):
        super().__init__()
        self.seed, self.number, self.step = 0, 0, 0

    def key(self, use):
        """The noise's key of this pass; ``use`` is a :class:`Noise`."""
        tensor = tensor_id(self.number, use)
        # A replay begins where its capture began, before this layer's earlier passes.
        later = keys.passes_of(self)
        return keys.take(lambda: key(self.seed, self.step + later, tensor))

    def _pass(self):
        self.step += self.training

    def get_extra_state(self):
        """The count of passes and the seed, part of the state dict."""
        return torch.tensor([self.step, self.seed])

    def set_extra_state(self, state):
        """Take up those of a state dict; older ones have the count alone."""
        self.step, *seed = state.reshape(-1).tolist()
        self.seed = seed[0] if seed else self.seed

    def _load_from_state_dict(self, state_dict, prefix, *args):
        check_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self):
        """What ``print`` shows of it."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._shown)

    _shown = ("number",)


def number_layers(model, seed=0):
    """Number the layers of a model in order and give them their seed; returns the model.

    A norm that takes the accumulators of the layer before it shares that layer's number.
    """
    check_seed(seed)
    number, before = -1, None
    for layer in model.modules():
        if isinstance(layer, Layer):
            shared = isinstance(layer, _L1BatchNorm) and getattr(before, "accumulators", False)
            number += not shared
            layer.number, layer.seed, before = number, seed, layer
    return model


def initialise(model, seed=0):
    """Number the layers and draw all initial weights from the seed; returns the model."""
    for layer in number_layers(model, seed).modules():
        if isinstance(layer, Layer) and hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model


def _one(what, value):
    """The number that a pair repeats, or the number itself."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or pair[0] != pair[1]:
        raise FormatError(f"{what} must be the same in both directions, got {value}")
    return pair[0]


def _sizes(what, *values):
    """Refuse sizes of which no layer can be made."""
    for value in values:
        check_number(f"a size of {what}", int(value) if isinstance(value, Integral) else value,
                     1, 2**31 - 1)


def _ones(count, value=1.0):
    """A vector's first parameters, float32 whatever the program's own type is."""
    return nn.Parameter(torch.full((count,), value, dtype=torch.float32))


class _Weighted(Layer):
    """What Linear and Conv2d share: a weight, a format, and the convolution."""

    function = functions.Convolution

    def __init__(self, shape, bias, bits, groups, input_bits, gradient_bits, signed,
                 accumulators, clip, weight_clip):
        super().__init__()
        gradient_bits = bits if gradient_bits == "bits" else gradient_bits
        self.form = check_format(Format(bits, gradient_bits,
                                        bits if input_bits is None else input_bits, signed,
                                        check_groups(groups), clip, weight_clip))
        self.accumulators = accumulators
        _sizes(type(self).__name__, *shape)
        self.weight = nn.Parameter(torch.empty(shape, dtype=torch.float32))
        self.bias = _ones(shape[0], 0.0) if bias else None
        self.reset_parameters()

    _shown = ("number", "form")

    def reset_parameters(self):
        """Uniform weights of variance ``1 / fan_in`` from the layer's seed and number."""
        out, inner = self.weight.shape[0], self.weight[0].numel()
        words = key(self.seed, 0, tensor_id(self.number, Noise.WEIGHT))
        k = torch.from_numpy(uniform_weights(words, inner, out).T.copy())
        with torch.no_grad():
            self.weight.copy_((k.double() * 2.0**-MASTER_FRACTION).view_as(self.weight))
            if self.bias is not None:
                self.bias.zero_()

    def _product(self, x, weight, stride=1, padding=0):
        check_finite(self, x)
        y, exponent, mantissa = self.function.apply(
            x, weight, self.bias, stride, padding, self.form, self.accumulators,
            self.key(Noise.GRADIENT))
        self._pass()
        return y, (exponent, mantissa)

    def _marked(self, y, scale):
        """What a norm needs to know of the accumulators goes with them."""
        if self.accumulators:
            y.scale = scale
        return y


class Conv2d(_Weighted):
    """A convolution of quantised operands; square strides and paddings, no dilation, no groups.

    Parameters
    ----------
    bits, groups : int, (int, int)
        Width of weights (2..8), and sample x channel groups of the gradient.
    input_bits : int or None
        Width of the input's codes, in digits of ``bits`` on the array; None: ``bits``.
    gradient_bits : int or None
        Width of the gradient's codes; None leaves gradients in float.
    signed : bool
        The input may be negative.
    accumulators : bool
        The output goes to an L1BatchNorm2d alone, which takes exact sums.
    clip : int or None
        Largest range of the input in quarters of its mean magnitude, 0 for its maximum, as sparse
        inputs need; None: by width (:mod:`sim.model.quantise`).
    weight_clip : int or None
        The same of the weights of an output channel.
    """
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True, *,
                 bits=4, groups=(4, 4), input_bits=None, gradient_bits="bits", signed=False,
                 accumulators=False, clip=None, weight_clip=None):
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if not isinstance(kernel, tuple | list) or len(kernel) != 2:
            raise FormatError(f"kernel_size must be a whole number or two, got {kernel_size}")
        steps = check_number("stride", _one("stride", stride), 1, 2**16)
        border = check_number("padding", _one("padding", padding), 0, 2**16)
        super().__init__((out_channels, in_channels, *kernel), bias, bits, groups, input_bits,
                         gradient_bits, signed, accumulators, clip, weight_clip)
        self.stride, self.padding = steps, border

    def forward(self, x):
        """[n, c, h, w] -> [n, out, h', w']."""
        if x.dim() != 4 or x.shape[1] != self.weight.shape[1]:
            raise ShapeError(f"{type(self).__name__} {self.number} takes [n, "
                             f"{self.weight.shape[1]}, h, w], got {list(x.shape)}")
        kernel = self.weight.shape[2:]
        if any(size + 2 * self.padding < k for size, k in zip(x.shape[2:], kernel, strict=True)):
            raise ShapeError(f"{type(self).__name__} {self.number} takes images of at least "
                             f"{list(kernel)} with a padding of {self.padding}, "
                             f"got {list(x.shape)}")
        x = x.contiguous(memory_format=torch.channels_last)
        return self._marked(*self._product(x, self.weight, self.stride, self.padding))


class Linear(_Weighted):
    """A matrix product of quantised operands; parameters as :class:`Conv2d`'s."""

    def __init__(self, in_features, out_features, bias=True, *, bits=4, groups=(4, 4),
                 input_bits=None, gradient_bits="bits", signed=False, accumulators=False,
                 clip=None, weight_clip=None):
        super().__init__((out_features, in_features), bias, bits, groups, input_bits,
                         gradient_bits, signed, accumulators, clip, weight_clip)

    def forward(self, x):
        """[..., in] -> [..., out]; every row is a sample to the groups."""
        if not x.dim() or x.shape[-1] != self.weight.shape[1]:
            raise ShapeError(f"Linear {self.number} takes [..., {self.weight.shape[1]}], "
                             f"got {list(x.shape)}")
        y, scale = self._product(x.reshape(-1, x.shape[-1], 1, 1), self.weight[:, :, None, None])
        return self._marked(y.reshape(*x.shape[:-1], -1), scale)


class _L1BatchNorm(Layer):
    def __init__(self, num_features):
        super().__init__()
        _sizes(type(self).__name__, num_features)
        self.weight, self.bias = _ones(num_features), _ones(num_features, 0.0)
        for name in ("running_mean", "running_deviation"):
            self.register_buffer(name, torch.zeros(num_features, dtype=torch.float64))

    def _apply(self, fn, recurse=True):
        """Statistics go to another device, but keep their 32 bits where ``fn`` changes types."""
        before = self.running_mean, self.running_deviation
        super()._apply(fn, recurse)
        device = self.running_mean.device
        self.running_mean, self.running_deviation = (x.to(device) for x in before)
        return self

    def _forward(self, x, exponent, mantissa):
        """x [samples, span, channels], and the scale of its integers per channel."""
        statistics = (None, None)
        if not self.training:
            unit = wide_power(NORM_FRACTION - exponent - RUNNING_FRACTION)
            statistics = [
                round_half_up(divide_by_mantissa(s * 2.0**RUNNING_FRACTION, mantissa) * unit)
                .clamp_(-2.0**31, 2.0**31 - 1).to(torch.int64)
                for s in (self.running_mean, self.running_deviation)]
        y, mean, deviation = functions.L1BatchNorm.apply(
            x, exponent, self.weight, self.bias, *statistics)
        if self.training:
            self._follow(mean * mantissa, deviation * mantissa, exponent - 2)
            self._pass()
        return y

    def _follow(self, mean, deviation, exponent):
        """Move the running statistics towards this batch's; the first batch sets them.

        :func:`sim.model.norm.follow`, on values.
        """
        unit = wide_power(exponent - NORM_FRACTION + RUNNING_FRACTION)
        for running, new in ((self.running_mean, mean), (self.running_deviation, deviation)):
            new = round_half_up(new.double() * unit).clamp_(-2.0**31, 2.0**31 - 1)
            if self.step:
                old = running * 2.0**RUNNING_FRACTION
                new = old + round_half_up((new - old) * 2.0**-RUNNING_SHIFT)
            running.copy_(new * 2.0**-RUNNING_FRACTION)

    def _integers(self, x):
        """The input, and exponent and mantissa of its scale per channel."""
        scale = getattr(x, "scale", None)
        if scale is not None:
            return x, *scale
        check_finite(self, x)
        exponent = torch.full((self.weight.numel(),), -PARAMETER_FRACTION, dtype=torch.int32,
                              device=x.device)
        return functions.Fixed.apply(x), exponent, torch.full_like(exponent, 4)

    _shown = ("number",)


class L1BatchNorm2d(_L1BatchNorm):
    """``gamma (x - mean) / mean|x - mean| + beta`` per channel over batch and positions."""

    def forward(self, x):
        """[n, c, h, w], best the sums of a Conv2d with ``accumulators``."""
        if x.dim() != 4 or x.shape[1] != self.weight.numel():
            raise ShapeError(f"L1BatchNorm2d {self.number} takes [n, {self.weight.numel()}, h, w]"
                             f", got {list(x.shape)}")
        n, c, h, w = x.shape
        x, *scale = self._integers(x)
        y = self._forward(x.permute(0, 2, 3, 1).reshape(n, h * w, c), *scale)
        return y.view(n, h, w, c).permute(0, 3, 1, 2)


class L1BatchNorm1d(_L1BatchNorm):
    """The same over the batch of [n, c]."""

    def forward(self, x):
        """[n, c], best the sums of a Linear with ``accumulators``."""
        if x.dim() != 2 or x.shape[1] != self.weight.numel():
            raise ShapeError(f"L1BatchNorm1d {self.number} takes [n, {self.weight.numel()}], "
                             f"got {list(x.shape)}")
        x, *scale = self._integers(x)
        return self._forward(x[:, None], *scale)[:, 0]


class L1LayerNorm(Layer):
    """``gamma (x - mean) / mean|x - mean| + beta`` over the channels of every token."""

    def __init__(self, num_features):
        super().__init__()
        _sizes("L1LayerNorm", num_features)
        self.weight, self.bias = _ones(num_features), _ones(num_features, 0.0)

    def forward(self, x):
        """[..., channels]."""
        if not x.dim() or x.shape[-1] != self.weight.numel():
            raise ShapeError(f"L1LayerNorm {self.number} takes [..., {self.weight.numel()}], "
                             f"got {list(x.shape)}")
        check_finite(self, x)
        rows = functions.Fixed.apply(x.reshape(-1, x.shape[-1]))
        return functions.L1LayerNorm.apply(rows, self.weight, self.bias).view_as(x)


class Fork(nn.Module):
    """``count`` views of one value, whose gradients are added as the device adds them."""

    def __init__(self, count=2):
        super().__init__()
        self.count = check_number("the count of Fork", count, 1, 2**16)

    def forward(self, x):
        """A tuple of ``count`` tensors."""
        return functions.Fork.apply(x, self.count)


class AvgPool2d(nn.Module):
    """The average over windows of ``size`` x ``size``, which do not overlap."""

    def __init__(self, size):
        super().__init__()
        pair = (size, size) if isinstance(size, int) else size
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise FormatError(f"the size of AvgPool2d must be a whole number or two, got {size}")
        _sizes("AvgPool2d", *pair)
        self.size = tuple(pair)

    def forward(self, x):
        """[n, c, h, w] -> [n, c, h // size, w // size]."""
        if x.dim() != 4 or x.shape[2] < self.size[0] or x.shape[3] < self.size[1]:
            raise ShapeError(f"AvgPool2d takes [n, c, h, w] of at least {list(self.size)}, "
                             f"got {list(x.shape)}")
        check_finite(self, x)
        return functions.AveragePool.apply(x, self.size)


class GlobalAvgPool2d(nn.Module):
    """The average over all positions."""

    def forward(self, x):
        """[n, c, h, w] -> [n, c, 1, 1]."""
        if x.dim() != 4:
            raise ShapeError(f"GlobalAvgPool2d takes [n, c, h, w], got {list(x.shape)}")
        check_finite(self, x)
        return functions.AveragePool.apply(x, tuple(x.shape[2:]))


class Embedding(Layer):
    """A row of a table for every index."""

    def __init__(self, num_embeddings, embedding_dim):
        super().__init__()
        _sizes("Embedding", num_embeddings, embedding_dim)
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim,
                                               dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform weights of variance 1 / 4."""
        words = key(self.seed, 0, tensor_id(self.number, Noise.WEIGHT))
        k = torch.from_numpy(uniform_weights(words, 4, self.weight.numel())[0])
        with torch.no_grad():
            self.weight.copy_((k.double() * 2.0**-MASTER_FRACTION).view_as(self.weight))

    def forward(self, index):
        """[...] -> [..., dim]."""
        check_dtype(f"the weights of Embedding {self.number}", self.weight)
        if not index.numel():
            raise ShapeError(f"Embedding {self.number} takes at least one index, "
                             f"got {list(index.shape)}")
        index = check_index(f"indices of Embedding {self.number}", index, len(self.weight))
        return functions.Lookup.apply(index, self.weight)


class Dropout(Layer):
    """Zeroes every element with probability 1/2 and doubles the others, in training."""

    def forward(self, x):
        """Any shape; random bits by row-major place."""
        if not x.dim():
            raise ShapeError(f"Dropout {self.number} takes [..., channels], got []")
        check_finite(self, x)
        if not self.training:
            return x
        noise = element_noise(self.key(Noise.GRADIENT), x.numel() // x.shape[-1], x.shape[-1],
                              x.device)
        self._pass()
        return x * ((noise.view(x.shape) & 0x8000 != 0).to(x.dtype) * 2.0)


class Attention(Layer):
    """Scaled dot-product attention of heads, its four products quantised.

    Parameters as :class:`Conv2d`'s; q, k and v [n, tokens, heads * width].
    """
    def __init__(self, heads, *, causal=False, bits=4, groups=(4, 4), gradient_bits="bits"):
        super().__init__()
        gradient_bits = bits if gradient_bits == "bits" else gradient_bits
        self.heads, self.causal = check_number("heads", heads, 1, 2**16), causal
        self.form = check_format(Format(bits, gradient_bits, bits, True, check_groups(groups)))

    _shown = ("number", "heads", "causal", "form")

    def forward(self, q, k, v):
        """[n, tokens, heads * width]."""
        if q.dim() != 3 or not q.shape == k.shape == v.shape:
            raise ShapeError(f"Attention {self.number} takes q, k and v of one shape [n, tokens, "
                             f"width], got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}")
        if q.shape[-1] % self.heads:
            raise ShapeError(f"Attention {self.number} takes a width that {self.heads} heads "
                             f"divide, got {q.shape[-1]}")
        for x in (q, k, v):
            check_finite(self, x)
        scale = isqrt((1 << 30) // (q.shape[-1] // self.heads))
        y = Attend.apply(q, k, v, self.heads, self.causal, scale, self.form,
                         self.key(Noise.GRADIENT), self.key(Noise.SECOND_GRADIENT))
        self._pass()
        return y


class GraphConv(Layer):
    """``A x`` for a fixed sparse matrix A of non-negative values, such as a normalised adjacency.

    ``adjacency`` is a sparse [n, n] tensor; it is quantised once, unsigned and to
    ``adjacency_bits`` bits, by default ``bits``. ``clip`` as :class:`Conv2d`'s; x may be logits,
    whose largest count, so its range is that of the maximum unless told otherwise.
    """
    def __init__(self, adjacency, *, bits=4, groups=(4, 4), gradient_bits="bits", signed=True,
                 adjacency_bits=None, clip=0):
        super().__init__()
        gradient_bits = bits if gradient_bits == "bits" else gradient_bits
        check_bits("bits", bits)
        adjacency_bits = (bits if adjacency_bits is None else
                          check_bits("adjacency_bits", adjacency_bits))
        self.form = check_format(Format(adjacency_bits, gradient_bits, bits, signed,
                                        check_groups(groups), clip))
        adjacency = check_adjacency(adjacency)
        self.nodes = len(adjacency)
        codes, exponent = quantise(adjacency.values().float(), bits=adjacency_bits, signed=False)
        self.register_buffer("index", adjacency.indices())
        self.register_buffer("codes", codes)
        self.register_buffer("exponent", exponent)

    _shown = ("number", "form")

    def forward(self, x):
        """[n, channels] -> [n, channels]."""
        if x.dim() != 2 or len(x) != self.nodes:
            raise ShapeError(f"GraphConv {self.number} takes [{self.nodes}, channels], "
                             f"got {list(x.shape)}")
        check_finite(self, x)
        y = functions.Neighbours.apply(x, self.index, self.codes, self.exponent, self.form,
                                       self.key(Noise.GRADIENT))
        self._pass()
        return y

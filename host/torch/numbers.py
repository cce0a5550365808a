"""The model's rounding, random bits and quantiser on tensors, bit for bit.

A tensor holds the *values* of the model's integers: ``k * 2**exponent`` as ``float32``, exact
because no integer here has more than 24 significant bits. Whatever is wider in between is
``float64``, which is exact below ``2**53``. Each function names its twin in :mod:`sim.model`.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import frexp

import torch

from host.torch import kernels
from sim.model.noise import ROUND_CONSTANT, ROUNDS
from sim.model.quantise import _DEEPEST, INVERSE
from sim.model.update import MASTER_FRACTION

__all__ = ["Quantised", "block_noise", "chunks", "divide_by_mantissa", "element_noise",
           "exponent_of", "largest_code", "normalise_columns", "power", "quantise",
           "quantise_gradient", "round_half_up", "round_keys", "round_stochastically",
           "scale_exponent", "wide_power"]

#: Elements that are worked on at once, so that what lies between stays in a processor's cache.
_CHUNK = 1 << 17
_POLYNOMIAL = 0x2D


def chunks(x):
    """Slices along the first axis of x: about ``_CHUNK`` elements each, on a GPU all at once."""
    count = x.shape[0]
    step = count if x.is_cuda else max(1, _CHUNK * count // max(1, x.numel()))
    return [slice(i, min(i + step, count)) for i in range(0, count, max(1, step))]


def round_half_up(x):
    """``floor(x + 1/2)`` in place, for x whose sum with 1/2 is exact."""
    return x.add_(0.5).floor_()


def exponent_of(x):
    """The smallest ``e`` with ``x < 2**e`` for positive x, int32; 0 for 0: ``bit_length``."""
    return torch.frexp(x)[1]


def _least_exponent(top, need):
    """The smallest ``s`` with ``top * 2**s >= need``; :func:`sim.model.quantise.least_exponent`."""
    fraction, exponent = torch.frexp(need)
    top_fraction, top_exponent = frexp(top)
    return exponent - top_exponent + (fraction > top_fraction)


def scale_exponent(largest, total, count, top, clip=0, unit=0):
    """:func:`sim.model.quantise.scale_exponent`, on values (float64): int32; that of zeros is
    ``unit``, the exponent of their integers."""
    zero = largest == 0
    if not clip:
        exponent = _least_exponent(top, largest)
    else:
        highest = _least_exponent(8 * top, 7 * largest)
        clipped = _least_exponent(32 * count * top, 7 * clip * total)
        exponent = torch.maximum(torch.minimum(highest, clipped), highest - _DEEPEST)
    return exponent.masked_fill(zero, unit)


def power(exponent):
    """``2**exponent`` of an integer tensor, float32."""
    return torch.exp2(exponent.to(torch.float32))


def wide_power(exponent):
    """``2**exponent`` of an integer tensor, float64."""
    return torch.exp2(exponent.double())


def largest_code(bits):
    """B, the largest magnitude of a signed code."""
    return 2 ** (bits - 1) - 1


def round_keys(words):
    """The key of every round of :func:`sim.model.noise.hash32`, as signed 16-bit numbers: a list,
    or int32 [rounds, n] for words [4, n]."""
    keys = [words[r % 4] + r // 4 * ROUND_CONSTANT for r in range(ROUNDS)]
    if isinstance(words, torch.Tensor):
        return (torch.stack(keys) & 0xFFFF ^ 0x8000) - 0x8000
    return [(k & 0xFFFF ^ 0x8000) - 0x8000 for k in keys]


def block_noise(counter, keys):
    """int16 [blocks, 8]: the bits of the eight places of the blocks with these int32 numbers.

    ``keys`` are :func:`round_keys`, each a number or an int16 tensor with a key per block. All
    arithmetic is that of 16-bit words, which wrap around.
    """
    x, y = (counter >> 16).to(torch.int16), counter.to(torch.int16)
    for k in keys:
        x = ((x << 9) | ((x >> 7) & 0x1FF)).add_(y).bitwise_xor_(k)
        y = ((y << 2) | ((y >> 14) & 3)).bitwise_xor_(x)
    noise = torch.empty((len(counter), 8), dtype=torch.int16, device=counter.device)
    noise[:, 0] = y
    for bit in range(3):
        half = 1 << bit
        torch.bitwise_xor(noise[:, :half], x[:, None], out=noise[:, half:2 * half])
        x = (x << 1).bitwise_xor_((x >> 15) & _POLYNOMIAL)
    return noise


def element_noise(words, rows, cols, device=None):
    """[rows, cols] of 16 random bits, int16 (on a GPU int32, from 0):
    :func:`sim.model.noise.element_noise`."""
    blocks = -(-cols // 8)
    if torch.device(device or "cpu").type == "cuda":
        index = torch.arange(rows * blocks * 8, dtype=torch.int32, device=device)
        noise = kernels.noise(index, words)
    else:
        counter = torch.arange(rows * blocks, dtype=torch.int32, device=device)
        noise = block_noise(counter, round_keys(words))
    return noise.view(rows, blocks * 8)[:, :cols]


def _threshold(noise):
    """``1 - (2 noise + 1) / 2**17`` of the 16-bit words in int16, float32.

    ``floor(t + (2 noise + 1) 2**-17)`` is ``floor(t)``, plus 1 if t's fraction is at least this.
    """
    unsigned = noise.to(torch.float32)
    unsigned += (unsigned < 0) * 65536.0
    return unsigned.mul_(-(2.0**-16)).add_(1 - 2.0**-17)


@dataclass(frozen=True)
class Quantised:
    """Value of an element: ``codes * 2**(exponent - rows - cols)``; codes are float32 integers.

    ``exponent`` is an int32 scalar, ``rows`` [samples] and ``cols`` [channels] are int32 groups.
    """
    codes: torch.Tensor
    exponent: torch.Tensor
    rows: torch.Tensor
    cols: torch.Tensor


def quantise(x, *, bits, signed, clip=0, dims=None, unit=0):
    """Nearest rounding, one scale for the tensor or one for every index outside ``dims``.

    :func:`sim.model.quantise.quantise` of integers in units of ``2**unit``; returns ``(codes,
    exponent)`` with the exponent's shape broadcasting against x when ``dims`` are given.
    """
    top = largest_code(bits) if signed else 2**bits - 1
    if dims is None:
        low, high = torch.aminmax(x)
        largest = torch.maximum(high, -low).double()
        total = (x.sum(dtype=torch.float64) if not signed else
                 torch.linalg.vector_norm(x, 1, dtype=torch.float64)) if clip else largest
        count = x.numel()
    else:
        magnitude = x.abs()
        largest = magnitude.amax(dims, keepdim=True).double()
        total = magnitude.sum(dims, keepdim=True, dtype=torch.float64)
        count = x.numel() // largest.numel()
    exponent = scale_exponent(largest, total, count, top, clip, unit)
    codes = x * power(-exponent)
    # Clamped first, so that adding a half is exact.
    codes.clamp_(-top if signed else 0, top)
    return round_half_up(codes), exponent


@lru_cache
def _inverse(device):
    return torch.as_tensor(INVERSE, dtype=torch.float64, device=device)


def _quarter_steps(top, need):
    """:func:`sim.model.quantise._quarter_steps` on values."""
    e = _least_exponent(top, need)
    steps, unit = torch.full_like(e, 4), wide_power(e)
    for m in (7, 6, 5):
        steps = torch.where(8 * need <= top * m * unit, m - 4, steps)
    return 4 * e + steps


def normalise_columns(weight, bits, clip):
    """:func:`sim.model.quantise.normalise_columns` of masters [out, ...]: ``(scaled, mantissa)``,
    the mantissa int32 [out, 1, ...]."""
    dims = tuple(range(1, weight.dim()))
    top = largest_code(bits)
    a = weight.abs().double()
    largest, total = a.amax(dims, keepdim=True), a.sum(dims, keepdim=True)
    empty = largest == 0
    largest, total = largest.masked_fill(empty, 1), total.masked_fill(empty, 1)
    steps = _quarter_steps(top, largest)
    if clip:
        steps = torch.minimum(steps, _quarter_steps(4 * weight[0].numel() * top, clip * total))
    mantissa = (4 + steps % 4).masked_fill(empty, 4)
    inverse = _inverse(weight.device)[mantissa.long()]
    scaled = torch.floor(weight.double() * 2.0**MASTER_FRACTION * inverse * 2.0**-16)
    return scaled.mul_(2.0**-MASTER_FRACTION).float(), mantissa


def divide_by_mantissa(x, mantissa):
    """``x / (mantissa / 4)`` of integers, float64, rounded down to 12 bits finer units;
    :func:`sim.model.quantise.divide_by_mantissa`."""
    return torch.div(x.double() * 2.0**14, mantissa, rounding_mode="floor").mul_(2.0**-12)


def quantise_gradient(x, *, bits, groups, words):
    """Separable ShiftQuant with stochastic rounding of x [samples, span, channels].

    :func:`sim.model.quantise.quantise` of the [samples * span, channels] matrix with ``span``
    rows a sample; ``words`` is the noise's key. Groups of ``(1, 1)`` are one scale for the tensor.
    """
    top = largest_code(bits)
    magnitude = torch.empty_like(x)
    torch.abs(x, out=magnitude)
    by_sample = magnitude.amax((1, 2))
    exponent = scale_exponent(by_sample.amax().double(), None, 1, top)
    # Where the gradient is not finite, all codes are NaN, and the optimiser refuses them.
    poison = by_sample.amax() * 0.0
    rows = _largest_group(by_sample, exponent, top, groups[0])
    if groups[0] > 1:
        magnitude *= power(rows)[:, None, None]
    cols = _largest_group(magnitude.amax((0, 1)), exponent, top, groups[1])
    codes = torch.mul(x, (power(rows - exponent) + poison)[:, None, None], out=magnitude)
    if groups[1] > 1:
        codes *= power(cols)
    return Quantised(round_stochastically(codes, words), exponent, rows, cols)


def round_stochastically(t, words):
    """``floor(t + (2 noise + 1) 2**-17)`` of t [samples, span, channels], in place or not;
    :func:`sim.model.quantise.round_code`."""
    samples, span, channels = t.shape
    noise = element_noise(words, samples * span, channels, t.device).view(t.shape)
    if t.is_cuda:
        return kernels.round_up_where(t, noise)
    for part in chunks(t):
        x = t[part]
        floor = x.floor()
        up = x.sub_(floor) >= _threshold(noise[part])
        x.copy_(floor.add_(up))
    return t


def _largest_group(magnitude, exponent, top, groups):
    """:func:`sim.model.quantise.largest_group`, int32."""
    fits = exponent - _least_exponent(top, magnitude.double())
    return fits.clamp_(0, groups - 1).masked_fill_(magnitude == 0, groups - 1)

"""Softmax and cross-entropy in integers; :mod:`sim.model.softmax`, bit for bit."""

import torch

from hdl.params import PARAMETER_FRACTION
from host.torch.errors import LimitError, ShapeError, check_dtype, check_index, check_range
from sim.model.softmax import (
    _LN_2,
    _LOG2_E,
    _ROOTS,
    LOGIT_FRACTION,
    LOSS_FRACTION,
    PROBABILITY_FRACTION,
)

__all__ = ["cross_entropy", "exponential", "softmax"]

#: Logits, 24 bits of which 12 are fraction, lie from the negative of this to below it.
_LIMIT = 2.0**11


def exponential(t):
    """``2**30 exp(-t)`` of int64 ``t >= 0`` with ``LOGIT_FRACTION`` fraction bits."""
    u = t * _LOG2_E >> LOGIT_FRACTION
    value = torch.full_like(u, 1 << 30)
    for j, root in enumerate(_ROOTS):
        value = torch.where((u >> (15 - j) & 1).bool(), value * root >> 30, value)
    return value >> (u >> 16).clamp_(max=62)


def softmax(logits):
    """``floor(2**22 p)`` over the last axis of int64 logits."""
    e = exponential(logits.amax(-1, keepdim=True) - logits)
    return (e << PROBABILITY_FRACTION) // e.sum(-1, keepdim=True)


def _logarithm(x):
    length = torch.frexp(x.double())[1].to(torch.int64)
    mantissa = torch.where(length > 31, x >> (length - 31).clamp_min(0),
                           x << (31 - length).clamp_min(0))
    log2 = (length - 31) << 16
    for j in range(16):
        mantissa = mantissa * mantissa >> 30
        high = mantissa >> 31
        log2 += high << (15 - j)
        mantissa = mantissa >> high
    return log2 * _LN_2 >> 16


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        k = (logits.double() * 2.0**PARAMETER_FRACTION).to(torch.int64)
        m = len(labels)
        t = k.amax(1, keepdim=True) - k
        label = labels[:, None]
        losses = _logarithm(exponential(t).sum(1)) + (
            t.gather(1, label)[:, 0] << LOSS_FRACTION - LOGIT_FRACTION)
        p = softmax(k).scatter_add_(1, label, torch.full_like(
            label, -(1 << PROBABILITY_FRACTION)))
        shift = (m - 1).bit_length()
        gradient = torch.div(p << shift, m, rounding_mode="floor")
        ctx.save_for_backward(gradient.float().mul_(2.0 ** (-PROBABILITY_FRACTION - shift)))
        return losses.sum().double().div(m * 2.0**LOSS_FRACTION).float()

    @staticmethod
    def backward(ctx, dy):
        return ctx.saved_tensors[0] * dy, None


def cross_entropy(logits, labels):
    """The mean cross-entropy of logits [m, classes] that a Linear left, and labels [m].

    Its gradient is exactly :func:`sim.model.softmax.cross_entropy`'s.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        raise ShapeError("cross_entropy takes logits [m, classes] and labels [m], "
                         f"got {list(logits.shape)} and {list(labels.shape)}")
    check_dtype("logits", logits)
    labels = check_index("labels", labels, logits.shape[1])
    check_range(logits, _check_logits)
    return _CrossEntropy.apply(logits, labels)


def _check_logits(low, high):
    if not (low >= -_LIMIT and high < _LIMIT):
        raise LimitError(f"logits must lie between -{_LIMIT:g} and {_LIMIT:g}, "
                         f"got values from {low:g} to {high:g}")

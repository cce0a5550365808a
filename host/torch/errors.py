"""Refusals, each a sentence that names the layer, the limit and what was given."""

import torch

from hdl.params import GROUP_CHOICES
from host.errors import HostError
from host.torch import keys

__all__ = ["ConversionError", "FormatError", "LimitError", "ShapeError", "check_finite",
           "check_format", "check_range", "settle"]

#: Wide activations lie below this.
_LIMIT = 2.0**11
#: Ranges that a GPU has been asked for and nobody has looked at: ``(range, check)``.
_pending = []
_MOST_PENDING = 256


class FormatError(HostError, ValueError):
    """A width or a number of groups is out of range."""


class ShapeError(HostError, ValueError):
    """Shapes do not agree."""


class LimitError(HostError, ValueError):
    """A value is not finite, or too large for the device's numbers."""


class ConversionError(HostError, TypeError):
    """A module has no twin on the device."""


def check_format(form):
    """The format itself if the device has it."""
    for name, value, low, high in (("bits", form.bits, 2, 8),
                                   ("input_bits", form.input_bits, 2, 8),
                                   ("gradient_bits", form.gradient_bits, 2, 8)):
        if name == "gradient_bits" and value is None:
            continue
        if not isinstance(value, int) or not low <= value <= high:
            raise FormatError(f"{name} must be a whole number from {low} to {high}, got {value}")
    for name, value in (("clip", form.clip), ("weight_clip", form.weight_clip)):
        if value is not None and (not isinstance(value, int) or not 0 <= value <= 255):
            raise FormatError(f"{name} must be a whole number from 0 to 255, got {value}")
    if len(form.groups) != 2 or any(g not in (*GROUP_CHOICES, 16, 32) for g in form.groups):
        raise FormatError("groups must be (samples, channels), each one of 1, 2, 4, 8 (16 and 32 "
                          f"for comparison), got {form.groups}")
    return form


def check_finite(layer, x):
    """Refuse what no activation of the device could be."""
    name = f"{type(layer).__name__} {layer.number}"
    if not x.numel():
        raise ShapeError(f"{name} takes at least one element, got {list(x.shape)}")
    form = getattr(layer, "form", None)
    check_range(x, lambda low, high: _check_activation(name, form, low, high))


def check_range(x, check):
    """Call ``check(smallest, largest)`` of x: at once, or for a GPU, which would have to be waited
    for, no later than the optimiser's next step (:func:`settle`)."""
    low, high = torch.aminmax(x.detach())
    if not x.is_cuda:
        check(low.item(), high.item())
        return
    record = keys.recording()
    if record:
        record.watch(low, high, check)
        return
    _pending.append((torch.stack((low, high)).double(), check))
    if len(_pending) >= _MOST_PENDING:
        settle()


def settle():
    """Make the checks that wait for a GPU; every optimiser does before it changes a weight."""
    waiting = _pending.copy()
    _pending.clear()
    by_device = {}
    for extent, check in waiting:
        by_device.setdefault(extent.device, []).append((extent, check))
    for some in by_device.values():
        extents = torch.stack([extent for extent, _ in some]).tolist()
        for (low, high), (_, check) in zip(extents, some, strict=True):
            check(low, high)


def _check_activation(name, form, low, high):
    if not (low > -_LIMIT and high < _LIMIT):
        raise LimitError(f"the input of {name} must lie between -{_LIMIT:g} and {_LIMIT:g}, "
                         f"got values from {low:g} to {high:g}")
    if low < 0 and form is not None and not form.signed:
        raise LimitError(f"the input of {name} must not be negative because the layer was built "
                         f"with signed=False, got {low:g}: build it with signed=True")

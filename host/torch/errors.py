"""Refusals, each a sentence that names the layer, the limit and what was given."""

from numbers import Integral

import torch

from hdl.params import GROUP_CHOICES
from host.errors import HostError
from host.torch import keys
from sim.model.update import MASTER_BITS, MASTER_FRACTION

__all__ = ["ConversionError", "FormatError", "LimitError", "ShapeError", "check_adjacency",
           "check_between", "check_bits", "check_dtype", "check_finite", "check_format",
           "check_groups", "check_index", "check_number", "check_range", "check_seed",
           "check_state", "settle"]

#: Wide activations lie below this.
_LIMIT = 2.0**11
#: Ranges that a GPU has been asked for and nobody has looked at: ``(range, check)``.
_pending = []
_MOST_PENDING = 256
#: What numbers of a state dict lie between, by the last part of their name.
_STATE_LIMITS = {"weight": 2.0 ** (MASTER_BITS - 1 - MASTER_FRACTION),
                 "bias": 2.0 ** (MASTER_BITS - 1 - MASTER_FRACTION),
                 "running_mean": 2.0**15, "running_deviation": 2.0**15}


class FormatError(HostError, ValueError):
    """A width, a count or a type of numbers is not one of the device's."""


class ShapeError(HostError, ValueError):
    """Shapes do not agree."""


class LimitError(HostError, ValueError):
    """A value is not finite, or too large for the device's numbers."""


class ConversionError(HostError, TypeError):
    """A module has no twin on the device."""


def check_number(name, value, low, high):
    """The value itself if it is a whole number in the range."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FormatError(f"{name} must be a whole number from {low} to {high}, got {value}")
    return value


def check_bits(name, value):
    """The width itself if the device has it."""
    return check_number(name, value, 2, 8)


def check_seed(seed):
    """The seed itself if it is one."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise FormatError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed}")
    return seed


def check_groups(groups):
    """``(samples, channels)`` if the device has such groups."""
    if (not isinstance(groups, tuple | list) or len(groups) != 2
            or any(not isinstance(g, Integral) or isinstance(g, bool)
                   or g not in (*GROUP_CHOICES, 16, 32) for g in groups)):
        raise FormatError("groups must be (samples, channels), each one of 1, 2, 4, 8 (16 and 32 "
                          f"for comparison), got {groups!r}")
    return tuple(int(g) for g in groups)


def check_format(form):
    """The format itself if the device has it."""
    check_bits("bits", form.bits)
    check_bits("input_bits", form.input_bits)
    if form.gradient_bits is not None:
        check_bits("gradient_bits", form.gradient_bits)
    for name, value in (("clip", form.clip), ("weight_clip", form.weight_clip)):
        if value is not None:
            check_number(name, value, 0, 255)
    check_groups(form.groups)
    return form


def _name(layer):
    number = getattr(layer, "number", None)
    return type(layer).__name__ if number is None else f"{type(layer).__name__} {number}"


def check_dtype(what, x):
    """Refuse all but float32, in which values travel."""
    if x.dtype != torch.float32:
        raise FormatError(f"{what} must be float32, which holds the device's integers, got "
                          f"{str(x.dtype).removeprefix('torch.')}: call .float()")


def check_finite(layer, x):
    """Refuse what no activation of the device could be."""
    name = _name(layer)
    if not x.numel():
        raise ShapeError(f"{name} takes at least one element, got {list(x.shape)}")
    check_dtype(f"the input of {name}", x)
    for parameter in layer.parameters(recurse=False):
        check_dtype(f"the weights of {name}", parameter)
    form = getattr(layer, "form", None)
    check_range(x, lambda low, high: _check_activation(name, form, low, high))


def check_index(what, x, count):
    """x as int64 if it holds whole numbers from 0 to ``count - 1``.

    Until a GPU's answer is looked at, a bad one must not lead astray.
    """
    if x.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        raise FormatError(f"{what} must be whole numbers such as int64, got "
                          f"{str(x.dtype).removeprefix('torch.')}")

    def check(low, high):
        if low < 0 or high >= count:
            raise LimitError(f"{what} must lie between 0 and {count - 1}, "
                             f"got {low:.0f} to {high:.0f}")
    x = x.long()
    check_range(x, check)
    return x.clamp(0, count - 1)


def check_between(what, x, limit):
    """Refuse, at once, values outside ``[-limit, limit)``."""
    if x.numel():
        low, high = (float(value) for value in torch.aminmax(x.detach()))
        if not (low >= -limit and high < limit):
            raise LimitError(f"{what} must lie between -{limit:g} and {limit:g}, "
                             f"got values from {low:g} to {high:g}")


def check_state(state, prefix="", *_):
    """Refuse a state dict, of which names that begin with the prefix count, whose numbers the
    device could not hold; the arguments are those of a hook of ``load_state_dict``."""
    for name, value in state.items():
        limit = _STATE_LIMITS.get(name.rpartition(".")[2])
        if limit and name.startswith(prefix) and isinstance(value, torch.Tensor):
            check_between(name, value, limit)


def check_adjacency(adjacency):
    """A coalesced copy of an adjacency if it is one."""
    if (not isinstance(adjacency, torch.Tensor) or adjacency.layout != torch.sparse_coo
            or adjacency.dim() != 2 or adjacency.shape[0] != adjacency.shape[1]):
        got = (f"{adjacency.layout} {list(adjacency.shape)}".removeprefix("torch.")
               if isinstance(adjacency, torch.Tensor) else type(adjacency).__name__)
        raise ShapeError(f"an adjacency must be a sparse_coo tensor [n, n], got {got}: "
                         "Tensor.to_sparse_coo makes one")
    adjacency = adjacency.coalesce()
    values = adjacency.values()
    if not values.numel():
        raise ShapeError("an adjacency must have at least one value, got none")
    low, high = (float(value) for value in torch.aminmax(values))
    if not (low >= 0 and high < float("inf")):
        raise LimitError("the values of an adjacency must be finite and not negative, got values "
                         f"from {low:g} to {high:g}")
    return adjacency


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
                         f"with signed=False, got {low:g}: build it with signed=True, or "
                         "convert the model with signed_input=True")

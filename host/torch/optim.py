"""Stochastic gradient descent in integers; :func:`sim.model.update.sgd`, bit for bit."""

from numbers import Real

import torch
from torch import nn

from host.tensor_ids import Noise, tensor_id
from host.torch import keys
from host.torch.errors import (
    ConversionError,
    FormatError,
    LimitError,
    check_between,
    check_number,
    check_range,
    settle,
)
from host.torch.modules import Layer
from host.torch.numbers import block_noise, round_keys
from sim.model.noise import key
from sim.model.update import (
    DECAY_SHIFT,
    GRADIENT_FRACTION,
    MASTER_BITS,
    MASTER_FRACTION,
    MOMENTUM,
    MOMENTUM_SHIFT,
    VELOCITY_FRACTION,
)

__all__ = ["SGD", "masters"]

#: A rate is ``rate * 2**-_RATE_SHIFT``.
_RATE_SHIFT = 12
#: Gradients below this are safe in the update's int64; velocities saturate long before.
_GRADIENT_LIMIT = 2.0**20


def _integers(values, fraction):
    return (values.double() * 2.0**fraction).to(torch.int64)


def _round_code(x, shift, noise):
    """``x * 2**shift``, stochastically; :func:`sim.model.quantise.round_code`."""
    shift += 17
    z = x << shift if shift >= 0 else x >> -shift
    return (z + 2 * noise + 1) >> 17


class SGD(torch.optim.Optimizer):
    """Momentum about 0.9 and weight decay on masters of 24 bits, rounded stochastically.

    Gradients that are no multiples of ``2**-22``, as clipping their norm or a layer with
    ``gradient_bits=None`` leaves them, are rounded towards zero. No weight changes where one of
    them is not finite.

    Parameters
    ----------
    model : nn.Module
        Its parameters are trained; they belong to the layers of :mod:`host.torch`.
    lr : float
        Rounded to a multiple of ``2**-12``, at least one.
    weight_decay : float
        Rounded to a multiple of ``2**-16``.
    momentum : float
        Rounded to a multiple of ``2**-8``.
    master, speed : (int, int)
        Bits and fraction bits of masters and velocities; masters lie below 8.
    """
    def __init__(self, model, lr, *, weight_decay=0.0, momentum=MOMENTUM / 2**MOMENTUM_SHIFT,
                 master=(MASTER_BITS, MASTER_FRACTION), speed=(MASTER_BITS, VELOCITY_FRACTION)):
        if not isinstance(model, nn.Module):
            raise ConversionError("SGD takes the model itself, as in SGD(model, lr), got "
                                  f"{type(model).__name__}")
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "step": 0}
        _check_options(options)
        if not lr > 0:
            raise LimitError(f"lr must lie between 0 and 1, got {lr}")
        # Masters stay within those of a state dict; what is shifted by the difference of the
        # fractions must fit int64.
        self._master = _check_widths("master", master, lambda bits: max(6, bits - 4), 24)
        self._speed = _check_widths("speed", speed, lambda bits: 4, min(24, self._master[1] + 8))
        self._places, self._names = {}, {p: name for name, p in model.named_parameters()}
        if not self._names:
            raise ConversionError(f"SGD takes a model with parameters, {type(model).__name__} has "
                                  "none")
        self._layouts = {}
        for layer in model.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                if not isinstance(layer, Layer):
                    raise ConversionError(f"{type(layer).__name__} has the parameter {name!r}, "
                                          "which this optimiser does not know: convert the model "
                                          "first")
                use = self._use(layer, name)
                self._places.setdefault(parameter, (layer, use))
        super().__init__(list(self._places), options)

    @staticmethod
    def _use(layer, name):
        matrix = layer.get_parameter(name).dim() > 1
        if name == "weight":
            return Noise.WEIGHT_UPDATE if matrix else Noise.GAMMA_UPDATE
        return Noise.BETA_UPDATE

    @torch.no_grad()
    def step(self, closure=None):
        """One step; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # In a captured step they are checked before the update is replayed.
        if not keys.recording():
            self.check_gradients()
        settle()
        for group in self.param_groups:
            _check_options(group)
        for group in self.param_groups:
            parameters = tuple(p for p in group["params"] if p.grad is not None)
            if parameters:
                self._update(parameters, group)
            group["step"] += 1
        return loss

    def add_param_group(self, param_group):
        """A group of parameters of the model."""
        parameters = param_group["params"]
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        if any(p not in self._places for p in parameters):
            raise ConversionError("SGD takes parameters of its own model alone, got others")
        super().add_param_group({**param_group, "params": parameters})

    def load_state_dict(self, state_dict):
        """Take up a state, unless it has velocities that the device could not hold."""
        bits, fraction = self._speed
        for number, state in state_dict["state"].items():
            if "velocity" not in state:
                raise ConversionError("SGD takes up a state of its own, which has velocities, got "
                                      f"{' and '.join(map(str, state))}")
            check_between(f"velocity {number}", state["velocity"], 2.0 ** (bits - 1 - fraction))
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def check_gradients(self):
        """Refuse gradients that are not finite: at once, or for a GPU with :func:`settle`."""
        some = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if some:
            check_range(_flat([p.grad for p in some]), self._check_range)

    def _check_range(self, low, high):
        if _in_range(low, high):
            return
        for parameter, name in self._names.items():
            if parameter.grad is not None and parameter.grad.numel():
                extent = [float(x) for x in torch.aminmax(parameter.grad)]
                if not _in_range(*extent):
                    raise LimitError(f"the gradient of {name} must lie between "
                                     f"-{_GRADIENT_LIMIT:.0f} and {_GRADIENT_LIMIT:.0f}, got "
                                     f"values from {extent[0]:g} to {extent[1]:g}")
        raise LimitError(f"gradients must lie between -{_GRADIENT_LIMIT:.0f} and "
                         f"{_GRADIENT_LIMIT:.0f}, got values from {low:g} to {high:g}")

    def _update(self, parameters, group):
        """All parameters at once: on a GPU every operation costs its launch."""
        rate = keys.take_number(lambda: max(1, round(group["lr"] * 2**_RATE_SHIFT)))
        decay = keys.take_number(lambda: round(group["weight_decay"] * 2**DECAY_SHIFT))
        momentum = keys.take_number(lambda: round(group["momentum"] * 2**MOMENTUM_SHIFT))
        (bits, fraction), (speed_bits, speed_fraction) = self._master, self._speed
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["velocity"] = torch.zeros_like(parameter, dtype=torch.float32)
        velocities = [self.state[parameter]["velocity"] for parameter in parameters]
        if parameters not in self._layouts:
            self._layouts[parameters] = Layout(parameters, [self._places[p] for p in parameters])
        layout = self._layouts[parameters]
        noise = layout.noise(group)
        weight = _integers(_flat(parameters), fraction)
        total = fraction + DECAY_SHIFT
        z = ((_integers(_flat(velocities), speed_fraction) * momentum
              << total - MOMENTUM_SHIFT - speed_fraction)
             + (_integers(_flat([p.grad for p in parameters]), GRADIENT_FRACTION)
                << total - GRADIENT_FRACTION)
             + weight * (layout.decays * decay))
        velocity = _round_code(z, speed_fraction - total, 0xFFFF - noise)
        velocity.clamp_(-(1 << speed_bits - 1), (1 << speed_bits - 1) - 1)
        weight -= _round_code(rate * velocity, fraction - speed_fraction - _RATE_SHIFT, noise)
        weight.clamp_(-(1 << bits - 1), (1 << bits - 1) - 1)
        layout.scatter(velocity.double() * 2.0**-speed_fraction, velocities)
        layout.scatter(weight.double() * 2.0**-fraction, parameters)


def _in_range(low, high):
    return low > -_GRADIENT_LIMIT and high < _GRADIENT_LIMIT


def _check_options(group):
    """Refuse rates that the device has not; schedulers may take a rate to 0, which counts as the
    smallest."""
    for name, fits, limits in (
            ("lr", lambda x: 0 <= x < 1, "lie between 0 and 1"),
            ("weight_decay", lambda x: 0 <= x < 2.0**-4, "be at least 0 and below 0.0625"),
            ("momentum", lambda x: 0 <= x <= 1, "lie between 0 and 1")):
        if not isinstance(group[name], Real) or not fits(group[name]):
            raise LimitError(f"{name} must {limits}, got {group[name]}")


def _check_widths(name, widths, low, high):
    """``(bits, fraction bits)`` if float32 and the update's int64 hold them."""
    if not isinstance(widths, tuple | list) or len(widths) != 2:
        raise FormatError(f"{name} must be (bits, fraction bits), got {widths}")
    bits = check_number(f"the bits of {name}", widths[0], 2, 24)
    return bits, check_number(f"the fraction bits of {name}", widths[1], low(bits), high)


def _flat(tensors):
    return torch.cat([x.reshape(-1) for x in tensors])


class Layout:
    """Several parameters one after the other: where each element's random bits are.

    Noise goes by the place in the logical [in, out] matrix; a vector is one row.
    """

    def __init__(self, parameters, places):
        device = parameters[0].device
        self._places = places
        self._sizes = [p.numel() for p in parameters]
        self._shapes = [p.shape for p in parameters]
        counters, owners, index, decays, start = [], [], [], [], 0
        for number, (parameter, (_, use)) in enumerate(zip(parameters, places, strict=True)):
            out = parameter.shape[0]
            inner = parameter[0].numel() if parameter.dim() > 1 else 1
            blocks = -(-out // 8)
            counters.append(torch.arange(inner * blocks, dtype=torch.int32))
            owners.append(torch.full((inner * blocks,), number))
            at = torch.arange(inner)[:, None] * (8 * blocks) + torch.arange(out)
            index.append(8 * start + at.T.reshape(-1))
            decays.append(torch.full((inner * out,), int(use == Noise.WEIGHT_UPDATE)))
            start += inner * blocks
        self._counter, self._owner, self._index, self.decays = (
            torch.cat(parts).to(device) for parts in (counters, owners, index, decays))

    def noise(self, group):
        """int64 bits from 0 to 65535 of every element at the group's step."""
        def maker(layer, use):
            return lambda: key(layer.seed, group["step"], tensor_id(layer.number, use))
        words = keys.take_all([maker(*place) for place in self._places], self._counter.device)
        of_rounds = round_keys(words.T).to(torch.int16)[:, self._owner]
        noise = block_noise(self._counter, of_rounds).view(-1)
        return noise[self._index].to(torch.int64) & 0xFFFF

    def scatter(self, flat, tensors):
        """Copy the elements back to their tensors."""
        for part, shape, x in zip(flat.split(self._sizes), self._shapes, tensors, strict=True):
            x.copy_(part.view(shape))


def masters(model):
    """The masters of a model as int64 tensors of ``MASTER_FRACTION`` bits, by name."""
    return {name: _integers(parameter.detach(), MASTER_FRACTION)
            for name, parameter in model.named_parameters()}

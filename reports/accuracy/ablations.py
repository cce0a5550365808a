"""Arithmetic that the device has not, to measure what each of its rules is worth."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from host.torch import functions, numbers, optim
from host.torch.numbers import divide_by_mantissa, power, quantise_gradient, wide_power

__all__ = ["CHANGES", "Change", "changed"]


def _layers(model):
    return (layer for layer in model.modules() if hasattr(layer, "function"))


class _TwoCopies(functions.Convolution):
    """The gradient quantised twice: by channels for dX, by samples for dW."""

    @staticmethod
    def backward(ctx, dy, _exponent, _mantissa):
        u, q, e_u, e_w, mantissa = ctx.saved_tensors
        stride, padding, form, words, biased, accumulators = ctx.options
        n, out, height, width = dy.shape
        folded = dy.permute(0, 2, 3, 1).reshape(n, height * width, out)
        dbias = None
        if biased:
            dbias = functions.gradient_of_master(folded.sum((0, 1), dtype=torch.float64))
        folded = folded * power(e_w.view(-1))
        if not accumulators:
            folded = folded * (mantissa.view(-1) * 0.25)

        def quantised(groups):
            options = stride, padding, replace(form, groups=groups)
            return quantise_gradient(folded, bits=form.gradient_bits, groups=groups,
                                     words=words), options
        dx = None
        if ctx.needs_input_grad[0]:
            g, options = quantised((1, form.groups[1]))
            dx = functions.input_gradient(g, u.shape, q, dy.shape, options)
            dx = functions.unclipped(dx, u, form.input_bits, form.signed)
        g, options = quantised((form.groups[0], 1))
        dweight, shift = functions.weight_gradient(g, u, q.shape, dy.shape, options)
        unit = g.exponent + shift + e_u - e_w
        dweight = divide_by_mantissa(dweight, mantissa) * wide_power(unit)
        return dx, functions.gradient_of_master(dweight), dbias, *[None] * 5


def _two_copies(model):
    for layer in _layers(model):
        layer.function = _TwoCopies


def _nearest(t, _words):
    return torch.floor(t + 0.5)


def _discarded(t, _words):
    """Up if the upper half of 16 discarded bits exceeds the lower half, as NITI rounds."""
    low = torch.floor(t)
    dropped = ((t - low) * 65536).to(torch.int32)
    return low + ((dropped >> 8) > (dropped & 255))


def _philox(t, _words):
    """PyTorch's own generator: 24 bits an element, no hash of ours."""
    return torch.floor(t + torch.rand_like(t))


def _no_noise(layout, _group):
    """The middle of the noise's range: the update rounds to the nearest."""
    return torch.full_like(layout.decays, 0x7FFF)


def _no_mantissa(weight, _bits, _clip):
    return weight, torch.full((len(weight), *[1] * (weight.dim() - 1)), 4, dtype=torch.int32,
                              device=weight.device)


def _one_scale(x, *, dims=None, **options):
    codes, exponent = numbers.quantise(x, **options)
    return codes, exponent.expand(len(x), 1, 1, 1) if dims else exponent


def _passed(dx, *_):
    return dx


def _signed_activations(model):
    for layer in [*_layers(model)][1:]:
        layer.form = replace(layer.form, signed=True)


@dataclass(frozen=True)
class Change:
    """``replaced``: ``(owner, name, value)`` while it lasts; ``alter`` is called with the model."""
    about: str
    replaced: tuple = ()
    alter: object = None


#: What may be changed, by name.
CHANGES = {
    "two-copies": Change("the gradient is quantised twice, by channels for dX and by samples for "
                         "dW", alter=_two_copies),
    "nearest": Change("gradients are rounded to the nearest",
                      ((numbers, "round_stochastically", _nearest),)),
    "discarded-bits": Change("gradients are rounded by their own discarded bits",
                             ((numbers, "round_stochastically", _discarded),)),
    "philox": Change("gradients are rounded by PyTorch's random generator",
                     ((numbers, "round_stochastically", _philox),)),
    "nearest-update": Change("masters and velocities are rounded to the nearest",
                             ((optim.Layout, "noise", _no_noise),)),
    "one-weight-scale": Change("one power of two scales all of a layer's weights",
                               ((functions, "normalise_columns", _no_mantissa),
                                (functions, "quantise", _one_scale))),
    "straight-through": Change("gradients pass clipped activations",
                               ((functions, "unclipped", _passed),)),
    "no-clip": Change("activations are scaled by their maximum",
                      ((functions, "unclipped", _passed),
                       (functions, "ACTIVATION_CLIP", dict.fromkeys(range(2, 9), 0)))),
    "signed-activations": Change("activations have symmetric codes", alter=_signed_activations),
}


@contextmanager
def changed(name):
    """While this lasts, the arithmetic is changed; yields a function that alters a model."""
    change = CHANGES[name] if name else Change("")
    before = [(owner, attribute, getattr(owner, attribute))
              for owner, attribute, _ in change.replaced]
    try:
        for owner, attribute, value in change.replaced:
            setattr(owner, attribute, value)
        yield change.alter or (lambda model: None)
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)

"""``python -m reports.forward``: what quantised operands cost a trained network, noise aside.

A ResNet-8 is trained in float on Fashion-MNIST; then the test loss is measured with activations or
weights quantised after the fact, for scales and clips of every kind. Differences of a thousandth
show here that training runs would need dozens of seeds for. Results go to
``reports/data/numerics/forward.json``.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from reports.accuracy.experiments import Recipe, Variant
from reports.accuracy.run import train

__all__ = ["main", "rounded", "step_of"]

OUT = Path(__file__).resolve().parent / "data" / "numerics" / "forward.json"
_IMAGES = 2000


def step_of(x, bits, clip, scale, dims, signed):
    """The step of ``bits`` bits with a scale per index outside ``dims``.

    ``scale``: ``real``, or an int n for multiples of ``2**e / n`` (1: powers of two), rounded up;
    of a power of two an eighth may be clipped off.
    """
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    a = x.abs()
    limit = a.amax(dims, keepdim=True)
    if clip:
        limit = torch.minimum(limit, clip * a.mean(dims, keepdim=True))
    step = (limit / top).clamp_min(1e-20)
    if scale != "real":
        if scale == 1:
            step = torch.exp2(torch.ceil(torch.log2(step * 0.875)))
        else:
            octave = torch.exp2(torch.floor(torch.log2(step)))
            step = torch.ceil(step / octave * scale) / scale * octave
    return step


def rounded(x, step, bits, signed):
    """x in whole steps, clipped."""
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    return torch.clamp(torch.floor(x / step + 0.5), -top if signed else 0, top) * step


class _Quantised(nn.Module):
    """A convolution whose operands are rounded."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.activation, self.weight = conv, None, None
        #: A step that was measured once, if it is to be kept.
        self.keep, self.kept = False, None

    def forward(self, x):
        w = self.conv.weight
        if self.activation:
            step = self.kept
            if step is None:
                step = step_of(x, *self.activation, (0, 1, 2, 3), False)
            if self.keep:
                self.kept = step
            x = rounded(x, step, self.activation[0], False)
        if self.weight:
            step = step_of(w, *self.weight, (1, 2, 3), True)
            w = rounded(w, step, self.weight[0], True)
        return F.conv2d(x, w, None, self.conv.stride, self.conv.padding)


def _wrap(model):
    """Every convolution but the first; returns the wrappers."""
    convolutions = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    wrapped = []
    for name, conv in convolutions:
        wrapped.append(_Quantised(conv))
        model.set_submodule(name, wrapped[-1])
    return wrapped


@torch.no_grad()
def _loss(model, task):
    """Test loss with the statistics of batches of 500, and percent recognised."""
    model.train()
    total = correct = 0.0
    for x, y in zip(task.x_test[:_IMAGES].split(500), task.y_test[:_IMAGES].split(500),
                    strict=True):
        logits = model(x)
        total += float(F.cross_entropy(logits, y, reduction="sum"))
        correct += int((logits.argmax(1) == y).sum())
    return total / _IMAGES, 100 * correct / _IMAGES


def _cases():
    """``(operand, bits, clip, scale, whether the first batch's step is kept)``."""
    for bits in (3, 4, 6):
        for multiple in (3.5, 5, 7, 10, 14, 0):
            for scale in (1, "real"):
                yield "activation", bits, multiple, scale, False
            yield "activation", bits, multiple, 1, True
        for multiple in (2, 2.5, 3.5, 4.5, 0):
            for scale in (1, 2, 4, 8, "real"):
                yield "weight", bits, multiple, scale, False


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.forward",
                                     description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file for the results")
    options = parser.parse_args(arguments)
    recipe = Recipe("images", "fashion-mnist", "resnet8", 6, 128, 0.1, 8000)
    model, task, _ = train(recipe, Variant("float-l1"), 0)
    layers = _wrap(model)
    loss, accuracy = _loss(model, task)
    rows = [{"operand": "none", "loss": loss, "accuracy": accuracy}]
    for operand, bits, clip, scale, kept in _cases():
        for layer in layers:
            layer.activation = layer.weight = None
            layer.keep, layer.kept = kept, None
            setattr(layer, operand, (bits, clip, scale))
        loss, accuracy = _loss(model, task)
        rows.append({"operand": operand, "bits": bits, "clip": clip, "scale": scale,
                     "range": "first batch" if kept else "each batch",
                     "loss": round(loss, 4), "accuracy": accuracy})
        print("{operand:>10} {bits} bits, clip {clip:g} x mean of {range}, scale {scale}: "
              "loss {loss:.4f}, {accuracy:.2f} %".format(**rows[-1]), flush=True)
    content = {"command": "python -m reports.forward", "torch": torch.__version__,
               "images": _IMAGES, "rows": rows}
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

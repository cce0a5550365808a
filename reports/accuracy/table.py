"""The study's tables."""

from collections import Counter
from operator import itemgetter

from reports.accuracy.experiments import EXPERIMENTS
from reports.accuracy.statistics import interval, paired
from reports.accuracy.store import load_all

__all__ = ["FLOOR", "TARGET", "is_key", "rows", "study", "summary", "text", "verdict"]

_HEAD = """# Accuracy

Written by `python -m reports` from `data/accuracy/*/*.json`, which `python -m reports.accuracy`
makes. Every run of a variant has the seed, initial weights, batches and learning rates of a float
run; *against float-l1* is the mean of the paired differences with its 95 % interval (Student's t),
and *float-l1, same seeds* the mean of those float runs alone. *Against 4b-4x4* pairs two variants
in the same way: only where that interval leaves out 0 is one shown to differ from the other, and of
thirty such intervals one or two leave out 0 by chance. The training loss of the last epoch has less
spread than accuracy; what a rule is worth shows there first, or not at all. A variant that says
*1 of 5* has runs to come.

`4b-4x4` is 4 bits for weights, activations and gradients, separable ShiftQuant with 4 groups of
samples and 4 of channels; `1x1` is one scale per tensor; `1x32` has an exponent for every channel,
which no array could shift by. The runs of `1x8` and `1x32` are the same bit for bit: no channel
needs an exponent beyond the eighth. A real-valued scale for every channel has not been trained; its
variance is what `python -m reports.numerics` compares with. `4b-forward` has float gradients. The
first layer's input and the last layer have 8 bits.

The remaining names take one rule of the arithmetic away or replace it: `4x4-two-copies` quantises
the gradient twice, by channels for dX and by samples for dW; `nearest`, `discarded-bits` and
`philox` round gradients to the nearest, by their own discarded bits as NITI does, and with the
random generator of PyTorch; `nearest-update` rounds masters and velocities to the nearest;
`one-weight-scale` has one power of two for all of a layer's weights; `straight-through` lets
gradients pass clipped activations; `no-clip` scales activations by their maximum;
`signed-activations` gives them symmetric codes; `master-16b-velocity-8b`, `first-input-4b`,
`last-4b` and `first-layer-8b` change widths.

Scales are scanned anew in every batch, in inference too, so the answer to a sample depends a little
on those beside it: images are evaluated in batches of 500 in their order, texts in batches of 32
windows, the graph as a whole (`reports/accuracy/tasks.py`). Quantised runs have the same bits on
any device, float runs have not. Below each recipe stands what made its runs; in the files each run
names its device and PyTorch, those made from now on Python and numpy too, which in older files are
the last writer's (`versions`).
"""

#: What the project aims at, and what it must reach: points of accuracy below float.
TARGET, FLOOR = 0.3, 0.6


#: What differences between variants are taken from, where an experiment has it.
_KEY = "4b-4x4"


def verdict(mean, half, step=0.0):
    """How an interval of differences stands to target and floor; ``step``: one sample's worth.

    >>> verdict(-0.1, 0.15), verdict(-0.2, 0.4), verdict(-1.0, 0.2)
    ('within 0.3', 'straddles 0.3, 0.6 not excluded', 'below by more than 0.6')
    >>> verdict(0.0, 0.0, 100 / 360)
    'not shown: no spread, in steps of 0.28'
    """
    if half is None:
        return "one seed"
    if half == 0:
        return f"not shown: no spread, in steps of {step:.2f}"
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
    """A mean and its interval in words.

    >>> _number(1.234, 0.5), _number(0.0, 0.0), _number(1.0, None)
    ('1.23 ± 0.50', '0.00, no spread', '1.00')
    """
    if half == 0:
        return f"{mean:.{digits}f}, no spread"
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _last_loss(run):
    return run["losses"][-1]


def _of(runs, others):
    """Mean accuracy and its interval of the runs whose seeds others have."""
    seeds = {run["seed"] for run in others}
    return interval([run["accuracy"] for run in runs if run["seed"] in seeds])


def rows(experiment, runs):
    """Dicts of what a table's row shows, of the variants that have runs."""
    base, key = runs.get("float-l1", []), runs.get(_KEY, [])
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
                row["verdict"] = verdict(row["difference"], row["difference_interval"],
                                         100 / experiment.tested)
                row["paired"], row["paired_interval"] = _of(mine, base)
                row["float"], row["float_interval"] = _of(base, mine)
                row["loss_difference"], row["loss_difference_interval"], _ = paired(
                    mine, base, _last_loss)
            if "bits" in mine[0] and row["pairs"]:
                row["bits_difference"], row["bits_difference_interval"], _ = paired(
                    mine, base, itemgetter("bits"))
        if variant.name not in ("float-l1", _KEY):
            difference, half, pairs = paired(mine, key)
            if pairs:
                row["key_difference"], row["key_difference_interval"] = difference, half
                row["key_pairs"] = pairs
                row["key_loss_difference"], row["key_loss_difference_interval"], _ = paired(
                    mine, key, _last_loss)
        result.append(row)
    return result


def _cell(row, name, pairs="pairs", digits=2):
    """A mean of a row with its interval, and the pairs where they are not all of its seeds."""
    if row.get(name) is None:
        return ""
    few = f", {row[pairs]} pairs" if row[pairs] != row["seeds"] else ""
    return _number(row[name], row[f"{name}_interval"], digits) + few


def _makers(experiment, runs):
    """What made the runs of an experiment, in words."""
    parts = []
    for kind, chosen in (("float", True), ("quantised", False)):
        counts = Counter(f"{run['device']} with PyTorch {run['torch']}"
                         for variant, _ in experiment.variants if (variant.bits is None) == chosen
                         for run in runs[variant.name] if "device" in run)
        parts += [f"{count} {kind} on {maker}" for maker, count in sorted(counts.items())]
    return f"Runs: {', '.join(parts)}." if parts else ""


def _clips(variant):
    return ", no clips" if variant.conversion.get("clip") == 0 else ""


def text(folder, warn=None):
    """Markdown tables of every experiment that has runs."""
    parts = []
    for experiment in EXPERIMENTS.values():
        runs = load_all(experiment, folder, warn)
        table = rows(experiment, runs)
        if not table:
            continue
        recipe = experiment.recipe
        variants = {variant.name: variant for variant, _ in experiment.variants}
        characters = any("bits" in row for row in table)
        between = any("key_pairs" in row for row in table)
        heads = ["variant", "seeds", "accuracy, %", *(["bits per character"] if characters else []),
                 "float-l1, same seeds", "against float-l1, paired", "target 0.3, floor 0.6",
                 "training loss against float-l1",
                 *([f"against {_KEY}, paired", f"training loss against {_KEY}"] if between else [])]
        lines = [f"### {experiment.title}", "",
                 f"`python -m reports.accuracy {experiment.name}`: {recipe.epochs} epochs of "
                 f"{recipe.samples or 'all'} samples, batch {recipe.batch}, rate {recipe.rate:g} "
                 + (f"after {recipe.warmup} rising steps, " if recipe.warmup else "")
                 + f"falling to 0, weight decay {recipe.decay:g}; means with 95 % intervals. "
                 f"One of {experiment.tested:,} tested is {100 / experiment.tested:.2g} points. "
                 + " ".join(filter(None, (_makers(experiment, runs), experiment.note))), "",
                 "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for row in table:
            seeds = str(row["seeds"]) + (f" of {row['wanted']}" if row["seeds"] < row["wanted"]
                                         else "")
            cells = [row["variant"] + _clips(variants[row["variant"]]), seeds,
                     _number(row["accuracy"], row["accuracy_interval"])]
            if characters:
                cells.append(_number(row["bits"], row["bits_interval"]))
            cells += [_cell(row, "float"), _cell(row, "difference"), row.get("verdict", ""),
                      _cell(row, "loss_difference", digits=4)]
            if between:
                cells += [_cell(row, "key_difference", "key_pairs"),
                          _cell(row, "key_loss_difference", "key_pairs", 4)]
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


def _width(variant):
    """A variant's width in words, None where it is not one of README's.

    >>> from reports.accuracy.experiments import Variant
    >>> [_width(Variant(name, 4)) for name in ("4b-4x4", "4b-4x4-first-layer-8b", "4b-4x4-nearest")]
    ['4', '4, first layer 8', None]
    >>> _width(Variant("6b-4x4", 6, conversion={"clip": 0}))
    '6, no clips'
    """
    if is_key(variant.name):
        return f"{variant.bits}{_clips(variant)}"
    first = variant.name.removesuffix(_FIRST_LAYER)
    if first != variant.name and is_key(first):
        return f"{variant.bits}, first layer 8{_clips(variant)}"
    return None


def summary(folder):
    """README's table: the networks at one width with 4 x 4 groups, against float."""
    lines = ["| network | bits | pairs | float, same seeds, % | 4x4 groups, % | "
             "difference, paired |", "|---|---|---|---|---|---|"]
    for experiment in EXPERIMENTS.values():
        widths = {variant.name: _width(variant) for variant, _ in experiment.variants}
        table = rows(experiment, load_all(experiment, folder))
        for row in sorted(table, key=itemgetter("variant")):
            if widths[row["variant"]] and row.get("pairs"):
                lines.append(
                    f"| {experiment.title} | {widths[row['variant']]} | {row['pairs']} | "
                    f"{_number(row['float'], row['float_interval'])} | "
                    f"{_number(row['paired'], row['paired_interval'])} | "
                    f"{_number(row['difference'], row['difference_interval'])} |")
    return "\n".join(lines) + "\n"


def study(folder, pictures):
    """The text of reports/accuracy.md."""
    tables = text(folder) or "Nothing has been measured yet.\n"
    shown = "".join(f"![{path.stem}](pictures/{path.name})\n\n"
                    for path in sorted(pictures.glob("*.svg")))
    return f"{_HEAD}\n{tables}\n{shown}".rstrip() + "\n"

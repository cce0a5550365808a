"""The study's pictures: accuracy against width, variance against groups, loss curves."""

import json

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

from reports.accuracy.experiments import EXPERIMENTS
from reports.accuracy.statistics import paired
from reports.accuracy.store import load_all
from reports.accuracy.table import is_key

__all__ = ["draw"]

matplotlib.use("svg")
_STYLE = {"svg.hashsalt": "shiftgrad", "svg.fonttype": "none", "font.size": 10,
          "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
          "grid.alpha": 0.3, "figure.figsize": (6, 3.6), "figure.constrained_layout.use": True}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666")


def _save(figure, path):
    beside = path.with_suffix(".svg.part")
    figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})
    beside.replace(path)
    plt.close(figure)


def _widths(experiment, runs, axes, colour):
    """Differences to float of the 4x4 variants, by bits."""
    points = [(variant.bits, *paired(runs[variant.name], runs["float-l1"])[:2])
              for variant, _ in experiment.variants
              if is_key(variant.name) and runs[variant.name]]
    points = sorted(point for point in points if point[1] is not None)
    if not points:
        return False
    bits, means, halves = zip(*points, strict=True)
    axes.errorbar(bits, means, [half or 0 for half in halves], fmt="o-", capsize=3, color=colour,
                  label=experiment.title)
    return True


def _accuracy_against_width(folder, path):
    figure, axes = plt.subplots()
    any_drawn = False
    for experiment, colour in zip(EXPERIMENTS.values(), _COLOURS, strict=False):
        any_drawn |= _widths(experiment, load_all(experiment, folder), axes, colour)
    axes.axhline(0, color="black", lw=0.8)
    axes.axhspan(-0.3, 0, color="#009e73", alpha=0.12, lw=0)
    axes.set(xlabel="bits of weights, activations and gradients",
             ylabel="points of accuracy against float",
             title="4x4 groups; paired means, 95 % intervals; band: the target")
    if any_drawn:
        axes.legend(frameon=False)
    _save(figure, path)


def _variance(numbers, path):
    figure, axes = plt.subplots()
    rows = numbers["groups"]
    place = range(len(rows))
    for name, marker, label, colour in (
            ("bound", "_", "bound", "black"),
            ("power_of_two", "o", "measured, power-of-two scale", _COLOURS[0]),
            ("real", "s", "measured, real-valued scale", _COLOURS[1])):
        axes.plot(place, [row[name] for row in rows], marker, color=colour, label=label,
                  markersize=14 if marker == "_" else 6)
    axes.axhline(1, color="black", lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.set_yticks([0.3, 0.5, 1, 2, 5, 10], ["0.3", "0.5", "1", "2", "5", "10"])
    axes.set_xticks(place, [row["groups"] for row in rows])
    axes.set(xlabel="groups, samples x channels", ylabel="variance / ideal per channel",
             title="Stochastic rounding to 4 bits of log-normal gradients")
    axes.legend(frameon=False)
    _save(figure, path)


def _losses(experiment, runs, path):
    figure, axes = plt.subplots()
    drawn = [variant for variant, _ in experiment.variants if runs[variant.name]][:6]
    for variant, colour in zip(drawn, _COLOURS, strict=False):
        curves = np.array([run["losses"] for run in runs[variant.name]])
        epochs = np.arange(1, curves.shape[1] + 1)
        axes.plot(epochs, curves.mean(axis=0), color=colour, lw=1.5, label=variant.name)
        axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colour,
                          alpha=0.12, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3]))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="epoch", ylabel="training loss", title=f"{experiment.title}: mean and range")
    axes.legend(frameon=False)
    _save(figure, path)


def _rules(experiment, runs, path):
    """What each variant costs: training loss above float's, paired."""
    rows = [(variant.name, *paired(runs[variant.name], runs["float-l1"],
                                   lambda run: run["losses"][-1]))
            for variant, _ in experiment.variants
            if variant.name != "float-l1" and runs[variant.name]]
    rows = sorted((row for row in rows if row[3]), key=lambda row: -row[1])
    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.21 * len(rows)))
    for y, (name, mean, half, _) in enumerate(rows):
        axes.errorbar(mean, y, xerr=half or 0, fmt="o", capsize=2, markersize=4,
                      color=_COLOURS[1 if is_key(name) else 0])
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xscale("symlog", linthresh=0.05)
    axes.set_xticks([-0.02, 0, 0.02, 0.05, 0.1, 0.3, 1],
                    ["-0.02", "0", "0.02", "0.05", "0.1", "0.3", "1"])
    axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    axes.set(xlabel="training loss above float's, 95 % intervals", title=experiment.title)
    _save(figure, path)


def draw(results, numbers_file, folder):
    """Draw all pictures into ``folder``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "width.svg"]
    with plt.rc_context(_STYLE):
        _accuracy_against_width(results, paths[0])
        if numbers_file.exists():
            paths.append(folder / "variance.svg")
            _variance(json.loads(numbers_file.read_text()), paths[-1])
        for experiment in EXPERIMENTS.values():
            runs = load_all(experiment, results)
            longest = max((len(run["losses"]) for some in runs.values() for run in some),
                          default=0)
            if longest > 1:
                paths.append(folder / f"loss-{experiment.name}.svg")
                _losses(experiment, runs, paths[-1])
            if longest > 1 and len(experiment.variants) > 5:
                paths.append(folder / f"rules-{experiment.name}.svg")
                _rules(experiment, runs, paths[-1])
    return paths

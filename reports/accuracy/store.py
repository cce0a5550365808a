"""Results on disk: one JSON per variant with a run per seed, keyed by what decides it."""

import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from hdl.params import NUMERICS_VERSION

__all__ = ["FOLDER", "add", "load", "load_all"]

FOLDER = Path(__file__).resolve().parent.parent / "data" / "accuracy"


def _path(experiment, variant, folder):
    return folder / experiment.name / f"{variant.name}.json"


def _key(experiment, variant):
    decided = experiment.key(variant)
    if variant.bits is not None:
        decided["numerics"] = NUMERICS_VERSION
    return decided


def _digest(decided):
    text = json.dumps(decided, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(experiment, variant, folder=FOLDER, warn=None):
    """The runs of a variant so far; none if the file is of another recipe or damaged."""
    path = _path(experiment, variant, folder)
    try:
        stored = json.loads(path.read_text())
        runs, digest = stored["runs"], stored["key"]
        accuracies = [run["accuracy"] for run in runs]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        if warn:
            warn(f"{path} is damaged ({error}): its runs are made again")
        return []
    if digest != _digest(_key(experiment, variant)):
        if warn and accuracies:
            warn(f"{path} is of another recipe or numerics version: its runs are made again")
        return []
    return runs


def add(experiment, variant, run, folder=FOLDER):
    """Add a run; the file is whole at any moment."""
    path = _path(experiment, variant, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [old for old in load(experiment, variant, folder) if old["seed"] != run["seed"]]
    decided = _key(experiment, variant)
    content = {
        "experiment": experiment.name, "title": experiment.title,
        "command": f"python -m reports.accuracy {experiment.name}", **decided,
        "key": _digest(decided),
        "versions": {"python": platform.python_version(), "numpy": version("numpy"),
                     "platform": sys.platform},
        "runs": sorted([*others, run], key=lambda r: r["seed"]),
    }
    beside = path.with_suffix(".json.part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def load_all(experiment, folder=FOLDER, warn=None):
    """``{variant name: runs}`` of an experiment."""
    return {variant.name: load(experiment, variant, folder, warn)
            for variant, _ in experiment.variants}

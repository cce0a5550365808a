"""Results on disk: one JSON per variant with a run per seed, keyed by what decides it."""

import hashlib
import json
from pathlib import Path

from hdl.params import NUMERICS_VERSION
from host.errors import HostError

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


def _check(run):
    """Raise KeyError or TypeError unless a run has what tables and pictures need."""
    if not isinstance(run["seed"], int):
        raise TypeError(f"seed {run['seed']!r} is no whole number")
    for name in ("accuracy", "seconds", *(["bits"] if "bits" in run else [])):
        if not isinstance(run[name], int | float):
            raise TypeError(f"{name} {run[name]!r} is no number")
    if not run["losses"] or not all(isinstance(loss, int | float) for loss in run["losses"]):
        raise TypeError("losses are no numbers")


def _stored(experiment, variant, folder, warn):
    """The content of a variant's file; an empty dict if it is missing, damaged or outdated."""
    path = _path(experiment, variant, folder)
    try:
        stored = json.loads(path.read_text())
        for run in stored["runs"]:
            _check(run)
        digest = stored["key"]
    except FileNotFoundError:
        return {}
    except KeyError as error:
        problem = f"is damaged (it lacks {error.args[0]!r})"
    except (OSError, ValueError, TypeError) as error:
        problem = f"is damaged ({error})"
    else:
        if digest == _digest(_key(experiment, variant)):
            return stored
        if not stored["runs"]:
            return {}
        problem = "is of another recipe or numerics version"
    if warn:
        warn(f"{path} {problem}: its runs do not count and are made again when they are asked for")
    return {}


def load(experiment, variant, folder=FOLDER, warn=None):
    """The runs of a variant so far; none if the file is of another recipe or damaged."""
    return _stored(experiment, variant, folder, warn).get("runs", [])


def add(experiment, variant, run, folder=FOLDER):
    """Add a run; the file is whole at any moment."""
    path = _path(experiment, variant, folder)
    before = _stored(experiment, variant, folder, None)
    others = [old for old in before.get("runs", []) if old["seed"] != run["seed"]]
    decided = _key(experiment, variant)
    content = {
        "experiment": experiment.name, "title": experiment.title,
        "command": f"python -m reports.accuracy {experiment.name}:{variant.name}", **decided,
        "key": _digest(decided),
        # Of the last writer, from before every run had its own.
        **({"versions": before["versions"]} if "versions" in before else {}),
        "runs": sorted([*others, run], key=lambda r: r["seed"]),
    }
    beside = path.with_suffix(".json.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content, indent=1) + "\n")
        beside.replace(path)
    except OSError as error:
        raise HostError(f"{path} cannot be written ({error.strerror})") from None


def load_all(experiment, folder=FOLDER, warn=None):
    """``{variant name: runs}`` of an experiment."""
    return {variant.name: load(experiment, variant, folder, warn)
            for variant, _ in experiment.variants}

"""``python -m reports.accuracy``: run the missing points of the study and print its tables."""

import argparse
import json
import multiprocessing
import os
import queue
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from host.errors import ArgumentError, HostError
from reports.accuracy import store, table
from reports.accuracy.experiments import EXPERIMENTS

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ArgumentError(message)


def _arguments(arguments):
    parser = _Parser(prog="python -m reports.accuracy", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME[:VARIANT]",
                        help=f"experiments, all by default: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--seeds", type=int, help="at most this many seeds of each variant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(),
                        help="points at a time, one thread each (default: all processors)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--minutes", type=float, help="start no new point after this time")
    parser.add_argument("--tables", action="store_true", help="run nothing, print the tables")
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    parser.add_argument("--folder", type=Path, default=store.FOLDER,
                        help="where results are (default: reports/data/accuracy)")
    options = parser.parse_args(arguments)
    for name, value in (("--seeds", options.seeds), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value}")
    if options.minutes is not None and not options.minutes > 0:
        raise ArgumentError(f"--minutes must be more than 0, got {options.minutes}")
    return options


def _chosen(names):
    """``[(experiment, variant, seeds)]`` of the names, in order."""
    chosen = []
    for name in names or EXPERIMENTS:
        name, _, only = name.partition(":")
        if name not in EXPERIMENTS:
            raise ArgumentError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
        experiment = EXPERIMENTS[name]
        variants = {variant.name for variant, _ in experiment.variants}
        if only and only not in variants:
            raise ArgumentError(f"variant of {name} must be one of "
                                f"{', '.join(sorted(variants))}, got {only!r}")
        chosen += [(experiment, variant, seeds) for variant, seeds in experiment.variants
                   if not only or variant.name == only]
    return list({(e.name, v.name): (e, v, seeds) for e, v, seeds in chosen}.values())


def _missing(chosen, options, warn):
    """Points to run: the first variants of an experiment seed by seed, as pairs, then the rest."""
    points = []
    for experiment, variant, seeds in chosen:
        have = {run["seed"] for run in store.load(experiment, variant, options.folder, warn)}
        points += [(experiment, variant, seed) for seed in range(min(seeds, options.seeds or seeds))
                   if seed not in have]
    return points


class _Estimate:
    """How long what is left will take: by points of the same variant, else by those like it."""

    def __init__(self, jobs):
        self._jobs = jobs
        self._known = {}

    @staticmethod
    def _kinds(experiment, variant):
        return ((experiment.name, variant.name), (experiment.name, variant.bits is None))

    def note(self, experiment, variant, seconds):
        """A finished point, on the device in use."""
        for kind in self._kinds(experiment, variant):
            self._known.setdefault(kind, []).append(seconds)

    def left(self, points):
        """Seconds for ``[(experiment, variant, share left)]``, None while too little is known."""
        total = 0.0
        for experiment, variant, share in points:
            known = next((self._known[kind] for kind in self._kinds(experiment, variant)
                          if kind in self._known), None)
            if not known:
                return None
            total += share * sum(known) / len(known)
        return total / self._jobs


def _device(name):
    """The device to run on; a sentence if it is not there."""
    import torch
    if name not in (None, "cpu", "cuda"):
        raise ArgumentError(f"--device must be cpu or cuda, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise HostError("--device cuda needs a GPU and a PyTorch that was built for it")
    return name or ("cuda" if available else "cpu")


def _folder(path, made):
    """Nothing if the folder of results is there or can be ``made``; a sentence otherwise."""
    try:
        if made:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"--folder {path} cannot be made ({error.strerror})") from None
    if not path.is_dir():
        raise HostError(f"--folder {path} is not a folder")


def _duration(seconds):
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _run(points, options, say):
    """Run points in worker processes; every finished one is stored at once."""
    from reports.accuracy.run import device_name
    from reports.accuracy.worker import work
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    jobs = min(options.jobs, len(points))
    workers = [context.Process(target=work, args=(tasks, results, options.device), daemon=True)
               for _ in range(jobs)]
    for worker in workers:
        worker.start()
    estimate, failed, device = _Estimate(jobs), 0, device_name(options.device)
    for experiment, variant, seeds in _chosen([]):
        for old in store.load(experiment, variant, options.folder)[:seeds]:
            if old.get("device") == device:
                estimate.note(experiment, variant, old["seconds"])
    start, following, running, live = time.monotonic(), 0, {}, sys.stderr.isatty()
    try:
        while running or following < len(points):
            late = options.minutes and time.monotonic() - start > 60 * options.minutes
            while len(running) < jobs and following < len(points) and not late:
                experiment, variant, seed = points[following]
                tasks.put((following, experiment.recipe, variant, seed))
                running[following] = 0.0
                following += 1
            if not running:
                say(f"stopped after {options.minutes:g} min with "
                    f"{len(points) - following} points to go; run again to continue")
                break
            try:
                index, kind, value = results.get(timeout=5)
            except queue.Empty:
                dead = [worker for worker in workers if not worker.is_alive()]
                if dead:
                    raise HostError(f"a worker ended with exit code {dead[0].exitcode}; finished "
                                    "points are kept") from None
                continue
            experiment, variant, seed = points[index]
            if kind == "step":
                running[index] = value
                left = estimate.left(
                    [(*points[i][:2], 1 - share) for i, share in running.items()]
                    + [(e, v, 1.0) for e, v, _ in points[following:]])
                if live:
                    text = "  ".join(f"{points[i][1].name}/{points[i][2]} {100 * share:.0f} %"
                                     for i, share in running.items())
                    more = "" if left is None else f"  about {_duration(left)} left"
                    print(f"\r\x1b[K{text}{more}", end="", file=sys.stderr, flush=True)
                continue
            del running[index]
            if kind == "failed":
                failed += 1
                say(f"{experiment.name} {variant.name} seed {seed}: {value}")
                continue
            store.add(experiment, variant, value, options.folder)
            estimate.note(experiment, variant, value["seconds"])
            left = estimate.left([(*points[i][:2], 1 - share) for i, share in running.items()]
                                 + [(e, v, 1.0) for e, v, _ in points[following:]])
            say(f"{experiment.name}  {variant.name}  seed {seed}  {value['accuracy']:.2f} %  "
                f"{value['seconds']:.0f} s  {len(points) - following + len(running)} to go"
                + ("" if left is None else f", about {_duration(left)}"))
    finally:
        for worker in workers:
            worker.terminate()
    return failed


def _command(arguments):
    options = _arguments(arguments)
    chosen = _chosen(options.names)
    live, warned = sys.stderr.isatty(), set()

    def say(line):
        print(("\r\x1b[K" if live else "") + line, file=sys.stderr, flush=True)

    def warn(line):
        if line not in warned:
            warned.add(line)
            say(line)
    failed = 0
    _folder(options.folder, made=not options.tables)
    if not options.tables:
        if not find_spec("torch"):
            raise HostError("the study needs PyTorch: install the extra [torch] of pyproject.toml")
        options.device = _device(options.device)
        points = _missing(chosen, options, warn)
        if points:
            failed = _run(points, options, say)
    if options.json:
        print(json.dumps({experiment.name: table.rows(
            experiment, store.load_all(experiment, options.folder, warn))
            for experiment in EXPERIMENTS.values()}, indent=1))
    else:
        print(table.text(options.folder, warn))
    return 1 if failed else 0


def main(arguments=None):
    """The command; returns its exit code."""
    try:
        return _command(arguments)
    except HostError as error:
        print(f"reports.accuracy: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nreports.accuracy: interrupted; finished points are kept, run again to continue",
              file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

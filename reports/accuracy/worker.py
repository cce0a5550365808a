"""A worker process: one thread, points from a queue until None."""

import multiprocessing
import os
import queue
import time

import torch

from host.errors import HostError
from reports.accuracy.run import run

__all__ = ["work"]


def _next(tasks, parent):
    """The next point; None if the process that asks for points has gone."""
    while parent.is_alive():
        try:
            return tasks.get(timeout=2)
        except queue.Empty:
            continue
    return None


def work(tasks, results, device="cpu"):
    """Run points ``(index, recipe, variant, seed)``; put ``(index, kind, value)``."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    while (point := _next(tasks, parent)) is not None:
        index, recipe, variant, seed = point
        last = [0.0]

        def progress(step, total, index=index, last=last):
            if time.monotonic() - last[0] > 1:
                if not parent.is_alive():
                    os._exit(1)
                last[0] = time.monotonic()
                results.put((index, "step", step / total))
        try:
            results.put((index, "done", run(recipe, variant, seed, progress, device)))
        except HostError as error:
            results.put((index, "failed", str(error)))
        except KeyboardInterrupt:
            return

"""What :mod:`host.train` says of a run while it goes on: costs, rates, lines and scalars."""

import sys
import time
from collections import namedtuple
from dataclasses import dataclass

from sim.model.softmax import LOSS_FRACTION

__all__ = ["NO_COST", "Cost", "Meter", "Pace", "Position", "Progress", "epoch_line",
           "epoch_scalars", "step_line", "step_scalars"]


#: Seconds between two lines on a terminal.
_TICK_SECONDS = 0.1


class Progress:
    """Progress on standard error: a live line on a terminal, one line an epoch elsewhere."""

    def __init__(self, file=sys.stderr):
        self._file = file
        self._live = file.isatty()
        self._last = 0.0

    def say(self, text):
        """A line that stays."""
        print(("\r\x1b[K" if self._live else "") + text, file=self._file, flush=True)

    def tick(self, text):
        """A line that the next one replaces; only on a terminal, at most ten times a second."""
        if self._live and time.monotonic() - self._last >= _TICK_SECONDS:
            self._last = time.monotonic()
            print("\r\x1b[K" + text, end="", file=self._file, flush=True)


#: What a part of a run cost: seconds, clocks since power-up and in programs, None without a clock,
#: and bytes.
Cost = namedtuple("Cost", "seconds cycles run_cycles bytes_down bytes_up")
NO_COST = Cost(0, 0, 0, 0, 0)


class Meter:
    """What an epoch costs the device, with what it had cost ``before`` its run was resumed."""

    def __init__(self, device, before=NO_COST):
        self._device, self._before = device, before
        self._start = self._now()

    def _now(self):
        device = self._device
        return Cost(time.perf_counter(), device.cycles, device.run_cycles, device.bytes_down,
                     device.bytes_up)

    @property
    def cost(self):
        """Until now."""
        return Cost(*(None if None in (before, start) else before + now - start
                       for before, now, start in zip(self._before, self._now(), self._start,
                                                     strict=True)))

    def share(self, macs, cycles):
        """The share of the array's peak, 0 to 1, that so many multiply-accumulates are in so many
        cycles; None without a clock."""
        params = self._device.params
        return round(macs / (params.macs * params.array_clock * cycles), 4) if cycles else None

    def report(self, macs):
        """Seconds, cycles, utilisation and bytes."""
        cost = self.cost
        return {
            "seconds": round(cost.seconds, 3),
            "cycles": cost.cycles,
            "macs": macs,
            "utilisation": self.share(macs, cost.run_cycles),
            "utilisation_with_link": self.share(macs, cost.cycles),
            "bytes_down": cost.bytes_down,
            "bytes_up": cost.bytes_up,
        }


@dataclass
class Position:
    """How far a run is: reports of its epochs, and of the one under way the steps that are done,
    the sums of their losses and right predictions, and their :class:`Cost`."""
    epochs: list
    steps: int = 0
    loss: int = 0
    correct: int = 0
    cost: Cost = NO_COST

    def words(self, epochs):
        """In words."""
        done = len(self.epochs)
        return (f"step {self.steps} of epoch {done + 1} of {epochs}" if self.steps
                else f"epoch {done} of {epochs}")


class Pace:
    """How long the rest of a run takes, if it goes on as since it was started."""

    def __init__(self, left):
        self._left, self._done, self._start = left, 0, time.monotonic()

    def step(self):
        """A step is done."""
        self._done += 1

    def __str__(self):
        seconds = round((time.monotonic() - self._start) / max(1, self._done)
                        * (self._left - self._done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def _speed(images, seconds, share):
    """Images per second, and the share of peak where it is known."""
    rate = f"  {images / seconds:,.0f} images/s" if seconds else ""
    return rate + ("" if share is None else f"  {100 * share:.1f} % of peak")


def step_line(at, meter, pace, recipe, steps, network):
    """The line of the step that was done last, of so many ``steps`` of an epoch."""
    seen, cost = at.steps * recipe.batch, meter.cost
    share = meter.share(seen * network.macs_per_sample, cost.run_cycles)
    return (f"epoch {len(at.epochs) + 1}/{recipe.epochs}  step {at.steps}/{steps}  "
            f"loss {at.loss / seen / 2**LOSS_FRACTION:.4f}  "
            f"accuracy {100 * at.correct / seen:.2f} %{_speed(seen, cost.seconds, share)}  {pace}")


def epoch_line(epochs, seen, pace, recipe):
    """The line of the epoch that was done last, of ``seen`` images."""
    last = epochs[-1]
    cycles = "" if last["cycles"] is None else f"  {last['cycles']:,} cycles"
    left = f"  {pace}" if len(epochs) < recipe.epochs else ""
    return (f"epoch {len(epochs)}/{recipe.epochs}  loss {last['loss']:.4f}  "
            f"training {last['train_accuracy']:.2f} %  test {last['test_accuracy']:.2f} %  "
            f"{last['seconds']:.1f} s{_speed(seen, last['seconds'], last['utilisation'])}"
            f"{cycles}{left}")


def step_scalars(loss, correct, rate, batch, meter, network):
    """Scalars of a step."""
    cost = meter.cost
    return {
        "step/loss": loss / batch / 2**LOSS_FRACTION, "step/accuracy": 100 * correct / batch,
        "step/rate": rate.rate / 2**rate.shift,
        "step/images_per_second": batch / cost.seconds if cost.seconds else None,
        "step/share_of_peak": meter.share(batch * network.macs_per_sample, cost.run_cycles),
    }


def epoch_scalars(report, seen):
    """Scalars of an epoch."""
    return {
        **{f"epoch/{name}": report[name] for name in ("loss", "train_accuracy", "test_accuracy")},
        "epoch/images_per_second": seen / report["seconds"] if report["seconds"] else None,
        "epoch/share_of_peak": report["utilisation"],
    }

"""Traces: every instruction and transfer of a run on a timeline, and what each unit took.

The file is JSON in Chrome's trace event format, which Perfetto (https://ui.perfetto.dev) and
``chrome://tracing`` open. A microsecond of it is a clock of the machine. A device that counts only
the clocks of its programs, a board, has a timeline of these alone.

On a machine that keeps masters units overlap, and programs run as they would without a trace: the
device keeps the clocks of its instructions, which are read after every program. On others programs
run an instruction at a time.
"""

import json
from collections import Counter, namedtuple
from pathlib import Path

from hdl.instructions import Opcode, Queue, opcode_of, unpack_instruction
from hdl.protocol import Unit
from host.queues import critical, steps_of

__all__ = ["QueueUse", "Trace", "Used"]

#: What one unit did: instructions, clocks of the machine; for how many of them its queue was empty
#: before its instructions came, for how many these waited for others; and how many lie on the
#: critical path of their programs (:func:`host.queues.critical`).
Used = namedtuple("Used", "instructions clocks starved stalled critical")

#: What one queue did in all programs, in clocks: its units were busy, its instructions waited for
#: those of other queues, and the rest.
QueueUse = namedtuple("QueueUse", "busy waiting idle")

#: Tracks, from the top: what the host is at, the link, the units by number, what waits in queues.
_HOST, _LINK, _FIRST_UNIT = 0, 1, 1
_FIRST_QUEUE = _FIRST_UNIT + len(Unit)


class Trace:
    """What a device has done.

    Parameters
    ----------
    device : host.device.Device
        One without a clock has no trace.

    Attributes
    ----------
    clocks : int
        Of all programs together.
    """

    def __init__(self, device):
        self._device = device
        self._events = []
        self._count, self._busy, self._starved, self._stalled, self._critical = (
            Counter() for _ in range(5))
        self._queue_busy, self._queue_waiting = Counter(), Counter()
        self.clocks = 0
        device.observer = self

    # What the device says.

    def was_at(self, name, start):
        """The host has been at something since ``start``."""
        self._add(_HOST, name, start, self._device.clock - start)

    def transferred(self, kind, start, count):
        """A WRITE or READ of so many bytes, which began at ``start``."""
        self._add(_LINK, kind.name, start, self._device.clock - start, bytes=count)

    def ran(self, packed, end, clocks):
        """An instruction by itself, which ended at ``end`` and took so many clocks."""
        op = self._instruction(packed, end - clocks, clocks)
        self._critical[op] += clocks
        self.clocks += clocks

    def ran_program(self, program, end, clocks, log):
        """Packed instructions, of which the last ended at ``end``, so many clocks after the first
        was fetched; ``log`` as :func:`host.queues.steps_of` takes it."""
        steps, begin = steps_of(program, log, self._device.params), end - clocks
        for packed, step in zip(program, steps, strict=True):
            op = self._instruction(packed, begin + step.started, step.done - step.started,
                                   starved=step.starved, stalled=step.stalled)
            self._starved[op] += step.starved
            self._stalled[op] += step.stalled
            self._queue_busy[step.queue] += step.done - step.started
            self._queue_waiting[step.queue] += step.stalled
            if step.stalled:
                self._add(_FIRST_QUEUE + step.queue, f"{op.name} waits",
                          begin + step.started - step.stalled, step.stalled)
        self._critical.update(critical(steps))
        self.clocks += clocks

    def _instruction(self, packed, start, clocks, **details):
        fields = {name: value for name, value in unpack_instruction(packed).items() if value}
        op = Opcode(opcode_of(fields.pop("op"), self._device.params))
        size = "x".join(str(fields[name]) for name in ("m", "k", "n") if name in fields)
        self._add(_FIRST_UNIT + op, f"{op.name} {size}", start, clocks, **fields, **details)
        self._busy[op] += clocks
        self._count[op] += 1
        return op

    def _add(self, track, name, start, clocks, **details):
        self._events.append({"ph": "X", "pid": 0, "tid": track, "name": name, "ts": start,
                             "dur": clocks, "args": details})

    # What is made of it.

    @property
    def used(self):
        """:class:`Used` by unit, those that took longest first."""
        return {Unit(op): Used(self._count[op], clocks, self._starved[op], self._stalled[op],
                               self._critical[op])
                for op, clocks in self._busy.most_common()}

    @property
    def queues(self):
        """:class:`QueueUse` by queue; none where instructions run one after the other anyway."""
        if not self._device.params.masters:
            return {}
        return {queue: QueueUse(busy := self._queue_busy[queue],
                                waiting := self._queue_waiting[queue],
                                self.clocks - busy - waiting) for queue in Queue}

    @property
    def bound(self):
        """The unit that bounds the run: that with most clocks on the critical path; None before
        anything has run."""
        return Unit(max(self._critical, key=self._critical.get)) if self._critical else None

    def summary(self):
        """Lines that say what units and queues did."""
        if not self.clocks:
            return []

        def share(clocks):
            return f"{100 * clocks / self.clocks:5.1f} %"
        several = bool(self.queues)
        lines = [f"{'unit':13} instructions {'busy clocks':>16}   share"
                 + f" {'starved':>14} {'stalled':>14} {'critical':>8}" * several]
        for unit, used in self.used.items():
            lines.append(f"{unit.name:13} {used.instructions:12,} {used.clocks:16,} "
                         f"{share(used.clocks)}" + (
                             f" {used.starved:14,} {used.stalled:14,}  {share(used.critical)}"
                             if several else ""))
        for queue, use in self.queues.items():
            lines.append(f"queue {queue.name:7} busy {share(use.busy)}, waiting for others "
                         f"{share(use.waiting)}, empty {share(use.idle)}")
        bound = self.bound
        lines.append(f"{bound.name} bounds the run: {share(self._critical[bound]).strip()} of its "
                     f"{self.clocks:,} clocks")
        return lines

    def write(self, path):
        """Write the file; nothing is half written."""
        names = {_HOST: "host", _LINK: "link",
                 **{_FIRST_UNIT + unit: unit.name for unit in Unit if unit},
                 **{_FIRST_QUEUE + queue: f"queue {queue.name}" for queue in self.queues}}
        about = [{"ph": "M", "pid": 0, "name": "process_name",
                  "args": {"name": self._device.params.name}}]
        for track, name in names.items():
            about += [{"ph": "M", "pid": 0, "tid": track, "name": "thread_name",
                       "args": {"name": name}},
                      {"ph": "M", "pid": 0, "tid": track, "name": "thread_sort_index",
                       "args": {"sort_index": track}}]
        # What holds others comes before them.
        events = sorted(self._events, key=lambda event: (event["ts"], -event["dur"]))
        path = Path(path)
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps({"traceEvents": about + events,
                                      "otherData": {"unit": "clocks of the machine"}}))
        beside.replace(path)

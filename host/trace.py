"""Traces: every instruction and transfer of a run on a timeline, and what each unit took.

The file is JSON in Chrome's trace event format, which Perfetto (https://ui.perfetto.dev) and
``chrome://tracing`` open. A microsecond of it is a clock of the machine.
"""

import json
from collections import Counter, namedtuple
from pathlib import Path

from hdl.instructions import Opcode, opcode_of, unpack_instruction
from hdl.protocol import Unit

__all__ = ["Trace", "Used"]

#: What one unit did: instructions, clocks of the machine.
Used = namedtuple("Used", "instructions clocks")

#: Tracks, from the top: what the host is at, the link, the units by number.
_HOST, _LINK, _FIRST_UNIT = 0, 1, 1


class Trace:
    """What a device has done.

    Parameters
    ----------
    device : host.device.Device
        Its programs run an instruction at a time from now on, which changes nothing but the time on
        the link. One without a clock has no trace.
    """

    def __init__(self, device):
        self._device = device
        self._events = []
        self._used, self._count = Counter(), Counter()
        device.observer = self

    # What the device says.

    def was_at(self, name, start):
        """The host has been at something since ``start``."""
        self._add(_HOST, name, start, self._device.cycles - start)

    def transferred(self, kind, start, count):
        """A WRITE or READ of so many bytes, which began at ``start``."""
        self._add(_LINK, kind.name, start, self._device.cycles - start, bytes=count)

    def ran(self, packed, clocks):
        """An instruction, which has just ended and took so many clocks."""
        fields = {name: value for name, value in unpack_instruction(packed).items() if value}
        op = Opcode(opcode_of(fields.pop("op"), self._device.params))
        size = "x".join(str(fields[name]) for name in ("m", "k", "n") if name in fields)
        self._add(_FIRST_UNIT + op, f"{op.name} {size}", self._device.cycles - clocks, clocks,
                  **fields)
        self._used[Unit(op)] += clocks
        self._count[Unit(op)] += 1

    def _add(self, track, name, start, clocks, **details):
        self._events.append({"ph": "X", "pid": 0, "tid": track, "name": name, "ts": start,
                             "dur": clocks, "args": details})

    # What is made of it.

    @property
    def used(self):
        """:class:`Used` by unit, those that took longest first."""
        return {unit: Used(self._count[unit], clocks)
                for unit, clocks in self._used.most_common()}

    def write(self, path):
        """Write the file; nothing is half written."""
        names = {_HOST: "host", _LINK: "link",
                 **{_FIRST_UNIT + unit: unit.name for unit in Unit if unit}}
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

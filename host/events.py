"""Scalars of a run in event files, which TensorBoard reads."""

import os
import time
from pathlib import Path

from host.errors import ArgumentError

__all__ = ["EventLog"]

#: Seconds after which what was written is in the file at the latest.
_FLUSH_SECONDS = 5.0


class EventLog:
    """Event files in a folder, one for every time that a run is started or resumed.

    A run that is resumed repeats what its last checkpoint does not have: :meth:`begin` says from
    which step on, and what files before have of these steps TensorBoard leaves out.

    Parameters
    ----------
    folder : path-like
        Made if it is not there. Names of events, steps and values do not depend on it.
    """

    def __init__(self, folder):
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError:
            raise ArgumentError("--tensorboard needs the package tensorboardX: install the extra "
                                "tensorboard of pyproject.toml") from None
        self._event, self._summary = event_pb2, summary_pb2
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            # Files are opened by name and second alone.
            self._writer = EventsWriter(os.fspath(Path(folder) / "events"),
                                        f".{os.getpid()}.{time.time_ns()}")
        except OSError as error:
            raise ArgumentError(
                f"cannot write events to {folder}: {error.strerror}") from None
        self._flushed = time.monotonic()

    def begin(self, step):
        """The next scalars are of that step: earlier ones of it and of later steps do not count."""
        self._write(step, session_log=self._event.SessionLog(
            status=self._event.SessionLog.START))

    def scalars(self, step, values):
        """Write numbers by name; None is left out."""
        pairs = [self._summary.Summary.Value(tag=tag, simple_value=float(value))
                 for tag, value in values.items() if value is not None]
        self._write(step, summary=self._summary.Summary(value=pairs))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self):
        """What was written is in the file."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self):
        """Nothing is written any more."""
        self._writer.close()

    def _write(self, step, **what):
        self._writer.write_event(self._event.Event(wall_time=time.time(), step=step, **what))

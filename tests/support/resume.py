"""Long test runs that can be stopped and go on: ``pytest --resume FILE``, as ``make regress`` does.

FILE lists the tests that have passed, as they pass, below a digest of all that they depend on. With
the same digest they are left out of the next run; a run that ends well removes the file.
"""

import hashlib
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = "hdl", "sim", "host", "boards", "reports", "tests"


def pytest_addoption(parser):
    parser.addoption("--resume", metavar="FILE", type=Path,
                     help="leave out tests that FILE says have passed, and keep it up to date")


def sources_digest():
    """Of the sources, this Python's version and the versions of packages."""
    digest = hashlib.sha256(sys.version.encode())
    paths = [_ROOT / "pyproject.toml", _ROOT / "conftest.py"]
    for folder in _SOURCES:
        paths += sorted((_ROOT / folder).rglob("*.py"))
    for path in paths:
        digest.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _passed(path, digest):
    """The tests that have passed with these sources, or None."""
    if not path.exists():
        return None
    first, *names = path.read_text().splitlines()
    return set(names) if first == digest else None


def pytest_configure(config):
    path = config.getoption("--resume")
    if path is None:
        return
    digest = sources_digest()
    passed = _passed(path, digest)
    config.left_out = passed or set()
    # Processes that run tests for another leave the file alone.
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        if passed is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(digest + "\n")
        config.pluginmanager.register(_Keeper(path))


def pytest_collection_modifyitems(config, items):
    left_out = getattr(config, "left_out", ())
    if left_out:
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid in left_out])
        items[:] = [i for i in items if i.nodeid not in left_out]


class _Keeper:
    """Adds tests to the file as they pass, and names those that fail at once."""

    def __init__(self, path):
        self._path = path

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            with self._path.open("a") as file:
                file.write(report.nodeid + "\n")
        elif report.failed:
            print(f"\nFAILED {report.nodeid}", flush=True)

    def pytest_sessionfinish(self, exitstatus):
        if exitstatus == 0:
            self._path.unlink()

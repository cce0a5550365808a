"""What needs PyTorch is collected where the extra ``[torch]`` is installed."""

from importlib.util import find_spec

from hypothesis import settings

pytest_plugins = ["tests.support.resume"]

# A slow machine is not a failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_WITH_TORCH = ("host/torch", "tests/host/torch", "reports/accuracy", "reports/forward.py",
               "tests/reports/accuracy")

collect_ignore_glob = [] if find_spec("torch") else list(_WITH_TORCH)


def pytest_report_header():
    """Say so if a part of the suite is left out."""
    if collect_ignore_glob:
        return "PyTorch is not installed: its front end and the accuracy study are not tested"
    return None

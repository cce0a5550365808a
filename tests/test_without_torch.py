"""The suite without PyTorch, which is an extra."""

import subprocess
import sys
from pathlib import Path

_WITHOUT = """
import sys
sys.modules["torch"] = None
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "host", "reports",
                      "tests/host", "tests/reports"]))
"""


def test_everything_else_is_collected_without_errors():
    done = subprocess.run([sys.executable, "-c", _WITHOUT], cwd=Path(__file__).parents[1],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "tests/host/test_train.py" in done.stdout and "torch/" not in done.stdout

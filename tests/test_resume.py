"""Long runs of tests go on where they were stopped."""

import pytest

from tests.support.resume import sources_digest

pytest_plugins = ["pytester"]

TESTS = """
import pathlib

def test_one():
    pass

def test_two():
    assert pathlib.Path("mended").exists()

def test_three():
    pass
"""


@pytest.fixture
def run(pytester):
    pytester.makepyfile(test_some=TESTS)

    def run(*more):
        return pytester.runpytest_inprocess("-p", "tests.support.resume", "--resume",
                                            "build/left.txt", *more)
    run.file = pytester.path / "build" / "left.txt"
    run.mend = (pytester.path / "mended").touch
    return run


def test_what_has_passed_is_left_out_until_all_has(run):
    first = run()
    first.assert_outcomes(passed=2, failed=1)
    first.stdout.fnmatch_lines(["FAILED test_some.py::test_two"])
    assert run.file.read_text().splitlines() == [
        sources_digest(), "test_some.py::test_one", "test_some.py::test_three"]
    run("-x").assert_outcomes(failed=1, deselected=2)
    run.mend()
    run().assert_outcomes(passed=1, deselected=2)
    assert not run.file.exists()
    run().assert_outcomes(passed=3)


def test_all_runs_again_when_a_source_has_changed(run):
    run()
    run.file.write_text(run.file.read_text().replace(sources_digest(), "another"))
    run().assert_outcomes(passed=2, failed=1)
    run("-k", "one").assert_outcomes(passed=0, deselected=3)
    assert run.file.read_text().splitlines()[1:] == [
        "test_some.py::test_one", "test_some.py::test_three"]

"""What a launch says of a rank that died of an exception."""

import sys

import pytest

from entrypoints.launch.model import LaunchOptions, RankCommand
from entrypoints.launch.supervisor import run
from entrypoints.placement.model import RankPlan

FAREWELL = "import atexit; atexit.register(print, 'WARNING: destroy() was not called')\n"


def cause(code: str) -> str:
    return run([RankCommand(RankPlan(0), (sys.executable, "-u", "-c", code))], LaunchOptions(quiet=True)).cause


@pytest.mark.parametrize("name", ["RuntimeError", "AssertionError", "ValueError"])
def test_the_exception_is_quoted_not_what_a_library_says_at_exit(name: str) -> None:
    told = cause(FAREWELL + f"raise {name}('the reason')")
    assert f"exited with code 1; {name}: the reason" in told and "destroy" not in told


def test_an_exception_that_was_caught_is_not_the_cause_of_another_exit_code() -> None:
    caught = "import sys, traceback\ntry:\n    raise ValueError('caught')\nexcept ValueError:\n    traceback.print_exc()\n"
    code = caught + "print('the end'); sys.exit(7)"
    assert "exited with code 7; its last line: the end" in cause(code)

"""What is no failure gets no finding that says so, whatever launcher stands before it."""

from pathlib import Path
from typing import Any

import pytest

from entrypoints.toml import load_toml
from tests.helpers.diagnosis import diagnose_lines

LOGS = load_toml(Path(__file__).parents[2] / "data" / "logs" / "healthy.toml")["log"]
PREFIXES = ("", "[1,0]<stderr>:", "0: ", "[pod/ep-0/main] 2026-08-19T05:29:34.123456789Z ", "Aug 15 18:16:57 n1 ep[7438]: ")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("log", LOGS, ids=lambda log: str(log["name"]))
def test_no_finding_but_a_benign_one(log: dict[str, Any], prefix: str) -> None:
    findings = diagnose_lines([prefix + line for line in log["text"].strip("\n").splitlines()])
    assert [(item.signature, item.severity) for item in findings if item.severity != "benign"] == []


def test_a_warning_alone_says_that_nothing_failed() -> None:
    (finding,) = diagnose_lines(["WARNING 08-15 18:16:57 [import_utils.py:408] nvcc: command not found", "ready"])
    assert (finding.severity, finding.signature) == ("benign", "nvcc-missing-at-runtime")
    assert "nothing in the log failed" in finding.cause


def test_the_line_of_the_failure_is_quoted_not_that_of_the_warning() -> None:
    lines = ["WARNING 08-15 18:16:57 [a.py:1] CUDA out of memory, trying again", "ERROR 08-15 18:17:57 [a.py:2] CUDA out of memory"]
    (finding,) = diagnose_lines([*lines, "exit code 1"])
    assert (finding.severity, finding.line, finding.count) == ("fatal", 2, 2)

"""Every cause of the vocabulary, from short texts of our own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoints.diagnosis.signatures import load
from entrypoints.toml import load_toml
from tests.helpers.diagnosis import diagnose_lines

LOGS = load_toml(Path(__file__).parents[2] / "data" / "logs" / "causes.toml")["log"]
LAUNCHERS: dict[str, Callable[[int, str], str]] = {
    "plain": lambda number, line: line,
    "mpirun": lambda number, line: f"[1,{number % 8}]<stderr>:{line}",
    "kubectl": lambda number, line: f"[pod/ep-0-{number % 2}/main] 2026-08-19T05:29:34.123456789Z {line}",
    "srun": lambda number, line: f"{number % 16}: {line}",
    "rank": lambda number, line: f"[rank {number % 8}] {line}",
    "colour": lambda number, line: f"\x1b[33m{line}\x1b[0m\r",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("log", LOGS, ids=lambda log: str(log["name"]))
def test_the_cause_comes_first(log: dict[str, Any], launcher: str) -> None:
    lines = [LAUNCHERS[launcher](number, line) for number, line in enumerate(log["text"].strip().splitlines())]
    findings = diagnose_lines(lines)
    assert findings, "no finding at all"
    first = findings[0]
    said = f"{first.cause} {first.remedy} {first.text}"
    assert first.cause_id == log["cause"], [(item.cause_id, item.severity) for item in findings]
    assert (first.severity == "benign") is log.get("benign", False)
    assert not [word for word in log.get("mention", ()) if word not in said]
    if log.get("benign"):
        assert {item.severity for item in findings} == {"benign"}


def test_every_signature_has_a_text() -> None:
    matched = {finding.signature for log in LOGS for finding in diagnose_lines(log["text"].strip().splitlines())}
    assert {signature.id for signature in load().signatures} - matched == set()

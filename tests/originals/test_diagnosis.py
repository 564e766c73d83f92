"""Failures as people posted them get their cause first, results raise no alarm."""

import json
import re
from pathlib import Path

import pytest

from entrypoints.diagnosis.match import diagnose_paths
from entrypoints.diagnosis.signatures import load
from tests.helpers.originals import ORIGINALS

FOLDER = ORIGINALS / "logs"
FAILURES, RESULTS = sorted(FOLDER.glob("failures/*.log")), sorted(FOLDER.glob("results/*.log"))


def test_the_logs_are_there() -> None:
    assert FAILURES and RESULTS


@pytest.mark.parametrize("log", FAILURES, ids=lambda path: path.stem)
def test_failure(log: Path) -> None:
    expected = json.loads(log.with_name(f"{log.stem}.expected.json").read_text())
    findings = diagnose_paths([log])
    first = findings[0]
    assert first.cause_id == expected["cause_id"], [(item.cause_id, item.severity) for item in findings]
    said = f"{first.cause} {first.remedy} {first.text}"
    assert [word for word in expected["must_mention"] if word not in said] == []
    assert (first.severity == "benign") is expected["benign"]
    if expected["benign"]:
        assert {item.severity for item in findings} == {"benign"}


@pytest.mark.parametrize("log", RESULTS, ids=lambda path: path.stem)
def test_result(log: Path) -> None:
    """A finished run is never called failed. The unbound Azure run is slow, and that is all that is said of it."""
    findings = diagnose_paths([log])
    assert [item.cause_id for item in findings if item.severity != "benign"] == (
        ["affinity-not-applied"] if log.stem == "azure-h100-unbound" else []
    )
    assert not [item for item in findings if item.severity == "fatal"]


def test_every_cause_of_the_vocabulary_can_be_found() -> None:
    vocabulary = set(re.findall(r"^\| `([\w-]+)`", (FOLDER / "CAUSES.md").read_text(), re.MULTILINE))
    by_table = {item.id for item in load().signatures}
    assert vocabulary - by_table == {"benign-warning", "all-ranks-one-nic", "affinity-not-applied"}  # from performance.py and severities

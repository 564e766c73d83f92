"""The shared failures get their cause first, the shared results raise no alarm."""

import json
from pathlib import Path

import pytest

from entrypoints.diagnosis.match import diagnose_paths

SAMPLES = Path(__file__).parents[4] / "shared" / "logs"
FAILURES, RESULTS = sorted(SAMPLES.glob("failures/*.log")), sorted(SAMPLES.glob("results/*.log"))
if not FAILURES:
    pytest.skip("../shared/logs is not beside this checkout", allow_module_level=True)


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

"""What a diagnosis says."""

from dataclasses import dataclass, replace
from typing import Any

SCHEMA = "epbox.diagnosis/1"


@dataclass(frozen=True)
class Finding:
    """One cause. `severity` is fatal (the run failed or its numbers are void), warning (it finished, but something is wrong or
    slow) or benign (known to be harmless here). `line` counts from 1 in `log`; `follows` names the finding this one results from."""

    cause_id: str
    severity: str
    cause: str
    remedy: str
    line: int | None
    text: str
    source: str = ""
    count: int = 1
    signature: str | None = None
    follows: str | None = None
    evidence: tuple[str, ...] = ()
    log: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "cause_id": self.cause_id,
            "severity": self.severity,
            "cause": self.cause,
            "remedy": self.remedy,
            "line": self.line,
            "text": self.text,
            "count": self.count,
            "source": self.source,
            "signature": self.signature or self.cause_id,
            "follows": self.follows,
            "evidence": list(self.evidence),
            "log": self.log,
        }

    def with_log(self, log: str) -> "Finding":
        return replace(self, log=log)

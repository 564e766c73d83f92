"""Findings for machines and for people."""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

from entrypoints.diagnosis.model import SCHEMA, Finding

_NOTHING = "No known failure and no error in these lines."


def verdict(findings: Sequence[Finding]) -> str:
    """One line: what this is."""
    first = findings[0] if findings else None
    if first is None:
        return _NOTHING
    if first.severity == "benign":
        return f"Nothing failed; {first.cause}."
    return f"{first.cause_id}: {first.cause}"


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"schema": SCHEMA, "verdict": verdict(findings), "findings": [finding.to_json() for finding in findings]}


def as_text(findings: Sequence[Finding], table: Callable[[Sequence[str], Sequence[Sequence[object]]], str]) -> str:
    """The first cause in full, then the others in a table."""
    if not findings:
        return _NOTHING
    first, *others = findings
    parts = [f"{first.severity.upper()}  {first.cause_id}", ""]
    where = "" if first.line is None else f"{f'{first.log}:' if first.log else 'line '}{first.line}: "
    rows = [("cause", first.cause), ("remedy", first.remedy), ("seen", where + first.text)]
    if first.count > 1:
        rows.append(("times", str(first.count)))
    rows += [("also", item) for item in first.evidence]
    rows += [("source", first.source)] if first.source else []
    parts += [fill(f"{name:<8}{value}", 110, subsequent_indent=" " * 8, break_long_words=False) for name, value in rows]
    if others:
        cells = [(item.severity, item.cause_id, item.line or "-", item.count, _short(item)) for item in others]
        parts += ["", table(("severity", "also found", "line", "times", "what"), cells)]
    return "\n".join(parts)


def _short(item: Finding) -> str:
    text = f"follows from {item.follows}" if item.follows else item.cause
    return text if len(text) <= 90 else text[:87] + "..."

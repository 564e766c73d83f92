"""Findings for machines and for people."""

from collections.abc import Sequence
from textwrap import fill

from entrypoints.results.codec import encode
from entrypoints.results.model import Finding
from entrypoints.results.ranks import JsonObject
from entrypoints.results.tables import Table, to_text

SCHEMA = "epbox.diagnosis/1"
_NOTHING = "No known failure and no error in these lines."


def verdict(findings: Sequence[Finding]) -> str:
    """The worst finding in one line."""
    if not findings:
        return _NOTHING
    first = findings[0]
    return f"Nothing failed; {first.cause}." if first.severity == "benign" else f"{first.cause_id}: {first.cause}"


def to_json(findings: Sequence[Finding]) -> JsonObject:
    """The epbox.diagnosis/1 document."""
    return {"schema": SCHEMA, "verdict": verdict(findings), "findings": encode(findings)}


def as_text(findings: Sequence[Finding]) -> str:
    """The first cause in full, then the others in a table."""
    if not findings:
        return _NOTHING
    first, *others = findings
    line = "" if first.line is None else f"{f'{first.log}:' if first.log else 'line '}{first.line}: "
    rows = [("cause", first.cause), ("remedy", first.remedy), ("seen", line + first.text)]
    rows += [("times", str(first.count))] if first.count > 1 else []
    rows += [("also", text) for text in first.evidence]
    rows += [("source", first.source)] if first.source else []
    parts = [f"{first.severity.upper()}  {first.cause_id}", ""]
    parts += [fill(f"{name:<8}{text}", 110, subsequent_indent=" " * 8, break_long_words=False) for name, text in rows]
    if others:
        cells = [(item.severity, item.cause_id, item.line or "-", item.count, _short(item)) for item in others]
        parts += ["", to_text(Table(("severity", "also found", "line", "times", "what"), cells))]
    return "\n".join(parts)


def _short(finding: Finding) -> str:
    text = f"follows from {finding.follows}" if finding.follows else finding.cause
    return text if len(text) <= 90 else text[:87] + "..."

"""Diagnosis of lines that are in no file."""

from collections.abc import Iterable

from entrypoints.diagnosis.facts import HostFacts
from entrypoints.diagnosis.match import find_causes
from entrypoints.diagnosis.scan import Scanner
from entrypoints.diagnosis.signatures import load
from entrypoints.results.model import Finding


def diagnose_lines(lines: Iterable[str | bytes], facts: HostFacts | None = None) -> list[Finding]:
    """Findings for these lines, worst first."""
    scanner = Scanner(load())
    block = b"".join((line.encode() if isinstance(line, str) else line).rstrip(b"\n") + b"\n" for line in lines)
    if block:
        scanner.block(block)
    return find_causes(scanner.scan, facts or HostFacts())

"""From what is in a log to causes: the root before what follows from it, the worst first, the harmless known as harmless."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from entrypoints.diagnosis import performance
from entrypoints.diagnosis.facts import HostFacts
from entrypoints.diagnosis.scan import Hit, Scan, Scanner
from entrypoints.diagnosis.signatures import SEVERITIES, Signature, load
from entrypoints.errors import UsageError
from entrypoints.logs.reader import blocks, log_files, open_log
from entrypoints.results.model import Finding

#: Added to the order of a signature that needs confirmation and has none, or that only says that something failed.
_BEHIND = 1000
#: Words for named groups of a pattern that caught nothing; the others are "?".
_UNCAUGHT = {"device": "device", "module": "asked for", "library": "asked for", "xid": "number unknown"}


class _Candidate(NamedTuple):
    """A signature that is in the log, and where its cause stands among the others: by severity, then by order."""

    severity: str
    order: int
    signature: Signature
    hit: Hit


def diagnose_paths(paths: Iterable[str | Path], facts: HostFacts | None = None) -> list[Finding]:
    """Findings for logs (files, folders, `-`), worst first; several logs are taken as those of one run.

    Raises UsageError when a log cannot be read, is empty or is not text.
    """
    scanner = Scanner(load())
    names = list(log_files(paths))
    for name in names:
        scanner.next_log(name)
        with open_log(name) as stream:
            for block in blocks(stream, name):
                scanner.block(block)
        if scanner.scan.binary:
            raise UsageError("binary data, not a log", where=name, hint="give the text that the run printed (plain, gzip, xz or bzip2)")
    if scanner.scan.size == 0:
        hint = "the run printed nothing: look at the launcher's own output and exit code"
        raise UsageError("empty", where=", ".join(names), hint=hint)
    return find_causes(scanner.scan, facts or HostFacts())


def find_causes(scan: Scan, facts: HostFacts) -> list[Finding]:
    """Findings for a scanned log. Pure: the same scan and facts give the same findings."""
    candidates = sorted(_candidates(scan, facts), key=lambda item: (SEVERITIES.index(item.severity), item.order, item.hit.first))
    certain = any(item.severity == "fatal" and item.order < _BEHIND for item in candidates)
    findings: dict[tuple[str, str], Finding] = {}
    for severity, order, signature, hit in candidates:
        if severity == "fatal" and certain and order >= _BEHIND and signature.confirm:
            severity = "warning"
        if (signature.id, severity) not in findings:
            findings[signature.id, severity] = _finding(scan, signature, hit, severity, facts)
    ordered = sorted([*findings.values(), *performance.findings(scan, facts)], key=lambda item: SEVERITIES.index(item.severity))
    fatal = [item for item in ordered if item.severity == "fatal"]
    if [item.cause_id for item in fatal] == ["ibgda-init-failed"] and scan.exception is not None:
        # On one host IBGDA may fail and the run goes on: an exception that nothing else explains is then the cause, and IBGDA a note.
        # Seen on one H100 without HCA: any error of the test itself comes after `init failed for transport: IBGDA`.
        fatal = _unknown(scan)
        ordered = [*fatal, *(replace(item, severity="warning") if item.severity == "fatal" else item for item in ordered)]
    elif all(item.severity == "benign" for item in ordered) and scan.failed and not scan.finished:
        ordered = [*_unknown(scan), *ordered]
    # Later fatal findings follow from the first.
    return [replace(item, follows=fatal[0].cause_id) if item in fatal[1:] else item for item in ordered]


def _candidates(scan: Scan, facts: HostFacts) -> Iterator[_Candidate]:
    signatures = load().signatures
    for index, hit in sorted(scan.hits.items()):
        signature = signatures[index]
        if scan.probes.issuperset(signature.required) and scan.probes.isdisjoint(signature.excluded):
            # Behind the others when it only may be the root, unless doctor's failures speak for it.
            unconfirmed = bool(signature.confirm) and scan.probes.isdisjoint(signature.confirm)
            behind = (signature.weak or hit.passing or unconfirmed) and not _doctors_evidence(signature, facts)
            yield _Candidate(_severity(scan, signature, hit), signature.order + (_BEHIND if behind else 0), signature, hit)


def _severity(scan: Scan, signature: Signature, hit: Hit) -> str:
    log = scan.log_of(hit.last)
    if log.finished > hit.last or (not log.finished and scan.finished and not log.failed):
        return signature.finished
    if log.finished and log.failed < log.finished and signature.finished == "benign":
        return "benign"  # while the run ends, after its results, peers that close first are warned about
    if hit.passing and not scan.failed:
        return "benign"
    if signature.unfailed and not scan.failed and (signature.unfailed_with is None or signature.unfailed_with in scan.probes):
        return signature.unfailed
    return "fatal"


def _doctors_evidence(signature: Signature, facts: HostFacts) -> tuple[str, ...]:
    """Doctor's failures that speak for the cause."""
    checks = [check for check in facts.checks if check.id in signature.doctor and check.status == "FAIL"]
    return tuple(f"doctor: {check.title or check.id}: {check.evidence}" for check in checks)


def _finding(scan: Scan, signature: Signature, hit: Hit, severity: str, facts: HostFacts) -> Finding:
    cause_id, cause, remedy = signature.id, signature.cause, signature.remedy
    if severity == "benign":
        cause_id, cause, remedy = "benign-warning", signature.benign, "none"
        if hit.passing and not scan.finished:
            cause = "said as information or a warning, and nothing in the log failed"
    log = scan.log_of(hit.first)
    groups = defaultdict(lambda: "?", _UNCAUGHT | hit.groups)
    return Finding(
        cause_id=cause_id,
        severity=severity,
        cause=cause.format_map(groups),
        remedy=remedy.format_map(groups),
        line=hit.first - log.start,
        text=hit.text,
        count=hit.count,
        source=signature.source,
        signature=signature.id,
        evidence=_doctors_evidence(signature, facts),
        log=log.name or None,
    )


def _unknown(scan: Scan) -> list[Finding]:
    """For a failure that is not in the table: the exception of the first traceback, else the first error line; empty without either."""
    quoted = scan.exception or scan.error
    if quoted is None:
        return []
    number, text = quoted
    log = scan.log_of(number)
    return [
        Finding(
            cause_id="unknown",
            severity="fatal",
            cause=f"not a failure this table knows; the first error is: {text}",
            remedy="look at the lines around it on every rank; diagnose --bundle OUT.tar.gz gathers what a bug report needs",
            line=number - log.start,
            text=text,
            signature="unknown",
            log=log.name or None,
        )
    ]

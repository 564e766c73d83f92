"""From what is in a log to causes: the root before what follows from it, the worst first, the harmless known as harmless."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from entrypoints.diagnosis import performance
from entrypoints.diagnosis.model import Finding
from entrypoints.diagnosis.scan import Hit, Scan, Scanner, scan_lines
from entrypoints.diagnosis.signatures import SEVERITIES, Signature, load
from entrypoints.errors import UsageError
from entrypoints.logs.parse import log_files
from entrypoints.logs.reader import blocks, open_log

#: Added to the order of a signature that needs confirmation and has none, or that only says that something failed.
_BEHIND = 1000


def diagnose_lines(lines: Iterable[str | bytes], facts: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings for these lines, worst first. `facts` may hold `doctor` (checks), `plans` and `results` of the same run."""
    return judge(scan_lines(lines, load()), facts or {})


def diagnose_paths(paths: Iterable[str | Path], facts: Mapping[str, Any] | None = None) -> list[Finding]:
    """The same for logs (files, folders, `-`); several logs are taken as those of one run.

    Raises UsageError when a log cannot be read, is empty or is no text.
    """
    scanner = Scanner(load())
    scan = scanner.scan
    names = list(log_files(paths))
    for name in names:
        scanner.next_log(name)
        with open_log(name) as stream:
            for block in blocks(stream, name):
                scanner.block(block)
        if scan.binary:
            raise UsageError("binary data, not a log", where=name, hint="give the text that the run printed (plain, gzip, xz or bzip2)")
    if scan.size == 0:
        hint = "the run printed nothing: look at the launcher's own output and exit code"
        raise UsageError("empty", where=", ".join(names), hint=hint)
    return judge(scan, facts or {})


def judge(scan: Scan, facts: Mapping[str, Any]) -> list[Finding]:
    """Findings for a scanned log. Pure: the same scan and facts give the same findings."""
    ranked = [
        (_severity(scan, signature, hit), _rank(scan, signature, hit, facts), hit.first, signature, hit)
        for signature, hit in _candidates(scan, facts)
    ]
    strong = any(severity == "fatal" and rank < _BEHIND for severity, rank, *_ in ranked)
    ranked.sort(key=lambda item: (SEVERITIES.index(item[0]), item[1], item[2]))
    findings: list[Finding] = []
    seen: set[tuple[str, str]] = set()
    for severity, rank, _, signature, hit in ranked:
        if severity == "fatal" and strong and rank >= _BEHIND and signature.confirm:
            severity = "warning"
        if (signature.id, severity) in seen:
            continue
        seen.add((signature.id, severity))
        findings.append(_finding(scan, signature, hit, severity, facts))
    findings += performance.findings(scan, dict(facts))
    findings.sort(key=lambda item: SEVERITIES.index(item.severity))
    findings = _not_ibgda_alone(scan, findings)
    if not any(item.severity != "benign" for item in findings) and scan.failed and not scan.finished:
        findings = [*_unknown(scan), *findings]
    return _linked(findings)


def _not_ibgda_alone(scan: Scan, findings: list[Finding]) -> list[Finding]:
    """On one host IBGDA may fail and the run goes on: an exception that nothing else explains is then the cause, and IBGDA a note.

    Seen on one H100 without HCA: any error of the test itself comes after `init failed for transport: IBGDA`.
    """
    fatal = [item for item in findings if item.severity == "fatal"]
    if [item.cause_id for item in fatal] != ["ibgda-init-failed"] or scan.exception is None:
        return findings
    return [*_unknown(scan), *(replace(item, severity="warning") if item is fatal[0] else item for item in findings)]


def _candidates(scan: Scan, facts: Mapping[str, Any]) -> Iterable[tuple[Signature, Hit]]:
    signatures = load().signatures
    for index, hit in sorted(scan.hits.items()):
        signature = signatures[index]
        if all(text in scan.probes for text in signature.required) and not any(text in scan.probes for text in signature.excluded):
            yield signature, hit


def _rank(scan: Scan, signature: Signature, hit: Hit, facts: Mapping[str, Any]) -> int:
    """Place of a cause in the chain: its phase, behind the others when it only may be the root. Doctor's failures bring it forward."""
    behind = signature.weak or hit.passing or (bool(signature.confirm) and not any(text in scan.probes for text in signature.confirm))
    if behind and _doctor_says(signature, facts):
        behind = False
    return signature.order + _BEHIND * behind


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


def _doctor_says(signature: Signature, facts: Mapping[str, Any]) -> list[str]:
    """What doctor said of this host that speaks for the cause."""
    return [
        f"doctor: {check.get('title', check['id'])}: {check.get('evidence', '')}"
        for check in facts.get("doctor", ())
        if check.get("id") in signature.doctor and check.get("status") == "FAIL"
    ]


_IN_PASSING = "said as information or a warning, and nothing in the log failed"


class _Named(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return {"device": "device", "module": "asked for", "library": "asked for", "xid": "number unknown"}.get(key, "?")


def _finding(scan: Scan, signature: Signature, hit: Hit, severity: str, facts: Mapping[str, Any]) -> Finding:
    names = _Named(hit.groups)
    benign = severity == "benign"
    log = scan.log_of(hit.first)
    return Finding(
        cause_id="benign-warning" if benign else signature.id,
        severity=severity,
        cause=(_IN_PASSING if benign and hit.passing and not scan.finished else signature.benign if benign else signature.cause).format_map(
            names
        ),
        remedy="none" if benign else signature.remedy.format_map(names),
        line=hit.first - log.start,
        text=hit.text,
        source=signature.source,
        count=hit.count,
        signature=signature.id,
        evidence=tuple(_doctor_says(signature, facts)),
        log=log.name or None,
    )


def _unknown(scan: Scan) -> list[Finding]:
    """Nothing in the table fits: quote the first error, the exception of the first traceback if there is one."""
    quoted = scan.exception or scan.error
    if quoted is None:
        return []
    log = scan.log_of(quoted[0])
    return [
        Finding(
            cause_id="unknown",
            severity="fatal",
            cause=f"not a failure this table knows; the first error is: {quoted[1]}",
            remedy="look at the lines around it on every rank; diagnose --bundle OUT.tar.gz gathers what a bug report needs",
            line=quoted[0] - log.start,
            text=quoted[1],
            log=log.name or None,
        )
    ]


def _linked(findings: list[Finding]) -> list[Finding]:
    """Later fatal findings follow from the first."""
    root = next((item for item in findings if item.severity == "fatal"), None)
    if root is None:
        return findings
    return [item if item is root or item.severity != "fatal" else replace(item, follows=root.cause_id) for item in findings]

"""The results of doctor as one JSON document, or as a table for people."""

from collections.abc import Sequence
from typing import Any

from entrypoints.output import table
from entrypoints.preflight.compare import host_facts
from entrypoints.preflight.container import docker_run, environment_kind, missing, pod_spec
from entrypoints.preflight.model import STATUSES, Host
from entrypoints.results.codec import encode
from entrypoints.results.model import Check

SCHEMA = "epbox.doctor/1"
#: Characters of evidence in the table.
WIDTH = 110
COLOURS = {"PASS": "32", "WARN": "33", "FAIL": "31", "NOT_RUN": "36"}


def summary(results: Sequence[Check]) -> dict[str, int]:
    """How many checks gave each status, all four always present."""
    return {status: sum(result.status == status for result in results) for status in STATUSES}


def verdict(workload: str, results: Sequence[Check]) -> str:
    """One line: is this host fit, and what stands in the way."""
    counts = summary(results)
    failures = [result.id for result in results if result.status == "FAIL"]
    state = f"not fit for {workload}: {', '.join(failures)}" if failures else f"no failure for {workload}"
    return f"{state} ({counts['PASS']} pass, {counts['WARN']} warn, {counts['FAIL']} fail, {counts['NOT_RUN']} not run)"


def document(host: Host, results: Sequence[Check], probes: Sequence[Check] = ()) -> dict[str, Any]:
    """The document of epbox.doctor/1."""
    everything = [*results, *probes]
    return {
        "schema": SCHEMA,
        "workload": host.workload,
        "source": host.topology.source,
        "environment": environment_kind(host),
        "status": "FAIL" if any(result.status == "FAIL" for result in everything) else "PASS",
        "verdict": verdict(host.workload, everything),
        "summary": summary(everything),
        "checks": encode(results),
        "probes": encode(probes),
        "missing_flags": [{"flag": option, "why": why} for option, why in missing(host).items()],
        "docker_run": docker_run(host),
        "pod": pod_spec(host),
        "facts": host_facts(host),
    }


def text(workload: str, results: Sequence[Check], colour: bool = False) -> str:
    """A table of all checks, then what to do for each that is not a PASS, then the verdict."""
    rows = [(result.status, result.id, _cut(one_line(result.evidence))) for result in results]
    lines = table(("STATUS", "CHECK", "SEEN"), rows).splitlines()
    if colour:
        lines = [_paint(line) for line in lines]
    todo = [result for result in results if result.status in ("FAIL", "WARN") and result.remedy]
    if todo:
        lines += ["", "What to do:"]
        for result in sorted(todo, key=lambda result: result.status != "FAIL"):
            seen = one_line(result.evidence)
            lines.append(f"  {result.status} {result.id}: {one_line(result.remedy or '')}")
            lines += [f"      seen: {seen}"] if len(seen) > WIDTH else []
            lines.append(f"      from: {result.source}")
    return "\n".join([*lines, "", verdict(workload, results)])


def one_line(text: str) -> str:
    """Control characters of a hostile file must not reach a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _cut(text: str) -> str:
    """Long evidence is cut in the table; findings show it in full below, JSON always."""
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _paint(line: str) -> str:
    word = line.partition(" ")[0]
    return f"\x1b[{COLOURS[word]}m{word}\x1b[0m{line[len(word) :]}" if word in COLOURS else line

"""The preflight checks of this job, as a gate before a launch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entrypoints.bench.setup import Job
from entrypoints.output import say

#: Left to the rendezvous, which proves it: nodes that share a host (containers on its network) do meet over loopback.
PROVEN_LATER = ("net.master",)


def examine(job: Job) -> dict[str, Any]:
    """Run the checks; failures and warnings are told on stderr. `failed` lists the ids of failed checks."""
    from entrypoints.preflight.run import run_checks

    environ = {**os.environ, **job.rendezvous.environment()}
    every = run_checks(job.workload.placement, job.topology, environ=environ)
    results = [result for result in every if result.id not in PROVEN_LATER]
    for result in results:
        if result.status in ("FAIL", "WARN"):
            say(f"doctor {result.status} {result.id}: {result.evidence}; {result.remedy}")
    counts = {status: sum(result.status == status for result in results) for status in ("PASS", "WARN", "FAIL", "NOT_RUN")}
    say(f"doctor: {counts['PASS']} passed, {counts['WARN']} warnings, {counts['FAIL']} failed, {counts['NOT_RUN']} not run")
    return {
        "counts": counts,
        "failed": [result.id for result in results if result.status == "FAIL"],
        "checks": [result.to_json() for result in results],
    }


def facts(job: Job) -> dict[str, Any]:
    """What of this node must be equal on all nodes: kernel, driver, GPUs, HCAs, MTU, libraries (epbox.facts/1)."""
    from entrypoints.preflight.facts import host_facts
    from entrypoints.preflight.run import make_host

    return host_facts(make_host(job.workload.placement, job.topology, Path("/"), {**os.environ, **job.rendezvous.environment()}))


def differences(records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What differs between the nodes, worst first, as check results; told on stderr. Agreement on names and lock is tested elsewhere."""
    from entrypoints.preflight.compare import compare_nodes

    found = [result for result in compare_nodes(records) if result.id not in ("nodes.hostname", "nodes.lock")]
    for result in found:
        if result.status in ("FAIL", "WARN"):
            say(f"doctor {result.status} {result.id}: {result.evidence}; {result.remedy}")
    return [result.to_json() for result in found]

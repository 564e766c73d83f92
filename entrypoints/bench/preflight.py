"""Before a launch: the checks of this host, and the meeting with the other nodes, which must agree and have passed theirs."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, replace

from entrypoints.bench import identity
from entrypoints.bench.setup import Job
from entrypoints.errors import PreflightFailed
from entrypoints.nodes.rendezvous import NodeFacts, check_agreement
from entrypoints.nodes.session import Session
from entrypoints.output import say
from entrypoints.results.codec import decode, encode
from entrypoints.results.model import Check, Doctor
from entrypoints.results.ranks import JsonObject

#: Left to the rendezvous, which proves it: nodes that share a host (containers on its network) do meet over loopback.
PROVEN_LATER = ("net.master",)
#: Agreement of the nodes on these is tested without doctor.
AGREED = ("nodes.hostname", "nodes.lock")
#: Nodes that a message names.
MOST_NAMED = 16


def examine(job: Job) -> Doctor:
    """Run the checks of this host; failures and warnings go to stderr too."""
    from entrypoints.preflight.run import run_checks

    environ = {**os.environ, **job.rendezvous.environment()}
    every = run_checks(job.workload.placement, job.topology, environ=environ)
    results = [result for result in every if result.id not in PROVEN_LATER]
    checks = report(results)
    counts = {status: sum(result.status == status for result in results) for status in ("PASS", "WARN", "FAIL", "NOT_RUN")}
    say(f"doctor: {counts['PASS']} passed, {counts['WARN']} warnings, {counts['FAIL']} failed, {counts['NOT_RUN']} not run")
    failed = tuple(result.id for result in results if result.status == "FAIL")
    return Doctor(counts=counts, failed=failed, checks=checks)


def report(results: Sequence[Check]) -> tuple[Check, ...]:
    """The checks as a result has them; failures and warnings go to stderr too."""
    for result in results:
        if result.status in ("FAIL", "WARN"):
            say(f"doctor {result.status} {result.id}: {result.evidence}; {result.remedy}")
    return tuple(results)


def differences(hosts: Sequence[JsonObject]) -> tuple[Check, ...]:
    """The differences between the nodes, worst first; they go to stderr too."""
    from entrypoints.preflight.compare import compare_nodes

    return report([result for result in compare_nodes(hosts) if result.id not in AGREED])


def meet(job: Job, session: Session, checked: Doctor | None) -> Doctor | None:
    """Wait for all nodes, which must agree and have passed their preflight; returns the preflight with what differs between them.

    Every node raises the same PreflightFailed.
    """
    from entrypoints.preflight.compare import host_facts
    from entrypoints.preflight.files import files_of
    from entrypoints.preflight.run import make_host

    host = None
    if checked is not None and job.rendezvous.nodes > 1:
        environ = {**os.environ, **job.rendezvous.environment()}
        host = host_facts(make_host(job.workload.placement, job.topology, files_of(None), environ))
    workload = f"{job.prepared.workload} {json.dumps(job.prepared.shape)} runs={job.args.runs} ablate={job.args.ablate}"
    # Two nodes may share a host name in alltoall: nothing takes it for the node.
    alltoall = job.prepared.workload == "alltoall"
    image = identity.image()
    facts = NodeFacts(
        hostname=f"{socket.gethostname()}/{job.rendezvous.node_rank}" if alltoall else socket.gethostname(),
        lock=image.lock if image else None,
        ranks=len(job.plan.ranks),
        workload=f"{workload} baseline" if job.args.baseline else workload,
        rails=None if alltoall else [rank.hca for rank in job.plan.ranks],
        failed_checks=[] if checked is None or job.args.force else list(checked.failed),
        host=host,
    )
    reply = session.open(asdict(facts), job.args.join_timeout, judge)
    if "refused" in reply:
        what, where, hint = reply["refused"]
        raise PreflightFailed(what, where=where, hint=hint)
    if checked is not None and "differences" in reply:
        return replace(checked, differences=tuple(decode(Check, check) for check in reply["differences"]))
    return checked


def judge(everyone: Sequence[JsonObject]) -> JsonObject:
    """Node 0's reply to the facts of all nodes: `refused` (what, where, hint), or their `differences` where all gave them."""
    nodes = [NodeFacts.from_json(document) for document in everyone]
    try:
        check_agreement(nodes)
        hosts = [node.host for node in nodes if node.host is not None]
        reply = {"differences": encode(differences(hosts))} if len(hosts) == len(nodes) else {}
        failed = [(rank, node) for rank, node in enumerate(nodes) if node.failed_checks]
        if failed:
            named = "; ".join(f"node {rank} ({node.hostname}): {', '.join(node.failed_checks)}" for rank, node in failed[:MOST_NAMED])
            more = f"; and {len(failed) - MOST_NAMED} more nodes" if len(failed) > MOST_NAMED else ""
            raise PreflightFailed(f"preflight failed: {named}{more}", hint="epbox doctor tells more; --force runs in spite of it")
    except PreflightFailed as error:
        return {"refused": [error.what, error.where, error.hint]}
    return reply

"""bench from start to end: job, preflight, meeting the other nodes, launches, one document, one verdict."""

import json
import os
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from entrypoints.bench import ablate, arms, baseline, doctor, document, gate, identity, outcome, record, show, termination
from entrypoints.bench.launching import NodeRun, commands, launch
from entrypoints.bench.outdir import open_folder
from entrypoints.bench.setup import Job, make_job, rank_python
from entrypoints.errors import EPBoxError, PreflightFailed, UsageError
from entrypoints.launch.signals import Stop
from entrypoints.nodes.agreement import check_agreement
from entrypoints.nodes.session import Session
from entrypoints.output import emit_json, say, write_atomically
from entrypoints.topology.document import to_document

#: Beside the slowest node: how long node 0 waits for another node's record after its own ranks ended.
GATHER_S = 60.0
#: How long another node waits for node 0 to have written the record of a run that failed.
LINGER_S = 20.0
#: Nodes that a message names.
MOST_NAMED = 16


def bench(args: Namespace) -> int:
    """The verb. Returns the exit code of the contract; EPBoxError for what stops it before a rank starts."""
    job = make_job(args, os.environ)
    other = baseline.make_job(job, os.environ) if args.baseline else None
    if args.dry_run:
        return dry_run(job, other)
    if shutil.which(python := rank_python(os.environ)) is None:
        raise UsageError("no such program", where=f"EPBOX_PYTHON={python}", hint="name a Python that has torch")
    gate.check_possible(args, job)
    folder = open_folder(args.out)
    started = datetime.now(timezone.utc)
    place = f"{job.rendezvous.nodes} node(s) x {len(job.plan.ranks)} rank(s)"
    say(f"epbox bench: {job.prepared.workload} ({job.why}), {place}; results in {folder}")
    for text in (*job.plan.warnings, *job.prepared.notes):
        say(f"epbox bench: {text}")
    checked = None if args.no_doctor else doctor.examine(job)
    write_atomically(folder / _name(job, "plan", "json"), json.dumps(job.plan.to_json(), indent=2) + "\n")
    write_atomically(folder / _name(job, "topology", "json"), json.dumps(to_document(job.topology)) + "\n")
    with Session(job.rendezvous) as session:
        meet(job, session, checked)
        return work(job, other, session, folder, started, checked)


def work(job: Job, other: Job | None, session: Session, folder: Path, started: datetime, checked: dict[str, Any] | None = None) -> int:
    """All launches, one document, one verdict. From here on a signal ends the ranks, and the record says so."""
    with Stop() as stop:
        launches = ablate.run(job, folder, session, stop) if job.args.ablate else repeat(job, folder, session, stop, other)
        own = record.node_record(job, launches, socket.gethostname(), checked, folder)
        nodes, told = gather(job, session, own, stop)
        code = conclude(job, nodes, told, folder, started)
        if code:
            session.outlast_node_0(LINGER_S, stop.patience)
    return code


def _name(job: Job, stem: str, suffix: str) -> str:
    """plan.json on node 0, plan.node-1.json on node 1: nodes may share the folder."""
    return f"{stem}.{suffix}" if job.rendezvous.node_rank == 0 else f"{stem}.node-{job.rendezvous.node_rank}.{suffix}"


def meet(job: Job, session: Session, checked: dict[str, Any] | None) -> None:
    """All nodes must be there, agree, and have passed their preflight. Every node raises the same error."""
    facts: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "lock": (identity.image() or {}).get("lock"),
        "ranks": len(job.plan.ranks),
        "workload": f"{job.prepared.workload} {json.dumps(job.prepared.shape)} runs={job.args.runs} ablate={job.args.ablate}"
        + (" baseline" if job.args.baseline else ""),
        "doctor": [] if checked is None or job.args.force else checked["failed"],
    }
    if job.prepared.workload == "alltoall":
        # Two nodes may share a host name here: nothing takes it for the node.
        facts["hostname"] += f"/{job.rendezvous.node_rank}"
    else:
        facts["rails"] = [rank.hca for rank in job.plan.ranks]
    if checked is not None and job.rendezvous.nodes > 1:
        facts["facts"] = doctor.facts(job)
    answer = session.open(facts, job.args.join_timeout, judge)
    if "refused" in answer:
        what, where, hint = answer["refused"]
        raise PreflightFailed(what, where=where, hint=hint)
    if checked is not None and "differences" in answer:
        checked["differences"] = answer["differences"]


def judge(everyone: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What node 0 makes of the facts of all nodes: `refused` (what, where, hint), or their `differences` where all told them."""
    try:
        check_agreement(everyone)
        found = (
            {"differences": doctor.differences([fact["facts"] for fact in everyone])} if all("facts" in fact for fact in everyone) else {}
        )
        bad = [(rank, fact) for rank, fact in enumerate(everyone) if fact.get("doctor")]
        if bad:
            told = "; ".join(f"node {rank} ({fact['hostname']}): {', '.join(fact['doctor'])}" for rank, fact in bad[:MOST_NAMED])
            more = f"; and {len(bad) - MOST_NAMED} more nodes" if len(bad) > MOST_NAMED else ""
            raise PreflightFailed(f"preflight failed: {told}{more}", hint="epbox doctor tells more; --force runs in spite of it")
    except PreflightFailed as error:
        return {"refused": [error.what, error.where, error.hint]}
    return found


def repeat(job: Job, folder: Path, session: Session, stop: Stop, other: Job | None = None) -> list[NodeRun]:
    """--runs launches of the same binding, in turns with those of the baseline `other`; the first failure ends them."""
    launches: list[NodeRun] = []
    turns = [(job, "")] if other is None else [(job, ""), (other, baseline.BASELINE)]
    for number in range(job.args.runs):
        logs = folder if job.args.runs == 1 else folder / f"run-{number + 1}"
        # Every second round backwards, so that a drifting host does not favour one.
        for which, arm in turns if number % 2 == 0 else turns[::-1]:
            if job.args.runs > 1 or other:
                of = f" of {which.prepared.workload}, the baseline" if arm else f" of {which.prepared.workload}" if other else ""
                say(f"epbox bench: run {number + 1} of {job.args.runs}{of}")
            launches.append(launch(which, job.bind, logs / arm, session, stop, arm))
            if launches[-1].exit_code:
                return launches
    return launches


def gather(job: Job, session: Session, own: dict[str, Any], stop: Stop) -> tuple[list[dict[str, Any]], tuple[int, str]]:
    """(records, (exit code, cause) of all nodes). Node 0 has the records of all that answer, another node those of node 0 and its own."""
    records: list[dict[str, Any]] = []

    def digest(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        # A node that failed may have left an older message behind; what is no record is left out.
        records.extend(value for value in found if "node_rank" in value)
        return {"node_0": record.brief(own), "outcome": outcome.of_nodes(records)}

    try:
        answer = session.gather(own, GATHER_S, digest, stop.patience)
    except EPBoxError as error:
        if not own["exit_code"]:
            own = {**own, "exit_code": stop.exit_code or error.exit_code, "cause": f"{stop.cause}; {error}" if stop.cause else str(error)}
        return [own], outcome.of_nodes([own])
    if job.rendezvous.node_rank and "outcome" not in answer:
        return [own], outcome.of_nodes([own])
    code, cause = answer["outcome"]
    return records or [answer["node_0"], own], (code, cause)


def conclude(job: Job, nodes: Sequence[dict[str, Any]], told: tuple[int, str], folder: Path, started: datetime) -> int:
    """Write, show, and give the exit code."""
    code, cause = told
    verdict = document.verdict(job, nodes, code, cause)
    if code == 0:
        code, missed = gate.judge(job, nodes)
        verdict = f"{missed}; {verdict}" if missed else verdict
    whole = document.result(job, nodes, code, verdict, started)
    if job.args.ablate and not code:
        equal = arms.equal_arms(job)
        whole["arms"] = [{"arm": arm.name, "bind": str(arm.bind), "env": arm.env, "about": arm.about} for arm in arms.arms(job)]
        whole["ablation"] = ablate.compare(whole, equal)
        whole["verdict"] += f"; {ablate.verdict(whole['ablation'])}"
        whole["notes"] += equal.values()
    if job.args.baseline and code in (0, 7):
        whole["baseline"] = baseline.compare(whole)
        whole["verdict"] += f"; {baseline.verdict(whole['baseline'])}"
    findings = diagnosis(folder, whole) if code in (4, 5) else []
    if findings:
        whole["findings"] = findings
    write_atomically(folder / _name(job, "result", "json"), document.text(whole))
    if job.rendezvous.node_rank == 0:
        append_index(folder, whole)
        say("\n" + show.whole(whole))
        if "ablation" in whole:
            say("\n" + "\n".join([ablate.show(whole["ablation"]), *arms.equal_arms(job).values()]))
    elif code:
        say(f"FAILED: {whole['verdict']}")
    # The worst comes first; a benign finding is no cause.
    for finding in [each for each in findings if each["severity"] == "fatal"][:1]:
        say(f"likely cause: {finding['cause']}; {finding['remedy']}")
    say(f"result: {folder / _name(job, 'result', 'json')}")
    termination.leave(("FAILED: " if code else "OK: ") + whole["verdict"])
    if job.args.format != "table":
        emit_json(whole, one_line=job.args.format == "jsonl")
    return code


def append_index(folder: Path, whole: dict[str, Any]) -> None:
    """One line in index.jsonl beside the folder; a single write, so that parallel runs do not mix."""
    line = json.dumps(document.index_line(whole, folder.name)) + "\n"
    with suppress(OSError):
        handle = os.open(folder.resolve().parent / "index.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def diagnosis(folder: Path, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """What the logs and the facts of all hosts (plans, doctor, port traffic) say of a failure; nothing where they cannot be read."""
    from entrypoints.diagnosis.facts import gather, of_result
    from entrypoints.diagnosis.match import diagnose_paths

    with suppress(EPBoxError, OSError):
        # result.json is written with the findings in it, so its facts are handed over.
        return [finding.to_json() for finding in diagnose_paths([folder], {**gather(folder), **of_result(whole)})][:20]
    return []


def dry_run(job: Job, other: Job | None = None) -> int:
    """What would be started, as text or JSON. Needs no torch here: who plans for other hosts may have none."""
    try:
        python = rank_python(os.environ)
    except PreflightFailed as error:
        python = sys.executable
        say(f"note: a run would stop here: {error}")
    ranks = [
        {
            "rank": command.rank,
            "argv": list(command.argv),
            "env": {**command.env, **command.plan.env},
            "cpus": command.plan.to_json()["cpus"],
        }
        for command in commands(job, python=python)
    ]
    beside: list[dict[str, Any]] = (
        [] if other is None else [{"rank": each.rank, "argv": list(each.argv)} for each in commands(other, python=python)]
    )
    if job.args.format != "table":
        whole = {"workload": job.prepared.workload, "why": job.why, "shape": job.prepared.shape, "plan": job.plan.to_json(), "ranks": ranks}
        whole |= {"baseline": beside} if beside else {}
        emit_json(whole, one_line=job.args.format == "jsonl")
        return 0
    say(f"{job.prepared.workload} ({job.why}); shape {json.dumps(job.prepared.shape)}")
    for text in (*job.plan.warnings, *job.prepared.notes):
        say(f"note: {text}")
    for rank in ranks:
        env = " ".join(f"{name}={value}" for name, value in rank["env"].items())
        say(f"rank {rank['rank']} on CPUs {rank['cpus'] or 'any'}: {env} {' '.join(rank['argv'])}")
    for rank in beside:
        say(f"rank {rank['rank']}, baseline: {' '.join(rank['argv'])}")
    return 0

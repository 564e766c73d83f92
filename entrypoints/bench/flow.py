"""bench from start to end: job, preflight, meeting the other nodes, launches, one result, one verdict."""

import json
import os
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from entrypoints.bench import arms, preflight, record
from entrypoints.bench.launching import Arm, RunOutcome, commands
from entrypoints.bench.setup import Job, make_job, rank_python
from entrypoints.diagnosis import facts
from entrypoints.diagnosis.match import diagnose_paths
from entrypoints.errors import EPBoxError, ExitCode, NotWritten, PreflightFailed, UsageError
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session
from entrypoints.output import emit_json, leave_message, open_folder, say, write_atomically
from entrypoints.results import comparison, history, model, show, thresholds
from entrypoints.results.codec import decode, encode
from entrypoints.results.metrics import workload_runs
from entrypoints.results.model import BASELINE, Doctor, Finding, Node, Result
from entrypoints.results.ranks import JsonObject
from entrypoints.results.references import published
from entrypoints.results.thresholds import Judgement
from entrypoints.topology.document import to_document

#: Beside the slowest node: how long node 0 waits for another node's record after its own ranks ended.
GATHER_S = 60.0
#: How long another node waits for node 0 to have written the record of a run that failed.
LINGER_S = 20.0
#: Findings that a result keeps.
MOST_FINDINGS = 20


class Gathered(NamedTuple):
    """The records that this node has, node 0's first, and how all nodes ended."""

    nodes: list[Node]
    outcome: RunOutcome


def bench(args: Namespace) -> int:
    """The verb. Returns the exit code of the contract; EPBoxError for what stops it before a rank starts."""
    job = make_job(args, os.environ)
    other = arms.baseline_job(job, os.environ) if args.baseline else None
    if args.dry_run:
        return dry_run(job, other)
    if shutil.which(python := rank_python(os.environ)) is None:
        raise UsageError("no such program", where=f"EPBOX_PYTHON={python}", hint="name a Python that has torch")
    check_ratio(job)
    folder = open_folder(args.out)
    started = datetime.now(timezone.utc)
    size = f"{job.rendezvous.nodes} node(s) x {len(job.plan.ranks)} rank(s)"
    say(f"epbox bench: {job.prepared.workload} ({job.why}), {size}; results in {folder}")
    for text in (*job.plan.warnings, *job.prepared.notes):
        say(f"epbox bench: {text}")
    checked = None if args.no_doctor else preflight.examine(job)
    write_atomically(folder / _name(job, "plan", "json"), json.dumps(job.plan.to_json(), indent=2) + "\n")
    write_atomically(folder / _name(job, "topology", "json"), json.dumps(to_document(job.topology)) + "\n")
    with Session(job.rendezvous) as session:
        checked = preflight.meet(job, session, checked)
        return work(job, other, session, folder, started, checked)


def check_ratio(job: Job) -> None:
    """A ratio needs published references; say so before hours of running, not after."""
    if job.args.min_ratio is not None and not published(job.prepared.test, record.run_shape(job).sizes()):
        raise UsageError(
            f"no published result of {job.prepared.test} with this shape",
            where="--min-ratio",
            hint="entrypoints/results/references.toml has all; use --min-gbps",
        )


def work(job: Job, other: Job | None, session: Session, folder: Path, started: datetime, checked: Doctor | None = None) -> int:
    """All launches, one result, one verdict. From here on a signal ends the ranks, and the record says so."""
    with Stop() as stop:
        turns = [Arm("", job, job.bind), *([Arm(BASELINE, other, job.bind)] if other else [])]
        launches = arms.run(arms.of_ablation(job) if job.args.ablate else turns, folder, session, stop)
        node = record.node_record(job, launches, socket.gethostname(), checked, folder)
        nodes, outcome = gather(job, session, node, stop)
        code = conclude(job, nodes, outcome, folder, started)
        if code:
            session.outlast_node_0(LINGER_S, stop.patience)
    return code


def _name(job: Job, stem: str, suffix: str) -> str:
    """plan.json on node 0, plan.node-1.json on node 1: nodes may share the folder."""
    return f"{stem}.{suffix}" if job.rendezvous.node_rank == 0 else f"{stem}.node-{job.rendezvous.node_rank}.{suffix}"


def gather(job: Job, session: Session, node: Node, stop: Stop) -> Gathered:
    """Node 0 gets the records of all that answer, another node those of node 0 and its own."""
    records: list[Node] = []

    def digest(documents: Sequence[JsonObject]) -> JsonObject:
        # A node that failed may have left an older message behind; what is not a record is left out.
        records.extend(decode(Node, document, "the record of a node") for document in documents if "node_rank" in document)
        return {"node_0": encode(record.brief(node)), "outcome": record.outcome(records)}

    try:
        reply = session.gather(encode(node), GATHER_S, digest, stop.patience)
    except EPBoxError as error:
        if not node.exit_code:
            cause = f"{stop.cause}; {error}" if stop.cause else str(error)
            node = replace(node, exit_code=stop.exit_code or error.exit_code, cause=cause)
        return Gathered([node], record.outcome([node]))
    if job.rendezvous.node_rank and "outcome" not in reply:
        return Gathered([node], record.outcome([node]))
    return Gathered(records or [decode(Node, reply["node_0"], "node 0's record"), node], RunOutcome(*reply["outcome"]))


def conclude(job: Job, nodes: Sequence[Node], outcome: RunOutcome, folder: Path, started: datetime) -> int:
    """Write, show, and give the exit code."""
    result = make_result(job, nodes, outcome, folder, started)
    file = folder / _name(job, "result", "json")
    lost = write_result(file, result)
    if job.rendezvous.node_rank == 0:
        history.append(folder, result)
        say("\n" + show.bench_text(result))
        if result.ablation:
            say("\n" + "\n".join([show.ablation_text(result.ablation), *arms.equal_arms(job).values()]))
    elif result.exit_code:
        say(f"FAILED: {result.verdict}")
    # The worst comes first; a benign finding is no cause.
    for finding in [finding for finding in result.findings or () if finding.severity == "fatal"][:1]:
        say(f"likely cause: {finding.cause}; {finding.remedy}")
    say(f"result: {lost or file}")
    leave_message(("FAILED: " if result.exit_code else "OK: ") + result.verdict)
    if job.args.format != "table":
        emit_json(encode(result), one_line=job.args.format == "jsonl")
    return result.exit_code or (lost.exit_code if lost else 0)


def write_result(file: Path, result: Result) -> NotWritten | None:
    """Write it; None when that went well, else the reason, for its numbers are to be shown all the same."""
    try:
        write_atomically(file, record.result_text(result))
    except OSError as error:
        return NotWritten(f"cannot be written: {error.strerror}", where=str(file), hint="free some space, or name another folder by --out")
    return None


def make_result(job: Job, nodes: Sequence[Node], outcome: RunOutcome, folder: Path, started: datetime) -> Result:
    """The result with its verdict: thresholds, what the arms or the baseline come to, and findings on a failure."""
    verdict = record.verdict(job, nodes, outcome)
    code = outcome.exit_code
    if code == 0 and (missed := missed_thresholds(job, nodes)):
        code, verdict = ExitCode.BELOW_THRESHOLD, "; ".join([*missed, verdict])
    result = record.result(job, nodes, int(code), verdict, started)
    if job.args.ablate and not code:
        equal = arms.equal_arms(job)
        rows = comparison.ablation(result.runs, equal)
        result = replace(
            result,
            arms=tuple(model.Arm(arm=arm.name, bind=str(arm.bind), env=arm.env, about=arm.about) for arm in arms.of_ablation(job)),
            ablation=rows,
            verdict=f"{result.verdict}; {comparison.ablation_verdict(rows)}",
            notes=(*result.notes, *equal.values()),
        )
    if job.args.baseline and code in (ExitCode.OK, ExitCode.BELOW_THRESHOLD):
        beside = comparison.beside_alltoall(result.runs, result.shape)
        result = replace(result, baseline=beside, verdict=f"{result.verdict}; {comparison.baseline_verdict(beside)}")
    if code in (ExitCode.RANK_FAILED, ExitCode.TIMEOUT):
        result = replace(result, findings=diagnosis(folder, result) or None)
    return result


def missed_thresholds(job: Job, nodes: Sequence[Node]) -> list[str]:
    """A sentence for each figure below --min-gbps or --min-ratio; where single runs alone are below, stderr says so."""
    runs = workload_runs(nodes[0].runs or ())
    judgements = []
    if job.args.min_gbps is not None:
        bandwidths = thresholds.judge_bandwidth(runs, thresholds.Bandwidth(job.args.min_gbps))
        judgements += bandwidths or [Judgement("no bandwidth was reported to hold against --min-gbps")]
    if job.args.min_ratio is not None:
        ratios = thresholds.judge_ratio(runs, job.args.min_ratio)
        judgements += ratios or [Judgement("nothing was measured that --min-ratio could be held against")]
    return thresholds.missed(judgements, quiet=job.rendezvous.node_rank != 0)


def diagnosis(folder: Path, result: Result) -> tuple[Finding, ...]:
    """Findings in the logs and the facts of all hosts (plans, doctor, port traffic); none where these cannot be read."""
    with suppress(EPBoxError, OSError):
        # result.json is written with the findings in it, so the result is handed over.
        return tuple(diagnose_paths([folder], facts.gather(folder, result))[:MOST_FINDINGS])
    return ()


def dry_run(job: Job, other: Job | None = None) -> int:
    """Show what would be started, as text or JSON. Needs no torch here: who plans for other hosts may have none."""
    try:
        python = rank_python(os.environ)
    except PreflightFailed as error:
        python = sys.executable
        say(f"note: a run would stop here: {error}")
    ranks: list[JsonObject] = [
        {"rank": rank.rank, "argv": list(rank.argv), "env": {**rank.env, **rank.plan.env}, "cpus": rank.plan.to_json()["cpus"]}
        for rank in commands(job, python=python)
    ]
    beside: list[JsonObject] = [{"rank": rank.rank, "argv": list(rank.argv)} for rank in commands(other, python=python)] if other else []
    prepared = job.prepared
    if job.args.format != "table":
        document = {"workload": prepared.workload, "why": job.why, "shape": prepared.shape, "plan": job.plan.to_json(), "ranks": ranks}
        emit_json(document | ({"baseline": beside} if beside else {}), one_line=job.args.format == "jsonl")
        return 0
    say(f"{prepared.workload} ({job.why}); shape {json.dumps(prepared.shape)}")
    for text in (*job.plan.warnings, *prepared.notes):
        say(f"note: {text}")
    for rank in ranks:
        env = " ".join(f"{name}={value}" for name, value in rank["env"].items())
        say(f"rank {rank['rank']} on CPUs {rank['cpus'] or 'any'}: {env} {' '.join(rank['argv'])}")
    for rank in beside:
        say(f"rank {rank['rank']}, baseline: {' '.join(rank['argv'])}")
    return 0

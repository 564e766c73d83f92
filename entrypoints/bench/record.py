"""From launches to result.json: what a node contributes, how all nodes ended, whether the numbers were right, and the text of the file."""

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from entrypoints.bench import identity
from entrypoints.bench.launching import NodeRun, RunOutcome, meaning
from entrypoints.bench.setup import Job
from entrypoints.binding import BindMode
from entrypoints.errors import ExitCode, RankFailed
from entrypoints.launch.evidence import compare_with_plan
from entrypoints.results import model
from entrypoints.results.codec import decode, encode
from entrypoints.results.metrics import on_plan, operation, summary_rows, workload_runs
from entrypoints.results.model import BASELINE, Correctness, Node, Result, Run
from entrypoints.results.ranks import Placement
from entrypoints.results.references import against_references, against_wire

#: Of several nodes' failures, the one that explains the others: wrong numbers, preflight, a dead rank, a hang, the rest.
EXPLAINS = (6, 3, 2, 4, 5)
#: Signals that the kernel sends for a fault of the rank itself. SIGABRT is none: NCCL's watchdog aborts ranks that lost a peer.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
#: How gloo, NCCL and sockets word that another rank is gone.
PEER_GONE = re.compile(r"connection (closed|reset|was closed)|broken pipe|remote process|closed by (remote )?peer", re.IGNORECASE)
#: Up to so many nodes result.json is indented throughout.
INDENTED_NODES = 16


def node_record(job: Job, launches: Sequence[NodeRun], hostname: str, doctor: model.Doctor | None = None, logs: Path | None = None) -> Node:
    """The record of this node. `ranks` are those of the launch that failed, else of the last that was bound by the plan."""
    representative = representative_launch(launches)
    return Node(
        node_rank=job.rendezvous.node_rank,
        hostname=hostname,
        plan=job.plan.to_json(),
        ranks=tuple(rank.record for rank in representative.ranks),
        placement=_placement(job, representative),
        placement_arm=representative.record.arm,
        doctor=doctor,
        exit_code=representative.record.exit_code,
        cause=_cause(representative.record),
        correctness=representative.printed.correctness,
        launches=tuple(launch.record for launch in launches),
        versions=identity.versions(),
        image=identity.image(),
        runs=tuple(
            replace(
                _local(run, logs), shape=run.shape.filled(run_shape(job)), launch=number, bind=launch.record.bind, arm=launch.record.arm
            )
            for number, launch in enumerate(launches)
            for run in launch.printed.runs
        ),
    )


def representative_launch(launches: Sequence[NodeRun]) -> NodeRun:
    """Of one or more launches the one that failed; else the last of the workload that was bound as the plan says, else its last."""
    failed = [launch for launch in launches if launch.record.exit_code]
    if failed:
        return failed[0]
    of_workload = [launch for launch in launches if launch.record.arm != BASELINE]
    fully_bound = [launch for launch in of_workload if launch.record.bind == "all"]
    return (fully_bound or of_workload or launches)[-1]


def run_shape(job: Job) -> model.Shape:
    """The sizes of each run of this job: `ranks` are those of all nodes."""
    nodes, shape = job.rendezvous.nodes, decode(model.Shape, job.prepared.shape)
    return replace(shape, nodes=nodes, ranks=nodes * len(job.plan.ranks), ranks_per_node=None, extra={})


def _local(run: Run, folder: Path | None) -> Run:
    """A run whose log is named from the result folder: a result may be moved or sent."""
    if run.source is None or folder is None or not Path(run.source).is_relative_to(folder):
        return run
    return replace(run, source=str(Path(run.source).relative_to(folder)))


def _cause(launch: model.Launch) -> str:
    """The cause of its end with the arm it was in, since only one of them may be ill."""
    if not launch.arm or not launch.exit_code:
        return launch.cause
    return f"{'in the baseline, the all-to-all' if launch.arm == BASELINE else f'arm {launch.arm}'}: {launch.cause}"


def _placement(job: Job, launch: NodeRun) -> Placement | None:
    """Plan against evidence of a launch that went through, else None."""
    if launch.record.exit_code or len(launch.ranks) != len(job.plan.ranks):
        return None
    # alltoall goes over TCP and a single node over NVLink: only DeepEP between nodes has to show on the ports.
    expect_traffic = job.rendezvous.nodes > 1 and job.prepared.workload != "alltoall"
    evidence = [rank.record.evidence for rank in launch.ranks]
    return compare_with_plan(job.plan.ranks, evidence, BindMode.parse(launch.record.bind), expect_traffic)


def result(job: Job, nodes: Sequence[Node], exit_code: int, text: str, started: datetime) -> Result:
    """The result of all nodes. `runs` are node 0's: every node of DeepEP's tests prints the same ones."""
    node_0 = nodes[0]
    runs = node_0.runs or ()
    versions = dict(node_0.versions or {})
    if runs and runs[0].torch:
        # The ranks may run in another interpreter than this program (EPBOX_PYTHON).
        versions["torch"] = runs[0].torch
    right_but_slow = exit_code == ExitCode.BELOW_THRESHOLD
    rendezvous = job.rendezvous
    return Result(
        created=started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        workload=job.prepared.workload,
        workload_reason=job.why,
        status="failed" if exit_code else "ok",
        exit_code=exit_code,
        verdict=text,
        shape=decode(model.Shape, job.prepared.shape),
        bind="ablation" if job.args.ablate else str(job.bind),
        notes=tuple(job.prepared.notes),
        runs=runs,
        summary=summary_rows(runs),
        references=against_references(on_plan(workload_runs(runs))),
        wire=wire(job, workload_runs(runs)),
        correctness=correctness(nodes, 0 if right_but_slow else exit_code),
        # What node 0 has of these stands at the top level; others may differ.
        nodes=tuple(node if node.node_rank else replace(node, image=None, versions=None, runs=None) for node in nodes),
        rendezvous=model.RendezvousRecord(nodes=rendezvous.nodes, master_port=rendezvous.master_port, source=rendezvous.source),
        engine=identity.engine(),
        image=node_0.image,
        versions=versions,
    )


def wire(job: Job, runs: Sequence[Run]) -> tuple[model.WireRow, ...]:
    """Against the line rate of one planned port a rank; nothing where ports differ or are unknown."""
    rates_gbit = {(hca.id, port.number): port.rate_gbit for hca in job.topology.hcas for port in hca.ports}
    planned = {rates_gbit.get((rank.hca or "", rank.port or 1)) for rank in job.plan.ranks}
    rate_gbit = planned.pop() if len(planned) == 1 else None
    return against_wire(runs[0], rate_gbit, 1) if rate_gbit and runs else ()


def verdict(job: Job, nodes: Sequence[Node], outcome: RunOutcome) -> str:
    """One line that tells how the run went."""
    if outcome.exit_code:
        return f"{meaning(outcome.exit_code)}: {outcome.cause}"
    shape = job.prepared.shape
    head = f"{job.prepared.workload} on {shape['nodes']} node(s) x {shape['ranks_per_node']} rank(s): numbers right"
    placement = "" if job.args.ablate else placement_line(nodes)
    rows = summary_rows(workload_runs(nodes[0].runs or ()))
    if job.args.ablate or not rows:
        count = len(nodes[0].launches)
        return head + (f" in all {count} launches" if count > 1 else "") + placement
    figures = ", ".join(f"{operation(row)} {row.median_gbps:.2f}" for row in rows)
    return f"{head}; GB/s ({rows[0].direction}) {figures}{placement}"


def outcome(nodes: Sequence[Node]) -> RunOutcome:
    """The end of all nodes together: a stop by signal first, then the failure that explains the others."""
    failed = [node for node in nodes if node.exit_code]
    if not failed:
        return RunOutcome(0)
    worst = min(failed, key=_order)
    cause = worst.cause
    # A peer may have seen its closed connection before the rank's own node saw its end: a crash in any node's record comes first.
    crashes = [(node, rank) for node in nodes for rank in node.ranks if rank.signal in CRASHES]
    if crashes and worst.exit_code == RankFailed.exit_code and PEER_GONE.search(cause):
        worst, rank = crashes[0]
        cause = f"rank {rank.rank} was killed by {signal.Signals(rank.signal or 0).name}"
    if len(nodes) > 1 and worst.exit_code != 6 and not cause.startswith("node "):
        cause = f"node {worst.node_rank} ({worst.hostname}): {cause}"
    return RunOutcome(worst.exit_code, cause)


def _order(node: Node) -> tuple[bool, int, bool, int]:
    """The least is the failure that explains the others."""
    order = EXPLAINS.index(node.exit_code) if node.exit_code in EXPLAINS else len(EXPLAINS)
    # A rank that a signal ended is a cause; ranks that lost their peer exit by themselves.
    return node.exit_code <= 128, order, "SIG" not in node.cause, node.node_rank


def correctness(nodes: Sequence[Node], exit_code: int) -> Correctness:
    """The verdict on the numbers: the one that a test printed, else its exit code, for DeepEP's tests assert."""
    checked = next((node.correctness for node in nodes if node.correctness is not None), None)
    if checked is not None:
        return replace(checked, passed=checked.passed and exit_code == 0)
    return Correctness(
        passed=exit_code == 0,
        source="the test's assertions, by the exit code of every rank",
        cases=max((run.passed_cases for node in nodes for run in node.runs or ()), default=0),
    )


def placement_line(nodes: Sequence[Node]) -> str:
    """The placement of all nodes: once if they are alike, else that of the nodes that deviate. Begins with "; ", or is ""."""
    placed = [(node.node_rank, node.placement) for node in nodes if node.placement is not None]
    lines = {placement.text for _, placement in placed}
    if len(lines) <= 1:
        on_each = " on each node" if len(nodes) > 1 else ""
        return "".join(f"; {line}{on_each}" for line in lines)
    return "".join(f"; node {rank}: {placement.text}" for rank, placement in placed if not placement.ok or len(placed) == 2)


def brief(node: Node) -> Node:
    """Node 0's record as the other nodes get it: without what grows with the number of ranks, which node 0's result.json has."""
    runs = [replace(run, low_latency=(), best=tuple(replace(best, per_rank_us=None) for best in run.best)) for run in node.runs or ()]
    return replace(node, runs=tuple(runs))


def result_text(result: Result) -> str:
    """The text of result.json. Many nodes take a line each: indented, a thousand of them are two million lines that nobody reads."""
    document = encode(result)
    if len(result.nodes) <= INDENTED_NODES:
        return json.dumps(document, indent=2) + "\n"
    text = json.dumps({**document, "nodes": [], "runs": []}, indent=2)
    for key in ("nodes", "runs"):
        lines = ",\n".join(f"    {json.dumps(item)}" for item in document[key])
        # Two spaces after a line end are the top level; in a string a line end is escaped.
        text = text.replace(f'\n  "{key}": []', f'\n  "{key}": [\n{lines}\n  ]', 1)
    return text + "\n"

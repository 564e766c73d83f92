"""result.json (epbox.result/1): one record a node, merged by node rank."""

import json
import re
import signal
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from entrypoints.bench import identity, published
from entrypoints.bench.launching import NodeRun, meaning
from entrypoints.bench.measured import BASELINE, figures, label, workload_runs
from entrypoints.bench.setup import Job
from entrypoints.binding import BindMode
from entrypoints.errors import RankFailed
from entrypoints.workloads.timing import quantile

SCHEMA = "epbox.result/1"
#: Of several nodes' failures, the one that explains the others: wrong numbers, preflight, a dead rank, a hang, the rest.
EXPLAINS = (6, 3, 2, 4, 5)
#: Up to so many nodes result.json is indented throughout.
INDENTED_NODES = 16
#: Signals that the kernel sends for a fault of the rank itself. SIGABRT is none: NCCL's watchdog aborts ranks that lost a peer.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
#: How gloo, NCCL and sockets word that another rank is gone.
PEER_GONE = re.compile(r"connection (closed|reset|was closed)|broken pipe|remote process|closed by (remote )?peer", re.IGNORECASE)


def known(run: dict[str, Any]) -> dict[str, Any]:
    """What the test itself printed of its shape."""
    return {name: value for name, value in (run.get("shape") or {}).items() if value is not None}


def _local(run: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """A run whose log is named from the result folder: a result may be moved or sent."""
    source = run.get("source")
    if source is None or folder is None or not Path(source).is_relative_to(folder):
        return run
    return {**run, "source": str(Path(source).relative_to(folder))}


def node_record(
    job: Job, launches: Sequence[NodeRun], hostname: str, doctor: dict[str, Any] | None, logs: Path | None = None
) -> dict[str, Any]:
    """What this node contributes. `ranks` are those of the launch that failed, else of the last that was bound by the plan."""
    told = _typical(launches)
    record: dict[str, Any] = {
        "node_rank": job.rendezvous.node_rank,
        "hostname": hostname,
        "plan": job.plan.to_json(),
        "ranks": [rank.to_json() for rank in told.outcome.ranks] if told else [],
        "placement": _placement(job, told),
        **({"placement_arm": told.arm} if told and told.arm else {}),
        "doctor": doctor,
        "exit_code": told.exit_code if told else 0,
        "cause": _named_cause(told) if told else "",
        "correctness": told.correctness if told else None,
        "launches": [
            {
                "arm": each.arm or None,
                "bind": each.bind,
                "exit_code": each.exit_code,
                "cause": each.cause,
                "seconds": round(each.seconds, 3),
            }
            for each in launches
        ],
        "versions": identity.versions(),
        "image": identity.image(),
    }
    record["runs"] = [
        {
            **_local(run, logs),
            "shape": {**published.run_shape(job), **known(run)},
            "launch": number,
            "bind": each.bind,
            **({"arm": each.arm} if each.arm else {}),
        }
        for number, each in enumerate(launches)
        for run in each.runs
    ]
    return record


def _named_cause(told: NodeRun) -> str:
    """What ended it, and in which arm, since only one of them may be ill."""
    where = (
        "" if not told.arm or not told.exit_code else "in the baseline, the all-to-all: " if told.arm == BASELINE else f"arm {told.arm}: "
    )
    return where + told.cause


def _typical(launches: Sequence[NodeRun]) -> NodeRun | None:
    """The launch that failed; else the last of the workload that was bound as the plan says, else its last."""
    failed = next((each for each in launches if each.exit_code), None)
    mine = [each for each in launches if each.arm != BASELINE]
    bound = [each for each in mine if each.bind == "all"]
    return failed or next(iter((bound or mine or list(launches))[::-1]), None)


def _placement(job: Job, told: NodeRun | None) -> dict[str, Any] | None:
    """Plan against evidence of a launch that went through, by launch/verdict.py."""
    if told is None or told.exit_code or len(told.outcome.ranks) != len(job.plan.ranks):
        return None
    from entrypoints.launch.verdict import verdict

    # alltoall goes over TCP and a single node over NVLink: only DeepEP between nodes has to show on the ports.
    expect_traffic = job.rendezvous.nodes > 1 and job.prepared.workload != "alltoall"
    return verdict(job.plan.ranks, [rank.evidence for rank in told.outcome.ranks], BindMode.parse(told.bind), expect_traffic).to_json()


def _placed(nodes: Sequence[dict[str, Any]]) -> str:
    """The placement line of all nodes: once if they are alike, else those of the nodes that deviate."""
    told = [(node["node_rank"], node["placement"]) for node in nodes if node.get("placement")]
    lines = {place["text"] for _, place in told}
    if len(lines) <= 1:
        each = " on each node" if len(nodes) > 1 else ""
        return "".join(f"; {line}{each}" for line in lines)
    return "".join(f"; node {rank}: {place['text']}" for rank, place in told if not place["ok"] or len(told) == 2)


def outcome(nodes: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """(exit code, cause) of all nodes together: a stop by signal first, then what explains the rest."""
    failed = [node for node in nodes if node["exit_code"]]
    if not failed:
        return 0, ""

    def weight(node: dict[str, Any]) -> tuple[int, bool, int]:
        code = node["exit_code"]
        place = -1 if code > 128 else EXPLAINS.index(code) if code in EXPLAINS else len(EXPLAINS)
        # A rank that a signal ended is a cause; ranks that lost their peer exit by themselves.
        return place, "SIG" not in node["cause"], node["node_rank"]

    worst = min(failed, key=weight)
    cause = worst["cause"]
    if worst["exit_code"] == RankFailed.exit_code and PEER_GONE.search(cause):
        worst, cause = _crash(nodes) or (worst, cause)
    if len(nodes) > 1 and worst["exit_code"] != 6 and not cause.startswith("node "):
        cause = f"node {worst['node_rank']} ({worst['hostname']}): {cause}"
    return worst["exit_code"], cause


def _crash(nodes: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str] | None:
    """(node, cause) of a rank that crashed: a peer may have seen its closed connection before its own node saw its end."""
    for node in nodes:
        for rank in node["ranks"]:
            if rank.get("signal") in CRASHES:
                return node, f"rank {rank['rank']} was killed by {signal.Signals(rank['signal']).name}"
    return None


def correctness(job: Job, nodes: Sequence[dict[str, Any]], code: int) -> dict[str, Any]:
    """Whether the numbers were right. DeepEP's tests assert; their exit code is the verdict."""
    told = next((node["correctness"] for node in nodes if node.get("correctness")), None)
    if told is not None:
        return {**told, "passed": bool(told.get("passed")) and code == 0}
    runs = [run for node in nodes for run in node["runs"]]
    return {
        "passed": code == 0,
        "source": "the test's assertions, by the exit code of every rank",
        "cases": max((int(run.get("passed_cases") or 0) for run in runs), default=0),
    }


def summarise(runs: Sequence[dict[str, Any]], several_nodes: bool) -> list[dict[str, Any]]:
    """Median and spread per operation over the runs of each arm. `gbps` is RDMA over nodes, NVL within one."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        for each in figures(run, several_nodes):
            found.setdefault((run.get("arm"), each.op, each.dtype, each.direction), []).append(each.gbps)
    rows = []
    for (arm, op, dtype, direction), values in found.items():
        rows.append(
            {
                **({"arm": arm} if arm else {}),
                "op": op,
                "dtype": dtype,
                "direction": direction,
                "median_gbps": round(median(values), 4),
                "min_gbps": min(values),
                "max_gbps": max(values),
                "p25_gbps": round(quantile(values, 0.25), 4),
                "p75_gbps": round(quantile(values, 0.75), 4),
                "runs": len(values),
            }
        )
    return rows


def result(job: Job, nodes: Sequence[dict[str, Any]], code: int, verdict: str, started: datetime) -> dict[str, Any]:
    """The whole document. `runs` are node 0's: every node of DeepEP's tests prints the same ones."""
    own = nodes[0]
    runs = own["runs"]
    return {
        "schema": SCHEMA,
        "created": started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "workload": job.prepared.workload,
        "why": job.why,
        "status": "failed" if code else "ok",
        "exit_code": code,
        "verdict": verdict,
        "shape": job.prepared.shape,
        "bind": "ablation" if job.args.ablate else str(job.bind),
        "notes": list(job.prepared.notes),
        "runs": runs,
        "summary": summarise(runs, job.rendezvous.nodes > 1),
        "references": published.against(workload_runs(runs)),
        "wire": published.wire(job, workload_runs(runs)),
        "correctness": correctness(job, nodes, 0 if code == 7 else code),
        "nodes": [strip(node) for node in nodes],
        "rendezvous": {"nodes": job.rendezvous.nodes, "master_port": job.rendezvous.master_port, "source": job.rendezvous.source},
        "engine": identity.engine(),
        "image": own["image"],
        # The ranks may run in another interpreter than this program (EPBOX_PYTHON).
        "versions": {**own["versions"], **({"torch": runs[0]["torch"]} if runs and "torch" in runs[0] else {})},
    }


def text(document: dict[str, Any]) -> str:
    """result.json. Many nodes take a line each: indented, a thousand of them are two million lines that nobody reads."""
    if len(document["nodes"]) <= INDENTED_NODES:
        return json.dumps(document, indent=2) + "\n"
    whole = json.dumps({**document, "nodes": [], "runs": []}, indent=2)
    for key in ("nodes", "runs"):
        lines = ",\n".join(f"    {json.dumps(item)}" for item in document[key])
        # Two spaces after a line end are the top level; in a string a line end is escaped.
        whole = whole.replace(f'\n  "{key}": []', f'\n  "{key}": [\n{lines}\n  ]', 1)
    return whole + "\n"


def brief(node: dict[str, Any]) -> dict[str, Any]:
    """Node 0's record as the other nodes get it: without what grows with the number of ranks, which node 0's result.json has."""
    runs = []
    for run in node["runs"]:
        best = [{key: value for key, value in item.items() if key != "per_rank_us"} for item in run.get("best", ())]
        runs.append({**{key: value for key, value in run.items() if key != "low_latency"}, "best": best})
    return {**node, "runs": runs}


def strip(node: dict[str, Any]) -> dict[str, Any]:
    """A node without what the document tells once for all; other nodes keep their own runs and versions."""
    alone = ("image", "versions", "runs") if node["node_rank"] == 0 else ()
    return {key: value for key, value in node.items() if key not in alone}


def index_line(document: dict[str, Any], folder: str) -> dict[str, Any]:
    """One line of index.jsonl: enough to list and plot results without opening them."""
    keys = ("created", "workload", "status", "exit_code", "verdict", "shape", "bind", "summary", "engine")
    return {"result": f"{folder}/result.json", **{key: document[key] for key in keys}}


def verdict(job: Job, nodes: Sequence[dict[str, Any]], code: int, cause: str) -> str:
    """One line that tells how it went."""
    shape = job.prepared.shape
    place = f"{shape['nodes']} node(s) x {shape['ranks_per_node']} rank(s)"
    if code:
        return f"{meaning(code)}: {cause}"
    rows = summarise(workload_runs(nodes[0]["runs"]), job.rendezvous.nodes > 1)
    placed = "" if job.args.ablate else _placed(nodes)
    if job.args.ablate or not rows:
        count = len(nodes[0]["launches"])
        return f"{job.prepared.workload} on {place}: numbers right" + (f" in all {count} launches" if count > 1 else "") + placed
    parts = ", ".join(f"{label(row)} {row['median_gbps']:.2f}" for row in rows)
    return f"{job.prepared.workload} on {place}: numbers right; GB/s ({rows[0]['direction']}) {parts}{placed}"

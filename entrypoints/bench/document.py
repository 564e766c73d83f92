"""result.json (epbox.result/1): one record a node, merged by node rank."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

from entrypoints.bench import identity, published, record
from entrypoints.bench.launching import meaning
from entrypoints.bench.measured import figures, label, workload_runs
from entrypoints.bench.setup import Job
from entrypoints.workloads.timing import quantile

SCHEMA = "epbox.result/1"
#: Up to so many nodes result.json is indented throughout.
INDENTED_NODES = 16


def _placed(nodes: Sequence[dict[str, Any]]) -> str:
    """The placement line of all nodes: once if they are alike, else those of the nodes that deviate."""
    told = [(node["node_rank"], node["placement"]) for node in nodes if node.get("placement")]
    lines = {place["text"] for _, place in told}
    if len(lines) <= 1:
        each = " on each node" if len(nodes) > 1 else ""
        return "".join(f"; {line}{each}" for line in lines)
    return "".join(f"; node {rank}: {place['text']}" for rank, place in told if not place["ok"] or len(told) == 2)


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
        "nodes": [record.strip(node) for node in nodes],
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

"""bench --baseline: the all-to-all of the same shape on the same ranks, in turns with DeepEP, and what DeepEP is worth beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from textwrap import fill
from typing import Any

from entrypoints.bench.measured import BASELINE, baseline_runs, figures, label, workload_runs
from entrypoints.bench.setup import Job
from entrypoints.errors import UsageError
from entrypoints.output import table
from entrypoints.workloads import Request, get

#: What must be equal for two results to be of one shape.
SHAPE = ("nodes", "ranks", "num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts")
#: Tests that move tokens to experts and back; the others have nothing in common with an all-to-all.
HIGH_THROUGHPUT, TIMED = ("internode", "intranode"), ("low_latency", "elastic_ep")


def check(job: Job) -> None:
    """Raise UsageError where a ratio would have no meaning."""
    if job.args.ablate:
        raise UsageError("--ablate compares bindings, --baseline libraries", where="--baseline", hint="run one after the other")
    if job.prepared.test == "alltoall":
        raise UsageError(
            "the workload is alltoall, which is the baseline itself", where="--baseline", hint="name a deepep-... workload, or leave it out"
        )
    if job.prepared.test not in (*HIGH_THROUGHPUT, *TIMED):
        raise UsageError(f"{job.prepared.workload} is no dispatch and combine: nothing to set beside an all-to-all", where="--baseline")
    for word in job.args.arguments:
        name = re.fullmatch(r"--(num-tokens|hidden|num-topk|num-topk-groups|num-experts)(=.*)?", word)
        if name:
            raise UsageError(
                f"--{name[1]} after -- reaches DeepEP's test alone", where="--baseline", hint=f"give --{name[1]} before --, for both"
            )


def make_job(job: Job, environ: Mapping[str, str]) -> Job:
    """The all-to-all of this job's shape on this job's ranks. Raises UsageError where it cannot run."""
    from entrypoints.placement.plan import PlanOptions, make_plan

    check(job)
    shape = job.prepared.shape
    workload = get("alltoall")
    request = Request(
        nodes=job.rendezvous.nodes,
        ranks=len(job.plan.ranks),
        gpus=sum(rank.gpu_index is not None for rank in job.plan.ranks),
        num_tokens=shape["num_tokens"],
        hidden=shape["hidden"],
        num_topk=shape["num_topk"],
        num_experts=shape["num_experts"],
        # Only the high-throughput tests limit a token to some nodes.
        num_topk_groups=shape.get("num_topk_groups") or job.rendezvous.nodes,
        seed=job.args.seed,
        warmup=job.args.warmup,
        repeats=job.args.repeats,
        environ=environ,
    )
    plan = make_plan(job.topology, PlanOptions(ranks=len(job.plan.ranks), environ=environ, workload=workload.placement))
    return replace(job, plan=plan, workload=workload, prepared=workload.prepare(request), why=f"baseline of {job.prepared.workload}")


def compare(document: Mapping[str, Any]) -> dict[str, Any]:
    """The `baseline` of result.json: rows with the ratio DeepEP / all-to-all (above 1: DeepEP is faster), and what was compared.

    Value, baseline and ratio are medians over runs; the ratio's range is that of runs taken in turns.
    """
    mine, theirs = workload_runs(document["runs"]), baseline_runs(document["runs"])
    if not mine or not theirs:
        return {"workload": "alltoall", "rows": [], "compared": "one of the two printed no figures"}
    shapes = mine[0].get("shape") or {}, theirs[0].get("shape") or {}
    differs = [f"{key} {shapes[0][key]} and {shapes[1][key]}" for key in SHAPE if key in shapes[0] and shapes[0][key] != shapes[1].get(key)]
    found = {"workload": "alltoall", "backend": theirs[0].get("backend")}
    if differs:
        return {**found, "rows": [], "compared": f"shapes differ ({', '.join(differs)}), so there is no ratio"}
    nodes = document["shape"].get("nodes") or shapes[0].get("nodes") or 1
    several = nodes > 1
    rows = []
    before, after = ([_values(run, several) for run in runs] for runs in (mine, theirs))
    for key in before[0]:
        ones, twos = ([each[key] for each in side if key in each] for side in (before, after))
        if ones and twos:
            rows.append(_row(key, ones, twos))
    return {**found, "rows": rows, "compared": _compared(mine[0], theirs[0], nodes)}


Key = tuple[str, str | None, str]


def _values(run: Mapping[str, Any], several: bool) -> dict[Key, float]:
    """A run's figures by (op, dtype, direction). Where bytes are counted otherwise than here, times take their place."""
    found: dict[Key, float] = {}
    if run["test"] in (*HIGH_THROUGHPUT, "alltoall"):
        found |= {(each.op, each.dtype, each.direction): each.gbps for each in figures(run, several)}
    for best in run.get("best") or ():
        time = (best.get("us") or {}).get("median") or best.get("time_us")
        if time and run["test"] not in HIGH_THROUGHPUT:
            found[best["op"], best.get("dtype"), "us"] = float(time)
    for op, dtype in (("dispatch", "fp8"), ("combine", None)):
        times = [kernel[f"{op}_us"] for kernel in run.get("low_latency_kernels") or () if kernel.get(f"{op}_us")]
        if times:
            found[op, dtype, "us"] = median(times)
    return found


def _row(key: Key, ones: Sequence[float], twos: Sequence[float]) -> dict[str, Any]:
    op, dtype, direction = key

    def ratio(one: float, two: float) -> float:
        return two / one if direction == "us" else one / two

    pairs = [ratio(one, two) for one, two in zip(ones, twos, strict=False)]
    one, two = median(ones), median(twos)
    return {
        "op": op,
        "dtype": dtype,
        "direction": direction,
        # Six digits, not four places: on a slow host bandwidths are thousandths.
        **{
            name: float(f"{figure:.6g}")
            for name, figure in (
                ("value", one),
                ("baseline", two),
                ("ratio", ratio(one, two)),
                ("ratio_min", min(pairs)),
                ("ratio_max", max(pairs)),
            )
        },
        "runs": min(len(ones), len(twos)),
    }


def _compared(mine: Mapping[str, Any], theirs: Mapping[str, Any], nodes: int) -> str:
    """In words what the ratio sets side by side, from the tests' own definitions (DeepEP tests/test_internode.py, v1.2.1)."""
    shape = {**dict.fromkeys(SHAPE, "?"), **(mine.get("shape") or {})}
    size = f"{shape['num_tokens']} tokens x {shape['hidden']} a rank, top-{shape['num_topk']} of {shape['num_experts']} experts"
    how = f"all-to-all on {theirs.get('backend')}, median over repeats of their slowest rank"
    if mine["test"] in HIGH_THROUGHPUT:
        text = (
            f"Both: {size}, routes by one rule, so both count the same algorithm bytes and the ratio of GB/s is that of times. "
            f"DeepEP: best of its sweep as rank 0 prints it, kernels alone; {how}."
        )
    elif mine["test"] == "low_latency":
        text = (
            f"Both: {size}; compared are times, for low latency sends a copy for each expert and the all-to-all one a rank. "
            f"DeepEP: median over ranks of their mean, the cast to FP8 inside; {how}, cast before."
        )
    else:
        text = (
            f"Both: {size}; compared are times, for V2 counts bytes by domains of its own (SO, SU). "
            f"DeepEP: fastest configuration, median over ranks; {how}."
        )
    sent = next((best["bytes"] for best in theirs.get("best") or () if best.get("dtype") == "bf16" and best.get("bytes")), None)
    if nodes > 1 and sent and mine["test"] == "internode":
        once = sent["rdma"] * (nodes - 1) / nodes
        text += (
            f" Bytes off the node, a rank and BF16 dispatch: DeepEP {once / 1e6:.1f} MB (one copy a node, then NVLink), "
            f"all-to-all {sent['off_node'] / 1e6:.1f} MB (one copy a rank)."
        )
    elif nodes == 1:
        text += " One node: nothing goes over the network."
    return text


def show(found: Mapping[str, Any]) -> str:
    """The table and what it compares."""
    rows = [
        [
            label(row),
            "us" if row["direction"] == "us" else f"GB/s ({row['direction']})",
            *(f"{row[key]:.{3 if row[key] < 1 else 2}f}" for key in ("value", "baseline")),
            f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} .. {row['ratio_max']:.2f}" if row["runs"] > 1 else "-",
            row["runs"],
        ]
        for row in found["rows"]
    ]
    head = ["operation", "figure", "DeepEP", "all-to-all", "DeepEP / all-to-all", "over runs", "runs"]
    return "\n".join([*([table(head, rows)] if rows else []), fill(f"Baseline. {found['compared']}", 120)])


def verdict(found: Mapping[str, Any]) -> str:
    """The ratios in one phrase, "" where there are none."""
    told = ", ".join(f"{label(row)} {row['ratio']:.2f}" for row in found["rows"])
    return f"DeepEP / all-to-all: {told}" if told else f"no ratio to the all-to-all: {found['compared']}"


__all__ = ["BASELINE", "check", "compare", "make_job", "show", "verdict"]

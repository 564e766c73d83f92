"""What one node contributes to result.json, and what of it the other nodes get."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entrypoints.bench import identity, published
from entrypoints.bench.launching import NodeRun
from entrypoints.bench.measured import BASELINE
from entrypoints.bench.setup import Job
from entrypoints.binding import BindMode


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

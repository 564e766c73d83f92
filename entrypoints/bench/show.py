"""Tables for people."""

from typing import Any

from entrypoints.bench import baseline
from entrypoints.bench.measured import BASELINE, label, workload_runs
from entrypoints.output import table

#: Rows of ranks in a terminal; a larger run shows those that matter, and result.json has all.
MOST_ROWS = 64
SLOWEST = 16


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{float(value):.{digits}f}"


def placement(document: dict[str, Any]) -> str:
    """Where each rank was: from the evidence where the kernel told, else from the plan."""
    rows = []
    for node in document["nodes"]:
        plans = {rank["local_rank"]: rank for rank in node["plan"]["ranks"]}
        for rank in node["ranks"]:
            plan = plans.get(rank["local_rank"], {})
            gpu = plan.get("gpu") or {}
            seen = rank.get("evidence") or {}
            memory = plan.get("memory") or {}
            planned = f"{memory.get('policy') or 'default'}:{','.join(map(str, memory.get('nodes') or ()))} (planned)"
            rows.append(
                [
                    rank["rank"],
                    node["hostname"],
                    gpu.get("index", "-") if gpu else "-",
                    plan.get("hca") or "-",
                    seen.get("cpus") or (seen.get("binding") or {}).get("cpus") or plan.get("cpus") or "-",
                    seen.get("policy") or planned.replace(": ", " "),
                    "ok" if rank["exit_code"] == 0 else f"signal {rank['signal']}" if rank.get("signal") else f"exit {rank['exit_code']}",
                ]
            )
    count = len(rows)
    if count > MOST_ROWS:
        # sort is stable: failed ranks first, in order of their number.
        rows = sorted(rows, key=lambda row: row[-1] == "ok")[:MOST_ROWS]
    arms = dict.fromkeys(node["placement_arm"] for node in document["nodes"] if node.get("placement_arm"))
    of_arm = f"\nranks of arm {', '.join(arms)}" if arms else ""
    more = f"\n{MOST_ROWS} of {count} ranks, failed ones first; result.json has all" if count > MOST_ROWS else ""
    return table(["rank", "host", "GPU", "HCA", "CPUs", "memory", "end"], rows) + more + of_arm


def bandwidth(document: dict[str, Any]) -> str:
    """Best rows of each run; with several runs their median and spread."""
    runs = workload_runs(document["runs"])
    if len(runs) == 1 and runs[0].get("best"):
        rows = []
        for best in runs[0]["best"]:
            spread = best.get("us") or {}
            between = f"{spread['p25']:.1f} .. {spread['p75']:.1f}" if spread else "-"
            settings = "/".join(str(best.get(name)) for name in ("sms", "nvl_chunk", "rdma_chunk")) if best.get("sms") else "-"
            rows.append(
                [
                    label(best),
                    _number(best.get("rdma_gbps")),
                    _number(best.get("nvl_gbps")),
                    _number(best.get("transmit_us"), 1),
                    between,
                    settings,
                ]
            )
        return table(["operation", "GB/s (RDMA)", "GB/s (NVL)", "us", "us p25 .. p75", "SMs/NVL/RDMA chunk"], rows)
    if len(runs) == 1 and not runs[0].get("best"):
        return ""
    rows = [
        [
            label(row),
            _number(row["median_gbps"]),
            f"{row['min_gbps']:.2f} .. {row['max_gbps']:.2f}",
            row["direction"],
            row["runs"],
        ]
        for row in document["summary"]
        if row.get("arm") != BASELINE
    ]
    return table(["operation", "median GB/s", "min .. max", "direction", "runs"], rows) if rows else ""


def references(document: dict[str, Any]) -> str:
    """Published results of the same test and shape, and the wire."""
    rows = [
        [row["metric"], _number(row["value"]), _number(row["reference"]), f"{row['ratio']:.2f}", f"{row['hardware']} ({row['source']})"]
        for row in document.get("references") or ()
    ]
    parts = [table(["figure", "here", "published", "ratio", "where"], rows)] if rows else []
    parts += [f"wire: {row['metric']}: {row['explanation']}" for row in document.get("wire") or ()]
    return "\n".join(parts)


def low_latency(document: dict[str, Any]) -> str:
    """What the low-latency test prints, rank by rank."""
    entries = [entry for run in document["runs"] for entry in run.get("low_latency") or () if isinstance(entry, dict)]
    if not entries:
        return ""
    keys, count, more = list(entries[0]), len(entries), ""
    if count > MOST_ROWS and "dispatch_combine_gbps" in keys:
        entries = sorted(entries, key=lambda entry: float(entry.get("dispatch_combine_gbps") or 0))
        middle = entries[count // 2].get("dispatch_combine_gbps", "-")
        entries, more = entries[:SLOWEST], f"\nthe slowest {SLOWEST} of {count} ranks; median {middle} GB/s"
    return table([key.replace("_", " ") for key in keys], [[entry.get(key, "-") for key in keys] for entry in entries]) + more


def ending(document: dict[str, Any]) -> str:
    """Correctness and verdict."""
    found = document["correctness"]
    checked = found.get("received_tokens_checked")
    lines = []
    if found.get("passed") and checked:
        lines.append(
            f"correct: {found['cases']} cases; {checked} received and {found['combined_tokens_checked']} combined tokens as expected"
        )
    lines.append(f"{document['status'].upper()}: {document['verdict']}")
    return "\n".join(lines)


def whole(document: dict[str, Any]) -> str:
    """Everything, in reading order."""
    # An ablation has a table of its own.
    parts = [
        placement(document),
        "" if document["bind"] == "ablation" else bandwidth(document),
        low_latency(document),
        references(document),
        baseline.show(document["baseline"]) if document.get("baseline") else "",
    ]
    if any(run.get("test") in ("alltoall", "internode") for run in document["runs"]):
        parts.append(
            "Algorithm bandwidth as DeepEP counts it: RDMA = a token for every node it goes to, the local one too; NVL = tokens received."
        )
    return "\n\n".join(part for part in [*parts, ending(document)] if part)

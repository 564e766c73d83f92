"""Slow runs that print no error: all ranks on one NIC, and bandwidth far below what bound ranks reach."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from entrypoints.diagnosis.model import Finding
from entrypoints.diagnosis.scan import Scan
from entrypoints.logs.parse import parse_lines
from entrypoints.results.compare import against_references, with_nodes

#: One 400 Gb/s port shared by eight ranks gives an eighth; a run without binding was seen at 0.35 to 0.43 of the reference.
ONE_NIC_RATIO, UNBOUND_RATIO = 0.25, 0.55
#: The shape these ratios were seen at (Azure blog, DeepEP#155): other nodes, ranks, SMs or port rates have other ratios.
NODES, RANKS, SMS, PORT_GBPS = 2, 16, 24, 400
#: The published figures of ranks that were said to be bound, of this shape, are the measure (results/references.toml).
MEASURE = "azure-nd-h100-v5-2"
#: A port that carried less only moved management packets; a port that carried this share of all carried everything.
CARRIED_BYTES, ALL = 16 << 20, 0.95


def findings(scan: Scan, facts: dict[str, Any]) -> list[Finding]:
    shared = _same_device(scan) or _same_port(facts) or _same_plan(facts)
    slow = _bandwidth(scan, facts)
    return [item for item in (shared, None if shared else slow) if item]


def _same_device(scan: Scan) -> Finding | None:
    """NVSHMEM says which device index each process took. It says so only where it had more than one to choose from."""
    by_host: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for who, device in scan.dev_ids:
        host, _, process = who.rpartition(":")
        by_host[host][process].add(device)
    for host, processes in by_host.items():
        devices = set().union(*processes.values())
        many = len(processes) > 1 if host else len(scan.dev_ids) > 3
        if many and len(devices) == 1:
            place = f" on {host}" if host else ""
            ranks = len(processes) if host else len(scan.dev_ids)
            return _one_nic("fatal", f"NVSHMEM reports 'setting dev_id = {devices.pop()}' for all {ranks} processes{place}", None)
    return None


def _same_port(facts: Mapping[str, Any]) -> Finding | None:
    """The counters of the HCA ports (result.json, evidence of each rank): one of several rails carried all of a node's traffic."""
    for node in (node for result in facts.get("results", ()) for node in _objects(result.get("nodes"))):
        moved: dict[str, int] = {}
        for rank in _objects(node.get("ranks")):
            evidence = rank.get("evidence") or {}
            traffic = evidence.get("traffic") if isinstance(evidence, dict) else None
            if isinstance(traffic, dict) and evidence.get("rail"):
                moved[str(evidence["rail"])] = max((size for size in traffic.values() if isinstance(size, int)), default=0)
        busiest = max(moved, key=moved.__getitem__, default="")
        if len(moved) > 2 and moved[busiest] >= CARRIED_BYTES and moved[busiest] >= ALL * sum(moved.values()):
            share = moved[busiest] / sum(moved.values())
            text = f"port counters of {node.get('hostname') or 'a node'}: {busiest} carried {share:.0%} of the bytes of {len(moved)} rails"
            return _one_nic("warning", text, None)
    return None


def _same_plan(facts: Mapping[str, Any]) -> Finding | None:
    for plan in facts.get("plans", []):
        ranks = _objects(plan.get("ranks"))
        used = [rank["hca"] for rank in ranks if rank.get("hca")]
        if len(used) > 2 and len(set(used)) == 1 and "gpu" in ranks[0]:
            return _one_nic("warning", f"the plan gives {used[0]} to all {len(used)} ranks", None)
    return None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _one_nic(severity: str, text: str, line: int | None) -> Finding:
    return Finding(
        cause_id="all-ranks-one-nic",
        severity=severity,
        cause="every rank uses the same NIC, so that inter-node bandwidth is a fraction of the line rate",
        remedy="give each rank its own NVSHMEM_HCA_LIST entry (one NIC, one port); NVSHMEM_ENABLE_NIC_PE_MAPPING with one list for all "
        "ranks puts all of them on the first NIC in high-throughput mode",
        line=line,
        text=text,
        source="NVSHMEM transport.cpp:404-409; DeepEP#336, #466",
    )


def _shaped(run: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The run with its shape, as far as the log or result.json tell it; None when it is not the measure's shape.

    Both nodes print each best line, so more than two copies are more than two nodes; a token goes to at most as many node
    groups as there are nodes (DeepEP's tests).
    """
    told: dict[str, Any] = {name: value for name, value in (run.get("shape") or {}).items() if value is not None}
    for result in facts.get("results", ()):
        shape = result.get("shape")
        told = {**(shape if isinstance(shape, dict) else {}), **told}
    entries = [entry for entry in run["best"] if entry.get("sms") == SMS]
    copies = max((sum((other["op"], other["dtype"]) == (entry["op"], entry["dtype"]) for other in entries) for entry in entries), default=0)
    nodes, ranks_a_node = told.get("nodes", NODES), told.get("ranks_per_node", RANKS // NODES)
    if not 0 < copies <= NODES or nodes != NODES or ranks_a_node * nodes != RANKS or told.get("num_topk_groups", NODES) != NODES:
        return None
    return {**with_nodes({**run, "shape": told}, NODES), "best": entries}


def _other_rate(facts: Mapping[str, Any]) -> bool:
    """True when result.json tells a line rate a rank that is not the measure's."""
    rows = (row for result in facts.get("results", ()) for row in _objects(result.get("wire")))
    return any(isinstance(rate := row.get("line_rate_gbps"), (int, float)) and rate * 8 != PORT_GBPS for row in rows)


def _bandwidth(scan: Scan, facts: Mapping[str, Any]) -> Finding | None:
    """Runs of the measure's shape against it. A shape that the log and result.json do not tell is not judged."""
    ratios: dict[str, float] = {}
    numbers: dict[str, str] = {}
    if _other_rate(facts):
        return None
    for run in parse_lines(line for _, line in scan.best_lines):
        told = _shaped(run, facts)
        if told is None:
            continue
        for row in against_references(told):
            if row["id"] == MEASURE and row["metric"].endswith("(RDMA)") and row["ratio"] > ratios.get(row["metric"], 0.0):
                ratios[row["metric"]] = row["ratio"]
                numbers[row["metric"]] = f"{row['metric'].partition(',')[0]} {row['value']:.1f} of {row['reference']:.1f} GB/s"
    if not ratios:
        return None
    ratio = sorted(ratios.values())[len(ratios) // 2]
    line = next(number for number, text in scan.best_lines if b"Best" in text)
    told_as = ", ".join(numbers[key] for key in sorted(numbers))
    if ratio < ONE_NIC_RATIO:
        return _one_nic("warning", f"inter-node bandwidth is {ratio:.0%} of the reference ({told_as})", line)
    if ratio < UNBOUND_RATIO:
        return Finding(
            cause_id="affinity-not-applied",
            severity="warning",
            cause=f"CPU, memory (NUMA) or NIC binding is missing: inter-node bandwidth is {ratio:.0%} of what bound ranks reach on two "
            "nodes of 8 GPUs and 8 x 400 Gb/s",
            remedy="bind each rank to its cores, NUMA node and NIC (bench does, and --ablate shows what each is worth); "
            "with slower NICs than these it is no fault",
            line=line,
            text=f"low bandwidth against the reference: {told_as}",
            source="Azure HPC blog 2025-05-16; DeepEP#155",
        )
    return None

"""Slow runs that print no error: all ranks on one NIC, and bandwidth far below the reference."""

from collections import defaultdict
from typing import Any

from entrypoints.diagnosis.model import Finding
from entrypoints.diagnosis.scan import Scan
from entrypoints.results.parse import parse_lines

#: Two nodes of eight H100 or H200 with 400 Gb/s each, 4096 tokens: the Azure blog's bound runs (GB/s, RDMA as DeepEP counts it).
REFERENCE = {"dispatch/fp8": 45.9, "dispatch/bf16": 60.3, "combine": 61.3}
#: One 400 Gb/s port shared by eight ranks gives an eighth; a run without binding was seen at 0.35 to 0.43 of the reference.
ONE_NIC_RATIO, UNBOUND_RATIO = 0.25, 0.55


def findings(scan: Scan, facts: dict[str, Any]) -> list[Finding]:
    shared = _same_device(scan) or _same_plan(facts)
    slow = _bandwidth(scan)
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


def _same_plan(facts: dict[str, Any]) -> Finding | None:
    for plan in facts.get("plans", []):
        used = [rank.get("hca") for rank in plan.get("ranks", []) if rank.get("hca")]
        if len(used) > 2 and len(set(used)) == 1 and "gpu" in plan.get("ranks", [{}])[0]:
            return _one_nic("warning", f"the plan gives {used[0]} to all {len(used)} ranks", None)
    return None


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


def _bandwidth(scan: Scan) -> Finding | None:
    best: dict[str, float] = {}
    for run in parse_lines(line for _, line in scan.best_lines):
        if run["test"] != "internode":
            continue
        for entry in run["best"]:
            key = f"{entry['op']}/{entry['dtype']}" if entry["dtype"] else entry["op"]
            best[key] = max(best.get(key, 0.0), entry["rdma_gbps"] or 0.0)
    ratios = {key: value / REFERENCE[key] for key, value in best.items() if key in REFERENCE}
    if not ratios:
        return None
    ratio = sorted(ratios.values())[len(ratios) // 2]
    line = scan.best_lines[0][0]
    numbers = ", ".join(f"{key} {best[key]:.1f} of {REFERENCE[key]:.1f} GB/s" for key in sorted(ratios))
    if ratio < ONE_NIC_RATIO:
        return _one_nic("warning", f"inter-node bandwidth is {ratio:.0%} of the reference ({numbers})", line)
    if ratio < UNBOUND_RATIO:
        return Finding(
            cause_id="affinity-not-applied",
            severity="warning",
            cause=f"CPU, memory (NUMA) or NIC binding is missing: inter-node bandwidth is {ratio:.0%} of what bound ranks reach on two "
            "nodes of 8 GPUs and 8 x 400 Gb/s",
            remedy="bind each rank to its cores, NUMA node and NIC (bench does, and --ablate shows what each is worth); "
            "with slower NICs than these it is no fault",
            line=line,
            text=f"low bandwidth against the reference: {numbers}",
            source="Azure HPC blog 2025-05-16; DeepEP#155",
        )
    return None

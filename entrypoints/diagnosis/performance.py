"""Slow runs that print no error: all ranks on one NIC, and bandwidth far below what bound ranks reach."""

from collections import defaultdict
from dataclasses import replace

from entrypoints.diagnosis.facts import HostFacts
from entrypoints.diagnosis.scan import Scan
from entrypoints.logs.parse import parse_lines
from entrypoints.results.model import Finding, ReferenceRow, Result, Run
from entrypoints.results.references import against_references, with_nodes

#: One 400 Gb/s port shared by eight ranks gives an eighth; a run without binding was seen at 0.35 to 0.43 of the reference.
ONE_NIC_RATIO, UNBOUND_RATIO = 0.25, 0.55
#: The shape these ratios were seen at (Azure blog, DeepEP#155): other nodes, ranks, SMs or port rates have other ratios.
NODES, RANKS, SMS, PORT_GBIT = 2, 16, 24, 400
#: The published figures of ranks that were said to be bound, of this shape, are the measure (results/references.toml).
MEASURE = "azure-nd-h100-v5-2"
#: A port that carried less only moved management packets; a port that carried this share of all carried everything.
CARRIED_BYTES, ALL = 16 << 20, 0.95
_ONE_NIC = Finding(
    cause_id="all-ranks-one-nic",
    severity="warning",
    cause="every rank uses the same NIC, so that inter-node bandwidth is a fraction of the line rate",
    remedy="give each rank its own NVSHMEM_HCA_LIST entry (one NIC, one port); NVSHMEM_ENABLE_NIC_PE_MAPPING with one list for all "
    "ranks puts all of them on the first NIC in high-throughput mode",
    source="NVSHMEM transport.cpp:404-409; DeepEP#336, #466",
    signature="all-ranks-one-nic",
)


def findings(scan: Scan, facts: HostFacts) -> list[Finding]:
    """At most one finding: one NIC for all ranks, by what NVSHMEM, the ports or the plan say, else low bandwidth."""
    finding = _same_device(scan) or _same_port(facts.result) or _same_plan(facts) or _bandwidth(scan, facts.result)
    return [finding] if finding else []


def _same_device(scan: Scan) -> Finding | None:
    """NVSHMEM says which device index each process took. It says so only where it had more than one to choose from."""
    by_host: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name, device in scan.dev_ids:
        host, _, process = name.rpartition(":")
        by_host[host][process].add(device)
    for host, processes in by_host.items():
        devices = set().union(*processes.values())
        ranks = len(processes) if host else len(scan.dev_ids)
        if ranks > (1 if host else 3) and len(devices) == 1:
            text = f"NVSHMEM reports 'setting dev_id = {devices.pop()}' for all {ranks} processes{f' on {host}' if host else ''}"
            return replace(_ONE_NIC, severity="fatal", text=text)
    return None


def _same_port(result: Result | None) -> Finding | None:
    """The counters of the HCA ports (evidence of each rank): one of several rails carried all of a node's traffic."""
    for node in result.nodes if result else ():
        evidence = [rank.evidence for rank in node.ranks]
        carried = {item.rail: max(item.traffic.values(), default=0) for item in evidence if item.rail and item.traffic is not None}
        busiest = max(carried, key=carried.__getitem__, default="")
        if len(carried) > 2 and carried[busiest] >= CARRIED_BYTES and carried[busiest] >= ALL * sum(carried.values()):
            share = carried[busiest] / sum(carried.values())
            text = f"port counters of {node.hostname or 'a node'}: {busiest} carried {share:.0%} of the bytes of {len(carried)} rails"
            return replace(_ONE_NIC, text=text)
    return None


def _same_plan(facts: HostFacts) -> Finding | None:
    for plan in facts.plans:
        ranks = [rank for rank in plan.get("ranks") or () if isinstance(rank, dict)]
        used = [rank["hca"] for rank in ranks if rank.get("hca")]
        if len(used) > 2 and len(set(used)) == 1 and "gpu" in ranks[0]:
            return replace(_ONE_NIC, text=f"the plan gives {used[0]} to all {len(used)} ranks")
    return None


def _of_measures_shape(run: Run, result: Result | None) -> Run | None:
    """The run with its shape, as far as the log or result.json tell it; None when it is not the measure's shape.

    Both nodes print each best line, so more than two copies are more than two nodes; a token goes to at most as many node
    groups as there are nodes (DeepEP's tests).
    """
    shape = run.shape.filled(result.shape) if result else run.shape
    bests = [best for best in run.best if best.sms == SMS]
    copies = max((sum((other.op, other.dtype) == (best.op, best.dtype) for other in bests) for best in bests), default=0)
    nodes, groups = shape.nodes or NODES, shape.num_topk_groups or NODES
    ranks = (shape.ranks_per_node or RANKS // NODES) * nodes
    if not 0 < copies <= NODES or (nodes, ranks, groups) != (NODES, RANKS, NODES):
        return None
    return with_nodes(replace(run, shape=shape, best=tuple(bests)), NODES)


def _bandwidth(scan: Scan, result: Result | None) -> Finding | None:
    """Runs of the measure's shape against it. A shape or line rate that the log and result.json do not tell is not judged."""
    if result and any(row.line_rate_gbps * 8 != PORT_GBIT for row in result.wire):
        return None
    highest: dict[str, ReferenceRow] = {}
    for run in parse_lines(line for _, line in scan.best_lines):
        comparable = _of_measures_shape(run, result)
        for row in against_references([comparable]) if comparable else ():
            if row.id == MEASURE and row.metric.endswith("(RDMA)") and (row.metric not in highest or row.ratio > highest[row.metric].ratio):
                highest[row.metric] = row
    if not highest:
        return None
    ratio = sorted(row.ratio for row in highest.values())[len(highest) // 2]
    line = next(number for number, text in scan.best_lines if b"Best" in text)
    figures = ", ".join(f"{name.partition(',')[0]} {row.value:.1f} of {row.reference:.1f} GB/s" for name, row in sorted(highest.items()))
    if ratio < ONE_NIC_RATIO:
        return replace(_ONE_NIC, text=f"inter-node bandwidth is {ratio:.0%} of the reference ({figures})", line=line)
    if ratio < UNBOUND_RATIO:
        return Finding(
            cause_id="affinity-not-applied",
            severity="warning",
            cause=f"CPU, memory (NUMA) or NIC binding is missing: inter-node bandwidth is {ratio:.0%} of what bound ranks reach on two "
            "nodes of 8 GPUs and 8 x 400 Gb/s",
            remedy="bind each rank to its cores, NUMA node and NIC (bench does, and --ablate shows what each is worth); "
            "with slower NICs than these it is no fault",
            line=line,
            text=f"low bandwidth against the reference: {figures}",
            source="Azure HPC blog 2025-05-16; DeepEP#155",
            signature="affinity-not-applied",
        )
    return None

"""The words of a plan: why a rank got its HCA, and what a person should know before starting."""

from collections.abc import Mapping, Sequence

from entrypoints.cpulist import format_list
from entrypoints.placement.candidates import IBGDA_WORKLOADS, Candidates
from entrypoints.placement.devices import link_layer
from entrypoints.placement.distance import NEAR, Levels, card_of
from entrypoints.placement.model import RankPlan
from entrypoints.topology.model import Gpu, Hca, Port, Topology

PATHS = {
    "PIX": "PIX, one PCIe switch",
    "PXB": "PXB, PCIe switches only",
    "PHB": "PHB, through the CPU's host bridge",
    "NODE": "NODE, same NUMA node but another host bridge",
    "SYS": "SYS, across NUMA nodes",
    None: "path unknown",
}


def describe_hca(hca: Hca, port: Port | None, rails: Sequence[Hca]) -> str:
    """ "mlx5_3 (rail 3, 400 Gb/s InfiniBand)", with what is known."""
    facts = [f"rail {rails.index(hca)}"] if hca in rails else []
    link = " ".join(filter(None, [f"{port.rate_gbps:g} Gb/s" if port and port.rate_gbps else "", link_layer(hca) or ""]))
    facts += [link] if link else []
    if hca.driver and hca.atomics is None:
        # Without CAP_SYS_ADMIN config space ends at 64 bytes: unknown is not absent, NVSHMEM asks the firmware itself.
        facts.append("PCIe atomics not readable")
    return f"{hca.id} ({', '.join(facts)})" if facts else hca.id


def hca_reason(
    hca: Hca | None,
    port: Port | None,
    path: str | None,
    rails: Sequence[Hca],
    peers: Sequence[int],
    by_user: bool,
    gpu: Gpu | None,
    found: Candidates,
    levels: Levels,
) -> str:
    """Why this rank has this HCA. `peers` are the other ranks on it."""
    if hca is None:
        return "no usable HCA" if found.excluded else "no HCA"
    text = f"{describe_hca(hca, port, rails)}: {PATHS[path]}"
    if by_user:
        text += ", chosen by the user"
    elif path is None:
        text += ", paired in bus order"
    elif gpu is not None:
        equal = [rail for rail in rails if levels.get((gpu.index, rail.label)) == path]
        if len(equal) == 1:
            text += f", the only HCA this near to GPU {gpu.index}"
        else:
            text += f", one of {len(equal)} as near, paired in bus order"
    text += f", shared with {ranks_text(peers)}" if peers else ", no other rank on it"
    if found.foreign:
        text += f" ({found.foreign}: for NCCL only)"
    return text


def ranks_text(ranks: Sequence[int]) -> str:
    """ "rank 3" or "ranks 0-3,7"."""
    return f"rank{'s' * (len(ranks) > 1)} {format_list(ranks)}"


def plan_warnings(
    topology: Topology, workload: str, plans: Sequence[RankPlan], found: Candidates, sharers: Mapping[str, Sequence[int]]
) -> list[str]:
    """What a person must know of this plan as a whole."""
    warnings = list(found.warnings)
    ids = {hca.label: hca for hca in topology.hcas}
    fabric = workload in IBGDA_WORKLOADS
    if fabric and topology.gpus and all(plan.hca is None for plan in plans):
        why = "no HCA was found" if not topology.hcas else "none of its HCAs can be used (see excluded)"
        warnings.append(f"{why}: DeepEP runs within this host only")
    if found.foreign:
        warnings.append(f"NVSHMEM's IBGDA cannot drive {found.foreign}: no DeepEP internode kernels here; the map serves NCCL only")
    for label, ranks in sharers.items():
        if len(ranks) > 1:
            warnings.append(f"{ranks_text(ranks)} share {ids[label].id}: each gets 1/{len(ranks)} of its bandwidth")
    far = [plan.local_rank for plan in plans if plan.path == "SYS" and plan.gpu_index is not None]
    if far:
        warnings.append(f"{ranks_text(far)}: the HCA is across NUMA nodes (SYS), and no nearer one is left")
    dark = [plan.local_rank for plan in plans if plan.hca is not None and plan.path is None and plan.gpu_index is not None]
    if dark:
        warnings.append(f"{ranks_text(dark)}: the source does not tell how far the HCA is; paired in bus order")
    nameless = {hca.id for hca in topology.hcas if hca.name is None}
    unnamed = [plan.local_rank for plan in plans if plan.hca in nameless]
    if unnamed and fabric:
        warnings.append(f"{ranks_text(unnamed)}: the source gives no verbs name for the HCA, so no NVSHMEM_HCA_LIST can be written")
    warnings += _idle_ports(topology, plans, found)
    if fabric:
        warnings += _nvlink_gaps(topology, plans)
    return warnings


def _nvlink_gaps(topology: Topology, plans: Sequence[RankPlan]) -> list[str]:
    """GPUs of this plan that NVLink does not join: DeepEP's kernels write into every peer's memory."""
    # A GPU with an HCA at an unknown distance is a cut row of a matrix: what it lacks there was not said.
    used = {plan.gpu_index for plan in plans if plan.path is not None or plan.hca is None}
    links = {gpu.index: used & set(gpu.nvlink) for gpu in topology.gpus if gpu.index in used and gpu.nvlink is not None}
    if len(links) < 2:
        return []
    lonely = [gpu for gpu, peers in links.items() if not peers]
    if len(lonely) == len(links):
        return ["no NVLink joins these GPUs: DeepEP needs it between all GPUs of a host"]
    gaps = [gpu for gpu, peers in links.items() if len(peers | {gpu}) < len(used)]
    if lonely:
        return [f"GPU {format_list(lonely)} has no NVLink while the others have: a fault of this host, or of its fabric manager"]
    return [f"NVLink does not join all pairs of GPUs {format_list(gaps)}: DeepEP needs that"] if gaps else []


def _idle_ports(topology: Topology, plans: Sequence[RankPlan], found: Candidates) -> list[str]:
    """Cards whose second port idles although it is a rail: one HCA a rank is all that DeepEP's NVSHMEM kernels use."""
    used = {plan.hca for plan in plans}
    cards = {card_of(hca) for hca in found.hcas if hca.id in used}
    idle = [hca.id for hca in found.hcas if hca.id not in used and card_of(hca) in cards]
    near = any(plan.path in NEAR for plan in plans)
    if not idle or not near or len(plans) < len(topology.gpus):
        return []
    return [f"{', '.join(idle)}: second ports of used cards stay idle, as DeepEP drives one port a rank"]

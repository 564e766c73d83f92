"""Topology in, plan out: one GPU, one HCA port, cores and a memory policy for every local rank, each with its reason."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from entrypoints.cpulist import format_list
from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.candidates import IBGDA_WORKLOADS, Candidates, find
from entrypoints.placement.cpus import CpuShare, allowed_cpus, home_node, policy_for, split
from entrypoints.placement.devices import NEAR, Levels, active_ports, card_of, levels_of, link_layer
from entrypoints.placement.environment import rank_environment
from entrypoints.placement.hca import match
from entrypoints.placement.model import Plan, PlannedHost, RankPlan
from entrypoints.placement.overrides import Choice, Wishes, read_wishes, visible_gpus
from entrypoints.topology.model import Gpu, Hca, Port, Topology

#: Path levels in words.
PATHS = {
    "PIX": "PIX, one PCIe switch",
    "PXB": "PXB, PCIe switches only",
    "PHB": "PHB, through the CPU's host bridge",
    "NODE": "NODE, same NUMA node but another host bridge",
    "SYS": "SYS, across NUMA nodes",
    None: "path unknown",
}


@dataclass(frozen=True)
class PlanOptions:
    """The user's requests. `environ` is the environment in which the ranks will start."""

    ranks: int | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: Local rank -> "name[:port]".
    hca_overrides: Mapping[int, str] = field(default_factory=dict)
    exclude_hca: tuple[str, ...] = ()
    cores_per_rank: int | None = None
    #: deepep-v1, deepep-v2 (these need one GPU a rank), or any other name: a workload that takes what there is.
    workload: str = "deepep-v1"


@dataclass(frozen=True)
class _Draft:
    """All decisions, before they are put into words. `seats` are the GPUs of the ranks, or stand-ins on hosts without."""

    topology: Topology
    options: PlanOptions
    wishes: Wishes
    has_gpus: bool
    seats: Sequence[Gpu]
    levels: Levels
    candidates: Candidates
    chosen: Mapping[int, Hca]
    homes: Sequence[int | None]
    shares: Sequence[CpuShare]


def make_plan(topology: Topology, options: PlanOptions | None = None) -> Plan:
    """The plan for one host. Raises UsageError for wishes that contradict the topology, NoPlan when none is possible."""
    options = options or PlanOptions()
    warnings = list(topology.warnings)
    gpus = _gpus_of_ranks(topology, options, warnings)
    wishes = read_wishes(topology, options.environ, gpus, options.hca_overrides, options.exclude_hca, options.workload)
    warnings += wishes.warnings
    used = [gpu for gpu in gpus if gpu is not None]
    if used:
        draft, notes = _draft(topology, options, wishes, used)
    else:
        draft, notes = _draft_without_gpus(topology, options, wishes, len(gpus))
    warnings += notes
    topology = draft.topology
    # The candidates, and what the user named although it is none.
    rails = list(dict.fromkeys([*draft.candidates.hcas, *draft.chosen.values()]))
    ranks = tuple(_rank_plan(draft, rank, rails, warnings) for rank in range(len(draft.seats)))
    by_user = {hca.id for hca in rails if hca not in draft.candidates.hcas}
    in_use = {rank.hca for rank in ranks}
    warnings += _plan_warnings(topology, options.workload, ranks, draft.candidates)
    host = PlannedHost(
        hostname=topology.hostname,
        workload=options.workload,
        gpus=len(topology.gpus),
        hcas=len(topology.hcas),
        numa_nodes=tuple(node.id for node in topology.numa_nodes),
        allowed_cpus=allowed_cpus(topology),
        rails=tuple(hca.id for hca in rails),
        spare_hcas=tuple(hca.id for hca in rails if hca.id not in in_use),
    )
    excluded = tuple((hca, reason) for hca, reason in draft.candidates.excluded if hca not in by_user)
    return Plan(source=topology.source, host=host, ranks=ranks, excluded=excluded, warnings=tuple(dict.fromkeys(warnings)))


def check_ranks(ranks: int) -> None:
    """Raises UsageError for a number of ranks that no host can have."""
    if ranks < 1:
        raise UsageError(f"{ranks} ranks asked for", where="--ranks", hint="at least one is needed")


def _gpus_of_ranks(topology: Topology, options: PlanOptions, warnings: list[str]) -> list[Gpu | None]:
    """The GPU of each local rank in rank order, None for all ranks of a plan without GPUs."""
    visible = visible_gpus(topology, options.environ)
    ranks = options.ranks if options.ranks is not None else (len(visible) or 1)
    check_ranks(ranks)
    if options.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") != "PCI_BUS_ID" and visible:
        warnings.append("CUDA_DEVICE_ORDER is set to PCI_BUS_ID for the ranks: GPU indices here are in bus order")
    if ranks <= len(visible):
        return list(visible[:ranks])
    if visible and options.workload in IBGDA_WORKLOADS:
        hidden = len(topology.gpus) - len(visible)
        also = f" ({hidden} more hidden by CUDA_VISIBLE_DEVICES)" if hidden else ""
        raise NoPlan(f"{ranks} ranks need {ranks} GPUs, this host shows {len(visible)}{also}", hint=f"use --ranks {len(visible)}")
    if visible:
        warnings.append(f"{ranks} ranks for {len(visible)} GPUs: this workload runs without GPUs")
    elif options.workload in IBGDA_WORKLOADS:
        warnings.append("no GPU is visible: only cores and memory are planned")
    return [None] * ranks


def _draft(topology: Topology, options: PlanOptions, wishes: Wishes, gpus: Sequence[Gpu]) -> tuple[_Draft, list[str]]:
    """HCAs by the GPUs, then cores by the GPUs' nodes."""
    levels = levels_of(topology, topology.gpus)
    candidates, chosen = _match(topology, gpus, levels, wishes, options.workload)
    homes = [_home(topology, gpu, chosen.get(gpu.index), levels) for gpu in gpus]
    shares, notes = split(topology, homes, options.cores_per_rank)
    return _Draft(topology, options, wishes, True, gpus, levels, candidates, chosen, homes, shares), notes


def _draft_without_gpus(topology: Topology, options: PlanOptions, wishes: Wishes, ranks: int) -> tuple[_Draft, list[str]]:
    """Cores and memory split over the nodes, and for each rank the HCA nearest to its cores."""
    shares, notes = split(topology, [None] * ranks, options.cores_per_rank)
    # Each rank stands in for a GPU on the node of its cores, so that one matching serves both kinds of host.
    seats = [Gpu(index=rank, numa_node=share.node) for rank, share in enumerate(shares)]
    # Levels that the source states are those of its GPUs: seats are near by node alone.
    topology = replace(topology, gpus=(), levels={})
    levels = levels_of(topology, seats)
    candidates, chosen = _match(topology, seats, levels, wishes, options.workload)
    return _Draft(topology, options, wishes, False, seats, levels, candidates, chosen, [share.node for share in shares], shares), notes


def _match(topology: Topology, used: Sequence[Gpu], levels: Levels, wishes: Wishes, workload: str) -> tuple[Candidates, dict[int, Hca]]:
    """Candidates and the HCA of each GPU index; HCAs that the user named are usable whatever the rules say."""
    candidates = find(topology.hcas, topology.gpus, levels, workload=workload, user_excluded=wishes.excluded)
    fixed = {gpu.index: wishes.fixed[gpu.index].hca for gpu in used if gpu.index in wishes.fixed}
    return candidates, match(topology, used, candidates.hcas, levels, fixed=fixed)


def _home(topology: Topology, gpu: Gpu, hca: Hca | None, levels: Levels) -> int | None:
    """The node of a GPU; if that is unknown, of the HCA it was given, where that is known to be on the same side."""
    home = home_node(topology, gpu)
    if home is None and hca is not None and levels.get((gpu.index, hca.label)) not in (None, "SYS"):
        return home_node(topology, hca)
    return home


def _port(hca: Hca, choice: Choice | None, wishes: Wishes) -> tuple[Port | None, int]:
    """The port object where known, and its number: the one that the user named, else the best active one."""
    number = choice.port if choice is not None and choice.port is not None else wishes.ports.get(hca.label)
    if number is not None:
        return next((port for port in hca.ports if port.number == number), None), number
    ports = active_ports(hca) or list(hca.ports)
    return (ports[0], ports[0].number) if ports else (None, 1)


def _rank_plan(draft: _Draft, rank: int, rails: Sequence[Hca], warnings: list[str]) -> RankPlan:
    """One rank's part; what is odd about it is appended to `warnings`."""
    seat, share, wishes = draft.seats[rank], draft.shares[rank], draft.wishes
    gpu = seat if draft.has_gpus else None
    hca = draft.chosen.get(seat.index)
    port, number = _port(hca, wishes.fixed.get(seat.index), wishes) if hca else (None, None)
    path = draft.levels.get((seat.index, hca.label)) if hca else None
    rail_names = [f"{rail.name}:{_port(rail, None, wishes)[1]}" for rail in rails if rail.name]
    driven = None if draft.candidates.foreign else hca
    env, notes = rank_environment(driven, port, number, rail_names, draft.options.environ, draft.options.workload, gpu is not None)
    warnings += [f"rank {rank}: {note}" for note in notes]
    memory, memory_reason = policy_for(draft.topology, share)
    if hca is None:
        reason = "no usable HCA" if draft.candidates.excluded else "no HCA"
    else:
        reason = _hca_reason(draft, rank, hca, _describe_hca(hca, port, rails), rails)
    return RankPlan(
        local_rank=rank,
        gpu_index=gpu.index if gpu else None,
        gpu_pci=gpu.pci if gpu else None,
        hca=hca.id if hca else None,
        hca_pci=hca.pci if hca else None,
        port=number,
        path=path,
        numa_node=share.node if share.node is not None else draft.homes[rank],
        cpus=share.cpus,
        memory=memory,
        env=env,
        reason="; ".join(part for part in (reason, share.text, memory_reason) if part),
    )


def _describe_hca(hca: Hca, port: Port | None, rails: Sequence[Hca]) -> str:
    """ "mlx5_3 (rail 3, 400 Gb/s InfiniBand)", with what is known."""
    facts = [f"rail {rails.index(hca)}"] if hca in rails else []
    link = " ".join(filter(None, [f"{port.rate_gbit:g} Gb/s" if port and port.rate_gbit else "", link_layer(hca) or ""]))
    facts += [link] if link else []
    if hca.driver and hca.atomics is None:
        # Unprivileged, config space ends at 64 bytes: unknown is not absent, NVSHMEM asks the firmware itself.
        facts.append("PCIe atomics not readable")
    return f"{hca.id} ({', '.join(facts)})" if facts else hca.id


def _hca_reason(draft: _Draft, rank: int, hca: Hca, described: str, rails: Sequence[Hca]) -> str:
    """The reason of a rank for its HCA: how near it is, who or what chose it, and which other ranks are on it."""
    gpu = draft.seats[rank].index
    path = draft.levels.get((gpu, hca.label))
    text = f"{described}: {PATHS[path]}"
    if gpu in draft.wishes.fixed:
        text += ", chosen by the user"
    elif path is None:
        text += ", paired in bus order"
    elif draft.has_gpus:
        equally_near = sum(draft.levels.get((gpu, rail.label)) == path for rail in rails)
        text += f", the only HCA this near to GPU {gpu}" if equally_near == 1 else f", one of {equally_near} as near, paired in bus order"
    peers = [other for other, seat in enumerate(draft.seats) if other != rank and draft.chosen.get(seat.index) == hca]
    text += f", shared with {_ranks_text(peers)}" if peers else ", no other rank on it"
    return f"{text} ({draft.candidates.foreign}: for NCCL only)" if draft.candidates.foreign else text


def _ranks_text(ranks: Sequence[int]) -> str:
    """ "rank 3" or "ranks 0-3,7"."""
    return f"rank{'s' * (len(ranks) > 1)} {format_list(ranks)}"


def _plan_warnings(topology: Topology, workload: str, plans: Sequence[RankPlan], candidates: Candidates) -> list[str]:
    """Warnings about the plan as a whole, for the person who starts it."""
    warnings = list(candidates.warnings)
    sharers: dict[str, list[int]] = {}
    for plan in plans:
        if plan.hca is not None:
            sharers.setdefault(plan.hca, []).append(plan.local_rank)
    fabric = workload in IBGDA_WORKLOADS
    if fabric and topology.gpus and all(plan.hca is None for plan in plans):
        cause = "no HCA was found" if not topology.hcas else "none of its HCAs can be used (see excluded)"
        warnings.append(f"{cause}: DeepEP runs within this host only")
    if candidates.foreign:
        warnings.append(f"NVSHMEM's IBGDA cannot drive {candidates.foreign}: no DeepEP internode kernels here; the map serves NCCL only")
    for hca_id, ranks in sharers.items():
        if len(ranks) > 1:
            warnings.append(f"{_ranks_text(ranks)} share {hca_id}: each gets 1/{len(ranks)} of its bandwidth")
    far = [plan.local_rank for plan in plans if plan.path == "SYS" and plan.gpu_index is not None]
    if far:
        warnings.append(f"{_ranks_text(far)}: the HCA is across NUMA nodes (SYS), and no nearer one is left")
    dark = [plan.local_rank for plan in plans if plan.hca is not None and plan.path is None and plan.gpu_index is not None]
    if dark:
        warnings.append(f"{_ranks_text(dark)}: the source does not tell how far the HCA is; paired in bus order")
    nameless = {hca.id for hca in topology.hcas if hca.name is None}
    unnamed = [plan.local_rank for plan in plans if plan.hca in nameless]
    if unnamed and fabric:
        warnings.append(f"{_ranks_text(unnamed)}: the source gives no verbs name for the HCA, so no NVSHMEM_HCA_LIST can be written")
    warnings += _idle_ports(topology, plans, candidates)
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


def _idle_ports(topology: Topology, plans: Sequence[RankPlan], candidates: Candidates) -> list[str]:
    """Cards whose second port idles although it is a rail: one HCA a rank is all that DeepEP's NVSHMEM kernels use."""
    used = {plan.hca for plan in plans}
    cards = {card_of(hca) for hca in candidates.hcas if hca.id in used}
    idle = [hca.id for hca in candidates.hcas if hca.id not in used and card_of(hca) in cards]
    near = any(plan.path in NEAR for plan in plans)
    if not idle or not near or len(plans) < len(topology.gpus):
        return []
    return [f"{', '.join(idle)}: second ports of used cards stay idle, as DeepEP drives one port a rank"]

"""Topology in, plan out: one GPU, one HCA port, cores and a memory policy for every local rank, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from entrypoints.cpulist import format_list
from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.candidates import IBGDA_WORKLOADS, Candidates, find
from entrypoints.placement.cpus import CpuShare, allowed_cpus, home_node, split
from entrypoints.placement.devices import active_ports
from entrypoints.placement.distance import Levels, by_node, levels_of
from entrypoints.placement.environment import rank_environment
from entrypoints.placement.hca import match
from entrypoints.placement.memory import policy_for
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.placement.overrides import Choice, Wishes, read_wishes, visible_gpus
from entrypoints.placement.reasons import hca_reason, plan_warnings
from entrypoints.topology.model import Gpu, Hca, Port, Topology


@dataclass(frozen=True)
class PlanOptions:
    """What the user asks for. `environ` is the environment in which the ranks will start."""

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
    found: Candidates
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
    return _assemble(draft, [*warnings, *notes])


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
    levels = levels_of(topology, topology.gpus, topology.hcas)
    found, chosen = _match(topology, gpus, topology.gpus, levels, wishes, options.workload)
    homes = [_home(topology, gpu, chosen.get(gpu.index), levels) for gpu in gpus]
    shares, notes = split(topology, homes, options.cores_per_rank)
    return _Draft(topology, options, wishes, True, gpus, levels, found, chosen, homes, shares), notes


def _draft_without_gpus(topology: Topology, options: PlanOptions, wishes: Wishes, ranks: int) -> tuple[_Draft, list[str]]:
    """Cores and memory split over the nodes, and for each rank the HCA nearest to its cores."""
    shares, notes = split(topology, [None] * ranks, options.cores_per_rank)
    # Each rank stands in for a GPU on the node of its cores, so that one matching serves both kinds of host.
    seats = [Gpu(index=rank, numa_node=share.node) for rank, share in enumerate(shares)]
    topology = replace(topology, gpus=())
    levels = {(seat.index, hca.label): by_node(seat, hca) for seat in seats for hca in topology.hcas}
    found, chosen = _match(topology, seats, (), levels, wishes, options.workload)
    return _Draft(topology, options, wishes, False, seats, levels, found, chosen, [share.node for share in shares], shares), notes


def _match(
    topology: Topology, used: Sequence[Gpu], every: Sequence[Gpu], levels: Levels, wishes: Wishes, workload: str
) -> tuple[Candidates, dict[int, Hca]]:
    """Candidates and the HCA of each GPU index; HCAs that the user named are usable whatever the rules say."""
    found = find(topology.hcas, every, levels, workload=workload, user_excluded=dict(wishes.excluded))
    fixed = {gpu.index: wishes.fixed[gpu.index].hca for gpu in used if gpu.index in wishes.fixed}
    return found, match(topology, used, found.hcas, levels, fixed=fixed)


def _home(topology: Topology, gpu: Gpu, hca: Hca | None, levels: Levels) -> int | None:
    """The node of a GPU; if that is unknown, of the HCA it was given, where that is known to be on the same side."""
    home = home_node(topology, gpu.numa_node, gpu.local_cpus)
    if home is None and hca is not None and levels.get((gpu.index, hca.label)) not in (None, "SYS"):
        return home_node(topology, hca.numa_node, hca.local_cpus)
    return home


def _port(hca: Hca, choice: Choice | None, wishes: Wishes) -> tuple[Port | None, int]:
    """The port object where known, and its number: the one that the user named, else the best active one."""
    number = choice.port if choice is not None and choice.port is not None else wishes.ports.get(hca.label)
    if number is not None:
        return next((port for port in hca.ports if port.number == number), None), number
    ports = active_ports(hca) or list(hca.ports)
    return (ports[0], ports[0].number) if ports else (None, 1)


def _assemble(draft: _Draft, warnings: list[str]) -> Plan:
    """Put the parts of each rank together, with its reason."""
    found, chosen = draft.found, draft.chosen
    # The user's own choices join the rails, in place of their exclusion.
    named = [hca for hca in chosen.values() if hca not in found.hcas]
    rails = [*found.hcas, *dict.fromkeys(named)]
    sharers: dict[str, list[int]] = {}
    for rank, seat in enumerate(draft.seats):
        if seat.index in chosen:
            sharers.setdefault(chosen[seat.index].label, []).append(rank)
    plans = [_rank_plan(draft, rank, rails, sharers, warnings) for rank in range(len(draft.seats))]
    names = {hca.id for hca in named}
    warnings += plan_warnings(draft.topology, draft.options.workload, plans, found, sharers)
    return Plan(
        source=draft.topology.source,
        host=_host(draft.topology, draft.options, rails, plans),
        ranks=tuple(plans),
        excluded=tuple((hca, reason) for hca, reason in found.excluded if hca not in names),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _rank_plan(draft: _Draft, rank: int, rails: Sequence[Hca], sharers: Mapping[str, Sequence[int]], warnings: list[str]) -> RankPlan:
    """One rank's part; what is odd about it is appended to `warnings`."""
    seat, share, wishes = draft.seats[rank], draft.shares[rank], draft.wishes
    gpu = seat if draft.has_gpus else None
    hca = draft.chosen.get(seat.index)
    port, number = _port(hca, wishes.fixed.get(seat.index), wishes) if hca else (None, None)
    path = draft.levels.get((seat.index, hca.label)) if hca else None
    rail_names = [f"{rail.name}:{_port(rail, None, wishes)[1]}" for rail in rails if rail.name]
    driven = None if draft.found.foreign else hca
    env, notes = rank_environment(driven, port, number, rail_names, draft.options.environ, draft.options.workload, gpu is not None)
    warnings += [f"rank {rank}: {note}" for note in notes]
    memory, memory_text = policy_for(draft.topology, share)
    peers = [peer for peer in sharers.get(hca.label, []) if peer != rank] if hca else []
    why_hca = hca_reason(hca, port, path, rails, peers, seat.index in wishes.fixed, gpu, draft.found, draft.levels)
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
        reason="; ".join(part for part in (why_hca, share.text, memory_text) if part),
    )


def _host(topology: Topology, options: PlanOptions, rails: Sequence[Hca], plans: Sequence[RankPlan]) -> dict[str, Any]:
    used = {plan.hca for plan in plans}
    return {
        "hostname": topology.hostname,
        "workload": options.workload,
        "gpus": len(topology.gpus),
        "hcas": len(topology.hcas),
        "numa_nodes": [node.id for node in topology.numa_nodes],
        "allowed_cpus": format_list(allowed_cpus(topology)),
        "rails": [hca.id for hca in rails],
        "spare_hcas": [hca.id for hca in rails if hca.id not in used],
    }

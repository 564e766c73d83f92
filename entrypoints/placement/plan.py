"""Topology in, plan out: one GPU, one HCA port, cores and a memory policy for every local rank."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.cpus import home_node, split
from entrypoints.placement.memory import policy_for
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import Topology

#: Workloads that need a GPU for every rank; the others fall back to CPU ranks.
GPU_WORKLOADS = ("deepep-v1", "deepep-v2")


@dataclass(frozen=True)
class PlanOptions:
    """What the user asks for. `environ` is the environment in which the ranks will start."""

    ranks: int | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: Local rank -> "name[:port]".
    hca_overrides: Mapping[int, str] = field(default_factory=dict)
    exclude_hca: tuple[str, ...] = ()
    cores_per_rank: int | None = None
    workload: str = "deepep-v1"


def make_plan(topology: Topology, options: PlanOptions | None = None) -> Plan:
    """The plan for one host. Raises UsageError for options that contradict the topology, NoPlan when none is possible."""
    options = options or PlanOptions()
    warnings = list(topology.warnings)
    gpus = sorted(topology.gpus, key=lambda gpu: gpu.index)
    ranks = options.ranks if options.ranks is not None else (len(gpus) or 1)
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: at least one rank is needed")
    if gpus and ranks > len(gpus) and options.workload in GPU_WORKLOADS:
        raise NoPlan(f"{ranks} ranks need {ranks} GPUs, this host shows {len(gpus)}", hint="lower --ranks")
    chosen = gpus[:ranks] if ranks <= len(gpus) else [None] * ranks
    homes = [home_node(topology, gpu.numa_node, gpu.local_cpus) if gpu else None for gpu in chosen]
    shares, cpu_warnings = split(topology, homes, options.cores_per_rank)
    plans = []
    for rank, (gpu, share) in enumerate(zip(chosen, shares, strict=True)):
        memory, memory_text = policy_for(topology, share)
        plans.append(
            RankPlan(
                local_rank=rank,
                gpu_index=gpu.index if gpu else None,
                gpu_pci=gpu.pci if gpu else None,
                numa_node=share.node,
                cpus=share.cpus,
                memory=memory,
                env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpu else {},
                reason=f"{share.text}; {memory_text}",
            )
        )
    return Plan(source=topology.source, host={"hostname": topology.hostname}, ranks=tuple(plans), warnings=(*warnings, *cpu_warnings))

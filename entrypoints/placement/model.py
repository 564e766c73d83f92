"""The plan: per local rank one GPU, one HCA port, cores, a memory policy, and the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from entrypoints.cpulist import format_list

SCHEMA = "epbox.plan/1"


@dataclass(frozen=True)
class MemoryPolicy:
    """`policy` is a set_mempolicy(2) mode by name ("default", "preferred", "bind", "interleave")."""

    policy: str = "default"
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True)
class RankPlan:
    """Everything one local rank is given before it starts."""

    local_rank: int
    gpu_index: int | None = None
    gpu_pci: str | None = None
    hca: str | None = None
    hca_pci: str | None = None
    port: int | None = None
    path: str | None = None
    numa_node: int | None = None
    cpus: tuple[int, ...] = ()
    memory: MemoryPolicy = MemoryPolicy()
    env: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        gpu = None if self.gpu_index is None and self.gpu_pci is None else {"index": self.gpu_index, "pci": self.gpu_pci}
        return {
            "local_rank": self.local_rank,
            "gpu": gpu,
            "hca": self.hca,
            "hca_pci": self.hca_pci,
            "port": self.port,
            "path": self.path,
            "numa_node": self.numa_node,
            "cpus": format_list(self.cpus),
            "memory": {"policy": self.memory.policy, "nodes": list(self.memory.nodes)},
            "env": dict(self.env),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Plan:
    """A plan for one host; `excluded` are HCAs left out, each with its reason."""

    source: str
    host: dict[str, Any] = field(default_factory=dict)
    ranks: tuple[RankPlan, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "host": self.host,
            "source": self.source,
            "ranks": [rank.to_json() for rank in self.ranks],
            "excluded": [{"hca": hca, "reason": reason} for hca, reason in self.excluded],
            "warnings": list(self.warnings),
        }

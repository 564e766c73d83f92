"""The plan: per local rank one GPU, one HCA port, cores, a memory policy, and the reason for each; as JSON and as text."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from entrypoints.cpulist import format_list, parse_list
from entrypoints.output import table

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

    def to_json(self) -> dict[str, object]:
        """One of the `ranks` of an epbox.plan/1 document."""
        gpu = None if self.gpu_index is None and self.gpu_pci is None else {"index": self.gpu_index, "pci": self.gpu_pci}
        memory = {"policy": self.memory.policy, "nodes": list(self.memory.nodes)}
        others = {name: value for name, value in vars(self).items() if name not in ("local_rank", "gpu_index", "gpu_pci")}
        special = {"cpus": format_list(self.cpus), "memory": memory, "env": dict(self.env)}
        return {"local_rank": self.local_rank, "gpu": gpu, **others, **special}

    @classmethod
    def from_json(cls, rank: Mapping[str, Any]) -> "RankPlan":
        """The rank of an epbox.plan/1 document, without its variables."""
        gpu, memory = rank.get("gpu") or {}, rank.get("memory") or {}
        return cls(
            local_rank=rank["local_rank"],
            gpu_index=gpu.get("index"),
            gpu_pci=gpu.get("pci"),
            hca=rank.get("hca"),
            hca_pci=rank.get("hca_pci"),
            port=rank.get("port"),
            path=rank.get("path"),
            numa_node=rank.get("numa_node"),
            cpus=parse_list(rank.get("cpus") or ""),
            memory=MemoryPolicy(memory.get("policy", "default"), tuple(memory.get("nodes", ()))),
            reason=rank.get("reason", ""),
        )


@dataclass(frozen=True)
class PlannedHost:
    """The host that a plan is for: how many devices it has, which HCAs are rails, and which of them no rank uses."""

    hostname: str | None = None
    workload: str = ""
    gpus: int = 0
    hcas: int = 0
    numa_nodes: tuple[int, ...] = ()
    allowed_cpus: tuple[int, ...] = ()
    rails: tuple[str, ...] = ()
    spare_hcas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A plan for one host; `excluded` are HCAs left out, each with its reason."""

    source: str
    host: PlannedHost = PlannedHost()
    ranks: tuple[RankPlan, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The document of `plan --format json` (epbox.plan/1). Unknown is null."""
        host = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.host).items()}
        return {
            "schema": SCHEMA,
            "host": {**host, "allowed_cpus": format_list(self.host.allowed_cpus)},
            "source": self.source,
            "ranks": [rank.to_json() for rank in self.ranks],
            "excluded": [{"hca": hca, "reason": reason} for hca, reason in self.excluded],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Plan":
        """The plan of an epbox.plan/1 document that this program wrote; missing parts are empty. The ranks' variables are left out."""
        host = document.get("host", {})
        sets = {name: tuple(host.get(name, ())) for name in ("numa_nodes", "rails", "spare_hcas")}
        cpus = parse_list(host.get("allowed_cpus", ""))
        return cls(
            source=document.get("source", ""),
            host=PlannedHost(
                host.get("hostname"), host.get("workload", ""), host.get("gpus", 0), host.get("hcas", 0), allowed_cpus=cpus, **sets
            ),
            ranks=tuple(RankPlan.from_json(rank) for rank in document["ranks"]),
            excluded=tuple((item["hca"], item["reason"]) for item in document.get("excluded", ())),
            warnings=tuple(document.get("warnings", ())),
        )


def plan_table(plan: Plan) -> str:
    """Ranks, reasons, HCAs left out and warnings, in this order."""
    headers = ("RANK", "GPU", "GPU BUS ID", "HCA", "PORT", "HCA BUS ID", "PATH", "NODE", "CORES", "MEMORY")
    rows: list[list[object]] = []
    for rank in plan.ranks:
        devices = (rank.local_rank, rank.gpu_index, rank.gpu_pci, rank.hca, rank.port, rank.hca_pci, rank.path, rank.numa_node)
        memory = "first touch" if rank.memory.policy == "default" else f"{rank.memory.policy} {format_list(rank.memory.nodes)}"
        rows.append([*("-" if cell is None else cell for cell in devices), format_list(rank.cpus) or "-", memory])
    columns = [column for column in range(len(headers)) if column in (0, 1, 3) or any(row[column] != "-" for row in rows)]
    parts = [f"plan for {plan.host.hostname or plan.source} ({plan.host.workload})"]
    parts.append(table([headers[i] for i in columns], [[row[i] for i in columns] for row in rows]))
    sections = {
        "why": [f"rank {rank.local_rank}: {rank.reason}" for rank in plan.ranks],
        "left out": [f"{hca}: {reason}" for hca, reason in plan.excluded],
        "not needed": [", ".join(plan.host.spare_hcas)] if plan.host.spare_hcas else [],
        "warnings": plan.warnings,
    }
    return "\n\n".join([*parts, *("\n  ".join([title, *lines]) for title, lines in sections.items() if lines)])


def exports(env: Mapping[str, str]) -> str:
    """`export` lines that any POSIX shell can eval, whatever the values hold."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items()))


def env_text(plan: Plan, rank: int | None) -> str:
    """Exports of one rank, or of all ranks as functions of a `case` on LOCAL_RANK."""
    if rank is not None:
        return exports(plan.ranks[rank].env)
    # One text for all ranks: each process evals it and takes its own arm.
    arms = []
    for plan_rank in plan.ranks:
        lines = exports(plan_rank.env).splitlines() or [":"]
        arms.append("\n".join([f"{plan_rank.local_rank})", *(f"  {line}" for line in lines), "  ;;"]))
    return "\n".join(['case "${LOCAL_RANK:?set LOCAL_RANK, or use plan --rank N}" in', *arms, "esac"])


def numactl_line(rank: RankPlan) -> str:
    """The numactl command that binds as the plan does; the caller puts its command behind it."""
    parts = ["env", *(f"{name}={value}" for name, value in sorted(rank.env.items()))] if rank.env else []
    options = [f"--physcpubind={format_list(rank.cpus)}"] if rank.cpus else []
    if rank.memory.policy != "default":
        option = {"preferred": "--preferred", "bind": "--membind", "interleave": "--interleave"}[rank.memory.policy]
        options.append(f"{option}={format_list(rank.memory.nodes)}")
    return " ".join(shlex.quote(part) for part in [*parts, *(["numactl", *options, "--"] if options else [])])


def numactl_text(plan: Plan) -> str:
    """One line for each rank, under a comment with its number."""
    return "\n".join(f"# rank {rank.local_rank}\n{numactl_line(rank)}" for rank in plan.ranks)


def rankfile_text(plan: Plan) -> str:
    """An Open MPI rank file of this host. CPU numbers are the kernel's (physical)."""
    host = plan.host.hostname or "localhost"
    lines = ["# Open MPI 4: mpirun --mca rmaps_rank_file_physical 1 --rankfile FILE; Open MPI 5: mpirun --map-by rankfile:file=FILE"]
    lines += [f"rank {rank.local_rank}={host} slot={format_list(rank.cpus)}" for rank in plan.ranks if rank.cpus]
    return "\n".join(lines)

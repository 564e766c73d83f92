"""The arms of an ablation: what each binds, and which of them cannot differ on this host."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from entrypoints.bench.setup import Job
from entrypoints.binding import BindMode
from entrypoints.launch.model import NIC_VARIABLES
from entrypoints.placement.model import MemoryPolicy, Plan

#: The arm of the recipe that circulates: cores and memory node by a formula on the local rank, one HCA list for all ranks.
FORMULA = "formula"


@dataclass(frozen=True)
class Arm:
    """One setting: what is bound, variables on top, and a plan of its own where it does not follow EPBox's."""

    name: str
    bind: BindMode
    env: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    about: str = ""


def arms(job: Job) -> list[Arm]:
    """none, nic, nic+cpu, nic+cpu+mem, and the recipe of 2025 as a fifth."""
    found = [
        Arm("none", BindMode(False, False, False), about="nothing bound: the scheduler's choice of cores, the library's choice of NIC"),
        Arm("nic", BindMode(True, False, False), about="one HCA a rank, by the plan"),
        Arm("nic+cpu", BindMode(True, True, False), about="and the plan's cores"),
        Arm("nic+cpu+mem", BindMode(True, True, True), about="and memory from the plan's node: all of the plan"),
    ]
    rails = list(dict.fromkeys(f"{rank.hca}:{rank.port or 1}" for rank in job.plan.ranks if rank.hca))
    recipe = {}
    if rails and job.workload.placement == "deepep-v1":
        recipe = {"NVSHMEM_HCA_LIST": ",".join(rails), "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}
    shared = ", one HCA list for all ranks and NIC by PE" if recipe else ""
    about = f"cores and memory node by a formula on the local rank{shared}"
    return [*found, Arm(FORMULA, BindMode(False, True, True), recipe, formula_plan(job), about)]


def formula_plan(job: Job) -> Plan:
    """Rank r of n takes the r-th of n equal slices of the CPUs in number order, and the memory node r * nodes // n.

    On 96 CPUs and two nodes with eight ranks that is the Azure blog's `rank * 12` and `rank // 4` (2025-05-16). GPUs stay the plan's.
    """
    cpus = sorted(cpu.id for cpu in job.topology.cpus)
    nodes = sorted(node.id for node in job.topology.numa_nodes if node.cpus)
    count = len(job.plan.ranks)
    size = len(cpus) // count if count else 0
    ranks = []
    for place, rank in enumerate(job.plan.ranks):
        memory = MemoryPolicy("preferred", (nodes[place * len(nodes) // count],)) if nodes else MemoryPolicy()
        # Fewer CPUs than ranks: the formula has no answer, and its users would leave the rank unbound.
        ranks.append(replace(rank, cpus=tuple(cpus[place * size : (place + 1) * size]), memory=memory))
    return replace(job.plan, ranks=tuple(ranks))


def equal_arms(job: Job) -> dict[str, str]:
    """Arms that cannot differ from the one before on this host, and why: what they differ by is chance."""
    found = {}
    silent = _nic_is_idle(job)
    if silent:
        found["nic"] = f"{silent}, so nic equals none"
    if len(job.topology.numa_nodes) < 2:
        found["nic+cpu+mem"] = "one memory node here, so nic+cpu+mem equals nic+cpu"
    last = arms(job)[-1]
    if last.plan is not None and silent:
        pairs = list(zip(last.plan.ranks, job.plan.ranks, strict=True))
        if all(one.cpus == two.cpus and one.memory.nodes == two.memory.nodes for one, two in pairs):
            found[FORMULA] = f"the formula gives the plan's cores and memory node here, so {FORMULA} equals nic+cpu+mem"
    return found


def _nic_is_idle(job: Job) -> str:
    """Why no HCA carries data in this job, or ""."""
    if not any(rank.hca for rank in job.plan.ranks):
        return "no HCA here"
    if job.rendezvous.nodes == 1 and "--disable-nvlink" not in job.args.arguments:
        return "one node, whose ranks do not meet over an HCA"
    if job.prepared.workload == "alltoall" and not any(rank.gpu_index is not None for rank in job.plan.ranks):
        return "gloo goes over TCP"
    return ""


def kept_variables(environ: Mapping[str, str]) -> list[str]:
    """The user's own NIC variables: they stay in every arm, so that `none` is not without them."""
    return sorted(name for name in NIC_VARIABLES if environ.get(name))

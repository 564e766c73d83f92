"""The arms of a bench, in turns, so that drift of the host hits all alike: bindings (--ablate), or DeepEP and all-to-all (--baseline)."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from entrypoints.bench.launching import Arm, NodeRun, launch
from entrypoints.bench.setup import Job, make_request
from entrypoints.binding import BindMode
from entrypoints.errors import UsageError
from entrypoints.launch.model import NIC_VARIABLES
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session
from entrypoints.output import say
from entrypoints.placement.model import MemoryPolicy, Plan
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.results.comparison import HIGH_THROUGHPUT, TIMED
from entrypoints.workloads import get

#: The arm of the recipe that circulates: cores and memory node by a formula on the local rank, one HCA list for all ranks.
FORMULA = "formula"


def run(arms: Sequence[Arm], folder: Path, session: Session, stop: Stop) -> list[NodeRun]:
    """--runs rounds; each round goes through all arms, every second one backwards. The first failure ends it."""
    launches: list[NodeRun] = []
    args = arms[0].job.args
    # The user's own NIC variables stay in every arm, so `none` is not without them.
    for name in sorted(filter(os.environ.get, NIC_VARIABLES)) if args.ablate else ():
        say(f"epbox bench: {name} is set by you and stays in every arm, none included")
    for number in range(args.runs):
        logs = folder if args.runs == 1 and not args.ablate else folder / f"run-{number + 1}"
        for arm in arms if number % 2 == 0 else arms[::-1]:
            if args.runs > 1 or len(arms) > 1:
                say(f"epbox bench: run {number + 1} of {args.runs}{arm.name and f', arm {arm.name}'}")
            launches.append(launch(arm, logs / arm.name, session, stop))
            if launches[-1].record.exit_code:
                return launches
    return launches


def of_ablation(job: Job) -> list[Arm]:
    """none, nic, nic+cpu, nic+cpu+mem, and the recipe of 2025 as a fifth."""
    planned = [
        Arm("none", job, BindMode.parse("none"), about="nothing bound: the scheduler's choice of cores, the library's choice of NIC"),
        Arm("nic", job, BindMode.parse("nic"), about="one HCA a rank, by the plan"),
        Arm("nic+cpu", job, BindMode.parse("nic,cpu"), about="and the plan's cores"),
        Arm("nic+cpu+mem", job, BindMode.parse("all"), about="and memory from the plan's node: all of the plan"),
    ]
    rails = list(dict.fromkeys(f"{rank.hca}:{rank.port or 1}" for rank in job.plan.ranks if rank.hca))
    env = {}
    if rails and job.workload.placement == "deepep-v1":
        env = {"NVSHMEM_HCA_LIST": ",".join(rails), "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}
    shared = ", one HCA list for all ranks and NIC by PE" if env else ""
    about = f"cores and memory node by a formula on the local rank{shared}"
    return [*planned, Arm(FORMULA, replace(job, plan=formula_plan(job)), BindMode.parse("cpu,mem"), env, about)]


def formula_plan(job: Job) -> Plan:
    """Rank r of n takes the r-th of n equal slices of the CPUs in number order, and the memory node r * nodes // n.

    On 96 CPUs and two nodes with eight ranks that is the Azure blog's `rank * 12` and `rank // 4` (2025-05-16). GPUs stay the plan's.
    """
    cpus = sorted(cpu.id for cpu in job.topology.cpus)
    nodes = sorted(node.id for node in job.topology.numa_nodes if node.cpus)
    count = len(job.plan.ranks)
    size = len(cpus) // count if count else 0
    ranks = []
    for number, rank in enumerate(job.plan.ranks):
        memory = MemoryPolicy("preferred", (nodes[number * len(nodes) // count],)) if nodes else MemoryPolicy()
        # Fewer CPUs than ranks: the formula has no answer, and its users would leave the rank unbound.
        ranks.append(replace(rank, cpus=tuple(cpus[number * size : (number + 1) * size]), memory=memory))
    return replace(job.plan, ranks=tuple(ranks))


def equal_arms(job: Job) -> dict[str, str]:
    """Arms that cannot differ from the one before on this host, and why: what they differ by is chance."""
    reasons = {}
    idle = _nic_is_idle(job)
    if idle:
        reasons["nic"] = f"{idle}, so nic equals none"
    if len(job.topology.numa_nodes) < 2:
        reasons["nic+cpu+mem"] = "one memory node here, so nic+cpu+mem equals nic+cpu"
    pairs = zip(formula_plan(job).ranks, job.plan.ranks, strict=True)
    if idle and all(rank.cpus == planned.cpus and rank.memory.nodes == planned.memory.nodes for rank, planned in pairs):
        reasons[FORMULA] = f"the formula gives the plan's cores and memory node here, so {FORMULA} equals nic+cpu+mem"
    return reasons


def _nic_is_idle(job: Job) -> str:
    """The reason that no HCA carries data in this job, or ""."""
    if not any(rank.hca for rank in job.plan.ranks):
        return "no HCA here"
    if job.rendezvous.nodes == 1 and "--disable-nvlink" not in job.args.arguments:
        return "one node, whose ranks do not meet over an HCA"
    if job.prepared.workload == "alltoall" and not any(rank.gpu_index is not None for rank in job.plan.ranks):
        return "gloo goes over TCP"
    return ""


def check_baseline(job: Job) -> None:
    """Raise UsageError where a ratio would have no meaning."""
    if job.args.ablate:
        raise UsageError("--ablate compares bindings, --baseline libraries", where="--baseline", hint="run one after the other")
    if job.prepared.test == "alltoall":
        raise UsageError(
            "the workload is alltoall, which is the baseline itself", where="--baseline", hint="name a deepep-... workload, or leave it out"
        )
    if job.prepared.test not in (*HIGH_THROUGHPUT, *TIMED):
        raise UsageError(f"{job.prepared.workload} is not a dispatch and combine: nothing to set beside an all-to-all", where="--baseline")
    for word in job.args.arguments:
        name = re.fullmatch(r"--(num-tokens|hidden|num-topk|num-topk-groups|num-experts)(=.*)?", word)
        if name:
            raise UsageError(
                f"--{name[1]} after -- reaches DeepEP's test alone", where="--baseline", hint=f"give --{name[1]} before --, for both"
            )


def baseline_job(job: Job, environ: Mapping[str, str]) -> Job:
    """The all-to-all of this job's shape on this job's ranks. Raises UsageError where it cannot run."""
    check_baseline(job)
    shape = job.prepared.shape
    request = make_request(job.args, environ, job.rendezvous.nodes, job.plan, job.topology)
    request = replace(
        request,
        num_tokens=shape["num_tokens"],
        hidden=shape["hidden"],
        num_topk=shape["num_topk"],
        num_experts=shape["num_experts"],
        # Only the high-throughput tests limit a token to some nodes.
        num_topk_groups=shape.get("num_topk_groups") or request.nodes,
        extra=(),
    )
    workload = get("alltoall")
    plan = make_plan(job.topology, PlanOptions(ranks=len(job.plan.ranks), environ=environ, workload=workload.placement))
    return replace(job, plan=plan, workload=workload, prepared=workload.prepare(request), why=f"baseline of {job.prepared.workload}")

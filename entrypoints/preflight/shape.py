"""The job's shape and the user's own NVSHMEM variables: counts that the kernels know, one NIC per rank, names that exist."""

from entrypoints.errors import EPBoxError
from entrypoints.preflight.model import V1, Answer, Host, failed, not_run, passed, warned

#: Numbers of nodes for which DeepEP 1.2.1's internode kernels are compiled (csrc/kernels/launch.cuh:62-71).
V1_NODES = (2, 4, 8, 16, 18, 20)
#: Added before the last V1 commit, 567632d.
V1_LATE_NODES = (3, 6, 12)
LOCAL_RANKS = (2, 4, 8)
#: Misspelt variables that circulate, and what was meant.
MISSPELT = {"NVSHMEM_DISABLED_GDRCOPY": "NVSHMEM_DISABLE_GDRCOPY", "NVSHMEM_HCA_LISTS": "NVSHMEM_HCA_LIST"}


def ranks(host: Host) -> Answer:
    """The number of nodes and of GPUs per node is one that DeepEP's kernels are compiled for."""
    text = host.environ.get("WORLD_SIZE", "")
    nodes = host.nodes
    if nodes is None and text:
        return failed(f"WORLD_SIZE={text!r} is not a number of nodes", "WORLD_SIZE is the number of nodes for DeepEP's tests, not of ranks")
    gpus = len(host.topology.gpus)
    if not gpus:
        return not_run("no GPU: no local rank to count")
    shown = f"{nodes or 'unknown number of'} nodes x {gpus} GPUs"
    if host.workload != V1:
        if (nodes or 1) > 32:
            return failed(shown, "DeepEP V2's hybrid kernels serve at most 32 scale-out ranks")
        return passed(shown)
    if nodes is not None and nodes > 1:
        if gpus != 8:
            return failed(shown, "DeepEP V1's internode test asserts 8 GPUs on every node")
        if nodes not in (*V1_NODES, *V1_LATE_NODES):
            near = [count for count in V1_NODES if count < nodes]
            return failed(
                f"{shown}: no kernel for {nodes} nodes", f"run on {near[-1] if near else 2} nodes; known: {', '.join(map(str, V1_NODES))}"
            )
        if nodes in V1_LATE_NODES:
            return warned(
                f"{shown}: compiled in 567632d, not in v1.2.1", "build DeepEP at 567632d, and give --num-experts a multiple of all ranks"
            )
        if 256 % (nodes * 8):
            return warned(f"{shown}: 256 experts do not divide by {nodes * 8} ranks", f"--num-experts {nodes * 8 * 2}")
        return passed(shown)
    if gpus not in LOCAL_RANKS:
        return warned(shown, "the intranode test knows 2, 4 or 8 ranks; low latency runs with 1")
    return passed(shown)


def environment(host: Host) -> Answer:
    """The user's own NVSHMEM variables do what they look like."""
    own = {key: value for key, value in host.environ.items() if key.startswith(("NVSHMEM_", "DEEP_EP_", "NCCL_IB_")) and value}
    names = {hca.id for hca in host.topology.hcas}
    for wrong, right in MISSPELT.items():
        if wrong in own:
            return warned(f"{wrong} is not a variable of NVSHMEM", f"{right} was meant")
    listed = own.get("NVSHMEM_HCA_LIST", "")
    entries = [entry.strip().partition(":")[0] for entry in listed.lstrip("^=").split(",") if entry.strip()]
    if listed.startswith("="):
        return failed(f"NVSHMEM_HCA_LIST={listed}: `=` is NCCL's grammar", f"NVSHMEM_HCA_LIST={listed.lstrip('=')}")
    unknown = [entry for entry in entries if entry not in names]
    if unknown and names:
        return failed(
            f"NVSHMEM_HCA_LIST names {', '.join(unknown)}; here are {', '.join(sorted(names))}",
            "NVSHMEM only warns of unknown names, and goes on without them: correct the list",
        )
    mapping = own.get("NVSHMEM_ENABLE_NIC_PE_MAPPING", "0")[:1].lower() not in ("0", "n", "f")
    if host.workload == V1 and len(entries) > 1 and not listed.startswith("^") and mapping:
        remedy = "unset both: plan gives each rank a list of its own one NIC (or bind by exec)"
        return failed(
            f"NVSHMEM_HCA_LIST has {len(entries)} entries with NVSHMEM_ENABLE_NIC_PE_MAPPING=1: all ranks take the first (HT mode)",
            remedy,
        )
    if own.get("NVSHMEM_DISABLE_CUDA_VMM", "0")[:1].lower() not in ("0", "n", "f") and "NVSHMEM_SYMMETRIC_SIZE" not in own:
        return warned(
            "NVSHMEM_DISABLE_CUDA_VMM=1 with the default 1 GiB NVSHMEM_SYMMETRIC_SIZE",
            "NVSHMEM_SYMMETRIC_SIZE=4g: DeepEP's buffer takes 1 to 2 GB",
        )
    return passed(", ".join(f"{key}={value}" for key, value in sorted(own.items())) or "no NVSHMEM_* or NCCL_IB_* is preset")


def mapping(host: Host) -> Answer:
    """The plan gives each GPU an HCA of its own where there are enough."""
    from entrypoints.placement.plan import PlanOptions, make_plan

    if not host.topology.gpus or not host.topology.hcas:
        return not_run(f"{len(host.topology.gpus)} GPUs and {len(host.topology.hcas)} HCAs: nothing to map")
    try:
        plan = make_plan(host.topology, PlanOptions(ranks=len(host.topology.gpus), environ=dict(host.environ), workload=host.workload))
    except EPBoxError as error:
        return failed(str(error), "epbox plan tells more")
    used: dict[str, list[int]] = {}
    for rank in plan.ranks:
        if rank.hca:
            used.setdefault(f"{rank.hca}:{rank.port}", []).append(rank.local_rank)
    shown = ", ".join(f"{hca} <- {' '.join(map(str, locals_))}" for hca, locals_ in used.items())
    bare = [rank.local_rank for rank in plan.ranks if not rank.hca]
    if bare:
        return failed(f"no HCA for ranks {bare}; {shown}", "epbox plan shows why each HCA was left out")
    shared = [hca for hca, locals_ in used.items() if len(locals_) > 1]
    if shared and len(host.fabric()) >= len(plan.ranks):
        return failed(
            f"shared though there are {len(host.fabric())} fabric HCAs: {shown}",
            "see the exclusions of epbox plan, and DEEP_EP_DEVICE_TO_HCA_MAPPING if it is set",
        )
    if shared:
        return warned(
            f"{len(host.fabric())} fabric HCAs for {len(plan.ranks)} ranks: {shown}",
            "expected with fewer HCAs than GPUs; the HCAs' joint rate is the bound",
        )
    return passed(shown)

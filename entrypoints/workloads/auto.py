"""`auto`: the workload that this image, these GPUs and this number of nodes are for, and why."""

from entrypoints.errors import UsageError
from entrypoints.workloads.deepep import INTRANODE_RANKS, find_tree
from entrypoints.workloads.model import Request


def choose(request: Request) -> tuple[str, str]:
    """(workload, reason). Never fails: alltoall runs everywhere."""
    if not request.gpus:
        return "alltoall", "no GPU is visible: all-to-all on gloo"
    try:
        tree = find_tree(request)
    except UsageError:
        return "alltoall", f"{request.gpus} GPU(s) but no DeepEP tree in this image: the NCCL baseline"
    if tree.v2:
        return "deepep-elastic", f"{tree.path} is DeepEP V2"
    if request.nodes > 1 and request.ranks == 8:
        return "deepep-internode", f"{tree.path} is DeepEP V1, {request.nodes} nodes of 8 GPUs"
    if request.nodes > 1:
        return "deepep-low-latency", f"{request.nodes} nodes of {request.ranks} GPUs: the high-throughput test takes exactly 8 a node"
    if request.ranks in INTRANODE_RANKS:
        return "deepep-intranode", f"{tree.path} is DeepEP V1, one node of {request.ranks} GPUs"
    return "deepep-low-latency", f"one node of {request.ranks} GPU(s): the intranode test takes 2, 4 or 8"

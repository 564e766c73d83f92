"""`auto`: the workload that this image, these GPUs and this number of nodes are for, and why."""

from entrypoints.errors import UsageError
from entrypoints.workloads.deepep import INTRANODE_RANKS, Tree, find_tree
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
    if request.nodes > 1:
        return _between(request, tree)
    if request.ranks in INTRANODE_RANKS:
        return "deepep-intranode", f"{tree.path} is DeepEP V1, one node of {request.ranks} GPUs"
    if request.ranks <= 8:
        return "deepep-low-latency", f"one node of {request.ranks} GPU(s): the intranode test takes 2, 4 or 8"
    return "alltoall", f"one node of {request.ranks} ranks: DeepEP V1's tests take up to 8 a node"


def _between(request: Request, tree: Tree) -> tuple[str, str]:
    """Between nodes: the high-throughput test where its kernels exist, else low latency, else the baseline."""
    place = f"{request.nodes} nodes of {request.ranks} GPUs"
    if request.ranks == 8 and request.nodes in tree.ht_nodes:
        return "deepep-internode", f"{tree.path} is DeepEP V1, {place}"
    missing = f"has no kernels for {request.nodes} nodes" if request.ranks == 8 else "takes exactly 8 GPUs a node"
    if request.world <= 8 or request.world % 8 == 0:
        return "deepep-low-latency", f"{place}: the high-throughput test {missing}"
    return "alltoall", f"{place}: the high-throughput test {missing}, and the low-latency one takes up to 8 ranks or multiples of 8"

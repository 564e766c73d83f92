"""The workloads that bench can run: `get(name)` gives the workload, `names()` lists them, `choose(request)` is `auto`."""

from typing import NamedTuple

from entrypoints.errors import UsageError
from entrypoints.workloads.alltoall import AllToAll
from entrypoints.workloads.deepep import INTRANODE_RANKS, WORKLOADS, find_tree
from entrypoints.workloads.model import Prepared, Request, Workload

__all__ = ["Choice", "Prepared", "Request", "Workload", "choose", "get", "names"]

_BY_NAME: dict[str, Workload] = {workload.name: workload for workload in (AllToAll(), *WORKLOADS)}


class Choice(NamedTuple):
    """A workload by name, and the reason for it."""

    workload: str
    reason: str


def names() -> tuple[str, ...]:
    """The names that --workload takes beside auto."""
    return tuple(_BY_NAME)


def get(name: str) -> Workload:
    """The workload of that name. Raises UsageError with the names there are."""
    if name not in _BY_NAME:
        raise UsageError(f"no workload {name!r}", where="--workload", hint=f"one of auto, {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def choose(request: Request) -> Choice:
    """The workload that this image, these GPUs and this number of nodes are for. Never fails: alltoall runs everywhere."""
    if not request.gpus:
        return Choice("alltoall", "no GPU is visible: all-to-all on gloo")
    try:
        tree = find_tree(request)
    except UsageError:
        return Choice("alltoall", f"{request.gpus} GPU(s) but no DeepEP tree in this image: the NCCL baseline")
    if tree.v2:
        return Choice("deepep-elastic", f"{tree.path} is DeepEP V2")
    if request.nodes == 1:
        if request.ranks in INTRANODE_RANKS:
            return Choice("deepep-intranode", f"{tree.path} is DeepEP V1, one node of {request.ranks} GPUs")
        if request.ranks <= 8:
            return Choice("deepep-low-latency", f"one node of {request.ranks} GPU(s): the intranode test takes 2, 4 or 8")
        return Choice("alltoall", f"one node of {request.ranks} ranks: DeepEP V1's tests take up to 8 a node")
    # Between nodes: the high-throughput test where its kernels exist, else low latency, else the baseline.
    layout = f"{request.nodes} nodes of {request.ranks} GPUs"
    if request.ranks == 8 and request.nodes in tree.ht_nodes:
        return Choice("deepep-internode", f"{tree.path} is DeepEP V1, {layout}")
    missing = f"has no kernels for {request.nodes} nodes" if request.ranks == 8 else "takes exactly 8 GPUs a node"
    reason = f"{layout}: the high-throughput test {missing}"
    if request.world <= 8 or request.world % 8 == 0:
        return Choice("deepep-low-latency", reason)
    return Choice("alltoall", f"{reason}, and the low-latency one takes up to 8 ranks or multiples of 8")

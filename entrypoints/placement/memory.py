"""Which memory node each rank prefers: the one of its CPUs, never device memory, never outside Mems_allowed."""

from entrypoints.placement.cpus import CpuShare, nearest
from entrypoints.placement.model import MemoryPolicy
from entrypoints.topology.model import NumaNode, Topology


def memory_nodes(topology: Topology) -> list[NumaNode]:
    """Nodes on which host memory may be preferred.

    Grace and POWER9 show GPU memory as CPU-less nodes; preferring one would put host pages into HBM. CXL and other
    CPU-less memory is left to an explicit policy of the user for the same reason: it is slower than any socket's own.
    """
    allowed = set(topology.allowed.mems)
    usable = [n for n in topology.numa_nodes if not n.gpu_memory and n.memory_bytes != 0 and (not allowed or n.id in allowed)]
    with_cpus = [node for node in usable if node.cpus]
    return with_cpus or usable


def policy_for(topology: Topology, share: CpuShare) -> tuple[MemoryPolicy, str]:
    """PREFERRED on the share's node (nearest by SLIT if that has no usable memory), else the kernel's default; and why.

    PREFERRED and not BIND, because pinned staging buffers may exceed one node and BIND would kill the rank instead of
    spilling (set_mempolicy(2)).
    """
    if share.node is None:
        return MemoryPolicy(), "memory by first touch"
    nodes = memory_nodes(topology)
    if not nodes:
        return MemoryPolicy(), "memory by first touch"
    ids = [node.id for node in nodes]
    if share.node in ids:
        return MemoryPolicy("preferred", (share.node,)), f"memory preferred on node {share.node}"
    node = nearest(topology, share.node, ids)
    return MemoryPolicy("preferred", (node,)), f"memory preferred on node {node} (node {share.node} has none to use)"

"""How other tools choose an HCA or cores, as rules on the same topology; written from reading them, for `plan --compare`.

Sources: NVSHMEM 3.4 src/host/topo/topo.cpp and src/host/transport/transport.cpp; NCCL src/graph/topo.cc
(ncclTopoGetLocal, ncclTopoGetLocalNet); PyTorch torch/numa/binding.py; Azure's DeepEP article of May 2025.
"""

from collections.abc import Sequence

from entrypoints.placement.cpus import allowed_cpus, node_cpus
from entrypoints.placement.devices import active_ports, foreign_driver, is_active, rate
from entrypoints.placement.distance import Levels, bus_key, hca_order
from entrypoints.topology.model import Gpu, Hca, Topology

#: NVSHMEM orders pairs by level, but re-balances by this class: PIX and PXB are equally good to it.
NVSHMEM_CLASS = {"PIX": 4, "PXB": 4, "PHB": 3, "NODE": 2, "SYS": 1}
NVSHMEM_ORDER = ("PIX", "PXB", "PHB", "NODE", "SYS")


def nvshmem_devices(topology: Topology) -> list[Hca]:
    """Devices that NVSHMEM's IBGDA keeps without any variable set, in enumeration order."""
    kept = []
    for hca in sorted(topology.hcas, key=hca_order):
        up = not hca.ports or any(is_active(port) is not False for port in hca.ports)
        if up and "mlx5" in (hca.name or "mlx5") and not foreign_driver(hca) and hca.atomics is not False and hca.openable is not False:
            kept.append(hca)
    return kept


def nvshmem_levels(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca], levels: Levels) -> dict[tuple[int, str], str]:
    """What NVSHMEM's comparison of sysfs paths yields. Unknown counts as SYS.

    On Hyper-V each device has a PCI domain of its own below one long VMBUS path, whose components NVSHMEM counts as shared
    switches: all pairs look alike (PXB).
    """
    domains = {bus_key(gpu.pci)[:1] for gpu in topology.gpus if gpu.pci}
    own_domains = len(topology.gpus) > 1 and len(domains) == len(topology.gpus)
    flat = own_domains and not domains & {bus_key(hca.pci)[:1] for hca in hcas if hca.pci}
    return {(g.index, h.label): "PXB" if flat else levels.get((g.index, h.label)) or "SYS" for g in gpus for h in hcas}


def nvshmem(topology: Topology, gpus: Sequence[Gpu], levels: Levels, *, low_latency: bool) -> list[Hca | None]:
    """NVSHMEM's choice by distance for each rank: in HT mode each rank is alone in its world, in LL mode all share one."""
    hcas = nvshmem_devices(topology)
    if not hcas:
        return [None] * len(gpus)
    seen = nvshmem_levels(topology, gpus, hcas, levels)
    if low_latency:
        return [hcas[device] for device in _by_distance(gpus, hcas, seen)]
    return [hcas[_by_distance([gpu], hcas, seen)[0]] for gpu in gpus]


def _by_distance(gpus: Sequence[Gpu], hcas: Sequence[Hca], levels: dict[tuple[int, str], str]) -> list[int]:
    """First device of each PE: nearest in enumeration order, then moved off devices that are two or more users fuller."""
    per_pe = max(1, len(hcas) // len(gpus))
    ordered: list[list[int]] = []
    for gpu in gpus:
        mine = [levels[gpu.index, hca.label] for hca in hcas]
        ordered.append(sorted(range(len(hcas)), key=lambda device: NVSHMEM_ORDER.index(mine[device])))
    quality = [[NVSHMEM_CLASS[levels[gpu.index, hca.label]] for hca in hcas] for gpu in gpus]
    used = [0] * len(hcas)
    chosen: list[list[int]] = []
    for pe, devices in enumerate(ordered):
        best = quality[pe][devices[0]]
        chosen.append([device for device in devices if quality[pe][device] == best][:per_pe])
        for device in chosen[pe]:
            used[device] += 1
    for pe, mine_now in enumerate(chosen):
        for place, current in enumerate(mine_now):
            density = used[current]
            for device in ordered[pe]:
                if density < 2 or quality[pe][device] < quality[pe][current]:
                    break
                if density - used[device] >= 2:
                    used[mine_now[place]] -= 1
                    used[device] += 1
                    density = used[device]
                    mine_now[place] = device
    return [mine_now[0] for mine_now in chosen]


def listed_on_every_rank(rails: Sequence[Hca], ranks: int, *, low_latency: bool) -> list[Hca | None]:
    """One list with NVSHMEM_ENABLE_NIC_PE_MAPPING=1 on all ranks: device (PE within its node's world) modulo devices.

    In HT mode each rank is PE 0 of its own world, so all take index 0 (DeepEP #336).
    """
    return [rails[rank % len(rails) if low_latency else 0] if rails else None for rank in range(ranks)]


def nccl(topology: Topology, gpus: Sequence[Gpu], levels: Levels) -> list[Hca | None]:
    """The NIC on which NCCL's first channel starts: highest bandwidth, then nearest; among these by device number.

    The number is taken modulo the GPUs that are nearest to the first such NIC, and its bits are mirrored when the NICs are
    a power of two. A link between sockets is taken as no slower than a NIC.
    """
    nets = [hca for hca in sorted(topology.hcas, key=hca_order) if active_ports(hca) or not hca.ports]
    if not nets:
        return [None] * len(gpus)
    top = max(rate(hca) or 0.0 for hca in nets)
    fast = [hca for hca in nets if (rate(hca) or 0.0) == top]
    chosen: list[Hca | None] = []
    for gpu in gpus:
        local = _nearest(fast, [_nccl_level(levels, gpu, hca) for hca in fast])
        sharing = _nccl_sharing(topology, levels, local[0])
        start = gpu.index % sharing
        if len(local) & (len(local) - 1) == 0:
            start = _mirror_bits(start, len(local))
        chosen.append(local[start % len(local)])
    return chosen


def _nccl_sharing(topology: Topology, levels: Levels, hca: Hca) -> int:
    """GPUs that are nearest to this NIC."""
    distances = [_nccl_level(levels, gpu, hca) for gpu in topology.gpus]
    return distances.count(min(distances))


def _nccl_level(levels: Levels, gpu: Gpu, hca: Hca) -> int:
    """NCCL has no NODE: within a NUMA node all that crosses a host bridge is PHB."""
    return {"PIX": 0, "PXB": 1, "PHB": 2, "NODE": 2}.get(levels.get((gpu.index, hca.label)) or "SYS", 3)


def _nearest(hcas: Sequence[Hca], distances: Sequence[int]) -> list[Hca]:
    least = min(distances)
    return [hca for hca, distance in zip(hcas, distances, strict=True) if distance == least]


def _mirror_bits(value: int, power: int) -> int:
    """The low bits of `value` in reverse, for a count that is a power of two: neighbours get NICs far apart."""
    mirrored = 0
    bit = 1
    while bit < power:
        mirrored = mirrored << 1 | bool(value & bit)
        bit <<= 1
    return mirrored


def twelve_cores_by_rank(rank: int) -> tuple[int, ...]:
    """The article's cores: twelve from 12 · rank, right on the 96-core VM that it was written on."""
    return tuple(range(12 * rank, 12 * rank + 12))


def torchrun_node(topology: Topology, gpu: Gpu) -> tuple[int, ...]:
    """torchrun --numa-binding=node: all allowed CPUs of the GPU's node for every rank there; an unknown node counts as 0."""
    return node_cpus(topology, allowed_cpus(topology)).get(max(gpu.numa_node or 0, 0), ())

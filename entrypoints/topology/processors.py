"""CPUs, cores, packages, L3 groups and NUMA nodes from /sys/devices/system."""

import os
import re
from collections.abc import Collection

from entrypoints.topology.model import Cpu, NumaNode, Processor
from entrypoints.topology.tree import Tree, read_text
from entrypoints.topology.values import ids_of_list, ids_of_mask, integer

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"


def online_cpus(tree: Tree) -> tuple[int, ...]:
    """Ids of the CPUs that are online; by their own `online` files where the kernel gives no list."""
    online = ids_of_list(read_text(tree, f"{CPU}/online"))
    if online:
        return online
    found = (int(name[3:]) for name in tree.names(CPU) if re.fullmatch(r"cpu\d{1,5}", name))
    return tuple(sorted(cpu for cpu in found if read_text(tree, f"{CPU}/cpu{cpu}/online") != "0"))


def read_cpus(tree: Tree, usable: Collection[int]) -> tuple[Cpu, ...]:
    """The usable CPUs with core, package, L3 group and SMT siblings. Each shared list is read once a group."""
    wanted = sorted(usable)
    keep = set(wanted)
    package: dict[int, int | None] = {}
    cores: dict[int, int | None] = {}
    siblings: dict[int, tuple[int, ...]] = {}
    one_core_a_thread: bool | None = None
    for cpu in wanted:
        folder = f"{CPU}/cpu{cpu}/topology"
        if cpu not in package:
            package[cpu] = integer(read_text(tree, f"{folder}/physical_package_id"))
            for other in _shared(tree, folder, "core_siblings", "package_cpus"):
                package.setdefault(other, package[cpu])
        if cpu in siblings:
            continue
        cores[cpu] = integer(read_text(tree, f"{folder}/core_id"))
        group = tuple(i for i in _shared(tree, folder, "thread_siblings", "core_cpus") if i in keep) or (cpu,)
        if cpu not in group:
            group = (cpu,)
        if len(group) > 1 and one_core_a_thread is None:
            # AMD family 15h lists a compute unit as siblings although each thread is a core of its own id.
            second = integer(read_text(tree, f"{CPU}/cpu{group[group[0] == cpu]}/topology/core_id"))
            one_core_a_thread = second is not None and second != cores[cpu]
        if one_core_a_thread:
            group = (cpu,)
        for other in group:
            if other not in siblings:
                siblings[other] = group
                cores[other] = cores[cpu]
    level3 = _l3_groups(tree, wanted)
    return tuple(Cpu(cpu, cores[cpu], package.get(cpu), level3.get(cpu), siblings[cpu]) for cpu in wanted)


def _shared(tree: Tree, folder: str, *names: str) -> tuple[int, ...]:
    """The CPUs that share something with one CPU, by list or mask, by any of the kernel's names for it."""
    for name in names:
        ids = ids_of_list(read_text(tree, f"{folder}/{name}_list"))
        if ids:
            return ids
    for name in names:
        ids = ids_of_mask(read_text(tree, f"{folder}/{name}"))
        if ids:
            return ids
    return ()


def _l3_groups(tree: Tree, cpus: list[int]) -> dict[int, int]:
    """CPU -> number of its L3, counted in CPU order. index3 is not always the L3: the level file decides."""
    groups: dict[int, int] = {}
    count = 0
    likely: str | None = None
    for cpu in cpus:
        if cpu in groups:
            continue
        folder = f"{CPU}/cpu{cpu}/cache"
        names = [name for name in tree.names(folder) if name.startswith("index")]
        if likely in names:
            names.sort(key=lambda name: name != likely)
        for name in names:
            if read_text(tree, f"{folder}/{name}/level") != "3":
                continue
            likely = name
            shared = _shared(tree, f"{folder}/{name}", "shared_cpu") or _map(tree, f"{folder}/{name}/shared_cpu_map")
            for other in {*shared, cpu}:
                groups.setdefault(other, count)
            count += 1
            break
    return groups


def _map(tree: Tree, path: str) -> tuple[int, ...]:
    return ids_of_mask(read_text(tree, path)) or ()


def online_nodes(tree: Tree) -> tuple[int, ...]:
    """Ids of the online NUMA nodes; () on a kernel without NUMA."""
    present = sorted(int(name[4:]) for name in tree.names(NODE) if re.fullmatch(r"node\d{1,5}", name))
    online = ids_of_list(read_text(tree, f"{NODE}/online"))
    return tuple(node for node in present if online is None or node in online)


def read_nodes(tree: Tree, usable: Collection[int], gpu_nodes: Collection[int], nvidia: bool) -> tuple[NumaNode, ...]:
    """All online NUMA nodes with their usable CPUs, memory in bytes and SLIT distances.

    A kernel without NUMA gives node 0 with everything. `gpu_nodes` are those whose memory the driver calls a GPU's own.
    """
    nodes = online_nodes(tree)
    keep = set(usable)
    if not nodes:
        return (NumaNode(0, tuple(sorted(keep)), _kilobytes(read_text(tree, "proc/meminfo"), "MemTotal"), {0: 10}),)
    initiators = set(ids_of_list(read_text(tree, f"{NODE}/has_generic_initiator")) or ())
    found = []
    for node in nodes:
        folder = f"{NODE}/node{node}"
        cpus = ids_of_list(read_text(tree, f"{folder}/cpulist"))
        if cpus is None:
            cpus = ids_of_mask(read_text(tree, f"{folder}/cpumap")) or ()
        row = (read_text(tree, f"{folder}/distance") or "").split()
        # The row is in the order of the online nodes, not by id.
        distances = {other: int(text) for other, text in zip(nodes, row, strict=False) if text.isdecimal() and len(text) < 6}
        memory = _kilobytes(read_text(tree, f"{folder}/meminfo"), "MemTotal")
        # Grace firmware announces its GPUs as generic initiators of their memory nodes (ACPI SRAT).
        of_gpu = not cpus and (node in gpu_nodes or (nvidia and node in initiators))
        found.append(NumaNode(node, tuple(cpu for cpu in cpus if cpu in keep), memory, distances, of_gpu))
    return tuple(found)


def read_processor(tree: Tree) -> Processor:
    """The kind of CPU by proc/cpuinfo; a dump's architecture is told by which fields there are."""
    # The first few CPUs say it all, and on a large host the kernel writes megabytes here.
    text = (tree.read_bytes("proc/cpuinfo", 4096) or b"").decode("utf-8", "replace")
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    arch: str | None = None
    if tree.live:
        arch = os.uname().machine
    elif "vendor_id" in values and "cpu family" in values:
        arch = "x86_64"
    elif "CPU implementer" in values:
        arch = "aarch64"
    elif values.get("cpu", "").startswith("POWER"):
        arch = "ppc64le"
    return Processor(arch, values.get("vendor_id"), integer(values.get("cpu family")), integer(values.get("model")))


def _kilobytes(text: str | None, key: str) -> int | None:
    """A meminfo value in bytes."""
    match = re.search(rf"\b{key}:\s*(\d{{1,15}})\s*kB", text or "")
    return int(match[1]) * 1024 if match else None

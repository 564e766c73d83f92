"""CPUs, cores, packages, L3 groups and NUMA nodes from /sys/devices/system, and which of them a process may use."""

import os
import re
from collections.abc import Collection, Iterable, Mapping

from entrypoints.topology.model import Allowed, Cpu, NumaNode, Processor
from entrypoints.topology.tree import Tree
from entrypoints.topology.values import ids_in, ids_of_list, integer

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"


def online_cpus(tree: Tree) -> tuple[int, ...]:
    """Ids of the CPUs that are online; by their own `online` files where the kernel gives no list."""
    online = ids_of_list(tree.text(f"{CPU}/online"))
    if online:
        return online
    present = (int(name[3:]) for name in tree.names(CPU) if re.fullmatch(r"cpu\d{1,5}", name))
    return tuple(sorted(cpu for cpu in present if tree.text(f"{CPU}/cpu{cpu}/online") != "0"))


def read_cpus(tree: Tree, usable: Collection[int]) -> tuple[Cpu, ...]:
    """The usable CPUs with core, package, L3 group and SMT siblings."""
    cores = {cpu: integer(tree.text(f"{CPU}/cpu{cpu}/topology/core_id")) for cpu in sorted(usable)}
    packages = {cpu: integer(tree.text(f"{CPU}/cpu{cpu}/topology/physical_package_id")) for cpu in cores}
    level3 = _l3_groups(tree, cores)
    return tuple(Cpu(cpu, core, packages[cpu], level3.get(cpu), _siblings(tree, cpu, cores)) for cpu, core in cores.items())


def _siblings(tree: Tree, cpu: int, cores: Mapping[int, int | None]) -> tuple[int, ...]:
    """The usable CPUs of one core, the given one included.

    AMD family 15h lists a compute unit as siblings although each thread is a core with an id of its own.
    """
    # The kernel calls the same set thread_siblings and, since 5.3, core_cpus.
    files = [f"{CPU}/cpu{cpu}/topology/{name}" for name in ("thread_siblings", "core_cpus")]
    listed = ids_in(tree, f"{files[0]}_list", files[0]) or ids_in(tree, f"{files[1]}_list", files[1]) or ()
    return tuple(sorted({cpu, *(other for other in listed if other in cores and cores[other] == cores[cpu])}))


def _l3_groups(tree: Tree, cpus: Iterable[int]) -> dict[int, int]:
    """CPU -> number of its L3, counted in CPU order. index3 is not always the L3: the level file decides."""
    groups: dict[int, int] = {}
    for cpu in cpus:
        if cpu in groups:
            continue
        folder = f"{CPU}/cpu{cpu}/cache"
        caches = [f"{folder}/{name}" for name in tree.names(folder) if name.startswith("index")]
        cache = next((cache for cache in caches if tree.text(f"{cache}/level") == "3"), None)
        if cache is not None:
            number = len(set(groups.values()))
            for other in (cpu, *(ids_in(tree, f"{cache}/shared_cpu_list", f"{cache}/shared_cpu_map") or ())):
                groups.setdefault(other, number)
    return groups


def online_nodes(tree: Tree) -> tuple[int, ...]:
    """Ids of the online NUMA nodes; () on a kernel without NUMA."""
    present = sorted(int(name[4:]) for name in tree.names(NODE) if re.fullmatch(r"node\d{1,5}", name))
    online = ids_of_list(tree.text(f"{NODE}/online"))
    return tuple(node for node in present if online is None or node in online)


def read_nodes(tree: Tree, usable: Collection[int], gpu_nodes: Collection[int], nvidia: bool) -> tuple[NumaNode, ...]:
    """All online NUMA nodes with their usable CPUs, memory in bytes and SLIT distances.

    A kernel without NUMA gives node 0 with everything. `gpu_nodes` are those whose memory the driver calls a GPU's own.
    """
    nodes = online_nodes(tree)
    keep = set(usable)
    if not nodes:
        return (NumaNode(0, tuple(sorted(keep)), _kilobytes(tree.text("proc/meminfo"), "MemTotal"), {0: 10}),)
    initiators = set(ids_of_list(tree.text(f"{NODE}/has_generic_initiator")) or ())
    read = []
    for node in nodes:
        folder = f"{NODE}/node{node}"
        cpus = ids_in(tree, f"{folder}/cpulist", f"{folder}/cpumap") or ()
        row = (tree.text(f"{folder}/distance") or "").split()
        # The row is in the order of the online nodes, not by id.
        distances = {other: int(text) for other, text in zip(nodes, row, strict=False) if text.isdecimal() and len(text) < 6}
        memory = _kilobytes(tree.text(f"{folder}/meminfo"), "MemTotal")
        # Grace firmware announces its GPUs as generic initiators of their memory nodes (ACPI SRAT).
        of_gpu = not cpus and (node in gpu_nodes or (nvidia and node in initiators))
        read.append(NumaNode(node, tuple(cpu for cpu in cpus if cpu in keep), memory, distances, of_gpu))
    return tuple(read)


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


def read_allowed(tree: Tree, cpus: Collection[int], nodes: Collection[int]) -> Allowed:
    """The allowed part of the online CPUs and nodes.

    Live: sched_getaffinity(2) and Mems_allowed_list. A dump: its proc/self/status, else its cpuset
    files (cgroup v2, v1 with and without prefix, old cpuset mounts), else everything.
    """
    status = tree.text("proc/self/status") or ""
    cpu_ids = _status(status, "Cpus_allowed_list")
    mem_ids = _status(status, "Mems_allowed_list")
    if tree.live:
        cpu_ids = tuple(os.sched_getaffinity(0))
    elif cpu_ids is None or mem_ids is None:
        from_cpus, from_mems = cgroup_cpuset(tree)
        cpu_ids = from_cpus if cpu_ids is None else cpu_ids
        mem_ids = from_mems if mem_ids is None else mem_ids
    return Allowed(_restrict(cpus, cpu_ids), _restrict(nodes, mem_ids))


def _restrict(online: Collection[int], allowed: tuple[int, ...] | None) -> tuple[int, ...]:
    both = sorted(set(online).intersection(allowed or ()))
    # An empty or foreign set restricts nothing: no process runs without a CPU and a memory node.
    return tuple(both or sorted(online))


def _status(text: str, key: str) -> tuple[int, ...] | None:
    match = re.search(rf"^{key}:\s*(\S+)$", text, re.MULTILINE)
    return ids_of_list(match[1]) if match else None


def cgroup_cpuset(tree: Tree) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """CPUs and memory nodes of the dumped process's cpuset; None where there is no such file.

    The mount is found in proc/mounts and the group in proc/self/cpuset or proc/self/cgroup (cpuset(7), cgroups(7)).
    A cgroup v2 group without the controller has what its nearest ancestor with it has.
    """
    mount, style = _cpuset_mount(tree.text("proc/mounts") or "")
    group = _group(tree, style)
    if mount is None or group is None:
        return None, None
    before, behind = {"v2": ("cpuset.", ".effective"), "v1": ("cpuset.", ""), "cpuset": ("", "")}[style]
    while True:
        cpus, mems = (ids_of_list(tree.text(f"{mount}{group}/{before}{kind}{behind}")) for kind in ("cpus", "mems"))
        if cpus or mems or not group or style != "v2":
            return cpus or None, mems or None
        group = group.rpartition("/")[0]


def _cpuset_mount(mounts: str) -> tuple[str | None, str]:
    """The mount point of the cpuset hierarchy, relative to the root, and its file naming; v1 is preferred to v2."""
    unified: str | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        _, mount, kind, options = fields[:4]
        mount = mount.strip("/").replace("\\040", " ")
        if kind == "cpuset":
            return mount, "cpuset"
        if kind == "cgroup" and "cpuset" in options.split(","):
            return mount, "cpuset" if "noprefix" in options.split(",") else "v1"
        if kind == "cgroup2" and unified is None:
            unified = mount
    return unified, "v2"


def _group(tree: Tree, style: str) -> str | None:
    """The path of the process's group below the mount, "" for the root group."""
    text = tree.text("proc/self/cpuset")
    if not text:
        wanted = r"^0::(/.*)$" if style == "v2" else r"^\d+:(?:[^:]*,)?cpuset(?:,[^:]*)?:(/.*)$"
        match = re.search(wanted, tree.text("proc/self/cgroup") or "", re.MULTILINE)
        text = match[1] if match else None
    return None if text is None else text.splitlines()[0].rstrip("/")

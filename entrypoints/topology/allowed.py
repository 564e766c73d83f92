"""What a process may use: affinity and Mems_allowed live, the cgroup's cpuset in a dump."""

import os
import re
from collections.abc import Collection

from entrypoints.topology.model import Allowed
from entrypoints.topology.tree import Tree, read_text
from entrypoints.topology.values import ids_of_list


def read_allowed(tree: Tree, cpus: Collection[int], nodes: Collection[int]) -> Allowed:
    """The allowed part of the online CPUs and nodes.

    Live: sched_getaffinity(2) and Mems_allowed_list. A dump: its proc/self/status, else its cpuset
    files (cgroup v2, v1 with and without prefix, old cpuset mounts), else everything.
    """
    status = read_text(tree, "proc/self/status") or ""
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
    mount, style = _cpuset_mount(read_text(tree, "proc/mounts") or "")
    if mount is None:
        return None, None
    group = _group(tree, style)
    if group is None:
        return None, None
    if style == "v2":
        while True:
            found = tuple(ids_of_list(read_text(tree, f"{mount}{group}/cpuset.{kind}.effective")) for kind in ("cpus", "mems"))
            if any(found) or not group:
                return found[0] or None, found[1] or None
            group = group.rpartition("/")[0]
    prefix = "cpuset." if style == "v1" else ""
    cpus, mems = (ids_of_list(read_text(tree, f"{mount}{group}/{prefix}{kind}")) for kind in ("cpus", "mems"))
    return cpus or None, mems or None


def _cpuset_mount(mounts: str) -> tuple[str | None, str]:
    """The mount point of the cpuset hierarchy, relative to the root, and its file naming; v1 is preferred to v2."""
    unified: str | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        _, where, kind, options = fields[:4]
        where = where.strip("/").replace("\\040", " ")
        if kind == "cpuset":
            return where, "cpuset"
        if kind == "cgroup" and "cpuset" in options.split(","):
            return where, "cpuset" if "noprefix" in options.split(",") else "v1"
        if kind == "cgroup2" and unified is None:
            unified = where
    return unified, "v2"


def _group(tree: Tree, style: str) -> str | None:
    """The path of the process's group below the mount, "" for the root group."""
    text = read_text(tree, "proc/self/cpuset")
    if not text:
        wanted = r"^0::(/.*)$" if style == "v2" else r"^\d+:(?:[^:]*,)?cpuset(?:,[^:]*)?:(/.*)$"
        match = re.search(wanted, read_text(tree, "proc/self/cgroup") or "", re.MULTILINE)
        text = match[1] if match else None
    return None if text is None else text.splitlines()[0].rstrip("/")

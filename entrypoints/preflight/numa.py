"""CPUs and memory: does the cpuset contain what a plan needs, and does the kernel leave memory where it was put."""

import re

from entrypoints.cpulist import format_list
from entrypoints.preflight.model import Answer, Host, not_run, passed, warned


def affinity(host: Host) -> Answer:
    """Each GPU's and HCA's NUMA node is known and has CPUs in this process's cpuset."""
    topology = host.topology
    nodes = {node.id: node for node in topology.numa_nodes}
    if not nodes:
        return not_run("no NUMA node in the topology")
    allowed = set(topology.allowed.cpus)
    if not allowed:
        return not_run("the CPUs that this process may use are unknown")
    shown = f"{len(allowed)} CPUs ({format_list(allowed)}) on {len(nodes)} NUMA node{'s' if len(nodes) > 1 else ''}"
    with_cpus = [node for node in nodes.values() if node.cpus and not node.gpu_memory]
    if len(with_cpus) <= 1 and len(nodes) == 1:
        return passed(f"{shown}: nothing to choose")
    devices = [(f"GPU{gpu.index}", gpu.numa_node) for gpu in topology.gpus] + [(hca.id, hca.numa_node) for hca, _ in host.fabric()]
    unknown = [name for name, node in devices if node is None]
    bare = [
        f"{name} (node {node})" for name, node in devices if node is not None and not (node in nodes and set(nodes[node].cpus) & allowed)
    ]
    forbidden = [
        f"{name} (node {node})"
        for name, node in devices
        if node is not None and topology.allowed.mems and node not in topology.allowed.mems
    ]
    if bare:
        return warned(
            f"{shown}; no allowed CPU near {', '.join(bare)}",
            "widen the cpuset: drop --cpuset-cpus; Kubernetes: topology manager none or best-effort for whole-node pods",
        )
    if forbidden:
        return warned(f"{shown}; memory node not allowed for {', '.join(forbidden)}", "widen --cpuset-mems (cgroup cpuset.mems)")
    if unknown:
        return warned(
            f"{shown}; NUMA node unknown (numa_node -1) of {', '.join(unknown)}",
            "the hypervisor hides it: give an NCCL topology file with --topology, plan then pairs by bus id",
        )
    return passed(f"{shown}; every GPU and HCA has CPUs of its node")


def pairs(host: Host) -> Answer:
    """For each GPU there is a fabric HCA on its own NUMA node."""
    fabric = [hca for hca, _ in host.fabric()]
    if not host.topology.gpus or not fabric:
        return not_run(f"{len(host.topology.gpus)} GPUs and {len(fabric)} fabric HCAs: nothing to pair")
    near = {hca.numa_node for hca in fabric}
    if None in near or any(gpu.numa_node is None for gpu in host.topology.gpus):
        if len(host.topology.numa_nodes) == 1:
            return passed("one NUMA node")
        return not_run("numa_node is unknown (-1) for some device", "give an NCCL topology file with --topology")
    far = [f"GPU{gpu.index} (node {gpu.numa_node})" for gpu in host.topology.gpus if gpu.numa_node not in near]
    if far:
        return warned(
            f"no fabric HCA on the node of {', '.join(far)}",
            "these GPUs cross the socket link to reach the fabric; check that all HCAs are passed into the container",
        )
    return passed(f"{len(host.topology.gpus)} GPUs each have a fabric HCA on their node")


def balancing(host: Host) -> Answer:
    """Automatic NUMA balancing migrates pages and unmaps them to sample: jitter for bound ranks."""
    if len(host.topology.numa_nodes) == 1:
        return passed("one NUMA node")
    value = host.files.text("proc/sys/kernel/numa_balancing")
    if value == "0":
        return passed("kernel.numa_balancing=0")
    if not value.isdecimal():
        return not_run(f"kernel.numa_balancing reads {value[:20]!r}")
    return warned(f"kernel.numa_balancing={value}", "sysctl -w kernel.numa_balancing=0 on the host")


def hugepages(host: Host) -> Answer:
    """Transparent huge pages are available to host buffers (always or madvise)."""
    text = host.files.text("sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text)
    if not chosen:
        return not_run(f"transparent_hugepage/enabled reads {text[:40]!r}")
    reserved = host.files.number("proc/sys/vm/nr_hugepages")
    shown = f"transparent huge pages: {chosen[1]}; reserved: {'unknown' if reserved is None else reserved}"
    if chosen[1] == "never":
        return warned(shown, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled on the host")
    return passed(shown)


def governor(host: Host) -> Answer:
    """The CPU frequency governor; powersave of acpi-cpufreq pins the lowest clock. Absent in most virtual machines."""
    found: dict[str, int] = {}
    drivers: set[str] = set()
    for cpu in host.topology.cpus[:512]:
        base = f"sys/devices/system/cpu/cpu{cpu.id}/cpufreq"
        name = host.files.maybe(f"{base}/scaling_governor")
        if name:
            found[name] = found.get(name, 0) + 1
            drivers.add(host.files.maybe(f"{base}/scaling_driver") or "unknown")
    if not found:
        return not_run("no cpufreq: the hypervisor or firmware sets the clock")
    shown = ", ".join(f"{name} on {count} CPUs" for name, count in found.items()) + f" ({'/'.join(sorted(drivers))})"
    # intel_pstate's and amd-pstate's "powersave" still scales up by load (kernel doc admin-guide/pm/intel_pstate).
    if "performance" in found and len(found) == 1:
        return passed(shown)
    return warned(shown, "cpupower frequency-set -g performance on the host")

"""CPUs and memory: does the cpuset contain what a plan needs, and does the kernel leave memory where it was put."""

import re
from collections import Counter

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
    evidence = f"{len(allowed)} CPUs ({format_list(allowed)}) on {len(nodes)} NUMA node{'s' if len(nodes) > 1 else ''}"
    if len(nodes) == 1:
        return passed(f"{evidence}: nothing to choose")
    devices = [(f"GPU{gpu.index}", gpu.numa_node) for gpu in topology.gpus] + [(hca.id, hca.numa_node) for hca, _ in host.fabric()]
    unknown = [name for name, node in devices if node is None]
    located = [(f"{name} (node {node})", node) for name, node in devices if node is not None]
    bare = [device for device, node in located if node not in nodes or not set(nodes[node].cpus) & allowed]
    forbidden = [device for device, node in located if topology.allowed.mems and node not in topology.allowed.mems]
    if bare:
        remedy = "widen the cpuset: drop --cpuset-cpus; Kubernetes: topology manager none or best-effort for whole-node pods"
        return warned(f"{evidence}; no allowed CPU near {', '.join(bare)}", remedy)
    if forbidden:
        return warned(f"{evidence}; memory node not allowed for {', '.join(forbidden)}", "widen --cpuset-mems (cgroup cpuset.mems)")
    if unknown:
        remedy = "the hypervisor hides it: give an NCCL topology file with --topology, plan then pairs by bus id"
        return warned(f"{evidence}; NUMA node unknown (numa_node -1) of {', '.join(unknown)}", remedy)
    return passed(f"{evidence}; every GPU and HCA has CPUs of its node")


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
        remedy = "these GPUs cross the socket link to reach the fabric; check that all HCAs are passed into the container"
        return warned(f"no fabric HCA on the node of {', '.join(far)}", remedy)
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
    evidence = f"transparent huge pages: {chosen[1]}; reserved: {'unknown' if reserved is None else reserved}"
    if chosen[1] == "never":
        return warned(evidence, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled on the host")
    return passed(evidence)


def governor(host: Host) -> Answer:
    """The CPU frequency governor; powersave of acpi-cpufreq pins the lowest clock. Absent in most virtual machines."""
    folders = [f"sys/devices/system/cpu/cpu{cpu.id}/cpufreq" for cpu in host.topology.cpus[:512]]
    governors = {folder: name for folder in folders if (name := host.files.maybe(f"{folder}/scaling_governor"))}
    if not governors:
        return not_run("no cpufreq: the hypervisor or firmware sets the clock")
    drivers = {host.files.maybe(f"{folder}/scaling_driver") or "unknown" for folder in governors}
    counts = Counter(governors.values())
    evidence = ", ".join(f"{name} on {count} CPUs" for name, count in counts.items()) + f" ({'/'.join(sorted(drivers))})"
    # intel_pstate's and amd-pstate's "powersave" still scales up by load (kernel doc admin-guide/pm/intel_pstate).
    if set(counts) == {"performance"}:
        return passed(evidence)
    return warned(evidence, "cpupower frequency-set -g performance on the host")

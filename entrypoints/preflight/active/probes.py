"""The probes of a host, their order, and how long each may take."""

import json
from collections.abc import Mapping, Sequence

from entrypoints.placement.environment import roce_gid
from entrypoints.preflight.active import cuda, loader, loopback, verbs
from entrypoints.preflight.active.child import Outcome, Record, run_module
from entrypoints.preflight.libraries import STEMS, copies, file_version
from entrypoints.preflight.model import V1, Answer, Host, Library, not_run
from entrypoints.results.model import Check
from entrypoints.topology.model import Port

#: What each HCA is asked to register: far above Docker's default limit of 64 KiB to 8 MiB.
REGISTER_BYTES = 64 << 20
#: Longest time of each probe.
BOUNDS_S = {"verbs": 15.0, "loopback": 15.0, "cuda": 60.0, "import": 90.0, "dlopen": 15.0}
#: Id, title and source of each, in the order of the report.
PROBES = (
    ("hca.open", "HCAs open", "ibv_open_device(3), ibv_query_device(3)"),
    ("hca.atomics", "HCA atomics by libibverbs", "ibv_query_device(3) atomic_cap; NVSHMEM transport_mlx5_common.cpp:73-140"),
    ("hca.memlock", "memory registers", "ibv_reg_mr(3); sglang#12533"),
    ("hca.mtu", "active verbs MTU", "ibv_query_port(3)"),
    ("hca.loopback", "RDMA loopback", "ibv_rc_pingpong(1), perftest; DeepEP#137"),
    ("gpu.dmabuf", "DMA-BUF by CUDA", "cuDeviceGetAttribute 124; NVSHMEM transport_ib_common.cpp:24-36"),
    ("gpu.peers", "GPU peer access by CUDA", "cuDeviceCanAccessPeer; DeepEP#584, #216"),
    ("gpu.copy", "host copies", "cuMemcpyHtoDAsync, pinned, 64 MiB, best of 5"),
    ("lib.identity", "libraries after import", "/proc/self/maps; NeMo Automodel#2614, sglang#12949, DeepEP#710"),
    ("lib.transport", "IBGDA transport loads", "NVSHMEM dlopen of its transports"),
)


def run_probes(host: Host, least_s: float = 0.0) -> tuple[list[Check], dict[str, Library]]:
    """All probes that the workload needs, and NCCL and NVSHMEM as they were loaded; alltoall needs the CPU alone, and has none.

    Each has a bound of its own; on a slow or emulated host a probe is no hang before `least_s` seconds.
    """
    if not host.deepep:
        return [], {}
    bounds_s = {name: max(bound, least_s) for name, bound in BOUNDS_S.items()}
    answers = {**_verbs(host, bounds_s["verbs"]), "hca.loopback": _loopback(host, bounds_s["loopback"]), **_cuda(host, bounds_s["cuda"])}
    imported = run_module("loader", ("import", "torch", "deep_ep"), timeout_s=bounds_s["import"])
    record = imported.records[-1] if imported.records else {}
    paths = {part: record.get("libraries", {}).get(stem.partition(".")[0], ()) for part, stem in STEMS.items()}
    versions = {path: file_version(host, part, path) for part in paths for path in paths[part]}
    answers["lib.identity"] = imported.broken("import torch, deep_ep") or loader.identity({**record, "versions": versions})
    if host.workload == V1:
        answers["lib.transport"] = _transport(copies(host, "nvshmem_transport_ibgda.so"), bounds_s["dlopen"])
    results = [answers[id].result(f"probe.{id}", title, source) for id, title, source in PROBES if id in answers]
    return results, {part: Library(versions[files[0]], f"{files[0]} is loaded") for part, files in paths.items() if files}


def _verbs(host: Host, bound_s: float) -> dict[str, Answer]:
    names = [hca.name for hca, _ in host.fabric() if hca.name] or [hca.name for hca in host.topology.hcas if hca.name]
    outcome = Outcome(({"unavailable": "no HCA"},))
    if names:
        outcome = run_module("verbs", (str(REGISTER_BYTES), *names), timeout_s=bound_s)
    devices, broken = [record for record in outcome.records if "device" in record], outcome.broken("libibverbs")
    judges = {"hca.open": verbs.opening, "hca.atomics": verbs.atomics, "hca.memlock": verbs.registration, "hca.mtu": verbs.mtu}
    return {id: broken or judge(devices) for id, judge in judges.items()}


def _loopback(host: Host, bound_s: float) -> Answer:
    tool = loopback.tool_name()
    if tool is None:
        return not_run("neither perftest nor ibverbs-utils is installed", "apt-get install ibverbs-utils perftest")
    devices = [(hca.id, port.number, gid_index(host.environ, port)) for hca, port in host.fabric()]
    return loopback.reached(loopback.loops(tool, devices, bound_s))


def gid_index(environ: Mapping[str, str], port: Port) -> int | None:
    """The GID index a rank would use: the user's, else the one that plan picks; None on InfiniBand."""
    if port.link_layer != "Ethernet":
        return None
    wanted = environ.get("NVSHMEM_IB_GID_INDEX", "")
    if wanted.isascii() and wanted.isdecimal():
        return int(wanted)
    gid = roce_gid(port)
    return gid.index if gid else 0


def _cuda(host: Host, bound_s: float) -> dict[str, Answer]:
    outcome = run_module("cuda", (json.dumps(near_and_far(host)),), timeout_s=bound_s, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    gpus, broken = [record for record in outcome.records if "index" in record], outcome.broken("the CUDA driver")
    judges = {"gpu.dmabuf": cuda.dma_buf, "gpu.peers": cuda.peers, "gpu.copy": cuda.copies}
    return {id: broken or judge(gpus) for id, judge in judges.items()}


def near_and_far(host: Host) -> list[Record]:
    """For each GPU the allowed CPUs of its own node and of the most distant node that has any."""
    allowed = set(host.topology.allowed.cpus)
    cpus = {node.id: sorted(set(node.cpus) & allowed) for node in host.topology.numa_nodes}
    distances = {node.id: node.distances for node in host.topology.numa_nodes}
    sets: list[Record] = []
    for gpu in host.topology.gpus:
        if gpu.pci is not None and gpu.numa_node in distances:
            others = [(distances[gpu.numa_node].get(node, 0), node) for node in cpus if node != gpu.numa_node and cpus[node]]
            sets.append({"pci": gpu.pci, "near": cpus[gpu.numa_node], "far": cpus[max(others)[1]] if others else []})
    return sets


def _transport(files: Sequence[str], bound_s: float) -> Answer:
    if not files:
        return not_run("no nvshmem_transport_ibgda.so is installed")
    records: list[Record] = []
    for file in files:
        outcome = run_module("loader", ("dlopen", file), timeout_s=bound_s)
        if broken := outcome.broken(file):
            return broken
        records += outcome.records
    return loader.transport(records)

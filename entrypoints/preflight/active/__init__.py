"""Active probes of the running host (`doctor --probe`): each in a process of its own, each bounded in time."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from entrypoints.preflight.active import judge, loopback
from entrypoints.preflight.active.child import Outcome, run_module
from entrypoints.preflight.model import V1, Answer, CheckResult, Host, not_run
from entrypoints.preflight.network import ipv4_gids

#: What each HCA is asked to register: far above Docker's default limit of 64 KiB to 8 MiB.
REGISTER_BYTES = 64 << 20
VERBS_S, LOOP_S, CUDA_S, IMPORT_S, DLOPEN_S = 15.0, 15.0, 60.0, 90.0, 15.0

Records = Sequence[dict[str, Any]]


def run_probes(host: Host, least_s: float = 0.0) -> list[CheckResult]:
    """All probes that the workload needs; alltoall needs the CPU alone, and has none.

    Each has a bound of its own; on a slow or emulated host a probe is no hang before `least_s` seconds.
    """
    if not host.deepep:
        return []
    return [*_verbs(host, least_s), _loopback(host, least_s), *_cuda(host, least_s), *_libraries(host, least_s)]


def _result(id: str, title: str, answer: Answer, source: str) -> CheckResult:
    return CheckResult(f"probe.{id}", title, answer.status, answer.evidence, answer.remedy, source)


def _verbs(host: Host, least_s: float) -> list[CheckResult]:
    names = [hca.name for hca, _ in host.fabric() if hca.name] or [hca.name for hca in host.topology.hcas if hca.name]
    nothing = Outcome(({"unavailable": "no HCA"},))
    outcome = run_module("verbs", (str(REGISTER_BYTES), *names), timeout_s=max(VERBS_S, least_s)) if names else nothing
    devices = [record for record in outcome.records if "device" in record]
    questions: tuple[tuple[str, str, Callable[[Records], Answer], str], ...] = (
        ("hca.open", "HCAs open", judge.opening, "ibv_open_device(3), ibv_query_device(3)"),
        (
            "hca.atomics",
            "HCA atomics by libibverbs",
            judge.atomics,
            "ibv_query_device(3) atomic_cap; NVSHMEM transport_mlx5_common.cpp:73-140",
        ),
        ("hca.memlock", "memory registers", judge.registration, "ibv_reg_mr(3); sglang#12533"),
        ("hca.mtu", "active verbs MTU", judge.mtu, "ibv_query_port(3)"),
    )
    stop = judge.broken(outcome, "libibverbs")
    return [_result(id, title, stop or question(devices), source) for id, title, question, source in questions]


def _loopback(host: Host, least_s: float) -> CheckResult:
    tool = loopback.tool_name()
    if tool is None:
        answer = not_run("neither perftest nor ibverbs-utils is installed", "apt-get install ibverbs-utils perftest")
    else:
        devices = [(hca.id, port.number, _gid(host, hca.id)) for hca, port in host.fabric()]
        answer = judge.loopback(loopback.loops(tool, devices, max(LOOP_S, least_s)))
    return _result("hca.loopback", "RDMA loopback", answer, "ibv_rc_pingpong(1), perftest; DeepEP#137")


def _gid(host: Host, name: str) -> int | None:
    """The GID index a rank would use: the user's, else the first RoCE v2 IPv4 one, none on InfiniBand."""
    for hca, port in host.fabric():
        if hca.id == name and port.link_layer == "Ethernet":
            wanted = host.environ.get("NVSHMEM_IB_GID_INDEX", "")
            if wanted.isascii() and wanted.isdecimal():
                return int(wanted)
            return next(iter(ipv4_gids(port)), 0)
    return None


def _cuda(host: Host, least_s: float) -> list[CheckResult]:
    bound_s = max(CUDA_S, least_s)
    outcome = run_module("cuda", (json.dumps(near_and_far(host)),), timeout_s=bound_s, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    gpus = [record for record in outcome.records if "index" in record]
    questions: tuple[tuple[str, str, Callable[[Records], Answer], str], ...] = (
        ("gpu.dmabuf", "DMA-BUF by CUDA", judge.dma_buf, "cuDeviceGetAttribute 124; NVSHMEM transport_ib_common.cpp:24-36"),
        ("gpu.peers", "GPU peer access by CUDA", judge.peers, "cuDeviceCanAccessPeer; DeepEP#584, #216"),
        ("gpu.copy", "host copies", judge.copies, "cuMemcpyHtoDAsync, pinned, 64 MiB, best of 5"),
    )
    stop = judge.broken(outcome, "the CUDA driver")
    return [_result(id, title, stop or question(gpus), source) for id, title, question, source in questions]


def near_and_far(host: Host) -> list[dict[str, Any]]:
    """For each GPU the allowed CPUs of its own node and of the most distant node that has any."""
    allowed = set(host.topology.allowed.cpus)
    nodes = {node.id: (node, sorted(set(node.cpus) & allowed)) for node in host.topology.numa_nodes}
    answer: list[dict[str, Any]] = []
    for gpu in host.topology.gpus:
        if gpu.pci is None or gpu.numa_node not in nodes:
            continue
        node, near = nodes[gpu.numa_node]
        others = [(node.distances.get(id, 0), id) for id, (_, cpus) in nodes.items() if id != gpu.numa_node and cpus]
        answer.append({"pci": gpu.pci, "near": near, "far": nodes[max(others)[1]][1] if others else []})
    return answer


def _libraries(host: Host, least_s: float) -> list[CheckResult]:
    from entrypoints.preflight.libraries import copies

    outcome = run_module("loader", ("import", "torch", "deep_ep"), timeout_s=max(IMPORT_S, least_s))
    answer = judge.broken(outcome, "import torch, deep_ep") or judge.identity(outcome.records[-1])
    results = [_result("lib.identity", "libraries after import", answer, "/proc/self/maps; NeMo Automodel#2614, sglang#12949, DeepEP#710")]
    if host.workload == V1:
        results.append(
            _result(
                "lib.transport",
                "IBGDA transport loads",
                _transport(copies(host, "nvshmem_transport_ibgda.so"), max(DLOPEN_S, least_s)),
                "NVSHMEM dlopen of its transports",
            )
        )
    return results


def _transport(files: Sequence[str], bound_s: float) -> Answer:
    if not files:
        return not_run("no nvshmem_transport_ibgda.so is installed")
    records: list[dict[str, Any]] = []
    for file in files:
        outcome = run_module("loader", ("dlopen", file), timeout_s=bound_s)
        if stop := judge.broken(outcome, file):
            return stop
        records += outcome.records
    return judge.transport(records)

"""Every check (what it is called, who needs it, where its rule comes from), and how a workload's run in a bounded time."""

import re
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from entrypoints.errors import UsageError
from entrypoints.preflight import container, gpu, hca, job, libraries, numa
from entrypoints.preflight.files import Files, NotReadable, files_of
from entrypoints.preflight.live import Probes
from entrypoints.preflight.model import ALLTOALL, DEEPEP, EVERY, V1, V2, Answer, Host, Rule, failed, not_run
from entrypoints.results.model import Check
from entrypoints.topology.model import Topology

T = TypeVar("T")

#: All checks together, in seconds.
TOTAL_S = 3.0
#: Reading the topology takes tenths of a second; whoever does not answer within this hangs.
TOPOLOGY_S = 10.0

ONLY_V1, ONLY_V2 = frozenset({V1}), frozenset({V2})

CHECKS: tuple[Rule, ...] = (
    Rule("host.name", "host name", EVERY, job.hostname, "NVSHMEM src/host/util/util.cpp:41-51: a node is its gethostname()"),
    Rule("net.master", "rendezvous address", EVERY, job.master, "DeepEP tests/utils.py:14-36; DeepEP#150, #237"),
    Rule("net.interfaces", "socket interfaces", EVERY, job.interfaces, "NCCL_SOCKET_IFNAME, NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME; DeepEP#150"),
    Rule("container.runtime", "container flags", EVERY, container.runtime, "DeepEP#486, docs/host-setup.md"),
    Rule("container.memlock", "locked memory", DEEPEP, container.memlock, "ibv_reg_mr(3); sglang#12533"),
    Rule("container.nofile", "open files", EVERY, container.open_files, "getrlimit(2) RLIMIT_NOFILE"),
    Rule("container.shm", "shared memory", EVERY, container.shared_memory, "DeepEP#584; NCCL troubleshooting, shared memory"),
    Rule("container.namespaces", "IPC and PID namespaces", DEEPEP, container.namespaces, "cudaIpcOpenMemHandle; include/linux/proc_ns.h"),
    Rule("container.mempolicy", "memory policy calls", EVERY, container.mempolicy, "moby profiles/seccomp/default.json, set_mempolicy"),
    Rule("container.quota", "CPU quota", EVERY, container.cpu_quota, "Linux Documentation/scheduler/sched-bwc.rst"),
    Rule("numa.affinity", "CPUs near the devices", EVERY, numa.affinity, "sysfs numa_node, Mems_allowed; vllm#43270"),
    Rule("numa.pairs", "GPU and HCA on one node", DEEPEP, numa.pairs, "sysfs numa_node"),
    Rule("numa.balancing", "automatic NUMA balancing", EVERY, numa.balancing, "Linux Documentation/admin-guide/sysctl/kernel.rst"),
    Rule("memory.hugepages", "huge pages", EVERY, numa.hugepages, "Linux Documentation/admin-guide/mm/transhuge.rst"),
    Rule("cpu.governor", "CPU frequency", EVERY, numa.governor, "Linux Documentation/admin-guide/pm/cpufreq.rst"),
    Rule("hca.devices", "HCAs usable here", EVERY, hca.devices, "ibv_open_device(3); DeepEP#60, #38; miles#300"),
    Rule("hca.driver", "HCA driver", DEEPEP, hca.driver, "DeepEP#759, #369"),
    Rule("hca.names", "HCA names", ONLY_V1, hca.names, "NVSHMEM ibgda.cpp NVSHMEM_HCA_PREFIX; DeepEP#386"),
    Rule("hca.ports", "HCA ports", DEEPEP, hca.ports, "sysfs ports/N/state, rate; DeepEP#38"),
    Rule("hca.width", "port width", DEEPEP, hca.port_width, "sysfs ports/N/rate"),
    Rule("hca.atomics", "HCA atomics", ONLY_V1, hca.atomics, "NVSHMEM transport_mlx5_common.cpp:73-140"),
    Rule("hca.counters", "port errors so far", DEEPEP, hca.counters, "sysfs ports/N/counters, hw_counters"),
    Rule("rail.firmware", "firmware equal over rails", DEEPEP, hca.rail_firmware, "sysfs fw_ver, board_id"),
    Rule("rail.mtu", "MTU equal over rails", DEEPEP, hca.rail_mtu, "IBTA path MTU; sysfs net/*/mtu"),
    Rule("rail.gid", "RoCE GIDs", DEEPEP, hca.roce_gid, "NVSHMEM_IB_GID_INDEX; multus-cni#1100, nvshmem#33"),
    Rule("pci.links", "PCIe links", DEEPEP, hca.links, "sysfs current_link_width, max_link_width"),
    Rule("pci.acs", "ACS", DEEPEP, hca.acs, "PCIe 5.0 7.7.11; NCCL troubleshooting, ACS"),
    Rule("pci.iommu", "IOMMU", DEEPEP, hca.iommu, "sysfs kernel/iommu_groups/*/type"),
    Rule("gpu.devices", "GPUs usable here", EVERY, gpu.devices, "nvidia-container-toolkit; /dev/nvidiactl"),
    Rule("gpu.cuda", "driver serves CUDA", DEEPEP, gpu.driver_for_cuda, "CUDA Compatibility guide"),
    Rule("gpu.peermem", "GPUDirect RDMA", DEEPEP, gpu.peermem, "NVSHMEM transport_ib_common.cpp:24-36; sglang#6017"),
    Rule("gpu.regkeys", "driver registry keys", ONLY_V1, gpu.regkeys, "DeepEP third-party/README.md:40-51; DeepEP#55, #484, nvshmem#23"),
    Rule("gpu.handler", "NIC handler", ONLY_V1, gpu.handler, "NVSHMEM ibgda.cpp:4664-4679; DeepEP#509, #677, #397"),
    Rule("gpu.profiling", "profiling rights", DEEPEP, gpu.profiling, "awsome-distributed-ai#1241"),
    Rule("gpu.gdrdrv", "gdrdrv", DEEPEP, gpu.gdrdrv, "awsome-distributed-ai#1241"),
    Rule("gpu.peers", "GPU peer access", DEEPEP, gpu.peers, "NVML P2P status; DeepEP#584, #216"),
    Rule("gpu.nvlink", "NVLinks", DEEPEP, gpu.nvlink, "NVML NvLinkState"),
    Rule("gpu.health", "GPU memory errors", DEEPEP, gpu.health, "NVML ECC, retired pages, remapped rows"),
    Rule("gpu.throttling", "GPU slowdown", DEEPEP, gpu.throttling, "NVML clock event reasons"),
    Rule("gpu.clocks", "GPU clocks and persistence", DEEPEP, gpu.clocks, "NVML clocks, persistence mode"),
    Rule("lib.lock", "packages as locked", EVERY, libraries.locked, "/opt/epbox/sbom.spdx.json of the image; DeepEP#710"),
    Rule("lib.identity", "one NVSHMEM, one NCCL", DEEPEP, libraries.identity, "NeMo Automodel#2614, sglang#12949, DeepEP#710"),
    Rule("lib.transports", "NVSHMEM transports", ONLY_V1, libraries.transports, "nvshmem_transport_ibgda NEEDED list"),
    Rule("lib.nvshmem", "NVSHMEM fits DeepEP", DEEPEP, libraries.nvshmem_pairing, "entrypoints/facts/pairs.toml; DeepEP#696, #564, #764"),
    Rule("lib.nccl", "NCCL for V2", ONLY_V2, libraries.nccl_version, "entrypoints/facts/pairs.toml; DeepEP#710"),
    Rule("lib.versions", "other versions fit", DEEPEP, libraries.other_pairs, "entrypoints/facts/pairs.toml"),
    Rule("lib.ibstat", "ibstat for V2", ONLY_V2, libraries.ibstat, "DeepEP deep_ep/utils/envs.py:222-268"),
    Rule("lib.jit", "JIT for V2", ONLY_V2, libraries.jit, "DeepEP README; EP_JIT_CACHE_DIR"),
    Rule("shape.ranks", "nodes and ranks", DEEPEP, job.ranks, "DeepEP csrc/kernels/launch.cuh:54-71"),
    Rule("shape.environment", "preset variables", DEEPEP, job.environment, "DeepEP#336, #466; nebius/ml-cookbook#43"),
    Rule("shape.mapping", "one HCA a rank", DEEPEP, job.mapping, "DeepEP#336, #466"),
)


def relevant(workload: str) -> tuple[Rule, ...]:
    """The checks that a workload needs, in the order of the table."""
    return tuple(check for check in CHECKS if workload in check.workloads)


def workload_of(name: str) -> str:
    """The family whose checks apply: "deepep_v1" is deepep-v1, and so is bench's deepep-internode. Raises UsageError."""
    from entrypoints import workloads

    word = name.strip().lower().replace("_", "-")
    for family in (V1, V2, ALLTOALL):
        if word == family or word.startswith(family + "-"):
            return family
    if word in workloads.names():
        return workloads.get(word).placement
    hint = f"one of auto, {', '.join(sorted(EVERY))}, or a workload of bench ({', '.join(workloads.names())})"
    raise UsageError(f"unknown workload {name!r}", where="--for", hint=hint)


def default_workload(files: Files, environ: Mapping[str, str]) -> str:
    """EPBOX_WORKLOAD, else the workload of the image's recipe (/opt/epbox/recipe.toml), else deepep-v1."""
    if environ.get("EPBOX_WORKLOAD"):
        return environ["EPBOX_WORKLOAD"]
    # One top-level key: not worth a TOML parser, which Python 3.10 does not have.
    match = re.search(r'^workload\s*=\s*"([^"\n]+)"', files.maybe("opt/epbox/recipe.toml") or "", re.MULTILINE)
    return match[1] if match else V1


def make_host(
    workload: str, topology: Topology, files: Files, environ: Mapping[str, str], *, nodes: int | None = None, log: str | None = None
) -> Host:
    """A Host as these files and this environment show it; WORLD_SIZE gives the number of nodes when the caller does not."""
    text = environ.get("WORLD_SIZE", "")
    if nodes is None and text.isascii() and text.isdecimal() and len(text) < 7:
        nodes = int(text)
    live = Probes() if files.live else None
    return Host(files, environ, topology, live, workload_of(workload), nodes, log, _site(files, environ))


def _site(files: Files, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Folders of Python packages in the order of import: PYTHONPATH's, this interpreter's, then every usual one below the root."""
    folders = [folder for folder in environ.get("PYTHONPATH", "").split(":") if folder.startswith("/")]
    folders += [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]] if files.live else []
    for base in ("usr/local/lib", "usr/lib", "opt/venv/lib", "opt/epbox/venv/lib"):
        for name in files.maybe_names(base):
            if re.fullmatch(r"python3(\.\d+)?", name):
                folders += [f"{base}/{name}/{kind}" for kind in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys(folder.strip("/") for folder in folders if folder.strip("/")))


def run_checks(workload: str, topology: Topology, environ: Mapping[str, str]) -> list[Check]:
    """All checks of the running host that `workload` needs, each PASS, WARN, FAIL or NOT_RUN."""
    host = make_host(workload, topology, files_of(None), environ)
    return run_on(host, relevant(host.workload))


def run_on(host: Host, checks: Sequence[Rule], total_s: float | None = None) -> list[Check]:
    """The given checks on one host, in order; never an exception of a check, never longer than `total_s` (TOTAL_S), half of it for one."""
    total_s = TOTAL_S if total_s is None else total_s
    end = time.monotonic() + total_s
    results: list[Check] = []
    for check in checks:
        left = min(total_s / 2, end - time.monotonic())
        answer = _bounded(check, host, left) if left > 0 else not_run(f"the {total_s:g} s of one doctor run were used up")
        results.append(answer.result(check.id, check.title, check.source))
    return results


def load_topology(source: str | None) -> tuple[Topology, Check | None]:
    """The topology, or an empty one and a FAIL when the live host's drivers do not answer in time."""
    from entrypoints.topology import load

    try:
        return _within(None if source else TOPOLOGY_S, "topology", lambda: load(source)), None
    except TimeoutError:
        evidence = f"no answer from sysfs, NVML or libibverbs within {TOPOLOGY_S:g} s"
        remedy = "a driver hangs: dmesg for Xid and mlx5_core errors, then reset the device or reboot"
        return Topology("live"), failed(evidence, remedy).result("host.topology", "devices answer", "docs/doctor.md")


def _bounded(check: Rule, host: Host, seconds: float) -> Answer:
    """What one check answers, NOT_RUN in place of an error of its own."""
    try:
        return _within(seconds, check.id, lambda: check.run(host))
    except NotReadable as error:
        return not_run(str(error))
    except TimeoutError:
        return not_run(f"no answer within {seconds:.1f} s")
    except Exception as error:
        # A defect of a check must not hide the other checks; it is shown, and never a PASS.
        evidence = f"the check itself broke: {type(error).__name__}: {error}"
        return not_run(evidence, "please report this with the output of epbox snapshot")


def _within(seconds: float | None, name: str, work: Callable[[], T]) -> T:
    """The result of `work` in a thread of its own: a read that blocks in the kernel is left behind, not waited for.

    Raises TimeoutError, and whatever `work` raises.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except FutureTimeoutError:  # another class than TimeoutError before Python 3.11
        raise TimeoutError from None

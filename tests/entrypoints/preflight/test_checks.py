"""Every check against a host that passes it and hosts that do not; the table is complete by a test of its own."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from entrypoints.placement.environment import roce_gid as placed_gid
from entrypoints.preflight import libraries
from entrypoints.preflight.live import GpuReport, GpuState
from entrypoints.preflight.model import ALLTOALL, V1, V2, Library
from entrypoints.preflight.run import CHECKS
from tests.helpers.fake_host import SITE, FakeHost, limits, params, pcie_config, status

Break = Callable[[FakeHost], object]
RUNS_AS = {check.id: V1 if V1 in check.workloads else sorted(check.workloads)[-1] for check in CHECKS}
UNPRIVILEGED = 0xA80425FB
V121, LAST_V1 = "9af0e0d0e74f3577af1979c9b9e1ac2cad0104ee", "567632dd59810d77b3cc05553df953cc0f779799"


def port(index: int) -> str:
    return f"sys/class/infiniband/mlx5_{index}/ports/1"


def gpu(index: int, **changes: object) -> Break:
    def change(host: FakeHost) -> None:
        assert host.probes.report is not None
        gpus = tuple(replace(state, **changes) if state.index == index else state for state in host.probes.report.gpus)  # type: ignore[arg-type]
        host.probes.report = replace(host.probes.report, gpus=gpus)

    return change


def every_gpu(**changes: object) -> Break:
    def change(host: FakeHost) -> None:
        assert host.probes.report is not None
        host.probes.report = replace(host.probes.report, gpus=tuple(replace(state, **changes) for state in host.probes.report.gpus))  # type: ignore[arg-type]

    return change


def env(**values: str) -> Break:
    return lambda host: host.environ.update(values)


def write(name: str, text: str | bytes) -> Break:
    return lambda host: host.write(name, text)


def remove(*names: str) -> Break:
    def change(host: FakeHost) -> None:
        for name in names:
            host.remove(name)

    return change


def job(nodes: int, **values: str) -> Break:
    def change(host: FakeHost) -> None:
        host.nodes = nodes
        host.environ.update(values)

    return change


def several(*changes: Break) -> Break:
    return lambda host: [change(host) for change in changes]


def docker(*changes: Break) -> Break:
    return several(write(".dockerenv", ""), *changes)


def workload(name: str) -> Break:
    return lambda host: setattr(host, "workload", name)


def rename(old: str, new: str) -> Break:
    return lambda host: host.change_hcas(
        lambda hca: replace(hca, name=(hca.name or "").replace(old, new), label=hca.label.replace(old, new))
    )


def set_hcas(**changes: object) -> Break:
    return lambda host: host.change_hcas(lambda hca: replace(hca, **changes))  # type: ignore[arg-type]


def drop_hcas(keep: int) -> Break:
    return lambda host: setattr(host, "edit", lambda topology: replace(topology, hcas=topology.hcas[:keep]))


def drop_gpus(keep: int) -> Break:
    return lambda host: setattr(host, "edit", lambda topology: replace(topology, gpus=topology.gpus[:keep]))


def gpus_without_node(host: FakeHost) -> None:
    host.edit = lambda topology: replace(topology, gpus=tuple(replace(gpu, numa_node=None) for gpu in topology.gpus))


def hca_field(index: int, **changes: object) -> Break:
    return lambda host: host.change_hcas(lambda hca: replace(hca, **changes) if hca.name == f"mlx5_{index}" else hca)  # type: ignore[arg-type]


def roce(**options: object) -> Break:
    return lambda host: host.make_roce(**options)  # type: ignore[arg-type]


def sysfs_of(kind: str, name: str, text: str | bytes, index: int = 0) -> Break:
    """Write an attribute of a GPU, HCA or bridge of one rail."""
    bus = 0x10 * (index + 1)
    pci = {"gpu": f"0000:{bus + 2:02x}:00.0", "hca": f"0000:{bus + 2:02x}:01.0", "bridge": f"0000:{bus + 1:02x}:00.0"}[kind]
    return write(f"sys/bus/pci/devices/{pci}/{name}", text)


def short_configs(host: FakeHost) -> None:
    """Configuration space as anybody but root reads it: its first 64 bytes."""
    for file in host.root.glob("sys/devices/**/config"):
        host.write(str(file.relative_to(host.root)), b"\0" * 64)


def private_pid(host: FakeHost) -> None:
    host.remove("proc/self/ns/pid")
    (host.root / "proc/self/ns/pid").symlink_to("pid:[4026532800]")


def no_dmabuf(host: FakeHost) -> None:
    host.remove("sys/kernel/mm/memory_peers")
    host.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Mon")


def locked(numactl: str = "2.0.19-1", nccl: str = "2.28.9", sbom: str | None = None) -> Break:
    """An image whose SBOM lists two packages and one wheel; the arguments are what is really installed."""
    purls = (
        "pkg:deb/debian/bash@5.2%2B1?arch=amd64&distro=trixie",
        "pkg:deb/debian/numactl@2.0.19-1?arch=amd64",
        "pkg:pypi/nvidia-nccl-cu12@2.28.9",
    )
    packages = [{"name": "x", "externalRefs": [{"referenceLocator": purl}]} for purl in purls] + [{"name": "nvshmem"}]
    installed = f"Package: numactl\nStatus: install ok installed\nVersion: {numactl}\n" if numactl else ""
    return several(
        write("opt/epbox/sbom.spdx.json", json.dumps({"packages": packages}) if sbom is None else sbom),
        write("var/lib/dpkg/status", f"Package: bash\nStatus: install ok installed\nVersion: 5.2+1\n\n{installed}"),
        lambda host: swap_package(host, "nvidia_nccl_cu12", nccl),
    )


def from_source(version: str, commit: str = "") -> Break:
    """An image with NVSHMEM from source in place of the wheel, and DeepEP at a commit."""
    where = f"git+https://github.com/deepseek-ai/DeepEP.git@{commit}"
    sbom = {
        "packages": [{"name": "nvshmem", "versionInfo": version}, {"name": "deepep", "versionInfo": commit[:7], "downloadLocation": where}]
    }
    return several(
        remove(f"{SITE}/nvidia/nvshmem"),
        lambda host: drop_package(host, "nvidia_nvshmem_cu12"),
        write("opt/epbox/sbom.spdx.json", json.dumps(sbom)),
    )


def pair(deepep: str, nvshmem: str) -> Break:
    """DeepEP and NVSHMEM's wheel of these versions."""
    return several(
        lambda host: swap_package(host, "deep_ep", deepep),
        lambda host: swap_package(host, "nvidia_nvshmem_cu12", nvshmem),
    )


def second_nccl(name: str, content: bytes = b"ELF") -> Break:
    """torch, and an NCCL on PYTHONPATH that it takes before the wheel's, as on a host where NCCL was built by hand."""
    return several(
        write(f"{SITE}/torch/lib/libtorch.so", "ELF"),
        write(f"scratch/nccl/lib/{name}", content),
        env(PYTHONPATH="/scratch"),
        lambda host: swap_package(host, "nvidia_nccl_cu12", "2.28.9"),
    )


#: Changes after which the check still passes, beside the host as it is (None).
GOOD: dict[str, list[Break | None]] = {
    "host.name": [None],
    "net.master": [None, job(2, MASTER_ADDR="node0"), job(1, MASTER_ADDR="localhost")],
    "net.interfaces": [
        None,
        env(NCCL_SOCKET_IFNAME="eth"),
        env(NCCL_SOCKET_IFNAME="^lo,docker"),
        env(NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME="=eth0"),
    ],
    "container.runtime": [None, write(".dockerenv", ""), remove("dev/nvidiactl")],
    "container.memlock": [None, write("proc/self/limits", limits(memlock="65536"))],
    "container.nofile": [None],
    "container.shm": [None],
    "container.namespaces": [None, private_pid],
    "container.mempolicy": [None],
    "container.quota": [
        None,
        several(
            remove("sys/fs/cgroup/cpu.max"),
            write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
            write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ),
    ],
    "numa.affinity": [None],
    "numa.pairs": [None],
    "numa.balancing": [None],
    "memory.hugepages": [None, write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never")],
    "cpu.governor": [None],
    "hca.devices": [None, several(workload(ALLTOALL), drop_hcas(0))],
    "hca.driver": [None],
    "hca.names": [None, several(rename("mlx5_", "roce_rail"), env(NVSHMEM_HCA_PREFIX="rail"))],
    "hca.ports": [None],
    "hca.width": [None],
    "hca.atomics": [None],
    "hca.counters": [None],
    "rail.firmware": [None, several(hca_field(0, firmware="16.30.5000", board="MSF0000000012"))],
    "rail.mtu": [roce()],
    "rail.gid": [
        None,
        roce(),
        roce(gid="2001:0db8:0000:0000:0000:0000:0000:0001"),
        several(roce(), env(NVSHMEM_IB_GID_INDEX="3")),
        several(roce(), env(NVSHMEM_IB_GID_INDEX="-1")),
    ],
    "pci.links": [None, sysfs_of("hca", "max_link_width", "255")],
    "pci.acs": [None],
    "pci.iommu": [None, write("sys/kernel/iommu_groups/9/type", "DMA-FQ")],
    "gpu.devices": [None, several(workload(ALLTOALL), drop_gpus(0))],
    "gpu.cuda": [None, lambda host: setattr(host.probes, "report", None)],
    "gpu.peermem": [None, remove("sys/kernel/mm/memory_peers")],
    "gpu.regkeys": [None],
    "gpu.handler": [None],
    "gpu.profiling": [None, write("proc/driver/nvidia/params", params(profiling=1))],
    "gpu.gdrdrv": [None, several(set_hcas(driver="efa"), write("dev/gdrdrv", ""))],
    "gpu.peers": [None],
    "gpu.nvlink": [None],
    "gpu.health": [None],
    "gpu.throttling": [None],
    "gpu.clocks": [None],
    "lib.lock": [locked(), several(locked(), write(f"{SITE}/added-1.0.dist-info/METADATA", ""))],
    "lib.identity": [None],
    "lib.transports": [None],
    "lib.nvshmem": [None, from_source("3.4.5"), from_source("3.7.2", LAST_V1), pair("1.2.1+9af0e0d", "3.4.5")],
    "lib.nccl": [None],
    "lib.versions": [None, several(workload(V2), every_gpu(arch="sm_100"), lambda host: swap_package(host, "deep_ep", "2.1.0+dd758ca"))],
    "lib.ibstat": [None],
    "lib.jit": [None, env(EP_JIT_CACHE_DIR="/var/cache/jit")],
    "shape.ranks": [None, job(2), job(4), several(workload(V2), job(3))],
    "shape.environment": [
        None,
        env(NVSHMEM_HCA_LIST="mlx5_0:1"),
        env(NVSHMEM_HCA_LIST="^mlx5_7"),
        env(NVSHMEM_DISABLE_CUDA_VMM="1", NVSHMEM_SYMMETRIC_SIZE="4g"),
    ],
    "shape.mapping": [None],
}

#: What breaks each check: the change, the status it must give, and a word that the evidence must hold.
BAD: dict[str, list[tuple[Break, str, str]]] = {
    "host.name": [
        (write("proc/sys/kernel/hostname", "localhost"), "WARN", "localhost"),
        (several(write("proc/sys/kernel/hostname", "localhost"), job(2)), "FAIL", "localhost"),
        (write("proc/sys/kernel/hostname", b"\x00\xff\x01"), "NOT_RUN", "reads"),
    ],
    "net.master": [
        (job(2), "FAIL", "unset"),
        (job(2, MASTER_ADDR="localhost"), "FAIL", "loopback"),
        (job(2, MASTER_ADDR="nowhere"), "FAIL", "does not resolve"),
        (job(1, MASTER_ADDR="node0", MASTER_PORT="99999"), "FAIL", "not a port"),
        (several(job(1, MASTER_ADDR="node0"), lambda host: setattr(host.probes, "busy", ("10.0.0.1",))), "FAIL", "taken"),
        (several(job(2, MASTER_ADDR="six"), lambda host: host.probes.names.update(six=("fd00::1",))), "WARN", "IPv6"),
    ],
    "net.interfaces": [
        (env(NCCL_SOCKET_IFNAME="ens"), "FAIL", "matches none"),
        (env(GLOO_SOCKET_IFNAME="eth1"), "FAIL", "down"),
        (several(job(2), write("sys/class/net/eth0/operstate", "down")), "WARN", "no interface"),
    ],
    "container.runtime": [
        (docker(lambda host: setattr(host.probes, "mempolicy", errno.EPERM)), "WARN", "SYS_NICE"),
        (docker(remove("dev/nvidiactl")), "WARN", "--gpus all"),
        (docker(lambda host: setattr(host, "openable", False)), "WARN", "/dev/infiniband"),
        (docker(write("proc/self/limits", limits("65536")), write("proc/self/status", status(UNPRIVILEGED))), "WARN", "memlock=-1"),
        (several(write("run/.containerenv", ""), lambda host: setattr(host.probes, "shm", (64 << 20, 64 << 20))), "WARN", "--ipc=host"),
        (remove("proc/self/status"), "NOT_RUN", "absent"),
    ],
    "container.memlock": [
        (several(write("proc/self/limits", limits(memlock="65536")), write("proc/self/status", status(UNPRIVILEGED))), "FAIL", "64 KiB"),
        (write("proc/self/limits", "Max locked memory   much"), "NOT_RUN", "limits"),
        (
            several(job(1), drop_hcas(0), write("proc/self/limits", limits("65536")), write("proc/self/status", status(UNPRIVILEGED))),
            "WARN",
            "without an HCA",
        ),
    ],
    "container.nofile": [
        (write("proc/self/limits", limits(files="1024")), "WARN", "1024"),
        (write("proc/self/limits", limits(files="256", hard_files="256")), "FAIL", "256"),
    ],
    "container.shm": [
        (lambda host: setattr(host.probes, "shm", (64 << 20, 64 << 20)), "WARN", "64 MiB"),
        (lambda host: setattr(host.probes, "shm", (16 << 30, 1 << 20)), "FAIL", "1 MiB free"),
    ],
    "container.namespaces": [(several(private_pid, env(LOCAL_WORLD_SIZE="8")), "WARN", "private pid")],
    "container.mempolicy": [
        (lambda host: setattr(host.probes, "mempolicy", errno.EPERM), "WARN", "EPERM"),
        (lambda host: setattr(host.probes, "mempolicy", errno.ENOSYS), "WARN", "CONFIG_NUMA"),
    ],
    "container.quota": [
        (write("sys/fs/cgroup/cpu.max", "400000 100000"), "WARN", "4 of 16"),
        (write("sys/fs/cgroup/cpu.max", "what is this"), "NOT_RUN", "no cgroup"),
    ],
    "numa.affinity": [
        (write("proc/self/status", status(cpus="0-7")), "WARN", "GPU4 (node 1)"),
        (write("proc/self/status", status(mems="0")), "WARN", "memory node not allowed"),
        (gpus_without_node, "WARN", "unknown"),
    ],
    "numa.pairs": [(drop_hcas(4), "WARN", "GPU4"), (gpus_without_node, "NOT_RUN", "unknown")],
    "numa.balancing": [(write("proc/sys/kernel/numa_balancing", "1"), "WARN", "=1")],
    "memory.hugepages": [(write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"), "WARN", "never")],
    "cpu.governor": [(write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"), "WARN", "powersave on 1")],
    "hca.devices": [
        (drop_hcas(0), "FAIL", "no HCA"),
        (several(drop_hcas(0), job(1)), "WARN", "one node"),
        (lambda host: setattr(host, "openable", False), "FAIL", "no uverbs"),
        (lambda host: setattr(host, "openable", None), "NOT_RUN", "only the running host"),
        (drop_hcas(4), "WARN", "4 with an active port, for 8"),
        (hca_field(2, openable=False), "WARN", "not openable: mlx5_2"),
    ],
    "hca.driver": [
        (set_hcas(driver="efa"), "FAIL", "efa"),
        (several(workload(V2), set_hcas(driver="efa")), "WARN", "efa"),
        (hca_field(1, driver="irdma"), "WARN", "irdma"),
    ],
    "hca.names": [
        (rename("mlx5_", "rocep"), "FAIL", "rocep0"),
        (rename("mlx5_", "mlx4_"), "FAIL", "not driven by mlx5"),
        (env(NVSHMEM_HCA_PREFIX="roce"), "FAIL", "do not contain 'roce'"),
    ],
    "hca.ports": [
        (several(*(write(f"{port(i)}/state", "1: DOWN") for i in range(8))), "FAIL", "no active port"),
        (write(f"{port(3)}/state", "2: INIT"), "WARN", "mlx5_3 (INIT)"),
        (write(f"{port(5)}/rate", "200 Gb/sec (4X HDR)"), "WARN", "slower: mlx5_5"),
        (several(*(write(f"{port(i)}/state", b"\xff\xfe") for i in range(8))), "FAIL", "no active port"),
    ],
    "hca.width": [(write(f"{port(5)}/rate", "200 Gb/sec (2X NDR)"), "WARN", "mlx5_5 2X")],
    "hca.atomics": [
        (set_hcas(atomics=False), "FAIL", "mlx5_0"),
        (hca_field(6, atomics=False), "WARN", "mlx5_6"),
        (sysfs_of("hca", "config", pcie_config()[:64]), "NOT_RUN", "root"),
    ],
    "hca.counters": [
        (write(f"{port(0)}/counters/link_downed", "3"), "WARN", "mlx5_0 link_downed 3"),
        (write(f"{port(7)}/hw_counters/out_of_sequence", "12"), "WARN", "out_of_sequence 12"),
        (remove(*(f"{port(i)}/{name}" for i in range(8) for name in ("counters", "hw_counters"))), "NOT_RUN", ""),
    ],
    "rail.firmware": [(hca_field(4, firmware="28.40.1000"), "WARN", "28.40.1000 (mlx5_4)")],
    "rail.mtu": [
        (several(roce(), write("sys/class/net/rdma3/mtu", "1500")), "WARN", "mlx5_3 (rdma3) 1500"),
        (roce(mtu=1500), "WARN", "1024 byte packets"),
        (lambda host: None, "NOT_RUN", "InfiniBand"),
    ],
    "rail.gid": [
        (roce(gid="fe80:0000:0000:0000:a288:c2ff:fe01:0000"), "FAIL", "none"),
        (several(roce(), env(NVSHMEM_IB_GID_INDEX="0")), "FAIL", "no routable RoCE v2 GID"),
        (several(roce(), env(NVSHMEM_IB_GID_INDEX="three")), "FAIL", "not a number"),
    ],
    "pci.links": [
        (sysfs_of("hca", "current_link_width", "8"), "WARN", "mlx5_0 x8 of x16"),
        (sysfs_of("gpu", "current_link_width", "4", 2), "WARN", "GPU2 x4"),
        (sysfs_of("hca", "current_link_speed", "16.0 GT/s PCIe"), "WARN", "253 of 400"),
    ],
    "pci.acs": [
        (sysfs_of("bridge", "config", pcie_config(acs=0x1D)), "WARN", "0000:11:00.0"),
        (short_configs, "NOT_RUN", "root alone"),
    ],
    "pci.iommu": [(write("sys/kernel/iommu_groups/0/type", "DMA-FQ"), "WARN", "GPU0")],
    "gpu.devices": [
        (remove("dev/nvidiactl"), "FAIL", "/dev/nvidiactl"),
        (several(drop_gpus(0), remove("sys/bus/pci/devices")), "FAIL", "no NVIDIA GPU"),
    ],
    "gpu.cuda": [
        (lambda host: setattr(host.probes, "report", GpuReport((11, 4))), "FAIL", "CUDA 11.4"),
        (
            several(
                lambda host: setattr(host.probes, "report", None),
                write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed"),
            ),
            "FAIL",
            "470.82.01",
        ),
    ],
    "gpu.peermem": [
        (no_dmabuf, "FAIL", "535.161.08"),
        (several(remove("sys/kernel/mm/memory_peers"), env(NVSHMEM_IB_DISABLE_DMABUF="1")), "FAIL", "forbids"),
        (several(remove("sys/kernel/mm/memory_peers"), write("proc/sys/kernel/osrelease", "5.4.0-1")), "FAIL", "5.4"),
        (several(remove("sys/kernel/mm/memory_peers"), write("proc/sys/kernel/osrelease", "junk")), "NOT_RUN", "release"),
    ],
    "gpu.regkeys": [
        (write("proc/driver/nvidia/params", params(dwords="", stream=0)), "WARN", "privileged"),
        (several(write("proc/driver/nvidia/params", params(dwords="")), write("proc/self/status", status(UNPRIVILEGED))), "FAIL", "unpriv"),
        (write("proc/driver/nvidia/params", params(stream=0)), "WARN", "EnableStreamMemOPs 0"),
        (
            several(job(1), write("proc/driver/nvidia/params", params(dwords="")), write("proc/self/status", status(UNPRIVILEGED))),
            "WARN",
            "one node",
        ),
    ],
    "gpu.handler": [
        (env(NVSHMEM_IBGDA_NIC_HANDLER="cpu_host_memory"), "FAIL", "cpu_host_memory"),
        (lambda host: setattr(host, "log", "NIC handler will be GPU\nNIC handler will be CPU\n"), "FAIL", "1 of 2"),
        (lambda host: setattr(host, "log", None), "NOT_RUN", "log"),
        (lambda host: setattr(host, "log", "nothing of it"), "NOT_RUN", "no `NIC handler"),
    ],
    "gpu.profiling": [
        (several(write("proc/driver/nvidia/params", params(profiling=1)), write("proc/self/status", status(UNPRIVILEGED))), "WARN", "1"),
        (write("proc/driver/nvidia/params", "junk"), "NOT_RUN", "RmProfilingAdminOnly"),
    ],
    "gpu.gdrdrv": [
        (set_hcas(driver="efa"), "FAIL", "absent"),
        (env(NVSHMEM_IBGDA_NIC_HANDLER="cpu"), "FAIL", "absent"),
        (drop_hcas(0), "NOT_RUN", "unknown"),
    ],
    "gpu.peers": [
        (gpu(3, mig=True), "FAIL", "MIG is on at GPU 3"),
        (gpu(2, peers=("OK",) * 7 + ("GPU not supported",)), "FAIL", "2-7"),
        (every_gpu(peers=None), "NOT_RUN", "P2P"),
        (lambda host: setattr(host.probes, "report", None), "NOT_RUN", "NVML"),
    ],
    "gpu.nvlink": [
        (gpu(2, nvlink=(False,) * 18), "FAIL", "GPU2 0/18"),
        (gpu(5, nvlink=(True,) * 17 + (False,)), "WARN", "GPU5 17/18"),
        (every_gpu(nvlink=None), "NOT_RUN", "NVLink"),
        (write("proc/driver/nvidia/params", params() + "\nNvLinkDisable: 1"), "FAIL", "NvLinkDisable"),
    ],
    "gpu.health": [
        (gpu(1, uncorrected=2), "FAIL", "GPU1 2 uncorrected"),
        (gpu(1, remap_failed=True), "FAIL", "row remapping failed"),
        (gpu(6, remap_pending=True), "WARN", "GPU6"),
        (every_gpu(uncorrected=None, remap_failed=None, retired_pending=None), "NOT_RUN", "ECC"),
    ],
    "gpu.throttling": [
        (gpu(4, throttles=("hardware thermal",)), "WARN", "GPU4 hardware thermal"),
        (every_gpu(throttles=None), "NOT_RUN", ""),
    ],
    "gpu.clocks": [
        (gpu(0, persistence=False), "WARN", "persistence off"),
        (gpu(0, max_sm_clock=1755), "WARN", "differs"),
        (gpu(7, memory_used=40 << 30), "WARN", "GPU7 40960 MiB in use"),
        (lambda host: setattr(host.probes, "report", GpuReport()), "NOT_RUN", "no GPU"),
    ],
    "lib.lock": [
        (lambda host: None, "NOT_RUN", "sbom.spdx.json"),
        (locked(numactl="2.0.20-1"), "WARN", "numactl 2.0.20-1, locked 2.0.19-1"),
        (locked(numactl=""), "WARN", "numactl missing, locked 2.0.19-1"),
        (locked(nccl="2.30.7"), "FAIL", "nvidia-nccl-cu12 2.30.7, locked 2.28.9"),
        (
            several(locked(), write(f"{SITE}/nvidia_nccl_cu12-2.18.1.dist-info/METADATA", "")),
            "FAIL",
            "nvidia-nccl-cu12 2.18.1 2.28.9, locked",
        ),
        (locked(sbom='{"packages": 1}'), "NOT_RUN", "sbom.spdx.json"),
        (locked(sbom="[" * 100000), "NOT_RUN", "sbom.spdx.json"),
        (several(locked(), remove("var/lib/dpkg/status")), "NOT_RUN", "dpkg/status"),
    ],
    "lib.identity": [
        (remove(f"{SITE}/nvidia"), "FAIL", "neither"),
        (remove(f"{SITE}/nvidia/nvshmem"), "FAIL", "libnvshmem_host: none"),
        (write("usr/lib/x86_64-linux-gnu/libnccl.so.2.18", "ELF"), "WARN", "libnccl.so.2.18"),
    ],
    "lib.transports": [
        (remove(f"{SITE}/nvidia/nvshmem/lib/nvshmem_transport_ibgda.so.3"), "FAIL", "no nvshmem_transport_ibgda"),
        (remove("usr/lib/x86_64-linux-gnu/libmlx5.so.1"), "FAIL", "libmlx5.so.1"),
        (remove(f"{SITE}/nvidia/nvshmem"), "NOT_RUN", "libnvshmem_host"),
    ],
    "lib.nvshmem": [
        (from_source("3.5.19"), "WARN", "NVSHMEM 3.5.19 (compiled, by the image's SBOM), deep_ep 1.2.1, commit unknown"),
        (from_source("3.5.19", V121), "FAIL", "deep_ep 1.2.1 at 9af0e0d"),
        (several(from_source("3.4.5"), write("opt/epbox/sbom.spdx.json", "[")), "NOT_RUN", "no NVSHMEM is seen"),
        (lambda host: drop_package(host, "nvidia_nvshmem_cu12"), "NOT_RUN", "version unknown"),
        (lambda host: swap_package(host, "nvidia_nvshmem_cu12", "3.6.5"), "WARN", "3.6.5"),
        (pair("1.2.1+9af0e0d", "3.6.5"), "FAIL", "order"),
        (pair("2.1.0+dd758ca", "3.5.19"), "FAIL", "legacy"),
        (several(workload(V2), pair("2.1.0+dd758ca", "3.5.19")), "WARN", "3.5.19"),
        (several(workload(V2), pair("2.1.0", "3.5.19")), "WARN", "V2's legacy kernels"),
        (lambda host: swap_package(host, "nvidia_nvshmem_cu12", "3.2.5"), "FAIL", "3.2.5"),
        (write(f"{SITE}/torch-2.15.0.dist-info/METADATA", ""), "FAIL", "libtorch_nvshmem"),
    ],
    "lib.nccl": [
        (lambda host: swap_package(host, "nvidia_nccl_cu12", "2.28.9"), "FAIL", "2.28.9 (by the metadata of nvidia_nccl_cu12)"),
        (second_nccl("libnccl.so.2.28.3"), "FAIL", "NCCL 2.28.3 (/scratch/nccl/lib/libnccl.so.2.28.3 would load)"),
        (second_nccl("libnccl.so.2"), "NOT_RUN", "/scratch/nccl/lib/libnccl.so.2, version unknown"),
        (remove(f"{SITE}/nvidia/nccl", f"{SITE}/nvidia_nccl_cu12-2.30.7.dist-info"), "NOT_RUN", "no NCCL is seen"),
    ],
    "lib.versions": [
        (several(every_gpu(arch="sm_100"), lambda host: swap_package(host, "deep_ep", "1.2.1+567632d")), "WARN", "one wrong row"),
        (every_gpu(arch="sm_100"), "WARN", "commit unknown"),
        (several(workload(V2), write(f"{SITE}/torch-2.9.1.dist-info/METADATA", "")), "FAIL", "PyTorch 2.10"),
        (several(lambda host: drop_package(host, "nvidia_cuda_runtime_cu12"), every_gpu(arch=None)), "NOT_RUN", "neither torch"),
    ],
    "lib.ibstat": [
        (remove("usr/bin/ibstat"), "FAIL", "not installed"),
        (several(job(1), remove("usr/bin/ibstat")), "WARN", "not installed"),
        (env(EP_NIC_NAME="mlx5_ib0"), "FAIL", "mlx5_ib0 is not among"),
        (drop_hcas(0), "NOT_RUN", "no HCA"),
    ],
    "lib.jit": [
        (remove("usr/local/cuda/bin/nvcc"), "FAIL", "nvcc is not installed"),
        (lambda host: setattr(host.probes, "read_only", True), "FAIL", "not writable"),
    ],
    "shape.ranks": [
        (job(5), "FAIL", "no kernel for 5 nodes"),
        (job(3), "WARN", "567632d"),
        (job(18), "WARN", "256 experts"),
        (several(drop_gpus(4), job(2)), "FAIL", "2 nodes x 4"),
        (drop_gpus(3), "WARN", "3 GPUs"),
        (env(WORLD_SIZE="many"), "FAIL", "many"),
        (several(workload(V2), job(64)), "FAIL", "64"),
        (drop_gpus(0), "NOT_RUN", "no GPU"),
    ],
    "shape.environment": [
        (env(NVSHMEM_HCA_LIST=",".join(f"mlx5_{i}:1" for i in range(8)), NVSHMEM_ENABLE_NIC_PE_MAPPING="1"), "FAIL", "8 entries"),
        (env(NVSHMEM_HCA_LIST="mlx5_ib0:1"), "FAIL", "mlx5_ib0"),
        (env(NVSHMEM_HCA_LIST="=mlx5_0"), "FAIL", "NCCL's grammar"),
        (env(NVSHMEM_DISABLED_GDRCOPY="1"), "WARN", "not a variable"),
        (env(NVSHMEM_DISABLE_CUDA_VMM="true"), "WARN", "SYMMETRIC_SIZE"),
    ],
    "shape.mapping": [
        (drop_hcas(4), "WARN", "4 fabric HCAs for 8"),
        (lambda host: setattr(host, "openable", False), "FAIL", "no HCA for ranks"),
        (drop_hcas(0), "NOT_RUN", "nothing to map"),
    ],
}


def drop_package(host: FakeHost, name: str) -> None:
    for folder in (host.root / SITE).glob(f"{name}-*.dist-info"):
        host.remove(str(folder.relative_to(host.root)))


def swap_package(host: FakeHost, name: str, version: str) -> None:
    drop_package(host, name)
    host.write(f"{SITE}/{name}-{version}.dist-info/METADATA", "")


def test_every_check_has_a_passing_and_a_breaking_host() -> None:
    ids = [check.id for check in CHECKS]
    assert len(ids) == len(set(ids))
    assert set(GOOD) == set(ids)
    assert set(BAD) == set(ids)
    lacking = [id for id, rows in BAD.items() if not any(status in ("WARN", "FAIL") for _, status, _ in rows)]
    assert lacking == []


@pytest.mark.parametrize(
    ("id", "change"), [(id, change) for id, rows in GOOD.items() for change in rows], ids=lambda v: v if isinstance(v, str) else ""
)
def test_passes(fake: FakeHost, id: str, change: Break | None) -> None:
    fake.workload = RUNS_AS[id]
    if change is not None:
        change(fake)
    result = fake.check(id)
    assert result.status == "PASS", result
    assert result.evidence
    assert result.source


@pytest.mark.parametrize(
    ("id", "change", "expected", "word"),
    [(id, *row) for id, rows in BAD.items() for row in rows],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_breaks(fake: FakeHost, id: str, change: Break, expected: str, word: str) -> None:
    fake.workload = RUNS_AS[id]
    change(fake)
    result = fake.check(id)
    assert (result.status, word in result.evidence) == (expected, True), result
    if expected in ("WARN", "FAIL"):
        assert result.remedy, "a finding without a remedy"


def test_the_whole_good_host_has_no_finding(fake: FakeHost) -> None:
    for name in (V1, V2, ALLTOALL):
        fake.workload = name
        found = [fake.check(check.id) for check in CHECKS if name in check.workloads]
        assert [result for result in found if result.status in ("WARN", "FAIL")] == []


@pytest.mark.parametrize("version", ["3.5.21", "3.7.2"])
def test_the_last_v1_commit_takes_a_new_nvshmem(fake: FakeHost, version: str) -> None:
    """Contradiction that was: the recipe with this pair loads, and doctor failed it. Both read facts/pairs.toml."""
    pair("1.2.1+567632d", version)(fake)
    assert fake.check("lib.nvshmem").status == "PASS"


@pytest.mark.parametrize(("name", "content"), [("libnccl.so.2.30.7", b""), ("libnccl.so.2", b"\0NCCL version 2.30.7+cuda13.3\0")])
def test_the_library_that_loads_is_judged_and_not_the_wheel_beside_it(fake: FakeHost, name: str, content: bytes) -> None:
    """Contradiction that was: lib.nccl judged the wheel's 2.28.9 where torch loads the NCCL of PYTHONPATH, and bench refused a fit V2."""
    fake.workload = V2
    second_nccl(name, content)(fake)
    result = fake.check("lib.nccl")
    assert (result.status, result.evidence) == ("PASS", f"NCCL 2.30.7 (/scratch/nccl/lib/{name} would load)")
    assert fake.check("lib.identity").evidence.partition("libnccl: ")[2].startswith(f"/scratch/nccl/lib/{name}, ")


def test_what_a_process_loaded_counts_most(fake: FakeHost) -> None:
    fake.workload = V2
    second_nccl("libnccl.so.2.30.7")(fake)
    host = replace(fake.host(), loaded={"nccl": Library("2.28.9", "/x/libnccl.so.2 is loaded")})
    (check,) = (check for check in CHECKS if check.id == "lib.nccl")
    answer = check.run(host)
    assert (answer.status, answer.evidence[:42]) == ("FAIL", "NCCL 2.28.9 (/x/libnccl.so.2 is loaded): D")


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, f"/{SITE}/nvidia/nccl/lib/libnccl.so.2"),
        ({"LD_LIBRARY_PATH": "/opt/a"}, "/opt/a/libnccl.so.2"),
        ({"EP_NCCL_ROOT_DIR": "/opt/b"}, "/opt/b/lib/libnccl.so.2"),
        ({"LD_LIBRARY_PATH": "/opt/a", "LD_PRELOAD": "libstdc++.so.6 /opt/b/lib/libnccl.so.2"}, "/opt/b/lib/libnccl.so.2"),
    ],
)
def test_the_loader_s_order(fake: FakeHost, environ: dict[str, str], first: str) -> None:
    for path in ("opt/a/libnccl.so.2", "opt/b/lib/libnccl.so.2", "usr/lib/x86_64-linux-gnu/libnccl.so.2"):
        fake.write(path, "ELF")
    fake.environ.update(environ)
    found = libraries.copies(fake.host(), "libnccl.so", "nccl")
    assert (found[0], len(found)) == (first, 2 + bool(environ) + ("LD_PRELOAD" in environ))


def test_a_routable_ipv6_gid_is_one_to_plan_and_to_doctor(fake: FakeHost) -> None:
    """Contradiction that was: plan takes a routable IPv6 GID, and rail.gid failed it. Both ask facts/nics.py."""
    roce(gid="fd00:0000:0000:0000:0000:0000:0000:0001")(fake)
    ports = [port for hca in fake.topology().hcas for port in hca.ports]
    chosen = [placed_gid(port) for port in ports]
    assert [gid.index if gid else None for gid in chosen] == [3] * 8
    assert fake.check("rail.gid").status == "PASS"


@pytest.mark.parametrize("name", ["ionic_0", "hns_0", "cxi0", "mana_0", "efa_0"])
def test_a_nic_that_no_prefix_makes_fit(fake: FakeHost, name: str) -> None:
    """Contradiction that was: doctor's list of other NICs lacked some that placement knows. Both ask facts/nics.py."""
    rename("mlx5_", name.rstrip("0123456789"))(fake)
    assert "no prefix helps" in (fake.check("hca.names").remedy or "")


def test_gpu_state_of_unknowns_is_never_a_pass(fake: FakeHost) -> None:
    fake.probes.report = GpuReport(gpus=tuple(GpuState(i) for i in range(8)))
    for id in ("gpu.peers", "gpu.nvlink", "gpu.health", "gpu.throttling"):
        assert fake.check(id).status == "NOT_RUN", id


@pytest.mark.parametrize(
    "name", ["deep_ep-1.2.1+567632d-py3.13.egg-info", "deep_ep-1.2.1+567632d.egg-info", "deep_ep-1.2.1+567632d.dist-info"]
)
def test_deepep_is_found_however_it_was_installed(fake: FakeHost, name: str) -> None:
    drop_package(fake, "deep_ep")
    fake.write(f"{SITE}/{name}", "")
    fake.workload = V1
    assert "deep_ep 1.2.1+567632d" in fake.check("lib.nvshmem").evidence

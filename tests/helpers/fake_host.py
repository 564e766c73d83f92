"""A made-up root with /proc and /sys of an 8-GPU, 8-HCA InfiniBand node on which every check passes; tests break one thing at a time."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from entrypoints.preflight.files import Files, NotReadable
from entrypoints.preflight.live import GpuReport, GpuState, Probes
from entrypoints.preflight.model import Host
from entrypoints.preflight.run import CHECKS, make_host, run_on
from entrypoints.results.model import Check
from entrypoints.topology import load
from entrypoints.topology.model import Hca, Topology
from entrypoints.topology.tree import DirectoryTree

GPUS = 8
CPUS = 16
SITE = "usr/local/lib/python3.12/dist-packages"


@dataclass
class FakeProbes(Probes):
    """Answers of a host that is fit; a test changes one."""

    mempolicy: int = 0
    names: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"node0": ("10.0.0.1",), "localhost": ("127.0.0.1",)})
    busy: tuple[str, ...] = ()
    shm: tuple[int, int] = (16 << 30, 16 << 30)
    read_only: bool = False
    report: GpuReport | None = None

    def mempolicy_errno(self) -> int:
        return self.mempolicy

    def addresses(self, name: str) -> tuple[str, ...]:
        return self.names.get(name, ())

    def port_in_use(self, address: str, port: int) -> bool | None:
        return address in self.busy

    def space(self, path: str) -> tuple[int, int]:
        return self.shm

    def writable(self, path: str) -> bool:
        return not self.read_only

    def gpus(self) -> GpuReport:
        if self.report is None:
            raise NotReadable("NVML: driver not loaded")
        return self.report


def pcie_config(atomics: bool = True, acs: int | None = None) -> bytes:
    """4 KiB of configuration space: a PCI Express capability at 0x60 and, for a bridge, ACS at 0x100."""
    config = bytearray(4096)
    config[0x06], config[0x34] = 0x10, 0x60
    struct.pack_into("<BBH", config, 0x60, 0x10, 0, 2)
    struct.pack_into("<I", config, 0x60 + 0x24, 0x380 if atomics else 0)
    if acs is not None:
        struct.pack_into("<IHH", config, 0x100, 0x0001000D, 0x7F, acs)
    return bytes(config)


def files_at(root: Path) -> Files:
    """What checks read below a folder, whatever is in it."""
    return Files(DirectoryTree(str(root), live=False))


class FakeHost:
    """A root folder, an environment and probe answers; `check(id)` runs one check on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ: dict[str, str] = {"PATH": "/usr/bin:/usr/local/cuda/bin", "EP_NIC_NAME": "mlx5_0", "HOME": "/root"}
        self.workload = "deepep-v1"
        self.nodes: int | None = None
        self.log: str | None = "PE 0: NIC handler will be GPU\n"
        self.openable: bool | None = True
        self.edit: Callable[[Topology], Topology] = lambda topology: topology
        self.probes = FakeProbes(report=GpuReport((12, 8), tuple(gpu_state(i) for i in range(GPUS))))
        self._proc()
        self._cpus()
        for index in range(GPUS):
            self._rail(index)
        self._libraries()

    def write(self, name: str, content: str | bytes) -> None:
        """Create or replace one file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode() + b"\n")

    def remove(self, name: str) -> None:
        """Delete a file, a link or a whole folder, if it is there."""
        import shutil

        path = self.root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)

    def link(self, name: str, target: str) -> None:
        """A relative link from `name` to `target`, both below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(self.root / target, path.parent))

    def swap(self, name: str, old: str, new: str) -> None:
        """Replace a piece of text that must be in the file."""
        text = (self.root / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        self.write(name, text.replace(old, new).rstrip("\n"))

    def topology(self) -> Topology:
        """The root as the topology reader sees it; uverbs nodes open unless the test says otherwise."""
        topology = load(str(self.root))
        return self.edit(replace(topology, hcas=tuple(replace(hca, openable=self.openable) for hca in topology.hcas)))

    def host(self) -> Host:
        host = make_host(self.workload, self.topology(), files_at(self.root), self.environ, nodes=self.nodes, log=self.log)
        return replace(host, live=self.probes)

    def check(self, id: str) -> Check:
        """Run one check, through the runner that users get."""
        rows = [check for check in CHECKS if check.id == id]
        return run_on(self.host(), rows, total_s=120)[0]

    def change_hcas(self, change: Callable[[Hca], Hca]) -> None:
        """Apply a change to every HCA of the topology."""
        self.edit = lambda topology: replace(topology, hcas=tuple(change(hca) for hca in topology.hcas))

    def _proc(self) -> None:
        self.write("proc/sys/kernel/hostname", "node0")
        self.write("proc/sys/kernel/osrelease", "6.8.0-1015-generic")
        self.write("proc/sys/kernel/numa_balancing", "0")
        self.write("proc/sys/vm/nr_hugepages", "0")
        self.write("proc/self/status", status())
        self.write("proc/self/limits", limits())
        self.write("proc/self/mounts", "tmpfs /dev/shm tmpfs rw,size=16777216k 0 0")
        for name, number in (("ipc", 4026531839), ("pid", 4026531836)):
            (self.root / "proc/self/ns").mkdir(parents=True, exist_ok=True)
            (self.root / f"proc/self/ns/{name}").symlink_to(f"{name}:[{number}]")
        self.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build")
        self.write("proc/driver/nvidia/params", params())
        self.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.write("sys/kernel/mm/memory_peers/nvidia-peermem/version", "570.86.10")
        self.write("sys/fs/cgroup/cpu.max", "max 100000")
        for name in ("nvidiactl", "nvidia0"):
            self.write(f"dev/{name}", "")
        for name, state in (("lo", "unknown"), ("eth0", "up"), ("eth1", "down")):
            self.write(f"sys/class/net/{name}/operstate", state)
            self.write(f"sys/class/net/{name}/mtu", "1500")

    def _cpus(self) -> None:
        base = "sys/devices/system"
        for name in ("online", "present", "possible"):
            self.write(f"{base}/cpu/{name}", f"0-{CPUS - 1}")
        for name in ("online", "possible", "has_cpu", "has_memory"):
            self.write(f"{base}/node/{name}", "0-1")
        for node, cpus in ((0, "0-7"), (1, "8-15")):
            self.write(f"{base}/node/node{node}/cpulist", cpus)
            self.write(f"{base}/node/node{node}/distance", "10 21" if node == 0 else "21 10")
            self.write(f"{base}/node/node{node}/meminfo", f"Node {node} MemTotal: 1048576 kB")
        for cpu in range(CPUS):
            folder = f"{base}/cpu/cpu{cpu}"
            self.write(f"{folder}/topology/core_id", str(cpu % 8))
            self.write(f"{folder}/topology/physical_package_id", str(cpu // 8))
            self.write(f"{folder}/topology/thread_siblings_list", str(cpu))
            self.write(f"{folder}/cpufreq/scaling_governor", "performance")
            self.write(f"{folder}/cpufreq/scaling_driver", "intel_pstate")

    def _device(self, pci: str, parent: str, kind: str, vendor: str, node: int, **more: str) -> str:
        folder = f"{parent}/{pci}"
        for name, value in {"class": kind, "vendor": vendor, "numa_node": str(node), **more}.items():
            self.write(f"{folder}/{name}", value)
        self.link(f"sys/bus/pci/devices/{pci}", folder)
        return folder

    def _rail(self, index: int) -> None:
        """One PCIe switch with a GPU and an HCA below it; rails 0 to 3 are on node 0."""
        node, bus = index // 4, 0x10 * (index + 1)
        link = {"current_link_width": "16", "max_link_width": "16", "current_link_speed": "32.0 GT/s PCIe"}
        path = f"sys/devices/pci0000:{bus:02x}"
        for number in (bus, bus + 1):
            path = self._device(f"0000:{number:02x}:00.0", path, "0x060400", "0x8086", node)
            self.write(f"{path}/config", pcie_config(acs=0))
        gpu = f"0000:{bus + 2:02x}:00.0"
        folder = self._device(gpu, path, "0x030200", "0x10de", node, local_cpulist="0-7" if node == 0 else "8-15", **link)
        self.write(f"proc/driver/nvidia/gpus/{gpu}/information", "Model: \t\t NVIDIA H100 80GB HBM3")
        nic = self._device(
            f"0000:{bus + 2:02x}:01.0", path, "0x020700", "0x15b3", node, local_cpulist="0-7" if node == 0 else "8-15", **link
        )
        self.write(f"{nic}/config", pcie_config())
        (self.root / "sys/bus/pci/drivers/mlx5_core").mkdir(parents=True, exist_ok=True)
        self.link(f"{nic}/driver", "sys/bus/pci/drivers/mlx5_core")
        self.write(f"sys/kernel/iommu_groups/{index}/type", "identity")
        self.link(f"sys/kernel/iommu_groups/{index}/devices/{gpu}", folder)
        self._hca(f"mlx5_{index}", nic)

    def _hca(self, name: str, nic: str) -> None:
        folder = f"{nic}/infiniband/{name}"
        port = f"{folder}/ports/1"
        self.write(f"{folder}/fw_ver", "28.39.1002")
        self.write(f"{folder}/board_id", "MT_0000000838")
        self.write(f"{port}/state", "4: ACTIVE")
        self.write(f"{port}/link_layer", "InfiniBand")
        self.write(f"{port}/rate", "400 Gb/sec (4X NDR)")
        self.write(f"{port}/gids/0", "fe80:0000:0000:0000:a288:c203:0001:0000")
        self.write(f"{port}/gid_attrs/types/0", "IB/RoCE v1")
        for counter in ("symbol_error", "link_downed", "port_rcv_errors"):
            self.write(f"{port}/counters/{counter}", "0")
        self.write(f"{port}/hw_counters/out_of_sequence", "0")
        self.link(f"{folder}/device", nic)
        self.link(f"sys/class/infiniband/{name}", folder)

    def make_roce(self, mtu: int = 9000, gid: str = "0000:0000:0000:0000:0000:ffff:0a00:0001") -> None:
        """Turn all eight ports into RoCE ports with netdevs rdma0 to rdma7 and a RoCE v2 IPv4 GID at index 3."""
        for index in range(GPUS):
            port = f"sys/class/infiniband/mlx5_{index}/ports/1"
            self.write(f"{port}/link_layer", "Ethernet")
            for slot, kind in ((0, "IB/RoCE v1"), (3, "RoCE v2")):
                self.write(f"{port}/gids/{slot}", gid if slot else "fe80:0000:0000:0000:a288:c203:0001:0000")
                self.write(f"{port}/gid_attrs/types/{slot}", kind)
                self.write(f"{port}/gid_attrs/ndevs/{slot}", f"rdma{index}")
            self.write(f"sys/class/net/rdma{index}/mtu", str(mtu))
            self.write(f"sys/class/net/rdma{index}/operstate", "up")

    def _libraries(self) -> None:
        for name in ("libmlx5.so.1", "libibverbs.so.1"):
            self.write(f"usr/lib/x86_64-linux-gnu/{name}", "ELF")
        for name in ("libnvshmem_host.so.3", "nvshmem_transport_ibgda.so.3"):
            self.write(f"{SITE}/nvidia/nvshmem/lib/{name}", "ELF")
        self.write(f"{SITE}/nvidia/nccl/lib/libnccl.so.2", "ELF")
        for name in ("nvidia_nvshmem_cu12-3.4.5", "nvidia_nccl_cu12-2.30.7", "nvidia_cuda_runtime_cu12-12.8.90", "deep_ep-1.2.1"):
            self.write(f"{SITE}/{name}.dist-info/METADATA", "")
        self.write("usr/bin/ibstat", "")
        self.write("usr/local/cuda/bin/nvcc", "")


def gpu_state(index: int) -> GpuState:
    """An H100 in good health."""
    return GpuState(
        index=index,
        arch="sm_90",
        mig=False,
        persistence=True,
        sm_clock=1980,
        max_sm_clock=1980,
        throttles=(),
        uncorrected=0,
        retired_pending=False,
        remap_pending=False,
        remap_failed=False,
        nvlink=(True,) * 18,
        peers=("OK",) * GPUS,
        compute_mode=0,
        memory_used=1 << 20,
    )


def status(capabilities: int = 0x1FFFFFFFFFF, seccomp: int = 0, cpus: str = "0-15", mems: str = "0-1") -> str:
    """/proc/self/status."""
    return f"Name:\tpython3\nCapEff:\t{capabilities:016x}\nSeccomp:\t{seccomp}\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}"


def limits(memlock: str = "unlimited", files: str = "1048576", hard_files: str = "1048576") -> str:
    """/proc/self/limits, in the kernel's columns."""
    rows = [("Max open files", files, hard_files, "files"), ("Max locked memory", memlock, memlock, "bytes")]
    lines = [f"{name:<25} {soft:<20} {hard:<20} {unit:<10}" for name, soft, hard, unit in rows]
    return "\n".join([f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}", *lines])


def params(dwords: str = "PeerMappingOverride=1;", stream: int = 1, profiling: int = 0) -> str:
    """/proc/driver/nvidia/params."""
    return f'EnableStreamMemOPs: {stream}\nRmProfilingAdminOnly: {profiling}\nRegistryDwords: "{dwords}"\nRegistryDwordsPerDevice: ""'

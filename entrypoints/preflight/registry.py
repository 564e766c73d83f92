"""Every check, what it is called, which workloads need it, and where its rule comes from."""

from entrypoints.preflight import container, gpu, gpu_state, hca, libraries, network, numa, packages, pci, shape
from entrypoints.preflight.model import DEEPEP, EVERY, V1, V2, Check

ONLY_V1, ONLY_V2 = frozenset({V1}), frozenset({V2})

CHECKS: tuple[Check, ...] = (
    Check("host.name", "host name", EVERY, network.hostname, "NVSHMEM src/host/util/util.cpp:41-51: a node is its gethostname()"),
    Check("net.master", "rendezvous address", EVERY, network.master, "DeepEP tests/utils.py:14-36; DeepEP#150, #237"),
    Check(
        "net.interfaces",
        "socket interfaces",
        EVERY,
        network.interfaces,
        "NCCL_SOCKET_IFNAME, NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME; DeepEP#150",
    ),
    Check("container.runtime", "container flags", EVERY, container.runtime, "DeepEP#486, docs/host-setup.md"),
    Check("container.memlock", "locked memory", DEEPEP, container.memlock, "ibv_reg_mr(3); sglang#12533"),
    Check("container.nofile", "open files", EVERY, container.open_files, "getrlimit(2) RLIMIT_NOFILE"),
    Check("container.shm", "shared memory", EVERY, container.shared_memory, "DeepEP#584; NCCL troubleshooting, shared memory"),
    Check("container.namespaces", "IPC and PID namespaces", DEEPEP, container.namespaces, "cudaIpcOpenMemHandle; include/linux/proc_ns.h"),
    Check("container.mempolicy", "memory policy calls", EVERY, container.mempolicy, "moby profiles/seccomp/default.json, CAP_SYS_NICE"),
    Check("container.quota", "CPU quota", EVERY, container.cpu_quota, "Linux Documentation/scheduler/sched-bwc.rst"),
    Check("numa.affinity", "CPUs near the devices", EVERY, numa.affinity, "sysfs numa_node, Mems_allowed; vllm#43270"),
    Check("numa.pairs", "GPU and HCA on one node", DEEPEP, numa.pairs, "sysfs numa_node"),
    Check("numa.balancing", "automatic NUMA balancing", EVERY, numa.balancing, "Linux Documentation/admin-guide/sysctl/kernel.rst"),
    Check("memory.hugepages", "huge pages", EVERY, numa.hugepages, "Linux Documentation/admin-guide/mm/transhuge.rst"),
    Check("cpu.governor", "CPU frequency", EVERY, numa.governor, "Linux Documentation/admin-guide/pm/cpufreq.rst"),
    Check("hca.devices", "HCAs usable here", EVERY, hca.devices, "/dev/infiniband; DeepEP#60, #38; miles#300"),
    Check("hca.driver", "HCA driver", DEEPEP, hca.driver, "DeepEP#759, #369"),
    Check("hca.names", "HCA names", ONLY_V1, hca.names, "NVSHMEM ibgda.cpp NVSHMEM_HCA_PREFIX; DeepEP#386"),
    Check("hca.ports", "HCA ports", DEEPEP, hca.ports, "sysfs ports/N/state, rate; DeepEP#38"),
    Check("hca.width", "port width", DEEPEP, hca.port_width, "sysfs ports/N/rate"),
    Check("hca.atomics", "HCA atomics", ONLY_V1, hca.atomics, "NVSHMEM transport_mlx5_common.cpp:73-140"),
    Check("hca.counters", "port errors so far", DEEPEP, hca.counters, "sysfs ports/N/counters, hw_counters"),
    Check("rail.firmware", "firmware equal over rails", DEEPEP, hca.rail_firmware, "sysfs fw_ver, board_id"),
    Check("rail.mtu", "MTU equal over rails", DEEPEP, network.rail_mtu, "IBTA path MTU; sysfs net/*/mtu"),
    Check("rail.gid", "RoCE GIDs", DEEPEP, network.roce_gid, "NVSHMEM_IB_GID_INDEX; multus-cni#1100, nvshmem#33"),
    Check("pci.links", "PCIe links", DEEPEP, pci.links, "sysfs current_link_width, max_link_width"),
    Check("pci.acs", "ACS", DEEPEP, pci.acs, "PCIe 5.0 7.7.11; NCCL troubleshooting, ACS"),
    Check("pci.iommu", "IOMMU", DEEPEP, pci.iommu, "sysfs kernel/iommu_groups/*/type"),
    Check("gpu.devices", "GPUs usable here", EVERY, gpu.devices, "nvidia-container-toolkit; /dev/nvidiactl"),
    Check("gpu.cuda", "driver serves CUDA", DEEPEP, gpu.driver_for_cuda, "CUDA Compatibility guide"),
    Check("gpu.peermem", "GPUDirect RDMA", DEEPEP, gpu.peermem, "NVSHMEM transport_ib_common.cpp:24-36; sglang#6017"),
    Check("gpu.regkeys", "driver registry keys", ONLY_V1, gpu.regkeys, "DeepEP third-party/README.md:40-51; DeepEP#55, #484, nvshmem#23"),
    Check("gpu.handler", "NIC handler", ONLY_V1, gpu.handler, "NVSHMEM ibgda.cpp:4664-4679; DeepEP#509, #677, #397"),
    Check("gpu.profiling", "profiling rights", DEEPEP, gpu.profiling, "awsome-distributed-ai#1241"),
    Check("gpu.gdrdrv", "gdrdrv", DEEPEP, gpu.gdrdrv, "awsome-distributed-ai#1241"),
    Check("gpu.peers", "GPU peer access", DEEPEP, gpu_state.peers, "NVML P2P status; DeepEP#584, #216"),
    Check("gpu.nvlink", "NVLinks", DEEPEP, gpu_state.nvlink, "NVML NvLinkState"),
    Check("gpu.health", "GPU memory errors", DEEPEP, gpu_state.health, "NVML ECC, retired pages, remapped rows"),
    Check("gpu.throttling", "GPU slowdown", DEEPEP, gpu_state.throttling, "NVML clock event reasons"),
    Check("gpu.clocks", "GPU clocks and persistence", DEEPEP, gpu_state.clocks, "NVML clocks, persistence mode"),
    Check("lib.lock", "packages as locked", EVERY, packages.locked, "/opt/epbox/sbom.spdx.json of the image; DeepEP#710"),
    Check("lib.identity", "one NVSHMEM, one NCCL", DEEPEP, libraries.identity, "NeMo Automodel#2614, sglang#12949, DeepEP#710"),
    Check("lib.transports", "NVSHMEM transports", ONLY_V1, libraries.transports, "nvshmem_transport_ibgda NEEDED list"),
    Check("lib.nvshmem", "NVSHMEM fits DeepEP", DEEPEP, libraries.nvshmem_pairing, "DeepEP#696, #564, #764"),
    Check("lib.nccl", "NCCL for V2", ONLY_V2, libraries.nccl_version, "DeepEP README:70; DeepEP#710"),
    Check("lib.ibstat", "ibstat for V2", ONLY_V2, libraries.ibstat, "DeepEP deep_ep/utils/envs.py:222-268"),
    Check("lib.jit", "JIT for V2", ONLY_V2, libraries.jit, "DeepEP README; EP_JIT_CACHE_DIR"),
    Check("shape.ranks", "nodes and ranks", DEEPEP, shape.ranks, "DeepEP csrc/kernels/launch.cuh:54-71"),
    Check("shape.environment", "preset variables", DEEPEP, shape.environment, "DeepEP#336, #466; nebius/ml-cookbook#43"),
    Check("shape.mapping", "one HCA a rank", DEEPEP, shape.mapping, "DeepEP#336, #466"),
)


def relevant(workload: str) -> tuple[Check, ...]:
    """The checks that a workload needs, in the order of the table."""
    return tuple(check for check in CHECKS if workload in check.workloads)

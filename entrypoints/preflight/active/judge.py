"""From what the probe processes said to results: pure functions, tested with recorded answers."""

from collections.abc import Sequence
from typing import Any

from entrypoints.preflight.active.child import Outcome
from entrypoints.preflight.active.loopback import Loop
from entrypoints.preflight.model import Answer, failed, not_run, passed, warned

#: What to do when a probe process crashed or hung.
DIED = "the library or driver crashed or hung, in a process of its own: dmesg (Xid, mlx5_core), and the versions of both"

Records = Sequence[dict[str, Any]]


def broken(outcome: Outcome, what: str) -> Answer | None:
    """The answer when a child had nothing to work with, or died: NOT_RUN for the first, FAIL for the second."""
    if outcome.reason:
        return not_run(outcome.reason)
    if outcome.failure:
        return failed(f"{what} died: {outcome.failure}", DIED)
    return None if outcome.records else not_run(f"{what} said nothing")


def opening(devices: Records) -> Answer:
    """Every HCA opens and answers ibv_query_device."""
    bad = [f"{record['device']}: {record.get('error', 'not opened')}" for record in devices if not record["opened"] or record.get("error")]
    if bad:
        return failed(
            "; ".join(bad), "docker run --device=/dev/infiniband (pod: an rdma/... resource); udev permission of /dev/infiniband/uverbs*"
        )
    return passed(", ".join(f"{record['device']} firmware {record['firmware']}" for record in devices))


def atomics(devices: Records) -> Answer:
    """libibverbs reports atomics; necessary for NVSHMEM's own test by DEVX, which also wants masked ones."""
    known = {record["device"]: record["atomics"] for record in devices if "atomics" in record}
    if not known:
        return not_run("no device answered")
    lacking = [name for name, word in known.items() if word == "none"]
    if lacking:
        remedy = "leave it out with NVSHMEM_HCA_LIST; on a physical function: mlxconfig -d DEVICE set PCI_ATOMIC_MODE=4"
        return (failed if len(lacking) == len(known) else warned)(f"no atomics: {', '.join(lacking)}", remedy)
    return passed(", ".join(f"{name} {word}" for name, word in known.items()))


def registration(devices: Records) -> Answer:
    """Memory registers with each HCA: the real test of RLIMIT_MEMLOCK."""
    tried = [record for record in devices if "registered" in record]
    if not tried:
        return not_run("no device opened")
    bad = [f"{record['device']}: {record['register_error']}" for record in tried if record.get("register_error")]
    if bad:
        return failed(
            "; ".join(bad),
            "docker run --ulimit memlock=-1 --cap-add IPC_LOCK; host: memlock unlimited in limits.conf or LimitMEMLOCK=infinity",
        )
    return passed(f"{tried[0]['registered'] >> 20} MiB registered with {len(tried)} HCAs")


def mtu(devices: Records) -> Answer:
    """One active verbs MTU over all active ports, the largest the ports can."""
    active = {
        f"{record['device']}:{port['port']}": port for record in devices for port in record.get("ports", []) if port["state"] == "ACTIVE"
    }
    found = {name: port["active_mtu"] for name, port in active.items() if port["active_mtu"]}
    if not found:
        return not_run("no active port told its MTU")
    shown = ", ".join(f"{name} {value}" for name, value in found.items())
    if len(set(found.values())) > 1:
        return warned(
            f"active MTU differs: {shown}", "one MTU on all rails: ip link set NETDEV mtu 9000 (RoCE), opensm partition mtu=5 (InfiniBand)"
        )
    small = [name for name, port in active.items() if port["active_mtu"] and port["max_mtu"] and port["active_mtu"] < port["max_mtu"]]
    if small:
        return warned(
            f"{shown}; ports could carry {max(port['max_mtu'] or 0 for port in active.values())}",
            "RoCE: ip link set NETDEV mtu 9000 where the switches allow it",
        )
    return passed(shown)


def loopback(loops: Sequence[Loop]) -> Answer:
    """A queue pair of each HCA reached itself on the chosen GID."""
    if not loops:
        return not_run("no active port")
    bad = [f"{item.device}: {item.error}" for item in loops if item.error]
    if bad:
        return failed("; ".join(bad), "the GID index (RoCE v2 IPv4), the netdev's address and state; rdma link; ibv_devinfo -v")
    shown = ", ".join(f"{item.device} {item.gbps:.3g} Gb/s" if item.gbps is not None else f"{item.device} ok" for item in loops)
    return passed(f"{loops[0].tool}: {shown}")


def dma_buf(gpus: Records) -> Answer:
    """CUDA's DMA_BUF_SUPPORTED, the attribute that NVSHMEM asks."""
    known = {record["index"]: record.get("dma_buf") for record in gpus if "index" in record}
    if not known or all(value is None for value in known.values()):
        return not_run("CUDA does not tell DMA_BUF_SUPPORTED")
    lacking = [str(index) for index, value in known.items() if not value]
    if lacking:
        return warned(
            f"no DMA-BUF on GPU {', '.join(lacking)}",
            "modprobe nvidia_peermem on the host, or the open kernel modules; one of both is needed (gpu.peermem)",
        )
    return passed(f"DMA-BUF on {len(known)} GPUs")


def peers(gpus: Records) -> Answer:
    """cuDeviceCanAccessPeer between all pairs."""
    rows = {record["index"]: record["peers"] for record in gpus if "peers" in record}
    if len(rows) < 2:
        return passed("one GPU: no peer") if rows else not_run("no GPU told its peers")
    bad = [f"{index}-{other}" for index, row in rows.items() for other, reached in enumerate(row) if not reached]
    if bad:
        return failed(f"no peer access: {', '.join(bad[:8])}", "MIG off, fabric manager running, IOMMU and ACS off: nvidia-smi topo -p2p r")
    return passed(f"all {len(rows)} GPUs reach each other")


def copies(gpus: Records) -> Answer:
    """Host copies run at the speed of the best GPU, and what the far cores cost."""
    errors = [f"GPU{record.get('index', '?')}: {record['error']}" for record in gpus if record.get("error")]
    measured = {record["index"]: record for record in gpus if "near" in record}
    if errors:
        return failed("; ".join(errors), "the CUDA driver refuses to work: dmesg for Xid, nvidia-smi -q, other jobs' memory")
    if not measured:
        return not_run("no GPU was measured")
    shown = ", ".join(_copy_text(index, record) for index, record in measured.items())
    for way in ("h2d", "d2h"):
        best = max(record["near"][way] for record in measured.values())
        slow = [f"GPU{index}" for index, record in measured.items() if record["near"][way] < 0.8 * best]
        if slow:
            return warned(
                f"{way} of {', '.join(slow)} is below 80 % of the best: {shown}",
                "PCIe link (pci.links), other load, or a cpuset far from that GPU",
            )
    return passed(shown)


def _copy_text(index: int, record: dict[str, Any]) -> str:
    near, far = record["near"], record.get("far")
    text = f"GPU{index} h2d {near['h2d']:g} d2h {near['d2h']:g} GB/s"
    return f"{text} (far cores {far['h2d']:g}, {far['d2h']:g})" if far else text


def identity(record: dict[str, Any]) -> Answer:
    """After import: one libnvshmem_host, one libnccl, and the modules themselves work."""
    modules, libraries, versions = record["modules"], record["libraries"], record["versions"]
    absent = [
        name for name, found in modules.items() if found.get("error", "").startswith("ModuleNotFoundError: No module named " + repr(name))
    ]
    if len(absent) == len(modules):
        return not_run(f"{', '.join(absent)} not installed")
    errors = [f"{name}: {found['error']}" for name, found in modules.items() if "error" in found and name not in absent]
    if errors:
        return failed("; ".join(errors), "the recipe's image has the set that works; diagnose knows the usual import errors")
    shown = ", ".join(f"{name} {found['version']}" for name, found in modules.items() if "version" in found)
    shown += "".join(f"; {path} {version or 'version unknown'}" for path, version in versions.items())
    twice = {stem: paths for stem, paths in libraries.items() if len(paths) > 1 and stem in ("libnvshmem_host", "libnccl")}
    if twice:
        detail = "; ".join(f"{stem}: {', '.join(paths)}" for stem, paths in twice.items())
        return failed(
            f"two copies in one process: {detail}",
            "remove one, or make one win by ld.so.conf or LD_PRELOAD; two versions hang at the first dispatch",
        )
    if absent:
        return warned(f"{', '.join(absent)} not installed in this Python; {shown}", "run inside the image of the recipe, or install it")
    return passed(shown)


def transport(records: Records) -> Answer:
    """The IBGDA transport loads with everything it needs."""
    bad = [f"{record['file'].rpartition('/')[2]}: {record['error']}" for record in records if "error" in record]
    if bad:
        return failed(
            "; ".join(bad), "apt-get install libibverbs1 ibverbs-providers; one NVSHMEM major: .so.3 belongs to 3.4, .so.4 to 3.5"
        )
    return passed(", ".join(str(record["file"]) for record in records))

"""GPUs and their driver: present, mappable by the NIC, linked to each other, and healthy."""

import re

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.flags import nvidia_functions
from entrypoints.preflight.model import CAP_SYS_ADMIN, Answer, Host, failed, not_run, passed, warned

PEERMEM_FILES = (
    "sys/kernel/mm/memory_peers/nv_mem/version",
    "sys/kernel/mm/memory_peers/nvidia-peermem/version",
    "sys/module/nvidia_peermem/version",
)
#: The first kernel with dma-buf export for RDMA (kernel 5.12, drivers/infiniband/core/umem_dmabuf.c).
DMABUF_KERNEL = (5, 12)


def devices(host: Host) -> Answer:
    """GPUs, the driver, and its device nodes are all here."""
    gpus = host.topology.gpus
    if not host.deepep:
        return passed(f"{len(gpus)} GPUs; {host.workload} needs none")
    on_bus = nvidia_functions(host)
    if not gpus and not on_bus:
        return failed("no NVIDIA GPU on the PCI bus", "run on a GPU node; --for alltoall needs no GPU")
    if not host.files.exists("dev/nvidiactl"):
        if not host.files.live and not host.files.exists("dev"):
            return not_run(f"{len(gpus) or on_bus} GPUs in the topology; /dev is not part of it")
        return failed(
            f"{len(gpus) or on_bus} GPUs on the bus, but no /dev/nvidiactl",
            "docker run --gpus all (nvidia-container-toolkit on the host); pod: limits: nvidia.com/gpu; bare host: load the driver",
        )
    version = _driver(host)
    names = sorted({gpu.name for gpu in gpus if gpu.name})
    return passed(f"{len(gpus) or on_bus} GPUs{' ' + '/'.join(names) if names else ''}, driver {version or 'version unknown'}")


def _driver(host: Host) -> str | None:
    """The kernel module's version from /proc/driver/nvidia/version."""
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", host.files.maybe("proc/driver/nvidia/version") or "")
    return found[1] if found else None


def peermem(host: Host) -> Answer:
    """The NIC can reach GPU memory: by DMA-BUF, or by a peer-memory module."""
    found = [f"/{name} {host.files.maybe(name) or ''}".strip() for name in PEERMEM_FILES if host.files.exists(name)]
    if found:
        return passed(", ".join(found))
    text = host.files.text("proc/driver/nvidia/version")
    release = re.match(r"(\d+)\.(\d+)", host.files.text("proc/sys/kernel/osrelease"))
    remedy = "modprobe nvidia_peermem on the host, or the open kernel modules (525 or newer) on kernel 5.12 or newer"
    if host.environ.get("NVSHMEM_IB_DISABLE_DMABUF", "0")[:1].lower() not in ("0", "n", "f", ""):
        return failed("no peermem module, and NVSHMEM_IB_DISABLE_DMABUF forbids DMA-BUF", f"unset NVSHMEM_IB_DISABLE_DMABUF, or {remedy}")
    first = text.splitlines()[0][:90] if text else "an empty version file"
    if release is None:
        return not_run("the kernel release is not readable")
    if "Open Kernel Module" in text and (int(release[1]), int(release[2])) >= DMABUF_KERNEL:
        return passed(f"DMA-BUF: open kernel module on kernel {release[0]} (doctor --probe reads CUDA's attribute)")
    return failed(
        f"no peermem module; DMA-BUF needs the open kernel module and 5.12: kernel {release[0]}, {first}",
        remedy,
    )


def regkeys(host: Host) -> Answer:
    """The driver lets this process map the NIC's doorbell into the GPU; else IBGDA falls back to a CPU handler, and hangs or crawls."""
    parameters = host.parameters()
    dwords = parameters.get("RegistryDwords", "")
    override = "PeerMappingOverride=1" in dwords.replace(" ", "")
    stream = parameters.get("EnableStreamMemOPs") == "1" or "EnableStreamMemOPs=1" in dwords
    shown = f'RegistryDwords="{dwords}", EnableStreamMemOPs {parameters.get("EnableStreamMemOPs", "unknown")}'
    options = 'options nvidia NVreg_EnableStreamMemOPs=1 NVreg_RegistryDwords="PeerMappingOverride=1;"'
    remedy = f"host: {options} in /etc/modprobe.d/nvidia.conf, update-initramfs -u, reboot"
    if override and stream:
        return passed(shown)
    if override:
        return warned(f"{shown}: PeerMappingOverride is set, stream memory operations are not", remedy)
    if host.has_capability(CAP_SYS_ADMIN):
        return warned(
            f"{shown}; this process is privileged, for which success without them is reported",
            f"{remedy}; confirm `NIC handler will be GPU` in the log of a run",
        )
    return failed(f"{shown}, and this process is unprivileged", f"{remedy}; or docker run --privileged")


def handler(host: Host) -> Answer:
    """NVSHMEM's IBGDA ends with the GPU as NIC handler. Only a run's log proves it; the environment can forbid it."""
    asked = host.environ.get("NVSHMEM_IBGDA_NIC_HANDLER", "auto")
    if asked.startswith("cpu"):
        return failed(f"NVSHMEM_IBGDA_NIC_HANDLER={asked}", "unset it: DeepEP hangs or crawls with a CPU handler (DeepEP#509)")
    if host.log is None:
        return not_run(
            f"NVSHMEM_IBGDA_NIC_HANDLER={asked}; the outcome stands in a run's log alone",
            "after a run with NVSHMEM_DEBUG=INFO: doctor --log FILE; bench looks for it itself",
        )
    outcomes = re.findall(r"NIC handler will be (\w+)", host.log)
    if not outcomes:
        return not_run("the log has no `NIC handler will be` line", "run with NVSHMEM_DEBUG=INFO NVSHMEM_DEBUG_SUBSYS=INIT,TRANSPORT")
    wrong = [word for word in outcomes if word.upper() != "GPU"]
    if wrong:
        return failed(
            f"{len(wrong)} of {len(outcomes)} processes: NIC handler {wrong[0]}", "the GPU cannot map the doorbell: see gpu.regkeys"
        )
    return passed(f"NIC handler GPU in {len(outcomes)} processes")


def profiling(host: Host) -> Answer:
    """DeepEP's tuning tests profile by CUPTI, which the driver may reserve to administrators."""
    value = host.parameters().get("RmProfilingAdminOnly")
    if value is None:
        return not_run("/proc/driver/nvidia/params has no RmProfilingAdminOnly")
    if value == "0":
        return passed("RmProfilingAdminOnly 0")
    if host.has_capability(CAP_SYS_ADMIN):
        return passed(f"RmProfilingAdminOnly {value}, and this process has CAP_SYS_ADMIN")
    return warned(
        f"RmProfilingAdminOnly {value} without CAP_SYS_ADMIN: kernel times may be missing",
        "host: options nvidia NVreg_RestrictProfilingToAdminUsers=0; or --cap-add SYS_ADMIN",
    )


def peers(host: Host) -> Answer:
    """Every GPU reaches every other by P2P; MIG forbids it."""
    gpus = host.probes.gpus().gpus
    if not gpus:
        return not_run("NVML lists no GPU")
    mig = [str(gpu.index) for gpu in gpus if gpu.mig]
    if mig:
        return failed(f"MIG is on at GPU {', '.join(mig)}", "nvidia-smi -mig 0 -i N: DeepEP needs whole GPUs")
    if len(gpus) == 1:
        return passed("one GPU: no peer")
    if any(gpu.peers is None for gpu in gpus):
        return not_run("NVML does not tell the P2P status")
    bad = [f"{gpu.index}-{other}: {word}" for gpu in gpus for other, word in enumerate(gpu.peers or ()) if word != "OK"]
    if bad:
        return failed(
            f"{len(bad)} pairs without P2P ({'; '.join(bad[:4])})",
            "all GPUs of a node must be linked; fabric manager running? (systemctl status nvidia-fabricmanager)",
        )
    return passed(f"P2P between all {len(gpus)} GPUs")


def nvlink(host: Host) -> Answer:
    """As many active NVLinks on each GPU, none of them down."""
    gpus = host.probes.gpus().gpus
    if not gpus or all(gpu.nvlink is None for gpu in gpus):
        return not_run("NVML tells no NVLink state (none, or not supported)")
    active = {gpu.index: sum(gpu.nvlink or ()) for gpu in gpus}
    total = max(len(gpu.nvlink or ()) for gpu in gpus)
    shown = ", ".join(f"GPU{index} {count}/{total}" for index, count in active.items())
    if len(gpus) > 1 and (host.files.maybe("proc/driver/nvidia/params") or "").find("NvLinkDisable: 1") >= 0:
        return failed(
            f"NvLinkDisable: 1 in /proc/driver/nvidia/params; {shown}", "host: drop NVreg_NvLinkDisable=1 from modprobe.d, reboot"
        )
    if len(gpus) > 1 and min(active.values()) == 0:
        return failed(
            f"no active NVLink: {shown}",
            "nvidia-fabricmanager on the host, then nvidia-smi nvlink -s; a GPU without NVLink cannot take part",
        )
    if len(set(active.values())) > 1:
        return warned(f"NVLinks differ: {shown}", "nvidia-smi nvlink -e on the host; reset or replace the GPU or baseboard")
    return passed(f"{next(iter(active.values()))} of {total} NVLinks active on each of {len(gpus)} GPUs")


def health(host: Host) -> Answer:
    """No uncorrected ECC errors, no retired page or remapped row that waits for a reset."""
    gpus = host.probes.gpus().gpus
    if not gpus or all(gpu.uncorrected is None and gpu.remap_failed is None and gpu.retired_pending is None for gpu in gpus):
        return not_run("NVML tells neither ECC counts nor retired pages")
    broken = [f"GPU{gpu.index} row remapping failed" for gpu in gpus if gpu.remap_failed]
    broken += [f"GPU{gpu.index} {gpu.uncorrected} uncorrected ECC errors" for gpu in gpus if gpu.uncorrected]
    if broken:
        return failed("; ".join(broken), "drain the node; reset the GPU, and replace it if the errors come back")
    pending = [f"GPU{gpu.index}" for gpu in gpus if gpu.retired_pending or gpu.remap_pending]
    if pending:
        return warned(f"pages or rows wait to be replaced: {', '.join(pending)}", "nvidia-smi --gpu-reset -i N when idle, or reboot")
    return passed(f"no uncorrected error on {len(gpus)} GPUs")


def throttling(host: Host) -> Answer:
    """No GPU is slowed by heat or power right now."""
    gpus = host.probes.gpus().gpus
    if not gpus or all(gpu.throttles is None for gpu in gpus):
        return not_run("NVML tells no clock event reasons")
    slowed = [f"GPU{gpu.index} {'/'.join(gpu.throttles)}" for gpu in gpus if gpu.throttles]
    if slowed:
        return warned("; ".join(slowed), "cooling and power supply of the node: nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER")
    return passed(f"no slowdown on {len(gpus)} GPUs")


def clocks(host: Host) -> Answer:
    """Persistence mode on, the highest clock the same on all GPUs, PCIe at full width, and nobody else's memory in use."""
    gpus = host.probes.gpus().gpus
    if not gpus:
        return not_run("NVML lists no GPU")
    problems = [f"GPU{gpu.index} persistence off" for gpu in gpus if gpu.persistence is False]
    if len({gpu.max_sm_clock for gpu in gpus}) > 1:
        problems.append("highest SM clock differs: " + ", ".join(f"GPU{gpu.index} {gpu.max_sm_clock}" for gpu in gpus))
    problems += [f"GPU{gpu.index} compute mode {gpu.compute_mode}" for gpu in gpus if gpu.compute_mode not in (None, 0)]
    problems += [f"GPU{gpu.index} {(gpu.memory_used or 0) >> 20} MiB in use" for gpu in gpus if (gpu.memory_used or 0) > 2 << 30]
    shown = f"SM clock {'/'.join(sorted({str(gpu.sm_clock) for gpu in gpus}))} now, {gpus[0].max_sm_clock} MHz at most"
    if problems:
        return warned(
            f"{'; '.join(problems)}; {shown}",
            "nvidia-smi -pm 1, nvidia-smi -c DEFAULT, and end other jobs: nvidia-smi --query-compute-apps=pid,name --format=csv",
        )
    return passed(f"{shown}, persistence on, GPUs idle")


def gdrdrv(host: Host) -> Answer:
    """/dev/gdrdrv is needed for EFA's GIN and for CPU handlers alone."""
    drivers = {hca.driver for hca in host.topology.hcas if hca.driver}
    if not drivers:
        return not_run("no HCA with a known driver: the need is unknown")
    needed = "efa" in drivers or host.environ.get("NVSHMEM_IBGDA_NIC_HANDLER", "").startswith("cpu")
    if not needed:
        return passed(f"{'/'.join(sorted(drivers))} with the GPU handler needs no gdrdrv")
    if host.files.exists("dev/gdrdrv"):
        return passed("/dev/gdrdrv")
    return failed(
        "/dev/gdrdrv is absent, and EFA or a CPU handler needs it", "host: modprobe gdrdrv (gdrcopy); docker run --device=/dev/gdrdrv"
    )


def driver_for_cuda(host: Host) -> Answer:
    """The driver serves the CUDA major version of the installed packages."""
    from entrypoints.preflight.libraries import cuda_version

    wanted = cuda_version(host)
    if wanted is None:
        return not_run("no CUDA runtime package is installed")
    try:
        served = host.probes.gpus().cuda
    except NotReadable:
        served = None
    version = _driver(host)
    # Least driver of a CUDA major release (CUDA Compatibility guide, table 1).
    least = {11: 450, 12: 525, 13: 580}.get(wanted[0])
    if served is None and version and least:
        served = (wanted[0] if int(version.split(".")[0]) >= least else wanted[0] - 1, 0)
    if served is None:
        return not_run("neither NVML nor /proc/driver/nvidia/version tells the driver's CUDA")
    shown = (
        f"CUDA {wanted[0]}.{wanted[1]} packages, driver {version or '?'} serves CUDA {served[0]}{'' if served[1] == 0 else f'.{served[1]}'}"
    )
    if served[0] < wanted[0]:
        return failed(shown, f"a driver of {least or 'a newer'} or newer on the host, or an image for CUDA {served[0]}")
    return passed(shown)

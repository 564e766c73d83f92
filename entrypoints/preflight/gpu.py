"""The GPU driver: present, new enough, and set up so that NIC and GPU reach each other."""

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
    if host.nodes == 1:
        return warned(f"{shown}: enough on one node, where NVLink carries everything", remedy)
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

"""The GPU driver, set up so that NIC and GPU reach each other, and GPUs as NVML sees them: linked, healthy, at full speed, idle."""

import re

from entrypoints.facts import pairs
from entrypoints.facts.container import need
from entrypoints.preflight.container import nvidia_functions
from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.libraries import cuda_version
from entrypoints.preflight.model import Answer, Host, failed, not_run, passed, warned

#: The driver's parameters, one `key: value` a line.
PARAMETERS = "proc/driver/nvidia/params"
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
        remedy = "docker run --gpus all (nvidia-container-toolkit on the host); pod: limits: nvidia.com/gpu; bare host: load the driver"
        return failed(f"{len(gpus) or on_bus} GPUs on the bus, but no /dev/nvidiactl", remedy)
    version = driver_version(host)
    names = sorted({gpu.name for gpu in gpus if gpu.name})
    return passed(f"{len(gpus) or on_bus} GPUs{' ' + '/'.join(names) if names else ''}, driver {version or 'version unknown'}")


def driver_version(host: Host) -> str | None:
    """The kernel module's version from /proc/driver/nvidia/version."""
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", host.files.maybe("proc/driver/nvidia/version") or "")
    return match[1] if match else None


def peermem(host: Host) -> Answer:
    """The NIC can reach GPU memory: by DMA-BUF, or by a peer-memory module."""
    modules = [f"/{name} {host.files.maybe(name) or ''}".strip() for name in PEERMEM_FILES if host.files.exists(name)]
    if modules:
        return passed(", ".join(modules))
    text = host.files.text("proc/driver/nvidia/version")
    release = re.match(r"(\d+)\.(\d+)", host.files.text("proc/sys/kernel/osrelease"))
    remedy = "modprobe nvidia_peermem on the host, or the open kernel modules (525 or newer) on kernel 5.12 or newer"
    if host.is_set("NVSHMEM_IB_DISABLE_DMABUF"):
        return failed("no peermem module, and NVSHMEM_IB_DISABLE_DMABUF forbids DMA-BUF", f"unset NVSHMEM_IB_DISABLE_DMABUF, or {remedy}")
    first = text.splitlines()[0][:90] if text else "an empty version file"
    if release is None:
        return not_run("the kernel release is not readable")
    if "Open Kernel Module" in text and (int(release[1]), int(release[2])) >= DMABUF_KERNEL:
        return passed(f"DMA-BUF: open kernel module on kernel {release[0]} (doctor --probe reads CUDA's attribute)")
    return failed(f"no peermem module; DMA-BUF needs the open kernel module and 5.12: kernel {release[0]}, {first}", remedy)


def regkeys(host: Host) -> Answer:
    """The driver lets this process map the NIC's doorbell into the GPU; else IBGDA falls back to a CPU handler, and hangs or crawls."""
    parameters = host.fields(PARAMETERS)
    dwords = parameters.get("RegistryDwords", "")
    override = "PeerMappingOverride=1" in dwords.replace(" ", "")
    stream = parameters.get("EnableStreamMemOPs") == "1" or "EnableStreamMemOPs=1" in dwords
    evidence = f'RegistryDwords="{dwords}", EnableStreamMemOPs {parameters.get("EnableStreamMemOPs", "unknown")}'
    options = 'options nvidia NVreg_EnableStreamMemOPs=1 NVreg_RegistryDwords="PeerMappingOverride=1;"'
    remedy = f"host: {options} in /etc/modprobe.d/nvidia.conf, update-initramfs -u, reboot"
    if override and stream:
        return passed(evidence)
    if override:
        return warned(f"{evidence}: PeerMappingOverride is set, stream memory operations are not", remedy)
    if host.nodes == 1:
        return warned(f"{evidence}: enough on one node, where NVLink carries everything", remedy)
    if host.has_capability(need("profiling").number):
        remedy = f"{remedy}; confirm `NIC handler will be GPU` in the log of a run"
        return warned(f"{evidence}; this process is privileged, for which success without them is reported", remedy)
    return failed(f"{evidence}, and this process is unprivileged", f"{remedy}; or docker run --privileged")


def handler(host: Host) -> Answer:
    """NVSHMEM's IBGDA ends with the GPU as NIC handler. Only a run's log proves it; the environment can forbid it."""
    requested = host.environ.get("NVSHMEM_IBGDA_NIC_HANDLER", "auto")
    if requested.startswith("cpu"):
        return failed(f"NVSHMEM_IBGDA_NIC_HANDLER={requested}", "unset it: DeepEP hangs or crawls with a CPU handler (DeepEP#509)")
    if host.log is None:
        remedy = "after a run with NVSHMEM_DEBUG=INFO: doctor --log FILE; bench looks for it itself"
        return not_run(f"NVSHMEM_IBGDA_NIC_HANDLER={requested}; the outcome stands in a run's log alone", remedy)
    outcomes = re.findall(r"NIC handler will be (\w+)", host.log)
    if not outcomes:
        return not_run("the log has no `NIC handler will be` line", "run with NVSHMEM_DEBUG=INFO NVSHMEM_DEBUG_SUBSYS=INIT,TRANSPORT")
    wrong = [word for word in outcomes if word.upper() != "GPU"]
    if wrong:
        remedy = "the GPU cannot map the doorbell: see gpu.regkeys"
        return failed(f"{len(wrong)} of {len(outcomes)} processes: NIC handler {wrong[0]}", remedy)
    return passed(f"NIC handler GPU in {len(outcomes)} processes")


def profiling(host: Host) -> Answer:
    """DeepEP's tuning tests profile by CUPTI, which the driver may reserve to administrators."""
    value = host.fields(PARAMETERS).get("RmProfilingAdminOnly")
    if value is None:
        return not_run("/proc/driver/nvidia/params has no RmProfilingAdminOnly")
    if value == "0":
        return passed("RmProfilingAdminOnly 0")
    if host.has_capability(need("profiling").number):
        return passed(f"RmProfilingAdminOnly {value}, and this process has CAP_{need('profiling').value}")
    remedy = f"host: options nvidia NVreg_RestrictProfilingToAdminUsers=0; or {need('profiling').docker}"
    return warned(f"RmProfilingAdminOnly {value} without CAP_{need('profiling').value}: kernel times may be missing", remedy)


def gdrdrv(host: Host) -> Answer:
    """GDRCopy's device is needed for EFA's GIN and for CPU handlers alone."""
    drivers = {hca.driver for hca in host.topology.hcas if hca.driver}
    if not drivers:
        return not_run("no HCA with a known driver: the need is unknown")
    needed = "efa" in drivers or host.environ.get("NVSHMEM_IBGDA_NIC_HANDLER", "").startswith("cpu")
    if not needed:
        return passed(f"{'/'.join(sorted(drivers))} with the GPU handler needs no gdrdrv")
    device = need("gdrcopy")
    if host.files.exists(device.value.lstrip("/")):
        return passed(device.value)
    remedy = f"host: modprobe gdrdrv (gdrcopy); docker run {device.docker}"
    return failed(f"{device.value} is absent, and EFA or a CPU handler needs it", remedy)


def driver_for_cuda(host: Host) -> Answer:
    """The driver serves the CUDA major version of the installed packages: by NVML, else by facts/pairs.toml."""
    wanted, driver = cuda_version(host), driver_version(host)
    if wanted is None:
        return not_run("no CUDA runtime package is installed")
    major = pairs.release(wanted)[0]
    of_driver = [pair for pair in pairs.table() if "driver.version" in pair.when]
    rule = next((pair for pair in of_driver if pairs.holds("cuda.version", wanted, pair.when["cuda.version"])), None)
    try:
        served = host.probes.gpus().cuda
    except NotReadable:
        served = None
    if served is None and driver and rule:
        served = (major - 1 if rule.matches({"cuda.version": wanted, "driver.version": driver}) else major, 0)
    if served is None:
        return not_run("neither NVML nor /proc/driver/nvidia/version tells the driver's CUDA")
    evidence = f"CUDA {wanted} packages, driver {driver or '?'} serves CUDA {served[0]}{'' if served[1] == 0 else f'.{served[1]}'}"
    if served[0] < major:
        return failed(evidence, rule.remedy if rule else f"a newer driver on the host, or an image for CUDA {served[0]}")
    return passed(evidence)


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
        remedy = "all GPUs of a node must be linked; fabric manager running? (systemctl status nvidia-fabricmanager)"
        return failed(f"{len(bad)} pairs without P2P ({'; '.join(bad[:4])})", remedy)
    return passed(f"P2P between all {len(gpus)} GPUs")


def nvlink(host: Host) -> Answer:
    """As many active NVLinks on each GPU, none of them down."""
    gpus = host.probes.gpus().gpus
    if not gpus or all(gpu.nvlink is None for gpu in gpus):
        return not_run("NVML tells no NVLink state (none, or not supported)")
    active = {gpu.index: sum(gpu.nvlink or ()) for gpu in gpus}
    total = max(len(gpu.nvlink or ()) for gpu in gpus)
    evidence = ", ".join(f"GPU{index} {count}/{total}" for index, count in active.items())
    if len(gpus) > 1 and "NvLinkDisable: 1" in (host.files.maybe(PARAMETERS) or ""):
        remedy = "host: drop NVreg_NvLinkDisable=1 from modprobe.d, reboot"
        return failed(f"NvLinkDisable: 1 in /proc/driver/nvidia/params; {evidence}", remedy)
    if len(gpus) > 1 and min(active.values()) == 0:
        remedy = "nvidia-fabricmanager on the host, then nvidia-smi nvlink -s; a GPU without NVLink cannot take part"
        return failed(f"no active NVLink: {evidence}", remedy)
    if len(set(active.values())) > 1:
        return warned(f"NVLinks differ: {evidence}", "nvidia-smi nvlink -e on the host; reset or replace the GPU or baseboard")
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
    evidence = f"SM clock {'/'.join(sorted({str(gpu.sm_clock) for gpu in gpus}))} now, {gpus[0].max_sm_clock} MHz at most"
    if problems:
        remedy = "nvidia-smi -pm 1, nvidia-smi -c DEFAULT, and end other jobs: nvidia-smi --query-compute-apps=pid,name --format=csv"
        return warned(f"{'; '.join(problems)}; {evidence}", remedy)
    return passed(f"{evidence}, persistence on, GPUs idle")

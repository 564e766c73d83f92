"""GPUs as NVML sees them: linked to each other, healthy, at full speed, and idle."""

from entrypoints.preflight.model import Answer, Host, failed, not_run, passed, warned


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

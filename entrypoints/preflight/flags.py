"""Which container flags a workload lacks here, and the `docker run` and pod fields that would pass."""

import math
from dataclasses import dataclass

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import CAP_IPC_LOCK, CAP_SYS_NICE, Host

GPU_CLASSES = ("0x0300", "0x0302")


@dataclass(frozen=True)
class Flag:
    """One flag of `docker run`, and why it is needed here."""

    docker: str
    why: str


def environment_kind(host: Host) -> str:
    """docker, podman, kubernetes, apptainer, slurm container or host, by the marks that each leaves."""
    if host.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if host.files.exists(".dockerenv"):
        return "docker"
    if host.files.exists("run/.containerenv"):
        return "podman"
    if host.environ.get("APPTAINER_CONTAINER") or host.files.exists(".singularity.d"):
        return "apptainer"
    if host.environ.get("container"):
        return f"container ({host.environ['container']})"
    cgroup = host.files.maybe("proc/1/cgroup") or ""
    return "container" if any(word in cgroup for word in ("docker", "kubepods", "containerd", "libpod")) else "host"


def nvidia_functions(host: Host) -> int:
    """GPUs on the PCI bus, whether or not this container was given them."""
    base, count = "sys/bus/pci/devices", 0
    for name in host.files.maybe_names(base):
        kind = host.files.maybe(f"{base}/{name}/class") or ""
        count += kind[:6] in GPU_CLASSES and host.files.maybe(f"{base}/{name}/vendor") == "0x10de"
    return count


def missing(host: Host) -> tuple[Flag, ...]:
    """Flags that this container lacks for its workload; what cannot be read is not called missing, and a bare host lacks none."""
    lacking: list[Flag] = []
    if environment_kind(host) == "host":
        return ()
    if host.deepep and nvidia_functions(host) and not host.files.exists("dev/nvidiactl"):
        lacking.append(Flag("--gpus all", "GPUs are on the bus, /dev/nvidiactl is not here"))
    if host.deepep and host.topology.hcas and all(hca.openable is False for hca in host.topology.hcas):
        lacking.append(Flag("--device=/dev/infiniband", "HCAs are in sysfs, no uverbs node opens"))
    if host.deepep and _memlock_short(host):
        lacking += [Flag("--ulimit memlock=-1", "RDMA pins memory"), Flag("--cap-add IPC_LOCK", "RDMA pins memory")]
    if _mempolicy_denied(host):
        lacking.append(Flag("--cap-add SYS_NICE", "set_mempolicy is denied"))
    if _shm_small(host):
        lacking.append(Flag("--ipc=host", "/dev/shm is below 1 GiB"))
    return tuple(lacking)


def _memlock_short(host: Host) -> bool:
    try:
        return not math.isinf(host.limit("Max locked memory")[0]) and not host.has_capability(CAP_IPC_LOCK)
    except NotReadable:
        return False


def _mempolicy_denied(host: Host) -> bool:
    try:
        return host.probes.mempolicy_errno() != 0
    except NotReadable:
        try:
            return host.status("Seccomp") != "0" and not host.has_capability(CAP_SYS_NICE)
        except NotReadable:
            return False


def _shm_small(host: Host) -> bool:
    try:
        return host.probes.space("/dev/shm")[0] < 1 << 30
    except NotReadable:
        return "size=65536k" in "".join(line for line in (host.files.maybe("proc/self/mounts") or "").splitlines() if " /dev/shm " in line)


def run_flags(rdma: bool, gpus: str = "all") -> tuple[Flag, ...]:
    """What `docker run` needs for a workload, over RDMA or without: one list for advice and rendered commands. Nothing is privileged."""
    device = [Flag(f"--gpus {gpus}", "GPUs")] if gpus != "none" else []
    fabric = [
        Flag("--device=/dev/infiniband", "verbs devices of the HCAs"),
        Flag("--network=host", "RDMA needs the host's network name space: GIDs and interfaces are there"),
        Flag("--ulimit memlock=-1", "RDMA pins memory"),
        Flag("--cap-add IPC_LOCK", "RDMA pins memory"),
    ]
    every = [Flag("--cap-add SYS_NICE", "opens the memory policy calls"), Flag("--ipc=host", "64 MiB of /dev/shm are too few for 8 ranks")]
    return (*device, *(fabric if rdma else ()), *every)


def docker_run(host: Host) -> str:
    """The least `docker run` under which every container check of the workload passes."""
    flags = [flag.docker for flag in run_flags(host.deepep, "all" if host.deepep else "none")]
    return f"docker run --rm {' '.join(flags)} IMAGE bench"


def pod_spec(host: Host) -> str:
    """The same as container fields of a pod, in YAML's flow style so that it fits a line and can be pasted."""
    capabilities = "[IPC_LOCK, SYS_NICE]" if host.deepep else "[SYS_NICE]"
    gpus = len(host.topology.gpus) or 8
    resources = f", resources: {{limits: {{nvidia.com/gpu: {gpus}, rdma/hca: 1}}}}" if host.deepep else ""
    mount = "volumeMounts: [{name: shm, mountPath: /dev/shm}]"
    container = f"{{securityContext: {{capabilities: {{add: {capabilities}}}}}{resources}, {mount}}}"
    return f"{container}, with volumes: [{{name: shm, emptyDir: {{medium: Memory}}}}]"

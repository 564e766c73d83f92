"""A container's limits, shared memory, namespaces, CPU quota and system calls, and the options that it lacks."""

import errno
import math
import re
from collections.abc import Callable

from entrypoints.facts import container as rights
from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import Answer, Host, failed, not_run, passed, warned

MIB = 1 << 20
GPU_CLASSES = ("0x0300", "0x0302")
#: Inode numbers of the first namespaces (include/linux/proc_ns.h): equal means that it is the host's own.
FIRST_NAMESPACES = {"ipc": 0xEFFFFFFF, "pid": 0xEFFFFFFC}
#: Variables by which launchers say how many processes share this node.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "MPI_LOCALNRANKS")


def environment_kind(host: Host) -> str:
    """docker, podman, kubernetes, apptainer, slurm container or host, by the marks that each leaves."""
    container, cgroup = host.environ.get("container"), host.files.maybe("proc/1/cgroup") or ""
    marks = {
        "kubernetes": host.environ.get("KUBERNETES_SERVICE_HOST"),
        "docker": host.files.exists(".dockerenv"),
        "podman": host.files.exists("run/.containerenv"),
        "apptainer": host.environ.get("APPTAINER_CONTAINER") or host.files.exists(".singularity.d"),
        f"container ({container})": container,
        "container": any(word in cgroup for word in ("docker", "kubepods", "containerd", "libpod")),
    }
    return next((kind for kind, mark in marks.items() if mark), "host")


def nvidia_functions(host: Host) -> int:
    """GPUs on the PCI bus, whether or not this container was given them."""
    base, count = "sys/bus/pci/devices", 0
    for name in host.files.maybe_names(base):
        kind = host.files.maybe(f"{base}/{name}/class") or ""
        count += kind[:6] in GPU_CLASSES and host.files.maybe(f"{base}/{name}/vendor") == "0x10de"
    return count


def missing(host: Host) -> dict[str, str]:
    """Options of `docker run` that are missing here for the workload, and what shows it; nothing unreadable, and none on a bare host."""
    if environment_kind(host) == "host":
        return {}
    no_gpu = bool(nvidia_functions(host)) and not host.files.exists("dev/nvidiactl")
    no_hca = bool(host.topology.hcas) and all(hca.openable is False for hca in host.topology.hcas)
    rows = (
        ("gpus", host.deepep and no_gpu, "GPUs are on the bus, /dev/nvidiactl is not here"),
        ("rdma-devices", host.deepep and no_hca, "HCAs are in sysfs, no uverbs node opens"),
        ("memlock", host.deepep and _is_remedied_by("memlock", memlock, host), "RDMA pins memory"),
        ("lock-memory", host.deepep and _is_remedied_by("lock-memory", memlock, host), "RDMA pins memory"),
        ("memory-policy", _is_remedied_by("memory-policy", mempolicy, host), "set_mempolicy is denied"),
        ("shared-memory", _is_remedied_by("shared-memory", shared_memory, host), "/dev/shm is below 1 GiB"),
    )
    return {rights.need(name).docker: why for name, is_missing, why in rows if is_missing}


def _is_remedied_by(name: str, check: Callable[[Host], Answer], host: Host) -> bool:
    """True when the check does not pass and its remedy is this row of facts/container.toml."""
    try:
        return rights.need(name).docker in check(host).remedy
    except NotReadable:
        return False


def docker_run(host: Host) -> str:
    """The least `docker run` under which every container check of the workload passes."""
    return f"docker run --rm {' '.join(row.docker for row in _needed(host) if row.docker)} IMAGE bench"


def pod_spec(host: Host) -> str:
    """The same as container fields of a pod, in YAML's flow style so that it fits a line and can be pasted."""
    capabilities = ", ".join(rights.values(_needed(host), "capability"))
    gpus = len(host.topology.gpus) or 8
    resources = f", resources: {{limits: {{nvidia.com/gpu: {gpus}, rdma/hca: 1}}}}" if host.deepep else ""
    mount = "volumeMounts: [{name: shm, mountPath: /dev/shm}]"
    fields = f"{{securityContext: {{capabilities: {{add: [{capabilities}]}}}}{resources}, {mount}}}"
    return f"{fields}, with volumes: [{{name: shm, emptyDir: {{medium: Memory}}}}]"


def _needed(host: Host) -> tuple[rights.Need, ...]:
    return rights.needed(gpus=host.deepep, rdma=host.deepep, several_nodes=host.several_nodes)


def memlock(host: Host) -> Answer:
    """RDMA pins memory: RLIMIT_MEMLOCK unlimited, or the capability that lifts it."""
    soft, _ = host.limit("Max locked memory")
    need = rights.need("lock-memory")
    if math.isinf(soft):
        return passed("memlock unlimited")
    if host.has_capability(need.number):
        return passed(f"memlock {_size(soft)}, lifted by CAP_{need.value}")
    remedy = f"{rights.advice('memlock', 'lock-memory')}; host: limits.conf memlock unlimited"
    shown = f"memlock {_size(soft)} without CAP_{need.value}"
    if host.nodes == 1 and not host.topology.hcas:
        return warned(f"{shown}: enough without an HCA", remedy)
    return failed(shown, remedy)


def open_files(host: Host) -> Answer:
    """Every rank opens sockets to all peers, devices and shared memory."""
    soft, hard = host.limit("Max open files")
    shown = f"open files {soft:.0f} soft, {hard:.0f} hard"
    if soft >= 4096:
        return passed(shown)
    remedy = "docker run --ulimit nofile=65536; on a host: ulimit -n 65536"
    return failed(shown, remedy) if hard < 1024 else warned(shown, remedy)


def shared_memory(host: Host) -> Answer:
    """/dev/shm holds NCCL's and NVSHMEM's host buffers between ranks; Docker gives 64 MiB."""
    total, free = _shm(host)
    shown = f"/dev/shm {_size(total)}" + ("" if free is None else f", {_size(free)} free")
    need = rights.need("shared-memory")
    remedy = f"docker run {need.docker}, or {need.instead}; pod: an emptyDir of medium Memory at /dev/shm"
    least = total if free is None else free
    if least < 32 * MIB:
        return failed(shown, remedy)
    if least < rights.LEAST_SHM_BYTES:
        return warned(f"{shown}: enough for 2 ranks, not for 8 with NCCL", remedy)
    return passed(shown)


def _shm(host: Host) -> tuple[int, int | None]:
    """Total and free bytes: by statvfs where the host runs, else from the mount's size option."""
    try:
        return host.probes.space("/dev/shm")
    except NotReadable:
        if host.files.live:
            raise
    mounts = [words for line in host.files.text("proc/self/mounts").splitlines() if (words := line.split())[1:2] == ["/dev/shm"]]
    if not mounts:
        raise NotReadable("/dev/shm is not mounted")
    # The last mount on a folder is the one that is seen.
    size = re.search(r"(?:^|[ ,])size=([0-9]+)([kmg]?)(?:[ ,]|$)", " ".join(mounts[-1][3:4]), re.IGNORECASE)
    if size is None:
        raise NotReadable("/dev/shm is mounted without a size")
    return int(size[1]) * {"k": 1024, "m": MIB, "g": 1024 * MIB}.get(size[2].lower(), 1), None


def namespaces(host: Host) -> Answer:
    """Ranks of a node must share one PID and IPC namespace: CUDA IPC fails between containers with private PID namespaces."""
    private: list[str] = []
    for name, first in FIRST_NAMESPACES.items():
        link = host.files.link(f"proc/self/ns/{name}")
        if link is None:
            return not_run(f"/proc/self/ns/{name} is not readable")
        if link != f"{name}:[{first}]":
            private.append(name)
    shown = f"private {' and '.join(private)} namespace" if private else "the host's IPC and PID namespaces"
    sizes = [f"{key}={host.environ[key]}" for key in LOCAL_SIZES if host.environ.get(key, "1") not in ("", "1")]
    if private and sizes:
        remedy = "one container a node for all its ranks (what bench does), or --pid=host --ipc=host for each"
        return warned(f"{shown}, and {', '.join(sizes)}: is each rank in a container of its own?", remedy)
    return passed(f"{shown}; all ranks of a node run in this one container" if private else shown)


def mempolicy(host: Host) -> Answer:
    """set_mempolicy(2) works, so that memory can be bound; Docker's default seccomp profile forbids it without a capability."""
    need = rights.need("memory-policy")
    remedy = f"{rights.advice('memory-policy')}; or {need.instead}"
    try:
        code = host.probes.mempolicy_errno()
    except NotReadable:
        mode = host.status("Seccomp")
        if mode == "0":
            return passed("no seccomp filter on this process")
        if host.has_capability(need.number):
            return not_run(f"Seccomp {mode} with CAP_{need.value}: only a call could tell")
        return warned(f"Seccomp {mode} without CAP_{need.value}: Docker's profile then denies set_mempolicy", remedy)
    if code == 0:
        return passed("set_mempolicy is allowed")
    if code == errno.ENOSYS:
        return warned("the kernel has no set_mempolicy (CONFIG_NUMA is off)", "nothing to do on one memory node; else a kernel with NUMA")
    return warned(f"set_mempolicy: {errno.errorcode.get(code, code)}; memory then follows first touch from bound cores", remedy)


def cpu_quota(host: Host) -> Answer:
    """A CFS quota below the allowed cores throttles ranks in bursts; affinity does not show it."""
    allowed = len(host.topology.allowed.cpus) or len(host.topology.cpus)
    quota = _quota(host)
    if quota is None:
        return not_run("no cgroup CPU controller is visible")
    if math.isinf(quota):
        return passed(f"no CPU quota, {allowed} CPUs allowed")
    shown = f"CPU quota {quota:g} of {allowed} allowed CPUs"
    if allowed and quota < allowed:
        return warned(shown, "drop --cpus / limits.cpu, or request whole CPUs under the static CPU manager")
    return passed(shown)


def _quota(host: Host) -> float | None:
    """CPUs' worth of time per period: cgroup v2 cpu.max, else v1 cfs files; inf without a limit."""
    words = (host.files.maybe("sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and words[0] == "max":
        return math.inf
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    quota, period = (host.files.number(f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota is not None and period:
        return math.inf if quota < 0 else quota / period
    # The root of a cgroup v2 hierarchy has no cpu.max: nothing limits it.
    return math.inf if host.files.exists("sys/fs/cgroup/cgroup.controllers") else None


def runtime(host: Host) -> Answer:
    """All flags that the workload needs in one place, as the exact command that would pass."""
    host.status("Seccomp")  # without /proc nothing could be seen to be missing
    kind = environment_kind(host)
    lacking = missing(host)
    if not lacking:
        return passed("no container" if kind == "host" else f"{kind}; nothing is missing for {host.workload}")
    shown = f"{kind}; missing: " + ", ".join(lacking)
    return warned(shown, f"{docker_run(host)}  |  pod: {pod_spec(host)}")


def _size(value: float) -> str:
    if math.isinf(value):
        return "unlimited"
    for unit, scale in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1024)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"

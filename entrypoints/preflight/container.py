"""What the container was given: limits, shared memory, namespaces, CPU quota, system calls."""

import errno
import math

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.flags import docker_run, environment_kind, missing, pod_spec
from entrypoints.preflight.model import CAP_IPC_LOCK, CAP_SYS_NICE, Answer, Host, failed, not_run, passed, warned

MIB = 1 << 20
#: Inode numbers of the first namespaces (include/linux/proc_ns.h): equal means that it is the host's own.
FIRST_NAMESPACES = {"ipc": 0xEFFFFFFF, "uts": 0xEFFFFFFE, "user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}
#: Variables by which launchers say how many processes share this node.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "MPI_LOCALNRANKS")


def memlock(host: Host) -> Answer:
    """RDMA pins memory: RLIMIT_MEMLOCK unlimited, or CAP_IPC_LOCK."""
    soft, _ = host.limit("Max locked memory")
    if math.isinf(soft):
        return passed("memlock unlimited")
    if host.has_capability(CAP_IPC_LOCK):
        return passed(f"memlock {_size(soft)}, lifted by CAP_IPC_LOCK")
    remedy = "docker run --ulimit memlock=-1 --cap-add IPC_LOCK; pod: capabilities.add: [IPC_LOCK]; host: limits.conf memlock unlimited"
    shown = f"memlock {_size(soft)} without CAP_IPC_LOCK"
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
    remedy = "docker run --ipc=host, or --shm-size=8g; pod: an emptyDir of medium Memory at /dev/shm"
    least = total if free is None else free
    if least < 32 * MIB:
        return failed(shown, remedy)
    if least < 1024 * MIB:
        return warned(f"{shown}: enough for 2 ranks, not for 8 with NCCL", remedy)
    return passed(shown)


def _shm(host: Host) -> tuple[int, int | None]:
    """Total and free bytes: by statvfs where the host runs, else from the mount's size option."""
    try:
        return host.probes.space("/dev/shm")
    except NotReadable:
        if host.files.live:
            raise
    # The last mount on a place is the one that is seen.
    for line in reversed(host.files.text("proc/self/mounts").splitlines()):
        words = line.split()
        if len(words) > 3 and words[1] == "/dev/shm":
            for option in words[3].split(","):
                key, _, value = option.partition("=")
                scale = {"k": 1024, "m": MIB, "g": 1024 * MIB}.get(value[-1:].lower(), 1)
                if key == "size" and value.rstrip("kKmMgG").isdecimal():
                    return int(value.rstrip("kKmMgG")) * scale, None
            raise NotReadable("/dev/shm is mounted without a size")
    raise NotReadable("/dev/shm is not mounted")


def namespaces(host: Host) -> Answer:
    """Ranks of a node must share one PID and IPC namespace: CUDA IPC fails between containers with private PID namespaces."""
    own: list[str] = []
    for name, first in FIRST_NAMESPACES.items():
        if name in ("ipc", "pid"):
            link = host.files.link(f"proc/self/ns/{name}")
            if link is None:
                return not_run(f"/proc/self/ns/{name} is not readable")
            if link != f"{name}:[{first}]":
                own.append(name)
    shown = f"private {' and '.join(own)} namespace" if own else "the host's IPC and PID namespaces"
    sizes = [f"{key}={host.environ[key]}" for key in LOCAL_SIZES if host.environ.get(key, "1") not in ("", "1")]
    if own and sizes:
        return warned(
            f"{shown}, and {', '.join(sizes)}: is each rank in a container of its own?",
            "one container a node for all its ranks (what bench does), or --pid=host --ipc=host for each",
        )
    return passed(f"{shown}; all ranks of a node run in this one container" if own else shown)


def mempolicy(host: Host) -> Answer:
    """set_mempolicy(2) works, so that memory can be bound; Docker's default seccomp profile forbids it without CAP_SYS_NICE."""
    remedy = "docker run --cap-add SYS_NICE (or a seccomp profile that allows set_mempolicy and mbind); pod: capabilities.add: [SYS_NICE]"
    try:
        code = host.probes.mempolicy_errno()
    except NotReadable:
        mode = host.status("Seccomp")
        if mode == "0":
            return passed("no seccomp filter on this process")
        if host.has_capability(CAP_SYS_NICE):
            return not_run(f"Seccomp {mode} with CAP_SYS_NICE: only a call could tell")
        return warned(f"Seccomp {mode} without CAP_SYS_NICE: Docker's profile then denies set_mempolicy", remedy)
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
    shown = f"{kind}; missing: " + ", ".join(flag.docker for flag in lacking)
    return warned(shown, f"{docker_run(host)}  |  pod: {pod_spec(host)}")


def _size(value: float) -> str:
    if math.isinf(value):
        return "unlimited"
    for unit, scale in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1024)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"

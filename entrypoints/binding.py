"""CPU affinity and memory policy of the calling process by system call, read back and compared.

Both are inherited over fork and execve and by every later thread, so a process that is bound before exec has all its
threads and first touches in place. libnuma is not used: its numa_set_preferred goes on unbound when seccomp refuses the
call. Policy modes and call numbers: Linux include/uapi/linux/mempolicy.h and the architectures' system call tables.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from entrypoints.cpulist import format_list, parse_list
from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.placement.model import MemoryPolicy

MODES = {"default": 0, "preferred": 1, "bind": 2, "interleave": 3, "local": 4, "preferred_many": 5, "weighted_interleave": 6}
#: What only newer kernels know (5.15 and 6.9); on older ones the call gives EINVAL.
SINCE = {"preferred_many": "5.15", "weighted_interleave": "6.9"}
MODE_NAMES = {number: name for name, number in MODES.items()}
#: MPOL_F_STATIC_NODES, _RELATIVE_NODES and _NUMA_BALANCING come back in the mode word.
MODE_FLAGS = 0xE000

#: (set_mempolicy, get_mempolicy) by machine.
CALL_NUMBERS = {"x86_64": (238, 239), "aarch64": (237, 236)}
MAX_NODES = 1024
WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


@dataclass(frozen=True)
class BindMode:
    """The parts of a plan that are applied: the HCA variables, the affinity, the memory policy."""

    nic: bool = True
    cpu: bool = True
    mem: bool = True

    @classmethod
    def parse(cls, text: str) -> "BindMode":
        """`all`, `none`, or a comma list of nic, cpu, mem. Raises UsageError."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        if words == ["all"]:
            return cls()
        if words == ["none"]:
            return cls(False, False, False)
        unknown = [word for word in words if word not in ("nic", "cpu", "mem")]
        if unknown or not words:
            raise UsageError(f"{text!r} is not a way to bind", where="--bind", hint="use all, none, or a comma list of nic, cpu, mem")
        return cls("nic" in words, "cpu" in words, "mem" in words)

    def __str__(self) -> str:
        words = [word for word in ("nic", "cpu", "mem") if getattr(self, word)]
        return {3: "all", 0: "none"}.get(len(words)) or ",".join(words)


@dataclass(frozen=True)
class BindReport:
    """The binding that was asked for, and the one that the kernel reports. `degradations` are sentences, empty when all was done."""

    cpus_planned: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()
    policy: str | None = None
    nodes: tuple[int, ...] = ()
    degradations: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The report as result.json has it in a rank's evidence."""
        return {
            "planned": {"cpus": format_list(self.cpus_planned)},
            "cpus": format_list(self.cpus),
            "memory": {"policy": self.policy, "nodes": list(self.nodes)},
            "degradations": list(self.degradations),
        }


class Kernel:
    """The system calls of this module at one place; tests replace single methods to play refusals."""

    def __init__(self) -> None:
        self.numbers = CALL_NUMBERS.get(platform.machine())

    def syscall(self, number: int, *arguments: Any) -> int:
        """libc's syscall(2): the result, or minus errno."""
        function = ctypes.CDLL(None, use_errno=True).syscall
        function.restype = ctypes.c_long
        # Varargs are passed as the kernel's longs; plain Python integers would be truncated to 32 bits.
        result = int(function(ctypes.c_long(number), *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))
        return -ctypes.get_errno() if result < 0 else result

    def get_affinity(self) -> tuple[int, ...]:
        return tuple(sorted(os.sched_getaffinity(0)))

    def set_affinity(self, cpus: Collection[int]) -> None:
        os.sched_setaffinity(0, cpus)

    def set_policy(self, mode: int, nodes: Collection[int]) -> int:
        """set_mempolicy(2) for this thread; 0 or minus errno."""
        if self.numbers is None:
            return -errno.ENOSYS
        if not nodes:
            return self.syscall(self.numbers[0], mode, 0, 0)
        mask = (ctypes.c_ulong * (MAX_NODES // WORD_BITS))()
        for node in nodes:
            mask[node // WORD_BITS] |= 1 << node % WORD_BITS
        # The kernel reads maxnode - 1 bits.
        return self.syscall(self.numbers[0], mode, ctypes.byref(mask), MAX_NODES + 1)

    def get_policy(self) -> tuple[int, tuple[int, ...]]:
        """(mode or minus errno, nodes) of this thread by get_mempolicy(2)."""
        if self.numbers is None:
            return -errno.ENOSYS, ()
        mode = ctypes.c_int(-1)
        mask = (ctypes.c_ulong * (MAX_NODES // WORD_BITS))()
        if (result := self.syscall(self.numbers[1], ctypes.byref(mode), ctypes.byref(mask), MAX_NODES + 1, 0, 0)) < 0:
            return result, ()
        nodes = tuple(n for n in range(MAX_NODES) if mask[n // WORD_BITS] >> n % WORD_BITS & 1)
        return mode.value & ~MODE_FLAGS, nodes

    def mems_allowed(self) -> tuple[int, ...] | None:
        """The memory nodes of this process's cpuset; None where the kernel does not tell."""
        with suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Mems_allowed_list:"):
                    return parse_list(line.partition(":")[2])
        return None


def bind(
    cpus: Sequence[int], memory: MemoryPolicy, mode: BindMode | None = None, strict: bool = False, kernel: Kernel | None = None
) -> BindReport:
    """Bind the calling thread (and all it will start) to `cpus` and `memory`, and read both back.

    What cannot be done is a sentence in `degradations`; with `strict` it is PreflightFailed. UsageError for a policy
    name that does not exist.
    """
    kernel = kernel or Kernel()
    mode = mode or BindMode()
    if memory.policy not in MODES:
        raise UsageError(f"{memory.policy!r} is not a memory policy", hint=f"use one of {', '.join(MODES)}")
    # Affinity goes first: with it alone, the default policy already gives local pages on first touch.
    problems = _bind_cpus(tuple(sorted(set(cpus))), kernel) if mode.cpu and cpus else []
    wants_memory = mode.mem and memory.policy != "default"
    if wants_memory:
        problems += _bind_memory(memory, kernel)
    current, nodes = kernel.get_policy()
    if strict and problems:
        raise PreflightFailed("; ".join(problems), hint="without --strict the run goes on and reports this")
    planned = tuple(sorted(set(cpus))) if mode.cpu else ()
    return BindReport(planned, kernel.get_affinity(), MODE_NAMES.get(current), nodes, tuple(problems))


def _bind_cpus(cpus: tuple[int, ...], kernel: Kernel) -> list[str]:
    """Set the affinity; the sentences that say what of it did not happen."""
    wanted = format_list(cpus)
    try:
        kernel.set_affinity(cpus)
    except OSError as error:
        has = format_list(kernel.get_affinity())
        if error.errno == errno.EINVAL:
            return [
                f"affinity: none of the planned CPUs {wanted} may be used here, the cpuset allows {has}; plan inside the container "
                f"or widen its cpuset (docker --cpuset-cpus, Kubernetes CPU manager); the rank runs on {has}"
            ]
        if error.errno == errno.EPERM:
            return [f"affinity: sched_setaffinity was refused (EPERM); {_profile_remedy('sched_setaffinity')}"]
        return [f"affinity: sched_setaffinity of {wanted} failed ({error.strerror}); the rank runs on {has}"]
    except (OverflowError, ValueError) as error:
        return [f"affinity: CPUs {wanted} cannot be set ({error})"]
    actual = kernel.get_affinity()
    if actual == cpus:
        return []
    left = f"only CPUs {format_list(actual)} of the planned {wanted} ({format_list(set(cpus) - set(actual)) or 'none'} missing)"
    return [f"affinity: the cpuset leaves {left}; widen the container's cpuset or plan inside it"]


def _profile_remedy(call: str = "set_mempolicy") -> str:
    """How a container is allowed this call."""
    from entrypoints.facts.container import need as find  # reads TOML: only for a rank that was refused

    need = find("memory-policy")
    pod = f"Kubernetes securityContext.capabilities.add: [{need.value}]"
    return f"give the container CAP_{need.value} (docker run {need.docker}, {pod}) or {need.instead.replace('set_mempolicy', call)}"


def _bind_memory(memory: MemoryPolicy, kernel: Kernel) -> list[str]:
    """Set the memory policy; the sentences that say what of it did not happen."""
    policy = f"memory policy {memory.policy}" + (f" on node {format_list(memory.nodes)}" if memory.nodes else "")
    local = "pages still follow the rank's cores by first touch"
    if any(not 0 <= node < MAX_NODES for node in memory.nodes):
        return [f"{policy}: no such node; {local}"]
    result = kernel.set_policy(MODES[memory.policy], memory.nodes)
    if result == -errno.EPERM:
        return [f"{policy}: refused (EPERM), the container's seccomp profile blocks set_mempolicy; {_profile_remedy()}; {local}"]
    if result == -errno.ENOSYS:
        return [f"{policy}: this kernel or machine has no memory policies (ENOSYS, no CONFIG_NUMA or a sandboxed kernel); {local}"]
    if result == -errno.EINVAL:
        # It has causes that a user can tell apart and cure.
        allowed = kernel.mems_allowed()
        outside = set(memory.nodes) - set(allowed) if allowed is not None else set()
        if outside:
            return [
                f"{policy}: node {format_list(outside)} is not in Mems_allowed ({format_list(allowed or ())}); "
                f"widen the container's cpuset (docker --cpuset-mems, Kubernetes memory manager) or plan inside it; {local}"
            ]
        since = SINCE.get(memory.policy)
        if since:
            return [f"{policy}: this kernel does not know the mode (EINVAL), it came with Linux {since}; use preferred; {local}"]
        return [f"{policy}: the kernel refuses it (EINVAL), the node has no memory or does not exist; {local}"]
    if result < 0:
        return [f"{policy}: set_mempolicy failed ({os.strerror(-result)}); {local}"]
    mode, nodes = kernel.get_policy()
    if mode == -errno.EPERM:
        return [f"{policy}: set, but get_mempolicy is refused (EPERM), so it is not confirmed; {_profile_remedy()}"]
    # MPOL_PREFERRED keeps one node, the lowest of the mask.
    expected = tuple(sorted(set(memory.nodes)))[: 1 if memory.policy == "preferred" else None]
    if mode != MODES[memory.policy] or (expected and nodes != expected):
        name = MODE_NAMES.get(mode, f"mode {mode}")
        return [f"{policy}: the kernel reports {name} on node {format_list(nodes) or 'none'} instead"]
    return []

"""What cannot be read from a file: system calls, the resolver and NVML of the running host."""

import ctypes
import errno
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from entrypoints.preflight.files import NotReadable
from entrypoints.topology.live import ask, nvlink_states

#: set_mempolicy(2) by machine (arch/*/entry/syscalls); unlisted machines are not probed.
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
#: Clock event reasons that mean lost speed (nvml.h nvmlClocksEventReason*): hardware slowdown, thermal, power brake.
THROTTLES = {0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}


@dataclass(frozen=True)
class GpuState:
    """One GPU as NVML sees it; None where the driver does not say. Clocks in MHz, memory in bytes."""

    index: int
    #: Its architecture as nvcc names it: "sm_90".
    arch: str | None = None
    mig: bool | None = None
    persistence: bool | None = None
    sm_clock: int | None = None
    max_sm_clock: int | None = None
    throttles: tuple[str, ...] | None = None
    uncorrected: int | None = None
    retired_pending: bool | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    #: Per NVLink lane: active or not; None when the device has no NVLink.
    nvlink: tuple[bool, ...] | None = None
    #: NVML P2P status with every GPU by index ("OK" or the reason).
    peers: tuple[str, ...] | None = None
    compute_mode: int | None = None
    memory_used: int | None = None


@dataclass(frozen=True)
class GpuReport:
    """All GPUs, and the newest CUDA version that their driver serves as (major, minor)."""

    cuda: tuple[int, int] | None = None
    gpus: tuple[GpuState, ...] = ()


class Probes:
    """Questions to the running kernel, resolver and driver. Each may raise NotReadable."""

    def __init__(self) -> None:
        self._report: GpuReport | NotReadable | None = None
        self._nvml_started = False

    def mempolicy_errno(self) -> int:
        """0 when set_mempolicy(MPOL_DEFAULT) is allowed, else its errno."""
        number = SET_MEMPOLICY.get(platform.machine())
        if number is None:
            raise NotReadable(f"set_mempolicy is not probed on {platform.machine()}")
        libc = ctypes.CDLL(None, use_errno=True)
        # MPOL_DEFAULT with no nodes: the policy every thread is born with, and only of this short-lived thread.
        return 0 if libc.syscall(number, 0, None, 0) == 0 else ctypes.get_errno()

    def addresses(self, name: str) -> tuple[str, ...]:
        """Addresses of a host name; empty when it does not resolve."""
        try:
            return tuple(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError):
            return ()

    def port_in_use(self, address: str, port: int) -> bool | None:
        """True when a local address has the TCP port taken, None when the address is another host's."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                return True if error.errno == errno.EADDRINUSE else None
        return False

    def space(self, path: str) -> tuple[int, int]:
        """Total and free bytes of the file system that holds a path."""
        try:
            status = os.statvfs(path)
        except OSError as error:
            raise NotReadable(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize

    def writable(self, path: str) -> bool:
        """True when files may be created in an existing folder."""
        return os.access(path, os.W_OK | os.X_OK)

    def gpus(self) -> GpuReport:
        """What NVML says of every GPU. It is asked once; a driver that does not answer is not asked again."""
        if self._report is None:
            if self._nvml_started:
                raise NotReadable("NVML gave no answer in time")
            self._nvml_started = True
            try:
                self._report = read_gpus()
            except NotReadable as error:
                self._report = error
        if isinstance(self._report, NotReadable):
            raise self._report
        return self._report


def read_gpus() -> GpuReport:
    """Ask NVML for everything the checks use. Raises NotReadable without the module or the driver."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        raise NotReadable("nvidia-ml-py is not installed") from None
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as error:
        raise NotReadable(f"NVML: {error}") from None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        version = ask(nvml, "nvmlSystemGetCudaDriverVersion")
        cuda = None if version is None else (version // 1000, version % 1000 // 10)
        return GpuReport(cuda, tuple(_state(nvml, i, handles) for i in range(len(handles))))
    except nvml.NVMLError as error:
        raise NotReadable(f"NVML: {error}") from None
    finally:
        nvml.nvmlShutdown()


def _state(nvml: Any, index: int, handles: list[Any]) -> GpuState:
    handle = handles[index]

    def tell(function: str, *arguments: Any, convert: Callable[[Any], Any] = lambda value: value) -> Any:
        value = ask(nvml, function, handle, *arguments)
        return None if value is None else convert(value)

    links = nvlink_states(nvml, handle)
    return GpuState(
        index=index,
        arch=tell("nvmlDeviceGetCudaComputeCapability", convert=lambda version: f"sm_{version[0]}{version[1]}"),
        mig=tell("nvmlDeviceGetMigMode", convert=lambda modes: bool(modes[0])),
        persistence=tell("nvmlDeviceGetPersistenceMode", convert=bool),
        sm_clock=tell("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_clock=tell("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        throttles=tell(
            "nvmlDeviceGetCurrentClocksThrottleReasons",
            convert=lambda reasons: tuple(text for bit, text in THROTTLES.items() if reasons & bit),
        ),
        uncorrected=tell("nvmlDeviceGetTotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        retired_pending=tell("nvmlDeviceGetRetiredPagesPendingStatus", convert=bool),
        remap_pending=tell("nvmlDeviceGetRemappedRows", convert=lambda rows: bool(rows[2])),
        remap_failed=tell("nvmlDeviceGetRemappedRows", convert=lambda rows: bool(rows[3])),
        nvlink=None if links is None else tuple(links.values()),
        peers=_peers(nvml, index, handles),
        compute_mode=tell("nvmlDeviceGetComputeMode"),
        memory_used=tell("nvmlDeviceGetMemoryInfo", convert=lambda memory: int(memory.used)),
    )


def _peers(nvml: Any, index: int, handles: list[Any]) -> tuple[str, ...] | None:
    """P2P read status with each GPU; "OK" for itself (nvml.h nvmlGpuP2PStatus_t)."""
    words = {0: "OK", 1: "chipset not supported", 2: "GPU not supported", 3: "root complex topology", 4: "disabled by regkey"}
    # The last 0 is NVML_P2P_CAPS_INDEX_READ, which nvidia-ml-py exports as a tuple by a stray comma.
    statuses = [0 if peer is handles[index] else ask(nvml, "nvmlDeviceGetP2PStatus", handles[index], peer, 0) for peer in handles]
    return None if None in statuses else tuple(words.get(int(status), "not supported") for status in statuses)

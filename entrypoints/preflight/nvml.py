"""GPU state through NVML (nvidia-ml-py); nvidia-smi is never started."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from entrypoints.preflight.files import NotReadable

#: Clock event reasons that mean lost speed (nvml.h nvmlClocksEventReason*): hardware slowdown, thermal, power brake.
THROTTLES = {0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}


@dataclass(frozen=True)
class GpuState:
    """One GPU as NVML sees it; None where the driver does not say. Clocks in MHz, memory in bytes."""

    index: int
    pci: str
    name: str | None = None
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
    link_width: int | None = None
    max_link_width: int | None = None


@dataclass(frozen=True)
class GpuReport:
    """All GPUs, the driver's version, and the newest CUDA version it serves as (major, minor)."""

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[GpuState, ...] = ()


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
        count = nvml.nvmlDeviceGetCount()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        version = _ask(nvml, nvml.nvmlSystemGetCudaDriverVersion)
        return GpuReport(
            driver=_text(_ask(nvml, nvml.nvmlSystemGetDriverVersion)),
            cuda=None if version is None else (version // 1000, version % 1000 // 10),
            gpus=tuple(_state(nvml, i, handle, handles) for i, handle in enumerate(handles)),
        )
    except nvml.NVMLError as error:
        raise NotReadable(f"NVML: {error}") from None
    finally:
        nvml.nvmlShutdown()


def _ask(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where this device or driver does not support the question."""
    try:
        return function(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _state(nvml: Any, index: int, handle: Any, handles: list[Any]) -> GpuState:
    def ask(name: str, *arguments: Any) -> Any:
        function = getattr(nvml, name, None)
        return None if function is None else _ask(nvml, function, handle, *arguments)

    pci, mig, remapped = ask("nvmlDeviceGetPciInfo"), ask("nvmlDeviceGetMigMode"), ask("nvmlDeviceGetRemappedRows")
    memory = ask("nvmlDeviceGetMemoryInfo")
    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    persistence, retired = ask("nvmlDeviceGetPersistenceMode"), ask("nvmlDeviceGetRetiredPagesPendingStatus")
    return GpuState(
        index=index,
        pci=_text(pci.busId) or "" if pci else "",
        name=_text(ask("nvmlDeviceGetName")),
        mig=None if mig is None else bool(mig[0]),
        persistence=None if persistence is None else bool(persistence),
        sm_clock=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_clock=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        throttles=None if reasons is None else tuple(text for bit, text in THROTTLES.items() if reasons & bit),
        uncorrected=ask("nvmlDeviceGetTotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        retired_pending=None if retired is None else bool(retired),
        remap_pending=None if remapped is None else bool(remapped[2]),
        remap_failed=None if remapped is None else bool(remapped[3]),
        nvlink=_links(nvml, handle),
        peers=_peers(nvml, index, handle, handles),
        compute_mode=ask("nvmlDeviceGetComputeMode"),
        memory_used=None if memory is None else int(memory.used),
        link_width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
        max_link_width=ask("nvmlDeviceGetMaxPcieLinkWidth"),
    )


def _links(nvml: Any, handle: Any) -> tuple[bool, ...] | None:
    states = [_ask(nvml, nvml.nvmlDeviceGetNvLinkState, handle, lane) for lane in range(nvml.NVML_NVLINK_MAX_LINKS)]
    known = tuple(bool(state) for state in states if state is not None)
    return known or None


def _peers(nvml: Any, index: int, handle: Any, handles: list[Any]) -> tuple[str, ...] | None:
    """P2P read status with each GPU; "OK" for itself (nvml.h nvmlGpuP2PStatus_t)."""
    words = {0: "OK", 1: "chipset not supported", 2: "GPU not supported", 3: "root complex topology", 4: "disabled by regkey"}
    found: list[str] = []
    for other, peer in enumerate(handles):
        # 0 is NVML_P2P_CAPS_INDEX_READ, which nvidia-ml-py exports as a tuple by a stray comma.
        status = 0 if other == index else _ask(nvml, nvml.nvmlDeviceGetP2PStatus, handle, peer, 0)
        if status is None:
            return None
        found.append(words.get(int(status), "not supported"))
    return tuple(found)

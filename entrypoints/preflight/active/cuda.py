"""Child: CUDA's own view of each GPU, and copy bandwidth from near and far cores, by the driver API.

Argument: JSON list of {"pci", "near": [cpus], "far": [cpus]}; an unlisted GPU is measured without binding.
Prints one object a GPU. Bandwidths are in GB/s (10^9 bytes), best of several copies of pinned memory.
"""

import ctypes
import json
import os
import sys
from typing import Any

from entrypoints.preflight.active.child import emit

#: CUdevice_attribute (cuda.h).
GPU_DIRECT_RDMA, DMA_BUF, FABRIC_HANDLES = 116, 124, 128
COPY_BYTES = 64 << 20
ROUNDS = 5


class CudaError(Exception):
    """A call of the driver API failed."""


class Driver:
    """libcuda by ctypes: each call raises CudaError with the driver's name of the error."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'error').decode()} ({code})")

    def number(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def attribute(self, kind: int, device: int) -> bool | None:
        """True or False, None where this driver does not know the attribute."""
        try:
            return bool(self.number("cuDeviceGetAttribute", kind, device))
        except CudaError:
            return None

    def bus_id(self, device: int) -> str:
        text = ctypes.create_string_buffer(32)
        self.call("cuDeviceGetPCIBusId", text, 32, device)
        return text.value.decode().lower()


def examine(driver: Driver, index: int, count: int, cores: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    """One GPU: {"index", "pci", "dma_buf", "gpu_direct_rdma", "peers": [bool], "near"|"far": {"h2d", "d2h", "cpus"}}."""
    device = driver.number("cuDeviceGet", index)
    record: dict[str, Any] = {
        "index": index,
        "pci": driver.bus_id(device),
        "dma_buf": driver.attribute(DMA_BUF, device),
        "gpu_direct_rdma": driver.attribute(GPU_DIRECT_RDMA, device),
        "fabric_handles": driver.attribute(FABRIC_HANDLES, device),
        "peers": [
            other == index or bool(driver.number("cuDeviceCanAccessPeer", device, driver.number("cuDeviceGet", other)))
            for other in range(count)
        ],
    }
    sets = cores.get(record["pci"], {})
    context = ctypes.c_void_p()
    try:
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        driver.call("cuCtxSetCurrent", context)
        try:
            for name in ("near", "far"):
                cpus = sets.get(name, [])
                if cpus or name == "near":
                    record[name] = _measure(driver, cpus)
        finally:
            driver.call("cuDevicePrimaryCtxRelease_v2", device)
    except (CudaError, OSError) as error:
        record["error"] = str(error)
    return record


def _measure(driver: Driver, cpus: list[int]) -> dict[str, Any]:
    """Bandwidth both ways with a buffer that is allocated, and driven, from the given cores."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    host, card = ctypes.c_void_p(), ctypes.c_uint64()
    try:
        driver.call("cuMemHostAlloc", ctypes.byref(host), ctypes.c_size_t(COPY_BYTES), 0)
        ctypes.memset(host, 1, COPY_BYTES)
        driver.call("cuMemAlloc_v2", ctypes.byref(card), ctypes.c_size_t(COPY_BYTES))
        size = ctypes.c_size_t(COPY_BYTES)
        return {
            "h2d": _best(driver, lambda: driver.call("cuMemcpyHtoDAsync_v2", card, host, size, None)),
            "d2h": _best(driver, lambda: driver.call("cuMemcpyDtoHAsync_v2", host, card, size, None)),
            "cpus": len(os.sched_getaffinity(0)),
        }
    finally:
        if card.value:
            driver.call("cuMemFree_v2", card)
        if host.value:
            driver.call("cuMemFreeHost", host)
        os.sched_setaffinity(0, before)


def _best(driver: Driver, copy: Any) -> float:
    """GB/s of the fastest round, timed by events on the default stream; one more round first warms up."""
    start, end, best = ctypes.c_void_p(), ctypes.c_void_p(), 0.0
    driver.call("cuEventCreate", ctypes.byref(start), 0)
    driver.call("cuEventCreate", ctypes.byref(end), 0)
    for turn in range(ROUNDS + 1):
        driver.call("cuEventRecord", start, None)
        copy()
        driver.call("cuEventRecord", end, None)
        driver.call("cuEventSynchronize", end)
        milliseconds = ctypes.c_float()
        driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
        if turn and milliseconds.value > 0:
            best = max(best, COPY_BYTES / milliseconds.value / 1e6)
    for event in (start, end):
        driver.call("cuEventDestroy_v2", event)
    return float(f"{best:.3g}")


def main(arguments: list[str]) -> int:
    cores = {entry["pci"].lower(): entry for entry in json.loads(arguments[0])} if arguments else {}
    try:
        driver = Driver()
    except OSError:
        emit({"unavailable": "no libcuda.so.1"})
        return 0
    try:
        driver.call("cuInit", 0)
        count = driver.number("cuDeviceGetCount")
    except CudaError as error:
        emit({"unavailable": str(error)})
        return 0
    emit({"count": count, "driver_cuda": driver.number("cuDriverGetVersion")})
    for index in range(count):
        try:
            emit(examine(driver, index, count, cores))
        except CudaError as error:
            emit({"index": index, "error": str(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

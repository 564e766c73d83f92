"""Child: CUDA's own view of each GPU, and copy bandwidth from near and far cores, by the driver API; and what its answers mean.

Argument: JSON list of {"pci", "near": [cpus], "far": [cpus]}; an unlisted GPU is measured without binding.
Prints one object a GPU. Bandwidths are in GB/s (10^9 bytes), best of several copies of pinned memory.
"""

import ctypes
import json
import os
import sys
from contextlib import suppress
from typing import Any

from entrypoints.preflight.active.child import Record, Records, emit
from entrypoints.preflight.model import Answer, failed, not_run, passed, warned

#: CUdevice_attribute CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED (cuda.h).
DMA_BUF = 124
COPY_BYTES = 64 << 20
ROUNDS = 5


class CudaError(Exception):
    """A call of the driver API failed."""


class Driver:
    """libcuda by ctypes: each call raises CudaError with the driver's name of the error."""

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise CudaError("no libcuda.so.1") from None

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


def examine(driver: Driver, index: int, count: int, cores: dict[str, dict[str, list[int]]]) -> Record:
    """One GPU: {"index", "pci", "dma_buf", "peers": [bool], "near"|"far": {"h2d", "d2h", "cpus"}}."""
    device = driver.number("cuDeviceGet", index)
    bus_id = ctypes.create_string_buffer(32)
    driver.call("cuDeviceGetPCIBusId", bus_id, 32, device)
    supported: bool | None = None
    with suppress(CudaError):  # a driver that does not know the attribute
        supported = bool(driver.number("cuDeviceGetAttribute", DMA_BUF, device))
    record: Record = {
        "index": index,
        "pci": bus_id.value.decode().lower(),
        "dma_buf": supported,
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


def _measure(driver: Driver, cpus: list[int]) -> Record:
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


def main(arguments: list[str]) -> None:
    cores = {entry["pci"].lower(): entry for entry in json.loads(arguments[0])}
    try:
        driver = Driver()
        driver.call("cuInit", 0)
        count = driver.number("cuDeviceGetCount")
    except CudaError as error:
        emit({"unavailable": str(error)})
        return
    emit({"count": count, "driver_cuda": driver.number("cuDriverGetVersion")})
    for index in range(count):
        try:
            emit(examine(driver, index, count, cores))
        except CudaError as error:
            emit({"index": index, "error": str(error)})


def dma_buf(gpus: Records) -> Answer:
    """CUDA's DMA_BUF_SUPPORTED, the attribute that NVSHMEM asks."""
    by_gpu = {record["index"]: record.get("dma_buf") for record in gpus}
    lacking = [str(index) for index, value in by_gpu.items() if value is False]
    if lacking:
        remedy = "modprobe nvidia_peermem on the host, or the open kernel modules; one of both is needed (gpu.peermem)"
        return warned(f"no DMA-BUF on GPU {', '.join(lacking)}", remedy)
    if not by_gpu or None in by_gpu.values():
        return not_run("CUDA does not tell DMA_BUF_SUPPORTED")
    return passed(f"DMA-BUF on {len(by_gpu)} GPUs")


def peers(gpus: Records) -> Answer:
    """cuDeviceCanAccessPeer between all pairs."""
    rows = {record["index"]: record["peers"] for record in gpus if "peers" in record}
    if len(rows) < 2:
        return passed("one GPU: no peer") if rows else not_run("no GPU told its peers")
    bad = [f"{index}-{other}" for index, row in rows.items() for other, reached in enumerate(row) if not reached]
    if bad:
        return failed(f"no peer access: {', '.join(bad[:8])}", "MIG off, fabric manager running, IOMMU and ACS off: nvidia-smi topo -p2p r")
    return passed(f"all {len(rows)} GPUs reach each other")


def copies(gpus: Records) -> Answer:
    """Host copies run at the speed of the best GPU, and what the far cores cost."""
    errors = [f"GPU{record.get('index', '?')}: {record['error']}" for record in gpus if record.get("error")]
    measured = {record["index"]: record for record in gpus if "near" in record}
    if errors:
        return failed("; ".join(errors), "the CUDA driver refuses to work: dmesg for Xid, nvidia-smi -q, other jobs' memory")
    if not measured:
        return not_run("no GPU was measured")
    evidence = ", ".join(_copy_text(index, record) for index, record in measured.items())
    for way in ("h2d", "d2h"):
        best = max(record["near"][way] for record in measured.values())
        slow = [f"GPU{index}" for index, record in measured.items() if record["near"][way] < 0.8 * best]
        if slow:
            remedy = "PCIe link (pci.links), other load, or a cpuset far from that GPU"
            return warned(f"{way} of {', '.join(slow)} is below 80 % of the best: {evidence}", remedy)
    return passed(evidence)


def _copy_text(index: int, record: Record) -> str:
    near, far = record["near"], record.get("far")
    text = f"GPU{index} h2d {near['h2d']:g} d2h {near['d2h']:g} GB/s"
    return f"{text} (far cores {far['h2d']:g}, {far['d2h']:g})" if far else text


if __name__ == "__main__":
    main(sys.argv[1:])

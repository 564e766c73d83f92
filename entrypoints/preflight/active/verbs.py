"""Child: open each HCA by libibverbs, and query it, its ports and GIDs, and register memory with it.

Arguments: bytes to register, then device names (none: all). Prints one object a device.
"""

import ctypes
import ipaddress
import mmap
import os
import sys
from typing import Any

from entrypoints.preflight.active.child import emit

ATOMICS = {0: "none", 1: "HCA", 2: "global"}
STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
#: enum ibv_mtu to bytes.
MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
#: LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC, as NVSHMEM registers its heap.
ACCESS = 1 | 2 | 4 | 8


class DeviceAttributes(ctypes.Structure):
    """struct ibv_device_attr (infiniband/verbs.h) up to atomic_cap, then room for the rest."""

    _fields_ = (
        ("fw_ver", ctypes.c_char * 64),
        ("guids_and_sizes", ctypes.c_uint64 * 4),
        ("vendor_id", ctypes.c_uint32),
        ("vendor_part_id", ctypes.c_uint32),
        ("hw_ver", ctypes.c_uint32),
        ("counts", ctypes.c_int * 14),
        ("atomic_cap", ctypes.c_int),
        ("rest", ctypes.c_uint8 * 256),
    )


class PortAttributes(ctypes.Structure):
    """struct ibv_port_attr up to gid_tbl_len, then room for the rest; old and new layouts agree on these."""

    _fields_ = (
        ("state", ctypes.c_int),
        ("max_mtu", ctypes.c_int),
        ("active_mtu", ctypes.c_int),
        ("gid_tbl_len", ctypes.c_int),
        ("rest", ctypes.c_uint8 * 128),
    )


def library() -> ctypes.CDLL:
    """libibverbs with the signatures used here. Raises OSError when it is not installed."""
    verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    pointer = ctypes.c_void_p
    verbs.ibv_get_device_list.restype = ctypes.POINTER(pointer)
    verbs.ibv_get_device_list.argtypes = (ctypes.POINTER(ctypes.c_int),)
    verbs.ibv_get_device_name.restype = ctypes.c_char_p
    verbs.ibv_get_device_name.argtypes = (pointer,)
    for name, arguments in (
        ("ibv_open_device", (pointer,)),
        ("ibv_alloc_pd", (pointer,)),
        ("ibv_reg_mr", (pointer, pointer, ctypes.c_size_t, ctypes.c_int)),
    ):
        function = getattr(verbs, name)
        function.restype, function.argtypes = pointer, arguments
    verbs.ibv_query_device.argtypes = (pointer, ctypes.POINTER(DeviceAttributes))
    verbs.ibv_query_port.argtypes = (pointer, ctypes.c_uint8, ctypes.POINTER(PortAttributes))
    verbs.ibv_query_gid.argtypes = (pointer, ctypes.c_uint8, ctypes.c_int, ctypes.c_char_p)
    for name in ("ibv_close_device", "ibv_dealloc_pd", "ibv_dereg_mr"):
        getattr(verbs, name).argtypes = (pointer,)
    return verbs


def examine(verbs: ctypes.CDLL, device: Any, size: int) -> dict[str, Any]:
    """One device: {"device", "opened", "error"?, "firmware", "atomics", "ports", "registered", "register_error"?}."""
    record: dict[str, Any] = {"device": verbs.ibv_get_device_name(device).decode(errors="replace"), "opened": False}
    context = verbs.ibv_open_device(device)
    if not context:
        record["error"] = os.strerror(ctypes.get_errno()).lower()
        return record
    record["opened"] = True
    try:
        attributes = DeviceAttributes()
        code = verbs.ibv_query_device(context, ctypes.byref(attributes))
        if code:
            record["error"] = f"ibv_query_device: {os.strerror(abs(code)).lower()}"
            return record
        record["firmware"] = attributes.fw_ver.decode(errors="replace")
        record["atomics"] = ATOMICS.get(attributes.atomic_cap, str(attributes.atomic_cap))
        record["ports"] = [port for port in (_port(verbs, context, number) for number in range(1, 5)) if port]
        record.update(_register(verbs, context, size))
    finally:
        verbs.ibv_close_device(context)
    return record


def _port(verbs: ctypes.CDLL, context: int, number: int) -> dict[str, Any] | None:
    attributes = PortAttributes()
    if verbs.ibv_query_port(context, number, ctypes.byref(attributes)):
        return None
    gids: dict[str, str] = {}
    for index in range(min(max(attributes.gid_tbl_len, 0), 64)):
        raw = ctypes.create_string_buffer(16)
        if verbs.ibv_query_gid(context, number, index, raw) == 0 and any(raw.raw):
            gids[str(index)] = str(ipaddress.IPv6Address(raw.raw))
    return {
        "port": number,
        "state": STATES.get(attributes.state, str(attributes.state)),
        "active_mtu": MTU_BYTES.get(attributes.active_mtu),
        "max_mtu": MTU_BYTES.get(attributes.max_mtu),
        "gids": gids,
    }


def _register(verbs: ctypes.CDLL, context: int, size: int) -> dict[str, Any]:
    """Register `size` bytes as a rank would: the real test of the locked-memory limit."""
    domain = verbs.ibv_alloc_pd(context)
    if not domain:
        return {"registered": 0, "register_error": f"ibv_alloc_pd: {os.strerror(ctypes.get_errno()).lower()}"}
    memory = mmap.mmap(-1, size)
    view = (ctypes.c_char * size).from_buffer(memory)
    try:
        region = verbs.ibv_reg_mr(domain, ctypes.addressof(view), size, ACCESS)
        if not region:
            return {"registered": 0, "register_error": f"ibv_reg_mr of {size >> 20} MiB: {os.strerror(ctypes.get_errno()).lower()}"}
        verbs.ibv_dereg_mr(region)
        return {"registered": size}
    finally:
        verbs.ibv_dealloc_pd(domain)
        del view
        memory.close()


def main(arguments: list[str]) -> int:
    size, wanted = int(arguments[0]), arguments[1:]
    try:
        verbs = library()
    except OSError:
        emit({"unavailable": "no libibverbs.so.1"})
        return 0
    count = ctypes.c_int()
    devices = verbs.ibv_get_device_list(ctypes.byref(count))
    if not devices or not count.value:
        emit({"unavailable": "libibverbs lists no device"})
        return 0
    for index in range(count.value):
        if not wanted or verbs.ibv_get_device_name(devices[index]).decode(errors="replace") in wanted:
            emit(examine(verbs, devices[index], size))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""libibverbs by ctypes: its devices, and the attributes that it tells of one."""

import contextlib
import ctypes
from collections.abc import Iterator


class DeviceAttributes(ctypes.Structure):
    """struct ibv_device_attr (infiniband/verbs.h) up to atomic_cap, then room for the rest."""

    _fields_ = (
        ("fw_ver", ctypes.c_char * 64),
        ("guids_and_sizes", ctypes.c_uint64 * 4),
        # vendor_id, vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq, max_cqe,
        # max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom, max_ee_init_rd_atom
        ("counts", ctypes.c_uint32 * 17),
        ("atomic_cap", ctypes.c_int),
        ("rest", ctypes.c_uint8 * 344),
    )


def library() -> ctypes.CDLL:
    """libibverbs with the signatures of what is called here. Raises OSError when it is not installed."""
    verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    pointer = ctypes.c_void_p
    verbs.ibv_get_device_list.restype = ctypes.POINTER(pointer)
    verbs.ibv_get_device_list.argtypes = (ctypes.POINTER(ctypes.c_int),)
    verbs.ibv_free_device_list.argtypes = (ctypes.POINTER(pointer),)
    verbs.ibv_get_device_name.restype = ctypes.c_char_p
    verbs.ibv_get_device_name.argtypes = (pointer,)
    verbs.ibv_open_device.restype = pointer
    for name in ("ibv_open_device", "ibv_close_device"):
        getattr(verbs, name).argtypes = (pointer,)
    verbs.ibv_query_device.argtypes = (pointer, ctypes.POINTER(DeviceAttributes))
    return verbs


@contextlib.contextmanager
def devices(verbs: ctypes.CDLL) -> Iterator[dict[str, int]]:
    """Name of each device -> its struct ibv_device, which may be opened while the context lasts; empty without devices."""
    count = ctypes.c_int()
    listed = verbs.ibv_get_device_list(ctypes.byref(count))
    try:
        yield {verbs.ibv_get_device_name(listed[i]).decode(errors="replace"): listed[i] for i in range(count.value)} if listed else {}
    finally:
        if listed:
            verbs.ibv_free_device_list(listed)


def attributes(verbs: ctypes.CDLL, context: int) -> DeviceAttributes:
    """What ibv_query_device tells of an opened device. Raises OSError."""
    answer = DeviceAttributes()
    code = verbs.ibv_query_device(context, ctypes.byref(answer))
    if code:
        raise OSError(abs(code), "ibv_query_device")
    return answer

"""Atomic capability of RDMA devices through libibverbs, without any binding package."""

import ctypes

#: struct ibv_device_attr of <infiniband/verbs.h>: char fw_ver[64]; four uint64 (node_guid, sys_image_guid, max_mr_size,
#: page_size_cap); then uint32/int fields, of which atomic_cap is the one after max_ee_init_rd_atom.
_ATTR_SIZE = 512


class _Attr(ctypes.Structure):
    _fields_ = (
        ("fw_ver", ctypes.c_char * 64),
        ("guids_and_sizes", ctypes.c_uint64 * 4),
        # vendor_id, vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq, max_cqe,
        # max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom, max_ee_init_rd_atom
        ("before", ctypes.c_uint32 * 17),
        ("atomic_cap", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * (_ATTR_SIZE - 64 - 32 - 17 * 4 - 4)),
    )


def atomic_capabilities() -> dict[str, bool | None]:
    """Device name -> False for IBV_ATOMIC_NONE, True for HCA or GLOB, None when it cannot be asked."""
    try:
        library = ctypes.CDLL("libibverbs.so.1", use_errno=True)
        library.ibv_get_device_list.restype = ctypes.POINTER(ctypes.c_void_p)
        library.ibv_get_device_list.argtypes = (ctypes.POINTER(ctypes.c_int),)
        library.ibv_free_device_list.argtypes = (ctypes.POINTER(ctypes.c_void_p),)
        library.ibv_get_device_name.restype = ctypes.c_char_p
        library.ibv_get_device_name.argtypes = (ctypes.c_void_p,)
        library.ibv_open_device.restype = ctypes.c_void_p
        library.ibv_open_device.argtypes = (ctypes.c_void_p,)
        library.ibv_close_device.argtypes = (ctypes.c_void_p,)
        library.ibv_query_device.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Attr))
    except (OSError, AttributeError):
        return {}
    count = ctypes.c_int()
    devices = library.ibv_get_device_list(ctypes.byref(count))
    if not devices:
        return {}
    found: dict[str, bool | None] = {}
    try:
        for number in range(count.value):
            device = devices[number]
            name = library.ibv_get_device_name(device).decode("utf-8", "replace")
            found[name] = _query(library, device)
    finally:
        library.ibv_free_device_list(devices)
    return found


def _query(library: ctypes.CDLL, device: int | None) -> bool | None:
    context = library.ibv_open_device(device)
    if not context:
        return None
    try:
        attributes = _Attr()
        if library.ibv_query_device(context, ctypes.byref(attributes)):
            return None
        return bool(attributes.atomic_cap)
    finally:
        library.ibv_close_device(context)

"""Child: open each HCA by libibverbs, and query it and its ports, and register memory with it; and what its answers mean.

Arguments: bytes to register, then device names (none: all). Prints one object a device.
"""

import ctypes
import mmap
import os
import sys

from entrypoints.facts.container import advice, need
from entrypoints.preflight.active.child import Record, Records, emit
from entrypoints.preflight.model import Answer, failed, not_run, passed, warned
from entrypoints.topology import libibverbs

ATOMICS = {0: "none", 1: "HCA", 2: "global"}
STATES = {0: "NOP", 1: "DOWN", 2: "INIT", 3: "ARMED", 4: "ACTIVE", 5: "ACTIVE_DEFER"}
#: enum ibv_mtu to bytes.
MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
#: LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC, as NVSHMEM registers its heap.
ACCESS = 1 | 2 | 4 | 8


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
    """libibverbs with the signatures of the probe's calls too. Raises OSError when it is not installed."""
    verbs = libibverbs.library()
    pointer = ctypes.c_void_p
    verbs.ibv_alloc_pd.argtypes, verbs.ibv_alloc_pd.restype = (pointer,), pointer
    verbs.ibv_reg_mr.argtypes, verbs.ibv_reg_mr.restype = (pointer, pointer, ctypes.c_size_t, ctypes.c_int), pointer
    verbs.ibv_query_port.argtypes = (pointer, ctypes.c_uint8, ctypes.POINTER(PortAttributes))
    for name in ("ibv_dealloc_pd", "ibv_dereg_mr"):
        getattr(verbs, name).argtypes = (pointer,)
    return verbs


def examine(verbs: ctypes.CDLL, name: str, device: int, size: int) -> Record:
    """One device: {"device", "opened", "error"?, "firmware", "atomics", "ports", "registered", "register_error"?}."""
    context = verbs.ibv_open_device(device)
    if not context:
        return {"device": name, "opened": False, "error": os.strerror(ctypes.get_errno()).lower()}
    record: Record = {"device": name, "opened": True}
    try:
        attributes = libibverbs.attributes(verbs, context)
        record["firmware"] = attributes.fw_ver.decode(errors="replace")
        record["atomics"] = ATOMICS.get(attributes.atomic_cap, str(attributes.atomic_cap))
        record["ports"] = [port for port in (_port(verbs, context, number) for number in range(1, 5)) if port]
        record.update(_register(verbs, context, size))
    except OSError as error:
        record["error"] = f"{error.strerror}: {os.strerror(error.errno or 0).lower()}"
    finally:
        verbs.ibv_close_device(context)
    return record


def _port(verbs: ctypes.CDLL, context: int, number: int) -> Record | None:
    attributes = PortAttributes()
    if verbs.ibv_query_port(context, number, ctypes.byref(attributes)):
        return None
    return {
        "port": number,
        "state": STATES.get(attributes.state, str(attributes.state)),
        "active_mtu": MTU_BYTES.get(attributes.active_mtu),
        "max_mtu": MTU_BYTES.get(attributes.max_mtu),
    }


def _register(verbs: ctypes.CDLL, context: int, size: int) -> Record:
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


def main(arguments: list[str]) -> None:
    size, wanted = int(arguments[0]), arguments[1:]
    try:
        verbs = library()
    except OSError:
        emit({"unavailable": "no libibverbs.so.1"})
        return
    with libibverbs.devices(verbs) as devices:
        if not devices:
            emit({"unavailable": "libibverbs lists no device"})
        for name, device in devices.items():
            if not wanted or name in wanted:
                emit(examine(verbs, name, device, size))


def opening(devices: Records) -> Answer:
    """Every HCA opens and answers ibv_query_device."""
    bad = [f"{record['device']}: {record.get('error', 'not opened')}" for record in devices if not record["opened"] or record.get("error")]
    if bad:
        verbs = need("rdma-devices")
        return failed("; ".join(bad), f"docker run {verbs.docker} (pod: an rdma/... resource); udev permission of {verbs.value}/uverbs*")
    return passed(", ".join(f"{record['device']} firmware {record['firmware']}" for record in devices))


def atomics(devices: Records) -> Answer:
    """libibverbs reports atomics; necessary for NVSHMEM's own test by DEVX, which also wants masked ones."""
    by_device = {record["device"]: record["atomics"] for record in devices if "atomics" in record}
    if not by_device:
        return not_run("no device answered")
    lacking = [name for name, word in by_device.items() if word == "none"]
    if lacking:
        remedy = "leave it out with NVSHMEM_HCA_LIST; on a physical function: mlxconfig -d DEVICE set PCI_ATOMIC_MODE=4"
        return (failed if len(lacking) == len(by_device) else warned)(f"no atomics: {', '.join(lacking)}", remedy)
    return passed(", ".join(f"{name} {word}" for name, word in by_device.items()))


def registration(devices: Records) -> Answer:
    """Memory registers with each HCA: the real test of RLIMIT_MEMLOCK."""
    tried = [record for record in devices if "registered" in record]
    if not tried:
        return not_run("no device opened")
    bad = [f"{record['device']}: {record['register_error']}" for record in tried if record.get("register_error")]
    if bad:
        remedy = f"{advice('memlock', 'lock-memory')}; host: memlock unlimited in limits.conf or LimitMEMLOCK=infinity"
        return failed("; ".join(bad), remedy)
    return passed(f"{tried[0]['registered'] >> 20} MiB registered with {len(tried)} HCAs")


def mtu(devices: Records) -> Answer:
    """One active verbs MTU over all active ports, the largest the ports can."""
    ports = {f"{record['device']}:{port['port']}": port for record in devices for port in record.get("ports", [])}
    active = {name: port for name, port in ports.items() if port["state"] == "ACTIVE" and port["active_mtu"]}
    if not active:
        return not_run("no active port told its MTU")
    mtus = {port["active_mtu"] for port in active.values()}
    evidence = ", ".join(f"{name} {port['active_mtu']}" for name, port in active.items())
    if len(mtus) > 1:
        remedy = "one MTU on all rails: ip link set NETDEV mtu 9000 (RoCE), opensm partition mtu=5 (InfiniBand)"
        return warned(f"active MTU differs: {evidence}", remedy)
    most = max(port["max_mtu"] or 0 for port in active.values())
    if most > max(mtus):
        return warned(f"{evidence}; ports could carry {most}", "RoCE: ip link set NETDEV mtu 9000 where the switches allow it")
    return passed(evidence)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What only the running host can tell: NVML's GPU list, openable uverbs nodes, atomics by verbs."""

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from entrypoints.facts.container import need
from entrypoints.topology import libibverbs
from entrypoints.topology.model import Gpu, Hca
from entrypoints.topology.tree import Tree
from entrypoints.topology.values import bus_id, bus_order


def with_nvml(gpus: list[Gpu]) -> tuple[list[Gpu], list[str]]:
    """The GPUs as NVML has them where it works, in PCI bus order: those that are visible, with names, UUIDs and NVLinks; and warnings."""
    if not gpus and not Path("/dev/nvidiactl").exists():
        return gpus, []
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return gpus, []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return gpus, [f"NVML does not answer ({error}); GPUs are taken from sysfs"] if gpus else []
    on_bus = {gpu.pci: gpu for gpu in gpus}
    try:
        handles = {}
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            handles[bus_id(text(nvml.nvmlDeviceGetPciInfo(handle).busId))] = handle
        order = sorted(handles, key=bus_order)
        links = [_nvlinks(nvml, handles[pci]) for pci in order]
        listed = []
        for index, pci in enumerate(order):
            handle, gpu = handles[pci], on_bus.get(pci, Gpu(index, pci))
            listed.append(
                replace(
                    gpu,
                    index=index,
                    name=text(nvml.nvmlDeviceGetName(handle)),
                    uuid=text(nvml.nvmlDeviceGetUUID(handle)),
                    numa_node=ask(nvml, "nvmlDeviceGetNumaNodeId", handle) if gpu.numa_node is None else gpu.numa_node,
                    nvlink=nvlink_peers(index, order, links),
                    nvlinks_active=None if links[index] is None else len(links[index] or ()),
                )
            )
    except nvml.NVMLError as error:
        return gpus, [f"NVML lists GPUs only in part ({error}); GPUs are taken from sysfs"]
    finally:
        nvml.nvmlShutdown()
    return listed, []


def nvlink_states(nvml: Any, handle: Any) -> dict[int, bool] | None:
    """NVLink number -> whether it is active, for topology and doctor; None where NVML knows no state of any."""
    states = {link: ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)}
    return {link: bool(state) for link, state in states.items() if state is not None} or None


def _nvlinks(nvml: Any, handle: Any) -> list[str | None] | None:
    """The other end of each active NVLink of a GPU: a GPU's bus id, "switch", or None for what NVML does not name.

    None where NVML knows no state of any link.
    """
    states = nvlink_states(nvml, handle)
    if states is None:
        return None
    ends: list[str | None] = []
    for link in (link for link, active in states.items() if active):
        # nvml.h, nvmlIntNvLinkDeviceType_t: 0 GPU, 1 IBM NPU, 2 switch
        kind = ask(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
        remote = None if kind == 2 else ask(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
        ends.append("switch" if kind == 2 else bus_id(text(remote.busId)) if remote is not None else None)
    return ends


def nvlink_peers(index: int, order: Sequence[str | None], links: Sequence[list[str | None] | None]) -> tuple[int, ...] | None:
    """The GPUs that NVLink joins to GPU `index`, directly or as all GPUs with links to NVSwitches are; None when a link's end is unknown.

    `order` has the bus ids of all GPUs, `links` the ends of their active links.
    """
    ends = links[index]
    if ends is None or None in ends:
        return None
    peers = {other for other, pci in enumerate(order) if pci in ends}
    if "switch" in ends:
        peers |= {other for other, other_ends in enumerate(links) if other_ends and "switch" in other_ends}
    return tuple(sorted(peers - {index}))


def ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """The answer of NVML, or None where this device, driver or library does not support the question."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def text(value: object) -> str:
    """A string of NVML, which older bindings give as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def with_verbs(tree: Tree, hcas: list[Hca]) -> list[Hca]:
    """Say of each device whether its uverbs node opens here and, where config space is cut, whether it has atomics."""
    names = [name for name in tree.names("sys/class/infiniband_verbs") if re.fullmatch(r"uverbs\d+", name)]
    nodes = {tree.text(f"sys/class/infiniband_verbs/{name}/ibdev"): f"{need('rdma-devices').value}/{name}" for name in names}
    result = [replace(hca, openable=_opens(nodes.get(hca.name or ""))) for hca in hcas]
    if any(hca.openable and hca.atomics is None and hca.pci for hca in result):
        atomics = atomic_capabilities()
        result = [replace(hca, atomics=atomics.get(hca.name or "")) if hca.atomics is None else hca for hca in result]
    return result


def _opens(path: str | None) -> bool:
    """A container's device cgroup shows only at open(2), never in the mode bits."""
    if path is None:
        return False
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def atomic_capabilities() -> dict[str, bool | None]:
    """Device name -> False for IBV_ATOMIC_NONE, True for HCA or GLOB, None when it cannot be asked."""
    try:
        verbs = libibverbs.library()
    except (OSError, AttributeError):
        return {}
    with libibverbs.devices(verbs) as devices:
        return {name: _has_atomics(verbs, device) for name, device in devices.items()}


def _has_atomics(verbs: ctypes.CDLL, device: int) -> bool | None:
    context = verbs.ibv_open_device(device)
    if not context:
        return None
    try:
        return bool(libibverbs.attributes(verbs, context).atomic_cap)
    except OSError:
        return None
    finally:
        verbs.ibv_close_device(context)

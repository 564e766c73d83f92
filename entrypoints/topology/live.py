"""What only the running host can tell: NVML's GPU list, openable uverbs nodes, atomics by verbs."""

import os
import re
from dataclasses import replace

from entrypoints.topology.model import Gpu, Hca
from entrypoints.topology.tree import Tree, read_text
from entrypoints.topology.values import bus_id, bus_order

#: PCI_BUS_ID order numbers only the GPUs that the driver shows to this process.


def with_nvml(gpus: list[Gpu]) -> tuple[list[Gpu], list[str]]:
    """Replace the list by NVML's where NVML works: visible GPUs, names, UUIDs; index stays PCI bus order."""
    if not gpus and not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - pathlib costs more than the whole check
        return gpus, []
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return gpus, []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return gpus, [f"NVML does not answer ({error}); GPUs are taken from sysfs"] if gpus else []
    known = {gpu.pci: gpu for gpu in gpus}
    found: list[Gpu] = []
    try:
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            pci = bus_id(_text(pynvml.nvmlDeviceGetPciInfo(handle).busId))
            base = known.get(pci, Gpu(number, pci))
            node = base.numa_node
            if node is None:
                node = _node(pynvml, handle)
            name, uuid = _text(pynvml.nvmlDeviceGetName(handle)), _text(pynvml.nvmlDeviceGetUUID(handle))
            found.append(replace(base, name=name, uuid=uuid, numa_node=node))
    except pynvml.NVMLError as error:
        return gpus, [f"NVML lists GPUs only in part ({error}); GPUs are taken from sysfs"]
    finally:
        pynvml.nvmlShutdown()
    found.sort(key=lambda gpu: bus_order(gpu.pci))
    return [replace(gpu, index=index) for index, gpu in enumerate(found)], []


def _node(pynvml: object, handle: object) -> int | None:
    """NVML's own NUMA node of a GPU where the driver is new enough to tell."""
    ask = getattr(pynvml, "nvmlDeviceGetNumaNodeId", None)
    try:
        node = ask(handle) if ask else None
    except Exception:  # the binding raises its own classes, and AttributeError on older libraries
        return None
    return node if isinstance(node, int) and node >= 0 else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def with_verbs(tree: Tree, hcas: list[Hca]) -> list[Hca]:
    """Say of each device whether its uverbs node opens here and, where config space is cut, whether it has atomics."""
    nodes: dict[str, str] = {}
    for name in tree.names("sys/class/infiniband_verbs"):
        if re.fullmatch(r"uverbs\d+", name):
            device = read_text(tree, f"sys/class/infiniband_verbs/{name}/ibdev")
            if device:
                nodes[device] = f"/dev/infiniband/{name}"
    result = [replace(hca, openable=_opens(nodes.get(hca.name or ""))) for hca in hcas]
    if any(hca.openable and hca.atomics is None and hca.pci for hca in result):
        from entrypoints.topology.verbs_query import atomic_capabilities

        known = atomic_capabilities()
        result = [replace(hca, atomics=known.get(hca.name or "")) if hca.atomics is None else hca for hca in result]
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

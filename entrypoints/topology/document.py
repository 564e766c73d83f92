"""Our own JSON (schema epbox.topology/1): written from a Topology, and read back to an equal one."""

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from entrypoints.cpulist import format_list
from entrypoints.errors import UsageError
from entrypoints.topology.levels import path_level
from entrypoints.topology.model import LEVELS, Allowed, Cpu, Gid, Gpu, Hca, NumaNode, PciBridge, Port, Processor, Topology
from entrypoints.topology.values import MAX_ID, bus_id, ids_of_list

SCHEMA = "epbox.topology/1"
#: No name, path or message in a topology is longer.
MAX_TEXT = 4000

T = TypeVar("T")


def to_document(topology: Topology) -> dict[str, Any]:
    """The JSON value of a Topology. Unknown is null.

    `numa_nodes` are those this process may use by CPU or by memory, as lstopo lists them; `other_nodes` the rest.
    `paths` has the level of every GPU and HCA; `stated` marks those that the source said itself.
    """
    usable = set(topology.allowed.mems)
    nodes = topology.numa_nodes
    inside = [node for node in nodes if node.cpus or node.id in usable or not usable]
    paths = []
    for gpu in topology.gpus:
        for hca in topology.hcas:
            level = path_level(topology, gpu, hca)
            paths.append({"gpu": gpu.index, "hca": hca.label, "path": level, "stated": (gpu.index, hca.label) in topology.levels})
    return {
        "schema": SCHEMA,
        "source": topology.source,
        "hostname": topology.hostname,
        "processor": _processor(topology.processor),
        "packages": list(topology.packages),
        "cpus": [_cpu(cpu) for cpu in topology.cpus],
        "numa_nodes": [_node(node) for node in inside],
        "other_nodes": [_node(node) for node in nodes if node not in inside],
        "bridges": [{"pci": bridge.pci, "parent": bridge.parent, "numa_node": bridge.numa_node} for bridge in topology.bridges],
        "gpus": [_gpu(gpu) for gpu in topology.gpus],
        "hcas": [_hca(hca) for hca in topology.hcas],
        "paths": paths,
        "allowed": {"cpus": format_list(topology.allowed.cpus), "mems": format_list(topology.allowed.mems)},
        "warnings": list(topology.warnings),
    }


def _processor(processor: Processor | None) -> dict[str, Any] | None:
    if processor is None:
        return None
    return {"arch": processor.arch, "vendor": processor.vendor, "family": processor.family, "model": processor.model}


def _cpu(cpu: Cpu) -> dict[str, Any]:
    return {"id": cpu.id, "core": cpu.core, "package": cpu.package, "l3": cpu.l3, "siblings": list(cpu.siblings)}


def _node(node: NumaNode) -> dict[str, Any]:
    return {
        "id": node.id,
        "cpus": list(node.cpus),
        "memory_bytes": node.memory_bytes,
        "distances": {str(other): distance for other, distance in node.distances.items()},
        "gpu_memory": node.gpu_memory,
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "pci": gpu.pci,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "numa_node": gpu.numa_node,
        "pci_path": list(gpu.pci_path),
        "local_cpus": format_list(gpu.local_cpus),
        "nvlink": None if gpu.nvlink is None else list(gpu.nvlink),
        "link_speed": gpu.link_speed,
        "link_width": gpu.link_width,
    }


def _hca(hca: Hca) -> dict[str, Any]:
    return {
        "name": hca.name,
        "label": hca.label,
        "pci": hca.pci,
        "numa_node": hca.numa_node,
        "pci_path": list(hca.pci_path),
        "local_cpus": format_list(hca.local_cpus),
        "ports": [
            {
                "number": port.number,
                "state": port.state,
                "link_layer": port.link_layer,
                "rate_gbps": port.rate_gbps,
                "netdev": port.netdev,
                "gids": [{"index": gid.index, "gid": gid.gid, "type": gid.type, "netdev": gid.netdev} for gid in port.gids],
            }
            for port in hca.ports
        ],
        "driver": hca.driver,
        "vendor": hca.vendor,
        "firmware": hca.firmware,
        "board": hca.board,
        "card": hca.card,
        "physical_function": hca.physical_function,
        "atomics": hca.atomics,
        "openable": hca.openable,
        "pci_class": hca.pci_class,
        "link_speed": hca.link_speed,
        "link_width": hca.link_width,
    }


class _Reader:
    """Typed access to one JSON object; a wrong type is a UsageError that names the place."""

    def __init__(self, value: Any, place: str, source: str) -> None:
        self.place = place
        self.source = source
        if not isinstance(value, dict):
            self.fail(f"{place or 'the document'} is no object")
        self.value: dict[str, Any] = value

    def fail(self, what: str) -> NoReturn:
        raise UsageError(what, where=self.source, hint=f"this reads what `topology --format json` wrote ({SCHEMA})")

    def _typed(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        value = self.value.get(key)
        if value is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
            return value
        self.fail(f"{self.place}{key} is {json.dumps(value)[:40]}, not {wanted}")

    def text(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "text")
        if value is not None and len(value) > MAX_TEXT:
            self.fail(f"{self.place}{key} is longer than {MAX_TEXT} characters")
        return value

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._typed(key, bool, "true, false or null")
        return value

    def number(self, key: str) -> float | None:
        value: float | None = self._typed(key, (int, float), "a number")
        return None if value is None else float(value)

    def whole(self, key: str, limit: int = MAX_ID) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        if value is not None and not 0 <= value < limit:
            self.fail(f"{self.place}{key} is {value}, which is out of range")
        return value

    def id(self, key: str) -> int:
        value = self.whole(key)
        if value is None:
            self.fail(f"{self.place}{key} is missing")
        return value

    def ids(self, key: str, limit: int = MAX_ID) -> tuple[int, ...]:
        """A list of ids, or a kernel list as text."""
        value = self.value.get(key)
        if value is None:
            return ()
        found = ids_of_list(value) if isinstance(value, str) else value
        if not isinstance(found, tuple | list) or not all(type(i) is int and 0 <= i < limit for i in found):
            self.fail(f"{self.place}{key} is no list of ids")
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._typed(key, list, "a list") or ()
        if not all(isinstance(item, str) for item in value):
            self.fail(f"{self.place}{key} is no list of texts")
        return tuple(value)

    def objects(self, key: str, make: Callable[["_Reader"], T]) -> tuple[T, ...]:
        value = self._typed(key, list, "a list") or ()
        return tuple(make(_Reader(item, f"{self.place}{key}[{i}].", self.source)) for i, item in enumerate(value))


def parse_document(text: str, source: str) -> Topology:
    """A Topology from our JSON. Raises UsageError with line and column, or with the path of the wrong value."""
    try:
        value = json.loads(text.strip("\0 \t\r\n"))
    except json.JSONDecodeError as error:
        line = error.lineno + text[: len(text) - len(text.lstrip("\0 \t\r\n"))].count("\n")
        raise UsageError(f"is no JSON ({error.msg} at column {error.colno})", where=f"{source}:{line}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON that can be read ({error})", where=f"{source}:1") from None
    root = _Reader(value, "", source)
    schema = root.value.get("schema")
    if schema != SCHEMA:
        root.fail(f"has the schema {json.dumps(schema)[:60]}")
    allowed = _Reader(root.value.get("allowed") or {}, "allowed.", source)
    levels: dict[tuple[int, str], str] = {}
    for number, label, level in root.objects("paths", _stated):
        if level is not None:
            if level not in LEVELS:
                root.fail(f"paths has the level {level!r}, not one of {', '.join(LEVELS)}")
            levels[number, label] = level
    nodes = (*root.objects("numa_nodes", _read_node), *root.objects("other_nodes", _read_node))
    topology = Topology(
        source=source,
        hostname=root.text("hostname"),
        packages=root.ids("packages", 1 << 31),
        cpus=root.objects("cpus", _read_cpu),
        numa_nodes=tuple(sorted(nodes, key=lambda node: node.id)),
        bridges=root.objects("bridges", lambda item: PciBridge(item.text("pci") or "", item.text("parent"), item.whole("numa_node"))),
        gpus=root.objects("gpus", _read_gpu),
        hcas=root.objects("hcas", _read_hca),
        allowed=Allowed(allowed.ids("cpus"), allowed.ids("mems")),
        levels=levels,
        warnings=root.texts("warnings"),
        processor=_read_processor(root),
    )
    _unique([gpu.index for gpu in topology.gpus], "gpus", "index", root)
    _unique([hca.label for hca in topology.hcas], "hcas", "label", root)
    _unique([cpu.id for cpu in topology.cpus], "cpus", "id", root)
    _unique([node.id for node in topology.numa_nodes], "numa_nodes", "id", root)
    return topology


def _read_processor(root: _Reader) -> Processor | None:
    if root.value.get("processor") is None:
        return None
    item = _Reader(root.value["processor"], "processor.", root.source)
    return Processor(item.text("arch"), item.text("vendor"), item.whole("family"), item.whole("model"))


def _unique(values: list[Any], key: str, what: str, root: _Reader) -> None:
    if len(set(values)) < len(values):
        double = next(value for value in values if values.count(value) > 1)
        root.fail(f"{key} has the {what} {double!r} twice")


def _stated(item: _Reader) -> tuple[int, str, str | None]:
    level = item.text("path") if item.flag("stated") else None
    return item.id("gpu"), item.text("hca") or "", level


def _read_cpu(item: _Reader) -> Cpu:
    return Cpu(item.id("id"), item.whole("core", 1 << 31), item.whole("package", 1 << 31), item.whole("l3"), item.ids("siblings"))


def _read_node(item: _Reader) -> NumaNode:
    distances: dict[int, int] = {}
    for key, distance in (item.value.get("distances") or {}).items() if isinstance(item.value.get("distances"), dict | None) else ():
        if not key.isdecimal() or len(key) > 6 or not isinstance(distance, int):
            item.fail(f"{item.place}distances has {key!r}: {distance!r}")
        distances[int(key)] = distance
    return NumaNode(item.id("id"), item.ids("cpus"), item.whole("memory_bytes", 1 << 60), distances, bool(item.flag("gpu_memory")))


def _read_gpu(item: _Reader) -> Gpu:
    return Gpu(
        index=item.id("index"),
        pci=bus_id(item.text("pci")),
        name=item.text("name"),
        uuid=item.text("uuid"),
        numa_node=item.whole("numa_node"),
        pci_path=item.texts("pci_path"),
        local_cpus=item.ids("local_cpus"),
        nvlink=None if item.value.get("nvlink") is None else item.ids("nvlink"),
        link_speed=item.text("link_speed"),
        link_width=item.whole("link_width"),
    )


def _read_hca(item: _Reader) -> Hca:
    name = item.text("name")
    pci = bus_id(item.text("pci"))
    label = item.text("label") or name or pci
    if label is None:
        item.fail(f"{item.place}name, label and pci are all missing")
    return Hca(
        label=label,
        name=name,
        pci=pci,
        numa_node=item.whole("numa_node"),
        pci_path=item.texts("pci_path"),
        local_cpus=item.ids("local_cpus"),
        ports=item.objects("ports", _read_port),
        driver=item.text("driver"),
        vendor=item.text("vendor"),
        firmware=item.text("firmware"),
        board=item.text("board"),
        card=item.text("card"),
        physical_function=item.text("physical_function"),
        atomics=item.flag("atomics"),
        openable=item.flag("openable"),
        pci_class=item.whole("pci_class", 1 << 24),
        link_speed=item.text("link_speed"),
        link_width=item.whole("link_width"),
    )


def _read_port(item: _Reader) -> Port:
    gids = item.objects("gids", lambda gid: Gid(gid.id("index"), gid.text("gid") or "", gid.text("type"), gid.text("netdev")))
    return Port(item.id("number"), item.text("state"), item.text("link_layer"), item.number("rate_gbps"), item.text("netdev"), gids)

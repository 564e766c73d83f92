"""Our own JSON (schema epbox.topology/1), written from a Topology and read back to an equal one.

A person may have edited it: every wrong value is a UsageError that names where in the document it is.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, TypeVar

from entrypoints.cpulist import format_list
from entrypoints.errors import UsageError
from entrypoints.topology.model import LEVELS, Allowed, Cpu, Gid, Gpu, Hca, NumaNode, Port, Processor, Topology, path_level
from entrypoints.topology.values import MAX_ID, bus_id, ids_of_list

SCHEMA = "epbox.topology/1"

#: No name, path or message in a topology is longer.
MAX_TEXT = 4000
#: No rate is higher in Gbit/s.
MAX_NUMBER = 1 << 30

T = TypeVar("T")


class Reader:
    """Typed access to one JSON object; a wrong type is a UsageError that names the place."""

    def __init__(self, value: Any, place: str, source: str) -> None:
        self.place = place
        self.source = source
        if not isinstance(value, dict):
            self.fail(f"{place or 'the document'} is not an object")
        self.value: dict[str, Any] = value

    def fail(self, problem: str) -> NoReturn:
        raise UsageError(problem, where=self.source, hint=f"this reads what `topology --format json` wrote ({SCHEMA})")

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
        if value is not None and not 0 <= value < MAX_NUMBER:  # nor NaN
            self.fail(f"{self.place}{key} is {str(value)[:40]}, which is out of range")
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
        ids = ids_of_list(value) if isinstance(value, str) else value
        if not isinstance(ids, tuple | list) or not all(type(i) is int and 0 <= i < limit for i in ids):
            self.fail(f"{self.place}{key} is not a list of ids")
        return tuple(ids)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._typed(key, list, "a list") or ()
        if not all(isinstance(item, str) for item in value):
            self.fail(f"{self.place}{key} is not a list of texts")
        return tuple(value)

    def record(self, cls: Callable[..., T], **given: object) -> T:
        """A dataclass of this object: the fields that are not given are read under their names, by their types."""
        by_type: dict[object, Callable[[str], object]] = {
            str | None: self.text,
            bool | None: self.flag,
            int | None: self.whole,
            tuple[int, ...]: self.ids,
            tuple[str, ...]: self.texts,
        }
        members = fields(cls)  # type: ignore[arg-type]
        return cls(**given, **{member.name: by_type[member.type](member.name) for member in members if member.name not in given})

    def objects(self, key: str, make: Callable[["Reader"], T]) -> tuple[T, ...]:
        value = self._typed(key, list, "a list") or ()
        return tuple(make(Reader(item, f"{self.place}{key}[{i}].", self.source)) for i, item in enumerate(value))


def to_document(topology: Topology) -> dict[str, Any]:
    """The JSON value of a Topology. Unknown is null.

    `numa_nodes` are those this process may use by CPU or by memory, as lstopo lists them; `other_nodes` the rest.
    `paths` has the level of every GPU and HCA; `stated` marks those that the source said itself.
    """
    usable = set(topology.allowed.mems)
    nodes = topology.numa_nodes
    inside = tuple(node for node in nodes if node.cpus or node.id in usable or not usable)
    paths = []
    for gpu in topology.gpus:
        for hca in topology.hcas:
            level = path_level(topology, gpu, hca)
            paths.append({"gpu": gpu.index, "hca": hca.label, "path": level, "stated": (gpu.index, hca.label) in topology.levels})
    return {
        "schema": SCHEMA,
        "source": topology.source,
        "hostname": topology.hostname,
        "processor": _plain(topology.processor),
        "packages": _plain(topology.packages),
        "cpus": _plain(topology.cpus),
        "numa_nodes": _plain(inside),
        "other_nodes": _plain(tuple(node for node in nodes if node not in inside)),
        "bridges": _bridges((*topology.gpus, *topology.hcas)),
        "gpus": _plain(topology.gpus),
        "hcas": _plain(topology.hcas),
        "paths": paths,
        "allowed": {"cpus": format_list(topology.allowed.cpus), "mems": format_list(topology.allowed.mems)},
        "warnings": _plain(topology.warnings),
    }


def _plain(value: object) -> object:
    """The JSON value of a record: all fields in their order, under their names but for two that the schema has otherwise."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if not is_dataclass(value):
        return value
    document = {"rate_gbps" if name == "rate_gbit" else name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, Gpu | Hca):
        document["local_cpus"] = format_list(value.local_cpus)
    if isinstance(value, Gpu) and value.nvlinks_active is None:  # only a live host tells
        del document["nvlinks_active"]
    return {"name": value.name, **document} if isinstance(value, Hca) else document


def _bridges(devices: Sequence[Gpu | Hca]) -> list[dict[str, object]]:
    """The bridges above the devices, each once, parents first; a bridge lies on the node of the first device below it."""
    bridges: dict[str, dict[str, object]] = {}
    for device in devices:
        parent: str | None = None
        for pci in device.pci_path:
            bridge = bridges.setdefault(pci, {"pci": pci, "parent": parent, "numa_node": None})
            if bridge["numa_node"] is None:
                bridge["numa_node"] = device.numa_node
            parent = pci
    return list(bridges.values())


def parse_document(text: str, source: str) -> Topology:
    """A Topology from our JSON. Raises UsageError with line and column, or with the path of the wrong value."""
    try:
        value = json.loads(text.strip("\0 \t\r\n"))
    except json.JSONDecodeError as error:
        line = error.lineno + text[: len(text) - len(text.lstrip("\0 \t\r\n"))].count("\n")
        raise UsageError(f"is not JSON ({error.msg} at column {error.colno})", where=f"{source}:{line}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is not JSON that can be read ({error})", where=f"{source}:1") from None
    root = Reader(value, "", source)
    schema = root.value.get("schema")
    if schema != SCHEMA:
        root.fail(f"has the schema {json.dumps(schema)[:60]}")
    processor = root.value.get("processor")
    allowed = Reader(root.value.get("allowed") or {}, "allowed.", source)
    levels: dict[tuple[int, str], str] = {}
    paths = root.objects("paths", lambda item: (item.id("gpu"), item.text("hca") or "", item.text("path") if item.flag("stated") else None))
    for number, label, level in paths:
        if level is not None:
            if level not in LEVELS:
                root.fail(f"paths has the level {level!r}, not one of {', '.join(LEVELS)}")
            levels[number, label] = level
    nodes = (*root.objects("numa_nodes", _read_node), *root.objects("other_nodes", _read_node))
    topology = Topology(
        source=source,
        hostname=root.text("hostname"),
        packages=root.ids("packages", 1 << 31),
        cpus=root.objects(
            "cpus", lambda cpu: cpu.record(Cpu, id=cpu.id("id"), core=cpu.whole("core", 1 << 31), package=cpu.whole("package", 1 << 31))
        ),
        numa_nodes=tuple(sorted(nodes, key=lambda node: node.id)),
        gpus=root.objects("gpus", _read_gpu),
        hcas=root.objects("hcas", _read_hca),
        allowed=Allowed(allowed.ids("cpus"), allowed.ids("mems")),
        levels=levels,
        warnings=root.texts("warnings"),
        processor=None if processor is None else Reader(processor, "processor.", source).record(Processor),
    )
    for key, field in (("gpus", "index"), ("hcas", "label"), ("cpus", "id"), ("numa_nodes", "id")):
        for value, count in Counter(getattr(item, field) for item in getattr(topology, key)).items():
            if count > 1:
                root.fail(f"{key} has the {field} {value!r} twice")
    return topology


def _read_node(item: Reader) -> NumaNode:
    distances: dict[int, int] = {}
    for key, distance in (item.value.get("distances") or {}).items() if isinstance(item.value.get("distances"), dict | None) else ():
        if not key.isdecimal() or len(key) > 6 or not isinstance(distance, int):
            item.fail(f"{item.place}distances has {key!r}: {distance!r}")
        distances[int(key)] = distance
    return NumaNode(item.id("id"), item.ids("cpus"), item.whole("memory_bytes", 1 << 60), distances, bool(item.flag("gpu_memory")))


def _read_gpu(item: Reader) -> Gpu:
    nvlink = None if item.value.get("nvlink") is None else item.ids("nvlink")
    return item.record(Gpu, index=item.id("index"), pci=bus_id(item.text("pci")), nvlink=nvlink)


def _read_hca(item: Reader) -> Hca:
    pci = bus_id(item.text("pci"))
    label = item.text("label") or item.text("name") or pci
    if label is None:
        item.fail(f"{item.place}name, label and pci are all missing")
    ports = item.objects("ports", _read_port)
    return item.record(Hca, label=label, pci=pci, ports=ports, pci_class=item.whole("pci_class", 1 << 24))


def _read_port(item: Reader) -> Port:
    gids = item.objects("gids", lambda gid: gid.record(Gid, index=gid.id("index"), gid=gid.text("gid") or ""))
    return item.record(Port, number=item.id("number"), rate_gbit=item.number("rate_gbps"), gids=gids)

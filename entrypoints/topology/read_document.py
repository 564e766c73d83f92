"""A Topology out of our own JSON (document.py writes it)."""

import json
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.topology.document import SCHEMA
from entrypoints.topology.json_reader import Reader
from entrypoints.topology.model import LEVELS, Allowed, Cpu, Gid, Gpu, Hca, NumaNode, PciBridge, Port, Processor, Topology
from entrypoints.topology.values import bus_id


def parse_document(text: str, source: str) -> Topology:
    """A Topology from our JSON. Raises UsageError with line and column, or with the path of the wrong value."""
    try:
        value = json.loads(text.strip("\0 \t\r\n"))
    except json.JSONDecodeError as error:
        line = error.lineno + text[: len(text) - len(text.lstrip("\0 \t\r\n"))].count("\n")
        raise UsageError(f"is no JSON ({error.msg} at column {error.colno})", where=f"{source}:{line}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON that can be read ({error})", where=f"{source}:1") from None
    root = Reader(value, "", source)
    schema = root.value.get("schema")
    if schema != SCHEMA:
        root.fail(f"has the schema {json.dumps(schema)[:60]}")
    allowed = Reader(root.value.get("allowed") or {}, "allowed.", source)
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


def _read_processor(root: Reader) -> Processor | None:
    if root.value.get("processor") is None:
        return None
    item = Reader(root.value["processor"], "processor.", root.source)
    return Processor(item.text("arch"), item.text("vendor"), item.whole("family"), item.whole("model"))


def _unique(values: list[Any], key: str, what: str, root: Reader) -> None:
    if len(set(values)) < len(values):
        double = next(value for value in values if values.count(value) > 1)
        root.fail(f"{key} has the {what} {double!r} twice")


def _stated(item: Reader) -> tuple[int, str, str | None]:
    level = item.text("path") if item.flag("stated") else None
    return item.id("gpu"), item.text("hca") or "", level


def _read_cpu(item: Reader) -> Cpu:
    return Cpu(item.id("id"), item.whole("core", 1 << 31), item.whole("package", 1 << 31), item.whole("l3"), item.ids("siblings"))


def _read_node(item: Reader) -> NumaNode:
    distances: dict[int, int] = {}
    for key, distance in (item.value.get("distances") or {}).items() if isinstance(item.value.get("distances"), dict | None) else ():
        if not key.isdecimal() or len(key) > 6 or not isinstance(distance, int):
            item.fail(f"{item.place}distances has {key!r}: {distance!r}")
        distances[int(key)] = distance
    return NumaNode(item.id("id"), item.ids("cpus"), item.whole("memory_bytes", 1 << 60), distances, bool(item.flag("gpu_memory")))


def _read_gpu(item: Reader) -> Gpu:
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


def _read_hca(item: Reader) -> Hca:
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


def _read_port(item: Reader) -> Port:
    gids = item.objects("gids", lambda gid: Gid(gid.id("index"), gid.text("gid") or "", gid.text("type"), gid.text("netdev")))
    return Port(item.id("number"), item.text("state"), item.text("link_layer"), item.number("rate_gbps"), item.text("netdev"), gids)

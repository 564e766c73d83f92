"""Our own JSON (schema epbox.topology/1), written from a Topology; read_document.py reads it back to an equal one."""

from typing import Any

from entrypoints.cpulist import format_list
from entrypoints.topology.levels import path_level
from entrypoints.topology.model import Cpu, Gpu, Hca, NumaNode, Processor, Topology

SCHEMA = "epbox.topology/1"


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

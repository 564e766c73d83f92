"""What of a host must be equal on every node of a job, as one small record a node, and the differences between these records."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from entrypoints.preflight.gpu import driver_version
from entrypoints.preflight.libraries import WHEELS, package_version
from entrypoints.preflight.model import Answer, Host, Status, failed, not_run, passed
from entrypoints.results.model import Check

SCHEMA = "epbox.facts/1"
PACKAGES = (
    ("deep_ep", r"deep_ep"),
    ("torch", r"torch"),
    ("nvshmem", WHEELS["nvshmem"]),
    ("nccl", WHEELS["nccl"]),
    ("cuda_runtime", r"nvidia_cuda_runtime(_cu\d+)?"),
)

#: Field of a facts record (`hca_`: of each HCA in it), title, status when it differs, remedy.
FIELDS: tuple[tuple[str, str, Status, str], ...] = (
    ("driver", "NVIDIA driver equal over nodes", "WARN", "install one driver version on all nodes"),
    ("kernel", "kernel equal over nodes", "WARN", "boot one kernel on all nodes"),
    ("gpus", "GPUs equal over nodes", "FAIL", "run on nodes of one shape: DeepEP takes the same number of GPUs from each"),
    ("cpus", "CPUs equal over nodes", "WARN", "give every container the same cpuset"),
    ("numa_nodes", "NUMA nodes equal over nodes", "WARN", "one BIOS setting of nodes per socket everywhere"),
    ("packages", "libraries equal over nodes", "FAIL", "run the same image, by digest, on all nodes"),
    ("lock", "image lock equal over nodes", "FAIL", "run the same image, by digest, on all nodes"),
    ("numa_balancing", "NUMA balancing equal over nodes", "WARN", "sysctl -w kernel.numa_balancing=0 on all nodes"),
    (
        "hca_name",
        "HCA names equal over nodes",
        "WARN",
        "rails are matched by position: rename by udev so that one name is one rail everywhere",
    ),
    ("hca_firmware", "HCA firmware equal over nodes", "WARN", "bring all to the newest: mlxfwmanager --query"),
    ("hca_link_layer", "link layer equal over nodes", "FAIL", "InfiniBand and RoCE ports cannot talk to each other"),
    ("hca_rate_gbps", "port rate equal over nodes", "WARN", "the slowest port bounds the job: mlxlink -d DEVICE on that node"),
    ("hca_mtu", "MTU equal over nodes", "FAIL", "ip link set NETDEV mtu 9000 on all nodes"),
)


def host_facts(host: Host) -> dict[str, Any]:
    """Kernel, driver, GPUs, HCAs, MTU, libraries and image lock of one host; unknown is null."""
    lock = host.files.maybe("opt/epbox/lock.json")
    packages = {name: package_version(host, pattern) for name, pattern in PACKAGES}
    return {
        "schema": SCHEMA,
        "hostname": host.files.maybe("proc/sys/kernel/hostname") or host.topology.hostname,
        "kernel": host.files.maybe("proc/sys/kernel/osrelease"),
        "driver": driver_version(host),
        "cpus": len(host.topology.cpus),
        "numa_nodes": len(host.topology.numa_nodes),
        "gpus": [gpu.name for gpu in host.topology.gpus],
        "hcas": [
            {
                "name": hca.id,
                "driver": hca.driver,
                "firmware": hca.firmware,
                "board": hca.board,
                "link_layer": port.link_layer,
                "rate_gbps": port.rate_gbit,
                "mtu": host.files.number(f"sys/class/net/{port.netdev}/mtu") if port.netdev else None,
            }
            for hca, port in host.fabric()
        ],
        "packages": {name: package[1] if package else None for name, package in packages.items()},
        "lock": hashlib.sha256(lock.encode()).hexdigest() if lock else None,
        "numa_balancing": host.files.maybe("proc/sys/kernel/numa_balancing"),
    }


def compare_nodes(records: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Findings over the facts of all nodes (records of epbox.facts/1, or of epbox.doctor/1 with facts inside), worst first.

    An equal field is a PASS, a field that some node could not read a NOT_RUN; one node alone gives no finding.
    """
    facts = [record.get("facts", record) for record in records]
    if len(facts) < 2:
        return []
    names = [str(fact.get("hostname") or "?") for fact in facts]
    # A label for each node that is unique even where host names are not.
    labels = [f"{name}#{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]
    results = [_unique_names(facts)]
    for key, title, status, remedy in FIELDS:
        values = [_rails(fact, key.removeprefix("hca_")) if key.startswith("hca_") else fact.get(key) for fact in facts]
        answer = _compared(dict(zip(labels, values, strict=True)), status, remedy)
        results.append(answer.result(f"nodes.{key}", title, "docs/doctor.md, differences between nodes"))
    order = {"FAIL": 0, "WARN": 1, "NOT_RUN": 2, "PASS": 3}
    return sorted(results, key=lambda result: order[result.status])


def _rails(fact: Mapping[str, Any], key: str) -> Any:
    """One value a rail in order; None when the record has no HCA or any value is unknown."""
    hcas = fact.get("hcas")
    if not isinstance(hcas, list) or not hcas:
        return None
    values = [hca.get(key) if isinstance(hca, Mapping) else None for hca in hcas]
    return None if any(value is None for value in values) else values


def _unique_names(facts: Sequence[Mapping[str, Any]]) -> Check:
    names = [fact.get("hostname") for fact in facts]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    answer = passed(", ".join(map(str, names)))
    if any(not name for name in names):
        answer = not_run(f"{names.count(None)} nodes gave no host name")
    elif twice:
        remedy = "--hostname NODE or --network=host on each: NVSHMEM takes two nodes of one name for one"
        answer = failed(f"several nodes are called {', '.join(twice)}", remedy)
    return answer.result("nodes.hostname", "host names differ", "NVSHMEM src/host/util/util.cpp:41-51")


def _compared(values: Mapping[str, Any], status: Status, remedy: str) -> Answer:
    """PASS for one value on all nodes, `status` for several, NOT_RUN where all that differs is that some node's is unknown."""
    groups: dict[str, list[str]] = {}
    for node, value in values.items():
        groups.setdefault(_text(value), []).append(node)
    if "unknown" in groups and len(groups) < 3:
        absent = groups["unknown"]
        return not_run("unknown on every node" if len(absent) == len(values) else f"unknown on {', '.join(absent)}")
    if len(groups) == 1:
        return passed(_short(next(iter(groups))))
    # The largest group is the norm; the others are the nodes to look at.
    evidence = "; ".join(f"{_short(text)} on {_nodes(nodes)}" for text, nodes in sorted(groups.items(), key=lambda item: -len(item[1])))
    return Answer(status, evidence, remedy)


def _text(value: Any) -> str:
    if value is None or value == [] or (isinstance(value, Mapping) and all(item is None for item in value.values())):
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def _nodes(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

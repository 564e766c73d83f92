"""Differences between the nodes of one job: each is a finding, with the nodes that hold each value."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from entrypoints.preflight.model import CheckResult, Status

#: Field of a facts record, title, status when it differs, remedy.
FIELDS: tuple[tuple[str, str, Status, str], ...] = (
    ("driver", "NVIDIA driver equal over nodes", "WARN", "install one driver version on all nodes"),
    ("kernel", "kernel equal over nodes", "WARN", "boot one kernel on all nodes"),
    ("gpus", "GPUs equal over nodes", "FAIL", "run on nodes of one shape: DeepEP takes the same number of GPUs from each"),
    ("cpus", "CPUs equal over nodes", "WARN", "give every container the same cpuset"),
    ("numa_nodes", "NUMA nodes equal over nodes", "WARN", "one BIOS setting of nodes per socket everywhere"),
    ("packages", "libraries equal over nodes", "FAIL", "run the same image, by digest, on all nodes"),
    ("lock", "image lock equal over nodes", "FAIL", "run the same image, by digest, on all nodes"),
    ("numa_balancing", "NUMA balancing equal over nodes", "WARN", "sysctl -w kernel.numa_balancing=0 on all nodes"),
)
#: Field of one HCA in a facts record, title, status when it differs, remedy.
RAIL_FIELDS: tuple[tuple[str, str, Status, str], ...] = (
    ("name", "HCA names equal over nodes", "WARN", "rails are matched by position: rename by udev so that one name is one rail everywhere"),
    ("firmware", "HCA firmware equal over nodes", "WARN", "bring all to the newest: mlxfwmanager --query"),
    ("link_layer", "link layer equal over nodes", "FAIL", "InfiniBand and RoCE ports cannot talk to each other"),
    ("rate_gbps", "port rate equal over nodes", "WARN", "the slowest port bounds the job: mlxlink -d DEVICE on that node"),
    ("mtu", "MTU equal over nodes", "FAIL", "ip link set NETDEV mtu 9000 on all nodes"),
)


def compare_nodes(records: Sequence[Mapping[str, Any]]) -> list[CheckResult]:
    """Findings over the facts of all nodes (records of epbox.facts/1, or of epbox.doctor/1 with facts inside), worst first.

    An equal field is a PASS, a field that some node could not read a NOT_RUN; one node alone gives no finding.
    """
    facts = [record.get("facts", record) for record in records]
    if len(facts) < 2:
        return []
    labels = _labels(facts)
    results = [_unique_names(facts)]
    for key, title, status, remedy in FIELDS:
        results.append(_judge(f"nodes.{key}", title, status, remedy, dict(zip(labels, [fact.get(key) for fact in facts], strict=True))))
    for key, title, status, remedy in RAIL_FIELDS:
        values = [_rails(fact, key) for fact in facts]
        results.append(_judge(f"nodes.hca_{key}", title, status, remedy, dict(zip(labels, values, strict=True))))
    order = {"FAIL": 0, "WARN": 1, "NOT_RUN": 2, "PASS": 3}
    return sorted(results, key=lambda result: order[result.status])


def _labels(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each node that is unique even where host names are not."""
    names = [str(fact.get("hostname") or "?") for fact in facts]
    return [f"{name}#{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _rails(fact: Mapping[str, Any], key: str) -> Any:
    """One value a rail in order; None when the record has no HCA or any value is unknown."""
    hcas = fact.get("hcas")
    if not isinstance(hcas, list) or not hcas:
        return None
    values = [hca.get(key) if isinstance(hca, Mapping) else None for hca in hcas]
    return None if any(value is None for value in values) else values


def _unique_names(facts: Sequence[Mapping[str, Any]]) -> CheckResult:
    names = [fact.get("hostname") for fact in facts]
    source = "NVSHMEM src/host/util/util.cpp:41-51"
    if any(not name for name in names):
        return CheckResult("nodes.hostname", "host names differ", "NOT_RUN", f"{names.count(None)} nodes gave no host name", "", source)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        remedy = "--hostname NODE or --network=host on each: NVSHMEM takes two nodes of one name for one"
        return CheckResult("nodes.hostname", "host names differ", "FAIL", f"several nodes are called {', '.join(twice)}", remedy, source)
    return CheckResult("nodes.hostname", "host names differ", "PASS", ", ".join(map(str, names)), "", source)


def _judge(id: str, title: str, status: Status, remedy: str, values: Mapping[str, Any]) -> CheckResult:
    source = "docs/doctor.md, differences between nodes"
    groups: dict[str, list[str]] = {}
    for node, value in values.items():
        groups.setdefault(_text(value), []).append(node)
    if "unknown" in groups:
        absent = groups["unknown"]
        evidence = "unknown on every node" if len(absent) == len(values) else f"unknown on {', '.join(absent)}"
        known = [text for text in groups if text != "unknown"]
        if len(known) < 2:
            return CheckResult(id, title, "NOT_RUN", evidence, "", source)
    if len(groups) == 1:
        return CheckResult(id, title, "PASS", _short(next(iter(groups))), "", source)
    # The largest group is the norm; the others are the nodes to look at.
    evidence = "; ".join(f"{_short(text)} on {_nodes(nodes)}" for text, nodes in sorted(groups.items(), key=lambda item: -len(item[1])))
    return CheckResult(id, title, status, evidence, remedy, source)


def _text(value: Any) -> str:
    if value is None or value == [] or (isinstance(value, Mapping) and all(item is None for item in value.values())):
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def _nodes(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

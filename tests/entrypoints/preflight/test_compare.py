"""Differences between the nodes of a job."""

import copy
from typing import Any

import pytest

from entrypoints.preflight.compare import compare_nodes, host_facts
from entrypoints.preflight.report import document
from tests.helpers.fake_host import FakeHost


@pytest.fixture
def two(fake: FakeHost) -> list[dict[str, Any]]:
    fake.write("opt/epbox/lock.json", "{}")
    fake.make_roce()
    first = host_facts(fake.host())
    return [first, {**copy.deepcopy(first), "hostname": "node1"}]


def found(records: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {result.id: (result.status, result.evidence) for result in compare_nodes(records)}


def test_equal_nodes_pass_everything(two: list[dict[str, Any]]) -> None:
    assert {status for status, _ in found(two).values()} == {"PASS"}


def test_one_node_has_nothing_to_compare(two: list[dict[str, Any]]) -> None:
    assert compare_nodes(two[:1]) == []
    assert compare_nodes([]) == []


@pytest.mark.parametrize(
    ("key", "value", "id", "status"),
    [
        ("kernel", "5.15.0", "nodes.kernel", "WARN"),
        ("driver", "550.1.2", "nodes.driver", "WARN"),
        ("gpus", ["NVIDIA H200"] * 8, "nodes.gpus", "FAIL"),
        ("cpus", 8, "nodes.cpus", "WARN"),
        ("numa_nodes", 4, "nodes.numa_nodes", "WARN"),
        ("packages", {"torch": "2.4"}, "nodes.packages", "FAIL"),
        ("lock", "other", "nodes.lock", "FAIL"),
        ("numa_balancing", "1", "nodes.numa_balancing", "WARN"),
        ("hostname", "node0", "nodes.hostname", "FAIL"),
    ],
)
def test_a_difference_is_found(two: list[dict[str, Any]], key: str, value: object, id: str, status: str) -> None:
    two[1][key] = value
    results = compare_nodes(two)
    different = {result.id: result for result in results if result.status in ("WARN", "FAIL")}
    assert list(different) == [id]
    assert different[id].status == status
    assert "node0" in different[id].evidence
    assert different[id].remedy
    assert results[0].id == id, "worst first"


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [("firmware", "1.2.3", "WARN"), ("mtu", 1500, "FAIL"), ("rate_gbps", 200.0, "WARN"), ("name", "mlx5_9", "WARN")],
)
def test_one_rail_of_one_node_differs(two: list[dict[str, Any]], key: str, value: object, status: str) -> None:
    two[1]["hcas"][3][key] = value
    assert found(two)[f"nodes.hca_{key}"][0] == status


def test_unknown_is_not_a_difference_and_not_a_pass(two: list[dict[str, Any]]) -> None:
    two[1]["driver"] = None
    assert found(two)["nodes.driver"] == ("NOT_RUN", "unknown on node1")
    two[1]["hcas"][0]["mtu"] = None
    assert found(two)["nodes.hca_mtu"][0] == "NOT_RUN"


def test_the_odd_one_out_of_many_is_named_last(two: list[dict[str, Any]]) -> None:
    many = [{**two[0], "hostname": f"node{i}"} for i in range(16)]
    many[7]["driver"] = "1.2.3"
    status, evidence = found(many)["nodes.driver"]
    assert status == "WARN"
    assert evidence.endswith("1.2.3 on node7")


def test_doctor_documents_are_records_too(fake: FakeHost) -> None:
    first = document(fake.host(), [])
    second = copy.deepcopy(first)
    second["facts"].update(hostname="node1", kernel="5.0")
    assert found([first, second])["nodes.kernel"][0] == "WARN"


@pytest.mark.parametrize("junk", [{}, {"facts": {}}, {"hcas": "no"}, {"hcas": [1, None]}, {"hostname": 7, "gpus": None}])
def test_junk_records_do_not_break_it(two: list[dict[str, Any]], junk: dict[str, Any]) -> None:
    assert compare_nodes([two[0], junk])

"""Cores: whole, contiguous, by L3, within the cpuset, near the GPU; and memory nodes beside them."""

from dataclasses import replace

import pytest

from entrypoints.cpulist import format_list
from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.cpus import policy_for, split
from entrypoints.topology.model import Allowed, Cpu, NumaNode, Topology
from tests.helpers.placing import machine


def shares(topology: Topology, homes: list[int | None], per_rank: int | None = None) -> list[str]:
    return [format_list(share.cpus) for share in split(topology, homes, per_rank)[0]]


def limited(topology: Topology, *cpus: int) -> Topology:
    return replace(topology, allowed=Allowed(cpus, topology.allowed.mems))


def test_contiguous_quarters_with_siblings() -> None:
    assert shares(machine(smt=2), [0, 0, 1, 1]) == ["0-23,96-119", "24-47,120-143", "48-71,144-167", "72-95,168-191"]


def test_remainder_goes_to_the_lowest_ranks() -> None:
    assert shares(machine(1, 10), [0, 0, 0]) == ["0-3", "4-6", "7-9"]


def test_shares_follow_l3_groups_even_when_ids_interleave() -> None:
    """Even CPUs on one cache, odd ones on the other: each rank gets one cache."""
    host = machine(1, 8)
    host = replace(host, cpus=tuple(replace(cpu, l3=cpu.id % 2) for cpu in host.cpus))
    assert shares(host, [0, 0]) == ["0,2,4,6", "1,3,5,7"]


def test_allowed_siblings_only() -> None:
    """A cpuset that cuts a core in two leaves the allowed half."""
    host = limited(machine(1, 4, smt=2), 0, 1, 5, 2, 6)
    assert shares(host, [0, 0, 0]) == ["0", "1,5", "2,6"]


def test_excluded_node_falls_back_to_the_nearest_by_slit() -> None:
    slit = {(0, 1): 32, (0, 2): 12, (1, 0): 32, (2, 0): 12}
    host = machine(3, 4, slit=slit)
    host = replace(
        host,
        allowed=Allowed(tuple(range(4, 12)), (1, 2)),
        numa_nodes=tuple(replace(node, cpus=() if node.id == 0 else node.cpus) for node in host.numa_nodes),
    )
    found, warnings = split(host, [0])
    assert (found[0].node, format_list(found[0].cpus)) == (2, "8-11")
    assert "node 2 is nearest" in warnings[0]


def test_ranks_that_find_no_cpu_move_to_the_nearest_spare_node() -> None:
    host = limited(machine(2, 8), 0, *range(8, 16))
    found, warnings = split(host, [0, 0, 1])
    assert [share.node for share in found] == [0, 1, 1]
    assert len({cpu for share in found for cpu in share.cpus}) == 9
    assert any("fewer allowed CPUs than ranks" in warning for warning in warnings)


def test_threads_are_dealt_when_cores_run_out_then_shared() -> None:
    assert shares(machine(1, 2, smt=2), [0, 0, 0, 0]) == ["0", "2", "1", "3"]
    found, warnings = split(machine(1, 2), [0, 0, 0])
    assert [share.cpus for share in found] == [(0, 1)] * 3
    assert "they share them" in warnings[0]


def test_ranks_without_locality_are_dealt_in_blocks() -> None:
    assert [share.node for share in split(machine(), [None] * 8)[0]] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [share.node for share in split(machine(), [None])[0]] == [0]


def test_few_ranks_on_many_nodes_use_all_packages() -> None:
    host = machine(8, 4)
    host = replace(host, cpus=tuple(replace(cpu, package=cpu.id // 16) for cpu in host.cpus))
    assert [share.node for share in split(host, [None] * 2)[0]] == [0, 4]
    assert [share.node for share in split(host, [None] * 4)[0]] == [0, 1, 4, 5]


def test_cores_per_rank() -> None:
    assert shares(machine(1, 16, smt=2), [0, 0], 2) == ["0-1,16-17", "8-9,24-25"]
    with pytest.raises(UsageError, match="at most 8"):
        split(machine(1, 16), [0, 0], 9)
    with pytest.raises(UsageError):
        split(machine(1, 16), [0], 0)


def test_no_allowed_cpu_is_no_plan_and_unknown_cpus_are_not() -> None:
    with pytest.raises(NoPlan) as caught:
        split(limited(machine(1, 2), 7), [0])
    assert caught.value.exit_code == 8
    found, warnings = split(Topology("matrix"), [0, 1])
    assert [share.cpus for share in found] == [(), ()]
    assert "not bound" in warnings[0]


def memory(topology: Topology, home: int | None) -> tuple[str, tuple[int, ...]]:
    policy, _ = policy_for(topology, split(topology, [home])[0][0])
    return policy.policy, policy.nodes


def test_memory_is_preferred_on_the_node_of_the_cpus() -> None:
    assert memory(machine(), 1) == ("preferred", (1,))


def test_memoryless_node_takes_the_nearest_with_cpus_and_memory() -> None:
    slit = {(0, 1): 32, (0, 2): 12}
    host = machine(3, 4, slit=slit)
    host = replace(host, numa_nodes=(replace(host.numa_nodes[0], memory_bytes=0), *host.numa_nodes[1:]))
    assert memory(host, 0) == ("preferred", (2,))


def test_device_memory_and_forbidden_nodes_are_never_preferred() -> None:
    host = machine(2, 4)
    hbm = NumaNode(2, (), 96 << 30, {0: 11, 1: 80}, gpu_memory=True)
    host = replace(host, numa_nodes=(replace(host.numa_nodes[0], memory_bytes=0), host.numa_nodes[1], hbm))
    assert memory(host, 0) == ("preferred", (1,))
    only_hbm = replace(host, allowed=Allowed(host.allowed.cpus, (2,)))
    assert memory(only_hbm, 0) == ("default", ())
    mems = replace(machine(), allowed=Allowed(machine().allowed.cpus, (0,)))
    assert memory(mems, 1) == ("preferred", (0,))


def test_nodes_that_list_the_same_cpus_share_none() -> None:
    """numa=fake=2: both nodes list all CPUs."""
    host = Topology("x", numa_nodes=(NumaNode(0, (0, 1, 2, 3)), NumaNode(1, (0, 1, 2, 3))), cpus=tuple(Cpu(cpu) for cpu in range(4)))
    shares, warnings = split(host, [0, 1])
    assert [share.cpus for share in shares] == [(0, 1), (2, 3)]
    assert warnings == ["rank 1: node 1 has no allowed CPU, node 0 is nearest"]

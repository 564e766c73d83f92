"""Our own sysfs trees as lstopo lists them: the same CPUs, nodes, packages, and CPUs and bridges of each device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoints.topology import load
from tests.helpers import tools
from tests.helpers.lstopo import ask_lstopo, listing_of
from tests.helpers.sysfs_tree import PRESETS, Host, NodeSpec, build, large, thinned

tools.need("lstopo", whole_module=True)


def with_cpus_offline() -> Host:
    """Of a core with SMT one CPU, of another both; four cores share an L3 cache."""
    nodes = tuple(NodeSpec(n, (*range(8 * n, 8 * n + 8), *range(16 + 8 * n, 24 + 8 * n))) for n in range(2))
    return Host(nodes, siblings=tuple((cpu, cpu + 16) for cpu in range(16)), cpus_per_l3=4, offline=(1, 2, 18))


def sparse() -> Host:
    """Node numbers with a hole, CPUs dealt out in turns, and a node without CPUs."""
    return Host((NodeSpec(0, (0, 2, 4, 6), 1 << 20), NodeSpec(2, (1, 3, 5, 7), 3 << 20), NodeSpec(3, (), 1 << 21)))


def small_and_many() -> Host:
    return large(gpus=8, hcas=8, cpus=64, nodes=4)


HOSTS: dict[str, Callable[[], Host]] = {**PRESETS, "cpus offline": with_cpus_offline, "sparse": sparse, "large": small_and_many}


@pytest.mark.parametrize("name", HOSTS)
def test_tree_is_as_lstopo_lists_it(tmp_path: Path, name: str) -> None:
    host = thinned(HOSTS[name](), cores=8)
    root = build(tmp_path, host)
    topology = load(str(root))
    ours, listing = listing_of(topology), ask_lstopo(root)
    assert ours.units == listing.units
    for spec, gpu in zip(host.gpus, topology.gpus, strict=True):
        if spec.memory_node is not None:
            memory = listing.nodes[spec.memory_node]
            assert memory.cpus == gpu.local_cpus
            listing.nodes[spec.memory_node] = memory._replace(cpus=())
    assert ours.nodes == listing.nodes
    assert ours.devices == {pci: listing.devices[pci] for pci in ours.devices}

"""Matrices, NCCL and hwloc XML and hwloc snapshots as people posted them, with lstopo as the oracle; and our own facts beside them."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.topology import load, path_level
from entrypoints.topology.model import Gpu, Topology
from tests.helpers.lstopo import Unit, ask_lstopo, listing_of
from tests.helpers.originals import ORIGINALS
from tests.helpers.posted_matrices import MATRICES, matrix_text, nearest
from tests.helpers.posted_trees import FACTS, FILES, TREES, tree_text

FOLDER = ORIGINALS / "topologies"


def matrix(name: str) -> Topology:
    return load(str(FOLDER / "matrices" / f"{name}.txt"))


def tree(name: str) -> Topology:
    return load(str(FOLDER / "xml" / FILES[name]))


@pytest.mark.parametrize("name", MATRICES)
def test_matrix(name: str) -> None:
    topology = matrix(name)
    gpus, hcas, nodes, nics = MATRICES[name]
    assert (len(topology.gpus), len(topology.hcas)) == (gpus, hcas)
    assert "".join("?" if gpu.numa_node is None else str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert nearest(topology) == nics


def test_no_matrix_is_left_out() -> None:
    assert {path.stem for path in (FOLDER / "matrices").glob("*.txt")} == MATRICES.keys()


@pytest.mark.parametrize("name", MATRICES)
def test_our_table_says_what_the_matrix_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "matrix.txt"
    path.write_text(matrix_text(name))
    ours, posted = load(str(path)), matrix(name)
    # Warnings name lines.
    assert replace(ours, source="", warnings=()) == replace(posted, source="", warnings=())
    assert len(ours.warnings) == len(posted.warnings)


def test_names_of_the_legend() -> None:
    assert [hca.name for hca in matrix("h800-rails8-bond1").hcas] == ["mlx5_0", *(f"mlx5_{i}" for i in range(3, 10)), "mlx5_bond_0"]


def test_lost_nvlink_is_seen() -> None:
    gpus = matrix("b200-gpu2-no-nvlink").gpus
    assert gpus[2].nvlink == ()
    assert gpus[0].nvlink == (1, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("name", TREES)
def test_xml(name: str) -> None:
    topology = tree(name)
    nodes, hcas, levels = FACTS[name]
    assert "".join(str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert [hca.pci for hca in topology.hcas] == hcas
    assert {path_level(topology, gpu, hca) for gpu in topology.gpus for hca in topology.hcas} == levels


def in_our_notation(gpu: Gpu) -> Gpu:
    """Without what hwloc's file says beside the place of a GPU, which our notation leaves out."""
    return replace(gpu, name=None, uuid=None)


@pytest.mark.parametrize("name", TREES)
def test_our_tree_says_what_the_file_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tree.xml"
    path.write_text(tree_text(name))
    ours, published = load(str(path)), tree(name)
    assert list(ours.gpus) == [in_our_notation(gpu) for gpu in published.gpus]
    assert (ours.hcas, ours.allowed, ours.processor) == (published.hcas, published.allowed, published.processor)
    assert {node.id: node.cpus for node in ours.numa_nodes} == {node.id: node.cpus for node in published.numa_nodes}
    assert [(cpu.id, cpu.core, cpu.package) for cpu in ours.cpus] == [(cpu.id, cpu.core, cpu.package) for cpu in published.cpus]


SNAPSHOTS = [
    "128arm-2pa2n8cluster4co",
    "128ia64-17n4s2c",
    "16em64t-4s2c2t-offlines",
    "16em64t-4s2c2t",
    "2pa-pcidomain32bits",
    "32amd64-4s2n4c-cgroup2",
    "32em64t-2n8c+dax+nvme+mic+dimms",
    "32intel64-2p8co2t+8ve",
    "40intel64-2g2n4c+pcilocality",
    "40intel64-4n10c+pci-conflicts",
    "48amd64-4pa2n6c-sparse",
    "64amd64-4s2n4ca2co",
    "nvidia-dgx-gb10",
]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot_is_as_lstopo_lists_it(tmp_path: Path, name: str) -> None:
    tarball = FOLDER / "hwloc" / f"{name}.tar.bz2"
    topology = load(str(tarball))
    with tarfile.open(tarball) as tar:
        tar.extractall(tmp_path, filter="fully_trusted")
    root = next(path.parent for path in sorted(tmp_path.glob("*/sys")))
    ours, listing = listing_of(topology), ask_lstopo(root)
    units = ours.units
    if any(unit.package is None for unit in listing.units):
        # hwloc dropped a package whose CPUs contradict a PCI device's locality, and says so on stderr.
        assert name == "40intel64-4n10c+pci-conflicts"
        units = {unit if unit in listing.units else Unit(None, unit.core, unit.cpu) for unit in units}
    assert units == listing.units
    assert ours.nodes == listing.nodes
    by_node = {cpu: node.id for node in topology.numa_nodes for cpu in node.cpus}
    assert by_node.keys() == {cpu.id for cpu in topology.cpus}
    assert ours.devices == {pci: listing.devices[pci] for pci in ours.devices}
    # The folder and the tarball are one host.
    folder = load(str(root))
    assert (folder.cpus, folder.numa_nodes, folder.hcas, folder.allowed) == (
        topology.cpus,
        topology.numa_nodes,
        topology.hcas,
        topology.allowed,
    )


def test_no_snapshot_is_left_out() -> None:
    assert {path.name for path in (FOLDER / "hwloc").glob("*.tar.bz2")} == {f"{name}.tar.bz2" for name in SNAPSHOTS}


def test_an_infiniband_tree_of_a_real_host() -> None:
    topology = load(str(FOLDER / "hwloc" / "32em64t-2n8c+dax+nvme+mic+dimms.tar.bz2"))
    (hca,) = topology.hcas
    assert (hca.name, hca.pci, hca.numa_node, hca.driver, hca.firmware) == ("mlx4_0", "0000:82:00.0", 1, "mlx4_core", "2.11.500")
    assert [(port.state, port.rate_gbit, port.link_layer) for port in hca.ports] == [("ACTIVE", 56.0, "InfiniBand")]
    assert hca.pci_path == ("pci0000:80", "0000:80:02.2")

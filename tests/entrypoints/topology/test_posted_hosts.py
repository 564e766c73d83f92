"""Hosts that people posted, from text and XML that say what their posts say."""

from pathlib import Path

import pytest

from entrypoints.topology import load, path_level
from entrypoints.topology.model import Topology
from tests.helpers.placing import POSTED
from tests.helpers.posted_matrices import MATRICES, matrix_text, nearest, nvlink_peers
from tests.helpers.posted_trees import FACTS, TREES, tree_text


def matrix(tmp_path: Path, name: str) -> Topology:
    path = tmp_path / "matrix.txt"
    path.write_text(matrix_text(name))
    return load(str(path))


def tree(tmp_path: Path, name: str) -> Topology:
    path = tmp_path / "tree.xml"
    path.write_text(tree_text(name))
    return load(str(path))


@pytest.mark.parametrize("name", MATRICES)
def test_matrix(tmp_path: Path, name: str) -> None:
    topology = matrix(tmp_path, name)
    gpus, hcas, nodes, nics = MATRICES[name]
    assert (len(topology.gpus), len(topology.hcas)) == (gpus, hcas)
    assert "".join("?" if gpu.numa_node is None else str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert nearest(topology) == nics


@pytest.mark.parametrize("name", POSTED)
def test_all_that_the_table_says_is_read_back(tmp_path: Path, name: str) -> None:
    host, topology = POSTED[name], matrix(tmp_path, name)
    levels = [[path_level(topology, gpu, hca) or "-" for hca in topology.hcas] for gpu in topology.gpus]
    assert levels == [row.split() for row in host["rows"]]
    assert [gpu.numa_node for gpu in topology.gpus] == host["numa"]
    assert [gpu.nvlink for gpu in topology.gpus] == nvlink_peers(host)
    assert [hca.id for hca in topology.hcas] == host["nics"]
    assert [hca.card for hca in topology.hcas] == (host["cards"] or [None] * len(host["nics"]))
    assert {node.id for node in topology.numa_nodes if node.gpu_memory} == set(host.get("memory", ())) - {None}


def test_names_of_the_legend(tmp_path: Path) -> None:
    topology = matrix(tmp_path, "h800-rails8-bond1")
    assert [hca.name for hca in topology.hcas] == ["mlx5_0", *(f"mlx5_{i}" for i in range(3, 10)), "mlx5_bond_0"]


def test_lost_nvlink_is_seen(tmp_path: Path) -> None:
    gpus = matrix(tmp_path, "b200-gpu2-no-nvlink").gpus
    assert gpus[2].nvlink == ()
    assert gpus[0].nvlink == (1, 3, 4, 5, 6, 7)


def test_lost_rows_are_named(tmp_path: Path) -> None:
    warnings = matrix(tmp_path, "b200-gpu2-no-nvlink").warnings
    assert any("names GPU6, GPU7, whose rows are missing" in warning for warning in warnings)
    assert matrix(tmp_path, "h100-ib8-eth5-pxb-pairs").warnings == ()


@pytest.mark.parametrize("name", TREES)
def test_xml(tmp_path: Path, name: str) -> None:
    topology = tree(tmp_path, name)
    nodes, hcas, levels = FACTS[name]
    assert "".join(str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert [hca.pci for hca in topology.hcas] == hcas
    assert {path_level(topology, gpu, hca) for gpu in topology.gpus for hca in topology.hcas} == levels


def test_switches_of_a_dgx2(tmp_path: Path) -> None:
    gpus = tree(tmp_path, "dgx-2").gpus
    assert gpus[0].pci == "0000:34:00.0"
    assert gpus[0].pci_path == ("pci0000:2b", "0000:2b:00.0", "0000:2c:00.0", "0000:2d:04.0", "0000:32:00.0", "0000:33:00.0")

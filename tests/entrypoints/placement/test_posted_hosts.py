"""Every host that people posted gets the right map: from the table of its levels, and from the text or XML that says the same."""

from pathlib import Path

import pytest

from entrypoints.placement.model import Plan
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from tests.helpers import placing
from tests.helpers.posted_matrices import matrix_text
from tests.helpers.posted_trees import MAPS, tree_text

BARE = PlanOptions(environ={})


@pytest.mark.parametrize("name", sorted(placing.POSTED))
def test_map(name: str) -> None:
    plan = make_plan(placing.posted(name), BARE)
    assert placing.wrong_choices(name, [rank.hca for rank in plan.ranks]) == []
    assert [rank.gpu_index for rank in plan.ranks] == list(range(len(plan.ranks)))
    assert all(rank.reason for rank in plan.ranks)


@pytest.mark.parametrize("name", sorted(placing.POSTED))
def test_map_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "matrix.txt"
    path.write_text(matrix_text(name))
    plan = make_plan(load(str(path)), BARE)
    assert placing.wrong_choices(name, [rank.hca for rank in plan.ranks]) == []


def test_numa_only_sources_still_tell_the_node() -> None:
    assert [rank.numa_node for rank in make_plan(placing.posted("rocm-mi-nps4-numa"), BARE).ranks] == [3, 2, 1, 0, 7, 6, 5, 4]


def test_side_networks_are_left_out_with_a_reason() -> None:
    left_out = dict(make_plan(placing.posted("h800-rails8-bond1"), BARE).excluded)
    assert "not their rail" in left_out["mlx5_bond_0"]
    left_out = dict(make_plan(placing.posted("h100-ib8-eth5-pxb-pairs"), BARE).excluded)
    assert set(left_out) == {f"mlx5_eth{i}" for i in range(5)}
    assert set(dict(make_plan(placing.posted("dgx-a100-nic10-nps4"), BARE).excluded)) == {"mlx5_8", "mlx5_9"}


def plan_of_tree(tmp_path: Path, name: str) -> Plan:
    path = tmp_path / "tree.xml"
    path.write_text(tree_text(name))
    return make_plan(load(str(path)), BARE)


@pytest.mark.parametrize("name", sorted(MAPS))
def test_map_of_vendor_xml(tmp_path: Path, name: str) -> None:
    assert [rank.hca_pci for rank in plan_of_tree(tmp_path, name).ranks] == MAPS[name]


def test_a_gpu_a_node_gets_that_nodes_cpus(tmp_path: Path) -> None:
    assert [rank.cpus[0] for rank in plan_of_tree(tmp_path, "azure-ncv4").ranks] == [0, 24, 48, 72]


def test_efa_is_not_for_ibgda(tmp_path: Path) -> None:
    plan = plan_of_tree(tmp_path, "aws-p4de")
    assert "IBGDA cannot drive AWS EFA" in " ".join(plan.warnings)
    assert all("NVSHMEM_HCA_LIST" not in rank.env for rank in plan.ranks)

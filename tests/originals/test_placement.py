"""Every host that people posted gets the right map from the files themselves."""

import pytest

from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from tests.helpers.originals import ORIGINALS
from tests.helpers.placing import wrong_choices
from tests.helpers.posted_matrices import MATRICES
from tests.helpers.posted_trees import FILES, MAPS

BARE = PlanOptions(environ={})


@pytest.mark.parametrize("name", MATRICES)
def test_map_of_the_posted_text(name: str) -> None:
    plan = make_plan(load(str(ORIGINALS / "topologies" / "matrices" / f"{name}.txt")), BARE)
    assert wrong_choices(name, [rank.hca for rank in plan.ranks]) == []


@pytest.mark.parametrize("name", MAPS)
def test_map_of_vendor_xml(name: str) -> None:
    plan = make_plan(load(str(ORIGINALS / "topologies" / "xml" / FILES[name])), BARE)
    assert [rank.hca_pci for rank in plan.ranks] == MAPS[name]
    if name == "azure-ncv4":
        assert [rank.cpus[0] for rank in plan.ranks] == [0, 24, 48, 72]
    if name == "aws-p4de":
        assert "IBGDA cannot drive AWS EFA" in " ".join(plan.warnings)
        assert all("NVSHMEM_HCA_LIST" not in rank.env for rank in plan.ranks)

"""Every host that people posted gets the right map: from our table of levels, and from the files themselves where present."""

from collections import Counter
from pathlib import Path

import pytest

from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from tests.helpers import placing

BARE = PlanOptions(environ={})


def check(name: str, hcas: list[str | None]) -> None:
    host = placing.POSTED[name]
    for rank, (got, allowed) in enumerate(zip(hcas, host["expect"], strict=True)):
        assert got in allowed, f"{name}: rank {rank} got {got}, right is {allowed}"
    if hcas[0] is not None:
        assert max(Counter(hcas).values()) <= host["load"], f"{name}: {hcas}"


@pytest.mark.parametrize("name", sorted(placing.POSTED))
def test_map(name: str) -> None:
    plan = make_plan(placing.posted(name), BARE)
    check(name, [rank.hca for rank in plan.ranks])
    assert [rank.gpu_index for rank in plan.ranks] == list(range(len(plan.ranks)))
    assert all(rank.reason for rank in plan.ranks)


@pytest.mark.parametrize("name", sorted(placing.POSTED))
def test_map_of_the_posted_text(name: str) -> None:
    path = placing.SHARED / "matrices" / f"{name}.txt"
    if not path.exists():
        pytest.skip("the posted matrices are not beside this checkout")
    plan = make_plan(load(str(path)), BARE)
    check(name, [rank.hca for rank in plan.ranks])


def test_numa_only_sources_still_tell_the_node() -> None:
    assert [rank.numa_node for rank in make_plan(placing.posted("rocm-mi-nps4-numa"), BARE).ranks] == [3, 2, 1, 0, 7, 6, 5, 4]


def test_side_networks_are_left_out_with_a_reason() -> None:
    left_out = dict(make_plan(placing.posted("h800-rails8-bond1"), BARE).excluded)
    assert "not their rail" in left_out["mlx5_bond_0"]
    left_out = dict(make_plan(placing.posted("h100-ib8-eth5-pxb-pairs"), BARE).excluded)
    assert set(left_out) == {f"mlx5_eth{i}" for i in range(5)}
    assert set(dict(make_plan(placing.posted("dgx-a100-nic10-nps4"), BARE).excluded)) == {"mlx5_8", "mlx5_9"}


XML_MAPS = {
    "azure-ndv5-topo.xml": [f"{0x101 + k:04x}:00:00.0" for k in range(8)],
    "azure-ndv2-topo.xml": ["0101:00:00.0"] * 8,
    "aws-p4de-24xl-topo.xml": [f"0000:{bus}:1b.0" for bus in ("10", "10", "20", "20", "90", "90", "a0", "a0")],
    "azure-ncv4-topo.xml": [None] * 4,
    "aws-g5.48xl-topo.xml": ["0000:00:15.0"] * 8,
    "hwloc-nvidiaDGX2.xml": [None] * 16,
}


@pytest.mark.parametrize("name", sorted(XML_MAPS))
def test_map_of_vendor_xml(name: str) -> None:
    path: Path = placing.SHARED / "xml" / name
    if not path.exists():
        pytest.skip("the vendors' XML files are not beside this checkout")
    plan = make_plan(load(str(path)), BARE)
    assert [rank.hca_pci for rank in plan.ranks] == XML_MAPS[name]
    if name == "azure-ncv4-topo.xml":
        assert [rank.cpus[0] for rank in plan.ranks] == [0, 24, 48, 72]
    if name == "aws-p4de-24xl-topo.xml":
        assert "IBGDA cannot drive AWS EFA" in " ".join(plan.warnings)
        assert all("NVSHMEM_HCA_LIST" not in rank.env for rank in plan.ranks)

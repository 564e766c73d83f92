"""The variables of a rank, and the user's own: honoured, checked, never silently replaced."""

from dataclasses import replace
from typing import Any

import pytest

from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.environment import roce_gid
from entrypoints.placement.model import Plan
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import Gid, Gpu, Port, Topology
from tests.helpers.placing import machine, nic, rails, with_hcas

ALL = ",".join(f"mlx5_{i}:1" for i in range(8))


def plan(topology: Topology, environ: dict[str, str] | None = None, **options: Any) -> Plan:
    return make_plan(topology, PlanOptions(environ=environ or {}, **options))


def warned(made: Plan, text: str) -> bool:
    return any(text in warning for warning in made.warnings)


def test_one_entry_list_for_each_rank() -> None:
    for i, rank in enumerate(plan(rails()).ranks):
        assert rank.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "NVSHMEM_HCA_LIST": f"mlx5_{i}:1", "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}


def renamed(*names: str) -> Topology:
    host = rails(gpus=len(names))
    return replace(host, hcas=tuple(replace(hca, name=name, label=name) for hca, name in zip(host.hcas, names, strict=True)))


@pytest.mark.parametrize(
    ("name", "prefix"), [("rocep80s0", "rocep"), ("roce_rail3", "roce_rail"), ("ibp12s0", "ibp"), ("mlx5_bond_3", None)]
)
def test_prefix_for_names_without_mlx5(name: str, prefix: str | None) -> None:
    env = plan(renamed(name)).ranks[0].env
    assert env.get("NVSHMEM_HCA_PREFIX") == prefix
    assert prefix is None or prefix in name


def test_users_prefix_is_kept_and_checked() -> None:
    made = plan(renamed("rocep80s0"), {"NVSHMEM_HCA_PREFIX": "mlx5"})
    assert "NVSHMEM_HCA_PREFIX" not in made.ranks[0].env
    assert warned(made, "NVSHMEM will skip this HCA")
    assert not warned(plan(renamed("rocep80s0"), {"NVSHMEM_HCA_PREFIX": "roce"}), "skip")


def roce(*gids: Gid) -> Topology:
    return rails(gpus=1, nodes=1, ports=(Port(1, "ACTIVE", "Ethernet", 400, "eth1", gids),))


LINK = Gid(1, "fe80:0000:0000:0000:bace:f6ff:fe00:0001", "RoCE v2")
V1 = Gid(2, "0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1")
V2 = Gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2")
V6 = Gid(5, "2001:0db8:0000:0000:0000:0000:0000:0001", "RoCE v2")


def test_gid_index_is_roce_v2_over_ipv4() -> None:
    assert plan(roce(LINK, V1, V6, V2)).ranks[0].env["NVSHMEM_IB_GID_INDEX"] == "3"
    assert plan(roce(LINK, V1, V6)).ranks[0].env["NVSHMEM_IB_GID_INDEX"] == "5"
    made = plan(roce(LINK, V1))
    assert "NVSHMEM_IB_GID_INDEX" not in made.ranks[0].env
    assert warned(made, "no routable RoCE v2 GID (is eth1 up")
    assert "NVSHMEM_IB_GID_INDEX" not in plan(roce()).ranks[0].env, "an unknown table gives no index"


@pytest.mark.parametrize("unknown", [Gid(0, "garbage", "RoCE v2"), Gid(0, V2.gid, None), Gid(0, "", "RoCE v2")])
def test_a_gid_of_unknown_type_or_address_gives_no_index_and_no_warning(unknown: Gid) -> None:
    assert roce_gid(Port(1, gids=(LINK, unknown))) is None
    made = plan(roce(LINK, unknown))
    assert "NVSHMEM_IB_GID_INDEX" not in made.ranks[0].env and not warned(made, "GID")


def test_infiniband_needs_no_gid_index() -> None:
    host = rails(gpus=1, nodes=1, ports=(Port(1, "ACTIVE", "InfiniBand", 400, None, (Gid(0, "fe80::1", "IB/RoCE v1"),)),))
    assert "NVSHMEM_IB_GID_INDEX" not in plan(host).ranks[0].env


def test_users_gid_index_is_kept_and_checked() -> None:
    made = plan(roce(V1, V2), {"NVSHMEM_IB_GID_INDEX": "2"})
    assert "NVSHMEM_IB_GID_INDEX" not in made.ranks[0].env
    assert warned(made, "not RoCE v2")
    assert warned(plan(roce(V1, V2), {"NVSHMEM_IB_GID_INDEX": "9"}), "no GID there")
    with pytest.raises(UsageError, match="not a number"):
        plan(roce(V2), {"NVSHMEM_IB_GID_INDEX": "x"})


def test_v2_gets_a_node_wide_allow_list_and_its_own_name() -> None:
    env = plan(rails(), workload="deepep-v2").ranks[2].env
    assert env["NCCL_IB_HCA"] == "=" + ALL
    assert env["EP_NIC_NAME"] == "mlx5_2"
    kept = plan(rails(), {"NCCL_IB_HCA": "mlx5", "EP_NIC_NAME": "mlx5_7"}, workload="deepep-v2").ranks[2].env
    assert "NCCL_IB_HCA" not in kept and "EP_NIC_NAME" not in kept


def test_v2_honours_nccl_ib_hca() -> None:
    made = plan(rails(), {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_4:1"}, workload="deepep-v2")
    assert [rank.hca for rank in made.ranks] == ["mlx5_0"] * 4 + ["mlx5_4"] * 4
    made = plan(rails(), {"NCCL_IB_HCA": "^mlx5_0"}, workload="deepep-v2")
    assert "mlx5_0" not in {rank.hca for rank in made.ranks}
    with pytest.raises(UsageError, match="known: mlx5_0, mlx5_1"):
        plan(rails(), {"NCCL_IB_HCA": "=rocep3"}, workload="deepep-v2")


def test_blog_recipe_is_taken_as_an_allow_list_with_a_warning() -> None:
    made = plan(rails(), {"NVSHMEM_HCA_LIST": ALL, "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"})
    assert [rank.env["NVSHMEM_HCA_LIST"] for rank in made.ranks] == ALL.split(",")
    assert warned(made, "DeepEP #336")
    half = plan(rails(), {"NVSHMEM_HCA_LIST": "mlx5_1:1,mlx5_5"})
    assert [rank.hca for rank in half.ranks] == ["mlx5_1"] * 4 + ["mlx5_5"] * 4
    assert dict(half.excluded)["mlx5_0"] == "not in NVSHMEM_HCA_LIST"


def test_one_entry_of_the_user_is_kept_for_all() -> None:
    made = plan(rails(), {"NVSHMEM_HCA_LIST": "mlx5_6:1"})
    assert {rank.env["NVSHMEM_HCA_LIST"] for rank in made.ranks} == {"mlx5_6:1"}
    assert warned(made, "as you asked")
    assert not warned(plan(rails(), {"NVSHMEM_HCA_LIST": "mlx5_6:1"}, ranks=1), "as you asked")


def test_excluding_list_and_pe_mapping() -> None:
    made = plan(rails(), {"NVSHMEM_HCA_LIST": "^mlx5_0:1,mlx5_1"})
    assert {"mlx5_0", "mlx5_1"}.isdisjoint({rank.hca for rank in made.ranks})
    made = plan(rails(), {"NVSHMEM_HCA_PE_MAPPING": "mlx5_0:1:2,mlx5_4:1:2"})
    assert {rank.hca for rank in made.ranks} == {"mlx5_0", "mlx5_4"}


@pytest.mark.parametrize("variable", ["NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING"])
def test_unknown_names_are_usage_errors_that_name_the_known(variable: str) -> None:
    for text in ("mlx5_9:1", "^mlx5_9", "=mlx5_0"):
        with pytest.raises(UsageError) as caught:
            plan(rails(), {variable: text})
        assert variable in str(caught.value)
    with pytest.raises(UsageError, match="has no port 2"):
        plan(rails(), {"NVSHMEM_HCA_LIST": "mlx5_0:2"})


def test_device_to_hca_mapping_and_hca_option() -> None:
    made = plan(rails(), {"DEEP_EP_DEVICE_TO_HCA_MAPPING": "0:mlx5_7:1,7:mlx5_0:1"})
    assert [rank.hca for rank in made.ranks] == ["mlx5_7", *(f"mlx5_{i}" for i in range(1, 7)), "mlx5_0"]
    assert "chosen by the user" in made.ranks[0].reason
    made = plan(rails(), {"DEEP_EP_DEVICE_TO_HCA_MAPPING": "0:mlx5_7:1"}, hca_overrides={0: "mlx5_3:1"})
    assert made.ranks[0].hca == "mlx5_3"
    assert warned(made, "goes before DEEP_EP_DEVICE_TO_HCA_MAPPING")
    assert made.ranks[3].hca != "mlx5_3", "a free HCA goes before the one that the user took"
    for bad in ("mlx5_0", "0:", "x:mlx5_0", "9:mlx5_0", "0:mlx5_9"):
        with pytest.raises(UsageError):
            plan(rails(), {"DEEP_EP_DEVICE_TO_HCA_MAPPING": bad})
    with pytest.raises(UsageError, match="ranks are 0-7"):
        plan(rails(), hca_overrides={8: "mlx5_0"})


def test_an_hca_that_the_user_names_is_used_though_it_is_no_rail() -> None:
    host = with_hcas(rails(), nic("eth_mgmt", "0000:f0:00.0", 0, ("pci0000:f0",)))
    assert "eth_mgmt" in dict(plan(host).excluded)
    made = plan(host, hca_overrides={2: "eth_mgmt"})
    assert made.ranks[2].env["NVSHMEM_HCA_LIST"] == "eth_mgmt:1"
    assert "eth_mgmt" not in dict(made.excluded)


def test_exclude_hca() -> None:
    made = plan(rails(), exclude_hca=("mlx5_2",))
    assert dict(made.excluded)["mlx5_2"] == "excluded by --exclude-hca"
    with pytest.raises(UsageError, match="no HCA is called"):
        plan(rails(), exclude_hca=("mlx5_22",))
    made = plan(rails(), exclude_hca=tuple(f"mlx5_{i}" for i in range(8)))
    assert {rank.hca for rank in made.ranks} == {None}
    assert warned(made, "within this host only")


UUIDS = tuple(f"GPU-0000000{i}-aaaa-bbbb-cccc-dddddddddddd" for i in range(8))


def gpus_of(visible: str, **options: Any) -> list[int | None]:
    host = rails()
    host = replace(host, gpus=tuple(replace(gpu, uuid=uuid) for gpu, uuid in zip(host.gpus, UUIDS, strict=True)))
    return [rank.gpu_index for rank in plan(host, {"CUDA_VISIBLE_DEVICES": visible}, **options).ranks]


def test_visible_devices_by_index_and_uuid() -> None:
    assert gpus_of("6,2") == [6, 2]
    assert gpus_of(f"{UUIDS[3]},GPU-00000005") == [3, 5]
    assert gpus_of("1,-1,2") == [1], "CUDA stops at the first invalid entry"
    assert gpus_of("0,1,2,3", ranks=2) == [0, 1]
    assert gpus_of("", workload="alltoall") == [None]


@pytest.mark.parametrize("visible", ["MIG-GPU-1/3/0", "MIG-5a", "8", "0,0", "GPU-0000000", "GPU-ffff"])
def test_bad_visible_devices(visible: str) -> None:
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        gpus_of(visible)


def test_more_ranks_than_gpus() -> None:
    with pytest.raises(NoPlan, match="use --ranks 8"):
        plan(rails(), ranks=9)
    with pytest.raises(NoPlan, match="7 more hidden"):
        plan(rails(), {"CUDA_VISIBLE_DEVICES": "3"}, ranks=2)
    made = plan(rails(), ranks=16, workload="alltoall")
    assert [rank.gpu_index for rank in made.ranks] == [None] * 16
    assert [rank.numa_node for rank in made.ranks] == [0] * 8 + [1] * 8
    with pytest.raises(UsageError, match="at least one"):
        plan(rails(), ranks=0)


def test_hosts_without_gpus_get_the_nic_near_their_cores() -> None:
    host = replace(machine(), hcas=(nic("mlx5_0", "0000:10:00.0", 1), nic("mlx5_1", "0000:80:00.0", 0)))
    made = plan(host, ranks=2, workload="alltoall")
    assert [(rank.numa_node, rank.hca) for rank in made.ranks] == [(0, "mlx5_1"), (1, "mlx5_0")]
    assert all(rank.to_json()["gpu"] is None for rank in made.ranks)


def test_cuda_device_order_is_set_and_said() -> None:
    made = plan(rails(), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    assert made.ranks[0].env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert warned(made, "CUDA_DEVICE_ORDER")


def test_nameless_hcas_give_no_variables() -> None:
    host = rails(gpus=1, nodes=1)
    made = plan(replace(host, hcas=(replace(host.hcas[0], name=None, label="NIC0"),)))
    assert made.ranks[0].hca == "NIC0"
    assert "NVSHMEM_HCA_LIST" not in made.ranks[0].env
    assert warned(made, "no verbs name")


def test_gpu_with_unknown_node_follows_its_near_nic() -> None:
    host = rails()
    host = replace(host, gpus=tuple(replace(gpu, numa_node=None) for gpu in host.gpus))
    assert [rank.numa_node for rank in plan(host).ranks] == [0] * 4 + [1] * 4
    assert plan(replace(machine(), gpus=(Gpu(0),))).ranks[0].cpus

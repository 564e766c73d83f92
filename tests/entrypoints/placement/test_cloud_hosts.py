"""Hosts as vendors and clouds build them: which NICs are rails, and who gets which."""

from collections import Counter
from dataclasses import replace

from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import Gpu, Hca, Topology
from tests.helpers.placing import machine, nic, port, rails, switch, with_hcas

ETH = port(400, "Ethernet")


def placed(topology: Topology, **options: object) -> list[str | None]:
    return [rank.hca for rank in make_plan(topology, PlanOptions(environ={}, **options)).ranks]  # type: ignore[arg-type]


def left_out(topology: Topology) -> dict[str, str]:
    return dict(make_plan(topology, PlanOptions(environ={})).excluded)


IDENTITY = [f"mlx5_{i}" for i in range(8)]


def test_dgx_h100_storage_cards_are_not_rails() -> None:
    """8 rails, and two dual-port cards of the same rate and fabric elsewhere: as storage uses them on DGX H100 and B200."""
    storage = [nic(f"mlx5_{8 + i}", f"0000:{0xE0 + i // 2:02x}:00.{i % 2}", i // 2, (f"pci0000:{0xE0 + i // 2:02x}",)) for i in range(4)]
    host = with_hcas(rails(), *storage)
    assert placed(host) == IDENTITY
    assert set(left_out(host)) == {"mlx5_8", "mlx5_9", "mlx5_10", "mlx5_11"}


def test_two_gpus_and_two_nics_on_a_switch_get_one_each() -> None:
    """GCP A3 Ultra and A4: equidistant, so NVSHMEM gives both GPUs the first (DeepEP #466)."""
    assert placed(rails(gpus_per_switch=2, ports=ETH)) == IDENTITY


def test_oci_h100_sixteen_functions() -> None:
    """One dual-port card a GPU, and two front-end functions at 100 Gb/s: the first port of each card."""
    host = rails(nics_per_gpu=2, ports=port(200, "Ethernet"))
    front = [nic(f"front_{i}", f"0000:f{i}:00.0", i, (f"pci0000:f{i}",), ports=port(100, "Ethernet")) for i in range(2)]
    plan = make_plan(with_hcas(host, *front), PlanOptions(environ={}))
    assert [rank.hca for rank in plan.ranks] == [f"mlx5_{2 * i}" for i in range(8)]
    assert {hca: reason.split(",")[0] for hca, reason in plan.excluded} == {"front_0": "100 Gb/s", "front_1": "100 Gb/s"}
    assert any("second ports" in warning for warning in plan.warnings)


def azure(domains: tuple[int, ...], nodes: tuple[int, ...]) -> Topology:
    """A VM that hides its PCIe tree: a domain for each device, locality by NUMA node alone."""
    count = len(domains)
    gpus = tuple(Gpu(k, f"{d:04x}:00:00.0", numa_node=nodes[k], pci_path=(f"pci{d:04x}:00",)) for k, d in enumerate(domains))
    hcas = tuple(nic(f"mlx5_ib{k}", f"{0x101 + k:04x}:00:00.0", nodes[k], (f"pci{0x101 + k:04x}:00",)) for k in range(count))
    an0 = nic("mlx5_an0", "14a7:00:02.0", 0, ("pci14a7:00",), ports=port(100, "Ethernet"), atomics=False)
    return replace(machine(max(nodes) + 1, 96 // len(set(nodes))), gpus=gpus, hcas=(an0, *hcas))


def test_azure_ndv5_by_bus_order() -> None:
    host = azure((0x1, 0x2, 0x3, 0x8, 0x9, 0xA, 0xB, 0xC), (0, 0, 0, 0, 1, 1, 1, 1))
    assert placed(host) == [f"mlx5_ib{k}" for k in range(8)]
    assert set(left_out(host)) == {"mlx5_an0"}


def test_azure_ndv4_reproduces_the_vendor_table() -> None:
    """Azure's ndv4 table: 0001,0002 on node 1 with 0101,0102; 0003,0004 on 0; 000b,000c on 3; 000d,000e on 2."""
    nodes = (1, 1, 0, 0, 3, 3, 2, 2)
    host = azure((0x1, 0x2, 0x3, 0x4, 0xB, 0xC, 0xD, 0xE), nodes)
    plan = make_plan(host, PlanOptions(environ={}))
    assert [rank.hca for rank in plan.ranks] == [f"mlx5_ib{k}" for k in range(8)]
    assert [rank.numa_node for rank in plan.ranks] == list(nodes)
    assert [rank.cpus[0] for rank in plan.ranks] == [24, 36, 0, 12, 72, 84, 48, 60]


def test_flat_vm_without_numa_pairs_by_bus_order() -> None:
    host = azure((0x1, 0x2, 0x3, 0x8, 0x9, 0xA, 0xB, 0xC), (0, 0, 0, 0, 1, 1, 1, 1))
    host = replace(
        host, gpus=tuple(replace(g, numa_node=None) for g in host.gpus), hcas=tuple(replace(h, numa_node=None) for h in host.hcas)
    )
    assert placed(host) == [f"mlx5_ib{k}" for k in range(8)]


def test_aws_p5_is_planned_for_nccl_only() -> None:
    """32 EFA devices, 4 to a GPU: IBGDA cannot drive them, so no NVSHMEM variables, and a warning."""
    host = rails(nics_per_gpu=4, driver="efa", vendor="0x1d0f", ports=port(100, None))
    plan = make_plan(host, PlanOptions(environ={}))
    assert [rank.hca for rank in plan.ranks] == [f"mlx5_{4 * i}" for i in range(8)]
    assert all(set(rank.env) == {"CUDA_DEVICE_ORDER"} for rank in plan.ranks)
    assert any("AWS EFA" in warning and "NCCL only" in warning for warning in plan.warnings)


def test_efa_beside_mlx5_is_left_out() -> None:
    host = with_hcas(rails(), nic("rdmap0", "0000:f0:00.0", 0, switch(0, 9), driver="efa"))
    assert "AWS EFA" in left_out(host)["rdmap0"]


def test_broadcom_rails_of_mi300x_hosts() -> None:
    """MI300X hosts with Thor-2 NICs: mapped, but IBGDA cannot drive them."""
    host = rails(driver="bnxt_en", vendor="0x14e4", ports=ETH)
    plan = make_plan(host, PlanOptions(environ={}))
    assert [rank.hca for rank in plan.ranks] == IDENTITY
    assert any("bnxt_re" in warning for warning in plan.warnings)


def test_two_infiniband_and_one_ethernet() -> None:
    """The Ethernet NIC is on GPU 0's switch, the InfiniBand ones are not: the fabric is still InfiniBand."""
    base = rails(gpus=4)
    ib = [nic(f"mlx5_{i}", f"0000:8{i}:00.0", i, (f"pci0000:8{i}",)) for i in range(2)]
    host = replace(base, hcas=(nic("mlx5_2", "0000:17:00.0", 0, switch(0, 8), ports=port(100, "Ethernet")), *ib))
    assert placed(host) == ["mlx5_0", "mlx5_0", "mlx5_1", "mlx5_1"]
    assert "Ethernet" in left_out(host)["mlx5_2"]


def test_roce_rails_beside_infiniband_storage() -> None:
    """The other way round: a RoCE rail at every GPU, and InfiniBand at none."""
    storage = nic("mlx5_8", "0000:e0:00.0", 0, ("pci0000:e0",), ports=port(200))
    host = with_hcas(rails(ports=ETH), storage)
    assert placed(host) == IDENTITY
    assert "storage" in left_out(host)["mlx5_8"]


def test_bonds_are_rails_where_there_is_nothing_else() -> None:
    """8 GPUs, 4 bonded dual-port RoCE cards: two GPUs on each bond."""
    base = rails()
    bonds = tuple(nic(f"mlx5_bond_{i}", f"0000:{0x15 + 16 * i:02x}:00.0", i // 2, switch(2 * i, 8), ports=ETH) for i in range(4))
    chosen = placed(replace(base, hcas=bonds))
    assert Counter(chosen) == {f"mlx5_bond_{i}": 2 for i in range(4)}
    assert chosen == [f"mlx5_bond_{i // 2}" for i in range(8)]


def test_bond_beside_rails_on_a_flat_host_goes_by_name() -> None:
    base = machine()
    gpus = tuple(Gpu(k, numa_node=k // 2) for k in range(4))
    hcas = tuple(Hca(f"mlx5_{k}", f"mlx5_{k}", numa_node=k // 2) for k in range(4))
    host = replace(base, gpus=gpus, hcas=(*hcas, Hca("mlx5_bond_0", "mlx5_bond_0", numa_node=0)))
    assert placed(host) == [f"mlx5_{k}" for k in range(4)]
    assert "name" in left_out(host)["mlx5_bond_0"]


def test_four_dual_port_cards_for_eight_gpus() -> None:
    """HGX with 4 dual-port cards: both ports up serve a GPU pair; with one port down the pair shares the other."""
    cards = [
        nic(f"mlx5_{i}", f"0000:{0x15 + 8 * (i // 2):02x}:00.{i % 2}", i // 4, switch(i // 2, 8), card=f"card{i // 2}") for i in range(8)
    ]
    host = replace(rails(gpus_per_switch=2), hcas=tuple(cards))
    assert placed(host) == IDENTITY
    down = replace(host, hcas=tuple(replace(h, ports=port(state="DOWN")) if i % 2 else h for i, h in enumerate(host.hcas)))
    assert placed(down) == [f"mlx5_{i // 2 * 2}" for i in range(8)]
    assert "no active port" in left_out(down)["mlx5_1"]


def test_different_cards_before_two_ports_of_one() -> None:
    """2 GPUs and 2 dual-port cards on one switch: one card each."""
    base = rails(gpus=2, gpus_per_switch=2, nodes=1)
    ports = [nic(f"mlx5_{i}", f"0000:{0x15 + i // 2:02x}:00.{i % 2}", 0, switch(0, 8 + i // 2), card=f"card{i // 2}") for i in range(4)]
    assert placed(replace(base, hcas=tuple(ports))) == ["mlx5_0", "mlx5_2"]


def test_one_nic_for_eight_gpus() -> None:
    host = replace(rails(), hcas=(nic("mlx5_0", "0000:15:00.0", 0, switch(0, 8)),))
    plan = make_plan(host, PlanOptions(environ={}))
    assert [rank.hca for rank in plan.ranks] == ["mlx5_0"] * 8
    assert any("share mlx5_0" in warning for warning in plan.warnings)


def test_a_lone_nic_survives_every_soft_rule() -> None:
    lone = nic("mlx5_bond_0", "0000:e0:00.0", 1, ("pci0000:e0",), ports=port(25, "Ethernet"), atomics=False)
    host = replace(rails(), hcas=(lone,))
    assert placed(host) == ["mlx5_bond_0"] * 8
    assert any("atomics" in warning for warning in make_plan(host, PlanOptions(environ={})).warnings)


def test_a_rail_that_is_down_is_shared_around() -> None:
    host = rails()
    host = replace(host, hcas=tuple(replace(h, ports=port(state="DOWN")) if h.name == "mlx5_3" else h for h in host.hcas))
    chosen = placed(host)
    assert [c for i, c in enumerate(chosen) if i != 3] == [f"mlx5_{i}" for i in range(8) if i != 3]
    assert chosen[3] in ("mlx5_0", "mlx5_1", "mlx5_2"), "the substitute is on GPU 3's own NUMA node"


def test_a_rail_at_half_rate_stays_with_a_warning_and_a_slow_one_goes() -> None:
    host = rails()
    half = replace(host, hcas=tuple(replace(h, ports=port(200)) if h.name == "mlx5_3" else h for h in host.hcas))
    assert placed(half) == IDENTITY
    assert any("mlx5_3 runs at 200" in warning for warning in make_plan(half, PlanOptions(environ={})).warnings)
    slow = replace(host, hcas=tuple(replace(h, ports=port(25)) if h.name == "mlx5_3" else h for h in host.hcas))
    assert "25 Gb/s" in left_out(slow)["mlx5_3"]


def test_far_rails_of_the_same_kind_stay_where_the_count_is_even() -> None:
    """4 rails at every second GPU. 4 more of their kind in far slots make 8 rails; one more is a storage card."""
    near = rails(board="MT_838")
    near = replace(near, hcas=near.hcas[::2])
    far = [nic(f"far_{i}", f"0000:f{i}:00.0", i // 2, (f"pci0000:f{i}",), board="MT_838") for i in range(4)]
    chosen = placed(with_hcas(near, *far))
    assert chosen[::2] == IDENTITY[::2]
    assert chosen[1::2] == [f"far_{i}" for i in range(4)]
    assert placed(with_hcas(near, far[0])) == placed(near) == [f"mlx5_{i // 2 * 2}" for i in range(8)]
    assert set(left_out(with_hcas(near, far[0]))) == {"far_0"}


def nvlinked(*peers: tuple[int, ...] | None) -> str:
    host = rails(gpus=len(peers))
    host = replace(host, gpus=tuple(replace(gpu, nvlink=links) for gpu, links in zip(host.gpus, peers, strict=True)))
    return " ".join(make_plan(host, PlanOptions(environ={})).warnings)


def test_nvlink_gaps_are_said() -> None:
    assert "GPU 2 has no NVLink while the others have" in nvlinked((1, 3), (0, 3), (), (0, 1))
    assert "does not join all pairs of GPUs 0-3" in nvlinked((1,), (0,), (3,), (2,))
    assert "no NVLink joins these GPUs" in nvlinked((), ())
    assert nvlinked((1,), (0,)) == nvlinked(None, None) == nvlinked(()) == ""


def test_virtual_functions_count_once() -> None:
    """64 VFs beside their PFs (bare metal with SR-IOV): the PFs. In a pod that may open VFs only: one VF a PF."""
    host = rails()
    vfs = [
        nic(f"mlx5_{8 + 2 * i + v}", f"{h.pci[:-1]}{v + 2}", h.numa_node, h.pci_path, physical_function=h.pci)
        for i, h in enumerate(host.hcas)
        for v in range(2)
        if h.pci
    ]
    both = with_hcas(host, *vfs)
    assert placed(both) == IDENTITY
    assert "virtual function of mlx5_0" in left_out(both)["mlx5_8"]
    pod = replace(both, hcas=tuple(replace(h, openable=h.physical_function is not None) for h in both.hcas))
    assert placed(pod) == [f"mlx5_{8 + 2 * i}" for i in range(8)]
    assert "second virtual function" in left_out(pod)["mlx5_9"]


def test_pod_that_may_open_only_its_own_nics() -> None:
    host = rails()
    pod = replace(host, gpus=host.gpus[4:], hcas=tuple(replace(h, openable=i >= 4) for i, h in enumerate(host.hcas)))
    assert placed(pod) == IDENTITY[4:]
    assert "cannot be opened" in left_out(pod)["mlx5_0"]


def test_grace_hopper_never_prefers_gpu_memory() -> None:
    base = machine(nodes=1, cores=72)
    memory = replace(base.numa_nodes[0], id=1, cpus=(), gpu_memory=True, distances={0: 80, 1: 10})
    gpu = Gpu(0, "0009:01:00.0", numa_node=0, pci_path=("pci0009:00",))
    hca = nic("mlx5_0", "0000:01:00.0", 0, ("pci0000:00",))
    plan = make_plan(replace(base, numa_nodes=(*base.numa_nodes, memory), gpus=(gpu,), hcas=(hca,)), PlanOptions(environ={}))
    assert plan.ranks[0].memory.nodes == (0,)
    assert plan.ranks[0].path == "NODE"


def test_gb200_dual_port_bluefields_are_not_rails() -> None:
    """On GB200 nvidia-smi calls every path SYS; the single-port cards are the rails, NIC2, 3, 6 and 7 are BlueField ports."""
    from tests.helpers.placing import posted

    assert placed(posted("gb200-nic8-all-sys")) == ["mlx5_0", "mlx5_1", "mlx5_4", "mlx5_5"]


def test_half_of_the_gpus_keep_their_nics() -> None:
    """Two jobs of half a host each get what the whole plan would give them, and never meet on one NIC."""
    for host in (rails(), rails(gpus_per_switch=2), azure((1, 2, 3, 8, 9, 10, 11, 12), (0, 0, 0, 0, 1, 1, 1, 1))):
        whole = placed(host)
        for visible in ((0, 1, 2, 3), (4, 5, 6, 7), (1, 6), (7, 0)):
            plan = make_plan(host, PlanOptions(environ={"CUDA_VISIBLE_DEVICES": ",".join(map(str, visible))}))
            assert [rank.hca for rank in plan.ranks] == [whole[gpu] for gpu in visible]


def test_few_ranks_use_free_nics_rather_than_share() -> None:
    from tests.helpers.placing import posted

    assert len(set(placed(posted("rtx4090x8-epyc-nps4-nic4"), ranks=4))) == 4

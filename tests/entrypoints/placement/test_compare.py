"""What others do on the same host, against results that people published and that simulations of their code gave."""

from dataclasses import replace

from entrypoints.placement.compare import Rule, compare, compare_table, nccl
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import Gpu, Topology
from tests.helpers.placing import machine, nic, port, posted, rails


def compared(topology: Topology) -> dict[str, Rule]:
    return {rule.name: rule for rule in compare(topology, make_plan(topology, PlanOptions(environ={})))}


def indices(rule: Rule) -> list[int]:
    return [int("".join(filter(str.isdigit, (cell.hca or "").rpartition("_")[2]))) for cell in rule.cells]


def azure() -> Topology:
    domains = (0x1, 0x2, 0x3, 0x8, 0x9, 0xA, 0xB, 0xC)
    gpus = tuple(Gpu(k, f"{d:04x}:00:00.0", numa_node=k // 4, pci_path=(f"pci{d:04x}:00",)) for k, d in enumerate(domains))
    hcas = tuple(nic(f"mlx5_ib{k}", f"{0x101 + k:04x}:00:00.0", k // 4, (f"pci{0x101 + k:04x}:00",)) for k in range(8))
    return replace(machine(), gpus=gpus, hcas=hcas)


def test_nvshmem_on_azure() -> None:
    """HT: all on device 0. LL: each on the next one, GPUs 3 and 7 across sockets."""
    rules = compared(azure())
    assert indices(rules["nvshmem-ht"]) == [0] * 8
    assert indices(rules["nvshmem-ll"]) == [1, 2, 3, 4, 5, 6, 7, 0]
    assert [rank for rank, cell in enumerate(rules["nvshmem-ll"].cells) if cell.loses] == [3, 7]
    assert all("shared by 8" in cell.loses for cell in rules["nvshmem-ht"].cells)


def test_nvshmem_with_two_gpus_and_two_nics_a_switch() -> None:
    """DeepEP #466: half of the NICs idle in HT; in LL the pair is swapped, which costs nothing."""
    rules = compared(rails(gpus_per_switch=2, ports=port(400, "Ethernet")))
    assert indices(rules["nvshmem-ht"]) == [0, 0, 2, 2, 4, 4, 6, 6]
    assert indices(rules["nvshmem-ll"]) == [1, 0, 3, 2, 5, 4, 7, 6]
    assert not any(cell.loses for cell in rules["nvshmem-ll"].cells)


def test_nvshmem_is_right_with_a_switch_for_each_gpu() -> None:
    rules = compared(rails())
    assert indices(rules["nvshmem-ht"]) == indices(rules["nvshmem-ll"]) == list(range(8))


def test_same_list_on_every_rank() -> None:
    """DeepEP #336: fine while all ranks were one world (LL), all on the first since they are not (HT)."""
    rules = compared(rails())
    assert indices(rules["blog-ht"]) == [0] * 8
    assert indices(rules["blog-ll"]) == list(range(8))


def test_nccl_on_dgx_a100_and_on_four_nics() -> None:
    """One NIC each on DGX A100; 4 equally near NICs are dealt evenly, but a NIC nearer to one GPU draws all of its node."""
    assert indices(compared(posted("dgx-a100-nic10-nps4"))["nccl"]) == list(range(8))
    gpus = tuple(Gpu(i, numa_node=0) for i in range(8))
    hcas = tuple(nic(f"mlx5_{i}", node=0) for i in range(4))
    host = replace(machine(1), gpus=gpus, hcas=hcas)
    levels = {(g.index, h.label): "NODE" for g in gpus for h in hcas}
    assert [h.name for h in nccl(host, gpus, levels) if h] == [f"mlx5_{i}" for i in (0, 2, 1, 3, 0, 2, 1, 3)]
    rule = compared(posted("h20-nic5-137"))["nccl"]
    assert [cell.hca for cell in rule.cells][:4] == ["NIC0", "NIC0", "NIC1", "NIC0"]
    assert rule.cells[1].loses and rule.cells[3].loses


def test_nccl_takes_the_fastest_even_if_far() -> None:
    host = rails(gpus=2)
    slow = replace(host, hcas=(replace(host.hcas[0], ports=port(200)), host.hcas[1]))
    assert indices(compared(slow)["nccl"]) == [1, 1]


def test_formula_cores_on_interleaved_and_nps4_hosts() -> None:
    """rank * 12 on a host whose GPUs hang on nodes 1,1,0,0: half of the ranks on the wrong node, and cores beyond the last."""
    base = machine(2, 24)
    gpus = tuple(Gpu(k, f"0000:{k + 1:02x}:00.0", numa_node=node) for k, node in enumerate((1, 1, 0, 0)))
    rule = compared(replace(base, gpus=gpus))["blog-cores"]
    assert [cell.loses for cell in rule.cells] == [("wrong node",)] * 4
    more = replace(base, gpus=tuple(Gpu(k, f"0000:{k + 1:02x}:00.0", numa_node=k // 4) for k in range(8)))
    assert compared(more)["blog-cores"].cells[7].loses == ("no such cores",)


def test_torchrun_node_shares_the_node_and_takes_unknown_for_zero() -> None:
    host = rails()
    host = replace(host, gpus=(*host.gpus[:7], replace(host.gpus[7], numa_node=None)))
    rule = compared(host)["torchrun-node"]
    assert "shared by 5" in rule.cells[0].loses
    assert "wrong node" in rule.cells[7].loses


def test_hosts_without_gpus_compare_nothing() -> None:
    host = machine()
    plan = make_plan(host, PlanOptions(environ={}))
    assert compare(host, plan) == []
    assert compare_table(plan, []).startswith("compare\n  nothing")

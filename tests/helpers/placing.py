"""Topologies by hand for placement tests: posted matrices, and hosts as vendors build them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from entrypoints.topology.model import Allowed, Cpu, Gpu, Hca, NumaNode, Port, Topology

ROOT = Path(__file__).parents[2]
POSTED: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/data/plan/posted-hosts.json").read_text())


def posted(name: str) -> Topology:
    """A host that somebody posted as `nvidia-smi topo -m`, from our own table of its levels."""
    host = POSTED[name]
    cards = host["cards"] or [None] * len(host["nics"])
    hcas = tuple(
        Hca(label=nic, name=None if nic.startswith("NIC") else nic, card=card) for nic, card in zip(host["nics"], cards, strict=True)
    )
    gpus = tuple(Gpu(index, numa_node=node) for index, node in enumerate(host["numa"]))
    levels = {
        (index, hca.label): level
        for index, row in enumerate(host["rows"])
        for hca, level in zip(hcas, row.split(), strict=True)
        if level != "-"
    }
    return Topology(name, gpus=gpus, hcas=hcas, levels=levels, numa_nodes=tuple(NumaNode(n) for n in sorted({*host["numa"]} - {None})))


def wrong_choices(name: str, hcas: Sequence[str | None]) -> list[str]:
    """What is wrong with these HCAs, one a rank, on a posted host: one that is not nearest, or one for too many ranks. Empty when right."""
    host = POSTED[name]
    choices = enumerate(zip(hcas, host["expect"], strict=True))
    wrong = [f"rank {rank} got {hca}, right is {right}" for rank, (hca, right) in choices if hca not in right]
    ranks = Counter(hca for hca in hcas if hca is not None)
    return wrong + [f"{hca} is for {count} ranks, right is {host['load']}" for hca, count in ranks.items() if count > host["load"]]


def machine(nodes: int = 2, cores: int = 48, smt: int = 1, l3_cores: int = 0, slit: dict[tuple[int, int], int] | None = None) -> Topology:
    """CPUs and memory only: `cores` on each node, SMT siblings in the upper half of the ids."""
    total = nodes * cores
    cpus = []
    for cpu in range(total * smt):
        core = cpu % total
        siblings = tuple(core + total * thread for thread in range(smt))
        cpus.append(Cpu(cpu, core % cores, core // cores, core // (l3_cores or cores), siblings))
    numa = tuple(
        NumaNode(
            node,
            tuple(cpu.id for cpu in cpus if cpu.package == node),
            256 << 30,
            {other: (slit or {}).get((node, other), 10 if node == other else 21) for other in range(nodes)},
        )
        for node in range(nodes)
    )
    every = tuple(cpu.id for cpu in cpus)
    return Topology("test", "host", tuple(range(nodes)), tuple(cpus), numa, allowed=Allowed(every, tuple(range(nodes))))


def port(rate: float | None = 400, layer: str | None = "InfiniBand", state: str | None = "ACTIVE") -> tuple[Port, ...]:
    return (Port(1, state, layer, rate),)


def nic(name: str, pci: str | None = None, node: int | None = None, above: tuple[str, ...] = (), **fields: Any) -> Hca:
    """An active mlx5 HCA of 400 Gb/s InfiniBand unless told otherwise."""
    values: dict[str, Any] = {"ports": port(), "driver": "mlx5_core", "vendor": "0x15b3"} | fields
    return Hca(label=name, name=name, pci=pci, numa_node=node, pci_path=above, **values)


def switch(number: int, slot: int = 0) -> tuple[str, ...]:
    """What lies above a device on switch `number`: a root complex of its own, root port, upstream and downstream port."""
    bus = 0x10 + 8 * number
    return (f"pci0000:{bus:02x}", f"0000:{bus:02x}:01.0", f"0000:{bus + 1:02x}:00.0", f"0000:{bus + 2:02x}:{slot:02x}.0")


def rails(gpus: int = 8, nics_per_gpu: int = 1, gpus_per_switch: int = 1, nodes: int = 2, **fields: Any) -> Topology:
    """GPUs on switches with their NICs, dealt over the nodes; the classic training host."""
    gpu_list, hca_list = [], []
    for index in range(gpus):
        number, slot = divmod(index, gpus_per_switch)
        bus, node = 0x10 + 8 * number, index * nodes // gpus
        gpu_list.append(Gpu(index, f"0000:{bus + 3:02x}:{slot:02x}.0", numa_node=node, pci_path=switch(number, slot)))
        for extra in range(nics_per_gpu):
            order = index * nics_per_gpu + extra
            pci = f"0000:{bus + 5:02x}:{slot:02x}.{extra}"
            hca_list.append(nic(f"mlx5_{order}", pci, node, switch(number, 0x10 + slot), **fields))
    return replace(machine(nodes), gpus=tuple(gpu_list), hcas=tuple(hca_list))


def with_hcas(topology: Topology, *hcas: Hca) -> Topology:
    return replace(topology, hcas=(*topology.hcas, *hcas))

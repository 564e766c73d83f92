"""Every sample that people have posted: matrices, NCCL and hwloc XML, hwloc snapshots with lstopo as the oracle."""

import os
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from entrypoints.topology import load, path_level
from entrypoints.topology.model import Topology
from entrypoints.topology.values import ids_of_mask

#: file -> (GPUs, HCAs, NUMA node of each GPU, name of the nearest HCAs of each GPU by PIX or PXB)
MATRICES = {
    "a100-epyc7543-nps4-dualport": (8, 10, "33117755", "0,1 0,1 2,3 2,3 4,5 4,5 6,7 6,7"),
    "b200-gpu2-no-nvlink": (8, 12, "000011??", "0 1 2 3 4 5 - -"),
    "b300-cx8-bond8": (8, 8, "00001111", "0 1 2 3 4 5 6 7"),
    "dgx-a100-nic10-nps4": (8, 10, "33117755", "0,1 0,1 2,3 2,3 4,5 4,5 6,7 6,7"),
    "gb10-dgx-spark": (1, 4, "0", "-"),
    "gb200-nic6-all-sys": (4, 6, "001?", "- - - -"),
    "gb200-nic8-all-sys": (4, 8, "0011", "- - - -"),
    "h100-ib8-eth5-pxb-pairs": (8, 13, "00001111", "0 1 2 3 4 5 6 7"),
    "h100-nic10-all-sys-pix": (8, 10, "0000111?", "0 1 2 3 4 5 6 -"),
    "h100-nic4-phb-gpu1-gpu6": (8, 4, "0000111?", "- - - - - - - -"),
    "h20-nic2-phb-gpu6": (8, 2, "0000111?", "- - - - - - - -"),
    "h20-nic5-137": (8, 5, "0000111?", "0 - 1 - 2 - 4 -"),
    "h20-own-root-nic10": (8, 10, "000011??", "0 1 2 3 4 5 - -"),
    "h200-dell-evenodd-nic10": (8, 10, "0???????", "0,1 - - - - - - -"),
    "h200-rails8-clean": (8, 8, "000011??", "0 1 2 3 4 5 - -"),
    "h200x4-nvlpairs-nic2": (4, 2, "????", "0 0 1 1"),
    "h800-nic18-4ports-per-pair": (8, 18, "0000????", "0,1,2,3 0,1,2,3 6,7,8,9 6,7,8,9 - - - -"),
    "h800-rails8-bond1": (8, 9, "00001111", "0 1 2 3 4 5 6 7"),
    "rocm-mi-nps4-numa": (8, 0, "32107654", "- - - - - - - -"),
    "rtx4090x8-epyc-nps4-nic4": (8, 4, "32107654", "- - - - - - - -"),
    "rtx4090x8-nic2": (8, 2, "00001111", "- - - - - - - -"),
}


def nearest(topology: Topology) -> str:
    words = []
    for gpu in topology.gpus:
        by_level = {level: [h.label[3:] for h in topology.hcas if path_level(topology, gpu, h) == level] for level in ("PIX", "PXB")}
        words.append(",".join(by_level["PIX"] or by_level["PXB"]) or "-")
    return " ".join(words)


@pytest.mark.parametrize("name", MATRICES)
def test_matrix(samples: Path, name: str) -> None:
    topology = load(str(samples / "matrices" / f"{name}.txt"))
    gpus, hcas, nodes, nics = MATRICES[name]
    assert (len(topology.gpus), len(topology.hcas)) == (gpus, hcas)
    assert "".join("?" if gpu.numa_node is None else str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert nearest(topology) == nics


def test_no_matrix_is_left_out(samples: Path) -> None:
    assert {path.stem for path in (samples / "matrices").glob("*.txt")} == MATRICES.keys()


def test_names_of_the_legend(samples: Path) -> None:
    topology = load(str(samples / "matrices" / "h800-rails8-bond1.txt"))
    assert [hca.name for hca in topology.hcas] == ["mlx5_0", *(f"mlx5_{i}" for i in range(3, 10)), "mlx5_bond_0"]


def test_lost_nvlink_is_seen(samples: Path) -> None:
    gpus = load(str(samples / "matrices" / "b200-gpu2-no-nvlink.txt")).gpus
    assert gpus[2].nvlink == ()
    assert gpus[0].nvlink == (1, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("name", "nodes", "hcas", "levels"),
    [
        ("aws-g5.48xl-topo", "00001111", ["0000:00:15.0"], {"NODE", "SYS"}),
        ("aws-p4de-24xl-topo", "00001111", ["0000:10:1b.0", "0000:20:1b.0", "0000:90:1b.0", "0000:a0:1b.0"], {"PIX", "NODE", "SYS"}),
        ("azure-ncv4-topo", "0123", [], set()),
        ("azure-ndv2-topo", "00001111", ["0101:00:00.0"], {"NODE", "SYS"}),
        ("azure-ndv5-topo", "00001111", [f"{d:04x}:00:00.0" for d in range(0x101, 0x109)], {"PIX", "NODE", "SYS"}),
    ],
)
def test_nccl_xml(samples: Path, name: str, nodes: str, hcas: list[str], levels: set[str]) -> None:
    topology = load(str(samples / "xml" / f"{name}.xml"))
    assert "".join(str(gpu.numa_node) for gpu in topology.gpus) == nodes
    assert [hca.pci for hca in topology.hcas] == hcas
    assert {path_level(topology, gpu, hca) for gpu in topology.gpus for hca in topology.hcas} == levels


def test_hwloc_xml(samples: Path) -> None:
    topology = load(str(samples / "xml" / "hwloc-nvidiaDGX2.xml"))
    assert len(topology.gpus) == 16
    assert [gpu.numa_node for gpu in topology.gpus] == [0] * 8 + [1] * 8
    assert topology.gpus[0].pci == "0000:34:00.0" and topology.gpus[0].pci_path[0] == "pci0000:2b"


# lstopo as the oracle


def lstopo(root: Path, *options: str) -> ET.Element:
    environment = {**os.environ, "HWLOC_COMPONENTS": "linux,stop", "HWLOC_FSROOT": str(root), "HWLOC_THISSYSTEM": "0"}
    done = subprocess.run(["lstopo-no-graphics", "--of", "xml", *options, "-"], env=environment, capture_output=True, text=True, check=True)
    return ET.fromstring(done.stdout)


def oracle(
    root: Path,
) -> tuple[set[tuple[int | None, int | None, int]], dict[int, tuple[int, tuple[int, ...]]], dict[str, tuple[int, ...]]]:
    """(package, core, PU) of each PU, (memory, CPUs) of each node, CPUs near to each PCI function."""
    units: set[tuple[int | None, int | None, int]] = set()
    nodes: dict[int, tuple[int, tuple[int, ...]]] = {}
    near: dict[str, tuple[int, ...]] = {}

    def walk(item: ET.Element, package: int | None, core: int | None, cpus: tuple[int, ...]) -> None:
        kind, number = item.get("type"), int(item.get("os_index", -1))
        if item.get("cpuset"):
            cpus = ids_of_mask(item.get("cpuset")) or ()
        package = number if kind == "Package" else package
        core = number if kind == "Core" else core
        if kind == "PU":
            units.add((package, core, number))
        elif kind == "NUMANode":
            nodes[number] = (int(item.get("local_memory", 0)), cpus)
        elif kind == "PCIDev":
            near[item.get("pci_busid", "")] = cpus
        for child in item.findall("object"):
            walk(child, package, core, cpus)

    # With I/O, hwloc may drop packages that contradict a device's locality; CPUs are asked without.
    for tree in (lstopo(root, "--no-io"), lstopo(root, "--whole-io")):
        first = tree.find("object")
        assert first is not None
        if not units:
            walk(first, None, None, ())
        else:
            kept = set(units), dict(nodes)
            walk(first, None, None, ())
            units, nodes = kept
    return units, nodes, near


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
def test_snapshot_is_as_lstopo_lists_it(samples: Path, tmp_path: Path, name: str) -> None:
    if shutil.which("lstopo-no-graphics") is None:
        pytest.skip("lstopo-no-graphics (Debian package hwloc-nox) is not installed")
    tarball = samples / "hwloc" / f"{name}.tar.bz2"
    topology = load(str(tarball))
    with tarfile.open(tarball) as tar:
        tar.extractall(tmp_path, filter="fully_trusted")
    root = next(path.parent for path in sorted(tmp_path.glob("*/sys")))
    units, nodes, near = oracle(root)
    mine_units = {(cpu.package, cpu.core, cpu.id) for cpu in topology.cpus}
    if any(package is None for package, _, _ in units):
        # hwloc dropped a package whose CPUs contradict a PCI device's locality, and says so on stderr.
        assert name == "40intel64-4n10c+pci-conflicts"
        mine_units = {(package if (package, core, cpu) in units else None, core, cpu) for package, core, cpu in mine_units}
    assert mine_units == units
    mine = {node.id: (node.memory_bytes or 0, node.cpus) for node in topology.numa_nodes if node.cpus or node.id in topology.allowed.mems}
    assert mine == nodes
    by_node = {cpu: node.id for node in topology.numa_nodes for cpu in node.cpus}
    assert by_node.keys() == {cpu.id for cpu in topology.cpus}
    for hca in topology.hcas:
        if hca.pci:
            assert hca.local_cpus == near[hca.pci]
    # The folder and the tarball are one host.
    folder = load(str(root))
    assert (folder.cpus, folder.numa_nodes, folder.hcas, folder.allowed) == (
        topology.cpus,
        topology.numa_nodes,
        topology.hcas,
        topology.allowed,
    )


def test_an_infiniband_tree_of_a_real_host(samples: Path) -> None:
    topology = load(str(samples / "hwloc" / "32em64t-2n8c+dax+nvme+mic+dimms.tar.bz2"))
    (hca,) = topology.hcas
    assert (hca.name, hca.pci, hca.numa_node, hca.driver, hca.firmware) == ("mlx4_0", "0000:82:00.0", 1, "mlx4_core", "2.11.500")
    assert [(port.state, port.rate_gbps, port.link_layer) for port in hca.ports] == [("ACTIVE", 56.0, "InfiniBand")]
    assert hca.pci_path == ("pci0000:80", "0000:80:02.2")

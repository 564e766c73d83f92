"""The sysfs reader on synthetic roots."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.topology import load, path_level
from entrypoints.topology.devices import atomic_ops
from entrypoints.topology.model import Topology
from entrypoints.topology.sysfs import read_sysfs
from entrypoints.topology.tree import MemoryTree
from tests.entrypoints.topology.conftest import Preset
from tests.helpers.sysfs_tree import (
    PRESETS,
    GpuSpec,
    HcaSpec,
    Host,
    NodeSpec,
    PortSpec,
    SoftHcaSpec,
    azure_ndv5,
    build,
    gb200,
    gcp_a3u,
    in_memory,
    parts,
    thinned,
)

#: Few files, for the tests that need a folder.
SMALL = Host((NodeSpec(0, (0, 1)),), tuple(GpuSpec(f"0000:0{i}:00.0", ("pci0000:00", f"0000:00:0{i}.0"), 0) for i in range(1, 5)))


def levels(topology: Topology) -> list[list[str | None]]:
    return [[path_level(topology, gpu, hca) for hca in topology.hcas] for gpu in topology.gpus]


def test_azure_vm_hides_pcie_but_not_nodes(preset: Preset) -> None:
    topology = preset("azure_ndv5")
    assert [gpu.pci for gpu in topology.gpus] == [f"{d:04x}:00:00.0" for d in (1, 2, 3, 8, 9, 10, 11, 12)]
    assert [hca.name for hca in topology.hcas] == ["mlx5_an0", *(f"mlx5_ib{i}" for i in range(8))]
    assert levels(topology)[0] == ["NODE"] * 5 + ["SYS"] * 4
    assert topology.hcas[0].ports[0].link_layer == "Ethernet"
    # A zero system image GUID is unknown: the slot identifies the card.
    assert topology.hcas[1].card == "0101:00:00"
    assert topology.gpus[0].pci_path == ("pci0001:00",)


def test_two_gpus_and_two_nics_a_switch(preset: Preset) -> None:
    topology = preset("gcp_a3u")
    assert levels(topology)[0] == ["PIX", "PIX", "NODE", "NODE", "SYS", "SYS", "SYS", "SYS"]
    assert all(hca.atomics is True for hca in topology.hcas)
    port = topology.hcas[3].ports[0]
    assert (port.netdev, port.rate_gbit) == ("gpu3rdma0", 400.0)
    assert [(gid.index, gid.type) for gid in port.gids] == [(0, "IB/RoCE v1"), (1, "RoCE v2"), (2, "IB/RoCE v1"), (3, "RoCE v2")]
    assert topology.cpus[0].siblings == (0, 112)
    assert (topology.hcas[0].driver, topology.hcas[0].vendor, topology.hcas[0].pci_class) == ("mlx5_core", "0x15b3", 0x020000)


def test_dgx_a100_nested_switches_and_l3_groups(preset: Preset) -> None:
    topology = preset("dgx_a100")
    assert [gpu.numa_node for gpu in topology.gpus] == [3, 3, 1, 1, 7, 7, 5, 5]
    assert levels(topology)[0] == ["PXB", "PXB"] + ["SYS"] * 8
    assert topology.numa_nodes[0].distances == {0: 10, 1: 12, 2: 12, 3: 12, 4: 32, 5: 32, 6: 32, 7: 32}
    by_l3: dict[int | None, set[int]] = {}
    for cpu in topology.cpus:
        by_l3.setdefault(cpu.l3, set()).add(cpu.id)
    assert len(by_l3) == 32 and by_l3[0] == {0, 1, 2, 3, 128, 129, 130, 131}
    # Two ports of one storage card have one identity, and no other device has it.
    assert topology.hcas[8].card == topology.hcas[9].card
    assert len({hca.card for hca in topology.hcas}) == 9


def test_grace_memory_nodes(preset: Preset) -> None:
    topology = preset("gb200")
    assert [node.id for node in topology.numa_nodes if node.gpu_memory] == list(range(2, 34))
    assert [gpu.numa_node for gpu in topology.gpus] == [0, 0, 1, 1]
    without_driver_files = read_sysfs(in_memory(replace(gb200(), nvidia_driver=False)), "m")
    assert [node.id for node in without_driver_files.numa_nodes if node.gpu_memory] == list(range(2, 34))
    assert [gpu.pci for gpu in without_driver_files.gpus] == [gpu.pci for gpu in topology.gpus]


def test_a_memory_node_of_another_kind_is_not_gpu_memory() -> None:
    host = Host((NodeSpec(0, (0, 1)), NodeSpec(1, (), 1 << 20)), (GpuSpec("0000:01:00.0", ("pci0000:00", "0000:00:01.0"), 0),))
    topology = read_sysfs(in_memory(host), "m")
    assert [(node.id, node.gpu_memory) for node in topology.numa_nodes] == [(0, False), (1, False)]


def test_port_states_and_down_ports(preset: Preset) -> None:
    topology = preset("dgx_h100")
    assert {hca.name: hca.ports[0].state for hca in topology.hcas}["mlx5_9"] == "DOWN"


def test_bus_order_is_by_number_and_gpus_of_others_are_left_out() -> None:
    paths = ["0000:81:00.0", "0000:0a:00.0", "10000:01:00.0", "0002:00:00.0"]
    gpus = tuple(GpuSpec(pci, (f"pci{pci[:-8]}:00",), 0) for pci in paths)
    others = (("0000:02:00.0", ("pci0000:00",), 0x030000, 0x1A03), ("0000:81:00.1", ("pci0000:00",), 0x040300, 0x10DE))
    topology = read_sysfs(in_memory(Host((NodeSpec(0, (0,)),), gpus, others=others, nvidia_driver=False)), "m")
    assert [gpu.pci for gpu in topology.gpus] == ["0000:0a:00.0", "0000:81:00.0", "0002:00:00.0", "10000:01:00.0"]


def test_a_container_has_only_the_gpus_of_the_driver_list(tmp_path: Path) -> None:
    root = build(tmp_path, SMALL)
    for folder in sorted((root / "proc/driver/nvidia/gpus").iterdir())[2:]:
        shutil.rmtree(folder)
    topology = load(str(root))
    assert [gpu.index for gpu in topology.gpus] == [0, 1]
    assert topology.gpus[0].name == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [(((0, (0, 1)),), 0), (((0, (0, 1)), (1, (2, 3))), None), (((0, (0, 1)), (1, ())), 0)],
)
def test_unknown_node_is_filled_only_where_one_node_has_cpus(nodes: tuple[tuple[int, tuple[int, ...]], ...], expected: int | None) -> None:
    host = Host(tuple(NodeSpec(n, cpus) for n, cpus in nodes), (GpuSpec("0000:01:00.0", ("pci0000:00",), -1),))
    topology = read_sysfs(in_memory(host), "m")
    assert topology.gpus[0].numa_node == expected
    assert (expected is None) == any("0000:01:00.0" in warning for warning in topology.warnings)


def test_local_cpus_name_the_node_where_numa_node_does_not(tmp_path: Path) -> None:
    host = Host((NodeSpec(0, (0, 1)), NodeSpec(1, (2, 3))), (GpuSpec("0000:01:00.0", ("pci0000:00",), 1),))
    root = build(tmp_path, host)
    (root / "sys/bus/pci/devices/0000:01:00.0/numa_node").write_text("-1\n")
    assert load(str(root)).gpus[0].numa_node == 1


def test_virtual_functions_and_software_devices() -> None:
    node = (NodeSpec(0, (0, 1)), NodeSpec(1, (2, 3)))
    physical = HcaSpec("0000:81:00.0", ("pci0000:80", "0000:80:01.0"), 1, name="mlx5_0", netdev="ens1", atomics=False)
    virtual = HcaSpec("0000:81:00.2", ("pci0000:80", "0000:80:01.0"), 1, name="mlx5_1", physfn="0000:81:00.0", atomics=None)
    soft = (SoftHcaSpec("rxe0", "ens1", "0000:81:00.0"), SoftHcaSpec("rxe1", "dummy0"))
    topology = read_sysfs(in_memory(Host(node, hcas=(physical, virtual), soft_hcas=soft)), "m")
    by_name = {hca.name: hca for hca in topology.hcas}
    assert by_name["mlx5_1"].physical_function == "0000:81:00.0"
    assert (by_name["mlx5_0"].atomics, by_name["mlx5_1"].atomics) == (False, None)
    assert (by_name["rxe0"].pci, by_name["rxe0"].numa_node, by_name["rxe0"].driver) == (None, 1, "rdma_rxe")
    assert (by_name["rxe1"].pci, by_name["rxe1"].numa_node) == (None, None)
    # A dump cannot tell whether a device node opens.
    assert {hca.openable for hca in topology.hcas} == {None}


def test_a_software_device_is_as_near_as_the_card_below_it() -> None:
    def switch(bus: str, slot: int) -> tuple[str, ...]:
        return (f"pci0000:{bus}0", f"0000:{bus}0:01.0", f"0000:{bus}1:00.0", f"0000:{bus}2:{slot:02x}.0")

    gpus = (GpuSpec("0000:13:00.0", switch("1", 0), 0), GpuSpec("0000:83:00.0", switch("8", 0), 1))
    cards = (
        HcaSpec("0000:14:00.0", switch("1", 1), 0, name="mlx5_0", netdev="ens1"),
        HcaSpec("0000:84:00.0", switch("8", 1), 1, name="mlx5_1", netdev="ens2"),
    )
    soft = (SoftHcaSpec("rxe0", "ens2", "0000:84:00.0"), SoftHcaSpec("rxe1", "ens1", "0000:14:00.0"), SoftHcaSpec("rxe2", "dummy0"))
    host = Host((NodeSpec(0, (0, 1)), NodeSpec(1, (2, 3))), gpus=gpus, hcas=cards, soft_hcas=soft)
    topology = read_sysfs(in_memory(host), "m")
    by_name = {hca.name: hca for hca in topology.hcas}
    assert by_name["rxe0"].pci_path == switch("8", 1) and by_name["rxe0"].pci is None and by_name["rxe0"].local_cpus == (2, 3)
    levels = {name: [path_level(topology, gpu, hca) for gpu in topology.gpus] for name, hca in by_name.items()}
    assert levels["rxe0"] == levels["mlx5_1"] == ["SYS", "PIX"]
    assert levels["rxe1"] == levels["mlx5_0"] == ["PIX", "SYS"]
    assert (by_name["rxe2"].pci_path, levels["rxe2"]) == ((), [None, None])


def test_two_ports_of_one_device() -> None:
    ports = (PortSpec(), PortSpec(state="1: DOWN", rate="40 Gb/sec (4X QDR)", link_layer="Ethernet"))
    hca = HcaSpec("0000:01:00.0", ("pci0000:00",), 0, ports=ports)
    found = read_sysfs(in_memory(Host((NodeSpec(0, (0,)),), hcas=(hca,))), "m").hcas[0]
    assert [(port.number, port.state, port.rate_gbit, port.link_layer) for port in found.ports] == [
        (1, "ACTIVE", 400.0, "InfiniBand"),
        (2, "DOWN", 40.0, "Ethernet"),
    ]


def test_offline_cpus_and_the_status_file() -> None:
    host = Host(
        (NodeSpec(0, tuple(range(8))),), offline=(3, 5), siblings=((0, 4), (1, 5), (2, 6), (3, 7)), allowed_cpus="0-6", allowed_mems="0"
    )
    topology = read_sysfs(in_memory(host), "m")
    assert [cpu.id for cpu in topology.cpus] == [0, 1, 2, 4, 6]
    assert topology.cpus[1].siblings == (1,)
    assert topology.numa_nodes[0].cpus == (0, 1, 2, 4, 6)
    assert topology.allowed.cpus == (0, 1, 2, 4, 6)


CPUSETS = {
    "v2": ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "proc/self/cgroup", "0::/a/b", "sys/fs/cgroup/a/b/cpuset.{}.effective"),
    # The leaf lacks the controller: its parent counts.
    "v2 parent": ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "proc/self/cgroup", "0::/a/b", "sys/fs/cgroup/a/cpuset.{}.effective"),
    "v1": ("cgroup /cg cgroup rw,cpuset 0 0", "proc/self/cgroup", "4:memory:/x\n3:cpuset,cpu:/a", "cg/a/cpuset.{}"),
    "noprefix": ("none /dev/cpuset cgroup rw,cpuset,noprefix 0 0", "proc/self/cpuset", "/t", "dev/cpuset/t/{}"),
    "cpuset": ("none /dev/cpuset cpuset rw 0 0", "proc/self/cpuset", "/t", "dev/cpuset/t/{}"),
}


@pytest.mark.parametrize("kind", CPUSETS)
def test_cpusets_of_all_ages(tmp_path: Path, kind: str) -> None:
    mounts, group_file, group, form = CPUSETS[kind]
    files = {group_file: group, form.format("cpus"): "1-2", form.format("mems"): "1"}
    root = build(tmp_path, Host((NodeSpec(0, (0, 1)), NodeSpec(1, (2, 3)))))
    for name, text in {"proc/mounts": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    topology = load(str(root))
    assert topology.allowed.cpus == (1, 2)
    assert topology.allowed.mems == (1,)


@pytest.mark.parametrize("inside", ["", "sys", "below"])
def test_the_root_is_found(tmp_path: Path, inside: str) -> None:
    root = build(tmp_path / "a" / "host", SMALL)
    source = {"": root, "sys": root / "sys", "below": root.parent}[inside]
    assert len(load(str(source)).gpus) == 4


def test_folders_without_a_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no sys/"):
        load(str(tmp_path))
    build(tmp_path / "a", SMALL)
    build(tmp_path / "b", SMALL)
    with pytest.raises(UsageError, match="2 sysfs roots"):
        load(str(tmp_path))
    with pytest.raises(UsageError, match="missing"):
        load(str(tmp_path / "missing"))


def test_links_never_leave_a_dump(tmp_path: Path) -> None:
    root = build(tmp_path / "root", thinned(azure_ndv5()))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "class").write_text("0x030200\n")
    (root / "sys/bus/pci/devices/0000:66:00.0").symlink_to(secret)
    (root / "sys/bus/pci/devices/0000:67:00.0").symlink_to("0000:67:00.0")
    (root / "sys/class/infiniband/loop").symlink_to("loop")
    topology = load(str(root))
    assert len(topology.gpus) == 8 and len(topology.hcas) == 9


def test_pipes_and_torn_files_do_not_hang_or_fail(tmp_path: Path) -> None:
    root = build(tmp_path, thinned(gcp_a3u()))
    online = root / "sys/devices/system/node/node0/distance"
    online.unlink()
    os.mkfifo(online)
    (root / "sys/devices/system/cpu/cpu0/topology/core_id").write_bytes(b"\0\0\xff9999999999999999999999")
    (root / "sys/devices/system/node/node1/cpulist").write_text("56-99999999999\n")
    (root / "sys/class/infiniband/mlx5_0/ports/1/rate").write_text("")
    topology = load(str(root))
    assert topology.numa_nodes[0].distances == {}
    assert topology.hcas[0].ports[0].rate_gbit is None


def test_any_file_may_be_missing_or_junk() -> None:
    rng = random.Random(7)
    files, links = parts(replace(azure_ndv5(), allowed_cpus="0-95", allowed_mems="0-1"))
    assert len(read_sysfs(MemoryTree(files, links, set()), "m").gpus) == 8
    for _ in range(60):
        damaged = dict(files)
        for path in rng.sample(sorted(files), 80):
            if rng.random() < 0.5:
                del damaged[path]
            else:
                damaged[path] = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        topology = read_sysfs(MemoryTree(damaged, links, set()), "m")
        for gpu in topology.gpus:
            for hca in topology.hcas:
                path_level(topology, gpu, hca)


def test_names_of_devices_do_not_change_levels() -> None:
    host = gcp_a3u()
    expected = read_sysfs(in_memory(host), "m")
    names = [f"rocep{i}s0" for i in (9, 3, 12, 1, 30, 2, 5, 4)]
    renamed = read_sysfs(in_memory(replace(host, hcas=tuple(replace(h, name=n) for h, n in zip(host.hcas, names, strict=True)))), "m")
    by_pci = {(g.pci, h.pci): path_level(expected, g, h) for g in expected.gpus for h in expected.hcas}
    assert {(g.pci, h.pci): path_level(renamed, g, h) for g in renamed.gpus for h in renamed.hcas} == by_pci


@pytest.mark.parametrize("atomics", [True, False])
def test_atomic_ops_of_config_space(atomics: bool) -> None:
    config = bytearray(256)
    config[0x06], config[0x34] = 0x10, 0x40
    config[0x40:0x44] = bytes((0x10, 0, 2, 0))
    config[0x64:0x68] = (0x180 if atomics else 0x40).to_bytes(4, "little")
    assert atomic_ops(bytes(config)) is atomics
    # 64 bytes, a missing list and a list in a ring say nothing.
    assert atomic_ops(bytes(config[:64])) is None
    assert atomic_ops(bytes(256)) is None
    config[0x40:0x42] = bytes((0x11, 0x40))
    assert atomic_ops(bytes(config)) is None


def test_the_live_host_loads() -> None:
    topology = load(None)
    assert {cpu.id for cpu in topology.cpus} == os.sched_getaffinity(0)
    assert topology.source == "live" and topology.hostname
    assert all(hca.openable is not None for hca in topology.hcas)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_without_warnings(preset: Preset, name: str) -> None:
    assert preset(name).warnings == ()

"""NCCL's system XML: dumps, vendor files, hint files; and our export of it."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.topology import load, path_level
from entrypoints.topology.nccl_xml import MAX_VALUE, parse_nccl, to_nccl_xml
from entrypoints.topology.sysfs import read_sysfs
from tests.entrypoints.topology.conftest import Preset
from tests.helpers.sysfs_tree import PRESETS, in_memory, large

HINTS = """<system version="1">
  <cpu numaid="0"><pci busid="0000:00:1b.0"/><pci busid="0000:00:1c.0"/></cpu>
  <cpu numaid="1"><pci busid="0000:00:1d.0"/><pci busid="0000:00:1e.0"/><pci busid="0000:00:1a.0"/></cpu>
</system>"""


def test_a_dump_of_nccl(data: Path) -> None:
    topology = load(str(data / "nccl-dump.xml"))
    assert topology.warnings == ()
    assert [(gpu.pci, gpu.numa_node, gpu.nvlink) for gpu in topology.gpus] == [("0000:03:00.0", 0, (1,)), ("0000:85:00.0", 1, (0,))]
    # eth0 is a socket, and the two ports of mlx5_1 are one device.
    assert [(hca.name, hca.pci, hca.card) for hca in topology.hcas] == [
        ("mlx5_0", "0000:04:00.0", "0x1234000003e1a258"),
        ("mlx5_1", "0000:86:00.0", "0x5678000003e1a258"),
    ]
    assert [[(port.number, port.state, port.rate_gbit) for port in hca.ports] for hca in topology.hcas] == [
        [(1, "ACTIVE", 400.0)],
        [(1, "ACTIVE", 200.0), (2, "ACTIVE", 200.0)],
    ]
    assert topology.hcas[0].ports[0].link_layer == "InfiniBand"
    assert [[path_level(topology, gpu, hca) for hca in topology.hcas] for gpu in topology.gpus] == [["PIX", "SYS"], ["SYS", "PXB"]]
    assert [node.cpus for node in topology.numa_nodes] == [tuple(range(32)), tuple(range(32, 64))]
    assert topology.processor is not None and (topology.processor.family, topology.processor.model) == (25, 17)


def test_devices_without_class_are_told_apart_by_order() -> None:
    topology = parse_nccl(HINTS, "f.xml")
    assert [gpu.pci for gpu in topology.gpus] == ["0000:00:1b.0", "0000:00:1c.0", "0000:00:1d.0", "0000:00:1e.0"]
    assert [hca.pci for hca in topology.hcas] == ["0000:00:1a.0"]
    assert any("no class" in warning and "0000:00:1a.0" in warning for warning in topology.warnings)


def test_only_the_first_host_of_a_multi_node_dump() -> None:
    one = '<cpu host_hash="0x1" numaid="0"><pci busid="0000:01:00.0" class="0x030200"/></cpu>'
    topology = parse_nccl(f'<system version="1">{one}{one.replace("0x1", "0x2", 1)}</system>', "f.xml")
    assert [gpu.pci for gpu in topology.gpus] == ["0000:01:00.0"]
    assert any("2 hosts" in warning for warning in topology.warnings)


@pytest.mark.parametrize(
    ("nic", "kept"),
    [
        ('class="0x020000" vendor="0x15b3" device="0x101e"', True),
        ('class="0x020000" vendor="0x1d0f" device="0xefa2"', True),
        ('class="0x020000" vendor="0x1d0f" device="0xec20"', False),
        ('class="0x020000" vendor="0x1af4" device="0x1000"', False),
        ('class="0x020700"', True),
        ('class="0x0207"', False),
        ('class="0x010802" vendor="0x144d"', False),
    ],
)
def test_which_functions_may_be_hcas(nic: str, kept: bool) -> None:
    text = f'<system version="1"><cpu numaid="0"><pci busid="1:0.0" class="0x030200"/><pci busid="0000:02:00.0" {nic}/></cpu></system>'
    assert [hca.pci for hca in parse_nccl(text, "f.xml").hcas] == (["0000:02:00.0"] if kept else [])


def test_merged_devices_stand_aside_for_their_parts() -> None:
    nets = "".join(
        f'<net name="{name}" dev="{i}" port="1" speed="1" guid="0x9"/>' for i, name in enumerate(("mlx5_0", "mlx5_1", "mlx5_0+mlx5_1"))
    )
    text = f'<system version="1"><cpu numaid="0"><pci busid="0000:02:00.0" class="0x020700"><nic>{nets}</nic></pci></cpu></system>'
    assert [hca.name for hca in parse_nccl(text, "f.xml").hcas] == ["mlx5_0", "mlx5_1"]


def test_amd_and_unknown_versions() -> None:
    gpu = '<pci busid="0000:37:00.0" class="0x038000"><gpu dev="0" sm="90" gcn="942" rank="0"/></pci>'
    text = f'<system version="2"><cpu numaid="3">{gpu}</cpu></system>'
    assert parse_nccl(text, "f.xml").gpus[0].numa_node == 3
    assert any("version 7" in warning for warning in parse_nccl(text.replace('"2"', '"7"'), "f.xml").warnings)


def rail(*nets: str, gpu: str = '<gpu dev="0"/>', affinity: str = "000000ff", node: str = "0") -> str:
    """One GPU, and one RDMA function of class Ethernet with these elements in it."""
    return (
        f'<system version="1"><cpu numaid="{node}" affinity="{affinity}">'
        f'<pci busid="0000:01:00.0" class="0x030200">{gpu}</pci>'
        f'<pci busid="0000:02:00.0" class="0x020000" vendor="0x15b3">{"".join(nets)}</pci></cpu></system>'
    )


@pytest.mark.parametrize(
    ("net", "name"),
    [
        ('<nic><net name="mlx5_0" port="1" guid="0x0"/></nic>', "mlx5_0"),
        ('<nic><net name="mlx5_0" speed="400000"/></nic>', "mlx5_0"),
        ('<net name="mlx5_0" port="1"/>', "mlx5_0"),
        ('<nic name="mlx5_0" speed="400"/>', "mlx5_0"),
        # RCCL's older sockets have their number as GUID.
        ('<nic><net name="veth608058c" port="0" guid="0x1"/></nic>', None),
        ('<nic><net name="enp1s0"/></nic>', None),
        ('<nic><net name="eth0" port="0" guid="0x0"/></nic>', None),
    ],
)
def test_which_nets_are_hcas(net: str, name: str | None) -> None:
    assert [hca.name for hca in parse_nccl(rail(net), "x").hcas] == [name] * (name is not None)


def test_an_ipoib_interface_does_not_name_the_verbs_device() -> None:
    text = rail('<nic><net name="ib0" port="0" guid="0x2"/></nic>').replace("0x020000", "0x020700")
    assert [(hca.name, hca.label) for hca in parse_nccl(text, "x").hcas] == [(None, "0000:02:00.0")]


def test_xgmi_links_gpus_as_nvlink_does() -> None:
    text = (
        '<system version="2"><cpu numaid="0" affinity="ff">'
        '<pci busid="0000:03:00.0" class="0x038000" vendor="0x1002"><gpu dev="0"><xgmi target="0000:43:00.0" count="1"/></gpu></pci>'
        '<pci busid="0000:43:00.0" class="0x038000" vendor="0x1002"><gpu dev="1"><xgmi target="0000:03:00.0" count="1"/></gpu></pci>'
        "</cpu></system>"
    )
    assert [gpu.nvlink for gpu in parse_nccl(text, "x").gpus] == [(1,), (0,)]


def test_cpus_are_known_without_their_node() -> None:
    topology = parse_nccl(rail('<nic><net name="mlx5_0" port="1"/></nic>', node="-1"), "x")
    assert [cpu.id for cpu in topology.cpus] == list(range(8))
    assert (topology.numa_nodes, topology.gpus[0].numa_node) == ((), None)


def test_an_affinity_written_as_a_list() -> None:
    assert parse_nccl(rail(affinity="0-3,8"), "x").numa_nodes[0].cpus == (0, 1, 2, 3, 8)


@pytest.mark.parametrize("form", ["escaped", "quoted", "part"])
def test_xml_as_people_paste_it(tmp_path: Path, form: str) -> None:
    text = rail('<nic><net name="mlx5_0" port="1"/></nic>').replace("><", ">\n<")
    body = {
        "escaped": f"<pre>{html.escape(text)}</pre>",
        "quoted": "\n".join(f"> {line}" for line in text.splitlines()),
        "part": f"My file:\n{text[text.index('<cpu') : text.index('</system')]}",
    }[form]
    (tmp_path / "post.txt").write_text(body)
    topology = load(str(tmp_path / "post.txt"))
    assert [gpu.pci for gpu in topology.gpus] == ["0000:01:00.0"]
    assert [hca.name for hca in topology.hcas] == ["mlx5_0"]
    assert any("no <system>" in warning and "post.txt:2" in warning for warning in topology.warnings) == (form == "part")


def test_missing_numaid_is_unknown_not_zero() -> None:
    devices = '<pci busid="0000:01:00.0" class="0x030200"/><pci busid="0000:02:00.0" class="0x020700"/>'
    topology = parse_nccl(f'<system version="1"><cpu numaid="-1">{devices}</cpu></system>', "f.xml")
    assert topology.gpus[0].numa_node is None
    assert path_level(topology, topology.gpus[0], topology.hcas[0]) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('<system version="1">\n<cpu numaid="0">\n<pci busid="x"\n', 3),
        ('<system version="1">\n<cpu numaid="0"></gpu></system>', 2),
        ('\n\n<system version="1"></system>', 3),
        ('<system version="1"><cpu numaid="0"></cpu></system>', 1),
        ("<system>" + "<pci>" * 300, 1),
    ],
)
def test_damage_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UsageError, match=rf"f\.xml:{line}\b"):
        parse_nccl(text, "f.xml")


def test_lesser_damage_is_a_warning_with_its_line() -> None:
    gpu = '<pci busid="0000:01:00.0" class="0x030200"/>'
    text = f'<system version="1">\n<cpu numaid="0" affinity="zz">\n<pci busid="nonsense"/>\n{gpu}</cpu></system>'
    topology = parse_nccl(text, "f.xml")
    assert len(topology.gpus) == 1
    assert [warning.split(":")[1] for warning in topology.warnings] == ["2", "3"]


@pytest.mark.parametrize("name", PRESETS)
def test_export_reads_back_to_the_same_levels(preset: Preset, name: str) -> None:
    topology = preset(name)
    again = parse_nccl(to_nccl_xml(topology), "f.xml")
    assert [(gpu.pci, gpu.numa_node) for gpu in again.gpus] == [(gpu.pci, gpu.numa_node) for gpu in topology.gpus]
    by_pci = {(gpu.pci, hca.pci): path_level(again, gpu, hca) for gpu in again.gpus for hca in again.hcas}
    assert by_pci == {(gpu.pci, hca.pci): path_level(topology, gpu, hca) for gpu in topology.gpus for hca in topology.hcas}
    assert [node.cpus for node in again.numa_nodes] == [node.cpus for node in topology.numa_nodes if node.cpus]


def test_export_has_what_nccl_asks_for() -> None:
    """Attributes that ncclTopoAddPci and ncclTopoAddCpu read without a default, and no value that NCCL's parser cuts."""
    text = to_nccl_xml(read_sysfs(in_memory(large(4, 4, 1024, 2)), "m"))
    assert text.startswith('<system version="1">')
    for tag in re.findall(r"<pci [^>]*>", text):
        assert all(f" {name}=" in tag for name in ("busid", "class", "link_speed", "link_width")), tag
    for tag in re.findall(r"<cpu [^>]*>", text):
        assert all(f" {name}=" in tag for name in ("numaid", "arch", "vendor", "familyid", "modelid")), tag
    assert max(len(value) for value in re.findall(r'"([^"]*)"', text)) <= MAX_VALUE


def test_export_keeps_virtual_switches_and_amd_families(data: Path) -> None:
    topology = load(str(data / "nccl-dump.xml"))
    text = to_nccl_xml(topology)
    assert 'familyid="175"' in text
    again = parse_nccl(text, "f.xml")
    assert [gpu.pci_path for gpu in again.gpus] == [gpu.pci_path for gpu in topology.gpus]
    assert to_nccl_xml(replace(again, hcas=topology.hcas)) == text

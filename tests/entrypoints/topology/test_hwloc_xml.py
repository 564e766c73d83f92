"""hwloc's XML: which of its I/O objects are HCAs, by the version of the format."""

import pytest

from entrypoints.topology.hwloc_xml import parse_hwloc


def host(version: str, device: str) -> str:
    return (
        f'<topology version="{version}"><object type="Machine" os_index="0" cpuset="0x3">'
        '<object type="NUMANode" os_index="0" cpuset="0x3"/>'
        '<object type="Core" os_index="0" cpuset="0x3"><object type="PU" os_index="0" cpuset="0x1"/>'
        '<object type="PU" os_index="1" cpuset="0x2"/></object>'
        '<object type="Bridge" bridge_type="0-1" bridge_pci="0000:[00-04]">'
        f'<object type="PCIDev" pci_busid="0000:02:00.0" pci_type="0207 [15b3:1021] [15b3:0023] 00">{device}</object></object>'
        "</object></topology>"
    )


@pytest.mark.parametrize(
    ("version", "kind", "name", "kept"),
    [
        ("2.0", "3", "mlx5_0", True),
        ("3.0", "32", "mlx5_0", True),
        # Storage and memory, 1 | 2: a CXL memory device.
        ("3.0", "3", "mem0", False),
        ("3.0", "16", "eth0", False),
        ("2.0", "2", "eth0", False),
    ],
)
def test_which_devices_are_hcas(version: str, kind: str, name: str, kept: bool) -> None:
    topology = parse_hwloc(host(version, f'<object type="OSDev" name="{name}" osdev_type="{kind}"/>'), "x")
    assert [hca.name for hca in topology.hcas] == [name] * kept
    assert [cpu.id for cpu in topology.cpus] == [0, 1]

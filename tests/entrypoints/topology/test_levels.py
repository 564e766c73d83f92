"""Path levels by what lies above two devices."""

import pytest

from entrypoints.topology.model import Gpu, Hca, Topology, level_between, path_level

ROOT, PORT, UP = "pci0000:10", "0000:10:01.0", "0000:11:00.0"


@pytest.mark.parametrize(
    ("gpu", "hca", "expected"),
    [
        # One switch: upstream port shared, a downstream port each.
        ((ROOT, PORT, UP, "0000:12:00.0"), (ROOT, PORT, UP, "0000:12:01.0"), "PIX"),
        # Two functions behind one downstream port, or directly on one root port.
        ((ROOT, PORT, UP, "0000:12:00.0"), (ROOT, PORT, UP, "0000:12:00.0"), "PIX"),
        ((ROOT, PORT), (ROOT, PORT), "PIX"),
        # A second switch below the first, on one side or on both.
        ((ROOT, PORT, UP, "0000:12:00.0", "0000:13:00.0", "0000:14:00.0"), (ROOT, PORT, UP, "0000:12:01.0"), "PXB"),
        ((ROOT, PORT, UP, "a:0:0.0", "b:0:0.0", "c:0:0.0"), (ROOT, PORT, UP, "d:0:0.0", "e:0:0.0", "f:0:0.0"), "PXB"),
        # Two root ports of one root complex.
        ((ROOT, PORT, UP), (ROOT, "0000:10:02.0"), "PHB"),
        # Paths of an NCCL XML: switches only.
        (("ffff:ff:01.0",), ("ffff:ff:01.0",), "PIX"),
        (("ffff:ff:01.0", "ffff:ff:02.0"), ("ffff:ff:01.0",), "PXB"),
        (("ffff:ff:01.0", "ffff:ff:02.0"), ("ffff:ff:01.0", "ffff:ff:03.0"), "PXB"),
        (("ffff:ff:01.0",), ("ffff:ff:02.0",), "NODE"),
        ((), (), "NODE"),
        (("pci0001:00",), ("pci0101:00",), "NODE"),
    ],
)
def test_levels_on_one_node(gpu: tuple[str, ...], hca: tuple[str, ...], expected: str) -> None:
    assert level_between(gpu, 0, hca, 0) == expected
    assert level_between(hca, 0, gpu, 0) == expected


def test_nodes_decide_only_where_nothing_is_shared() -> None:
    assert level_between((ROOT, PORT), 0, (ROOT, PORT), None) == "PIX"
    assert level_between((ROOT,), 0, ("pci0000:80",), 1) == "SYS"
    assert level_between((), None, (), 0) is None
    assert level_between((), None, (), None) is None


def test_what_the_source_states_wins() -> None:
    gpu, hca = Gpu(0, numa_node=0), Hca("NIC0", numa_node=0)
    assert path_level(Topology("f", levels={(0, "NIC0"): "PXB"}), gpu, hca) == "PXB"
    assert path_level(Topology("f"), gpu, hca) == "NODE"

"""One reader for a live host, a folder and a tarball: what links mean, and what is absent."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoints.topology.archive import read_tar
from entrypoints.topology.load import tree_of
from entrypoints.topology.tree import DirectoryTree, MemoryTree, Tree
from tests.helpers.sysfs_tree import build, gcp_a3u
from tests.helpers.tarballs import tarball_of

FILES = {
    "sys/devices/pci0000:00/0000:00:01.0/vendor": b"0x15b3\n",
    "sys/devices/pci0000:00/0000:00:01.0/net/eth0/mtu": b"9000\n",
}
LINKS = {
    "sys/bus/pci/devices/0000:00:01.0": "../../../devices/pci0000:00/0000:00:01.0",
    # A dump that was made with absolute links: they mean the dumped host's /sys.
    "sys/class/net/eth0": "/sys/devices/pci0000:00/0000:00:01.0/net/eth0",
    "sys/class/net/eth1": "/etc",
    "sys/devices/pci0000:00/0000:00:01.0/driver": "../../../bus/pci/drivers/mlx5_core",
    "sys/class/net/up": "../../../../../../../../etc",
    "sys/ring": "ring",
    **{f"deep/{i}": f"../deep/{i + 1}" + "/a" * 90 for i in range(60)},
}


def folder(tmp_path: Path) -> Tree:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name, target in LINKS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    return DirectoryTree(str(tmp_path))


def memory(_tmp_path: Path) -> Tree:
    return MemoryTree(dict(FILES), dict(LINKS), set())


def tarball(_tmp_path: Path) -> Tree:
    return read_tar(tarball_of(FILES, LINKS), "t")


@pytest.mark.parametrize("make", [folder, memory, tarball])
def test_all_roots_agree(tmp_path: Path, make: Callable[[Path], Tree]) -> None:
    tree = make(tmp_path)
    assert tree.text("sys/bus/pci/devices/0000:00:01.0/vendor") == "0x15b3"
    assert tree.text("sys/class/net/eth0/mtu") == "9000", "an absolute link is followed inside the root"
    assert tree.resolve("sys/class/net/eth0") == "sys/devices/pci0000:00/0000:00:01.0/net/eth0"
    assert tree.link("sys/bus/pci/devices/0000:00:01.0/driver") == "mlx5_core", "also where the dump does not hold it"
    assert tree.resolve("sys/bus/pci/devices/0000:00:01.0/driver") is None
    assert tree.link("sys/bus/pci/devices/0000:00:01.0/vendor") is None
    for outside in ("sys/class/net/eth1", "sys/class/net/up", "sys/ring", "deep/0", "sys/bus/../../../../etc", "a\0b", "x/" * 5000):
        assert tree.resolve(outside) is None and tree.text(outside) is None and tree.names(outside) == [], outside[:40]
    assert tree.listing("sys/class/net") == ["eth0", "eth1", "up"]
    assert tree.read("sys/class/net/eth0/mtu", 2) == b"90"
    for wrong, code in (("sys/absent", errno.ENOENT), ("sys/class", errno.EISDIR)):
        with pytest.raises(OSError) as caught:
            tree.read(wrong)
        assert caught.value.errno == code
    with pytest.raises(NotADirectoryError):
        tree.listing("sys/class/net/eth0/mtu")


def test_the_tree_of_a_source(tmp_path: Path) -> None:
    root = build(tmp_path / "host", gcp_a3u())
    live, dumped = tree_of(None), tree_of(str(root))
    assert live is not None and live.live
    assert dumped is not None and not dumped.live and dumped.names("sys/class/infiniband")
    matrix = tmp_path / "matrix.txt"
    matrix.write_text("\tGPU0\nGPU0\t X\n")
    assert tree_of(str(matrix)) is None and tree_of("-") is None

"""Copies of a host, as a folder and as a tarball: topology and doctor read them by one reader."""

import io
import tarfile
from pathlib import Path

import pytest

from entrypoints.preflight.files import NotReadable, files_of
from entrypoints.topology import load
from tests.helpers.fake_host import FakeHost

NIC = "sys/devices/pci0000:10/0000:10:00.0/0000:11:00.0/0000:12:01.0"


@pytest.fixture
def dump(fake: FakeHost) -> Path:
    """A dump whose links are absolute, as some copying tools leave them, with one that nothing in it answers to."""
    for name in ("sys/class/infiniband/mlx5_0", f"{NIC}/driver", f"{NIC}/infiniband/mlx5_0/device"):
        path = fake.root / name
        target = path.resolve().relative_to(fake.root.resolve())
        path.unlink()
        path.symlink_to(f"/{target}")
    path = fake.root / "proc/sys/kernel/hostname"
    path.unlink()
    path.symlink_to("/etc/passwd")
    return fake.root


def tarball(folder: Path, path: Path) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, "dump")
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("kind", ["folder", "tarball"])
def test_an_absolute_link_means_the_dumped_host_s_file(dump: Path, tmp_path: Path, kind: str) -> None:
    """Contradiction that was: an absolute link in a dump was text to topology and unreadable to doctor. One reader follows it inside."""
    source = str(dump if kind == "folder" else tarball(dump, tmp_path / "dump.tar.gz"))
    hca = next(hca for hca in load(source).hcas if hca.name == "mlx5_0")
    assert (hca.pci, hca.driver, hca.numa_node) == ("0000:12:01.0", "mlx5_core", 0)
    files = files_of(source)
    assert files.text("sys/class/infiniband/mlx5_0/ports/1/state") == "4: ACTIVE"
    assert files.link("sys/class/infiniband/mlx5_0/device/driver") == "mlx5_core"
    assert files.canonical("sys/class/infiniband/mlx5_0") == f"/{NIC}/infiniband/mlx5_0"
    with pytest.raises(NotReadable, match="/proc/sys/kernel/hostname: absent"):
        files.text("proc/sys/kernel/hostname")
    assert not files.live


def test_a_text_has_no_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "topo.txt").write_text("\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n")
    files = files_of(str(tmp_path / "topo.txt"))
    assert files.maybe("proc/self/status") is None and files.maybe_names("sys") == ()

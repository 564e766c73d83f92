"""Tarballs: any packing, any top folder, nothing that reaches outside, and bombs that stay small."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.topology import load
from entrypoints.topology.load import from_bytes
from entrypoints.topology.model import Topology
from tests.helpers.sysfs_tree import gcp_a3u, parts


def pack(top: str = "host/", extra: tuple[tarfile.TarInfo, ...] = (), form: int = tarfile.GNU_FORMAT) -> bytes:
    files, links = parts(gcp_a3u())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(top + path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for path, target in links.items():
            member = tarfile.TarInfo(top + path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def expect(topology: Topology) -> None:
    assert len(topology.gpus) == 8 and len(topology.hcas) == 8 and len(topology.cpus) == 224
    assert topology.hcas[0].pci_path[0] == "pci0000:80"


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_packing(tmp_path: Path, squeeze) -> None:
    # The name says nothing: content decides.
    file = tmp_path / "report.txt"
    file.write_bytes(squeeze(pack()))
    expect(load(str(file)))


@pytest.mark.parametrize("top", ["", "./", "a/b/c/", "x" * 120 + "/"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_top_folder_and_format(top: str, form: int) -> None:
    if form == tarfile.USTAR_FORMAT and len(top) > 100:
        pytest.skip("USTAR has no room for this name")
    expect(from_bytes(pack(top, form=form), "t"))


def test_links_and_names_that_climb_or_loop() -> None:
    bad = (
        link("host/sys/class/infiniband/up", "../../../../../../etc"),
        link("host/sys/class/infiniband/ring", "ring"),
        link("../../outside", "x"),
        link("host/sys/bus/pci/devices/0000:99:00.0", "/".join(["."] * 3000)),
    )
    expect(from_bytes(pack(extra=bad), "t"))


def test_a_cut_tarball_gives_what_came_before_the_cut() -> None:
    data = pack()
    topology = from_bytes(gzip.compress(data)[:-20], "t")
    assert len(topology.cpus) > 0
    from_bytes(data[: len(data) // 2], "t")


def bomb(size: int) -> bytes:
    return gzip.compress(b"A" * size, 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bomb(64 << 20), id="gzip bomb"),
        pytest.param(bz2.compress(b"\0" * (64 << 20)), id="bzip2 zeros"),
        pytest.param(lzma.compress(b"A" * (64 << 20), preset=0), id="xz bomb"),
        pytest.param(b"\x1f\x8b" + b"\7" * 100, id="broken gzip"),
        pytest.param(b"BZh9" + b"\7" * 100, id="broken bzip2"),
        pytest.param(b"\xfd7zXZ\0" + b"\7" * 100, id="broken xz"),
        pytest.param(b"\x28\xb5\x2f\xfd" + b"\7" * 100, id="zstd"),
        pytest.param(b"PK\3\4" + b"\7" * 100, id="zip"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 100_000, id="zeros"),
        pytest.param(bytes(range(256)) * 4000, id="binary"),
        pytest.param(b"[" * 1_000_000, id="brackets"),
        pytest.param(b"GPU0 " + b"m" * 900_000, id="one long word"),
        pytest.param(b"\tGPU0\tNIC0\n" + b"GPU0 X\n" * 130_000, id="one row again and again"),
        pytest.param(b"<system>" + b"<pci>" * 100_000, id="deep XML"),
        pytest.param(b'<!DOCTYPE system [<!ENTITY a "x">]><system version="1">&a;</system>', id="entity"),
    ],
)
def test_junk_ends_soon(data: bytes) -> None:
    start = time.process_time()
    try:
        from_bytes(data, "f")
    except UsageError as error:
        assert str(error).startswith("f")
    assert time.process_time() - start < 2

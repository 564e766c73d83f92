"""Tarballs: any packing, any top folder, nothing that reaches outside, and bombs that stay small."""

import bz2
import gzip
import lzma
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.topology import load
from entrypoints.topology.archive import read_tar
from entrypoints.topology.load import from_bytes
from entrypoints.topology.model import Topology
from tests.helpers.sysfs_tree import NodeSpec, gcp_a3u, parts
from tests.helpers.tarballs import tarball_of


@cache
def tree() -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and links of a host with few CPUs, and so few files."""
    nodes = (NodeSpec(0, (0, 1, 4, 5)), NodeSpec(1, (2, 3, 6, 7)))
    return parts(replace(gcp_a3u(), nodes=nodes, siblings=((0, 4), (1, 5), (2, 6), (3, 7))))


def pack(top: str = "host/", extra: tuple[tarfile.TarInfo, ...] = (), form: int = tarfile.GNU_FORMAT) -> bytes:
    return tarball_of(*tree(), top, extra, form)


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def expect(topology: Topology) -> None:
    assert len(topology.gpus) == 8 and len(topology.hcas) == 8 and len(topology.cpus) == 8
    assert topology.hcas[0].pci_path[0] == "pci0000:80"


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_packing(tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    # The name says nothing: content decides.
    file = tmp_path / "report.txt"
    file.write_bytes(squeeze(pack()))
    expect(load(str(file)))


TOPS = ["", "./", "a/b/c/", "x" * 120 + "/"]
FORMS = [
    *((tarfile.USTAR_FORMAT, top) for top in TOPS[:3]),  # it has no room for the long name
    *((form, top) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT) for top in TOPS),
]


@pytest.mark.parametrize(("form", "top"), FORMS)
def test_any_top_folder_and_format(form: int, top: str) -> None:
    expect(from_bytes(pack(top, form=form), "t"))


def test_links_and_names_that_climb_or_loop() -> None:
    bad = (
        link("host/sys/class/infiniband/up", "../../../../../../etc"),
        link("host/sys/class/infiniband/ring", "ring"),
        link("../../outside", "x"),
        link("host/sys/bus/pci/devices/0000:99:00.0", "/".join(["."] * 3000)),
    )
    expect(from_bytes(pack(extra=bad), "t"))


def test_hard_links_share_the_content_that_came_before() -> None:
    def hard(name: str, target: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.LNKTYPE, target
        return member

    files = {"sys/class/net/eth0/mtu": b"9000\n"}
    extra = (hard("host/sys/class/net/eth0/mtu2", "host/sys/class/net/eth0/mtu"), hard("host/sys/class/net/eth0/mtu3", "../etc/passwd"))
    root = read_tar(tarball_of(files, {}, extra=extra), "t")
    assert root.text("sys/class/net/eth0/mtu2") == "9000"
    assert root.names("sys/class/net/eth0") == ["mtu", "mtu2"]


def test_a_header_with_a_negative_size_ends_the_archive() -> None:
    """CVE-2025-8194: older tarfile modules went back to where they were, for ever."""
    data = bytearray(pack())
    header = bytearray(tarfile.TarInfo("host/sys/evil").tobuf())
    header[124:136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    end = data.rindex(b"ustar") - 257
    data[end:end] = header
    expect(from_bytes(bytes(data), "t"))


def test_a_cut_tarball_gives_what_came_before_the_cut() -> None:
    data = pack()
    topology = from_bytes(gzip.compress(data)[:-20], "t")
    assert len(topology.cpus) > 0
    from_bytes(data[: len(data) // 2], "t")


#: Made when they are asked for: a bomb takes its time.
JUNK: dict[str, Callable[[], bytes]] = {
    "gzip bomb": lambda: gzip.compress(b"A" * (64 << 20), 1),
    "bzip2 zeros": lambda: bz2.compress(b"\0" * (64 << 20)),
    "xz bomb": lambda: lzma.compress(b"A" * (64 << 20), preset=0),
    "broken gzip": lambda: b"\x1f\x8b" + b"\7" * 100,
    "broken bzip2": lambda: b"BZh9" + b"\7" * 100,
    "broken xz": lambda: b"\xfd7zXZ\0" + b"\7" * 100,
    "zstd": lambda: b"\x28\xb5\x2f\xfd" + b"\7" * 100,
    "zip": lambda: b"PK\3\4" + b"\7" * 100,
    "nothing": lambda: b"",
    "zeros": lambda: b"\0" * 100_000,
    "binary": lambda: bytes(range(256)) * 4000,
    "brackets": lambda: b"[" * 1_000_000,
    "one long word": lambda: b"GPU0 " + b"m" * 900_000,
    "one row again and again": lambda: b"\tGPU0\tNIC0\n" + b"GPU0 X\n" * 130_000,
    "deep XML": lambda: b"<system>" + b"<pci>" * 100_000,
    "entity": lambda: b'<!DOCTYPE system [<!ENTITY a "x">]><system version="1">&a;</system>',
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_ends_soon(kind: str) -> None:
    data = JUNK[kind]()
    start = time.process_time()
    try:
        from_bytes(data, "f")
    except UsageError as error:
        assert str(error).startswith("f")
    assert time.process_time() - start < 2

"""Kernel and root file system of the test guest, made once from Debian packages and kept in the state folder.

The kernel is started as an uncompressed vmlinux (PVH entry): under emulation it starts in half of the time of a bzImage.
"""

import hashlib
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.helpers import tools

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "python3,python3-psutil,numactl,libnuma1,rdma-core,ibverbs-utils,ibverbs-providers,"
    "rdmacm-utils,perftest,iproute2,pciutils,kmod,hwloc-nox"
)
SUITE = "bookworm"
#: What the guest needs as modules on top of Debian's kernel; their dependencies are read from the modules themselves.
MODULES = (
    *("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "9pnet_virtio", "9p"),
    *("e1000e", "ib_uverbs", "rdma_ucm", "crc32_generic", "rdma_rxe"),
)
LEFT_OUT = (
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/perl",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/udev/hwdb",
    "var/cache/",
    "var/lib/apt/",
)


class Unavailable(Exception):
    """The guest cannot be made here; the text says why and is the skip reason."""


def state_folder() -> Path:
    """Where assets and saved states are kept between runs."""
    return Path(os.environ.get("EPBOX_STATE", HERE.parent.parent / ".state")) / "guest"


def tool(name: str) -> str:
    """Where a tool of tests/helpers/tools.py is. Raises Unavailable."""
    try:
        return tools.path(name)
    except tools.Missing as reason:
        raise Unavailable(str(reason)) from None


def run_tool(command: list[str], cwd: Path) -> str:
    """A tool's stdout; raises Unavailable with its last word when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout


def _kernel_package(folder: Path) -> Path:
    """The newest kernel of the host's Debian, unpacked into `folder`; its version ages, so it is resolved by name."""
    if not shutil.which("apt-cache"):
        raise Unavailable("no apt here to download a guest kernel with")
    depends = run_tool(["apt-cache", "depends", "linux-image-amd64"], folder)
    names = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line]
    if not names:
        raise Unavailable("apt knows no linux-image-amd64")
    run_tool(["apt-get", "download", "-q", names[0]], folder)
    deb = next(folder.glob("linux-image-*.deb"))
    run_tool(["dpkg", "-x", str(deb), "kernel"], folder)
    deb.unlink()
    return folder / "kernel"


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage: its payload offset and length stand in the setup header (Linux boot protocol 2.08)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # Four bytes of uncompressed size follow the stream.
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(bzimage[start : start + length - 4])


def module_order(root: Path, wanted: tuple[str, ...]) -> list[Path]:
    """The wanted modules and all they depend on, dependencies first, from each module's own .modinfo."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in root.rglob("*.ko*")}
    order: list[Path] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        # A name without a file is built into the kernel.
        if name in seen or name not in files:
            return
        seen.add(name)
        for dependency in _modinfo(_module_bytes(files[name]), "depends").split(","):
            if dependency:
                visit(dependency)
        order.append(files[name])

    for name in wanted:
        visit(name)
    return order


def _module_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _modinfo(data: bytes, key: str) -> str:
    for record in data.split(b"\0"):
        if record.startswith(key.encode() + b"="):
            return record.split(b"=", 1)[1].decode(errors="replace")
    return ""


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    bodies: dict[str, bytes] = {}
    for member in tar:
        name = member.name.removeprefix("./").strip("/")
        if not name or name.startswith(LEFT_OUT):
            continue
        if member.islnk():
            body = bodies.get(member.linkname.removeprefix("./").strip("/"), b"")
        else:
            stream = tar.extractfile(member) if member.isreg() else None
            body = stream.read() if stream else member.linkname.encode() if member.issym() else b""
        if member.isreg():
            bodies[name] = body
        yield name, member, body


def write_cpio(tar_path: Path, extra: dict[str, bytes], target: Path) -> None:
    """An initramfs ("newc" cpio, Documentation/driver-api/early-userspace/buffer-format.rst) from a tar and extra files."""
    number = 0

    def entry(out: "object", name: str, mode: int, body: bytes) -> None:
        nonlocal number
        number += 1
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        out.write(head + b"\0" * (-len(head) % 4) + body + b"\0" * (-len(body) % 4))  # type: ignore[attr-defined]

    with tarfile.open(tar_path) as tar, open(target, "wb") as out:
        for name, member, body in _members(tar):
            if member.isdir():
                kind = stat.S_IFDIR
            elif member.issym():
                kind = stat.S_IFLNK
            elif member.isreg() or member.islnk():
                kind = stat.S_IFREG
            else:
                continue
            entry(out, name, kind | member.mode & 0o7777, body)
        folders = {str(parent) for name in extra for parent in Path(name).parents} - {"."}
        for name in sorted(folders):
            entry(out, name, stat.S_IFDIR | 0o755, b"")
        for name, body in extra.items():
            entry(out, name, stat.S_IFREG | 0o755, body)
        entry(out, "TRAILER!!!", 0, b"")


def once(prefix: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder PREFIX-KEY, made by `make` in a temporary one and renamed when complete."""
    done = state_folder() / f"{prefix}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not done.exists():
        done.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=done.parent) as temporary:
            folder = Path(temporary) / prefix
            folder.mkdir()
            make(folder)
            folder.rename(done)
    return done


def _base(folder: Path) -> None:
    root = _kernel_package(folder)
    (folder / "vmlinux").write_bytes(vmlinux(next((root / "boot").glob("vmlinuz-*")).read_bytes()))
    (folder / "modules").mkdir()
    for number, path in enumerate(module_order(root, MODULES)):
        (folder / "modules" / f"{number:02d}-{path.name.removesuffix('.xz')}").write_bytes(_module_bytes(path))
    run_tool(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", SUITE, "root.tar"], folder)
    shutil.rmtree(root)


def build() -> Path:
    """The folder with `vmlinux` and `root.cpio`, made when absent or when its inputs changed. Raises Unavailable."""
    tool("qemu")
    tool("mmdebstrap")
    base = once("base", repr((PACKAGES, SUITE, MODULES)), _base)
    init = (HERE / "init.py").read_bytes()

    def assemble(folder: Path) -> None:
        extra = {f"modules/{path.name}": path.read_bytes() for path in sorted((base / "modules").iterdir())}
        write_cpio(base / "root.tar", {**extra, "init": init}, folder / "root.cpio")
        os.link(base / "vmlinux", folder / "vmlinux")

    return once("assets", f"{base.name} {LEFT_OUT} {init!r}", assemble)

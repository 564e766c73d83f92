"""A host in one small tarball: what `load` reads of it and nothing else, without anything that identifies it."""

import gzip
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from entrypoints.cpulist import format_list
from entrypoints.topology.model import Gpu, Topology
from entrypoints.topology.processors import CPU
from entrypoints.topology.sysfs import NOTES, read_sysfs
from entrypoints.topology.tree import DirectoryTree

#: Top folder of the tarball.
TOP = "epbox-snapshot"

_GUID = re.compile(r"(?:[0-9a-f]{4}:){3}[0-9a-f]{4}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MAC_NAME = re.compile(r"enx[0-9a-f]{12}")


class RecordingTree(DirectoryTree):
    """Keeps what its reads gave, under canonical paths."""

    def __init__(self, root: str, live: bool = False) -> None:
        super().__init__(root, live)
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()

    def _read(self, path: str, limit: int) -> bytes:
        self.files[path] = super()._read(path, limit)
        return self.files[path]

    def _list(self, path: str) -> list[str]:
        names = super()._list(path)
        self.folders.add(path)
        if path == CPU:
            # Old kernels have no list of online CPUs: their folders are the list.
            self.folders.update(f"{path}/{name}" for name in names if re.fullmatch(r"cpu\d+", name))
        return names

    def resolve(self, path: str) -> str | None:
        real = super().resolve(path)
        if real:
            self.folders.add(real)
        return real


@dataclass
class Pseudonyms:
    """Numbers instead of identities, in the order of first sight: equal stays equal, and nothing leads back."""

    known: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str, value: str, form: str) -> str:
        key = f"{kind} {value.lower()}"
        if key not in self.known:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.known[key] = form.format(self.counts[kind])
        return self.known[key]

    def guid(self, guid: str) -> str:
        """A node or system image GUID. Those that begin with zeros say "unknown" and stay."""
        return guid if guid.startswith("0000:") else self.of("guid", guid, "eb0c:0000:0000:{:04x}")

    def gid(self, gid: str) -> str:
        """A GID keeps its kind: link-local, IPv4-mapped (as an address of TEST-NET-1) or other; the rest is a number."""
        if not gid.strip("0:"):
            return gid
        if gid.lower().startswith("0000:0000:0000:0000:0000:ffff:"):
            return self.of("ipv4", gid, "0000:0000:0000:0000:0000:ffff:c000:02{:02x}")
        if len(gid) == 39 and gid.lower().startswith("fe80:"):
            return f"fe80:0000:0000:0000:{self.guid(gid[20:])}"
        return self.of("gid", gid, "2001:0db8:0000:0000:0000:0000:0000:{:04x}")

    def path(self, text: str) -> str:
        """Interface names made of a MAC address, and the instance UUIDs of hypervisor buses."""
        text = _MAC_NAME.sub(lambda match: self.of("mac", match[0], "enx{:012x}"), text)
        return _UUID.sub(lambda match: self.of("uuid", match[0], "00000000-0000-4000-8000-{:012x}"), text)


def take(root: str, live: bool = False) -> tuple[bytes, Topology]:
    """The tarball (gzip; the same bytes for the same host) and the Topology that was read while it was made."""
    recording = RecordingTree(root, live)
    topology = read_sysfs(recording, "live")
    names = Pseudonyms()
    files: dict[str, bytes] = {}
    for path in sorted(recording.files):
        content = _content(path, recording.files[path], names)
        if content is not None:
            files[names.path(path)] = content
    files |= _own_files(topology, names)
    links: dict[str, str] = {}
    for path, target in sorted(recording.links.items()):
        # Links of proc name this process. An absolute target would lead out of wherever the tarball is unpacked.
        if path.startswith("sys/"):
            inside = posixpath.relpath(target, f"/{posixpath.dirname(path)}") if target.startswith("/") else target
            links[names.path(path)] = names.path(inside)
    folders = {names.path(path) for path in recording.folders}
    return _pack(files, links, folders), topology


def _content(path: str, data: bytes, names: Pseudonyms) -> bytes | None:
    """A file as it goes into the tarball; None leaves it out."""
    folder, _, name = path.rpartition("/")
    text = data.decode("utf-8", "replace").strip("\0 \t\r\n")
    # Config space holds serial numbers, proc/self and the driver's files more than is needed: _own_files has the extract.
    if name in ("config", "information") or path.startswith(("proc/self/", "epbox/")) or re.match(r"proc/\d+/", path):
        return None
    if name == "sys_image_guid":
        text = names.guid(text) if _GUID.fullmatch(text) else text
    elif folder.endswith("/gids"):
        text = names.gid(text)
    elif path == "proc/cpuinfo":
        wanted = ("vendor_id", "cpu family", "model", "CPU implementer", "cpu")
        lines = [line for line in text.splitlines() if line.partition(":")[0].strip() in wanted]
        text = "\n".join(dict.fromkeys(lines))
    elif name == "meminfo":
        text = "\n".join(line for line in text.splitlines() if "MemTotal:" in line)
    return (names.path(text) + "\n").encode()


def _own_files(topology: Topology, names: Pseudonyms) -> dict[str, bytes]:
    """Files with what the live host told outside of sysfs, in the form in which `load` reads it from a dump."""
    cpus, mems = format_list(topology.allowed.cpus), format_list(topology.allowed.mems)
    notes = {
        "schema": "epbox.snapshot/1",
        "hcas": {hca.name: {"openable": hca.openable, "atomics": hca.atomics} for hca in topology.hcas if hca.name},
        "gpus": {gpu.pci: _noted(gpu) for gpu in topology.gpus if gpu.pci},
    }
    files = {
        "proc/self/status": f"Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}\n",
        NOTES: json.dumps(notes, indent=1, sort_keys=True) + "\n",
    }
    for gpu in topology.gpus:
        if gpu.pci and (gpu.uuid or gpu.name):
            lines = [f"Model:\t{gpu.name}"] if gpu.name else []
            lines += [f"GPU UUID:\t{names.path(gpu.uuid)}"] if gpu.uuid else []
            files[f"proc/driver/nvidia/gpus/{gpu.pci}/information"] = "\n".join(lines) + "\n"
    return {path: text.encode() for path, text in files.items()}


def _noted(gpu: Gpu) -> dict[str, object]:
    """The facts of a GPU that only NVML told."""
    links = {"nvlink": gpu.nvlink, "nvlinks_active": gpu.nvlinks_active}
    return {"numa_node": gpu.numa_node, **{name: value for name, value in links.items() if value is not None}}


def _pack(files: dict[str, bytes], links: dict[str, str], folders: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        wanted = {folder for folder in folders if folder not in files and folder not in links and not folder.startswith("proc/self")}
        for path in sorted({*files, *links, *wanted}):
            content = files.get(path, b"")
            member = tarfile.TarInfo(f"{TOP}/{path}")
            member.mode, member.size = 0o644, len(content)
            if path not in files and path in links:
                member.type, member.linkname = tarfile.SYMTYPE, links[path]
            elif path not in files:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)

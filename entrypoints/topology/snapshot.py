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
from entrypoints.topology.model import Topology
from entrypoints.topology.processors import CPU
from entrypoints.topology.sysfs import NOTES, read_sysfs
from entrypoints.topology.tree import MAX_FILE, DirectoryTree, Tree

#: Top folder of the tarball.
TOP = "epbox-snapshot"

_GUID = re.compile(r"(?:[0-9a-f]{4}:){3}[0-9a-f]{4}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MAC_NAME = re.compile(r"enx[0-9a-f]{12}")


class RecordingTree(Tree):
    """Passes reads on and keeps what they gave, under canonical paths."""

    def __init__(self, tree: DirectoryTree) -> None:
        self.live = tree.live
        self.tree = tree
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes | None:
        data = self.tree.read_bytes(path, limit)
        real = self.tree.resolve(path) if data is not None else None
        if data is not None and real is not None:
            self.files[real] = data
        return data

    def names(self, path: str) -> list[str]:
        found = self.tree.names(path)
        real = self.tree.resolve(path)
        if real:
            self.folders.add(real)
            if real == CPU:
                # Old kernels have no list of online CPUs: their folders are the list.
                self.folders.update(f"{real}/{name}" for name in found if re.fullmatch(r"cpu\d+", name))
        return found

    def resolve(self, path: str) -> str | None:
        real = self.tree.resolve(path)
        if real:
            self.folders.add(real)
        return real

    def link(self, path: str) -> str | None:
        return self.tree.link(path)


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


def take(tree: DirectoryTree) -> tuple[bytes, Topology]:
    """The tarball (gzip; the same bytes for the same host) and the Topology that was read while it was made."""
    recording = RecordingTree(tree)
    topology = read_sysfs(recording, "live")
    names = Pseudonyms()
    files: dict[str, bytes] = {}
    for path in sorted(recording.files):
        content = _content(path, recording.files[path], names)
        if content is not None:
            files[names.path(path)] = content
    files |= _own_files(topology, names)
    links = {names.path(path): names.path(_relative(path, target)) for path, target in sorted(_used_links(recording).items())}
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
    elif path == "proc/meminfo":
        text = "\n".join(line for line in text.splitlines() if line.startswith("MemTotal:"))
    elif name == "meminfo":
        text = "\n".join(line for line in text.splitlines() if "MemTotal:" in line)
    return (names.path(text) + "\n").encode()


def _own_files(topology: Topology, names: Pseudonyms) -> dict[str, bytes]:
    """What the live host told outside of sysfs, in the form in which `load` reads it from a dump."""
    cpus, mems = format_list(topology.allowed.cpus), format_list(topology.allowed.mems)
    files = {
        "proc/self/status": f"Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}\n",
        NOTES: json.dumps(
            {
                "schema": "epbox.snapshot/1",
                "hcas": {hca.name: {"openable": hca.openable, "atomics": hca.atomics} for hca in topology.hcas if hca.name},
                "gpus": {gpu.pci: {"numa_node": gpu.numa_node} for gpu in topology.gpus if gpu.pci},
            },
            indent=1,
            sort_keys=True,
        )
        + "\n",
    }
    for gpu in topology.gpus:
        if gpu.pci and (gpu.uuid or gpu.name):
            lines = [f"Model:\t{gpu.name}"] if gpu.name else []
            lines += [f"GPU UUID:\t{names.path(gpu.uuid)}"] if gpu.uuid else []
            files[f"proc/driver/nvidia/gpus/{gpu.pci}/information"] = "\n".join(lines) + "\n"
    return {path: text.encode() for path, text in files.items()}


def _used_links(recording: RecordingTree) -> dict[str, str]:
    """The links that were followed, except those of proc, which name this process."""
    return {path: target for path, target in recording.tree.links.items() if path.startswith("sys/")}


def _relative(path: str, target: str) -> str:
    """A link target that stays inside wherever the tarball is unpacked."""
    if not target.startswith("/"):
        return target
    return posixpath.relpath(target, "/" + posixpath.dirname(path))


def _pack(files: dict[str, bytes], links: dict[str, str], folders: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        wanted = {folder for folder in folders if folder not in files and folder not in links and not folder.startswith("proc/self")}
        for path in sorted({*files, *links, *wanted}):
            member = tarfile.TarInfo(f"{TOP}/{path}")
            member.mode = 0o644
            if path in files:
                member.size = len(files[path])
                tar.addfile(member, io.BytesIO(files[path]))
            elif path in links:
                member.type, member.linkname = tarfile.SYMTYPE, links[path]
                tar.addfile(member)
            else:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
    return gzip.compress(buffer.getvalue(), mtime=0)

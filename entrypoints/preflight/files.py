"""Bounded reads of /proc and /sys below one root: the live host, a copied folder, a tarball in memory, or nothing."""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from entrypoints.topology.tree import MemoryTree, Tree

#: No file a check reads is longer; a longer one is cut, so that a hostile tree cannot fill memory.
LIMIT_BYTES = 256 * 1024


class NotReadable(Exception):
    """An input that a check needs is absent or unreadable: the check is then NOT_RUN, never PASS."""


@dataclass(frozen=True)
class Files:
    """Reads below `root`; links that lead out of a copied tree count as absent."""

    root: Path = Path("/")

    @property
    def live(self) -> bool:
        """True when this is the running host, so that system calls may be asked too."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """The real place of `name`, which is written without a leading slash."""
        place = self.root / name.lstrip("/")
        if not self.live:
            real, root = os.path.realpath(place), os.path.realpath(self.root)
            if os.path.commonpath((real, root)) != root:
                raise NotReadable(f"/{name} leads out of {self.root}")
        return place

    def data(self, name: str, limit: int = LIMIT_BYTES) -> bytes:
        """At most `limit` bytes of a file. Raises NotReadable with the reason."""
        try:
            # O_NONBLOCK: a FIFO or a silent device in a copied tree must not stop us.
            handle = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISDIR(os.fstat(handle).st_mode):
                    raise NotReadable(f"/{name} is a folder")
                parts: list[bytes] = []
                while limit > 0 and (part := os.read(handle, limit)):
                    parts.append(part)
                    limit -= len(part)
                return b"".join(parts)
            finally:
                os.close(handle)
        except OSError as error:
            raise NotReadable(f"/{name}: {reason(error)}") from None
        except ValueError as error:  # a NUL in the name, or paths on two drives
            raise NotReadable(f"/{name!r}: {error}") from None

    def text(self, name: str) -> str:
        """A file as text without outer white space; bytes that are not UTF-8 are replaced."""
        return self.data(name).decode(errors="replace").strip()

    def maybe(self, name: str) -> str | None:
        """As text(), but None when the file is absent or unreadable."""
        try:
            return self.text(name)
        except NotReadable:
            return None

    def number(self, name: str) -> int | None:
        """A decimal number in a file, or None when it is absent, unreadable or not a number."""
        try:
            return int((self.maybe(name) or "").split()[0])
        except (ValueError, IndexError):
            return None

    def names(self, name: str) -> tuple[str, ...]:
        """Sorted entries of a folder. Raises NotReadable when it is absent or unreadable."""
        try:
            return tuple(sorted(entry.name for entry in self.path(name).iterdir()))
        except (OSError, ValueError) as error:
            raise NotReadable(f"/{name}: {reason(error)}") from None

    def maybe_names(self, name: str) -> tuple[str, ...]:
        """As names(), but empty when there is nothing to list."""
        try:
            return self.names(name)
        except NotReadable:
            return ()

    def exists(self, name: str) -> bool:
        """True when the path is there, whether or not it can be read."""
        try:
            return os.path.lexists(self.path(name))
        except (NotReadable, OSError, ValueError):
            return False

    def link(self, name: str) -> str | None:
        """The last part of a link's target ("mlx5_core" of device/driver), or None."""
        try:
            return self.path(name).readlink().name
        except (NotReadable, OSError, ValueError):
            return None

    def canonical(self, name: str) -> str:
        """The path inside the root with all links resolved: equal for two names of one file."""
        return "/" + str(self.path(name).resolve().relative_to(self.root.resolve()))


@dataclass(frozen=True)
class TreeFiles(Files):
    """The same reads from a tarball that is held in memory; `root` is its name, for messages."""

    tree: Tree = field(default_factory=lambda: MemoryTree({}, {}, set()))

    @property
    def live(self) -> bool:
        return False

    def data(self, name: str, limit: int = LIMIT_BYTES) -> bytes:
        content = self.tree.read_bytes(name.lstrip("/"), limit)
        if content is None:
            raise NotReadable(f"/{name}: absent")
        return content

    def names(self, name: str) -> tuple[str, ...]:
        if self.tree.resolve(name.strip("/")) is None:
            raise NotReadable(f"/{name}: absent")
        return tuple(self.tree.names(name.strip("/")))

    def exists(self, name: str) -> bool:
        return self.tree.resolve(name.strip("/")) is not None

    def link(self, name: str) -> str | None:
        place = self.tree.resolve(name.strip("/"))
        return place.rpartition("/")[2] if place else None

    def canonical(self, name: str) -> str:
        return "/" + (self.tree.resolve(name.strip("/")) or name)


def files_of(source: str | None) -> Files:
    """The files beside a topology source: the live root for None, a folder's, a tarball's, and none for any other file.

    Raises UsageError for a tarball that cannot be unpacked.
    """
    if source is None:
        return Files()
    place = Path(source)
    if place.is_dir():
        roots = [place] if (place / "sys").is_dir() else [child for child in sorted(place.iterdir()) if (child / "sys").is_dir()]
        return Files(roots[0] if len(roots) == 1 else place)
    from entrypoints.topology.archive import expand, is_tar, read_tar

    try:
        data = expand(place.read_bytes(), source) if place.is_file() else b""
    except OSError:
        data = b""
    return TreeFiles(place, read_tar(data, source) if is_tar(data) else MemoryTree({}, {}, set()))


def reason(error: Exception) -> str:
    """An OSError in one or two words."""
    if isinstance(error, OSError) and error.errno is not None:
        return "absent" if error.errno in (errno.ENOENT, errno.ENOTDIR) else os.strerror(error.errno).lower()
    return str(error)

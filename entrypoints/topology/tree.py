"""A sysfs and proc root to read from: the live host, a dumped directory, or a tarball held in memory.

Every path is relative to the root ("sys/class/infiniband"). Symbolic links are followed inside the root, absolute ones too: in a
dump, "/sys/devices/..." means the dumped host's, as in a chroot. So a link never leads out, and all three kinds of root agree.
"""

import errno
import os
from pathlib import Path

#: No file that a plan needs is longer; a longer one is cut here.
MAX_FILE = 1 << 16
#: More links than this on one path is a loop (the kernel's own limit is 40).
MAX_LINKS = 40
#: No path of sysfs is deeper; a longer one is a link that somebody made up.
MAX_DEPTH = 100


class Tree:
    """Bounded reads below a root. A subclass says what is at a path whose folders are no links."""

    #: True when this is the running host, so that processes, devices and NVML may be asked.
    live = False

    def __init__(self) -> None:
        self._resolved: dict[str, str | None] = {}
        self._known: dict[str, str | None] = {}
        #: Canonical path -> target of every link met so far, for a snapshot.
        self.links: dict[str, str] = {}

    def _target(self, path: str) -> str | None:
        """The target of a link, None for a file or folder. Raises OSError where there is nothing."""
        raise NotImplementedError

    def _read(self, path: str, limit: int) -> bytes:
        """The start of the file at a canonical path. Raises OSError."""
        raise NotImplementedError

    def _list(self, path: str) -> list[str]:
        """The names in the folder at a canonical path. Raises OSError."""
        raise NotImplementedError

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """The start of a file. Raises OSError, with the kernel's reason on a live host."""
        return self._read(self._existing(path), limit)

    def listing(self, path: str) -> list[str]:
        """The sorted names in a folder. Raises OSError."""
        return sorted(self._list(self._existing(path)))

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes | None:
        """The start of a file, or None when it cannot be read."""
        try:
            return self.read(path, limit)
        except OSError:
            return None

    def text(self, path: str) -> str | None:
        """A file's text without surrounding white space and NUL bytes, or None when it cannot be read."""
        data = self.read_bytes(path)
        return None if data is None else data.decode("utf-8", "replace").strip("\0 \t\r\n")

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder; empty when there is none."""
        try:
            return self.listing(path)
        except OSError:
            return []

    def resolve(self, path: str) -> str | None:
        """The canonical path of an existing file or folder, links resolved inside the root; None when there is none."""
        return self._resolve(path)

    def _resolve(self, path: str) -> str | None:
        if path not in self._resolved:
            try:
                self._resolved[path] = self._walk(path)
            except (OSError, ValueError):  # ValueError: a NUL in the path
                self._resolved[path] = None
        return self._resolved[path]

    def link(self, path: str) -> str | None:
        """The name that a link ends with, also where a dump does not hold what it points to; None for no link."""
        folder, _, name = path.rpartition("/")
        parent = self._resolve(folder)
        if parent is None:
            return None
        try:
            target = self._link(f"{parent}/{name}" if parent else name)
        except (OSError, ValueError):
            return None
        return target.rpartition("/")[2] if target else None

    def _existing(self, path: str) -> str:
        real = self._resolve(path)
        if real is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return real

    def _link(self, path: str) -> str | None:
        if path not in self._known:
            self._known[path] = self._target(path)
        target = self._known[path]
        if target is not None:
            self.links[path] = target
        return target

    def _walk(self, path: str) -> str:
        """The canonical path, step by step: a hostile dump may nest links deeper than Python may recurse. Raises OSError."""
        real = ""
        rest = path.split("/")[::-1]
        followed = 0
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                real = real.rpartition("/")[0]
                continue
            step = f"{real}/{name}" if real else name
            target = self._link(step)
            if target is None:
                real = step
                continue
            followed += 1
            if followed > MAX_LINKS or target.count("/") + len(rest) > MAX_DEPTH:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                real = ""
            rest += target.split("/")[::-1]
        return real


class DirectoryTree(Tree):
    """A root that is a folder: "/" for the live host."""

    def __init__(self, root: str, live: bool = False) -> None:
        super().__init__()
        self.live = live
        self._root = root.rstrip("/") + "/"

    def _target(self, path: str) -> str | None:
        try:
            return os.readlink(self._root + path)  # noqa: PTH115 - a Path object a step of a path costs too much here
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise

    def _read(self, path: str, limit: int) -> bytes:
        # A dump may hold pipes, which O_NONBLOCK does not wait for.
        handle = os.open(self._root + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            parts = []
            while limit > 0 and (part := os.read(handle, limit)):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts)
        finally:
            os.close(handle)

    def _list(self, path: str) -> list[str]:
        return [entry.name for entry in Path(self._root + path).iterdir()]


class MemoryTree(Tree):
    """A root held in memory, as read from a tarball: `files` maps paths to contents, `links` to link targets."""

    def __init__(self, files: dict[str, bytes], links: dict[str, str], folders: set[str]) -> None:
        super().__init__()
        self._files = files
        self._targets = links
        self._children: dict[str, set[str]] = {path: set() for path in ("", *folders)}
        for path in (*files, *links, *folders):
            while path:
                parent, _, name = path.rpartition("/")
                siblings = self._children.setdefault(parent, set())
                if name in siblings:
                    break
                siblings.add(name)
                path = parent

    def _target(self, path: str) -> str | None:
        if path in self._targets:
            return self._targets[path]
        if path in self._files or path in self._children:
            return None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _read(self, path: str, limit: int) -> bytes:
        if path not in self._files:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self._files[path][:limit]

    def _list(self, path: str) -> list[str]:
        if path not in self._children:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return list(self._children[path])


def is_folder(path: str) -> bool:
    """True for a folder; False for anything else, a path with NUL bytes included."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False

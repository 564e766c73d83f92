"""Bounded reads of a host's files, by the reader that topology uses too: the live host, a copied folder, or a tarball in memory."""

import os

from entrypoints.topology.load import tree_of
from entrypoints.topology.tree import MemoryTree, Tree

#: No file a check reads is longer; a longer one is cut, so that a hostile tree cannot fill memory.
LIMIT_BYTES = 256 * 1024


class NotReadable(Exception):
    """An input that a check needs is absent or unreadable: the check is then NOT_RUN, never PASS."""


class Files:
    """What checks read of a tree. Names are written without a leading slash; links mean what they mean on the copied host."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        #: True when this is the running host, so that system calls may be asked too.
        self.live = tree.live

    def data(self, name: str, limit: int = LIMIT_BYTES) -> bytes:
        """At most `limit` bytes of a file. Raises NotReadable with the reason."""
        try:
            return self.tree.read(name.strip("/"), limit)
        except OSError as error:
            raise NotReadable(f"/{name}: {_reason(error)}") from None

    def text(self, name: str) -> str:
        """A file as text without outer white space; bytes that are not UTF-8 are replaced. Raises NotReadable."""
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
            return tuple(self.tree.listing(name.strip("/")))
        except OSError as error:
            raise NotReadable(f"/{name}: {_reason(error)}") from None

    def maybe_names(self, name: str) -> tuple[str, ...]:
        """As names(), but empty when there is nothing to list."""
        return tuple(self.tree.names(name.strip("/")))

    def exists(self, name: str) -> bool:
        """True when there is a file or folder, whether or not it can be read."""
        return self.canonical(name) is not None

    def link(self, name: str) -> str | None:
        """The last part of a link's target ("mlx5_core" of device/driver), or None."""
        return self.tree.link(name.strip("/"))

    def canonical(self, name: str) -> str | None:
        """The path with all links resolved, equal for two names of one file; None when there is none."""
        real = self.tree.resolve(name.strip("/"))
        return None if real is None else f"/{real}"


def files_of(source: str | None) -> Files:
    """The files beside a topology source: the live root for None, a folder's, a tarball's, and none for any other file.

    Raises UsageError for a folder or tarball without a host in it.
    """
    return Files(tree_of(source) or MemoryTree({}, {}, set()))


def _reason(error: OSError) -> str:
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    return "absent" if absent or error.errno is None else os.strerror(error.errno).lower()

"""Bounded reads of /proc and /sys below one root: the live host, or a copy of one."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

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


def reason(error: Exception) -> str:
    """An OSError in one or two words."""
    if isinstance(error, OSError) and error.errno is not None:
        return "absent" if error.errno in (errno.ENOENT, errno.ENOTDIR) else os.strerror(error.errno).lower()
    return str(error)

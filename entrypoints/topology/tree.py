"""A sysfs and proc root to read from: the live host, a dumped directory, or a tarball held in memory.

Every path is relative to the root ("sys/class/infiniband"); symbolic links, absolute ones too, never leave it.
"""

import os
import stat

#: No file that a plan needs is longer; a longer one is cut here.
MAX_FILE = 1 << 16
#: More links than this on one path is a loop (the kernel's own limit is 40).
MAX_LINKS = 40
#: No path of sysfs is deeper; a longer one is a link that somebody made up.
MAX_DEPTH = 100


class Tree:
    """What the sysfs reader needs of a root."""

    #: True when this is the running host, so that processes, devices and NVML may be asked.
    live = False

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes | None:
        """The start of a file, or None when it cannot be read."""
        raise NotImplementedError

    def names(self, path: str) -> list[str]:
        """The sorted names in a folder; empty when there is none."""
        raise NotImplementedError

    def resolve(self, path: str) -> str | None:
        """The canonical path of an existing file or folder, links resolved inside the root."""
        raise NotImplementedError

    def link(self, path: str) -> str | None:
        """The name that a link ends with, also where a dump does not hold what it points to; None for no link."""
        raise NotImplementedError


def read_text(tree: Tree, path: str) -> str | None:
    """A file's text without surrounding white space and NUL bytes, or None when it cannot be read."""
    data = tree.read_bytes(path)
    return None if data is None else data.decode("utf-8", "replace").strip("\0 \t\r\n")


class DirectoryTree(Tree):
    """A root that is a folder: "/" for the live host."""

    def __init__(self, root: str, live: bool = False) -> None:
        self.live = live
        self._root = root.rstrip("/") + "/"
        self._cache: dict[str, str | None] = {"": ""}
        #: Canonical path -> target of every link met so far, for a snapshot.
        self.links: dict[str, str] = {}

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes | None:
        folder, _, name = path.rpartition("/")
        where = self.resolve(folder)
        if where is None:
            return None
        try:
            # A dump may hold pipes (O_NONBLOCK) and links that point out of it (O_NOFOLLOW).
            handle = os.open(f"{self._root}{where}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            target = self.resolve(path)
            if target is None or target == f"{where}/{name}".lstrip("/"):
                return None
            return self.read_bytes(target, limit)
        try:
            return os.read(handle, limit)
        except OSError:
            return None
        finally:
            os.close(handle)

    def names(self, path: str) -> list[str]:
        where = self.resolve(path)
        if where is None:
            return []
        try:
            return sorted(os.listdir(self._root + where))  # noqa: PTH208 - a Path object a name costs too much here
        except OSError:
            return []

    def resolve(self, path: str) -> str | None:
        try:
            return self._resolve(path, MAX_LINKS)
        except ValueError:
            return None

    def link(self, path: str) -> str | None:
        self.resolve(path)
        folder, _, name = path.rpartition("/")
        target = self.links.get(f"{self.resolve(folder)}/{name}")
        return target.rpartition("/")[2] if target else None

    def _resolve(self, path: str, links: int) -> str | None:
        if path in self._cache:
            return self._cache[path]
        if path.count("/") > MAX_DEPTH:
            return None
        folder, _, name = path.rpartition("/")
        parent = self._resolve(folder, links)
        result: str | None = None
        if parent is None:
            result = None
        elif name in ("", "."):
            result = parent
        elif name == "..":
            result = parent.rpartition("/")[0]
        else:
            result = f"{parent}/{name}" if parent else name
            try:
                target = os.readlink(self._root + result)  # noqa: PTH115 - as above
            except OSError:
                if not os.path.lexists(self._root + result):
                    result = None
            else:
                self.links[result] = target
                result = None if links <= 0 else self._resolve(target.lstrip("/") if target[:1] == "/" else f"{parent}/{target}", links - 1)
        self._cache[path] = result
        return result


class MemoryTree(Tree):
    """A root held in memory, as read from a tarball: `files` maps paths to contents, `links` to link targets."""

    def __init__(self, files: dict[str, bytes], links: dict[str, str], folders: set[str]) -> None:
        self._files = files
        self._links = links
        self._cache: dict[str, str | None] = {"": ""}
        children: dict[str, set[str]] = {"": set()}
        for path in (*files, *links, *folders):
            while path:
                parent, _, name = path.rpartition("/")
                known = children.setdefault(parent, set())
                if name in known:
                    break
                known.add(name)
                path = parent
        for path in folders:
            children.setdefault(path, set())
        self._children = children

    def read_bytes(self, path: str, limit: int = MAX_FILE) -> bytes | None:
        data = self._files.get(path)
        if data is None:
            target = self.resolve(path)
            data = None if target is None else self._files.get(target)
        return None if data is None else data[:limit]

    def names(self, path: str) -> list[str]:
        target = self.resolve(path)
        return [] if target is None else sorted(self._children.get(target, ()))

    def resolve(self, path: str) -> str | None:
        return self._resolve(path, MAX_LINKS)

    def link(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        target = self._links.get(f"{self.resolve(folder)}/{name}")
        return target.rpartition("/")[2] if target else None

    def _resolve(self, path: str, links: int) -> str | None:
        if path in self._cache:
            return self._cache[path]
        # Walked without recursion: a member's path may have thousands of components.
        done = ""
        rest = path.split("/")[::-1]
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{name}" if done else name
            target = self._links.get(here)
            if target is not None:
                links -= 1
                if links < 0 or len(rest) > 1000:
                    self._cache[path] = None
                    return None
                if target[:1] == "/":
                    done = ""
                rest.extend(target.split("/")[::-1])
            elif here in self._files or here in self._children:
                done = here
            else:
                self._cache[path] = None
                return None
        self._cache[path] = done
        return done


def is_folder(path: str) -> bool:
    """True for a folder; False for anything else, a path with NUL bytes included."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return False

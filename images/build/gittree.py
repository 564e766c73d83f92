"""The git tree hash of a tar file: what `git archive` of a commit holds can be proved to be that commit's tree without its repository."""

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

# A tree maps a name to a tree below it, or to (mode, object id): the object model of gitformat-pack(5) and git-hash-object(1).
_Leaf = tuple[str, bytes]
_Node = dict[str, "_Node | _Leaf"]


def of_tar(path: Path, submodules: Sequence[str] = ()) -> str:
    """Tree hash (40 hexadecimal digits) of an uncompressed tar; tarfile.TarError for what is none.

    Git archives a submodule as an empty folder, so the one commit in `submodules` stands for each of these; otherwise they are left out.
    """
    root: _Node = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if member.isdir():
                _folder(root, parts)
            elif member.issym():
                _folder(root, parts[:-1])[parts[-1]] = ("120000", _object(b"blob", member.linkname.encode()))
            elif member.isreg():
                mode = "100755" if member.mode & 0o100 else "100644"
                stream = tar.extractfile(member)
                assert stream is not None
                _folder(root, parts[:-1])[parts[-1]] = (mode, _blob(stream, member.size))
            else:
                raise tarfile.TarError(f"{member.name} is neither file, folder nor symbolic link")
    return _tree(root, bytes.fromhex(submodules[0]) if len(submodules) == 1 else None).hex()


def _folder(node: _Node, parts: Sequence[str]) -> _Node:
    for part in parts:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            raise tarfile.TarError(f"{'/'.join(parts)} is a file and a folder")
        node = below
    return node


def _tree(node: _Node, submodule: bytes | None) -> bytes:
    rows = []
    for name, below in node.items():
        if isinstance(below, tuple):
            rows.append((name.encode(), *below))
        elif below:
            rows.append((name.encode() + b"/", "40000", _tree(below, submodule)))
        elif submodule:
            rows.append((name.encode() + b"/", "160000", submodule))
    # Git sorts a folder as if its name ended in a slash, and writes it without.
    text = b"".join(mode.encode() + b" " + name.rstrip(b"/") + b"\0" + identifier for name, mode, identifier in sorted(rows))
    return _object(b"tree", text)


def _object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content, usedforsecurity=False).digest()


def _blob(stream: IO[bytes], size: int) -> bytes:
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.digest()

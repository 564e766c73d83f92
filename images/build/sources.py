"""Local sources for a build (`--source deepep=PATH`): the pinned commit of a checkout, bare repository or tarball, as one tar file.

A tarball's header can claim any commit, and attributes change what git archives; what proves the content is its tree hash (`tree_of`).
"""

import hashlib
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from entrypoints.errors import UsageError
from images.command import probe, run

from .recipe import Recipe

# Path below the root to (mode, object id): the object model of gitformat-pack(5) and git-hash-object(1).
_Files = dict[tuple[str, ...], tuple[str, bytes]]


@dataclass(frozen=True)
class Pinned:
    """A part that is compiled from the source of one commit."""

    version: str
    url: str
    commit: str


def pinned(recipe: Recipe) -> dict[str, Pinned]:
    """Name to source of the parts that the recipe compiles: NVSHMEM, DeepEP, fmt."""
    parts = {}
    nvshmem, deepep = recipe.nvshmem, recipe.deepep
    if nvshmem and nvshmem.source == "source":
        parts["nvshmem"] = Pinned(nvshmem.version, str(nvshmem.url), str(nvshmem.commit))
    if deepep:
        parts["deepep"] = Pinned(deepep.tag or deepep.commit[:7], deepep.url, deepep.commit)
        if deepep.fmt_commit:
            parts["fmt"] = Pinned(deepep.fmt_commit[:7], str(deepep.fmt_url), deepep.fmt_commit)
    return parts


def parse(words: Sequence[str], recipe: Recipe) -> dict[str, Path]:
    """NAME=PATH words to paths; names are the recipe's parts that are fetched by commit."""
    parts = sorted(pinned(recipe))
    paths: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or name not in parts:
            hint = f"allowed: {', '.join(f'{part}=PATH' for part in parts) or f'none, recipe {recipe.name} fetches no source'}"
            raise UsageError(f"--source {word} is not allowed", hint=hint)
        if not Path(path).exists():
            raise UsageError("does not exist", where=f"--source {word}")
        paths[name] = Path(path).resolve()
    return paths


def git(repository: Path, *arguments: str) -> list[str]:
    """The command that asks a local repository for what its objects really are, whatever `git replace` says."""
    # safe.directory: the repository may belong to another user, and is only read.
    return ["git", "--no-replace-objects", "-c", "safe.directory=*", "-C", str(repository), *arguments]


def archive(name: str, path: Path, commit: str, target: Path) -> None:
    """Write the tree of `commit` to the tar file `target`. UsageError for a dirty tree, another commit or an unknown kind of file."""
    where = f"--source {name}={path}"
    if path.is_file():
        _from_tarball(path, commit, target, where)
        return
    if probe(git(path, "rev-parse", "--git-dir")) is None:
        hint = "a checkout, a bare repository, or `git archive` output"
        raise UsageError("not a git repository and not a tarball", where=where, hint=hint)
    if probe(git(path, "cat-file", "-e", f"{commit}^{{commit}}")) is None:
        raise UsageError(f"does not contain the pinned commit {commit}", where=where, hint="fetch it there, or change the recipe")
    is_checkout = (probe(git(path, "rev-parse", "--is-inside-work-tree")) or "").strip() == "true"
    if is_checkout and probe(git(path, "status", "--porcelain")):
        raise UsageError("has uncommitted changes, which would not be built", where=where, hint="commit or remove them")
    run(git(path, "archive", "--format=tar", f"--output={target}", commit), where=where)


def _from_tarball(path: Path, commit: str, target: Path, where: str) -> None:
    """A tar of any compression; `git archive` leaves the commit id in its header, and that is what is checked."""
    try:
        with tarfile.open(path) as tar:
            named = tar.pax_headers.get("comment", "none")
            if named != commit:
                hint = "make it with git archive of that commit"
                raise UsageError(f"holds commit {named}, the recipe pins {commit}", where=where, hint=hint)
            uncompressed = cast(IO[bytes], tar.fileobj)
            uncompressed.seek(0)
            with target.open("wb") as out:
                shutil.copyfileobj(uncompressed, out)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        target.unlink(missing_ok=True)
        raise UsageError(f"not a tarball that can be read: {error}", where=where, hint="make it again") from None


def tree_of(path: Path, submodules: Sequence[str] = ()) -> str:
    """Git's tree hash (40 hexadecimal digits) of an uncompressed tar, without its repository. Raises tarfile.TarError.

    Git archives a submodule as an empty folder, so the one commit in `submodules` stands for each of these; otherwise they are left out.
    """
    files: _Files = {}
    folders = set()
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
            stream = tar.extractfile(member) if member.isreg() else None
            if stream:
                files[parts] = ("100755" if member.mode & 0o100 else "100644", _object_id(b"blob", stream.read()))
            elif member.issym():
                files[parts] = ("120000", _object_id(b"blob", member.linkname.encode()))
            elif member.isdir():
                folders.add(parts)
            else:
                raise tarfile.TarError(f"{member.name} is neither file, folder nor symbolic link")
    if len(submodules) == 1:
        parents = {parts[:depth] for parts in (*files, *folders) for depth in range(len(parts))}
        files |= dict.fromkeys(folders - parents, ("160000", bytes.fromhex(submodules[0])))
    return _tree_id(files).hex()


def _tree_id(files: _Files) -> bytes:
    rows = []
    below: dict[str, _Files] = {}
    for (name, *rest), (mode, identifier) in files.items():
        if rest:
            below.setdefault(name, {})[tuple(rest)] = (mode, identifier)
        else:
            rows.append((name, mode, identifier))
    rows += [(name, "40000", _tree_id(inner)) for name, inner in below.items()]
    # Git sorts a folder (and a submodule) as if its name ended in a slash.
    rows.sort(key=lambda row: row[0].encode() + (b"/" if row[1] in ("40000", "160000") else b""))
    return _object_id(b"tree", b"".join(f"{mode} {name}\0".encode() + identifier for name, mode, identifier in rows))


def _object_id(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content, usedforsecurity=False).digest()

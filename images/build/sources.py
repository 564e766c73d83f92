"""Local sources for a build (`--source deepep=PATH`): the pinned commit of a checkout, bare repository or tarball, as one tar file."""

import bz2
import gzip
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entrypoints.errors import EngineError, UsageError

from . import gittree
from .recipe import Recipe


def parse(words: Sequence[str], recipe: Recipe) -> dict[str, Path]:
    """NAME=PATH words to paths; names are the recipe's parts that are fetched by commit."""
    allowed = commits(recipe)
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or name not in allowed:
            hint = f"allowed: {', '.join(f'{part}=PATH' for part in allowed) or f'none, recipe {recipe.name} fetches no source'}"
            raise UsageError(f"--source {word} is not allowed", hint=hint)
        if not Path(path).exists():
            raise UsageError("does not exist", where=f"--source {word}")
        found[name] = Path(path).resolve()
    return found


def commits(recipe: Recipe) -> dict[str, str]:
    """Part to the commit that the recipe pins."""
    parts = {"deepep": recipe.deepep, "nvshmem": recipe.nvshmem if recipe.nvshmem and recipe.nvshmem.source == "source" else None}
    pinned = {name: str(part.commit) for name, part in parts.items() if part}
    if recipe.deepep and recipe.deepep.fmt_commit:
        pinned["fmt"] = recipe.deepep.fmt_commit
    return pinned


def archive(name: str, path: Path, commit: str, target: Path) -> None:
    """Write the tree of `commit` to the tar file `target`. UsageError for a dirty tree, another commit or an unknown kind of file."""
    if path.is_file():
        _from_tarball(name, path, commit, target)
        return
    where = f"--source {name}={path}"
    if git(path, "rev-parse", "--git-dir").returncode != 0:
        raise UsageError("is no git repository and no tarball", where=where, hint="a checkout, a bare repository, or `git archive` output")
    if git(path, "cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        raise UsageError(f"does not contain the pinned commit {commit}", where=where, hint="fetch it there, or change the recipe")
    if git(path, "rev-parse", "--is-inside-work-tree").stdout.strip() == "true" and git(path, "status", "--porcelain").stdout.strip():
        raise UsageError("has uncommitted changes, which would not be built", where=where, hint="commit or remove them")
    done = git(path, "archive", "--format=tar", f"--output={target}", commit)
    if done.returncode != 0:
        raise UsageError(f"git archive failed: {done.stderr.strip()}", where=where)


def _from_tarball(name: str, path: Path, commit: str, target: Path) -> None:
    """A tar of any compression; `git archive` leaves the commit id in its header, and that is what is checked."""
    where = f"--source {name}={path}"
    try:
        with tarfile.open(path) as source:
            found = source.pax_headers.get("comment", "none")
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"is no tarball: {error}", where=where) from None
    if found != commit:
        raise UsageError(f"holds commit {found}, the recipe pins {commit}", where=where, hint="make it with git archive of that commit")
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with path.open("rb") as stream:
        opener = openers.get(stream.read(2), open)
    try:
        with opener(path, "rb") as source_stream, target.open("wb") as target_stream:
            shutil.copyfileobj(source_stream, target_stream)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        target.unlink(missing_ok=True)
        raise UsageError(f"cannot be unpacked: {error}", where=where, hint="make it again") from None


def check_tree(name: str, tar: Path, lock: Mapping[str, Any] | None) -> None:
    """Compare what `archive` wrote with the tree hash in the lock; EngineError (exit 10) names both, and the file goes.

    A tarball's header can claim any commit, and attributes change what git archives: the tree hash is of the content itself.
    """
    locked: Mapping[str, Mapping[str, str]] = (lock or {}).get("git", {})
    want = locked.get(name, {}).get("tree")
    if not want:
        return
    try:
        found = gittree.of_tar(tar, [locked["fmt"]["commit"]] if name == "deepep" and "fmt" in locked else [])
    except tarfile.TarError as error:
        found = f"none ({error})"
    if found != want:
        tar.unlink(missing_ok=True)
        hint = "give a repository, or git archive of that commit; attributes such as export-subst must not change what it holds"
        where = f"--source {name}"
        raise EngineError(f"{name} {locked[name]['commit'][:12]} has tree {found}, the lock says {want}", where=where, hint=hint)


def git(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Ask a local repository for what its objects really are, whatever `git replace` says."""
    # safe.directory: the repository may belong to another user, and is only read.
    command = ["git", "--no-replace-objects", "-c", "safe.directory=*", "-C", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True)

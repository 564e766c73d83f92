"""`lock`: ask mirror, index and repositories what a recipe means today, and write that down."""

import platform
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say, write_atomically

from . import base, debian, lock, wheels
from .recipe import Recipe
from .sources import commits, git


def write(recipe: Recipe, update: bool = False, folder: Path = lock.LOCKS, repositories: Mapping[str, Path] | None = None) -> Path:
    """Write the recipe's lock.json. Without `update` a lock that fits the recipe stays as it is. Nothing is written when a part fails.

    `repositories` are local ones to read commits from instead of their url.
    """
    path = folder / recipe.name / "lock.json"
    if path.exists() and not update and _fits(recipe, folder):
        say(f"{path.name} of {recipe.name} fits the recipe; --update resolves it again")
        return path
    if update or any(not (path.parent / name).exists() for name in wheels.requirements(recipe)):
        wheels.compile_locks(recipe, folder)
    document = resolve(recipe, folder, repositories)
    write_atomically(path, lock.text(document))
    count = len(document["base_packages"]) + sum(map(len, document["packages"].values()))
    say(f"locked {recipe.name}: {count} Debian packages, {len(document['wheels'])} wheel lists, {len(document['git'])} commits")
    say(f"lock {lock.digest(document)}")
    return path


def resolve(recipe: Recipe, folder: Path = lock.LOCKS, repositories: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """The lock as document: Debian packages over a base bootstrapped now, wheel lists, commits and tools."""
    document: dict[str, Any] = {"schema": lock.SCHEMA, "recipe": recipe.name, "asked": lock.asked(recipe)}
    document |= {
        "wheels": lock.wheel_files(recipe, folder),
        "git": _commits(recipe, repositories or {}),
        "tools": _tools(),
        "packages": {},
        "base_packages": {},
    }
    document["base"] = {"name": recipe.base.name, "digest": recipe.base.digest}
    if recipe.base.kind != "debian":
        say(f"base {recipe.base.name} is pinned by its digest; what apt adds to it is not locked")
        return document
    with debian.archive(str(recipe.base.suite)) as archive, TemporaryDirectory(prefix="epbox-base-") as work:
        tarball = Path(work, "base.tar")
        say(f"bootstrapping {recipe.base.title}")
        base.bootstrap(recipe.base, tarball)
        status = read_status(tarball)
        document["archive"] = archive.dates()
        document["base"] |= {"digest": f"sha256:{base.sha256(tarball)}"}
        have = debian.installed(status)
        offered = archive.offered(have)
        for name, version in sorted(have.items()):
            package = next((each for each in offered.get(name, ()) if each.version == version), None)
            if package is None:
                raise EngineError(f"the mirror changed while it was read: {name} {version} is gone", hint="run it again")
            document["base_packages"][name] = package.document()
        for stage, names in document["asked"].items():
            document["packages"][stage] = {each.name: each.document() for each in archive.resolve(status, names)}
    return document


def read_status(tarball: Path) -> str:
    """The dpkg status of a root file system tarball."""
    with tarfile.open(tarball) as tar:
        for name in ("./var/lib/dpkg/status", "var/lib/dpkg/status"):
            try:
                stream = tar.extractfile(name)
            except KeyError:
                continue
            if stream:
                return stream.read().decode()
    raise EngineError("has no dpkg status", where=str(tarball))


def _fits(recipe: Recipe, folder: Path) -> bool:
    try:
        lock.check(recipe, lock.load(recipe, folder), folder)
    except Exception as error:  # any reason is a reason to resolve again
        say(f"{recipe.name}: {error}")
        return False
    return True


def _commits(recipe: Recipe, repositories: Mapping[str, Path]) -> dict[str, dict[str, str | None]]:
    parts = {"deepep": recipe.deepep, "nvshmem": recipe.nvshmem}
    urls = {name: getattr(part, "url", None) for name, part in parts.items()}
    urls["fmt"] = recipe.deepep.fmt_url if recipe.deepep else None
    found = {}
    for name, commit in commits(recipe).items():
        tree = _local_tree(repositories[name], commit) if name in repositories else _tree(str(urls[name]), commit)
        found[name] = {"url": urls[name], "commit": commit, "tree": tree}
    return found


def _local_tree(repository: Path, commit: str) -> str:
    """The tree hash of a commit in a repository of this host."""
    done = git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
    if done.returncode != 0:
        raise UsageError(f"is no git repository that contains commit {commit}", where=str(repository))
    return done.stdout.strip()


def _tree(url: str, commit: str) -> str | None:
    """The tree hash of a commit, fetched without its files; None (said aloud) where the repository does not answer."""
    with TemporaryDirectory(prefix="epbox-git-") as work:
        subprocess.run(["git", "init", "--quiet", "--bare", work], check=True)
        fetch = ["git", "-C", work, "fetch", "--quiet", "--depth", "1", "--filter=tree:0", url, commit]
        if subprocess.run(fetch, capture_output=True, timeout=300).returncode != 0:
            say(f"warning: {url} does not answer: commit {commit[:12]} is locked without its tree hash; name a copy with --source")
            return None
        return _local_tree(Path(work), commit)


def _tools() -> Mapping[str, str]:
    """Versions of what resolved this lock and made its base."""
    found = {"python": platform.python_version()}
    for name in ("apt-get", "mmdebstrap"):
        try:
            text = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
        except OSError:
            continue
        version = re.search(r"\d+(\.\d+)+", text)
        found[name] = version[0] if version else "unknown"
    return found

"""`lock`: ask mirror, index and repositories what a recipe means today, and write that down."""

import platform
import re
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError, EPBoxError, UsageError
from entrypoints.output import say, write_atomically
from images.command import probe, run

from . import base, debian
from . import digest as digests
from . import lock as locks
from .lock import Commit, Lock, LockedBase
from .recipe import Recipe
from .sources import Pinned, git, pinned

#: What nvcc, NVSHMEM and DeepEP compile with: the compiler, headers, the runtime, NVML and NVTX.
TOOLKIT = "nvcc,cudart,cccl,crt,nvvm,nvml,nvtx"


def write(recipe: Recipe, update: bool = False, folder: Path = locks.LOCKS, repositories: Mapping[str, Path] | None = None) -> Path:
    """Write the recipe's lock.json. Without `update` a lock that fits the recipe stays as it is. Nothing is written when a part fails.

    `repositories` are local ones to read commits from instead of their url.
    """
    path = folder / recipe.name / "lock.json"
    if path.exists() and not update:
        try:
            locks.check(recipe, locks.load(recipe, folder), folder)
            say(f"{path.name} of {recipe.name} fits the recipe; --update resolves it again")
            return path
        except EPBoxError as error:  # any reason is a reason to resolve again
            say(f"{recipe.name}: {error}")
    if update or any(not (path.parent / name).exists() for name in wheel_requirements(recipe)):
        compile_wheel_lists(recipe, folder)
    lock = resolve(recipe, folder, repositories)
    write_atomically(path, locks.text(lock))
    count = len(lock.base_packages) + sum(map(len, lock.packages.values()))
    say(f"locked {recipe.name}: {count} Debian packages, {len(lock.wheels)} wheel lists, {len(lock.git)} commits")
    say(f"lock {locks.digest(lock)}")
    return path


def resolve(recipe: Recipe, folder: Path = locks.LOCKS, repositories: Mapping[str, Path] | None = None) -> Lock:
    """Make the lock: Debian packages over a base bootstrapped now, wheel lists, commits and tools."""
    lock = Lock(
        recipe=recipe.name,
        base=LockedBase(recipe.base.name, recipe.base.digest or ""),
        asked=locks.requested_packages(recipe),
        wheels=locks.wheel_lists(recipe, folder),
        git={name: Commit(part.url, part.commit, _tree(part, (repositories or {}).get(name))) for name, part in pinned(recipe).items()},
        tools=_tools(),
    )
    if recipe.base.kind != "debian":
        say(f"base {recipe.base.name} is pinned by its digest; what apt adds to it is not locked")
        return lock
    with debian.archive(str(recipe.base.suite)) as mirror, TemporaryDirectory(prefix="epbox-base-") as work:
        tarball = Path(work, "base.tar")
        say(f"bootstrapping {recipe.base.title}")
        base.bootstrap(recipe.base, tarball)
        with tarfile.open(tarball) as tar:
            stream = tar.extractfile("./var/lib/dpkg/status")
            assert stream is not None
            status = stream.read().decode()
        versions = debian.installed(status)
        base_packages = mirror.exact(versions)
        gone = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if name not in base_packages)
        if gone:
            raise EngineError(f"the mirror changed while it was read: {gone} is gone", hint="run it again")
        return replace(
            lock,
            base=LockedBase(recipe.base.name, digests.of_file(tarball)),
            base_packages=base_packages,
            packages={stage: mirror.resolve(status, names) for stage, names in lock.asked.items()},
            archive=mirror.dates(),
        )


def wheel_requirements(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """File name to what it shall satisfy; exact versions where the recipe has them. Empty for a recipe without wheels."""
    if not (recipe.torch and recipe.torch.source == "wheel" and recipe.cuda):
        return {}
    major = recipe.cuda.version.split(".")[0]
    torch = [f"torch=={recipe.torch.version}", "numpy"]  # DeepEP's tests import numpy
    if recipe.nvshmem and recipe.nvshmem.source == "wheel":
        torch.append(f"nvidia-nvshmem-cu{major}=={recipe.nvshmem.version}")
    if recipe.nccl:
        torch.append(f"nvidia-nccl-cu{major}=={recipe.nccl.version}")
    files = {"torch.txt": tuple(torch)}
    if recipe.cuda.source == "wheel":
        files["toolkit.txt"] = (f"cuda-toolkit[{TOOLKIT}]=={recipe.cuda.version}.*",)
    return files


def uv_command(recipe: Recipe, wanted: Path, overrides: Path, target: Path) -> list[str]:
    """uv's call for one file. Torch pins NCCL and NVSHMEM: the recipe's versions override that; a source build leaves the wheel out."""
    major = recipe.cuda.version.split(".")[0] if recipe.cuda else ""
    words = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", str(wanted), "--output-file", str(target)]
    words += ["--python-version", recipe.python.version, "--python-platform", "x86_64-manylinux_2_28", "--no-python-downloads"]
    words += ["--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate", "--override", str(overrides)]
    if recipe.nvshmem and recipe.nvshmem.source == "source":
        words += ["--no-emit-package", f"nvidia-nvshmem-cu{major}"]
    return words


def compile_wheel_lists(recipe: Recipe, folder: Path = locks.LOCKS) -> None:
    """Renew the hash-locked requirement files of a recipe with uv; a file is replaced only by a whole one. Raises EngineError."""
    for name, lines in wheel_requirements(recipe).items():
        target = folder / recipe.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="epbox-wheels-", dir=target.parent) as work:
            wanted, overrides, fresh = Path(work, "wanted.in"), Path(work, "overrides.txt"), Path(work, name)
            wanted.write_text("\n".join(lines) + "\n")
            overrides.write_text("".join(f"{line}\n" for line in lines if line.startswith("nvidia-")))
            if target.exists():
                fresh.write_text(target.read_text())  # uv keeps what still fits
            run(uv_command(recipe, wanted, overrides, fresh), where=f"{recipe.name}/{name}: {', '.join(lines)}")
            fresh.replace(target)


def _tree(part: Pinned, repository: Path | None) -> str | None:
    """Git's hash of what a commit holds, read from a repository of this host or fetched from the part's url without its files.

    None (said aloud) where the url does not answer. Raises UsageError for a local repository without the commit.
    """
    with TemporaryDirectory(prefix="epbox-git-") as work:
        if repository is None:
            repository = Path(work)
            run(["git", "init", "--quiet", "--bare", work])
            fetch = ["git", "-C", work, "fetch", "--quiet", "--depth", "1", "--filter=tree:0", part.url, part.commit]
            if probe(fetch, timeout_s=300) is None:
                words = f"commit {part.commit[:12]} is locked without its tree hash; name a copy with --source"
                say(f"warning: {part.url} does not answer: {words}")
                return None
        tree = probe(git(repository, "rev-parse", "--verify", "--quiet", f"{part.commit}^{{tree}}"))
    if tree is None:
        raise UsageError(f"not a git repository that contains commit {part.commit}", where=str(repository))
    return tree.strip()


def _tools() -> Mapping[str, str]:
    """Versions of what resolved this lock and made its base."""
    versions = {"python": platform.python_version()}
    for name in ("apt-get", "mmdebstrap"):
        if (text := probe([name, "--version"])) is not None:
            version = re.search(r"\d+(\.\d+)+", text)
            versions[name] = version[0] if version else "unknown"
    return versions

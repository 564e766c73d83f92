"""Bases: Debian bootstrapped from packages (no registry needed), or a registry image by digest."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from entrypoints.errors import EngineError
from entrypoints.output import say

from . import debian, hostconfig, hostpackages
from .engine import Engine
from .recipe import Base

LAYOUT = 3  # raise when bootstrap() makes other files of the same packages: cached bases are named by it
_EXCLUDED = ("doc", "groff", "info", "linda", "lintian", "locale", "man")
_DPKG = [f"path-exclude=/usr/share/{name}/*" for name in _EXCLUDED] + ["path-include=/usr/share/doc/*/copyright"]
# What differs from one bootstrap to the next or belongs to the host. Paths are relative to the new root.
_HOST_FILES = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/preferences.d/epbox",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
)


@dataclass(frozen=True)
class ReadyBase:
    """A base that the engine holds: what FROM says, and the sha256 of its content (registry digest or root file system tarball)."""

    reference: str
    digest: str
    drift: tuple[str, ...] = ()  # locked packages that the mirror had no more when it was made: "NAME LOCKED -> OFFERED"


def reference(base: Base, lock: Mapping[str, Any] | None = None) -> str:
    """What FROM says: name@digest, or the local name of a bootstrapped base, which hashes all that decides its content."""
    if base.kind == "registry":
        return f"{base.image}@{base.digest}"
    content = {**asdict(base), "title": "", "layout": LAYOUT, "locked": (lock or {}).get("base_packages")}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return f"epbox-base:{base.suite}-{key}"


def ensure(base: Base, engine: Engine, lock: Mapping[str, Any] | None = None, fresh: bool = False, strict: bool = False) -> ReadyBase:
    """The base in the engine: found, or bootstrapped and imported. A registry base is left to the build to pull by its digest."""
    import docker

    name = reference(base, lock)
    if base.kind == "registry":
        return ReadyBase(name, str(base.digest))
    client = engine.client()
    if not fresh:
        try:
            labels = client.images.get(name).labels
            drifted = tuple(line for line in labels.get("epbox.base.drift", "").split(", ") if line)
            return ReadyBase(name, str(labels["epbox.base.digest"]), drifted)
        except (docker.errors.ImageNotFound, KeyError):
            pass
    say(f"base {name}: bootstrapping {base.title} from packages")
    with TemporaryDirectory(prefix="epbox-base-") as folder:
        tarball = Path(folder, "base.tar")
        gone, more = _check_mirror(base, lock, strict)
        bootstrap(base, tarball, (lock or {}).get("base_packages", {}), more)
        digest = f"sha256:{sha256(tarball)}"
        drift = (*gone, *_check_bytes(digest, lock, gone, strict))
        repository, _, tag = name.partition(":")
        labels = {"epbox.base": base.name, "epbox.base.digest": digest, "org.opencontainers.image.title": base.title}
        labels |= {"epbox.base.drift": ", ".join(drift)}
        changes = ["LABEL " + " ".join(f"{key}={json.dumps(value)}" for key, value in labels.items()), 'CMD ["bash"]']
        with tarball.open("rb") as stream:
            answer = client.api.import_image_from_data(stream, repository=repository, tag=tag, changes=changes)
    if "errorDetail" in answer:
        raise EngineError(f"the engine does not import the base: {answer.strip()[-200:]}")
    return ReadyBase(name, digest, drift)


def _check_mirror(base: Base, lock: Mapping[str, Any] | None, strict: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Locked base packages that are nowhere any more, and the apt sources that the others need beside the mirror.

    EngineError for a package with another hash, or when `strict` and any is gone.
    """
    locked = (lock or {}).get("base_packages")
    if not lock or not locked:
        return (), ()
    more: tuple[str, ...] = ()
    with debian.archive(str(base.suite)) as archive:
        gone = debian.drift(locked, archive.offered(locked))
    if gone and hostconfig.snapshot_answers():
        more = hostconfig.snapshot_sources(lock["archive"])
        with debian.archive(str(base.suite), more) as archive:
            gone = debian.drift(locked, archive.offered(locked))
    if gone and strict:
        raise EngineError(f"the mirror no longer has what the lock names: {', '.join(gone)}", where="--locked", hint="./inv lock --update")
    return gone, more


def _check_bytes(digest: str, lock: Mapping[str, Any] | None, gone: Sequence[str], strict: bool) -> tuple[str, ...]:
    """Equal packages should give the locked bytes; another mmdebstrap may not, which is said instead of hidden."""
    want = (lock or {}).get("base", {}).get("digest")
    if not want or gone or digest == want:
        return ()
    what = f"base of the locked packages has other bytes ({digest[:19]} instead of {want[:19]})"
    if strict:
        raise EngineError(what, where="--locked", hint=f"the lock was made with {lock['tools'] if lock else ''}")
    return (what,)


def bootstrap(base: Base, tarball: Path, locked: Mapping[str, Mapping[str, str]] | None = None, more: Sequence[str] = ()) -> None:
    """Write a root file system tarball with mmdebstrap; same packages, same bytes. EngineError when that is not possible."""
    if shutil.which("mmdebstrap") is None:
        hostpackages.install(["mmdebstrap", "debian-archive-keyring"], "bootstrapping a Debian base")
    mirrors = hostconfig.debian_mirrors()
    suite = str(base.suite)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--include={','.join(base.packages)}"]
    command += [f"--dpkgopt={option}" for option in _DPKG]
    command += [f"--aptopt={option.rstrip(';')}" for option in hostconfig.apt_options()]
    bundle = hostconfig.ca_bundle()
    if bundle:
        command.append(f'--aptopt=Acquire::https::CAInfo "{bundle}"')
    command += [f"--customize-hook={hook}" for hook in _hooks(suite)]
    command += [suite, str(tarball), *mirrors.sources(suite), *more]
    pins = tarball.with_suffix(".pins")
    pins.write_text("".join(f"Package: {n}\nPin: version {p['version']}\nPin-Priority: 1001\n\n" for n, p in (locked or {}).items()))
    command[1:1] = [f'--setup-hook=mkdir -p "$1/etc/apt/preferences.d"; cp {shlex.quote(str(pins))} "$1/etc/apt/preferences.d/epbox"']
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(base.epoch),
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
    }
    # umask: hooks and maintainer scripts make files, whose modes shall not be the caller's.
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, umask=0o022
    )
    if done.returncode != 0:
        tail = " | ".join(line for line in done.stderr.strip().splitlines()[-4:])
        hint = "is a Debian mirror reachable? EPBOX_DEBIAN_MIRROR names one; proxies are taken from apt and the environment"
        raise EngineError(f"mmdebstrap failed: {tail}", hint=hint)


def _hooks(suite: str) -> list[str]:
    """Shell lines that mmdebstrap runs with the new root as $1: the public archive as apt source, nothing of this host, no logs."""
    sources = "\\n".join(hostconfig.Mirrors().sources(suite))
    return [
        f"printf '{sources}\\n' > \"$1/etc/apt/sources.list\"",
        "rm -f " + " ".join(f'"$1/{path}"' for path in _HOST_FILES),
        'mv "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/docs"',
        'find "$1" -xdev -type f -perm /6000 -exec chmod a-s {} +',  # root needs no setuid program, and nobody else shall become root
        # apt gives its folders to _apt only where that user can reach the new root, which depends on the host's TMPDIR.
        'for d in var/lib/apt/lists var/cache/apt/archives; do [ ! -d "$1/$d/partial" ] || chroot "$1" chown _apt:root "/$d/partial"; done',
        'find "$1/var/log" -type f -delete; rm -f "$1"/var/lib/dpkg/*-old "$1"/var/cache/debconf/*-old',
    ]


def sha256(path: Path) -> str:
    """A file's sha256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

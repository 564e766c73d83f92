"""Bases: Debian bootstrapped from packages (no registry needed), or a registry image by digest."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError
from entrypoints.output import say
from images.command import run

from . import debian, hostconfig
from . import digest as digests
from .debian import Package
from .engine import Engine
from .lock import Lock
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
_FIXED_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True)
class ReadyBase:
    """A base that the engine holds: what FROM says, and the digest of its content (registry digest, or of the root file system tarball)."""

    reference: str
    digest: str
    drift: tuple[str, ...] = ()  # locked packages that the mirror had no more when it was made: "NAME LOCKED -> OFFERED"


def reference(base: Base, lock: Lock | None = None) -> str:
    """Return what FROM says: name@digest, or the local name of a bootstrapped base, which hashes all that decides its content."""
    if base.kind == "registry":
        return f"{base.image}@{base.digest}"
    locked = {name: asdict(package) for name, package in lock.base_packages.items()} if lock else None
    content = {**asdict(base), "title": "", "layout": LAYOUT, "locked": locked}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return f"epbox-base:{base.suite}-{key}"


def ensure(base: Base, engine: Engine, lock: Lock | None = None, fresh: bool = False, strict: bool = False) -> ReadyBase:
    """Return the base that the engine has, or bootstrap and import it. A registry base is left to the build to pull by its digest.

    `fresh` bootstraps it again, `strict` makes drift from the lock an EngineError.
    """
    import docker

    name = reference(base, lock)
    if base.kind == "registry":
        return ReadyBase(name, str(base.digest))
    if not fresh:
        try:
            labels = engine.client().images.get(name).labels
            drifted = tuple(line for line in labels.get("epbox.base.drift", "").split(", ") if line)
            return ReadyBase(name, str(labels["epbox.base.digest"]), drifted)
        except (docker.errors.ImageNotFound, KeyError):
            pass
    say(f"base {name}: bootstrapping {base.title} from packages")
    return _make(base, name, engine, lock, strict)


def _make(base: Base, name: str, engine: Engine, lock: Lock | None, strict: bool) -> ReadyBase:
    drift: tuple[str, ...] = ()
    snapshot: tuple[str, ...] = ()
    if lock:
        drift = _missing_packages(base, lock)
        if drift and hostconfig.snapshot_answers():
            snapshot = hostconfig.snapshot_sources(lock.archive)
            drift = _missing_packages(base, lock, snapshot)
        if drift and strict:
            problem = f"the mirror no longer has what the lock names: {', '.join(drift)}"
            raise EngineError(problem, where="--locked", hint="./inv lock --update")
    with TemporaryDirectory(prefix="epbox-base-") as folder:
        tarball = Path(folder, "base.tar")
        bootstrap(base, tarball, lock.base_packages if lock else {}, snapshot)
        digest = digests.of_file(tarball)
        if lock and lock.base.digest and not drift and digest != lock.base.digest:
            # Equal packages should give the locked bytes; another mmdebstrap may not, which is said instead of hidden.
            drift = (f"base of the locked packages has other bytes ({digest[:19]} instead of {lock.base.digest[:19]})",)
            if strict:
                raise EngineError(drift[0], where="--locked", hint=f"the lock was made with {dict(lock.tools)}")
        labels = {"epbox.base": base.name, "epbox.base.digest": digest, "org.opencontainers.image.title": base.title}
        labels |= {"epbox.base.drift": ", ".join(drift)}
        changes = ["LABEL " + " ".join(f"{key}={json.dumps(value)}" for key, value in labels.items()), 'CMD ["bash"]']
        repository, _, tag = name.partition(":")
        with tarball.open("rb") as stream:
            reply = engine.client().api.import_image_from_data(stream, repository=repository, tag=tag, changes=changes)
    if "errorDetail" in reply:
        raise EngineError(f"the engine does not import the base: {reply.strip()[-200:]}")
    return ReadyBase(name, digest, drift)


def _missing_packages(base: Base, lock: Lock, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Base packages of the lock that the mirror (and `more` apt sources) has no more. EngineError for one with another hash."""
    with debian.archive(str(base.suite), more) as mirror:
        return debian.drift(lock.base_packages, mirror.offered(lock.base_packages))


def bootstrap(base: Base, tarball: Path, locked: Mapping[str, Package] | None = None, more: Sequence[str] = ()) -> None:
    """Write a root file system tarball with mmdebstrap; same packages, same bytes. EngineError when that is not possible.

    `locked` packages come in their locked versions; `more` are further apt sources.
    """
    if shutil.which("mmdebstrap") is None:
        hostconfig.install(["mmdebstrap", "debian-archive-keyring"], "bootstrapping a Debian base")
    suite = str(base.suite)
    pins = tarball.with_suffix(".pins")
    pins.write_text("".join(f"Package: {n}\nPin: version {p.version}\nPin-Priority: 1001\n\n" for n, p in (locked or {}).items()))
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--include={','.join(base.packages)}"]
    command += [f'--setup-hook=mkdir -p "$1/etc/apt/preferences.d"; cp {shlex.quote(str(pins))} "$1/etc/apt/preferences.d/epbox"']
    command += [f"--dpkgopt={option}" for option in _DPKG]
    command += [f"--aptopt={option.rstrip(';')}" for option in hostconfig.apt_options(hostconfig.ca_bundle())]
    command += [f"--customize-hook={hook}" for hook in _hooks(suite)]
    command += [suite, str(tarball), *hostconfig.debian_mirrors().sources(suite), *more]
    environment = {**os.environ, **_FIXED_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(base.epoch)}
    hint = "is a Debian mirror reachable? EPBOX_DEBIAN_MIRROR names one; proxies are taken from apt and the environment"
    # umask: hooks and maintainer scripts make files, whose modes shall not be the caller's.
    run(command, env=environment, umask=0o022, hint=hint)


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

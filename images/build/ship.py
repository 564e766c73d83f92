"""Taking a built image elsewhere: into one file, or to a registry.

skopeo uploads an OCI archive as it is; an engine would push layers of its own, with another digest than the one that `verify` proves.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say
from images.command import CommandFailed, run

from . import hostconfig, oci, reference
from .engine import Engine
from .image import Image, epoch

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?/")
#: Pattern of skopeo's message to what helps.
_HINTS = {
    "unauthorized|authentication required|denied|no basic auth": "log in (docker login or skopeo login) as one who may push there",
    "HTTP response to HTTPS client": "it speaks plain HTTP: say insecure = true for it in registries.conf(5)",
    "certificate|x509": "its certificate is not trusted here: SSL_CERT_FILE names a bundle",
    "unknown flag": "a newer skopeo is needed (1.9 of Debian 12 will do): this one cannot leave layers as they are",
    "no such host|connection refused|i/o timeout|no route|proxyconnect": "check the name after --tag, and proxies",
}


def save(image: Image, path: Path) -> oci.Layout:
    """Write the image as OCI layout archive whose bytes depend on its files alone (oci.py); the file appears only when it is whole."""
    layout = export(image.engine, image.id, path, image.name)
    say(f"wrote {path} ({path.stat().st_size >> 20} MiB), digest {layout.digest}")
    return layout


def export(engine: Engine, image: str, path: Path, name: str) -> oci.Layout:
    """Write an image of the engine, by name or id, as normalised OCI archive; EngineError when it is not there or the disk is full."""
    import docker
    import requests

    try:
        with TemporaryDirectory(dir=path.resolve().parent, prefix=f".{path.name}.") as folder:
            raw = Path(folder, "export.tar")
            stored = engine.client().images.get(image)
            with raw.open("wb") as stream:
                for block in stored.save(chunk_size=1 << 20):
                    stream.write(block)
            return oci.normalise(raw, path, created(stored.labels), name, newest_file(stored.labels))
    except docker.errors.ImageNotFound:
        raise EngineError("the engine has no such image", where=image, hint="./inv build makes one") from None
    except (OSError, docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"cannot write the archive: {error}", where=str(path)) from None


def created(labels: Mapping[str, str]) -> int:
    """The time in UTC seconds that the image says it has, so that its digest does not depend on when it is exported."""
    try:
        return int(datetime.fromisoformat(labels["org.opencontainers.image.created"].replace("Z", "+00:00")).timestamp())
    except (KeyError, ValueError):
        return epoch()


def newest_file(labels: Mapping[str, str]) -> int | None:
    """The label epbox.newest-file: the time that no file of a reproducible image is younger than; None without it.

    It is the base's, not the commit's: a layer out of the cache may be older than the commit, and a new build's files are all younger.
    """
    value = labels.get("epbox.newest-file", "")
    return int(value) if value.isdecimal() else None


def require_registry(name: str | None) -> None:
    """Before a build that shall be pushed: UsageError unless the name names a registry; skopeo is installed where we may."""
    if "/" not in (name or ""):
        raise UsageError(f"{name or 'the default name'} names no registry", where="--push", hint="give one: --tag REGISTRY/NAME:TAG")
    if "@" in (name or ""):
        raise UsageError(f"{name} names a digest", where="--push", hint="a tag names what is pushed; its digest is printed")
    if shutil.which("skopeo") is None:
        hostconfig.install(["skopeo"], "pushing an image as it was verified")


def push(image: Image, saved: oci.Layout | None = None) -> str:
    """Push the normalised image, whose digest `verify` proves, and return name@digest, the only reference that always means these bytes.

    `saved` is what `save` has written already.
    """
    if saved:
        return upload(saved, image.name)
    with TemporaryDirectory(prefix="epbox-push-") as folder:
        return upload(export(image.engine, image.id, Path(folder, "image.tar"), image.name), image.name)


def upload(layout: oci.Layout, name: str) -> str:
    """Upload the archive unchanged and return name@digest, with the digest of the archive. EngineError when the registry refuses."""
    require_registry(name)
    with TemporaryDirectory(prefix="epbox-skopeo-", dir=layout.path.resolve().parent) as folder:
        digest_file = Path(folder, "digest")
        # No policy: that is about whose images are let in, and this one is our own.
        command = ["skopeo", "--insecure-policy", "--tmpdir", folder, "copy", "--preserve-digests", "--retry-times", "2"]
        command += ["--dest-tls-verify=false"] if _LOOPBACK.match(name) else []
        command += ["--digestfile", str(digest_file), f"oci-archive:{layout.path}", f"docker://{name}"]
        try:
            run(command, stdout=sys.stderr.fileno())
        except CommandFailed as failure:
            messages = re.findall(r'msg="((?:[^"\\]|\\.)*)"', failure.output) or failure.output.strip().splitlines() or [failure.what]
            message = messages[-1].replace('\\"', '"')
            hint = next((hint for pattern, hint in _HINTS.items() if re.search(pattern, message)), "nothing was tagged there")
            raise EngineError(f"push failed: {message[-400:]}", where=name, hint=hint) from None
        digest = digest_file.read_text().strip()
    if digest != layout.digest:
        raise EngineError(f"the registry got {digest}, the image is {layout.digest}", where=name, hint="do not use what was pushed")
    pushed = f"{reference.parse(name, allow_tag=True).name}@{digest}"
    say(f"pushed {pushed}")
    return pushed

"""Taking a built image elsewhere: to a registry, or into one file."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError
from entrypoints.output import say

from . import image as build
from . import oci, registry
from .engine import Engine
from .image import Image


def push(image: Image, saved: oci.Layout | None = None) -> str:
    """Push the normalised image, whose digest `verify` proves, and return name@digest, the only reference that always means these bytes.

    `saved` is what `save` has written already.
    """
    if saved:
        return registry.push(saved, image.name)
    with TemporaryDirectory(prefix="epbox-push-") as folder:
        return registry.push(export(image.engine, image.id, Path(folder, "image.tar"), image.name), image.name)


def save(image: Image, path: Path) -> oci.Layout:
    """Write the image as OCI layout archive whose bytes depend on its files alone (oci.py); the file appears only when it is whole."""
    layout = export(image.engine, image.id, path, image.name)
    say(f"wrote {path} ({path.stat().st_size >> 20} MiB), digest {layout.digest}")
    return layout


def export(where: Engine, image: str, path: Path, name: str) -> oci.Layout:
    """An image of the engine, by name or id, as normalised OCI archive; EngineError when it is not there or the disk is full."""
    import docker
    import requests

    try:
        with TemporaryDirectory(dir=path.resolve().parent, prefix=f".{path.name}.") as folder:
            raw = Path(folder, "export.tar")
            held = where.client().images.get(image)
            with raw.open("wb") as stream:
                for block in held.save(chunk_size=1 << 20):
                    stream.write(block)
            return oci.normalise(raw, path, created(held.labels), name, newest_file(held.labels))
    except docker.errors.ImageNotFound:
        raise EngineError("the engine has no such image", where=image, hint="./inv build makes one") from None
    except (OSError, docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"cannot write the archive: {error}", where=str(path)) from None


def created(labels: Mapping[str, str]) -> int:
    """The time in UTC seconds that the image says it has, so that its digest does not depend on when it is exported."""
    try:
        return int(datetime.fromisoformat(labels["org.opencontainers.image.created"].replace("Z", "+00:00")).timestamp())
    except (KeyError, ValueError):
        return build.epoch()


def newest_file(labels: Mapping[str, str]) -> int | None:
    """The label epbox.newest-file: the time that no file of a reproducible image is younger than; None without it.

    It is the base's, not the commit's: a layer out of the cache may be older than the commit, and a new build's files are all younger.
    """
    value = labels.get("epbox.newest-file", "")
    return int(value) if value.isdecimal() else None

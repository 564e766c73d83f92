"""Taking a built image elsewhere: to a registry, or into one file."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say

from .build import Image


def push(image: Image) -> str:
    """Push under the image's name and return name@digest, the only reference that always means these bytes."""
    if "/" not in image.name:
        raise UsageError(f"{image.name} names no registry", where="--push", hint="give one: --tag REGISTRY/NAME:TAG")
    digest = ""
    for event in image.engine.client().api.push(image.name, stream=True, decode=True):
        if "error" in event:
            raise EngineError(f"push failed: {event['error']}", where=image.name, hint="docker login, or check the registry's name")
        digest = event.get("aux", {}).get("Digest", digest)
    reference = f"{image.name.rsplit(':', 1)[0]}@{digest}"
    say(f"pushed {reference}")
    return reference


def save(image: Image, path: Path) -> None:
    """Write the image as an archive that docker, podman and skopeo load; the file appears only when it is whole."""
    import docker
    import requests

    try:
        with NamedTemporaryFile(dir=path.resolve().parent, prefix=f".{path.name}.", delete=False) as stream:
            try:
                for block in image.engine.client().images.get(image.id).save(chunk_size=1 << 20, named=image.name):
                    stream.write(block)
            except BaseException:
                os.unlink(stream.name)
                raise
        os.replace(stream.name, path)
    except (OSError, docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EngineError(f"cannot write the archive: {error}", where=str(path)) from None
    say(f"wrote {path} ({path.stat().st_size >> 20} MiB)")

"""One image, one spelling: what an engine exports becomes an OCI layout archive whose bytes depend on the files alone.

Engines stamp layers and configuration with the time of the build, and older ones cannot be told not to. So the export is normalised here,
the same way for every engine: times clamped, entries sorted, owners by number, host traces dropped, all digests computed anew.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from entrypoints.errors import EngineError

from . import digest as digests

LAYER = "application/vnd.oci.image.layer.v1.tar"  # uncompressed: equal bytes whatever the zlib
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
#: Files that tell of one build, never of the image: logs, backups, caches that tools make again, ids and names of the host.
TRACES = re.compile(
    r"var/log/.+|var/cache/ldconfig/aux-cache|var/lib/dpkg/[^/]+-old|var/cache/debconf/[^/]+-old|var/lib/apt/extended_states\..*"
    r"|etc/machine-id|var/lib/dbus/machine-id|run/.+|tmp/.+"
)
_KEPT_CONFIG = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")
_DROPPED_PAX = {"atime", "ctime", "mtime", "path", "linkpath", "size", "uid", "gid", "uname", "gname"}


@dataclass(frozen=True)
class Layout:
    """A normalised image: the archive, the digest of its manifest (what a registry calls it), and what its configuration says."""

    path: Path
    digest: str
    layers: tuple[str, ...]
    created: str = ""  # RFC 3339
    labels: Mapping[str, str] = field(default_factory=dict)


def normalise(export: Path, target: Path, epoch: int, name: str = "", newest: int | None = None) -> Layout:
    """Write the `docker save` archive `export` (of one image) as OCI layout archive that says it was made at `epoch` (UTC seconds).

    No file in it is younger than `newest`, by default `epoch`; layers may be older than the commit that an image is built from.
    Equal files give equal bytes. `docker load`, podman and skopeo read the result. EngineError when `export` is no such archive.
    """
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.resolve().parent) as folder:
        work = Path(folder)
        blobs: dict[str, Path] = {}  # by digest
        layers = []
        try:
            with tarfile.open(export) as source:
                [entry] = json.loads(_read(source, "manifest.json"))
                config = json.loads(_read(source, entry["Config"]))
                for number, layer in enumerate(entry["Layers"]):
                    stream = source.extractfile(layer)
                    assert stream is not None
                    blob = work / f"layer{number}"
                    layers.append(_write_layer(stream, blob, epoch if newest is None else newest))
                    blobs[layers[-1]] = blob
                plain = _plain_config(config, layers, epoch)
        except (tarfile.TarError, KeyError, ValueError, AssertionError, OSError) as error:
            raise EngineError(f"not an export of one image: {error}", where=str(export)) from None
        text = _json(plain)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digests.of(text), "size": len(text)},
            "layers": [{"mediaType": LAYER, "digest": layer, "size": blobs[layer].stat().st_size} for layer in layers],
        }
        whole = work / "whole"
        _write_archive(whole, blobs, text, _json(manifest), name, epoch)
        os.replace(whole, target)
    return Layout(target, digests.of(_json(manifest)), tuple(layers), plain["created"], plain["config"].get("Labels", {}))


def entries(layout: Layout, layer: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of one layer in order, each with a stream of its content when it is a file."""
    with tarfile.open(layout.path) as archive, tarfile.open(fileobj=archive.extractfile(_blob_path(layer))) as tar:
        for member in tar:
            yield member, tar.extractfile(member) if member.isreg() else None


def unpack(layout: Layout, folder: Path) -> None:
    """Write the layout as folder. Its names are this module's own."""
    with tarfile.open(layout.path) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # absent in early releases of Python 3.10 and 3.11
        archive.extractall(folder)


def _write_layer(stream: IO[bytes], target: Path, newest: int) -> str:
    """Write one layer in its normal form and return its digest."""
    with tarfile.open(fileobj=stream) as source:
        members = {_name(member): member for member in source}  # the last entry of a name is the one that counts
        # Parents before children; hard links last, since they need their target.
        ordered = sorted(members.items(), key=lambda item: (item[1].islnk(), item[0].split("/")))
        with target.open("wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, member in ordered:
                if TRACES.fullmatch(name) and not member.isdir() and "/.wh." not in f"/{name}":
                    continue
                content = source.extractfile(member) if member.isreg() else None
                if content and name.endswith(".pyc"):
                    # Flags 0 (PEP 552): it carries its source's time, differs between builds, and is stale after clamping.
                    if content.read(8)[4:8] == b"\0\0\0\0":
                        continue
                    content.seek(0)
                member.name = name
                member.mtime = min(int(member.mtime), newest)
                member.uname = member.gname = ""
                member.pax_headers = {key: value for key, value in sorted(member.pax_headers.items()) if key not in _DROPPED_PAX}
                tar.addfile(member, content)
    return digests.of_file(target)


def _name(member: tarfile.TarInfo) -> str:
    return re.sub(r"^(\./|/)+", "", member.name).rstrip("/") or "."


def _plain_config(config: dict[str, Any], layers: list[str], epoch: int) -> dict[str, Any]:
    """The configuration without what names the build: container ids, engine version, times, cache records."""
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = {key: config["config"][key] for key in _KEPT_CONFIG if config.get("config", {}).get(key)}
    history = [
        {key: value for key, value in step.items() if key in ("created_by", "empty_layer")} | {"created": created}
        for step in config.get("history", [])
    ]
    plain = {"architecture": config["architecture"], "os": config["os"], "created": created, "config": kept, "history": history}
    plain |= {"rootfs": {"type": "layers", "diff_ids": layers}} | ({"variant": config["variant"]} if config.get("variant") else {})
    return plain


def _write_archive(target: Path, blobs: Mapping[str, Path], config: bytes, manifest: bytes, name: str, epoch: int) -> None:
    descriptor = {"mediaType": MANIFEST, "digest": digests.of(manifest), "size": len(manifest)}
    annotations = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    layers = [_blob_path(layer["digest"]) for layer in json.loads(manifest)["layers"]]
    # manifest.json is docker's own index: engines before 25 load nothing else.
    docker = {"Config": _blob_path(digests.of(config)), "RepoTags": [name] if name else None, "Layers": layers}
    files: dict[str, bytes | Path] = {_blob_path(digest): path for digest, path in blobs.items()}
    files |= {_blob_path(digests.of(document)): document for document in (config, manifest)}
    files["index.json"] = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor | annotations]})
    files["manifest.json"] = _json([docker])
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):  # readers that unpack need them
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(info)
        for path, content in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.mtime = epoch
            info.size = content.stat().st_size if isinstance(content, Path) else len(content)
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
                tar.addfile(info, stream)


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise KeyError(name)
    return stream.read()


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

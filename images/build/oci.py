"""One image, one spelling: what an engine exports becomes an OCI layout archive whose bytes depend on the files alone.

Engines stamp layers and configuration with the time of the build, and older ones cannot be told not to. So the export is normalised here,
the same way for every engine: times clamped, entries sorted, owners by number, host traces dropped, all digests computed anew.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from entrypoints.errors import EngineError

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
    """A normalised image: the archive, the digest of its manifest (what a registry calls it) and of its configuration."""

    path: Path
    digest: str
    config_digest: str
    layers: tuple[str, ...]


def normalise(export: Path, target: Path, epoch: int, name: str = "", newest: int | None = None) -> Layout:
    """Write the `docker save` archive `export` (of one image) as OCI layout archive that says it was made at `epoch` (UTC seconds).

    No file in it is younger than `newest`, by default `epoch`; layers may be older than the commit that an image is built from.
    Equal files give equal bytes. `docker load`, podman and skopeo read the result. EngineError when `export` is no such archive.
    """
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.resolve().parent) as folder:
        work = Path(folder)
        blobs: list[tuple[str, Path]] = []
        try:
            with tarfile.open(export) as source:
                [entry] = json.loads(_read(source, "manifest.json"))
                config = json.loads(_read(source, entry["Config"]))
                for number, layer in enumerate(entry["Layers"]):
                    stream = source.extractfile(layer)
                    assert stream is not None
                    blob = work / f"layer{number}"
                    blobs.append((_write_layer(stream, blob, epoch if newest is None else newest), blob))
        except (tarfile.TarError, KeyError, ValueError, AssertionError, OSError) as error:
            raise EngineError(f"is no export of one image: {error}", where=str(export)) from None
        sizes = {digest: path.stat().st_size for digest, path in blobs}
        layers = tuple(digest for digest, _ in blobs)
        documents = _documents(config, layers, sizes, epoch)
        whole = work / "whole"
        _write_archive(whole, blobs, documents, name, epoch)
        os.replace(whole, target)
    return Layout(target, _digest(documents[1]), _digest(documents[0]), layers)


def read(path: Path) -> tuple[Layout, dict[str, Any]]:
    """The layout and configuration of an OCI archive written here; EngineError when its blobs do not match their digests."""
    try:
        with tarfile.open(path) as archive:
            descriptor = json.loads(_read(archive, "index.json"))["manifests"][0]
            manifest = json.loads(_blob(archive, descriptor["digest"]))
            config = json.loads(_blob(archive, manifest["config"]["digest"]))
            layers = tuple(layer["digest"] for layer in manifest["layers"])
            for layer in layers:
                stream = archive.extractfile(_blob_path(layer))
                assert stream is not None
                if _stream_digest(stream) != layer:
                    raise EngineError(f"the blob {layer[:19]} does not have the digest that it is named by", where=str(path))
    except (tarfile.TarError, KeyError, IndexError, ValueError, AssertionError, OSError) as error:
        raise EngineError(f"is no OCI archive: {error}", where=str(path)) from None
    return Layout(path, descriptor["digest"], manifest["config"]["digest"], layers), config


def entries(layout: Layout, layer: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of one layer in order, each with a stream of its content when it is a file."""
    with tarfile.open(layout.path) as archive, tarfile.open(fileobj=archive.extractfile(_blob_path(layer))) as tar:
        for member in tar:
            yield member, tar.extractfile(member) if member.isreg() else None


def stale_bytecode(head: bytes) -> bool:
    """True for a .pyc that carries its source's time (flags 0, PEP 552): it differs between builds and is stale after clamping."""
    return head[4:8] == b"\0\0\0\0"


def unpack(layout: Layout, folder: Path) -> None:
    """Write the layout as folder. Its names are this module's own."""
    with tarfile.open(layout.path) as archive:
        for member in archive:
            path = folder / member.name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = archive.extractfile(member)
            assert stream is not None
            with path.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)


def _write_layer(stream: IO[bytes], target: Path, newest: int) -> str:
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
                    head = content.read(8)
                    if stale_bytecode(head):
                        continue
                    content.seek(0)
                tar.addfile(_plain(member, name, newest), content)
    with target.open("rb") as written:
        return _stream_digest(written)


def _plain(member: tarfile.TarInfo, name: str, newest: int) -> tarfile.TarInfo:
    member.name = name
    member.mtime = min(int(member.mtime), newest)
    member.uname = member.gname = ""
    member.pax_headers = {key: value for key, value in sorted(member.pax_headers.items()) if key not in _DROPPED_PAX}
    return member


def _name(member: tarfile.TarInfo) -> str:
    return re.sub(r"^(\./|/)+", "", member.name).rstrip("/") or "."


def _documents(config: dict[str, Any], layers: tuple[str, ...], sizes: dict[str, int], epoch: int) -> tuple[bytes, bytes]:
    """Configuration and manifest, without what names the build: container ids, engine version, times, cache records."""
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = {key: config["config"][key] for key in _KEPT_CONFIG if config.get("config", {}).get(key)}
    history = [
        {key: value for key, value in step.items() if key in ("created_by", "empty_layer")} | {"created": created}
        for step in config.get("history", [])
    ]
    plain = {"architecture": config["architecture"], "os": config["os"], "created": created, "config": kept, "history": history}
    plain |= {"rootfs": {"type": "layers", "diff_ids": list(layers)}} | ({"variant": config["variant"]} if config.get("variant") else {})
    text = _json(plain)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": _digest(text), "size": len(text)},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": sizes[layer]} for layer in layers],
    }
    return text, _json(manifest)


def _write_archive(target: Path, blobs: list[tuple[str, Path]], documents: tuple[bytes, bytes], name: str, epoch: int) -> None:
    config, manifest = documents
    descriptor: dict[str, Any] = {"mediaType": MANIFEST, "digest": _digest(manifest), "size": len(manifest)}
    if name:
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
    # manifest.json is docker's own index: engines before 25 load nothing else.
    docker = {"Config": _blob_path(_digest(config)), "RepoTags": [name] if name else None, "Layers": [_blob_path(d) for d, _ in blobs]}
    files: dict[str, bytes | Path] = {_blob_path(digest): path for digest, path in blobs}
    files |= {_blob_path(_digest(config)): config, _blob_path(_digest(manifest)): manifest}
    files |= {"index.json": _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}), "manifest.json": _json([docker])}
    files |= {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):  # readers that unpack need them
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(info)
        for path, content in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.mtime = epoch
            if isinstance(content, Path):
                info.size = content.stat().st_size
                with content.open("rb") as stream:
                    tar.addfile(info, stream)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise KeyError(name)
    return stream.read()


def _blob(archive: tarfile.TarFile, digest: str) -> bytes:
    content = _read(archive, _blob_path(digest))
    if _digest(content) != digest:
        raise EngineError(f"the blob {digest[:19]} does not have the digest that it is named by", where=str(archive.name))
    return content


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _stream_digest(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return "sha256:" + digest.hexdigest()

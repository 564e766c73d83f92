"""Images of one layer as the engine would export them, and one that is what its recipe's lock says."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from images.build import digest, inventory, lock, oci, recipe, render

EPOCH = 1_700_000_000


def image(path: Path, files: dict[str, bytes], labels: dict[str, str]) -> oci.Layout:
    """A normalised image of one layer."""
    layer = tarball(files)
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": labels}, "history": []}
    parts = {"config.json": json.dumps(config).encode(), "layer.tar": layer}
    parts["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]).encode()
    raw = path.with_suffix(".save")
    raw.write_bytes(tarball(parts))
    return oci.normalise(raw, path, EPOCH, "epbox:cpu")


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def honest(name: str, locked: lock.Lock, compiled: dict[str, bytes] | None = None) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and labels of an image that is what lock and recipe say; `compiled` are the files of what has no package."""
    what = recipe.load_recipe(name)
    packages = locked.runtime_packages()
    status = "\n".join(f"Package: {n}\nStatus: install ok installed\nVersion: {p.version}\n" for n, p in packages.items())
    files = {"opt/epbox/lock.json": lock.text(locked).encode(), "var/lib/dpkg/status": status.encode()}
    files["opt/epbox/recipe.toml"] = render.recipe_text(what).encode()
    sboms = inventory.files(what, locked)
    files |= {f"opt/epbox/{each}": text.encode() for each, text in sboms.items()}
    site = "usr/local/lib/python3.13/dist-packages"
    files |= {f"{site}/{n.replace('-', '_')}-{v}.dist-info/METADATA": b"" for n, v in inventory.wheels(what)}
    labels = {"epbox.recipe": name, "epbox.lock": lock.digest(locked), "epbox.lock.drift": "none"}
    return files | (compiled or {}), labels | {"epbox.sbom": digest.of(sboms[inventory.SPDX])}


def syft_of(files: dict[str, bytes]) -> dict[str, Any]:
    """What syft would say (its own JSON) of such files."""
    from images.build import debian

    installed = debian.installed(files["var/lib/dpkg/status"].decode())
    found: list[dict[str, Any]] = [{"type": "deb", "name": n, "version": v} for n, v in installed.items()]
    for path in files:
        if path.endswith("/METADATA"):
            name, _, version = path.split("/")[-2].removesuffix(".dist-info").partition("-")
            found.append({"type": "python", "name": name.replace("_", "-"), "version": version, "locations": [{"path": f"/{path}"}]})
    return {"artifacts": found}

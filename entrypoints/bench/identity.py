"""The identity of what runs: versions by package metadata (nothing is imported), and the image's own files."""

import hashlib
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from entrypoints import __version__
from entrypoints.errors import UsageError
from entrypoints.results.codec import read_json
from entrypoints.results.model import Image
from entrypoints.results.ranks import JsonObject
from entrypoints.toml import load_toml

#: The image keeps its recipe, lock and label files here.
HOME = Path("/opt/epbox")
#: Distributions that decide how DeepEP behaves; only those present are listed.
DISTRIBUTIONS = (
    *("torch", "deep_ep"),
    *(f"nvidia-{library}-cu{major}" for library in ("nvshmem", "nccl", "cuda-runtime") for major in (12, 13)),
    *("nvidia-cuda-runtime", "numpy", "psutil", "nvidia-ml-py"),
)
DRIVER = Path("/proc/driver/nvidia/version")


def versions(home: Path = HOME) -> dict[str, str]:
    """epbox, python, kernel, and each known distribution that is installed."""
    installed = {"epbox": __version__, "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()}
    for name in DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    installed |= compiled(home)
    with suppress(OSError, IndexError, StopIteration):
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  ..."
        words = DRIVER.read_text(encoding="ascii", errors="replace").splitlines()[0].split()
        installed["nvidia-driver"] = next(word for word in words if word[:1].isdigit() and word.count(".") >= 1)
    return installed


def compiled(home: Path = HOME) -> dict[str, str]:
    """Parts that the image's recipe compiles from source, with commits: no package metadata has them. Empty outside an image."""
    recipe = _recipe(home)
    nvshmem, deepep = (table if isinstance(table := recipe.get(name), dict) else {} for name in ("nvshmem", "deepep"))
    sources = {
        "nvshmem": (nvshmem.get("version"), nvshmem.get("commit") if nvshmem.get("source") == "source" else None),
        "deepep": (deepep.get("tag"), deepep.get("commit")),
        "fmt": (None, deepep.get("fmt_commit")),
    }
    return {name: f"{tag}, commit {commit}" if tag else f"commit {commit}" for name, (tag, commit) in sources.items() if commit}


def image(home: Path = HOME) -> Image | None:
    """Name, id, recipe and lock (its sha256, as OCI writes digests) of the image this runs in; None outside an image."""
    files = []
    for file in ("image.json", "labels.json"):
        with suppress(UsageError):
            files.append(read_json(home / file))
    digest = None
    with suppress(OSError):
        digest = "sha256:" + hashlib.sha256((home / "lock.json").read_bytes()).hexdigest()
    if not files and digest is None and not (home / "recipe.toml").is_file():
        return None
    labels: JsonObject = next((file for file in files if isinstance(file, dict)), {})
    recipe = _recipe(home)
    name = recipe.get("name") or recipe.get("recipe") or labels.get("recipe")
    return Image(
        name=os.environ.get("EPBOX_IMAGE") or labels.get("name"),
        id=os.environ.get("EPBOX_IMAGE_ID") or labels.get("id"),
        recipe=name if isinstance(name, str) else None,
        lock=digest,
        labels=labels,
    )


def sbom(kind: str, home: Path = HOME) -> str:
    """The SBOM in this image, `kind` "spdx" or "cyclonedx"; UsageError outside an image, or in one that was built without a lock."""
    path = home / {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json"}[kind]
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        why = "this image was built without a lock" if image(home) else "no image: this runs from a checkout"
        raise UsageError(f"{why}, so there is no {path}", where="--sbom", hint="./inv sbom describes a built image") from None


def _recipe(home: Path) -> JsonObject:
    """The image's recipe; {} outside an image."""
    try:
        return load_toml(home / "recipe.toml")
    except UsageError:
        return {}


def engine() -> str:
    """EPBOX_ENGINE where the starter says so; else docker inside an EPBox image, host when no image is involved."""
    return os.environ.get("EPBOX_ENGINE") or ("host" if image() is None else "docker")

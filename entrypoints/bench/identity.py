"""What is running: versions by package metadata (nothing is imported), and the image's own files."""

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from entrypoints import ROOT
from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

#: The image keeps its recipe, lock and label files here.
HOME = Path("/opt/epbox")
#: Distributions that decide how DeepEP behaves; only those present are listed.
DISTRIBUTIONS = (
    "torch",
    "deep_ep",
    "nvidia-nvshmem-cu12",
    "nvidia-nvshmem-cu13",
    "nvidia-nccl-cu12",
    "nvidia-nccl-cu13",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-runtime-cu13",
    "nvidia-cuda-runtime",
    "numpy",
    "psutil",
    "nvidia-ml-py",
)
DRIVER = Path("/proc/driver/nvidia/version")


def own_version(home: Path = HOME) -> str:
    """EPBox's version: what the image was built with, else the checkout's pyproject.toml."""
    if os.environ.get("EPBOX_VERSION"):
        return os.environ["EPBOX_VERSION"]
    for folder in (ROOT, home):
        try:
            return str(load_toml(folder / "pyproject.toml")["project"]["version"])
        except (KeyError, UsageError):
            continue
    return "unknown"


def versions(home: Path = HOME) -> dict[str, str]:
    """epbox, python, kernel, and each known distribution that is installed."""
    found = {"epbox": own_version(home), "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found |= compiled(home)
    try:
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  ..."
        words = DRIVER.read_text(encoding="ascii", errors="replace").splitlines()[0].split()
        found["nvidia-driver"] = next(word for word in words if word[:1].isdigit() and word.count(".") >= 1)
    except (OSError, IndexError, StopIteration):
        pass
    return found


def compiled(home: Path = HOME) -> dict[str, str]:
    """What the image's recipe compiles from source, with commits: no package's metadata tells of it. Empty outside an image."""
    try:
        recipe = load_toml(home / "recipe.toml")
    except UsageError:
        return {}
    parts: list[dict[str, Any]] = [table if isinstance(table := recipe.get(name), dict) else {} for name in ("nvshmem", "deepep")]
    nvshmem, deepep = parts
    told = {
        "nvshmem": (nvshmem.get("version"), nvshmem.get("commit")) if nvshmem.get("source") == "source" else (),
        "deepep": (deepep.get("tag"), deepep.get("commit")),
        "fmt": (None, deepep.get("fmt_commit")),
    }
    return {
        name: f"{words[0]}, commit {words[1]}" if words[0] else f"commit {words[1]}" for name, words in told.items() if words and words[1]
    }


def image(home: Path = HOME) -> dict[str, Any] | None:
    """Name, id, recipe and lock digest of the image this runs in; None outside an image."""
    files = {name: value for name in ("image", "labels") if (value := _read_json(home / f"{name}.json")) is not None}
    lock = home / "lock.json"
    if not files and not lock.is_file() and not (home / "recipe.toml").is_file():
        return None
    labels: dict[str, Any] = next((files[name] for name in ("image", "labels") if isinstance(files.get(name), dict)), {})
    return {
        "name": os.environ.get("EPBOX_IMAGE") or labels.get("name"),
        "id": os.environ.get("EPBOX_IMAGE_ID") or labels.get("id"),
        "recipe": recipe_name(home) or labels.get("recipe"),
        "lock": digest(lock),
        "labels": labels,
    }


def sbom(kind: str, home: Path = HOME) -> str:
    """The SBOM in this image, `kind` "spdx" or "cyclonedx"; UsageError outside an image, or in one that was built without a lock."""
    path = home / {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json"}[kind]
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        why = "this image was built without a lock" if image(home) else "no image: this runs from a checkout"
        raise UsageError(f"{why}, so there is no {path}", where="--sbom", hint="./inv sbom describes a built image") from None


def recipe_name(home: Path = HOME) -> str | None:
    try:
        recipe = load_toml(home / "recipe.toml")
    except UsageError:
        return None
    name = recipe.get("name") or recipe.get("recipe")
    return str(name) if isinstance(name, str) else None


def digest(path: Path) -> str | None:
    """sha256 of a file, as OCI writes digests; None where it is absent."""
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def engine() -> str:
    """EPBOX_ENGINE where the starter says so; else docker inside an EPBox image, host when no image is involved."""
    told = os.environ.get("EPBOX_ENGINE")
    if told:
        return told
    return "host" if image() is None else "docker"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""Recipe (and lock) to Dockerfile: a pure function, and the folder that a plain `docker build` understands."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2

from entrypoints import ROOT
from entrypoints.errors import UsageError
from images import templates

from .base import reference
from .inventory import files as sbom_files
from .lock import digest as lock_digest
from .lock import pins, stage_of
from .lock import text as lock_text
from .recipe import Recipe

TEMPLATES = templates.TEMPLATES / "dockerfile"
STEPS = ROOT / "images" / "steps"
_PROGRAM_SUFFIXES = {".py", ".toml", ".json", ".html", ".j2"}


def render_dockerfile(recipe: Recipe, lock: Mapping[str, Any] | None = None) -> str:
    """The Dockerfile's text. Same recipe and lock, same text; templates see only `recipe`, `base` (FROM reference) and `lock` (digest)."""
    environment = templates.environment("dockerfile")
    environment.globals["locked_stage"] = lambda packages: stage_of(lock, list(packages))
    name = f"{recipe.template}.Dockerfile.j2"
    try:
        template = environment.get_template(name)
    except jinja2.TemplateNotFound:
        known = ", ".join(sorted(path.name.removesuffix(".Dockerfile.j2") for path in TEMPLATES.glob("*.Dockerfile.j2")))
        raise UsageError(
            f"template = {recipe.template!r} is not allowed", where=f"recipe {recipe.name}", hint=f"allowed: {known}"
        ) from None
    text = template.render(recipe=recipe, base=reference(recipe.base, lock), lock=lock_digest(lock))
    return text.lstrip("\n").rstrip("\n") + "\n"


def write_context(
    recipe: Recipe,
    folder: Path,
    lock: Mapping[str, Any] | None = None,
    sources: Mapping[str, Path] | None = None,
    gone: Sequence[str] = (),
    drift: Sequence[str] = (),
) -> None:
    """Fill the empty `folder` with Dockerfile, steps, the program, locks and sources; times and modes do not depend on the checkout.

    `gone` lines (NAME LOCKED -> OFFERED) name locked packages to install in any version; `drift` is what the base has already of that kind.
    """
    (folder / "Dockerfile").write_text(render_dockerfile(recipe, lock))
    shutil.copytree(STEPS, folder / "steps")
    program = folder / "epbox"
    shutil.copytree(ROOT / "entrypoints", program / "entrypoints", ignore=_only_program)
    _drop_empty(program)
    (program / "bin").mkdir()
    shutil.move(folder / "steps" / "epbox", program / "bin" / "epbox")
    _write_identity(recipe, program, lock, (*drift, *gone))
    locks = ROOT / "images" / "locks" / recipe.name
    if locks.is_dir():
        shutil.copytree(locks, folder / "locks")
    for stage, pinned in pins(lock, frozenset(line.split()[0] for line in gone)).items():
        path = folder / "locks" / "debian" / f"{stage}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pinned)
    (folder / "sources").mkdir()
    (folder / "sources" / ".keep").touch()
    for name, path in (sources or {}).items():
        shutil.copyfile(path, folder / "sources" / f"{name}.tar")
    for path in folder.rglob("*"):
        executable = path.is_dir() or path.parent == program / "bin"
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (recipe.base.epoch, recipe.base.epoch))


def _only_program(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if name == "__pycache__" or (Path(folder, name).is_file() and Path(name).suffix not in _PROGRAM_SUFFIXES)
    ]


def _drop_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def recipe_text(recipe: Recipe) -> str:
    """The recipe.toml of an image: inheritance resolved, every default written out."""
    return "\n".join(_toml("", {"name": recipe.name, **asdict(recipe)})).strip() + "\n"


def _write_identity(recipe: Recipe, program: Path, lock: Mapping[str, Any] | None, drift: Sequence[str]) -> None:
    """What `epbox version` and every result.json say about the image; lock.json and SBOMs are there only when the recipe is locked."""
    shutil.copyfile(ROOT / "pyproject.toml", program / "pyproject.toml")
    (program / "recipe.toml").write_text(recipe_text(recipe))
    if lock:
        (program / "lock.json").write_text(lock_text(lock))
    for name, text in sbom_files(recipe, lock, drift).items():
        (program / name).write_text(text)


def _toml(name: str, table: Mapping[str, Any]) -> list[str]:
    """The recipe as TOML again, inheritance resolved. JSON's strings, lists, numbers and booleans are TOML's too."""
    values = {key: value for key, value in table.items() if value is not None and not isinstance(value, Mapping)}
    lines = ["", f"[{name}]"] if name and values else []
    lines += [f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml(f"{name}.{key}" if name else key, value)
    return lines


def render_to(recipe: Recipe, out: Path, lock: Mapping[str, Any] | None = None) -> Path:
    """Write the whole build context to `out`, which must be absent, empty or an earlier rendering; plain `docker build` works on it."""
    marker = out / "Dockerfile"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise UsageError("is not empty and no earlier rendering", where=str(out), hint="name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent) as folder:
        fresh = Path(folder, "context")
        fresh.mkdir()
        write_context(recipe, fresh, lock)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    return out

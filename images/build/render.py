"""Recipe (and lock) to Dockerfile: a pure function, and the folder that a plain `docker build` understands."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2

from entrypoints import ROOT
from entrypoints.errors import UsageError
from images import templates

from . import inventory
from . import lock as locks
from .base import reference
from .lock import Lock
from .recipe import Recipe

TEMPLATES = templates.TEMPLATES / "dockerfile"
STEPS = ROOT / "images" / "steps"
_PROGRAM_SUFFIXES = {".py", ".toml", ".json", ".html", ".j2"}


def render_dockerfile(recipe: Recipe, lock: Lock | None = None) -> str:
    """The Dockerfile's text. Same recipe and lock, same text.

    Templates see only `recipe`, `base` (FROM reference), `lock` (digest) and, by stage, `debian` (packages, and the file with their pins).
    """
    locked = lock.packages if lock else {}
    stages = {
        stage: {"packages": packages, "pins": f"locks/debian/{stage}.txt" if stage in locked else None}
        for stage, packages in locks.requested_packages(recipe).items()
    }
    try:
        template = templates.environment("dockerfile").get_template(f"{recipe.template}.Dockerfile.j2")
    except jinja2.TemplateNotFound:
        names = ", ".join(sorted(path.name.removesuffix(".Dockerfile.j2") for path in TEMPLATES.glob("*.Dockerfile.j2")))
        problem = f"template = {recipe.template!r} is not allowed"
        raise UsageError(problem, where=f"recipe {recipe.name}", hint=f"allowed: {names}") from None
    text = template.render(recipe=recipe, base=reference(recipe.base, lock), lock=locks.digest(lock), debian=stages)
    return text.strip("\n") + "\n"


def write_context(
    recipe: Recipe,
    folder: Path,
    lock: Lock | None = None,
    sources: Mapping[str, Path] | None = None,
    gone: Sequence[str] = (),
    drift: Sequence[str] = (),
) -> None:
    """Fill the empty or new `folder` with Dockerfile, steps, the program, locks and sources; times and modes do not depend on the checkout.

    `gone` lines (NAME LOCKED -> OFFERED) name locked packages to install in any version; `drift` is what the base has already of that kind.
    """
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(render_dockerfile(recipe, lock))
    shutil.copytree(STEPS, folder / "steps")
    program = folder / "epbox"
    for path in sorted((ROOT / "entrypoints").rglob("*")):
        if path.suffix in _PROGRAM_SUFFIXES and "__pycache__" not in path.parts:
            target = program / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (program / "bin").mkdir()
    shutil.move(folder / "steps" / "epbox", program / "bin" / "epbox")
    (program / "recipe.toml").write_text(recipe_text(recipe))
    if lock:
        (program / "lock.json").write_text(locks.text(lock))
        for name, text in inventory.files(recipe, lock, (*drift, *gone)).items():
            (program / name).write_text(text)
    if (locks.LOCKS / recipe.name).is_dir():
        shutil.copytree(locks.LOCKS / recipe.name, folder / "locks")
    for stage, pinned in locks.pins(lock, frozenset(line.split()[0] for line in gone)).items():
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


def recipe_text(recipe: Recipe) -> str:
    """The recipe.toml of an image: inheritance resolved, every default written out."""
    return "\n".join(_toml("", {"name": recipe.name, **asdict(recipe)})).strip() + "\n"


def _toml(name: str, table: Mapping[str, object]) -> list[str]:
    """The recipe as TOML again, inheritance resolved. JSON's strings, lists, numbers and booleans are TOML's too."""
    values = {key: value for key, value in table.items() if value is not None and not isinstance(value, Mapping)}
    lines = ["", f"[{name}]"] if name and values else []
    lines += [f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml(f"{name}.{key}" if name else key, value)
    return lines


def render_to(recipe: Recipe, out: Path, lock: Lock | None = None) -> Path:
    """Write the whole build context to `out`, which must be absent, empty or an earlier rendering; plain `docker build` works on it."""
    marker = out / "Dockerfile"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise UsageError("is not empty and not an earlier rendering", where=str(out), hint="name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent) as folder:
        fresh = Path(folder, "context")
        write_context(recipe, fresh, lock)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    return out

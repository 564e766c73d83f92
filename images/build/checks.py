"""`lint`: style, types, every rendered Dockerfile and every shell file."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints import ROOT
from entrypoints.errors import EPBoxError, UsageError
from entrypoints.output import say

from . import lock, recipe, render

BIN = Path(sys.executable).parent


def lint() -> int:
    """Run every check, also after one failed; the number of those that failed."""
    shell = ["inv", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "images/steps").iterdir())]
    checks: list[tuple[str, Sequence[str]]] = [
        ("ruff check", [str(BIN / "ruff"), "check", "."]),
        ("ruff format", [str(BIN / "ruff"), "format", "--check", "."]),
        ("mypy", [str(BIN / "mypy")]),
        ("shellcheck", [str(BIN / "shellcheck"), *shell]),
    ]
    failed = [name for name, command in checks if not _passes(name, command)]
    failed += [f"render --check {name}" for name in recipe.names() if not _rendering(name)]
    failed += [f"hadolint {name}" for name in recipe.names() if not _hadolint(name)]
    say(f"lint: {', '.join(failed)} failed" if failed else f"lint: all {len(checks) + 2 * len(recipe.names())} checks passed")
    return len(failed)


def rendering(name: str | None = None) -> None:
    """The lock of one recipe (or of all) fits it, and its Dockerfile is the golden one; an EPBoxError says which does not."""
    for each in [name] if name else recipe.names():
        what = recipe.load_recipe(each)
        locked = lock.load(what)
        lock.check(what, locked)
        golden = ROOT / "tests" / "golden" / "dockerfile" / f"{each}.Dockerfile"
        if golden.exists() and golden.read_text() != render.render_dockerfile(what, locked):
            raise UsageError("the rendered Dockerfile differs from the golden one", where=each, hint="EPBOX_UPDATE_GOLDEN=1 ./inv test")


def _rendering(name: str) -> bool:
    try:
        rendering(name)
    except EPBoxError as error:
        say(f"FAIL  render --check {name}: {error}")
        return False
    say(f"ok    render --check {name}")
    return True


def _passes(name: str, command: Sequence[str], **options: str) -> bool:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    say(f"{'ok  ' if done.returncode == 0 else 'FAIL'}  {name}")
    if done.returncode != 0:
        say((done.stdout + done.stderr).rstrip())
    return bool(done.returncode == 0)


def _hadolint(name: str) -> bool:
    """hadolint of one rendered Dockerfile; .hadolint.yaml gives the reasons for what it ignores."""
    what = recipe.load_recipe(name)
    with TemporaryDirectory() as folder:
        path = Path(folder, "Dockerfile")
        path.write_text(render.render_dockerfile(what, lock.load(what)))
        return _passes(f"hadolint {name}", [str(BIN / "hadolint"), "--config", str(ROOT / ".hadolint.yaml"), str(path)])

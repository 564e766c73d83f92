"""`lint`: style, types, every rendered Dockerfile and every shell file."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints import ROOT
from entrypoints.errors import EPBoxError, UsageError
from entrypoints.output import say
from images.command import CommandFailed, run

from . import lock as locks
from . import recipe as recipes
from . import render

BIN = Path(sys.executable).parent


def lint(fast: bool = False) -> int:
    """Run every check (`fast`: that takes seconds), also after one failed; the number of those that failed."""
    shell = ["inv", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "images/steps").iterdir())]
    checks: dict[str, Callable[[], object]] = {
        "ruff check": partial(_tool, "ruff", "check", "."),
        "ruff format": partial(_tool, "ruff", "format", "--check", "."),
        "shellcheck": partial(_tool, "shellcheck", *shell),
    }
    if not fast:
        checks["mypy"] = partial(_tool, "mypy")
        checks |= {f"render --check {name}": partial(rendering, name) for name in recipes.names()}
        checks |= {f"hadolint {name}": partial(_hadolint, name) for name in recipes.names()}
    failed = []
    for name, check in checks.items():
        try:
            check()
            say(f"ok    {name}")
        except EPBoxError as error:
            output = error.output.rstrip() if isinstance(error, CommandFailed) else ""
            say(f"FAIL  {name}\n{output}" if output else f"FAIL  {name}: {error}")
            failed.append(name)
    say(f"lint: {', '.join(failed)} failed" if failed else f"lint: all {len(checks)} checks passed")
    return len(failed)


def rendering(name: str | None = None) -> None:
    """The lock of one recipe (or of all) fits it, and its Dockerfile is the golden one; an EPBoxError says which does not."""
    for recipe in map(recipes.load_recipe, [name] if name else recipes.names()):
        lock = locks.load(recipe)
        locks.check(recipe, lock)
        golden = ROOT / "tests" / "golden" / "dockerfile" / f"{recipe.name}.Dockerfile"
        if golden.exists() and golden.read_text() != render.render_dockerfile(recipe, lock):
            hint = "EPBOX_UPDATE_GOLDEN=1 ./inv test"
            raise UsageError("the rendered Dockerfile differs from the golden one", where=recipe.name, hint=hint)


def _hadolint(name: str) -> None:
    """hadolint of one rendered Dockerfile; .hadolint.yaml gives the reasons for what it ignores."""
    recipe = recipes.load_recipe(name)
    with TemporaryDirectory() as folder:
        path = Path(folder, "Dockerfile")
        path.write_text(render.render_dockerfile(recipe, locks.load(recipe)))
        _tool("hadolint", "--config", str(ROOT / ".hadolint.yaml"), str(path))


def _tool(name: str, *arguments: str) -> None:
    run([str(BIN / name), *arguments], cwd=ROOT)

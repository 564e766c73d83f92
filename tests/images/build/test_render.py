"""Rendering is a pure function; the golden files are whole Dockerfiles, renewed by EPBOX_UPDATE_GOLDEN=1."""

import re
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml
from images.build import lock, recipe, render
from tests.helpers.golden import expected

GOLDEN = Path("tests/golden/dockerfile")


def test_the_cpu_dockerfile_is_the_golden_one() -> None:
    what = recipe.load_recipe("cpu")
    text = render.render_dockerfile(what, lock.load(what))
    assert text == expected(GOLDEN / "cpu.Dockerfile", text)


@pytest.mark.parametrize("name", recipe.names())
def test_no_input_of_any_recipe_floats(name: str) -> None:
    what = recipe.load_recipe(name)
    text = render.render_dockerfile(what, lock.load(what))
    assert text == render.render_dockerfile(recipe.load_recipe(name), lock.load(what))
    assert ":latest" not in text
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        stages = re.findall(r" AS (\S+)$", text, re.MULTILINE)
        assert image in stages or re.search(r"@sha256:[0-9a-f]{64}$|^epbox-base:[a-z]+-[0-9a-f]{12}$", image), image


def test_an_unknown_template_names_those_that_exist() -> None:
    import dataclasses

    what = dataclasses.replace(recipe.load_recipe("cpu"), template="gpu9")
    with pytest.raises(UsageError, match=r"template = 'gpu9'.*allowed: .*cpu"):
        render.render_dockerfile(what)


def test_the_lock_is_part_of_the_text() -> None:
    what = recipe.load_recipe("cpu")
    one, two = (lock.Lock(recipe="cpu", base=lock.LockedBase("trixie", digest)) for digest in ("sha256:1", "sha256:2"))
    assert lock.digest(one) in render.render_dockerfile(what, one)
    assert render.render_dockerfile(what, one) != render.render_dockerfile(what, two)


def test_a_context_holds_the_program_and_nothing_of_the_checkout(tmp_path: Path) -> None:
    what = recipe.load_recipe("cpu")
    out = render.render_to(what, tmp_path / "out")
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"Dockerfile", "steps/apt-install.sh", "epbox/entrypoints/__main__.py", "epbox/bin/epbox", "epbox/recipe.toml"} <= files
    assert not [name for name in files if name.endswith(".pyc") or ".git" in name or name.startswith("epbox/tests")]
    assert {int(path.stat().st_mtime) for path in out.rglob("*") if path.is_file()} == {what.base.epoch}
    assert (out / "epbox/bin/epbox").stat().st_mode & 0o777 == 0o755
    written = load_toml(out / "epbox/recipe.toml")
    assert (written["name"], written["base"]["suite"], written["packages"]["runtime"]) == ("cpu", "trixie", list(what.packages.runtime))


def test_render_to_replaces_only_its_own_work(tmp_path: Path) -> None:
    what = recipe.load_recipe("cpu")
    out = render.render_to(what, tmp_path / "out")
    (out / "stale").touch()
    render.render_to(what, out)
    assert not (out / "stale").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty"):
        render.render_to(what, tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").exists()

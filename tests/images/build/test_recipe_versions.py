"""Versions that do not go together are refused before anything is built, and each recipe states its own versions."""

import dataclasses
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.facts import pairs
from entrypoints.toml import load_toml
from images.build import recipe, render
from tests.helpers.fake_host import SITE, FakeHost

V121, LAST_V1 = "9af0e0d0e74f3577af1979c9b9e1ac2cad0104ee", "567632dd59810d77b3cc05553df953cc0f779799"
#: What a host settles and a recipe does not.
OF_THE_HOST = {"driver.version", "gpu.arch", "nvshmem.device_version"}
#: A key of a recipe that is a version: another recipe must not change with it.
VERSIONS = ("python.version", "cuda.version", "torch.version", "nccl.version", "nvshmem.version", "nvshmem.commit", "deepep.commit")


@pytest.fixture
def v1() -> recipe.Recipe:
    return recipe.load_recipe("deepep-v1")


@pytest.fixture
def v2() -> recipe.Recipe:
    return recipe.load_recipe("deepep-v2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the recipes that a test may change."""
    for path in recipe.RECIPES.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def changed(before: recipe.Recipe, **parts: dict[str, object]) -> recipe.Recipe:
    tables = {name: dataclasses.replace(getattr(before, name), **table) for name, table in parts.items()}
    return dataclasses.replace(before, **tables)


def test_every_pair_asks_for_what_a_recipe_or_a_host_settles(v2: recipe.Recipe) -> None:
    settled = set(recipe.versions(v2)) | OF_THE_HOST
    assert {component for pair in pairs.table() for component in pair.when} <= settled


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        ({"deepep": {"commit": V121}, "nvshmem": {"version": "3.5.21"}}, "#564"),
        ({"deepep": {"commit": V121}}, "#557"),
        ({"nvshmem": {"version": "3.2.5"}}, "third-party/README.md"),
        ({"cuda": {"version": "12.8"}}, "nvidia-cuda-nvcc-cu12"),
        ({"nvshmem": {"ibgda": False}}, "#55"),
        ({"torch": {"version": "2.15.0"}}, "libtorch_nvshmem"),
    ],
)
def test_v1_refusals_name_their_source(v1: recipe.Recipe, parts: dict[str, dict[str, object]], source: str) -> None:
    with pytest.raises(UsageError, match=source) as caught:
        recipe.check_versions(changed(v1, **parts), "x.toml")
    assert caught.value.exit_code == 2
    assert "x.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        ({"nvshmem": {"version": "3.6.5"}}, "#764"),
        ({"nccl": {"version": "2.28.9"}}, "#710"),
        ({"torch": {"version": "2.9.1"}}, "README.md"),
        ({"cuda": {"runtime_compiler": False}}, "README.md"),
    ],
)
def test_v2_refusals_name_their_source(v2: recipe.Recipe, parts: dict[str, dict[str, object]], source: str) -> None:
    with pytest.raises(UsageError, match=source):
        recipe.check_versions(changed(v2, **parts), "x.toml")


@pytest.mark.parametrize("version", ["3.5.21", "3.7.2"])
def test_the_last_v1_commit_takes_a_new_nvshmem(folder: Path, version: str) -> None:
    """Contradiction that was: this recipe loads (567632d holds DeepEP#564), and doctor failed the very pair. Both read facts/pairs.toml."""
    text = (folder / "deepep-v1-wheel.toml").read_text()
    (folder / "mine.toml").write_text(text.replace('version = "3.4.5"', f'version = "{version}"'))
    mine = recipe.load_recipe("mine", folder)
    assert mine.nvshmem is not None and mine.nvshmem.version == version


@pytest.mark.parametrize("commit", [V121, LAST_V1])
@pytest.mark.parametrize("version", ["3.4.5", "3.5.19", "3.7.2"])
def test_doctor_fails_in_an_image_what_the_recipe_refuses_and_nothing_else(
    v1: recipe.Recipe, tmp_path: Path, commit: str, version: str
) -> None:
    """Contradiction that was: bench would have ended with 3 in the image that the recipe built."""
    built = changed(v1, deepep={"commit": commit}, nvshmem={"source": "wheel", "version": version})
    fake = FakeHost(tmp_path)
    for package in (f"deep_ep-1.2.1+{commit[:7]}", f"nvidia_nvshmem_cu12-{version}"):
        name = package.partition("-")[0]
        for installed in (tmp_path / SITE).glob(f"{name}-*.dist-info"):
            fake.remove(str(installed.relative_to(tmp_path)))
        fake.write(f"{SITE}/{package}.dist-info/METADATA", "")
    refused = bool(pairs.matching(recipe.versions(built)))
    assert refused is (commit == V121 and version != "3.4.5")
    assert fake.check("lib.nvshmem").status == ("FAIL" if refused else "PASS")


def test_a_file_with_such_a_pair_is_refused_when_it_is_loaded(folder: Path) -> None:
    (folder / "mine.toml").write_text('extends = "deepep-v2"\n[nccl]\nversion = "2.28.9"\n')
    with pytest.raises(UsageError, match=r"nccl\.version = 2\.28\.9.*2\.30\.4.*mine\.toml|mine\.toml.*nccl\.version = 2\.28\.9"):
        recipe.load_recipe("mine", folder)


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_states_its_versions_itself(name: str) -> None:
    file, resolved = load_toml(recipe.RECIPES / f"{name}.toml"), dataclasses.asdict(recipe.load_recipe(name))
    for key in VERSIONS:
        section, _, field = key.partition(".")
        version = (resolved[section] or {}).get(field)
        assert version is None or file[section].get(field) == version, f"{name}.toml inherits {key}"


def test_another_version_in_one_recipe_changes_no_other_recipe(folder: Path) -> None:
    before = {name: render.recipe_text(recipe.load_recipe(name, folder)) for name in recipe.names(folder)}
    for name, old, new in (
        ("deepep-v1", '"3.4.5"', '"3.7.2"'),
        ("deepep-v2", '"2.30.7"', '"2.31.2"'),
        ("deepep-v1-cuda12", '"2.10.0"', '"2.9.1"'),
    ):
        path = folder / f"{name}.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    after = {name: render.recipe_text(recipe.load_recipe(name, folder)) for name in recipe.names(folder)}
    assert {name for name in before if before[name] != after[name]} == {"deepep-v1", "deepep-v2", "deepep-v1-cuda12"}


def test_what_recipes_share_is_no_recipe(folder: Path) -> None:
    assert "common" not in recipe.names()
    with pytest.raises(UsageError, match="no recipe 'common'"):
        recipe.load_recipe("common")

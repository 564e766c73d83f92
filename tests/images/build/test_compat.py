"""Pairs known not to work are refused before anything is built, with the reason and where it is written."""

import dataclasses
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from images.build import compat, recipe

V121 = "9af0e0d0e74f3577af1979c9b9e1ac2cad0104ee"


@pytest.fixture
def v1() -> recipe.Recipe:
    return recipe.load_recipe("deepep-v1")


@pytest.fixture
def v2() -> recipe.Recipe:
    return recipe.load_recipe("deepep-v2")


def changed(what: recipe.Recipe, **parts: dict[str, object]) -> recipe.Recipe:
    tables = {name: dataclasses.replace(getattr(what, name), **table) for name, table in parts.items()}
    return dataclasses.replace(what, **tables)


def test_every_row_has_a_reason_a_remedy_and_a_source_and_names_keys_that_exist(v1: recipe.Recipe) -> None:
    rows = compat.load_table()
    assert len(rows) > 8
    for row in rows:
        assert row.reason and row.remedy and row.source and row.when
        for key in row.when:
            section, _, name = key.partition(".")
            assert name in {field.name for field in dataclasses.fields({"deepep": recipe.DeepEP, "nvshmem": recipe.Nvshmem,
                "nccl": recipe.Nccl, "torch": recipe.Torch, "cuda": recipe.Cuda}[section])}  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        ({"deepep": {"commit": V121}, "nvshmem": {"version": "3.5.21"}}, "#564"),
        ({"deepep": {"commit": V121}}, "#557"),
        ({"nvshmem": {"version": "3.2.5"}}, "third-party/README.md"),
        ({"cuda": {"version": "12.8"}}, "nvidia-cuda-nvcc-cu12"),
        ({"nvshmem": {"ibgda": False}}, "#55"),
    ],
)
def test_v1_refusals_name_their_source(v1: recipe.Recipe, parts: dict[str, dict[str, object]], source: str) -> None:
    with pytest.raises(UsageError, match=source) as caught:
        compat.check(changed(v1, **parts), "x.toml")
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
        compat.check(changed(v2, **parts), "x.toml")


@pytest.mark.parametrize("name", recipe.names())
def test_the_recipes_of_the_repository_are_no_such_pair(name: str) -> None:
    compat.check(recipe.load_recipe(name), name)


def test_a_file_with_such_a_pair_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    for path in recipe.RECIPES.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "mine.toml").write_text('extends = "deepep-v2"\n[nccl]\nversion = "2.28.9"\n')
    with pytest.raises(UsageError, match=r"nccl\.version = 2\.28\.9.*2\.30\.4.*mine\.toml|mine\.toml.*nccl\.version = 2\.28\.9"):
        recipe.load_recipe("mine", tmp_path)


@pytest.mark.parametrize(
    ("value", "test", "expected"),
    [
        ("3.4.5", ">= 3.4.5", True),
        ("3.10", "> 3.9", True),
        ("3.4", "== 3.4.0", True),
        ("3.5.19", ">= 3.3.20 < 3.5", False),
        (None, "< 9", False),
        ("abc", "ab|x", True),
        (False, "False", True),
    ],
)
def test_tests_of_values(value: object, test: str, expected: bool) -> None:
    assert compat.holds(value, test) is expected

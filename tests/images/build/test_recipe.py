"""Recipes: what is right loads, what is wrong is one line with file, key and allowed values."""

from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from images.build import recipe

BASES = """
[trixie]
kind = "debian"
title = "Debian 13"
suite = "trixie"
packages = ["ca-certificates"]
epoch = 1754697600
"""
GOOD = """
title = "T"
description = "D"
template = "cpu"
base = "trixie"
workload = "alltoall"
[python]
version = "3.13"
"""
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bases.toml").write_text(BASES)
    (tmp_path / "good.toml").write_text(GOOD)
    return tmp_path


def broken(folder: Path, text: str) -> str:
    (folder / "bad.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        recipe.load_recipe("bad", folder)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


def test_every_shipped_recipe_loads() -> None:
    assert "cpu" in recipe.names()
    for name in recipe.names():
        assert recipe.load_recipe(name).name == name


def test_an_unknown_recipe_names_those_that_exist(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe 'goood'; allowed: good"):
        recipe.load_recipe("goood", folder)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (("title =", "titel ="), ("bad.toml", "unknown key titel", "did you mean title?")),
        (('base = "trixie"', 'base = "trixy"'), ("bad.toml", "base = 'trixy'", "allowed: trixie")),
        (('base = "trixie"', "base = 3"), ("bad.toml", "base = 3", "allowed: trixie")),
        (('base = "trixie"\n', ""), ("bad.toml", "base", "allowed: trixie")),
        (('version = "3.13"', 'version = "2.7"'), ("bad.toml", "python.version = '2.7'", "allowed: 3.N")),
        (('version = "3.13"', "version = 3.13"), ("bad.toml", "python.version = 3.13", "allowed: 3.N")),
        (('version = "3.13"', 'version = "3.13"\nsource = "conda"'), ("python.source = 'conda'", "allowed: debian, base")),
        (('title = "T"\n', ""), ("key title is missing", "allowed: a string")),
        (("[python]", "python2 = 1\n[python]"), ("unknown key python2", "allowed: title, description")),
        (('[python]\nversion = "3.13"', "python = 3"), ("python = 3", "allowed: a table")),
    ],
)
def test_a_mistake_names_file_key_and_allowed_values(folder: Path, edit: tuple[str, str], expected: tuple[str, ...]) -> None:
    message = broken(folder, GOOD.replace(*edit))
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('[torch]\nsource = "wheel"\n', "torch.version is missing"),
        ('[nvshmem]\nsource = "source"\nversion = "3.4.5"\n', "nvshmem.commit or nvshmem.url is missing"),
        ('[deepep]\ngeneration = "v1"\nurl = "https://h/x"\ncommit = "5676"\n', "40 hexadecimal digits"),
        ('[deepep]\ngeneration = "v3"\nurl = "https://h/x"\ncommit = "5676"\n', "allowed: v1, v2"),
        ('[cuda]\nversion = "13.0"\narchs = ["9"]\n', "a compute capability such as 9.0"),
        ('[cuda]\nversion = "13.0"\narchs = "9.0"\n', "a list of: a compute capability"),
        ('[cuda]\nversion = "13.0"\narchs = ["9.0"]\nsource = "base"\n', "only a registry base brings CUDA"),
        ("[build]\nmax_jobs = true\n", "a whole number"),
    ],
)
def test_sections_are_checked(folder: Path, section: str, expected: str) -> None:
    assert expected in broken(folder, GOOD + section)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (
            'kind = "registry"\ntitle = "R"\nimage = "h/i:1"\ndigest = "sha256:12"',
            "r.digest = 'sha256:12' is not allowed; allowed: sha256:",
        ),
        ('kind = "registry"\ntitle = "R"\nimage = "h/i:1"', "r.digest is missing"),
        ('kind = "debian"\ntitle = "R"\nepoch = 1', "r.suite is missing"),
        ('kind = "rpm"\ntitle = "R"', "allowed: debian, registry"),
    ],
)
def test_bases_are_checked(folder: Path, base: str, expected: str) -> None:
    (folder / "bases.toml").write_text(BASES + f"[r]\n{base}\n")
    with pytest.raises(UsageError) as caught:
        recipe.load_recipe("good", folder)
    assert expected in str(caught.value)
    assert "bases.toml" in str(caught.value)


def test_no_toml_is_one_line_too(folder: Path) -> None:
    assert "bad.toml" in broken(folder, "title = ")


def test_extends_lays_tables_over_each_other(folder: Path) -> None:
    (folder / "parent.toml").write_text(GOOD + '[packages]\nruntime = ["a1", "b2"]\nbuild = ["gcc"]\n')
    (folder / "child.toml").write_text('extends = "parent"\ntitle = "C"\n[packages]\nruntime = ["c3"]\n')
    child = recipe.load_recipe("child", folder)
    assert (child.title, child.description) == ("C", "D")
    assert child.packages == recipe.Packages(("c3",), ("gcc",))


def test_extends_refuses_circles_and_strangers(folder: Path) -> None:
    (folder / "one.toml").write_text('extends = "two"\n')
    (folder / "two.toml").write_text('extends = "one"\n')
    with pytest.raises(UsageError, match="goes in a circle"):
        recipe.load_recipe("one", folder)
    assert "extends = 'nobody' is not allowed; allowed: good" in broken(folder, 'extends = "nobody"\n')


def test_a_registry_base_is_pinned_by_digest(folder: Path) -> None:
    from images.build.base import reference

    (folder / "bases.toml").write_text(BASES + f'[r]\nkind = "registry"\ntitle = "R"\nimage = "h.example/i:1"\ndigest = "{DIGEST}"\n')
    (folder / "reg.toml").write_text('extends = "good"\nbase = "r"\n')
    assert reference(recipe.load_recipe("reg", folder).base) == f"h.example/i:1@{DIGEST}"

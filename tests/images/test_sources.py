"""--source: a repository or tarball that holds the pinned commit, clean, or a refusal that says why."""

import dataclasses
import gzip
import subprocess
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from images import recipe, sources


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "checkout"
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q", str(path)], ["-C", str(path), *identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    (path / "file").write_text("content")
    for command in (["add", "file"], [*identity, "commit", "-q", "-m", "two"]):
        subprocess.run(["git", "-C", str(path), *command], check=True)
    return path, subprocess.run(["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def with_deepep(commit: str) -> recipe.Recipe:
    return dataclasses.replace(recipe.load_recipe("cpu"), deepep=recipe.DeepEP("v1", "https://h.example/d", commit))


def test_a_checkout_a_bare_clone_and_their_tarballs_give_the_same_tree(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(path), str(bare)], check=True)
    sources.archive("deepep", path, commit, tmp_path / "1.tar")
    sources.archive("deepep", bare, commit, tmp_path / "2.tar")
    (tmp_path / "given.tar.gz").write_bytes(gzip.compress((tmp_path / "1.tar").read_bytes()))
    sources.archive("deepep", tmp_path / "given.tar.gz", commit, tmp_path / "3.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes() == (tmp_path / "3.tar").read_bytes()


def test_refusals_say_why(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    out = tmp_path / "out.tar"
    with pytest.raises(UsageError, match="does not contain the pinned commit"):
        sources.archive("deepep", path, "0" * 40, out)
    with pytest.raises(UsageError, match="is no git repository"):
        sources.archive("deepep", tmp_path, commit, out)
    (tmp_path / "text").write_text("x")
    with pytest.raises(UsageError, match="is no tarball"):
        sources.archive("deepep", tmp_path / "text", commit, out)
    sources.archive("deepep", path, commit, tmp_path / "good.tar")
    with pytest.raises(UsageError, match=f"holds commit {commit}, the recipe pins {'0' * 40}"):
        sources.archive("deepep", tmp_path / "good.tar", "0" * 40, out)
    (path / "file").write_text("edited")
    with pytest.raises(UsageError, match="uncommitted changes"):
        sources.archive("deepep", path, commit, out)
    assert not out.exists()


def test_names_are_the_recipe_s_parts(tmp_path: Path) -> None:
    what = with_deepep("1" * 40)
    assert sources.parse([f"deepep={tmp_path}"], what) == {"deepep": tmp_path.resolve()}
    for word in ("deepp=/x", "deepep", f"nvshmem={tmp_path}"):
        with pytest.raises(UsageError, match="allowed: deepep=PATH"):
            sources.parse([word], what)
    with pytest.raises(UsageError, match="does not exist"):
        sources.parse([f"deepep={tmp_path}/absent"], what)
    with pytest.raises(UsageError, match="recipe cpu fetches no source"):
        sources.parse([f"deepep={tmp_path}"], recipe.load_recipe("cpu"))

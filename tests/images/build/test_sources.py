"""--source: a repository or tarball that holds the pinned commit, clean, or a refusal that says why."""

import dataclasses
import gzip
import subprocess
from pathlib import Path

import pytest

from entrypoints.errors import EngineError, UsageError
from images.build import base, engine, lock, recipe, sources
from images.build import image as build
from images.options import BuildOptions


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
    with pytest.raises(UsageError, match="not a git repository"):
        sources.archive("deepep", tmp_path, commit, out)
    (tmp_path / "text").write_text("x")
    with pytest.raises(UsageError, match="not a tarball"):
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


def run_git(path: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "protocol.file.allow=always", "-C", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def odd(tmp_path: Path, repository: tuple[Path, str]) -> tuple[Path, str, str]:
    """A checkout with a program, a link, folders that sort oddly, and a submodule: its path, its commit, the submodule's commit."""
    path, module = repository
    top = tmp_path / "odd"
    subprocess.run(["git", "init", "-q", str(top)], check=True)
    for name in ("a/b/c", "a.txt", "a-b", "a0/d", "tool"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    (top / "tool").chmod(0o755)
    (top / "link").symlink_to("a/b")
    run_git(top, "submodule", "--quiet", "add", str(path), "third-party/part")
    run_git(top, "add", ".")
    run_git(top, "commit", "-q", "-m", "all")
    return top, run_git(top, "rev-parse", "HEAD"), module


def test_the_tree_hash_of_an_archive_is_git_s_own(tmp_path: Path, odd: tuple[Path, str, str]) -> None:
    top, commit, module = odd
    sources.archive("deepep", top, commit, tmp_path / "a.tar")
    tree = run_git(top, "rev-parse", f"{commit}^{{tree}}")
    assert sources.tree_of(tmp_path / "a.tar", [module]) == tree
    assert sources.tree_of(tmp_path / "a.tar", ["0" * 40]) != tree
    assert sources.tree_of(tmp_path / "a.tar") != tree


def locked(commit: str, tree: str | None) -> lock.Lock:
    git = {"deepep": lock.Commit("https://h.example/d", commit, tree)}
    return lock.Lock(recipe="cpu", base=lock.LockedBase("trixie", ""), git=git)


def test_a_tarball_that_claims_the_pinned_commit_is_unmasked_by_its_tree(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    tree = run_git(path, "rev-parse", f"{commit}^{{tree}}")
    sources.archive("deepep", path, commit, tmp_path / "good.tar")
    lock.check_tree("deepep", tmp_path / "good.tar", locked(commit, tree))
    forged = (tmp_path / "good.tar").read_bytes().replace(b"content", b"CONTENT")
    (tmp_path / "forged.tar").write_bytes(forged)
    sources.archive("deepep", tmp_path / "forged.tar", commit, tmp_path / "out.tar")  # its header says the right commit
    with pytest.raises(EngineError, match=rf"deepep {commit[:12]} has tree [0-9a-f]{{40}}, the lock says {tree}") as caught:
        lock.check_tree("deepep", tmp_path / "out.tar", locked(commit, tree))
    assert caught.value.exit_code == 10 and not (tmp_path / "out.tar").exists()
    lock.check_tree("deepep", tmp_path / "forged.tar", locked(commit, None))  # a lock without tree hash cannot tell
    lock.check_tree("deepep", tmp_path / "forged.tar", None)


def test_a_replaced_commit_in_a_repository_does_not_count(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    tree = run_git(path, "rev-parse", f"{commit}^{{tree}}")
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(path), str(bare)], check=True)
    run_git(bare, "replace", commit, run_git(bare, "rev-parse", f"{commit}^"))
    assert run_git(bare, "rev-parse", f"{commit}^{{tree}}") != tree
    sources.archive("deepep", bare, commit, tmp_path / "out.tar")
    lock.check_tree("deepep", tmp_path / "out.tar", locked(commit, tree))


def test_attributes_that_change_an_archive_are_unmasked(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    tree = run_git(path, "rev-parse", f"{commit}^{{tree}}")
    (path / ".git" / "info" / "attributes").write_text("file export-ignore\n")
    sources.archive("deepep", path, commit, tmp_path / "out.tar")
    with pytest.raises(EngineError, match=f"has tree .*, the lock says {tree}") as caught:
        lock.check_tree("deepep", tmp_path / "out.tar", locked(commit, tree))
    assert caught.value.exit_code == 10


def test_a_wrong_tree_ends_the_build_before_the_engine_makes_anything(
    tmp_path: Path, repository: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, commit = repository
    what = with_deepep(commit)
    monkeypatch.setattr(recipe, "load_recipe", lambda name: what)
    monkeypatch.setattr(lock, "load", lambda *words: locked(commit, "0" * 40))
    monkeypatch.setattr(lock, "check", lambda *words: None)
    monkeypatch.setattr(engine, "ensure", lambda choice: engine.Engine("unix:///nowhere", True, "20.10"))
    monkeypatch.setattr(engine, "buildkit_cli", lambda: ("docker", "build"))
    monkeypatch.setattr(base, "ensure", lambda *words: pytest.fail("a base was made"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    with pytest.raises(EngineError, match=f"the lock says {'0' * 40}"):
        build.build(BuildOptions("cpu", source=(f"deepep={path}",)))
    assert not list((tmp_path / "tmp").iterdir())


def test_a_truncated_tarball_is_a_usage_error_and_leaves_nothing(tmp_path: Path, repository: tuple[Path, str]) -> None:
    path, commit = repository
    sources.archive("deepep", path, commit, tmp_path / "good.tar")
    whole = gzip.compress((tmp_path / "good.tar").read_bytes(), mtime=0)
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) - 12])
    with pytest.raises(UsageError, match=r"--source deepep=.*cut\.tar\.gz: (cannot be unpacked|not a tarball)"):
        sources.archive("deepep", tmp_path / "cut.tar.gz", commit, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()

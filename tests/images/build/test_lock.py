"""Locks: a changed byte is caught and named, a vanished version is drift, and rendering reads nothing else."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.errors import EngineError, UsageError
from images.build import debian, engine, lock, recipe, render
from images.build import image as build
from images.build.debian import Package
from images.build.lock import Lock
from images.options import BuildOptions


@pytest.fixture
def cpu() -> recipe.Recipe:
    return recipe.load_recipe("cpu")


@pytest.fixture
def locked(cpu: recipe.Recipe) -> Lock:
    document = lock.load(cpu)
    assert document is not None
    return document


def offered(packages: Mapping[str, Package]) -> dict[str, list[Package]]:
    """A mirror that has exactly these packages."""
    return {name: [package] for name, package in packages.items()}


def test_the_locks_in_the_repository_fit_their_recipes() -> None:
    assert lock.load(recipe.load_recipe("cpu")) is not None
    for name in recipe.names():
        what = recipe.load_recipe(name)
        document = lock.load(what)
        lock.check(what, document)
        path = lock.LOCKS / name / "lock.json"
        if document is not None:
            assert path.read_text() == lock.text(document)


def test_every_package_of_the_lock_has_version_and_sha256(locked: Lock) -> None:
    packages = locked.runtime_packages()
    assert set(locked.asked["runtime"]) <= set(packages) and len(packages) > 150
    assert all(len(each.sha256) == 64 and each.version for each in packages.values())
    assert not set(locked.base_packages) & set(locked.packages["runtime"])
    assert set(locked.archive) == {"trixie", "trixie-updates", "trixie-security"}


def test_a_mirror_that_has_all_is_no_drift(locked: Lock) -> None:
    packages = locked.packages["runtime"]
    assert debian.drift(packages, offered(packages)) == ()


def test_a_package_that_left_the_mirror_is_named(locked: Lock) -> None:
    packages = locked.packages["runtime"]
    mirror = offered(packages)
    old = packages["perftest"].version
    mirror["perftest"] = [Package("99", "amd64", "0" * 64)]
    del mirror["numactl"]
    assert debian.drift(packages, mirror) == (f"numactl {packages['numactl'].version} -> none", f"perftest {old} -> 99")


def test_one_digit_of_a_deb_hash_is_fatal_and_named(locked: Lock) -> None:
    packages = locked.packages["runtime"]
    numactl = packages["numactl"]
    other = replace(numactl, sha256=("1" if numactl.sha256[0] == "0" else "0") + numactl.sha256[1:])
    with pytest.raises(EngineError, match=r"numactl .* has sha256 .* the lock says") as caught:
        debian.drift({**packages, "numactl": other}, offered(packages))
    assert caught.value.exit_code == 10


def test_a_recipe_that_went_on_needs_a_new_lock(cpu: recipe.Recipe, locked: Lock) -> None:
    locked = replace(locked, asked={"runtime": tuple(name for name in locked.asked["runtime"] if name != "perftest")})
    with pytest.raises(UsageError, match=r"locks other packages.*\./inv lock --recipe cpu"):
        lock.check(cpu, locked)


def gpu_lock(folder: Path) -> tuple[recipe.Recipe, Lock]:
    """deepep-v1 with its lock beside a copy of its wheel lists."""
    what = recipe.load_recipe("deepep-v1")
    shutil.copytree(lock.LOCKS / what.name, folder / what.name)
    document = lock.load(what, folder)
    assert document is not None
    return what, document


def test_one_byte_of_a_wheel_hash_is_fatal_and_its_list_is_named(tmp_path: Path) -> None:
    what, document = gpu_lock(tmp_path)
    lock.check(what, document, tmp_path)
    path = tmp_path / what.name / "torch.txt"
    text = path.read_text()
    at = text.index("sha256:") + 7
    path.write_text(text[:at] + ("1" if text[at] == "0" else "0") + text[at + 1 :])
    with pytest.raises(EngineError, match=r"torch\.txt is not the one that was locked") as caught:
        lock.check(what, document, tmp_path)
    assert caught.value.exit_code == 10


def test_another_commit_is_fatal_and_named(tmp_path: Path) -> None:
    what, document = gpu_lock(tmp_path)
    document = replace(document, git={**document.git, "nvshmem": replace(document.git["nvshmem"], commit="0" * 40)})
    with pytest.raises(EngineError, match=r"locks commit 0{40} of nvshmem, the recipe pins 131da55f") as caught:
        lock.check(what, document, tmp_path)
    assert caught.value.exit_code == 10


def test_another_commit_ends_the_build_before_an_engine_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, document = gpu_lock(tmp_path)
    document = replace(document, git={**document.git, "deepep": replace(document.git["deepep"], commit="0" * 40)})
    monkeypatch.setattr(lock, "load", lambda *words: document)
    monkeypatch.setattr(engine, "ensure", lambda *words: pytest.fail("an engine was asked"))
    with pytest.raises(EngineError, match=r"deepep-v1/lock\.json: locks commit 0{40} of deepep") as caught:
        build.build(BuildOptions("deepep-v1"))
    assert caught.value.exit_code == 10


PIP = """#14 9.871 ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.
#14 9.872     torch==2.11.0 from https://files.example/torch-2.11.0-cp313.whl (from -r /run/locks/torch.txt (line 1)):
#14 9.873         Expected sha256 aaaa
#14 9.873         Expected     or bbbb
#14 9.874              Got        cccc
"""


def test_a_wheel_of_another_hash_is_named_from_pip_s_words() -> None:
    assert build._other_hash(PIP) == "torch==2.11.0 has sha256 cccc, the lock says aaaa or bbbb"
    one = PIP.replace("#14 9.873         Expected     or bbbb\n", "")
    assert build._other_hash(one) == "torch==2.11.0 has sha256 cccc, the lock says aaaa"
    assert build._other_hash("#14 1.0 epbox: lock: numactl 1 has sha256 a, the lock says b\n") == "numactl 1 has sha256 a, the lock says b"
    assert build._other_hash("#14 1.0 Got cccc\n") is None


def test_pins_are_one_line_a_package_and_dropped_ones_float(locked: Lock) -> None:
    lines = lock.pins(locked)["runtime"].splitlines()
    assert len(lines) == len(locked.packages["runtime"]) and all(len(line.split()) == 4 for line in lines)
    assert "numactl * * *" in lock.pins(locked, frozenset({"numactl"}))["runtime"].splitlines()


def test_a_locked_context_installs_from_pins_and_an_unlocked_one_does_not(cpu: recipe.Recipe, locked: Lock, tmp_path: Path) -> None:
    out = render.render_to(cpu, tmp_path / "locked", locked)
    text = (out / "Dockerfile").read_text()
    assert "sh /run/steps/apt-install.sh /run/locks/debian/runtime.txt\n" in text and 'epbox.lock.drift="${EPBOX_LOCK_DRIFT}"' in text
    assert (out / "locks/debian/runtime.txt").read_text() == lock.pins(locked)["runtime"]
    assert (out / "epbox/lock.json").read_text() == lock.text(locked) == (lock.LOCKS / "cpu/lock.json").read_text()
    bare = render.render_dockerfile(cpu)
    assert "locks/debian" not in bare and "python3-torch \\\n" in bare and "drift" not in bare


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "epbox.lock/9"}, "schema 'epbox.lock/9', this program reads"),
        ({"base": {"name": "trixie"}}, "key base.digest is missing"),
        ({"base_packages": {"bash": {"version": 5, "arch": "amd64", "sha256": ""}}}, "base_packages.bash.version = 5 is not allowed"),
        ({"git": []}, r"git = \[\] is not allowed"),
        ({"extra": 1}, "unknown key extra"),
    ],
)
def test_a_broken_lock_is_a_usage_error(cpu: recipe.Recipe, tmp_path: Path, change: dict[str, object], words: str) -> None:
    (tmp_path / "cpu").mkdir()
    document = json.loads((lock.LOCKS / "cpu/lock.json").read_text())
    (tmp_path / "cpu" / "lock.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(UsageError, match=rf"not a lock: {words}.*\./inv lock --recipe cpu"):
        lock.load(cpu, tmp_path)
    for content in ("{", "[]"):
        (tmp_path / "cpu" / "lock.json").write_text(content)
        with pytest.raises(UsageError, match=r"not a lock.*\./inv lock --recipe cpu"):
            lock.load(cpu, tmp_path)


def test_dpkg_status_is_read_by_what_is_installed() -> None:
    status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert debian.installed(status) == {"a": "1:2-3"}

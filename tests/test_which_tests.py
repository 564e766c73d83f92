"""What a run of the tests collects: nothing that needs files from outside the checkout, and nothing that was left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.build import hostconfig
from tests.helpers import tools, torch_python

ROOT = Path(__file__).parents[1]


def collect(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EPBOX_", "PYTEST_"))}
    return subprocess.run(command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=250)


def test_posted_files_are_read_only_where_they_are_named() -> None:
    ended = collect("tests/originals")
    assert ended.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, ended.stdout
    assert "error" not in ended.stdout and "skipped" not in ended.stdout


def test_a_folder_of_posted_files_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = collect("tests/originals", EPBOX_ORIGINALS=str(tmp_path / "absent"))
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        ended.stderr.strip() == f"ERROR: EPBOX_ORIGINALS={tmp_path}/absent: no such folder; name the one with the posted files, or unset it"
    )


def test_what_is_left_out_is_not_shown_as_skipped() -> None:
    words = ("tests/container/test_seccomp.py", "tests/guest/test_place.py", "tests/entrypoints/workloads/test_tensors.py")
    with_all = collect(*words).stdout
    assert all(word in with_all for word in words)
    without = collect(*words, EPBOX_TEST_CONTAINER="0", EPBOX_TEST_GUEST="0").stdout
    assert "tests/container" not in without and "tests/guest" not in without
    assert ("tests/entrypoints/workloads/test_tensors.py::" in without) is (torch_python.on_this_host() is not None)
    assert "--no-container: tests that need a container were not collected" in without
    assert "--no-guest: tests that need a guest were not collected" in without


def test_a_missing_tool_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PATH", "/nonexistent")
    with pytest.raises(tools.Missing, match=r"no lstopo here: as root .* \./inv test installs it \(apt-get install hwloc-nox\)"):
        tools.path("lstopo")


def test_only_what_a_part_of_the_tests_starts_is_installed_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []
    monkeypatch.setattr(tools, "PATH", "/nonexistent")
    monkeypatch.setattr(hostconfig, "can_install", lambda: True)
    monkeypatch.setattr(hostconfig, "install", lambda packages, why: installed.append(packages))
    tools.install(container=False, guest=False)
    tools.install(container=True, guest=True)
    plain, everything = map(set, installed)
    assert {"chromium", "skopeo", "hwloc-nox"} <= plain < everything
    assert {"slurm-wlm", "openmpi-bin", "qemu-system-x86"} <= everything - plain

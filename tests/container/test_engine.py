"""The private engine's life, in a state folder of its own beside whatever else runs."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from images.build import engine, hostconfig, private_engine
from images.build import image as build
from images.options import BuildOptions

pytestmark = pytest.mark.skipif(not hostconfig.can_install(), reason="a private engine needs root on Debian or Ubuntu")


@pytest.fixture
def state(engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[private_engine.Layout]:
    """An unused state folder; whatever was started in it is ended."""
    monkeypatch.setenv("EPBOX_STATE", str(tmp_path))
    yield private_engine.layout()
    private_engine.stop()
    shutil.rmtree(private_engine.layout().state)


def holders(place: private_engine.Layout) -> list[list[str]]:
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(str(place.run) in word for word in command)]


def test_start_answer_stop_and_nothing_is_left(state: private_engine.Layout) -> None:
    assert private_engine.start() is True
    assert private_engine.ping(state.url) is not None
    assert private_engine.start() is False
    assert private_engine.stop() is True
    assert private_engine.ping(state.url) is None
    assert not holders(state)
    assert not (state.run / "docker.sock").exists()
    assert private_engine.stop() is False


def test_two_starters_at_once_start_one(state: private_engine.Layout) -> None:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(private_engine.start())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, True]
    assert len([command for command in holders(state) if "dockerd" in command[0]]) == 1


def test_stop_ends_what_a_killed_daemon_left(state: private_engine.Layout) -> None:
    private_engine.start()
    pid = private_engine.daemon_pid(state)
    assert pid is not None
    psutil.Process(pid).kill()
    private_engine.stop()
    assert not holders(state)
    assert private_engine.start() is True


def test_a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting(state: private_engine.Layout) -> None:
    """What a killed daemon left, after its containerd's number became another process's (or while that process still dies)."""
    containerd_pid_file = state.run / "containerd" / "containerd.pid"
    containerd_pid_file.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        for path in (containerd_pid_file, state.pid_file):
            path.write_text(str(stranger.pid))
        try:
            assert private_engine.start() is True
            assert private_engine.ping(state.url) is not None
            private_engine.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_daemon_that_is_there_is_used_and_left_alone(engine: engine.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    monkeypatch.setenv("EPBOX_STATE", str(tmp_path))
    command = [sys.executable, "-m", "invoke", "engine.stop"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "private engine: not running\n"
    assert "Docker" in subprocess.run([*command[:-1], "engine.status"], capture_output=True, text=True, check=True).stdout


def test_a_failed_build_leaves_no_tag_and_shows_its_end(
    engine: engine.Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    from entrypoints.errors import EngineError
    from images.build import recipe

    what = recipe.load_recipe("cpu")
    broken = dataclasses.replace(what, name="broken", packages=recipe.Packages(("no-such-package-for-epbox",)))
    monkeypatch.setattr(recipe, "load_recipe", lambda name: broken)
    with pytest.raises(EngineError, match="package archive does not have a package") as caught:
        build.build(BuildOptions("broken"))
    assert caught.value.exit_code == 10
    assert "Unable to locate package no-such-package-for-epbox" in capsys.readouterr().err
    assert not [tag for image in engine.client().images.list() for tag in image.tags if "broken" in tag]

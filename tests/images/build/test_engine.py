"""Choosing a CLI and a daemon, with stand-ins on PATH; no engine is needed or touched."""

from pathlib import Path

import pytest

from entrypoints.errors import EngineError, UsageError
from images.build import engine, hostconfig, private_engine
from images.options import BenchOptions
from images.run import host as bench_host


def fake_docker(folder: Path, version: str, buildx: bool) -> Path:
    folder.mkdir(parents=True)
    path = folder / "docker"
    path.write_text(f'#!/bin/sh\n[ "$1" = buildx ] && exit {0 if buildx else 1}\necho "Docker version {version}, build 0"\n')
    path.chmod(0o755)
    return path


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setenv("PATH", ":".join(map(str, folders)))
    monkeypatch.setattr(engine, "CLI_FOLDERS", ())


def test_a_cli_without_buildx_is_passed_over_for_an_old_one_that_has_buildkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path / "a", "28.2.2", buildx=False)
    old = fake_docker(tmp_path / "b", "20.10.24+dfsg1", buildx=False)
    only(monkeypatch, tmp_path / "a", tmp_path / "b", Path("/bin"))
    assert engine.buildkit_cli() == (str(old), "build")


def test_a_cli_with_buildx_loads_what_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_docker(tmp_path / "a", "28.2.2", buildx=True)
    only(monkeypatch, tmp_path / "a")
    assert engine.buildkit_cli() == (str(path), "buildx", "build", "--load")


def test_no_usable_cli_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, tmp_path)
    with pytest.raises(EngineError, match="no docker CLI"):
        engine.buildkit_cli()
    fake_docker(tmp_path / "a", "28.2.2", buildx=False)
    only(monkeypatch, tmp_path / "a")
    with pytest.raises(EngineError, match="docker-buildx") as caught:
        engine.buildkit_cli()
    assert caught.value.exit_code == 10


def test_a_docker_host_that_is_silent_is_an_error_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineError, match="no daemon answers"):
        engine.ensure()


def test_without_root_the_ways_to_an_engine_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("EPBOX_STATE", str(tmp_path))
    monkeypatch.setattr(engine, "DEFAULT_URL", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(hostconfig, "can_install", lambda: False)
    with pytest.raises(EngineError, match="--engine host") as caught:
        engine.ensure()
    assert caught.value.exit_code == 10
    assert "DOCKER_HOST" in str(caught.value)


@pytest.mark.parametrize("choice", ["podman", "host"])
def test_a_wrong_engine_is_a_usage_error(choice: str) -> None:
    with pytest.raises(UsageError, match="allowed: auto, docker"):
        engine.ensure(choice)


def test_a_deep_checkout_gets_a_short_socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPBOX_STATE", str(tmp_path / ("x" * 100)))
    layout = private_engine.layout()
    assert len(str(layout.run / "containerd" / "containerd-debug.sock")) <= 104
    monkeypatch.setenv("EPBOX_STATE", "/s")
    assert private_engine.layout().run == Path("/s/engine/run")


def test_a_stale_pid_file_is_no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    layout = private_engine.Layout(tmp_path / "state", tmp_path / "run")
    monkeypatch.setattr(private_engine, "layout", lambda: layout)
    layout.run.mkdir(parents=True)
    layout.pid_file.write_text(str(os.getpid()))
    assert private_engine.daemon_pid(layout) is None
    assert private_engine.stop() is False


def test_os_release(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('NAME="X"\nID=linuxmint\nID_LIKE="ubuntu debian"\n# c\n')
    fields = hostconfig.os_release(tmp_path / "r")
    assert hostconfig.debian_like(fields)
    assert not hostconfig.debian_like({"ID": "fedora"})
    assert hostconfig.os_release(tmp_path / "absent") == {}


def test_the_recipe_that_fits_comes_with_its_reason(tmp_path: Path) -> None:
    assert bench_host.gpu_count(tmp_path) == 0
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert bench_host.gpu_count(tmp_path) == 1
    assert bench_host.pick_recipe(0) == ("cpu", "no NVIDIA GPU on this host")
    assert "1 NVIDIA GPU on this host" in bench_host.pick_recipe(1)[1]


def test_node_arguments() -> None:
    words = bench_host.node_arguments(BenchOptions(arguments=("--num-tokens", "64")), 1, "/results", 0)
    assert words[:5] == ["bench", "--nodes", "2", "--node-rank", "1"]
    assert words[-4:] == ["--ranks", "2", "--num-tokens", "64"]
    assert "--ranks" not in bench_host.node_arguments(BenchOptions(), 0, "/results", 8)

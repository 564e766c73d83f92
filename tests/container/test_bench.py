"""bench in containers: right numbers, and clean ends of wrong ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from images.build import image as build
from tests.helpers.patience import busy

pytestmark = pytest.mark.slow
#: Enough work that a rank can be killed in the middle; the run itself is never awaited.
LONG = ("--num-tokens", "512", "--hidden", "2048", "--runs", "100")


def invoke(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "invoke", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=250)


def rank_processes(container: Any) -> list[psutil.Process]:
    """The ranks of a container as this host sees them: the children of its first process."""
    container.reload()
    children = psutil.Process(container.attrs["State"]["Pid"]).children(recursive=True)
    return [child for child in children if "rank" in " ".join(child.cmdline())]


def wait_for_ranks(container: Any, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + busy(60)
    while time.monotonic() < deadline:
        if b"tokens x" in container.logs() and len(found := rank_processes(container)) >= count:
            return found
        time.sleep(0.2)
    raise AssertionError(container.logs().decode())


def test_four_ranks_of_one_node(run: Any) -> None:
    code, text = run("bench", "--nodes", "1", "--ranks", "4", "--master-port", "18471")
    assert code == 0, text
    assert "dispatch" in text and "combine" in text and "numbers right" in text


def test_two_nodes_by_one_command(cpu: build.Image, tmp_path: Path) -> None:
    done = invoke("bench", "--out", str(tmp_path / "out"), "--recipe", "cpu")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["schema"], result["status"], result["exit_code"]) == ("epbox.result/1", "ok", 0)
    assert result["shape"]["nodes"] == 2
    assert [node["hostname"] for node in result["nodes"]] == ["node0", "node1"]
    assert result["engine"] == "docker"
    assert result["image"]["recipe"] == "cpu"
    assert {row["op"] for run in result["runs"] for row in run["best"]} == {"dispatch", "combine"}
    assert "numbers right" in done.stderr
    assert not cpu.engine.client().containers.list(all=True, filters={"label": "epbox.run"})


def test_a_killed_rank_is_named_within_ten_seconds(start: Any) -> None:
    container = start("bench", "--nodes", "1", "--ranks", "2", "--master-port", "18481", *LONG)
    victims = wait_for_ranks(container, 2)
    victims[-1].kill()
    began = time.monotonic()
    assert container.wait(timeout=150)["StatusCode"] == 4
    assert time.monotonic() - began < busy(10)
    text = container.logs().decode()
    assert "SIGKILL" in text and "rank" in text
    assert not [process for process in victims if process.is_running()]


def test_ctrl_c_ends_a_container_with_130(start: Any) -> None:
    container = start("bench", "--nodes", "1", "--ranks", "2", "--master-port", "18491", *LONG)
    ranks = wait_for_ranks(container, 2)
    container.kill("SIGINT")
    assert container.wait(timeout=150)["StatusCode"] == 130
    assert not [process for process in ranks if process.is_running()]


def test_ctrl_c_ends_the_command_and_its_containers(cpu: build.Image, tmp_path: Path) -> None:
    arguments = " ".join(LONG)
    command = [sys.executable, "-m", "invoke", "bench", "--recipe", "cpu", "--out", str(tmp_path / "out"), "--args", arguments]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        client = cpu.engine.client()
        deadline = time.monotonic() + busy(60)
        while time.monotonic() < deadline and "tokens x" not in (tmp_path / "log").read_text():
            time.sleep(0.2)
        assert len(client.containers.list(filters={"label": "epbox.run"})) == 2, (tmp_path / "log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=150) == 130, (tmp_path / "log").read_text()
    assert not client.containers.list(all=True, filters={"label": "epbox.run"})
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_wrong_shape_is_a_usage_error(run: Any) -> None:
    code, text = run("bench", "--nodes", "1", "--ranks", "2", "--num-tokens", "-3")
    assert code == 2, text
    assert "Traceback" not in text


@pytest.mark.parametrize("words", [("--recipe", "cpuu"), ("--recipe", "cpu", "--source", "deepep=/absent")])
def test_a_wrong_recipe_or_source_is_one_line_and_exit_2(words: tuple[str, ...]) -> None:
    done = invoke("build", *words)
    assert done.returncode == 2
    assert "allowed" in done.stderr and len(done.stderr.strip().splitlines()) == 1

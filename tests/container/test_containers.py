"""The commands of docker.render, run as printed: two nodes on one host, with a stand-in host list of one address."""

import json
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from images.build import image as builder
from images.run.schedulers.docker import ContainerOptions, render
from tests.helpers import compose
from tests.helpers.bench_process import free_port
from tests.helpers.patience import busy

pytestmark = [pytest.mark.container, pytest.mark.slow]
SHORT = ("--ranks", "2", "--quiet", "--num-tokens", "64", "--repeats", "3")
OPTIONS = ContainerOptions(gpus="none", workload="alltoall", arguments=SHORT, allow_tag=True)


def start(cpu: builder.Image, folder: Path, options: ContainerOptions) -> list["subprocess.Popen[str]"]:
    """Each node's command in a shell of its own, as on hosts of their own."""
    text = render(replace(options, image="epbox-test:cpu", master_port=free_port()))
    environ = {**os.environ, "DOCKER_HOST": cpu.engine.url, "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            ["sh", "-euc", f"# node {block}"], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for block in text.split("# node ")[1:]
    ]


def test_printed_commands_run_two_nodes(cpu: builder.Image, tmp_path: Path) -> None:
    nodes = start(cpu, tmp_path, replace(OPTIONS, name="epbox-printed"))
    ends = [node.communicate(timeout=busy(60)) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    result = json.loads((tmp_path / "results" / "result.json").read_text())
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]
    # The flags are doctor's own advice, so doctor has nothing to add; SYS_NICE opened the memory policy.
    warned = [check["id"] for check in result["nodes"][0]["doctor"]["checks"] if check["status"] in ("WARN", "FAIL")]
    assert not {"container.runtime", "container.shm", "container.mempolicy"} & set(warned), warned
    assert {path.stat().st_uid for path in (tmp_path / "results").iterdir()} == {os.getuid()}


def test_the_compose_file_runs_two_nodes(cpu: builder.Image, tmp_path: Path) -> None:
    words = [*compose.command(), "-p", "epbox-compose"]
    options = replace(OPTIONS, format="compose", name="epbox-composed", image="epbox-test:cpu", master_port=free_port())
    (tmp_path / "compose.yaml").write_text(render(options))
    environ = {**os.environ, "DOCKER_HOST": cpu.engine.url, "MASTER_ADDR": "127.0.0.1", "EPBOX_USER": f"{os.getuid()}:{os.getgid()}"}
    (tmp_path / "results").mkdir()

    def run(verb: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*words, verb], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200)

    try:
        done = run("up")
        ended = [cpu.engine.client().containers.get(f"epbox-composed-node{node}").wait()["StatusCode"] for node in (0, 1)]
    finally:
        run("down")
    assert (done.returncode, ended) == (0, [0, 0]), done.stdout + done.stderr
    result = json.loads((tmp_path / "results" / "result.json").read_text())
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]


def test_docker_stop_ends_both_nodes_with_a_record(cpu: builder.Image, tmp_path: Path) -> None:
    nodes = start(cpu, tmp_path, replace(OPTIONS, name="epbox-stopped", arguments=(*SHORT[:-1], "100000")))
    log = tmp_path / "results" / "rank-0.log"
    until = time.monotonic() + busy(60)
    while not (log.exists() and "passed" in log.read_text()):
        assert time.monotonic() < until and all(node.poll() is None for node in nodes), [node.communicate() for node in nodes]
        time.sleep(0.3)
    # docker's own grace before it kills is 10 s.
    stop = shlex.split(f"docker stop --time {busy(10):.0f} epbox-stopped-node1")
    subprocess.run(stop, env={**os.environ, "DOCKER_HOST": cpu.engine.url}, check=True, timeout=busy(60))
    ends = [node.communicate(timeout=busy(60)) for node in nodes]
    assert [node.returncode for node in nodes] == [143, 143], ends
    result = json.loads((tmp_path / "results" / "result.json").read_text())
    assert result["exit_code"] == 143 and "SIGTERM" in result["verdict"]

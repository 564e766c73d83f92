"""The rendered mpirun script under real Open MPI: a good run, and a rank that fails; one result.json comes out."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from images.build import image as builder
from images.run.schedulers.mpi import MpiOptions, render
from tests.cluster.conftest import need, rank_processes
from tests.container.conftest import cpu, engine  # noqa: F401  (fixtures)
from tests.helpers.bench_process import free_port
from tests.helpers.patience import busy

pytestmark = [pytest.mark.container, pytest.mark.slow]
SHORT = ("--ranks", "2", "--no-doctor", "--quiet", "--num-tokens", "64", "--repeats", "3")
LONG = (*SHORT[:-1], "100000")


@pytest.fixture
def script(cpu: builder.Image, tmp_path: Path) -> Any:  # noqa: F811
    """The script for given arguments, with two changes: two processes on one machine stand for two hosts, and root may start them."""
    need("mpirun")
    node = tmp_path / "node.sh"
    names = " ".join(f"-e OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    node.write_text(
        "#!/bin/sh\n"
        # Each is told that it is alone on its host.
        "export OMPI_COMM_WORLD_LOCAL_SIZE=1 OMPI_COMM_WORLD_LOCAL_RANK=0\n"
        f"exec docker --host {cpu.engine.url} run --rm --network host -v {tmp_path}:{tmp_path} --hostname mpi$OMPI_COMM_WORLD_RANK \\\n"
        f"  --cap-add SYS_NICE --shm-size 1g --label epbox.test={tmp_path.name} {names} \\\n"
        f'  -e MASTER_ADDR -e MASTER_PORT -e EPBOX_RUN_ID {cpu.id} "$@"\n'
    )
    node.chmod(0o755)

    def make(*arguments: str) -> list[str]:
        options = MpiOptions(gpus_per_node=0, workload="alltoall", program=str(node), arguments=arguments, master_port=free_port())
        text = render(replace(options, hosts=()))
        assert "--map-by ppr:1:node" in text
        (tmp_path / "run.sh").write_text(text.replace("--map-by ppr:1:node", "--oversubscribe --allow-run-as-root"))
        return ["bash", "run.sh"]

    return make


def environ(tmp_path: Path) -> dict[str, str]:
    """With a run id of this test alone: another run on the machine has its own."""
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", "EPBOX_RUN_ID": str(tmp_path)}


@pytest.fixture
def begin(script: Any, tmp_path: Path, cpu: builder.Image) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:  # noqa: F811
    """Start a long run and wait until its ranks work; whatever is left of it goes with the test."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(script(*LONG), cwd=tmp_path, env=environ(tmp_path), **pipes))
        log = tmp_path / "results" / "mpi" / "rank-0.log"
        until = time.monotonic() + 240
        while not (log.exists() and "passed" in log.read_text()):
            assert started[0].poll() is None and time.monotonic() < until, started[0].communicate()
            time.sleep(0.3)
        return started[0]

    yield start
    for process in started:
        process.kill()
    for container in cpu.engine.client().containers.list(filters={"label": f"epbox.test={tmp_path.name}"}):
        container.remove(force=True)


def test_open_mpi_starts_two_nodes(script: Any, tmp_path: Path) -> None:
    done = subprocess.run(script(*SHORT), cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "results" / "mpi" / "result.json").read_text())
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [node["hostname"] for node in result["nodes"]] == ["mpi0", "mpi1"]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]
    assert "Open MPI" in result["rendezvous"]["source"]


def containers(cpu: builder.Image, tmp_path: Path) -> list[Any]:  # noqa: F811
    return list(cpu.engine.client().containers.list(filters={"label": f"epbox.test={tmp_path.name}"}))


def test_a_rank_that_dies_leaves_a_record_and_its_code(begin: Any, tmp_path: Path, cpu: builder.Image) -> None:  # noqa: F811
    process = begin()
    (victim,) = rank_processes(OMPI_COMM_WORLD_RANK="1", EPBOX_LOCAL_RANK="0", EPBOX_RUN_ID=str(tmp_path))
    victim.send_signal(signal.SIGSEGV)
    out, err = process.communicate(timeout=busy(60))
    assert process.returncode == 4, out + err
    result = json.loads((tmp_path / "results" / "mpi" / "result.json").read_text())
    assert result["exit_code"] == 4 and "SIGSEGV" in result["verdict"] and "mpi1" in result["verdict"], result["verdict"]
    assert len(result["nodes"]) == 2, "both nodes had the time to send their record"
    assert not containers(cpu, tmp_path)


def test_a_stopped_mpirun_stops_everything(begin: Any, tmp_path: Path, cpu: builder.Image) -> None:  # noqa: F811
    process = begin()
    mpirun = next(each for each in psutil.Process(process.pid).children(recursive=True) if each.name() in ("mpirun", "orterun", "prterun"))
    mpirun.terminate()
    out, err = process.communicate(timeout=busy(60))
    assert process.returncode != 0, out + err
    result = json.loads((tmp_path / "results" / "mpi" / "result.json").read_text())
    assert result["status"] == "failed" and result["exit_code"] == 143, result["verdict"]
    begun = time.monotonic()
    while (left := rank_processes(EPBOX_RUN_ID=str(tmp_path))) and time.monotonic() - begun < busy(20):
        time.sleep(0.5)
    assert not left and not containers(cpu, tmp_path)

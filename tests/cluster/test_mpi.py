"""Real Open MPI starts the cpu image on two nodes; one result.json comes out."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from images import build as builder
from tests.cluster.conftest import need
from tests.container.conftest import cpu, engine  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.container, pytest.mark.slow]
BENCH = "bench --workload alltoall --ranks 2 --no-doctor --quiet --out /results -- --num-tokens 64 --repeats 3"


def test_open_mpi_starts_two_nodes(cpu: builder.Image, tmp_path: Path) -> None:  # noqa: F811
    need("openmpi")
    out = tmp_path / "results"
    out.mkdir()
    # Two processes on one machine stand for two hosts, so each is told that it is alone on its own.
    alone = "export OMPI_COMM_WORLD_LOCAL_SIZE=1 OMPI_COMM_WORLD_LOCAL_RANK=0; "
    docker = f'docker --host {cpu.engine.url} run --rm --network host -v {out}:/results --hostname "mpi$OMPI_COMM_WORLD_RANK"'
    names = " ".join(f"-e OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    node = f"{alone}{docker} {names} -e MASTER_ADDR {cpu.id} {BENCH}"
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", "--bind-to", "none", "sh", "-c", node]
    done = subprocess.run(command, env={**os.environ, "MASTER_ADDR": "127.0.0.1"}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [node["hostname"] for node in result["nodes"]] == ["mpi0", "mpi1"]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]

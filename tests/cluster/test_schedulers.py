"""Real Slurm (one controller, two node daemons) and real Open MPI start the cpu image on two nodes; one result.json comes out."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import build as builder
from tests.container.conftest import cpu, engine  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.container, pytest.mark.slow]
PROGRAMS = {"slurm": ("slurm-wlm munge", ("slurmctld", "slurmd", "srun", "munged")), "openmpi": ("openmpi-bin", ("mpirun",))}
BENCH = "bench --workload alltoall --ranks 2 --no-doctor --quiet --out /results -- --num-tokens 64 --repeats 3"


def need(what: str) -> None:
    """Install the packages of a scheduler as root on Debian or Ubuntu; else skip with the reason."""
    packages, programs = PROGRAMS[what]
    if not all(map(shutil.which, programs)) and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages.split()]
        subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, check=False)
    missing = [name for name in programs if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {packages} ({', '.join(missing)} missing)")


def container(image: builder.Image, host: str, out: Path, names: str) -> str:
    """A shell line that runs one node as a container with its own host name and the scheduler's variables."""
    docker = f"docker --host {image.engine.url} run --rm --network host -v {out}:/results"
    scheduler = f'$(env | sed -n "s/^\\(\\({names}\\)[A-Z_0-9]*\\)=.*/-e \\1/p")'
    return f'{docker} --hostname "{host}" {scheduler} -e MASTER_ADDR {image.id} {BENCH}'


def check(out: Path, done: "subprocess.CompletedProcess[str]", hosts: list[str]) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [node["hostname"] for node in result["nodes"]] == hosts
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a private Slurm with nodes n0 and n1 on this machine; ended with the test."""
    need("slurm")
    key, me = Path("/etc/munge/munge.key"), socket.gethostname().split(".")[0]
    if not key.exists():
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge")
    key.chmod(0o400)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    started = [subprocess.Popen(["su", "-s", "/bin/sh", "munge", "-c", "exec munged --foreground --force"], stderr=subprocess.DEVNULL)]
    nodes = "\n".join(f"NodeName=n{i} NodeHostname={me} NodeAddr=127.0.0.1 Port={17101 + i} CPUs=1 State=UNKNOWN" for i in (0, 1))
    (tmp_path / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={me}(127.0.0.1)\nSlurmctldPort=17100\nSlurmUser=root\nAuthType=auth/munge\nReturnToService=2\n"
        f"ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/linear\nStateSaveLocation={tmp_path}\n"
        f"SlurmdSpoolDir={tmp_path}/spool-%n\nSlurmctldPidFile={tmp_path}/ctld.pid\nSlurmdPidFile={tmp_path}/d-%n.pid\n{nodes}\n"
        "PartitionName=all Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP\n"
    )
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    time.sleep(1)
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n0"], ["slurmd", "-D", "-N", "n1"]):
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        end = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%D %t"], env=environment, capture_output=True, text=True).stdout:
            if time.monotonic() > end:
                pytest.fail("Slurm's nodes did not become idle within 60 s")
            time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


def test_slurm_starts_two_nodes(slurm: dict[str, str], cpu: builder.Image, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "results"
    out.mkdir()
    node = container(cpu, "$SLURMD_NODENAME", out, "SLURM_")
    command = ["srun", "-N2", "--ntasks-per-node=1", "--cpu-bind=none", "--mpi=none", "sh", "-c", node]
    done = subprocess.run(command, env={**slurm, "MASTER_ADDR": "127.0.0.1"}, capture_output=True, text=True, timeout=200)
    check(out, done, ["n0", "n1"])


def test_open_mpi_starts_two_nodes(cpu: builder.Image, tmp_path: Path) -> None:  # noqa: F811
    need("openmpi")
    out = tmp_path / "results"
    out.mkdir()
    # Two processes on one machine stand for two hosts, so each is told that it is alone on its own.
    alone = "export OMPI_COMM_WORLD_LOCAL_SIZE=1 OMPI_COMM_WORLD_LOCAL_RANK=0; "
    node = alone + container(cpu, "mpi$OMPI_COMM_WORLD_RANK", out, "OMPI_COMM_")
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", "--bind-to", "none", "sh", "-c", node]
    done = subprocess.run(command, env={**os.environ, "MASTER_ADDR": "127.0.0.1"}, capture_output=True, text=True, timeout=200)
    check(out, done, ["mpi0", "mpi1"])

"""Private schedulers on one machine: a Slurm with nodes n0 and n1, and the cpu image as the program of a node."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from images.build import image as builder
from tests.container.conftest import cpu, engine  # noqa: F401  (fixtures)
from tests.helpers import tools
from tests.helpers.bench_process import free_port
from tests.helpers.patience import busy


def need(*programs: str) -> None:
    """Skip, with the reason, where a scheduler's programs are missing or may not be started."""
    tools.need(*programs)
    if os.geteuid() != 0:
        pytest.skip("a scheduler of one's own needs root")


def own_address() -> str:
    """An address of this machine that other hosts could reach: doctor refuses loopback for two nodes, and n0 has no name here."""
    addresses = [each.address for family in psutil.net_if_addrs().values() for each in family if each.family == socket.AF_INET]
    found = next((address for address in addresses if not address.startswith("127.")), None)
    if found is None:
        pytest.skip("this machine has no address but loopback")
    return found


@dataclass(frozen=True)
class Slurm:
    """A controller and two node daemons; `environ` reaches them, jobs may lie in `home`."""

    environ: dict[str, str]
    home: Path

    def run(self, *command: str, timeout: float = 200, **environ: str) -> "subprocess.CompletedProcess[str]":
        options: Any = {"capture_output": True, "text": True, "timeout": timeout, "cwd": self.home}
        return subprocess.run(command, env={**self.environ, **environ}, **options)

    def submit(self, script: str, *options: str) -> str:
        """The id of a job that was queued."""
        path = self.home / "job.sbatch"
        path.write_text(script)
        # A port of its own: other runs on this machine may have the default one.
        done = self.run("sbatch", "--parsable", *options, str(path), MASTER_ADDR=own_address(), MASTER_PORT=str(free_port()))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        text = self.run("scontrol", "show", "job", number).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def end(self, number: str, timeout: float = 240) -> dict[str, str]:
        """Wait until a job is over in every respect, nodes free again."""
        until = time.monotonic() + timeout
        while (job := self.job(number))["JobState"] in ("PENDING", "RUNNING", "SIGNALING", "COMPLETING"):
            assert time.monotonic() < until, f"job {number} is still {job['JobState']}: {self.output(number)}"
            time.sleep(0.5)
        return job

    def output(self, number: str) -> str:
        path = self.home / f"epbox-{number}.out"
        return path.read_text() if path.exists() else ""

    def folder(self, number: str) -> Path:
        return self.home / "results" / f"slurm-{number}"

    def result(self, number: str) -> dict[str, Any]:
        return dict(json.loads((self.folder(number) / "result.json").read_text()))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A private Slurm with nodes n0 and n1 on this machine; ended with the module's tests."""
    need("slurmctld", "munged")
    home = tmp_path_factory.mktemp("slurm")
    key, me = Path("/etc/munge/munge.key"), socket.gethostname().split(".")[0]
    if not key.exists():
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge")
    key.chmod(0o400)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    started = [subprocess.Popen(["su", "-s", "/bin/sh", "munge", "-c", "exec munged --foreground --force"], stderr=subprocess.DEVNULL)]
    nodes = "\n".join(f"NodeName=n{i} NodeHostname={me} NodeAddr=127.0.0.1 Port={17101 + i} CPUs=1 State=UNKNOWN" for i in (0, 1))
    (home / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={me}(127.0.0.1)\nSlurmctldPort=17100\nSlurmUser=root\nAuthType=auth/munge\nReturnToService=2\n"
        f"ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/linear\nStateSaveLocation={home}\nKillWait=20\n"
        f"SlurmdSpoolDir={home}/spool-%n\nSlurmctldPidFile={home}/ctld.pid\nSlurmdPidFile={home}/d-%n.pid\n{nodes}\n"
        "PartitionName=all Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP\n"
    )
    found = Slurm({**os.environ, "SLURM_CONF": str(home / "slurm.conf")}, home)
    time.sleep(1)
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n0"], ["slurmd", "-D", "-N", "n1"]):
        started.append(subprocess.Popen(command, env=found.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        begun = time.monotonic()
        while "2 idle" not in found.run("sinfo", "-h", "-o", "%D %t").stdout:
            if time.monotonic() - begun > busy(60):
                pytest.fail("Slurm's nodes do not become idle")
            time.sleep(0.5)
        yield found
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(busy(30))


@pytest.fixture(scope="module")
def node_program(cpu: builder.Image, slurm: Slurm) -> str:  # noqa: F811
    """A command that is `epbox` on a node: the cpu image in a container with the node's name and the scheduler's variables."""
    path = slurm.home / "node.sh"
    path.write_text(
        "#!/bin/sh\n"
        f'exec docker --host {cpu.engine.url} run --rm --network host --hostname "$SLURMD_NODENAME" -v {slurm.home}:{slurm.home} \\\n'
        "  --cap-add SYS_NICE --shm-size 1g --label epbox.test=slurm "
        '$(env | sed -n "s/^\\(SLURM_[A-Z_0-9]*\\)=.*/-e \\1/p") '
        f'-e MASTER_ADDR -e MASTER_PORT {cpu.id} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def rank_processes(**mark: str) -> list[psutil.Process]:
    """Ranks that have these variables; containers hide nothing from the machine they run on."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        words, environ = process.info["cmdline"] or [], process.info["environ"] or {}
        if (
            mark.items() <= environ.items()
            and any("alltoall.rank" in word for word in words)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


@pytest.fixture
def start_job(slurm: Slurm) -> Iterator[Callable[[str], str]]:
    """Submit a script and wait until its ranks work; what is left of the job after the test is ended, and then nothing may be left."""
    numbers: list[str] = []

    def start(script: str) -> str:
        numbers.append(slurm.submit(script))
        log = slurm.folder(numbers[-1]) / "rank-0.log"
        until = time.monotonic() + 240
        while not (log.exists() and "passed" in log.read_text()):
            assert time.monotonic() < until, f"the ranks did not start: {slurm.output(numbers[-1])}"
            time.sleep(0.3)
        return numbers[-1]

    yield start
    for number in numbers:
        slurm.run("scancel", number)
        slurm.end(number)
    begun = time.monotonic()
    while rank_processes(SLURM_SUBMIT_DIR=str(slurm.home)) and time.monotonic() - begun < busy(30):
        time.sleep(0.5)
    assert not rank_processes(SLURM_SUBMIT_DIR=str(slurm.home)), "ranks outlived their job"

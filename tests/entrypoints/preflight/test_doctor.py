"""The verb: exit codes, JSON, table, and an honest answer on whatever machine runs the tests."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from entrypoints.__main__ import main
from entrypoints.preflight.model import STATUSES
from entrypoints.preflight.run import relevant, workload_of
from tests.helpers.fake_host import FakeHost

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("NVSHMEM_", "NCCL_", "MASTER_", "WORLD_", "EP_", "EPBOX_")):
            monkeypatch.delenv(name)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    patient = [] if "--timeout" in arguments else ["--timeout", "120"]
    code = main(["doctor", *patient, *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = doctor(capsys, *arguments, "--format", "json")
    return code, json.loads(out)


def test_alltoall_is_fit_for_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = as_json(capsys, "--for", "alltoall")
    assert code == 0, found["verdict"]
    assert found["schema"] == "epbox.doctor/1"
    assert found["summary"]["FAIL"] == 0
    assert {"gpu.devices", "hca.devices"} <= {check["id"] for check in found["checks"] if check["status"] == "PASS"}


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("workload", ["deepep-v1", "deepep-v2"])
def test_a_machine_without_gpu_is_not_called_fit(capsys: pytest.CaptureFixture[str], workload: str) -> None:
    code, found = as_json(capsys, "--for", workload)
    assert code == 3
    statuses = {check["id"]: check["status"] for check in found["checks"]}
    assert statuses["gpu.devices"] == "FAIL"
    assert all(status in ("FAIL", "NOT_RUN") for id, status in statuses.items() if id.startswith(("gpu.", "hca."))), statuses


def test_it_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    doctor(capsys, "--for", "deepep-v1")
    assert time.process_time() - start < 4, "a doctor run is a few tenths of a second of work"


def test_json_names_every_check_with_its_parts(capsys: pytest.CaptureFixture[str], fake: FakeHost) -> None:
    code, found = as_json(capsys, "--root", str(fake.root))
    assert [check["id"] for check in found["checks"]] == [check.id for check in relevant("deepep-v1")]
    for check in found["checks"]:
        assert set(check) == {"id", "title", "status", "evidence", "remedy", "source"}
        assert check["status"] in STATUSES
        assert check["evidence"]
    assert found["summary"]["FAIL"] == 0, found["verdict"]
    assert code == 0
    assert found["facts"]["hostname"] == "node0"
    assert len(found["facts"]["hcas"]) == 8
    assert "docker run" in found["docker_run"]


def test_a_broken_copy_exits_three_and_says_why(capsys: pytest.CaptureFixture[str], fake: FakeHost) -> None:
    fake.write("proc/self/limits", "Max locked memory         65536                65536                bytes")
    fake.swap("proc/self/status", "000001ffffffffff", "00000000a80425fb")
    code, out, err = doctor(capsys, "--root", str(fake.root))
    assert code == 3
    assert out == "", "people's text belongs on stderr"
    assert "FAIL     container.memlock" in err
    assert "--ulimit memlock=-1 --cap-add IPC_LOCK" in err
    assert "not fit for deepep-v1: container.memlock" in err.splitlines()[-1]
    assert "\x1b" not in err


def test_a_tarball_is_read_like_a_folder(capsys: pytest.CaptureFixture[str], fake: FakeHost, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "host.tar.gz", "w:gz") as archive:
        for name in ("proc", "sys", "dev", "usr"):
            archive.add(fake.root / name, name)
    _, folder = as_json(capsys, "--root", str(fake.root))
    _, tarball = as_json(capsys, "--topology", str(tmp_path / "host.tar.gz"))
    differing = [
        (a["id"], a["status"], b["status"])
        for a, b in zip(folder["checks"], tarball["checks"], strict=True)
        if a["status"] != b["status"] and a["id"] != "container.namespaces"
    ]
    assert differing == []


def test_a_topology_file_borrows_nothing_from_this_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "topo.xml").write_text(
        '<system version="1"><cpu numaid="0" affinity="ff" arch="x86_64"><pci busid="0000:01:00.0" class="0x060400">'
        '<pci busid="0000:02:00.0" class="0x030200"/><pci busid="0000:03:00.0" class="0x020700"/></pci></cpu></system>'
    )
    _, found = as_json(capsys, "--topology", str(tmp_path / "topo.xml"))
    statuses = {check["id"]: check["status"] for check in found["checks"]}
    for id in ("host.name", "container.memlock", "container.shm", "container.mempolicy", "container.runtime", "lib.identity", "gpu.peers"):
        assert statuses[id] == "NOT_RUN", id


H100 = REPOSITORY / "tests/data/hosts/h100-vm.tar.gz"


def test_a_real_virtual_machine_with_one_h100_and_no_hca(capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded from a VM: numa_node -1, empty /sys/class/infiniband, no registry keys, open kernel module."""
    code, found = as_json(capsys, "--topology", str(H100), "--for", "deepep-v1")
    checks = {check["id"]: check for check in found["checks"]}
    assert code == 3
    assert [id for id, check in checks.items() if check["status"] == "FAIL"] == ["hca.devices"]
    assert checks["gpu.devices"]["evidence"] == "1 GPUs NVIDIA H100 80GB HBM3, driver 580.159.04"
    assert checks["gpu.peermem"]["status"] == "PASS"
    assert checks["gpu.regkeys"]["status"] == "WARN"
    assert checks["container.shm"]["evidence"] == "/dev/shm 128 GiB"
    assert checks["numa.affinity"]["status"] == "PASS"
    assert as_json(capsys, "--topology", str(H100), "--for", "deepep-v1", "--nodes", "1")[0] == 0, "NVLink tests run on one node"
    assert as_json(capsys, "--topology", str(H100), "--for", "alltoall")[0] == 0


def test_the_image_says_which_workload_it_is_for(
    capsys: pytest.CaptureFixture[str], fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.write("opt/epbox/recipe.toml", 'title = "x"\nworkload = "alltoall"\n')
    assert as_json(capsys, "--root", str(fake.root))[1]["workload"] == "alltoall"
    monkeypatch.setenv("EPBOX_WORKLOAD", "deepep-v2")
    assert as_json(capsys, "--root", str(fake.root))[1]["workload"] == "deepep-v2"
    assert as_json(capsys, "--root", str(fake.root), "--for", "deepep-v1")[1]["workload"] == "deepep-v1"


def test_hostile_text_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str], fake: FakeHost) -> None:
    fake.swap("proc/driver/nvidia/params", "PeerMappingOverride=1;", "\x1b[2J\x07")
    _, _, err = doctor(capsys, "--root", str(fake.root))
    assert "\x1b" not in err
    assert "\x07" not in err


def test_the_log_decides_the_handler(capsys: pytest.CaptureFixture[str], fake: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "run.log").write_bytes(b"\xff NIC handler will be CPU\n")
    code, found = as_json(capsys, "--root", str(fake.root), "--log", str(tmp_path / "run.log"))
    assert code == 3
    assert next(check for check in found["checks"] if check["id"] == "gpu.handler")["status"] == "FAIL"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--for", "chess"),
        ("--root", "/nonexistent"),
        ("--nodes", "0"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--log", "/nonexistent"),
        ("--topology", "/nonexistent"),
        ("--probe", "--root", "/tmp"),
    ],
)
def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = doctor(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("epbox doctor: ")


def test_workload_names() -> None:
    assert workload_of("deepep_v1") == workload_of("deepep-v1-internode") == "deepep-v1"
    assert workload_of("ALLTOALL") == "alltoall"


def test_the_live_run_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = (os.sched_getaffinity(0), os.environ.copy(), Path.cwd())
    doctor(capsys, "--for", "deepep-v1")
    assert (os.sched_getaffinity(0), os.environ.copy(), Path.cwd()) == before


def test_without_site_packages_it_still_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "entrypoints", "doctor", "--for", "alltoall", "--format", "json", "--timeout", "120"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "PASS"


def test_a_scheduler_names_the_master(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a step of sbatch: nobody sets MASTER_ADDR, and bench takes it from the host list too.
    for name, value in {"SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "192.0.2.7,192.0.2.8"}.items():
        monkeypatch.setenv(name, value)
    _, found = as_json(capsys, "--for", "alltoall")
    answer = next(check for check in found["checks"] if check["id"] == "net.master")
    assert answer["status"] == "PASS" and answer["evidence"].startswith("192.0.2.7 = 192.0.2.7"), answer
    # What contradicts itself is bench's to refuse; doctor still answers.
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1")
    code, found = as_json(capsys, "--for", "alltoall")
    assert code in (0, 3) and len(found["checks"]) == len(relevant("alltoall"))

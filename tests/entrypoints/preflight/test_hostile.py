"""Roots that are empty, unreadable, cut, looping or full of junk: answers, never a traceback, and no PASS from nothing."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import ALLTOALL, V1, V2, Host, Rule, passed
from entrypoints.preflight.run import CHECKS, make_host, relevant, run_on
from entrypoints.topology.model import Topology
from tests.helpers.fake_host import FakeHost, files_at
from tests.helpers.patience import busy

#: Checks whose only input is the environment: an unset variable is known to be unset, whatever the root.
FROM_ENVIRONMENT = {"net.master", "shape.environment", "hca.devices", "gpu.devices"}
REPOSITORY = Path(__file__).resolve().parents[3]


def run_all(host: FakeHost) -> None:
    for name in (V1, V2, ALLTOALL):
        host.workload = name
        for result in run_on(host.host(), relevant(name), total_s=120):
            assert "broke" not in result.evidence, result
            assert result.status in ("PASS", "WARN", "FAIL", "NOT_RUN")


@pytest.mark.parametrize("workload", [V1, V2, ALLTOALL])
def test_empty_root_passes_nothing(tmp_path: Path, workload: str) -> None:
    results = run_on(make_host(workload, Topology("none"), files_at(tmp_path), {}), relevant(workload))
    passes = {result.id for result in results if result.status == "PASS"} - FROM_ENVIRONMENT
    assert passes == set()
    assert all("broke" not in result.evidence for result in results)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\xff\xfe\x80junk\x00", b"-1", b"9" * 5000, "٣٤ ²".encode(), b"\n\n\n:::=,[]"])
def test_junk_in_every_file(fake: FakeHost, content: bytes) -> None:
    for file in fake.root.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.write_bytes(content)
    run_all(fake)


def test_every_file_is_a_folder(fake: FakeHost) -> None:
    for file in [path for path in fake.root.rglob("*") if path.is_file() and not path.is_symlink()]:
        file.unlink()
        file.mkdir()
    run_all(fake)


def test_every_file_is_a_pipe_without_a_writer(fake: FakeHost) -> None:
    for file in [path for path in (fake.root / "proc").rglob("*") if path.is_file() and not path.is_symlink()]:
        file.unlink()
        os.mkfifo(file)
    run_all(fake)  # a blocking open would end in "no answer"
    assert "no answer" not in fake.check("host.name").evidence


def test_links_that_loop_or_lead_out(fake: FakeHost) -> None:
    for name, target in (
        ("proc/sys/kernel/hostname", "/etc/hostname"),
        ("proc/self/status", "status"),
        ("proc/self/limits", "/proc/self/limits"),
    ):
        fake.remove(name)
        (fake.root / name).symlink_to(target)
    for id in ("host.name", "container.memlock", "container.nofile"):
        assert fake.check(id).status == "NOT_RUN", id
    run_all(fake)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), data=st.binary(max_size=300))
def test_random_files_replaced_by_random_bytes(fake: FakeHost, seed: int, data: bytes) -> None:
    chooser = random.Random(seed)
    files = sorted(path for path in fake.root.rglob("*") if path.is_file() and not path.is_symlink())
    for file in chooser.sample(files, 40):
        file.write_bytes(data)
    run_all(fake)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_unreadable_files_are_not_run(fake: FakeHost) -> None:
    for name in ("proc/self/status", "proc/self/limits", "proc/driver/nvidia/params", "sys/kernel/mm/transparent_hugepage/enabled"):
        (fake.root / name).chmod(0)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from entrypoints.preflight.run import make_host, relevant, run_on\n"
        "from entrypoints.topology import load\n"
        "from tests.helpers.fake_host import files_at\n"
        "host = lambda: make_host('deepep-v1', load(sys.argv[1]), files_at(Path(sys.argv[1])), {})\n"
        "run = lambda: run_on(host(), relevant('deepep-v1'), 120)\n"
        "run()  # imports everything while the checkout is readable\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "results = run()\n"
        "print(' '.join(r.id for r in results if r.status == 'NOT_RUN' and 'permission denied' in r.evidence))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fake.root)], capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    assert {"container.memlock", "container.mempolicy", "gpu.regkeys", "gpu.profiling", "memory.hugepages"} <= set(done.stdout.split())


def host_with(*runs: object) -> tuple[Host, list[Rule]]:
    host = make_host(V1, Topology("none"), files_at(Path("/nonexistent")), {})
    return host, [Rule(f"test.{i}", "test", frozenset({V1}), run, "here") for i, run in enumerate(runs)]  # type: ignore[arg-type]


def test_a_check_that_hangs_is_left_behind() -> None:
    host, checks = host_with(lambda host: time.sleep(600), lambda host: passed("fine"))
    start = time.monotonic()
    hung, fine = run_on(host, checks, busy(1))
    assert time.monotonic() - start < busy(30)
    assert (hung.status, fine.status) == ("NOT_RUN", "PASS")
    assert "no answer" in hung.evidence


def test_the_total_time_is_bounded() -> None:
    host, checks = host_with(*[lambda host: time.sleep(600)] * 40)
    start = time.monotonic()
    results = run_on(host, checks, total_s=0.3)
    assert time.monotonic() - start < busy(2)
    assert len(results) == 40
    assert all(result.status == "NOT_RUN" for result in results)
    assert "used up" in results[-1].evidence


def test_a_defect_in_a_check_is_shown_and_is_no_pass() -> None:
    host, checks = host_with(lambda host: 1 / 0)
    (result,) = run_on(host, checks)
    assert result.status == "NOT_RUN"
    assert "ZeroDivisionError" in result.evidence


def test_long_files_are_cut(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 2_000_000)
    assert len(files_at(tmp_path).data("long")) == 256 * 1024


def test_nul_in_a_name_is_not_readable(tmp_path: Path) -> None:
    with pytest.raises(NotReadable):
        files_at(tmp_path).data("a\0b")
    assert not files_at(tmp_path).exists("a\0b")


def test_registry_rows_are_complete() -> None:
    for check in CHECKS:
        assert check.title and check.source and check.workloads and check.run.__doc__, check.id

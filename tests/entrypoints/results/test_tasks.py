"""./inv results and ./inv report: the verbs on a host, without a container."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOG = """[config] num_tokens=4096, hidden=7168, num_topk_groups=2, num_topk=8
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 20, RDMA chunk 16: 45.97 GB/s (RDMA), 150.04 GB/s (NVL)
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 20, RDMA chunk 16: 60.33 GB/s (RDMA), 196.91 GB/s (NVL)
[tuning] Best combine: SMs 24, NVL chunk 4, RDMA chunk 16: 61.72 GB/s (RDMA), 201.46 GB/s (NVL)
"""


def inv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "invoke", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.log"
    path.write_text(LOG)
    return path


def test_results_prints_the_table_and_gates_with_the_verbs_exit_code(log: Path) -> None:
    done = inv("results", str(log))
    assert (done.returncode, "61.72" in done.stdout) == (0, True), done.stderr
    done = inv("results", str(log), "--min-gbps", "combine=99")
    assert (done.returncode, done.stderr.count("\n")) == (7, 1)
    assert inv("results", str(log.with_name("nothing"))).returncode == 2


def test_results_compares_two(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text(LOG.replace("61.72", "30.86"))
    done = inv("results", str(log), "--compare", str(other))
    assert done.returncode == 0, done.stderr
    assert "-50.0%" in done.stdout and "too few" in done.stdout


def test_report_writes_one_page(log: Path) -> None:
    done = inv("report", str(log.parent))
    assert done.returncode == 0, done.stderr
    assert "61.72" in (log.parent / "report.html").read_text()
    assert inv("report", str(log.with_name("nothing"))).returncode == 2

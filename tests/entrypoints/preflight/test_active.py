"""Active probes: the judges on recorded answers, the children's deaths as findings, and honest silence without devices."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from entrypoints.preflight.active import cuda, loader, loopback, probes, verbs
from entrypoints.preflight.active.child import DIED, Outcome, parse_records, run_command, run_module
from entrypoints.preflight.active.loopback import Loop
from entrypoints.preflight.model import Answer, Library, not_run
from tests.helpers.fake_host import FakeHost
from tests.helpers.patience import busy

DEVICE: dict[str, Any] = {
    "device": "mlx5_0",
    "opened": True,
    "firmware": "28.39.1002",
    "atomics": "HCA",
    "ports": [{"port": 1, "state": "ACTIVE", "active_mtu": 4096, "max_mtu": 4096}],
    "registered": 64 << 20,
}
GPU: dict[str, Any] = {
    "index": 0,
    "pci": "0000:12:00.0",
    "dma_buf": True,
    "peers": [True, True],
    "near": {"h2d": 54.4, "d2h": 54.9, "cpus": 8},
    "far": {"h2d": 41.0, "d2h": 40.2, "cpus": 8},
}
SECOND = {**GPU, "index": 1}
IMPORTED: dict[str, Any] = {
    "modules": {"torch": {"version": "2.11.0"}, "deep_ep": {"version": "1.2.1"}},
    "libraries": {"libnvshmem_host": ["/a/libnvshmem_host.so.3.4.5"], "libnccl": ["/a/libnccl.so.2.28.9"]},
    "versions": {"/a/libnccl.so.2.28.9": "2.28.9", "/a/libnvshmem_host.so.3.4.5": "3.4.5"},
}


def port(**changes: Any) -> dict[str, Any]:
    return {**DEVICE["ports"][0], **changes}


@pytest.mark.parametrize(
    ("answer", "expected", "word"),
    [
        (verbs.opening([DEVICE]), "PASS", "mlx5_0 firmware"),
        (verbs.opening([DEVICE, {"device": "mlx5_1", "opened": False, "error": "permission denied"}]), "FAIL", "mlx5_1: permission denied"),
        (verbs.atomics([DEVICE]), "PASS", "HCA"),
        (verbs.atomics([{**DEVICE, "atomics": "none"}]), "FAIL", "mlx5_0"),
        (verbs.atomics([DEVICE, {**DEVICE, "device": "mlx5_an0", "atomics": "none"}]), "WARN", "mlx5_an0"),
        (verbs.atomics([{"device": "mlx5_0", "opened": False}]), "NOT_RUN", "no device"),
        (verbs.registration([DEVICE]), "PASS", "64 MiB"),
        (
            verbs.registration([{**DEVICE, "registered": 0, "register_error": "ibv_reg_mr of 64 MiB: cannot allocate memory"}]),
            "FAIL",
            "ibv_reg_mr",
        ),
        (verbs.registration([]), "NOT_RUN", "no device"),
        (verbs.mtu([DEVICE]), "PASS", "mlx5_0:1 4096"),
        (verbs.mtu([DEVICE, {**DEVICE, "device": "mlx5_1", "ports": [port(active_mtu=1024)]}]), "WARN", "differs"),
        (verbs.mtu([{**DEVICE, "ports": [port(active_mtu=1024)]}]), "WARN", "could carry 4096"),
        (verbs.mtu([{**DEVICE, "ports": [port(state="DOWN")]}]), "NOT_RUN", "no active port"),
        (loopback.reached([Loop("mlx5_0", "ib_write_bw", 391.2)]), "PASS", "391 Gb/s"),
        (loopback.reached([Loop("mlx5_0", "ibv_rc_pingpong", None, "Failed to modify QP to RTR")]), "FAIL", "RTR"),
        (loopback.reached([]), "NOT_RUN", "no active port"),
        (cuda.dma_buf([GPU]), "PASS", "1 GPUs"),
        (cuda.dma_buf([GPU, {**SECOND, "dma_buf": False}]), "WARN", "GPU 1"),
        (cuda.dma_buf([{**GPU, "dma_buf": None}]), "NOT_RUN", "does not tell"),
        (cuda.dma_buf([GPU, {**SECOND, "dma_buf": None}]), "NOT_RUN", "does not tell"),
        (cuda.peers([GPU, SECOND]), "PASS", "2 GPUs"),
        (cuda.peers([GPU, {**SECOND, "peers": [False, True]}]), "FAIL", "1-0"),
        (cuda.peers([{**GPU, "peers": [True]}]), "PASS", "one GPU"),
        (cuda.peers([]), "NOT_RUN", "no GPU"),
        (cuda.copies([GPU, SECOND]), "PASS", "far cores 41, 40.2"),
        (cuda.copies([GPU, {**SECOND, "near": {"h2d": 12.1, "d2h": 12.9, "cpus": 8}}]), "WARN", "h2d of GPU1"),
        (cuda.copies([{"index": 0, "error": "cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY (2)"}]), "FAIL", "OUT_OF_MEMORY"),
        (cuda.copies([]), "NOT_RUN", "no GPU"),
        (loader.identity(IMPORTED), "PASS", "2.28.9"),
        (
            loader.identity({**IMPORTED, "libraries": {"libnvshmem_host": ["/a/libnvshmem_host.so.3", "/b/libnvshmem_host.so.3"]}}),
            "FAIL",
            "two copies",
        ),
        (
            loader.identity({**IMPORTED, "modules": {"torch": {"version": "2"}, "deep_ep": {"error": "ImportError: undefined symbol: x"}}}),
            "FAIL",
            "undefined symbol",
        ),
        (
            loader.identity({**IMPORTED, "modules": {"torch": {"error": "ModuleNotFoundError: No module named 'torch'"}}}),
            "NOT_RUN",
            "not installed",
        ),
        (
            loader.identity(
                {**IMPORTED, "modules": {"torch": {"version": "2"}, "deep_ep": {"error": "ModuleNotFoundError: No module named 'deep_ep'"}}}
            ),
            "WARN",
            "deep_ep not installed",
        ),
        (
            loader.identity(
                {
                    **IMPORTED,
                    "modules": {"torch": {"version": "2"}, "deep_ep": {"error": "ModuleNotFoundError: No module named 'deep_ep'"}},
                    "libraries": {"libnccl": ["/a/libnccl.so.2", "/b/libnccl.so.2"]},
                }
            ),
            "FAIL",
            "/b/libnccl.so.2",
        ),
        (loader.transport([{"file": "/a/nvshmem_transport_ibgda.so.3", "loaded": True}]), "PASS", "ibgda"),
        (loader.transport([{"file": "/a/x.so.3", "error": "libmlx5.so.1: cannot open"}]), "FAIL", "libmlx5"),
    ],
)
def test_judges(answer: Answer, expected: str, word: str) -> None:
    assert (answer.status, word in answer.evidence) == (expected, True), answer
    if expected in ("WARN", "FAIL"):
        assert answer.remedy


def test_a_child_that_died_is_a_failure_and_one_without_means_is_not_run() -> None:
    assert Outcome((), "killed by SIGSEGV").broken("libcuda") == Answer("FAIL", "libcuda died: killed by SIGSEGV", DIED)
    unavailable = Outcome(({"unavailable": "no libcuda.so.1"},)).broken("libcuda")
    assert unavailable is not None
    assert unavailable.status == "NOT_RUN"
    assert Outcome(({"index": 0},)).broken("libcuda") is None


def test_a_crash_a_hang_and_a_missing_program_are_told_apart() -> None:
    crash = [sys.executable, "-c", "import os, signal; print('{\"a\": 1}', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"]
    out, _, failure = run_command(crash, timeout_s=120)
    assert failure == "killed by SIGSEGV"
    assert parse_records(out) == ({"a": 1},), "what it said before it died is kept"
    start = time.monotonic()
    _, _, failure = run_command([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.5)
    assert "no end within 0.5 s" in failure
    assert time.monotonic() - start < busy(60)
    assert run_command(["/nonexistent/tool"], timeout_s=1)[2] == "/nonexistent/tool: no such file or directory"
    assert run_command([sys.executable, "-c", "raise SystemExit(7)"], timeout_s=120)[2] == "exit code 7"


def test_a_hung_childs_children_die_with_it(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    number.touch()
    for timeout_s in (0.3, busy(2), busy(20)):  # a busy machine may need longer to start the grandchild
        run_command(["sh", "-c", f"sleep 600 & echo $! > {number}; sleep 600"], timeout_s=timeout_s)
        if number.read_text().strip():
            break
    grandchild = Path("/proc") / number.read_text().strip()
    start = time.monotonic()
    while is_alive(grandchild):
        assert time.monotonic() - start < busy(60), "the grandchild goes on"
        time.sleep(0.02)


def is_alive(process: Path) -> bool:
    """Whether a process is there and runs; one that waits to be reaped has ended."""
    assert process != Path("/proc")
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_without_a_driver_the_cuda_child_says_so() -> None:
    outcome = run_module("cuda", ("[]",), timeout_s=120)
    assert outcome.failure == ""
    assert "unavailable" in outcome.records[0]


def test_the_verbs_child_answers_without_devices() -> None:
    outcome = run_module("verbs", (str(1 << 20), "no_such_device"), timeout_s=120)
    assert outcome.failure == ""
    assert outcome.records == () or "unavailable" in outcome.records[0]


def test_import_errors_are_in_the_childs_answer(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("raise ImportError('undefined symbol: ncclGetLsaDevicePointer')")
    outcome = run_module(
        "loader", ("import", "json", "broken_module", "absent_module"), timeout_s=120, environ={"PYTHONPATH": str(tmp_path)}
    )
    (record,) = outcome.records
    assert "file" in record["modules"]["json"]
    assert "ncclGetLsaDevicePointer" in record["modules"]["broken_module"]["error"]
    assert record["modules"]["absent_module"]["error"].startswith("ModuleNotFoundError")


def test_an_import_that_kills_the_process_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    outcome = run_module("loader", ("import", "killer"), timeout_s=120, environ={"PYTHONPATH": str(tmp_path)})
    answer = outcome.broken("import killer")
    assert answer is not None
    assert (answer.status, "SIGSEGV" in answer.evidence) == ("FAIL", True)


def test_dlopen_of_a_broken_library(tmp_path: Path) -> None:
    (tmp_path / "nvshmem_transport_ibgda.so.3").write_text("not a library")
    (record,) = run_module("loader", ("dlopen", str(tmp_path / "nvshmem_transport_ibgda.so.3")), timeout_s=120).records
    assert loader.transport([record]).status == "FAIL"


def test_two_copies_are_seen_in_maps() -> None:
    maps = (
        "7f00-7f01 r-xp 00000000 08:01 1 /opt/a/libnvshmem_host.so.3\n"
        "7f02-7f03 r--p 00000000 08:01 1 /opt/a/libnvshmem_host.so.3\n"
        "7f04-7f05 r-xp 00000000 08:01 2 /usr/lib/libnvshmem_host.so.3.6.5 (deleted)\n"
        "7f06-7f07 r-xp 00000000 08:01 3 /opt/a/libnccl.so.2\n"
        "7f08-7f09 rw-p 00000000 00:00 0 [heap]\nshort line\n"
    )
    assert loader.loaded(maps) == {
        "libnvshmem_host": ["/opt/a/libnvshmem_host.so.3", "/usr/lib/libnvshmem_host.so.3.6.5"],
        "libnccl": ["/opt/a/libnccl.so.2"],
    }


def test_records_among_noise() -> None:
    assert parse_records('WARN something\n{"a": 1}\n{broken\n[1]\n{"b": 2}') == ({"a": 1}, {"b": 2})


PERFTEST = """
 #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]
 65536      1000             392.90             391.25             0.746240
"""


def test_bandwidth_of_both_tools() -> None:
    assert loopback.bandwidth("ib_write_bw", PERFTEST) == 391.25
    assert loopback.bandwidth("ibv_rc_pingpong", "819200 bytes in 0.01 seconds = 1024.50 Mbit/sec") == 1.0245
    assert loopback.bandwidth("ib_write_bw", "Couldn't allocate MR") is None


@pytest.mark.parametrize("tool", ["ib_write_bw", "ibv_rc_pingpong"])
def test_the_gid_index_is_given_on_roce_alone(tool: str) -> None:
    server, client = loopback.commands(tool, "mlx5_0", 1, 3, 18515)
    assert client == [*server, "127.0.0.1"]
    assert {"-x": "ib_write_bw", "-g": "ibv_rc_pingpong"}[server[server.index("3") - 1]] == tool
    assert "3" not in loopback.commands(tool, "mlx5_0", 1, None, 18515)[0]


def fake_tool(folder: Path, client: str, server: str = "sleep 600") -> None:
    script = folder / "ibv_rc_pingpong"
    script.write_text(f"#!/bin/sh\ncase $* in\n*127.0.0.1) {client} ;;\n*) {server} ;;\nesac\n")
    script.chmod(0o755)


def test_loopback_by_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake_tool(tmp_path, "echo '819200 bytes in 0.01 seconds = 500.00 Mbit/sec'")
    assert loopback.tool_name() == "ibv_rc_pingpong" or shutil.which("ib_write_bw")
    (found,) = loopback.loops("ibv_rc_pingpong", [("rxe0", 1, 1)], 120)
    assert found == Loop("rxe0", "ibv_rc_pingpong", 0.5)


def test_a_client_that_comes_too_early_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    flag = tmp_path / "tried"
    fake_tool(tmp_path, f"if [ -e {flag} ]; then echo '= 8.00 Mbit/sec'; else touch {flag}; echo \"Couldn't connect\" >&2; exit 1; fi")
    (found,) = loopback.loops("ibv_rc_pingpong", [("rxe0", 1, 1)], 120)
    assert found.error == ""


def test_a_loopback_that_fails_or_hangs_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake_tool(tmp_path, "echo 'Failed to modify QP to RTR' >&2; exit 1")
    (found,) = loopback.loops("ibv_rc_pingpong", [("rxe0", 1, 1)], 120)
    assert "Failed to modify QP to RTR" in found.error
    fake_tool(tmp_path, "sleep 600")
    start = time.monotonic()
    (found,) = loopback.loops("ibv_rc_pingpong", [("rxe0", 1, 1)], 1)
    assert "no end within" in found.error
    assert time.monotonic() - start < busy(60)


def test_near_and_far_cores_of_each_gpu(fake: FakeHost) -> None:
    sets = probes.near_and_far(fake.host())
    assert len(sets) == 8
    assert sets[0] == {"pci": "0000:12:00.0", "near": list(range(8)), "far": list(range(8, 16))}
    assert sets[7]["near"] == list(range(8, 16))
    json.dumps(sets)


def test_probe_results_have_the_shape_of_checks(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    loads = Outcome(({"file": "/a/nvshmem_transport_ibgda.so.3", "loaded": True},))
    answers = {"import": Outcome((IMPORTED,)), "dlopen": loads, str(probes.REGISTER_BYTES): Outcome((DEVICE,))}
    cuda = Outcome(({"count": 1}, GPU))
    monkeypatch.setattr(probes, "run_module", lambda name, arguments, **_: cuda if name == "cuda" else answers[arguments[0]])
    results, loaded = probes.run_probes(fake.host())
    assert loaded == {
        "nccl": Library("2.28.9", "/a/libnccl.so.2.28.9 is loaded"),
        "nvshmem": Library("3.4.5", "/a/libnvshmem_host.so.3.4.5 is loaded"),
    }
    statuses = {result.id: result.status for result in results}
    assert statuses["probe.hca.open"] == statuses["probe.gpu.copy"] == statuses["probe.lib.identity"] == "PASS"
    assert statuses["probe.hca.loopback"] == "NOT_RUN", "no tool on an empty PATH"
    assert all(result.id.startswith("probe.") and result.source and result.evidence for result in results)


def test_a_slow_host_gives_each_probe_at_least_its_timeout(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: dict[str, float] = {}

    def note(name: str, arguments: Sequence[str], *, timeout_s: float, **_: object) -> Outcome:
        bounds[arguments[0] if name == "loader" else name] = timeout_s
        return Outcome((), "no end")

    def note_loops(tool: str, devices: object, timeout_s: float) -> list[Loop]:
        bounds["loopback"] = timeout_s
        return []

    monkeypatch.setattr(probes, "run_module", note)
    monkeypatch.setattr(loopback, "tool_name", lambda: "ibv_rc_pingpong")
    monkeypatch.setattr(loopback, "loops", note_loops)
    monkeypatch.setattr(loopback, "reached", lambda _: not_run("no device"))
    probes.run_probes(fake.host(), 60.0)
    assert bounds == {"verbs": 60.0, "loopback": 60.0, "cuda": 60.0, "import": 90.0, "dlopen": 60.0}


def test_alltoall_has_no_probe(fake: FakeHost) -> None:
    fake.workload = "alltoall"
    assert probes.run_probes(fake.host()) == ([], {})

"""bench as users run it: a process, real ranks on gloo, real results. Needs a Python with torch."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.bench_process import SMALL, bench, document, free_port, start
from tests.helpers.patience import busy

pytestmark = pytest.mark.torch
#: The damaged step and rank, and who must be named; the later ones repeat the point for the other checks.
FAULTS = [
    ("combine:1", "rank 1"),
    pytest.param("dispatch:0", "rank 0", marks=pytest.mark.slow),
    pytest.param("topk:1", "rank 1", marks=pytest.mark.slow),
    pytest.param("timed:0", "rank 0", marks=pytest.mark.slow),
]


def test_one_node_two_ranks(tmp_path: Path) -> None:
    code, out, err = bench("--ranks", "2", *SMALL, "--out", "res/one", "--format", "json", cwd=tmp_path)
    assert code == 0, err
    result = document(tmp_path / "res" / "one" / "result.json")
    assert json.loads(out) == result, "stdout carries the document and nothing else"
    assert result["status"] == "ok"
    assert result["engine"] == "host"
    assert result["image"] is None
    assert result["versions"]["torch"]
    run = result["runs"][0]
    assert [(best["op"], best["dtype"]) for best in run["best"]] == [("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)]
    assert all(best["nvl_gbps"] > 0 and best["rdma_gbps"] is None for best in run["best"]), "one node has no RDMA figure"
    assert run["passed_cases"] == 8
    # Every copy of every case and of the two timed dispatches, on both ranks; combined: 8 plain, 2 weighted, 1 timed of 32 tokens.
    assert result["correctness"]["combined_tokens_checked"] == 2 * 32 * (8 + 2 + 1)
    assert result["correctness"]["received_tokens_checked"] == 10 * received_per_dispatch(run)
    ranks = result["nodes"][0]["ranks"]
    assert [rank["exit_code"] for rank in ranks] == [0, 0]
    planned = [rank["cpus"] for rank in result["nodes"][0]["plan"]["ranks"]]
    assert [rank["evidence"]["cpus"] for rank in ranks] == planned
    plan = json.loads((tmp_path / "res" / "one" / "plan.json").read_text())
    assert plan == result["nodes"][0]["plan"]
    assert {"rank-0.log", "rank-1.log"} <= {path.name for path in (tmp_path / "res" / "one").iterdir()}
    index = [json.loads(line) for line in (tmp_path / "res" / "index.jsonl").read_text().splitlines()]
    assert [(line["result"], line["exit_code"]) for line in index] == [("one/result.json", 0)]
    assert re.search(r"^OK: alltoall on 1 node\(s\) x 2 rank\(s\)", err, re.MULTILINE)


def received_per_dispatch(run: dict[str, Any]) -> int:
    """Tokens all ranks receive in one dispatch, from the bytes that were reported (128 BF16 elements a token)."""
    bf16 = next(best for best in run["best"] if best["dtype"] == "bf16")
    of_all_ranks: float = bf16["bytes"]["nvl"] * run["world"]
    return round(of_all_ranks / 256)


def two_nodes(tmp_path: Path, *arguments: str, **env: str) -> list[subprocess.Popen[str]]:
    port = str(free_port())
    shared = ("--nodes", "2", "--master-addr", "127.0.0.1", "--master-port", port, "--ranks", "2")
    return [start(*shared, "--node-rank", str(n), "--out", f"node{n}", *SMALL, *arguments, cwd=tmp_path, **env) for n in (0, 1)]


def test_two_nodes_agree_and_node_0_holds_both(tmp_path: Path) -> None:
    processes = two_nodes(tmp_path)
    told = [process.communicate(timeout=250) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    result = document(tmp_path / "node0" / "result.json")
    assert [node["node_rank"] for node in result["nodes"]] == [0, 1]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]
    assert result["shape"]["num_topk_groups"] == 2
    assert all(best["rdma_gbps"] > 0 for best in result["runs"][0]["best"])
    # A token goes to at most two nodes, and each rank has 32 tokens of 128 BF16 elements.
    assert all(32 * 256 <= best["bytes"]["rdma"] <= 2 * 32 * 256 for best in result["runs"][0]["best"] if best["dtype"] != "fp8")
    assert all(best["bytes"]["off_node"] < best["bytes"]["nvl"] for best in result["runs"][0]["best"])
    assert document(tmp_path / "node1" / "result.node-1.json")["exit_code"] == 0
    assert "dispatch FP8" in told[0][1]
    assert "dispatch FP8" not in told[1][1], "one node prints the table"


@pytest.mark.parametrize(("fault", "named"), FAULTS)
def test_one_damaged_element_is_wrong_numbers(tmp_path: Path, fault: str, named: str) -> None:
    code, _, err = bench("--ranks", "2", *SMALL, "--out", "r", cwd=tmp_path, EPBOX_ALLTOALL_CORRUPT=fault)
    assert code == 6, err
    result = document(tmp_path / "r" / "result.json")
    assert result["status"] == "failed"
    assert result["correctness"]["passed"] is False
    assert result["runs"] == [], "no bandwidth is reported with wrong numbers"
    assert f"wrong numbers: {named}: " in result["verdict"]
    assert "token" in result["verdict"]


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "alltoall.rank" in " ".join(child.cmdline())]


def wait_for_ranks(processes: list[subprocess.Popen[str]], logs: list[Path]) -> list[psutil.Process]:
    """Until every rank has been seen to work: rank 0 has printed its first case."""
    deadline = time.monotonic() + busy(60)
    while time.monotonic() < deadline:
        if any(log.exists() and "passed" in log.read_text() for log in logs):
            return [rank for process in processes for rank in ranks_of(process)]
        time.sleep(0.1)
    raise AssertionError("the ranks did not start")


@pytest.mark.slow
def test_a_killed_rank_ends_both_nodes_within_ten_seconds(tmp_path: Path) -> None:
    processes = two_nodes(tmp_path, "--repeats", "100000")
    ranks = wait_for_ranks(processes, [tmp_path / "node0" / "rank-0.log"])
    assert len(ranks) == 4
    victim = ranks_of(processes[1])[1]
    number = victim.environ()["EPBOX_RANK"]
    start_s = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    told = [process.communicate(timeout=150) for process in processes]
    assert time.monotonic() - start_s < busy(10)
    assert [process.returncode for process in processes] == [4, 4], told
    for _, err in told:
        assert re.search(rf"rank {number} \(pid {victim.pid}\) was killed by SIGKILL", err), err
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    verdict = document(tmp_path / "node0" / "result.json")["verdict"]
    assert f"rank {number}" in verdict
    assert "SIGKILL" in verdict


def test_interrupt_is_130_and_leaves_nothing(tmp_path: Path) -> None:
    process = start("--ranks", "2", *SMALL, "--repeats", "100000", "--out", "r", cwd=tmp_path)
    ranks = wait_for_ranks([process], [tmp_path / "r" / "rank-0.log"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 130, err
    assert "Traceback" not in err.split("FAILED:")[-1]
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    assert document(tmp_path / "r" / "result.json")["exit_code"] == 130


@pytest.mark.slow
def test_runs_give_median_and_spread_and_a_threshold_is_exit_7(tmp_path: Path) -> None:
    code, _, err = bench("--ranks", "1", *SMALL, "--runs", "2", "--min-gbps", "1e9", "--out", "r", "--quiet", cwd=tmp_path)
    assert code == 7, err
    result = document(tmp_path / "r" / "result.json")
    assert [run["launch"] for run in result["runs"]] == [0, 1]
    assert all(row["runs"] == 2 and row["min_gbps"] <= row["median_gbps"] <= row["max_gbps"] for row in result["summary"])
    assert result["correctness"]["passed"] is True, "the numbers are right, only low"
    assert "below --min-gbps" in result["verdict"]
    assert (tmp_path / "r" / "run-2" / "rank-0.log").exists()


@pytest.mark.slow
def test_ablation_goes_through_all_arms(tmp_path: Path) -> None:
    code, _, err = bench("--ranks", "1", *SMALL, "--ablate", "--runs", "1", "--out", "r", "--quiet", cwd=tmp_path)
    assert code == 0, err
    result = document(tmp_path / "r" / "result.json")
    arms = ["none", "nic", "nic+cpu", "nic+cpu+mem", "formula"]
    assert [run["arm"] for run in result["runs"]] == arms == [arm["arm"] for arm in result["arms"]]
    assert {row["arm"] for row in result["ablation"]} == set(arms)
    assert all(row["noise"] is None for row in result["ablation"]), "one run decides nothing"
    bound = {launch["arm"]: launch["bind"] for launch in result["nodes"][0]["launches"]}
    assert bound == {"none": "none", "nic": "nic", "nic+cpu": "nic,cpu", "nic+cpu+mem": "all", "formula": "cpu,mem"}
    assert result["nodes"][0]["placement_arm"] == "nic+cpu+mem", "the ranks shown are those on plan"
    assert "decide nothing" in result["verdict"]


def test_default_folder_falls_back_to_a_writable_place(tmp_path: Path) -> None:
    closed, temporary = tmp_path / "closed", tmp_path / "tmp"
    closed.mkdir()
    temporary.mkdir()
    # A file where the folder would be stops root as well.
    (closed / "results").write_text("")
    code, _, err = bench("--ranks", "1", *SMALL, "--quiet", cwd=closed, TMPDIR=str(temporary))
    assert code == 0, err
    assert "cannot be written" in err
    assert len(list(temporary.glob(f"epbox-results-{os.getuid()}/*/result.json"))) == 1


@pytest.mark.slow
def test_unknown_test_arguments_fail_the_rank_and_say_so(tmp_path: Path) -> None:
    code, _, err = bench("--ranks", "1", *SMALL, "--out", "r", "--", "--no-such-option", cwd=tmp_path)
    assert code == 4, err
    assert "--no-such-option" in err

"""Test files that spawn their ranks themselves, as DeepEP's do, run unmodified through bench. Needs a Python with torch."""

import json
import re
from pathlib import Path

import pytest

from tests.helpers import bench_process as real
from tests.helpers.patience import busy

pytestmark = pytest.mark.torch

#: Stands in for DeepEP's test_intranode.py: same launch contract, same kind of lines, no GPU.
SCRIPT = """
import argparse, os, sys, time
hangs = f"hangs-{os.environ['EPBOX_LOCAL_RANK']}"
if "--hang" in sys.argv and os.fork() == 0:
    # The import of torch may be silent for as long as a hang.
    while not os.path.exists(hangs):
        print("starts", flush=True)
        time.sleep(0.2)
    os._exit(0)
import torch
import helper_of_the_test

def test_loop(local_rank, num_local_ranks, args):
    assert (os.environ["WORLD_SIZE"], os.environ["RANK"]) == ("1", "0"), "DeepEP counts nodes"
    print(f"rank {local_rank} of {num_local_ranks} on {sorted(os.sched_getaffinity(0))} in {os.getpid()}", flush=True)
    if args.fail_rank == local_rank:
        raise AssertionError("wrong on purpose")
    if args.hang:
        open(hangs, "w").close()
        time.sleep(600)
    if local_rank == 0:
        print(f"[config] num_tokens={args.num_tokens}, hidden={args.hidden}, num_topk={args.num_topk}", flush=True)
        print("[tuning] Best dispatch (FP8): SMs 24, NVL chunk 20, 150.00 GB/s (NVL), t: 100.00 us", flush=True)
        print("[tuning] Best dispatch (BF16): SMs 24, NVL chunk 16, 160.00 GB/s (NVL), t: 190.00 us", flush=True)
        print("[tuning] Best combine: SMs 24, NVL chunk 8: 155.00 GB/s (NVL), t: 195.00 us", flush=True)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("num-processes", "num-tokens", "hidden", "num-topk", "num-experts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--fail-rank", type=int, default=-1)
    parser.add_argument("--hang", action="store_true")
    args = parser.parse_args()
    torch.multiprocessing.spawn(test_loop, args=(args.num_processes, args), nprocs=args.num_processes)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tests = tmp_path / "deepep" / "tests"
    tests.mkdir(parents=True)
    (tests / "test_internode.py").touch()
    (tests / "test_intranode.py").write_text(SCRIPT)
    (tests / "helper_of_the_test.py").touch()
    return tests.parent


def arguments(tree: Path, *more: str) -> list[str]:
    return ["--workload", "deepep-intranode", "--deepep-path", str(tree), "--ranks", "2", "--no-doctor", "--out", "r", *more]


def test_an_unmodified_script_runs_bound_rank_by_rank(tree: Path, tmp_path: Path) -> None:
    code, _, err = real.bench(*arguments(tree), cwd=tmp_path)
    assert code == 0, err
    logs = [(tmp_path / "r" / f"rank-{n}.log").read_text() for n in (0, 1)]
    pids = {re.search(r"in (\d+)", log)[1] for log in logs}  # type: ignore[index]
    assert len(pids) == 2, "one process a rank, none of them spawned by the other"
    result = real.document(tmp_path / "r" / "result.json")
    assert [rank["exit_code"] for rank in result["nodes"][0]["ranks"]] == [0, 0]
    (run,) = result["runs"]
    assert run["test"] == "intranode"
    assert run["source"] == "rank-0.log"
    assert [best["nvl_gbps"] for best in run["best"]] == [150.0, 160.0, 155.0]
    assert result["shape"] == {"nodes": 1, "ranks_per_node": 2, "num_tokens": 4096, "hidden": 7168, "num_topk": 8, "num_experts": 256}
    assert "dispatch FP8 150.00" in result["verdict"]


def test_a_failed_assertion_is_exit_4_and_names_the_rank(tree: Path, tmp_path: Path) -> None:
    code, _, err = real.bench(*arguments(tree, "--", "--fail-rank", "1"), cwd=tmp_path)
    assert code == 4, err
    assert "wrong on purpose" in err
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert "rank 1" in result["verdict"]
    assert result["correctness"]["passed"] is False


def test_the_baseline_takes_turns_and_gives_a_ratio(tree: Path, tmp_path: Path) -> None:
    shape = ("--num-tokens", "32", "--hidden", "128", "--num-experts", "16", "--repeats", "2", "--warmup", "1", "--runs", "2", "--quiet")
    code, _, err = real.bench(*arguments(tree, "--baseline", *shape), cwd=tmp_path)
    assert code == 0, err
    result = real.document(tmp_path / "r" / "result.json")
    order = [(run["test"], run.get("arm")) for run in result["runs"]]
    assert order == [("intranode", None), ("alltoall", "baseline"), ("alltoall", "baseline"), ("intranode", None)]
    rows = {(row["op"], row["dtype"]): row for row in result["baseline"]["rows"]}
    assert set(rows) == {("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)}
    for key, row in rows.items():
        theirs = [best["nvl_gbps"] for run in result["runs"][1:3] for best in run["best"] if (best["op"], best["dtype"]) == key]
        assert row["baseline"] == pytest.approx(sum(theirs) / 2, abs=1e-3)
        assert row["ratio"] == pytest.approx(row["value"] / row["baseline"], rel=0.02)
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert rows["combine", None]["value"] == 155.0
    assert "32 tokens x 128" in result["baseline"]["compared"] and "nothing goes over the network" in result["baseline"]["compared"]
    assert "DeepEP / all-to-all: dispatch FP8" in result["verdict"]
    assert result["correctness"]["source"].startswith("the test's assertions"), "not the baseline's"
    assert (tmp_path / "r" / "run-1" / "baseline" / "rank-1.log").is_file()
    assert "DeepEP / all-to-all  over runs" in err


def test_another_shape_after_the_dashes_is_refused_with_a_baseline(tree: Path, tmp_path: Path) -> None:
    code, _, err = real.bench(*arguments(tree, "--baseline", "--", "--num-tokens", "64"), cwd=tmp_path)
    assert code == 2
    assert "before --, for both" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_silence_is_a_hang_with_stacks(tree: Path, tmp_path: Path) -> None:
    silence = round(busy(1.5))
    code, _, err = real.bench(*arguments(tree, "--timeout", str(silence), "--", "--hang"), cwd=tmp_path)
    assert code == 5, err
    assert f"no output of any rank for {silence} s" in err
    assert "test_loop" in err, "the stack says where"
    assert json.loads((tmp_path / "r" / "result.json").read_text())["exit_code"] == 5

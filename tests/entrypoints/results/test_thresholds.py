"""--min-gbps and --min-ratio have one meaning, after bench and over results."""

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints.__main__ import main
from entrypoints.bench import flow
from entrypoints.results.codec import encode
from entrypoints.results.metrics import limiting, summary_rows
from entrypoints.results.model import Best, LowLatency, LowLatencyKernels, Result, Run, Shape
from entrypoints.results.thresholds import Bandwidth, judge_bandwidth, judge_ratio, missed
from tests.entrypoints.bench.conftest import Jobs
from tests.helpers.bench_records import node

SHAPE = Shape(nodes=2, ranks=16, num_tokens=4096, hidden=7168)


@pytest.fixture
def make_job() -> Jobs:
    return Jobs()


def internode(*rdma: float, arm: str | None = None) -> Run:
    """A run whose log holds the best line of as many copies as there are figures."""
    best = tuple(Best(op="dispatch", dtype="fp8", rdma_gbps=gbps, nvl_gbps=3 * gbps) for gbps in rdma)
    return Run(test="internode", shape=SHAPE, best=best, complete=True, arm=arm)


def results(folder: Path, runs: list[Run], *options: str) -> int:
    """The exit code of `results` on these runs."""
    shape = Shape(nodes=2, ranks_per_node=8, num_tokens=4096, hidden=7168)
    document = encode(Result(verdict="v", shape=shape, runs=tuple(runs), nodes=()))
    (folder / "result.json").write_text(json.dumps(document))
    return main(["results", str(folder), *options])


def bench(make_job: Jobs, runs: list[Run], *options: str) -> int:
    """The exit code of a bench with these runs."""
    job = make_job(*options, nodes=2, workload="deepep-internode")
    return 7 if flow.missed_thresholds(job, [node(runs)]) else 0


@pytest.mark.parametrize(
    ("options", "figures", "code"),
    [
        # 45.9 GB/s is the reference: one slow run of three is no slow cluster, two are.
        (("--min-ratio", "0.9"), (30.0, 45.0, 45.5), 0),
        (("--min-ratio", "0.9"), (30.0, 31.0, 45.5), 7),
        (("--min-gbps", "40"), (30.0, 45.0, 45.5), 0),
        (("--min-gbps", "40"), (30.0, 31.0, 45.5), 7),
    ],
)
def test_bench_and_results_judge_the_median(
    options: tuple[str, ...], figures: tuple[float, ...], code: int, make_job: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [internode(gbps) for gbps in figures]
    assert bench(make_job, runs, *options) == code
    after_bench = capsys.readouterr().err
    assert results(tmp_path, runs, *options) == code
    err = capsys.readouterr().err
    assert "run 1 (" in err, "the run that alone is below is named either way"
    assert code or ("run 1 (" in after_bench)


def test_two_copies_are_one_run_to_both(make_job: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = internode(44.0, 46.0)
    (row,) = summary_rows([run])
    assert (row.runs, row.median_gbps) == (1, 45.0)
    assert results(tmp_path, [run], "--format", "json") == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["summary"]}
    assert (rows["dispatch FP8, GB/s (RDMA)"]["runs"], rows["dispatch FP8, GB/s (RDMA)"]["median"]) == (1, 45.0)
    # Below 44.5 lies one copy and not the run.
    options = ("--min-gbps", "44.5")
    assert bench(make_job, [run], *options) == results(tmp_path, [run], *options) == 0


def test_of_an_ablation_the_planned_arm_is_judged_by_both(make_job: Jobs, tmp_path: Path) -> None:
    runs = [internode(20.0, arm="none"), internode(45.0, arm="nic+cpu+mem")]
    for options in (("--min-gbps", "40"), ("--min-ratio", "0.9")):
        assert bench(make_job, runs, *options) == results(tmp_path, runs, *options) == 0


def test_runs_of_other_shapes_are_judged_apart() -> None:
    small = Run(test="internode", shape=Shape(nodes=4, ranks=32), best=internode(20.0).best)
    judged = judge_bandwidth([internode(45.0), small, internode(46.0)], Bandwidth(40))
    assert [judgement.missed for judgement in judged] == ["", "dispatch FP8 20.00 GB/s (RDMA) is below --min-gbps 40"]


def test_a_named_threshold_reaches_single_kernels_of_low_latency() -> None:
    run = Run(
        test="low_latency",
        shape=Shape(ranks=8),
        low_latency=(LowLatency(rank=0, dispatch_combine_gbps=114.0, avg_us=190.0),),
        low_latency_kernels=(LowLatencyKernels(rank=0, dispatch_gbps=98.0, dispatch_us=77.0, combine_gbps=127.0, combine_us=114.0),),
    )
    assert [sample.metric.operation for sample in limiting(run)] == ["dispatch+combine"]
    assert not missed(judge_bandwidth([run], Bandwidth(100)))
    assert missed(judge_bandwidth([run], Bandwidth(100, "dispatch")))
    assert not missed(judge_bandwidth([run], Bandwidth(100, "combine")))
    below = missed(judge_ratio([run], 1.1))
    assert "dispatch, us 77.00 is 1.00 of 77.0 (h800-ll-8: DeepEP docs/legacy.md), below --min-ratio 1.1" in below
    assert len(below) == 4, "time and bandwidth of both kernels"


@pytest.mark.parametrize("nodes", [None, 2])
def test_without_the_number_of_nodes_an_rdma_figure_limits(nodes: int | None) -> None:
    run = Run(test="internode", shape=Shape(nodes=nodes), best=internode(45.0).best)
    assert [(sample.metric.direction, sample.gbps) for sample in limiting(run)] == [("RDMA", 45.0)]


def test_within_one_node_nvlink_limits() -> None:
    run: Any = Run(test="intranode", shape=Shape(nodes=1), best=internode(45.0).best)
    assert [(sample.metric.direction, sample.gbps) for sample in limiting(run)] == [("NVL", 135.0)]

"""DeepEP beside the all-to-all: what is compared, and when there is no ratio."""

from dataclasses import replace
from typing import Any

import pytest

from entrypoints.bench import arms, flow, record
from entrypoints.bench.launching import NodeRun, Printed, RunOutcome
from entrypoints.errors import UsageError
from entrypoints.results.comparison import baseline_verdict, beside_alltoall
from entrypoints.results.metrics import summary_rows, workload_runs
from entrypoints.results.model import Comparison, Launch, LowLatencyKernels, Run, Shape
from entrypoints.results.show import baseline_text, summary_table
from entrypoints.results.tables import to_text
from entrypoints.workloads.model import Prepared
from tests.helpers.bench_records import Spread, best, node, run_of

SHAPE = Shape(nodes=2, ranks=16, num_tokens=4096, hidden=7168, num_topk=8, num_topk_groups=2, num_experts=256)
#: Bytes of a BF16 dispatch as alltoall reports them: 4096 tokens go to about two nodes and about six ranks.
SENT = {"rdma": 117_000_000, "nvl": 370_000_000, "off_node": 185_000_000}


def deepep(test: str = "internode", rdma: float = 50.0, **sizes: Any) -> Run:
    return run_of(best(rdma, "dispatch", "bf16"), best(rdma), test=test, shape=replace(SHAPE, **sizes))


def alltoall(gbps: float = 20.0, us: float = 1000.0) -> Run:
    times = Spread(us * 0.9, us, us * 1.1)
    bests = best(gbps, "dispatch", "fp8", times), best(gbps, "dispatch", "bf16", times, bytes=SENT), best(gbps, "combine", None, times)
    return run_of(*bests, backend="nccl", arm="baseline", shape=SHAPE)


def compared(*runs: Run, nodes: int = 2) -> Comparison:
    job = replace(SHAPE, nodes=nodes, ranks=None, ranks_per_node=8)
    # Within one node the tests print so themselves.
    return beside_alltoall([replace(run, shape=replace(run.shape, nodes=nodes)) for run in runs], job)


def test_the_ratio_is_of_medians_and_its_range_of_runs_in_turn() -> None:
    found = compared(deepep(rdma=50), alltoall(20), alltoall(25), deepep(rdma=40), deepep(rdma=60), alltoall(40))
    row = next(row for row in found.rows if row.op == "combine")
    assert (row.value, row.baseline, row.ratio, row.runs) == (50.0, 25.0, 2.0, 3)
    assert (row.ratio_min, row.ratio_max) == (1.5, 2.5)
    assert row.direction == "RDMA"
    assert [(row.op, row.dtype) for row in found.rows] == [("dispatch", "bf16"), ("combine", None)], "FP8 was not printed by both"


def test_what_leaves_the_node_is_told_for_both() -> None:
    text = compared(deepep(), alltoall()).compared
    assert "DeepEP 58.5 MB (one copy a node" in text, "half of what DeepEP counts stays on the node"
    assert "all-to-all 185.0 MB (one copy a rank)" in text


def test_one_node_compares_nvl() -> None:
    found = compared(deepep("intranode"), alltoall(), nodes=1)
    assert {row.direction for row in found.rows} == {"NVL"}
    assert "nothing goes over the network" in found.compared


def test_low_latency_compares_times() -> None:
    kernels = tuple(LowLatencyKernels(rank=rank, dispatch_us=us, combine_us=2 * us) for rank, us in ((0, 99.0), (1, 101.0)))
    low = Run(test="low_latency", low_latency_kernels=kernels, shape=SHAPE)
    rows = compared(low, alltoall(us=1000)).rows
    assert [(row.op, row.dtype, row.direction, row.ratio) for row in rows] == [
        ("dispatch", "fp8", "us", 10.0),
        ("combine", None, "us", 5.0),
    ]


def test_v2_compares_times_and_never_its_so_bandwidth() -> None:
    run = run_of(best(90, "dispatch", "fp8", time_us=500.0), test="elastic_ep", shape=SHAPE)
    (row,) = compared(run, alltoall(us=1000)).rows
    assert (row.direction, row.ratio) == ("us", 2.0)


def test_another_shape_has_no_ratio() -> None:
    found = compared(deepep(num_tokens=128), alltoall())
    assert found.rows == ()
    assert "num_tokens 128 and 4096" in found.compared
    assert "no ratio" in baseline_verdict(found)
    assert "no ratio" in baseline_text(found)


def test_a_side_without_figures_has_no_ratio() -> None:
    assert compared(deepep()).rows == ()


def test_the_baselines_figures_are_not_the_workloads(make_job: Any) -> None:
    job = make_job("--baseline", "--min-gbps", "30", workload="deepep-internode", nodes=2)
    runs = [deepep(rdma=50), alltoall(20)]
    assert record.verdict(job, [node(runs)], RunOutcome(0)).count("combine") == 1
    assert flow.missed_thresholds(job, [node(runs)]) == [], "20 GB/s is the baseline's"
    table = to_text(summary_table(summary_rows(workload_runs(runs))))
    assert "50.00" in table and "20.00" not in table


def shaped(job: Any, test: str, **sizes: int | None) -> Any:
    shape = {"nodes": 2, "ranks_per_node": 2, "num_tokens": 128, "hidden": 7168, "num_topk": 8, "num_experts": 288, **sizes}
    return replace(job, prepared=Prepared(f"deepep-{test}", test, ("x",), True, shape))


def test_the_baseline_gets_the_shape_of_the_workload(make_job: Any) -> None:
    job = shaped(make_job("--baseline", "--repeats", "7", nodes=2, workload="deepep-low-latency"), "low_latency")
    other = arms.baseline_job(job, {"CUDA_VISIBLE_DEVICES": ""})
    assert other.prepared.shape["num_topk_groups"] == 2, "low latency does not limit the nodes of a token"
    assert {name: other.prepared.shape[name] for name in ("num_tokens", "hidden", "num_topk", "num_experts", "repeats")} == {
        "num_tokens": 128,
        "hidden": 7168,
        "num_topk": 8,
        "num_experts": 288,
        "repeats": 7,
    }
    assert other.prepared.test == "alltoall"


@pytest.mark.parametrize(("test", "words"), [("alltoall", "the baseline itself"), ("elastic_barrier", "not a dispatch and combine")])
def test_no_baseline_without_a_meaning(make_job: Any, test: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        arms.check_baseline(shaped(make_job("--baseline"), test))


def launched(arm: str = "", code: int = 0, bind: str = "all") -> NodeRun:
    cause = "rank 1 exited with code 1" if code else ""
    return NodeRun((), Printed(), Launch(arm=arm or None, bind=bind, exit_code=code, cause=cause, seconds=1.0))


@pytest.mark.parametrize(
    ("arm", "told"), [("baseline", "in the baseline, the all-to-all: rank 1"), ("nic", "arm nic: rank 1"), ("", "rank 1")]
)
def test_a_failure_names_the_arm_it_was_in(make_job: Any, arm: str, told: str) -> None:
    found = record.node_record(make_job(), [launched(), launched(arm, 4)], "host", None)
    assert found.cause.startswith(told)
    assert found.exit_code == 4


def test_the_ranks_told_are_those_of_the_workload_on_plan(make_job: Any) -> None:
    found = record.node_record(
        make_job(), [launched("none", bind="none"), launched("nic+cpu+mem"), launched("formula", bind="cpu,mem")], "h", None
    )
    assert found.placement_arm == "nic+cpu+mem"
    found = record.node_record(make_job(), [launched(), launched("baseline")], "h", None)
    assert found.placement_arm is None

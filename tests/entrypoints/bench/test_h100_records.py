"""What one H100 printed on 2026-11-24 (tests/data/gpu), against parser, diagnosis and plan."""

from html import unescape
from pathlib import Path

import jsonschema
import pytest

from entrypoints.diagnosis.match import diagnose_paths
from entrypoints.logs.parse import parse_paths
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.report.load import load as load_result
from entrypoints.report.page import render
from entrypoints.results import codec, comparison
from entrypoints.results.codec import encode, read_result
from entrypoints.results.comparison import beside_alltoall
from entrypoints.topology import load

DATA = Path(__file__).resolve().parents[2] / "data" / "gpu"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        # NVSHMEM_DEBUG=INFO, low latency with --disable-nvlink: the build variables name libfabric, which is no use of it.
        ("p2p-off", "no-device-selected"),
        ("wrong-interface", "nvshmem-bootstrap"),
        ("two-host-names", "no-remote-transport"),
        ("private-pids", "cuda-ipc"),
        ("second-gpu-missing", "unsupported-shape"),
    ],
)
def test_first_cause(log: str, cause: str) -> None:
    first = diagnose_paths([DATA / f"{log}.log"])[0]
    assert (first.cause_id, first.severity) == (cause, "fatal")


@pytest.mark.parametrize("log", ["low-latency", "elastic", "alltoall", "shared-intranode"])
def test_no_false_alarm(log: str) -> None:
    assert [each.cause_id for each in diagnose_paths([DATA / f"{log}.log"]) if each.severity == "fatal"] == []


def test_an_exception_outranks_ibgda_that_failed_on_one_host(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text(
        "transport.cpp:nvshmemi_transport_init:282: init failed for transport: IBGDA\n"
        'Traceback (most recent call last):\n  File "test.py", line 1, in <module>\nRuntimeError: invalid tensor size at index 0\n'
    )
    first, second = diagnose_paths([log])
    assert (first.cause_id, first.severity) == ("unknown", "fatal") and "invalid tensor size" in first.cause
    assert (second.cause_id, second.severity) == ("ibgda-init-failed", "warning")


def test_low_latency_with_one_rank() -> None:
    (run,) = parse_paths([DATA / "low-latency.log"])
    assert run.test == "low_latency" and run.complete
    assert [rank.dispatch_combine_gbps for rank in run.low_latency] == [292.07]
    assert run.low_latency_kernels and run.low_latency_kernels[0].combine_gbps == 572.92


def test_elastic_first_case_alone_is_not_complete() -> None:
    (run,) = parse_paths([DATA / "elastic.log"])
    assert run.test == "elastic_ep" and not run.complete and run.missing == ("configurations: 1 of 144",)
    assert {best.op: best.nvl_gbps for best in run.best} == {"dispatch": 1131.0, "combine": 1266.0}


def test_snapshot_gives_the_plan_that_ran() -> None:
    topology = load(str(DATA / "h100x1-snapshot.tar.gz"))
    (rank,) = make_plan(topology, PlanOptions(ranks=1, environ={}, workload="deepep-v1")).ranks
    assert (rank.gpu_index, rank.hca, rank.cpus, rank.memory.nodes) == (0, None, tuple(range(16)), (0,))


@pytest.mark.parametrize("name", ["low-latency-baseline", "alltoall-ablation"])
def test_result_files_fit_the_schema_and_make_a_report(name: str) -> None:
    material = load_result(DATA / f"{name}.json")
    jsonschema.validate(encode(material.result), codec.BENCH)
    assert material.result.status == "ok"
    assert material.result.verdict in unescape(render(material))


def test_the_baseline_says_what_is_compared() -> None:
    result = read_result(DATA / "low-latency-baseline.json")
    assert result.baseline is not None
    assert {row.op: row.ratio for row in result.baseline.rows} == {"dispatch": 0.4613, "combine": 1.0597}
    assert all(row.ratio_min <= row.ratio <= row.ratio_max and row.runs == 3 for row in result.baseline.rows)
    assert "cast to FP8 inside" in result.baseline.compared
    again = beside_alltoall(result.runs, result.shape)
    assert [round(row.ratio, 4) for row in again.rows] == [row.ratio for row in result.baseline.rows], "the runs say it still"
    assert again.compared == result.baseline.compared


def test_one_card_one_node_no_nic_cannot_tell_the_arms_apart() -> None:
    result = read_result(DATA / "alltoall-ablation.json")
    arms, rows = result.arms or (), result.ablation or ()
    assert len(result.runs) == 15 and [arm.arm for arm in arms] == ["none", "nic", "nic+cpu", "nic+cpu+mem", "formula"]
    assert {row.noise for row in rows if row.arm != "none"} == {True}
    equal = {"nic", "nic+cpu+mem", "formula"}
    assert comparison.ablation(result.runs, equal) == rows, "the runs say it still"

"""result.json, its verdict and its schema."""

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entrypoints.bench import flow, record
from entrypoints.bench.launching import NodeRun, Printed, RunOutcome, meaning, node_outcome
from entrypoints.errors import UsageError
from entrypoints.launch.model import LaunchOutcome, RankOutcome
from entrypoints.results import show
from entrypoints.results.codec import BENCH, RUNS, encode
from entrypoints.results.metrics import summary_rows
from entrypoints.results.model import Correctness, Launch, LowLatency, Node, Result, Run, RunList, Shape
from entrypoints.results.ranks import RankRecord
from entrypoints.results.references import against_references, beside_published, strictest
from entrypoints.topology.model import Hca, Port
from tests.helpers.bench_records import best, node, run_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def valid(value: dict[str, Any]) -> bool:
    return not list(jsonschema.Draft202012Validator(BENCH).iter_errors(json.loads(json.dumps(value))))


def whole(job: Any, nodes: list[Node], code: int = 0) -> Result:
    return record.result(job, nodes, code, record.verdict(job, nodes, RunOutcome(code, "why")), NOW)


def test_a_result_is_valid_and_readable(make_job: Any) -> None:
    runs = [run_of(best(10, "dispatch", "fp8"), best(20, "dispatch", "bf16"), best(5))]
    value = whole(make_job(nodes=2), [node(runs), node(node_rank=1)])
    assert valid(encode(value))
    assert value.created == "2026-01-02T03:04:05Z"
    assert value.verdict.endswith("GB/s (RDMA) dispatch FP8 10.00, dispatch BF16 20.00, combine 5.00")
    text = show.bench_text(value)
    assert "dispatch FP8" in text
    assert "OK: " in text
    assert "runs" not in encode(value)["nodes"][0], "node 0's runs are told once"
    assert value.nodes[1].versions, "other nodes may differ in theirs"


@pytest.mark.parametrize(
    "damage",
    [
        {"status": "failed"},
        {"exit_code": 4},
        {"verdict": ""},
        {"created": "yesterday"},
        {"nodes": []},
        {"correctness": {"passed": False}},
        {"runs": [{"test": "alltoall"}]},
        {"runs": [{"test": "other", "format": None, "best": [], "complete": True}]},
        {"schema": "epbox.result/2"},
    ],
)
def test_the_schema_refuses_contradictions(make_job: Any, damage: dict[str, Any]) -> None:
    good = encode(whole(make_job(), [node([run_of(best(1))])]))
    assert valid(good)
    assert not valid({**good, **damage})


def test_runs_alone_are_valid_too() -> None:
    jsonschema.Draft202012Validator(RUNS).validate(encode(RunList(runs=(run_of(best(1)),))))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((4, 0), 4), ((0, 5), 5), ((5, 4), 4), ((4, 6), 6), ((4, 3), 3), ((6, 130), 130), ((4, 130), 130)],
)
def test_the_code_that_explains_the_others_wins(codes: tuple[int, ...], expected: int) -> None:
    nodes = [node(node_rank=n, exit_code=code, cause=f"cause {n}" if code else "") for n, code in enumerate(codes)]
    code, cause = record.outcome(nodes)
    assert code == expected
    assert (f"cause {codes.index(expected)}" in cause) == bool(expected)


def test_a_killed_rank_explains_ranks_that_lost_their_peer() -> None:
    nodes = [node(exit_code=4, cause="rank 0 exited with code 1"), node(node_rank=1, exit_code=4, cause="rank 2 was killed by SIGKILL")]
    assert record.outcome(nodes) == (4, "node 1 (host1): rank 2 was killed by SIGKILL")


def test_a_crash_explains_a_peer_that_saw_it_first() -> None:
    # Node 0 lost its connection before node 1 had reaped the rank that crashed, and told node 1 so.
    lost = "rank 1 exited with code 1; its last line: Connection closed by peer"
    ranks = RankRecord(rank=2, local_rank=0, exit_code=1), RankRecord(rank=3, local_rank=1, signal=11)
    nodes = [node(exit_code=4, cause=lost), node(node_rank=1, exit_code=4, cause=f"node 0 (host0): {lost}", ranks=ranks)]
    assert record.outcome(nodes) == (4, "node 1 (host1): rank 3 was killed by SIGSEGV")
    # A rank that gave a reason of its own keeps the word, whatever its peers did when it left.
    nodes[0] = replace(nodes[0], cause="rank 1 exited with code 1; its last line: AssertionError")
    assert record.outcome(nodes) == (4, "node 0 (host0): rank 1 exited with code 1; its last line: AssertionError")


def test_wrong_numbers_outrank_the_deaths_that_follow() -> None:
    killed = RankOutcome(RankRecord(rank=0, local_rank=0, signal=15), 1)
    ranks = (killed, RankOutcome(RankRecord(rank=1, local_rank=1, exit_code=6), 2))
    found = Correctness(passed=False, failures=("rank 1: token 3 is wrong",))
    assert node_outcome(LaunchOutcome(ranks, 4, "rank 0 was killed"), found) == (6, "rank 1: token 3 is wrong")
    assert node_outcome(LaunchOutcome(ranks, 4, "x"), None) == (6, "seen by rank 1")
    fine = (RankOutcome(RankRecord(rank=0, local_rank=0, exit_code=0), 1),)
    assert node_outcome(LaunchOutcome(fine, 0, ""), None) == (0, "")


@pytest.mark.parametrize(
    ("code", "text"),
    [(4, "a rank failed"), (6, "wrong numbers"), (130, "interrupted"), (143, "interrupted"), (7, "below the asked threshold")],
)
def test_meaning_is_the_first_words_of_the_table(code: int, text: str) -> None:
    assert meaning(code) == text


def test_median_and_spread_over_runs_never_a_mean_of_bests(make_job: Any) -> None:
    runs = [run_of(best(value)) for value in (1.0, 100.0, 3.0)]
    (row,) = summary_rows(runs)
    assert (row.median_gbps, row.min_gbps, row.max_gbps, row.runs) == (3.0, 1.0, 100.0, 3)
    assert "1.00 .. 100.00" in show.bandwidth_text(whole(make_job(nodes=2), [node(runs)]))


def test_deepep_runs_are_right_by_their_exit_code(make_job: Any) -> None:
    job = make_job(workload="deepep-internode", nodes=2)
    value = whole(job, [node([run_of(best(50), test="internode", passed_cases=32)])])
    assert value.correctness is not None and value.correctness.passed
    assert value.correctness.cases == 32
    assert "exit code" in str(value.correctness.source)
    assert valid(encode(value))


@pytest.mark.parametrize(("asked", "code"), [("4.9", 0), ("5.1", 7)])
def test_threshold(make_job: Any, asked: str, code: int, tmp_path: Path) -> None:
    job = make_job("--min-gbps", asked, nodes=2)
    missed = flow.missed_thresholds(job, [node([run_of(best(5.0))])])
    assert bool(missed) == bool(code)
    result = flow.make_result(job, [node([run_of(best(5.0))])], RunOutcome(0), tmp_path, NOW)
    assert (result.exit_code, result.status) == (code, "failed" if code else "ok")


def test_threshold_without_any_figure_is_not_passed(make_job: Any) -> None:
    assert flow.missed_thresholds(make_job("--min-gbps", "1"), [node()])


def internode(fp8: float, combine: float) -> Run:
    shape = Shape(nodes=2, ranks=16, num_tokens=4096, hidden=7168)
    return run_of(best(fp8, "dispatch", "fp8"), best(combine), test="internode", shape=shape)


def test_ratios_are_medians_over_runs_against_the_best_bound_reference(make_job: Any) -> None:
    runs = [internode(value, 30) for value in (10.0, 45.9, 100.0)]
    azure = {row.metric: row for row in against_references(runs) if row.id == "azure-nd-h100-v5-2"}
    assert azure["dispatch FP8, GB/s (RDMA)"].ratio == 1.0
    assert azure["dispatch FP8, GB/s (RDMA)"].value == 45.9
    held = strictest(beside_published(runs))
    assert held and all(beside.row.bound is not False for beside in held)


@pytest.mark.parametrize(("asked", "code"), [("0.1", 0), ("0.9", 7)])
def test_ratio_gate(make_job: Any, asked: str, code: int) -> None:
    job = make_job("--min-ratio", asked, nodes=2, workload="deepep-internode")
    missed = flow.missed_thresholds(job, [node([internode(30.0, 30.0)])])
    assert bool(missed) == bool(code)
    assert all("below --min-ratio" in text for text in missed)


def test_ratio_gate_without_a_reference_is_refused_before_the_run(make_job: Any) -> None:
    job = make_job("--min-ratio", "0.9", nodes=19, workload="deepep-internode")
    with pytest.raises(UsageError, match="no published result"):
        flow.check_ratio(job)


def test_low_latency_is_summarised_by_the_median_over_ranks(make_job: Any) -> None:
    ranks = tuple(LowLatency(rank=n, dispatch_combine_gbps=value, avg_us=70.0) for n, value in enumerate((100.0, 300.0, 200.0)))
    run = run_of(test="low_latency", low_latency=ranks)
    (row,) = summary_rows([run])
    assert (row.op, row.median_gbps, row.direction) == ("dispatch+combine", 200.0, "total")
    assert "300" in show.low_latency_text([run])


def test_the_wire_explains_figures_above_line_rate(make_job: Any) -> None:
    job = make_job(nodes=2, hca="mlx5_", workload="deepep-internode")
    hcas = tuple(Hca(label=f"NIC{n}", name=f"mlx5_{n}", ports=(Port(1, rate_gbit=400.0),)) for n in range(2))
    job = replace(job, topology=replace(job.topology, hcas=hcas))
    rows = record.wire(job, [internode(60.0, 61.0)])
    assert [(row.off_node_gbps, row.line_rate_gbps) for row in rows] == [(30.0, 50.0), (30.5, 50.0)]
    mixed = replace(job, topology=replace(job.topology, hcas=hcas[:1]))
    assert record.wire(mixed, [internode(60.0, 61.0)]) == ()


def test_logs_are_named_from_the_folder(make_job: Any, tmp_path: Path) -> None:
    ranks = (RankOutcome(RankRecord(rank=0, local_rank=0, exit_code=0), 1),)
    run = run_of(best(1), source=str(tmp_path / "run-1" / "rank-0.log"))
    launched = NodeRun(ranks, Printed((run,)), Launch(bind="all", exit_code=0, seconds=1.0))
    found = record.node_record(make_job(), [launched], "host", None, tmp_path)
    assert found.runs is not None
    assert (found.runs[0].source, found.runs[0].shape.ranks) == ("run-1/rank-0.log", 2)

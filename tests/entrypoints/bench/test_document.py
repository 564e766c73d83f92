"""result.json, its verdict and its schema."""

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entrypoints.bench import document, gate, outcome, published, record, show
from entrypoints.bench.launching import NodeRun, judge, meaning
from entrypoints.errors import UsageError
from entrypoints.launch.model import LaunchOutcome, RankOutcome
from entrypoints.results.schema import BENCH, RUNS
from entrypoints.topology.model import Hca, Port
from tests.helpers.bench_records import best, node, run_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def valid(value: dict[str, Any]) -> bool:
    return not list(jsonschema.Draft202012Validator(BENCH).iter_errors(json.loads(json.dumps(value))))


def whole(job: Any, nodes: list[dict[str, Any]], code: int = 0) -> dict[str, Any]:
    return document.result(job, nodes, code, document.verdict(job, nodes, code, "why"), NOW)


def test_a_result_is_valid_and_readable(make_job: Any) -> None:
    runs = [run_of(best(10, "dispatch", "fp8"), best(20, "dispatch", "bf16"), best(5))]
    value = whole(make_job(nodes=2), [node(runs), node(node_rank=1)])
    assert valid(value)
    assert value["created"] == "2026-01-02T03:04:05Z"
    assert value["verdict"].endswith("GB/s (RDMA) dispatch FP8 10.00, dispatch BF16 20.00, combine 5.00")
    text = show.whole(value)
    assert "dispatch FP8" in text
    assert "OK: " in text
    assert "runs" not in value["nodes"][0], "node 0's runs are told once"
    assert "versions" in value["nodes"][1], "other nodes may differ in theirs"


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
    good = whole(make_job(), [node([run_of(best(1))])])
    assert valid(good)
    assert not valid({**good, **damage})


def test_runs_alone_are_valid_too() -> None:
    jsonschema.Draft202012Validator(RUNS).validate({"schema": "epbox.result/1", "runs": [run_of(best(1))]})


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((4, 0), 4), ((0, 5), 5), ((5, 4), 4), ((4, 6), 6), ((4, 3), 3), ((6, 130), 130), ((4, 130), 130)],
)
def test_the_code_that_explains_the_others_wins(codes: tuple[int, ...], expected: int) -> None:
    nodes = [node(node_rank=n, exit_code=code, cause=f"cause {n}" if code else "") for n, code in enumerate(codes)]
    code, cause = outcome.of_nodes(nodes)
    assert code == expected
    assert (f"cause {codes.index(expected)}" in cause) == bool(expected)


def test_a_killed_rank_explains_ranks_that_lost_their_peer() -> None:
    nodes = [node(exit_code=4, cause="rank 0 exited with code 1"), node(node_rank=1, exit_code=4, cause="rank 2 was killed by SIGKILL")]
    assert outcome.of_nodes(nodes) == (4, "node 1 (host1): rank 2 was killed by SIGKILL")


def test_a_crash_explains_a_peer_that_saw_it_first() -> None:
    # Node 0 lost its connection before node 1 had reaped the rank that crashed, and told node 1 so.
    lost = "rank 1 exited with code 1; its last line: Connection closed by peer"
    ranks = [{"rank": 2, "exit_code": 1, "signal": None}, {"rank": 3, "exit_code": None, "signal": 11}]
    nodes = [node(exit_code=4, cause=lost), node(node_rank=1, exit_code=4, cause=f"node 0 (host0): {lost}", ranks=ranks)]
    assert outcome.of_nodes(nodes) == (4, "node 1 (host1): rank 3 was killed by SIGSEGV")
    # A rank that gave a reason of its own keeps the word, whatever its peers did when it left.
    nodes[0]["cause"] = "rank 1 exited with code 1; its last line: AssertionError"
    assert outcome.of_nodes(nodes) == (4, "node 0 (host0): rank 1 exited with code 1; its last line: AssertionError")


def test_wrong_numbers_outrank_the_deaths_that_follow() -> None:
    ranks = (
        RankOutcome(0, 0, 1, None, 15, 1.0, None),
        RankOutcome(1, 1, 2, 6, None, 1.0, None),
    )
    found = {"passed": False, "failures": ["rank 1: token 3 is wrong"]}
    assert judge(LaunchOutcome(ranks, 4, "rank 0 was killed"), found) == (6, "rank 1: token 3 is wrong")
    assert judge(LaunchOutcome(ranks, 4, "x"), None) == (6, "seen by rank 1")
    fine = (RankOutcome(0, 0, 1, 0, None, 1.0, None),)
    assert judge(LaunchOutcome(fine, 0, ""), None) == (0, "")


@pytest.mark.parametrize(
    ("code", "text"),
    [(4, "a rank failed"), (6, "wrong numbers"), (130, "interrupted"), (143, "interrupted"), (7, "below the asked threshold")],
)
def test_meaning_is_the_first_words_of_the_table(code: int, text: str) -> None:
    assert meaning(code) == text


def test_median_and_spread_over_runs_never_a_mean_of_bests(make_job: Any) -> None:
    runs = [run_of(best(value)) for value in (1.0, 100.0, 3.0)]
    (row,) = document.summarise(runs, several_nodes=True)
    assert (row["median_gbps"], row["min_gbps"], row["max_gbps"], row["runs"]) == (3.0, 1.0, 100.0, 3)
    assert "1.00 .. 100.00" in show.bandwidth({"runs": runs, "summary": [row]})


def test_deepep_runs_are_right_by_their_exit_code(make_job: Any) -> None:
    job = make_job(workload="deepep-internode", nodes=2)
    value = whole(job, [node([{**run_of(best(50)), "test": "internode", "passed_cases": 32}])])
    assert value["correctness"]["passed"] is True
    assert value["correctness"]["cases"] == 32
    assert "exit code" in value["correctness"]["source"]
    assert valid(value)


@pytest.mark.parametrize(("asked", "code"), [("4.9", 0), ("5.1", 7)])
def test_threshold(make_job: Any, asked: str, code: int) -> None:
    job = make_job("--min-gbps", asked, nodes=2)
    got, missed = gate.judge(job, [node([run_of(best(5.0))])])
    assert got == code
    assert bool(missed) == bool(code)


def test_threshold_without_any_figure_is_not_passed(make_job: Any) -> None:
    assert gate.judge(make_job("--min-gbps", "1"), [node()])[0] == 7


def internode(fp8: float, combine: float) -> dict[str, Any]:
    shape = {"nodes": 2, "ranks": 16, "num_tokens": 4096, "hidden": 7168}
    return {**run_of(best(fp8, "dispatch", "fp8"), best(combine)), "test": "internode", "shape": shape}


def test_ratios_are_medians_over_runs_against_the_best_bound_reference(make_job: Any) -> None:
    rows = published.against([internode(value, 30) for value in (10.0, 45.9, 100.0)])
    azure = {row["metric"]: row for row in rows if row["id"] == "azure-nd-h100-v5-2"}
    assert azure["dispatch FP8, GB/s (RDMA)"]["ratio"] == 1.0
    assert azure["dispatch FP8, GB/s (RDMA)"]["value"] == 45.9
    assert all(row["bound"] is not False for row in published.strictest(rows))
    assert published.strictest(rows) != []


@pytest.mark.parametrize(("asked", "code"), [("0.1", 0), ("0.9", 7)])
def test_ratio_gate(make_job: Any, asked: str, code: int) -> None:
    job = make_job("--min-ratio", asked, nodes=2, workload="deepep-internode")
    got, missed = gate.judge(job, [node([internode(30.0, 30.0)])])
    assert got == code
    assert ("below --min-ratio" in missed) == bool(code)


def test_ratio_gate_without_a_reference_is_refused_before_the_run(make_job: Any) -> None:
    job = make_job("--min-ratio", "0.9", nodes=19, workload="deepep-internode")
    with pytest.raises(UsageError, match="no published result"):
        gate.check_possible(job.args, job)


def test_low_latency_is_summarised_by_the_median_over_ranks(make_job: Any) -> None:
    ranks = [{"rank": n, "dispatch_combine_gbps": value, "avg_us": 70.0} for n, value in enumerate((100.0, 300.0, 200.0))]
    run = {**run_of(), "test": "low_latency", "low_latency": ranks}
    (row,) = document.summarise([run], several_nodes=False)
    assert (row["op"], row["median_gbps"], row["direction"]) == ("dispatch+combine", 200.0, "total")
    assert "300" in show.low_latency({"runs": [run]})


def test_the_wire_explains_figures_above_line_rate(make_job: Any) -> None:
    job = make_job(nodes=2, hca="mlx5_", workload="deepep-internode")
    hcas = tuple(Hca(label=f"NIC{n}", name=f"mlx5_{n}", ports=(Port(1, rate_gbps=400.0),)) for n in range(2))
    job = replace(job, topology=replace(job.topology, hcas=hcas))
    rows = published.wire(job, [internode(60.0, 61.0)])
    assert [(row["off_node_gbps"], row["line_rate_gbps"]) for row in rows] == [(30.0, 50.0), (30.5, 50.0)]
    mixed = replace(job, topology=replace(job.topology, hcas=hcas[:1]))
    assert published.wire(mixed, [internode(60.0, 61.0)]) == []


def test_logs_are_named_from_the_folder(make_job: Any, tmp_path: Path) -> None:
    ranks = (RankOutcome(0, 0, 1, 0, None, 1.0, None),)
    run = {**run_of(best(1)), "source": str(tmp_path / "run-1" / "rank-0.log")}
    launched = NodeRun(LaunchOutcome(ranks, 0, ""), (run,), None, 0, "", "all")
    found = record.node_record(make_job(), [launched], "host", None, tmp_path)
    assert found["runs"][0]["source"] == "run-1/rank-0.log"
    assert found["runs"][0]["shape"]["ranks"] == 2

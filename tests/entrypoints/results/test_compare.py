"""References, the wire, comparison, history and the gates of the verb."""

import io
import json
import sys
from pathlib import Path

import pytest

from entrypoints.__main__ import main
from entrypoints.logs.parse import parse_lines
from entrypoints.results import comparison, history
from entrypoints.results.codec import encode
from entrypoints.results.metrics import Metric, figure_rows, metrics
from entrypoints.results.references import against_references, against_wire, with_nodes


def best(scale: float = 1.0, form: str = "A") -> list[str]:
    figures = (("dispatch (FP8)", 45.9, 149.8), ("dispatch (BF16)", 60.3, 196.9), ("combine", 61.3, 200.2))
    return [
        f"[tuning] Best {name}: SMs 24, NVL chunk 4, RDMA chunk 16: {rdma * scale:.2f} GB/s (RDMA), {nvl * scale:.2f} GB/s (NVL)"
        for name, rdma, nvl in figures
    ]


def log(folder: Path, name: str, *scales: float) -> str:
    path = folder / name
    path.write_text("\n".join(line for scale in scales for line in best(scale)) + "\n")
    return str(path)


def test_a_run_of_unknown_shape_has_no_reference() -> None:
    (run,) = parse_lines(best())
    assert against_references([with_nodes(run, None)]) == ()
    rows = against_references([with_nodes(run, 2)])
    assert {row.ratio for row in rows if row.id == "azure-nd-h100-v5-2"} == {1.0}
    assert against_references([with_nodes(run, 3)]) == ()


def test_another_token_count_is_another_shape() -> None:
    (run,) = parse_lines(["[config] num_tokens=128, hidden=7168, num_topk_groups=2, num_topk=8", *best()])
    assert against_references([with_nodes(run, None)]) == ()


def test_the_wire_leaves_out_what_stays_on_the_node() -> None:
    (run,) = parse_lines(best())
    rows = {row.metric: row for row in against_wire(with_nodes(run, 2), 400, 1)}
    combine = rows["combine, GB/s (RDMA)"]
    assert combine.value > combine.line_rate_gbps == 50.0
    assert (combine.off_node_gbps, combine.share) == (30.65, 0.613)
    assert against_wire(with_nodes(run, None), 400, 1) == ()


def test_statistics_are_medians_and_say_so() -> None:
    rows = figure_rows(parse_lines([line for scale in (1.0, 2.0, 4.0) for line in best(scale)]))
    combine = next(row for row in rows if row.metric == "combine, GB/s (RDMA)")
    assert (combine.runs, combine.median, combine.spread) == (3, 122.6, 1.5)
    assert "median over runs" in combine.statistic


@pytest.mark.parametrize(
    ("one", "two", "p"),
    [
        ((1, 2, 3, 4), (5, 6, 7, 8), 2 / 70),
        ((1, 3, 5, 7), (2, 4, 6, 8), 48 / 70),
        ((1, 1, 1, 1), (1, 1, 1, 1), 1.0),
        ((1, 2), (3, 4), None),
        ((1,), (2,), None),
    ],
)
def test_rank_sum(one: tuple[float, ...], two: tuple[float, ...], p: float | None) -> None:
    found = comparison.rank_sum_p(one, two)
    assert found is None if p is None else found == pytest.approx(p, abs=0.01)


def test_rank_sum_of_many_runs_agrees_with_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = [float(i) for i in range(8)], [4.5, 5.5, 6.5, 8.0, 9.0, 10.0, 11.0, 12.0]
    exact = comparison.rank_sum_p(one, two)
    assert exact == pytest.approx(0.0047, abs=0.0005)  # U = 6 of 64
    monkeypatch.setattr(comparison, "MOST_COUNTED", 0)
    assert comparison.rank_sum_p(one, two) == pytest.approx(0.0074, abs=0.001)  # z = 2.68 with continuity correction


def test_compare_says_noise_or_significant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = log(tmp_path, "a.log", 0.40, 0.41, 0.42, 0.43)
    fast = log(tmp_path, "b.log", 0.98, 0.99, 1.00, 1.01)
    assert main(["results", "--compare", slow, fast, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows and all("significant" in row["note"] and row["better"] for row in rows)
    same = log(tmp_path, "c.log", 0.405, 0.415, 0.425, 0.435)
    main(["results", "--compare", slow, same, "--format", "json"])
    assert all("noise" in row["note"] and row["better"] is None for row in json.loads(capsys.readouterr().out)["rows"])
    main(["results", "--compare", log(tmp_path, "d.log", 1), log(tmp_path, "e.log", 2), "--format", "json"])
    assert all("too few" in row["note"] for row in json.loads(capsys.readouterr().out)["rows"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--min-gbps", "45"], 0),
        (["--min-gbps", "46"], 7),
        (["--min-gbps", "combine=61"], 0),
        (["--min-gbps", "combine=62"], 7),
        (["--min-gbps", "dispatch/bf16=60", "--min-gbps", "dispatch=45"], 0),
        (["--min-gbps", "gather=1"], 2),
        (["--min-gbps", "fast"], 2),
        (["--min-ratio", "0.9"], 2),
        (["--min-ratio", "0.9", "--nodes", "2"], 0),
        (["--min-ratio", "1.1", "--nodes", "2"], 7),
        (["--min-ratio", "1.1", "--nodes", "2", "--reference", "h200-2"], 0),
        (["--min-ratio", "1.1", "--nodes", "2", "--reference", "nobody"], 2),
        (["--require-complete"], 7),
        (["--nodes", "0"], 2),
    ],
)
def test_gates(options: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", log(tmp_path, "a.log", 1.0), *options]) == code
    assert bool(capsys.readouterr().err) == bool(code)


def test_standard_input_and_every_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("table", "json", "markdown"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(best()).encode())))
        assert main(["results", "-", "--nodes", "2", "--port-gbps", "400", "--format", form]) == 0
        out = capsys.readouterr().out
        assert "60.3" in out and "Azure HPC blog" in out
        if form == "json":
            document = json.loads(out)
            assert document["schema"] == "epbox.result/1" and document["runs"][0]["best"][1]["rdma_gbps"] == 60.3


def test_a_log_without_a_result_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\x00\x01\x02" * 5000)
    assert main(["results", str(path)]) == 2
    assert "epbox diagnose" in capsys.readouterr().err
    assert main(["results"]) == 2


def test_result_json_is_read_like_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = parse_lines(best())
    document = {"schema": "epbox.result/1", "shape": {"nodes": 2, "ranks_per_node": 8, "num_tokens": 4096}, "runs": [encode(run)]}
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert main(["results", str(tmp_path), "--min-ratio", "0.95", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["shape"]["ranks"] == 16
    (tmp_path / "result.json").write_text('{"runs": 3}')
    assert main(["results", str(tmp_path)]) == 2


def test_history_marks_what_is_slower_than_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "index.jsonl"
    values = [60.0, 60.5, 59.8, 60.1, 40.0, 60.0]
    with index.open("w") as stream:
        for day, value in enumerate(values, 1):
            summary_row = {"op": "combine", "dtype": None, "median_gbps": value}
            entry = {"created": f"2026-11-{day:02}T00:00:00Z", "workload": "deepep-internode", "status": "ok", "shape": {"nodes": 2},
                     "bind": "nic,cpu,mem", "summary": [summary_row], "result": f"r{day}/result.json"}  # fmt: skip
            stream.write(json.dumps(entry) + "\n")
        stream.write('{"created": "2026-11-07", "workload": "torn')
    (series,) = history.series(history.load(index))
    assert [point.regression for point in series.points] == [False, False, False, False, True, False]
    assert main(["results", "--history", str(index)]) == 0
    assert capsys.readouterr().out.count("REGRESSION") == 1
    assert main(["results", "--history", str(tmp_path / "none.jsonl")]) == 2


def test_low_latency_is_compared_in_time_and_bandwidth() -> None:
    lines = [
        f"[rank {rank}] Dispatch bandwidth: 98.00 GB/s, avg_t=77.00 us | Combine bandwidth: 127.00 GB/s, avg_t=114.00 us"
        for rank in range(8)
    ]
    (run,) = parse_lines(lines)
    assert metrics(run)[Metric("dispatch", None, "us")] == 77.0
    assert {row.ratio for row in against_references([run])} == {1.0}


def test_a_figure_above_line_rate_is_explained_without_being_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "run.log"
    log.write_text("\n".join(best()))
    assert main(["results", str(log), "--nodes", "2"]) == 0
    assert "1 of 2 leaves the node" in capsys.readouterr().out
    assert main(["results", str(log), "--nodes", "2", "--port-gbps", "400"]) == 0
    assert "may be above" not in capsys.readouterr().out


def test_arms_of_an_ablation_are_not_runs_of_one_thing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = parse_lines(best())
    arms = ["none", "nic+cpu+mem", "none", "nic+cpu+mem"]
    document = {
        "schema": "epbox.result/1",
        "shape": {"nodes": 2, "ranks_per_node": 8},
        "runs": [{**encode(run), "arm": arm} for arm in arms],
    }
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert main(["results", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["summary"]
    assert {(row["shape"].get("arm"), row["runs"]) for row in rows} == {("none", 2), (None, 2)}
    other = tmp_path / "plain.json"
    other.write_text(json.dumps({**document, "runs": [encode(run)]}))
    assert main(["results", "--compare", str(tmp_path), str(other)]) == 0
    assert "none" not in capsys.readouterr().out, "the whole binding is what a plain run has"


def test_a_threshold_is_not_for_the_baseline_or_an_unbound_arm(tmp_path: Path) -> None:
    (run,) = parse_lines(best())
    fast = encode(run)
    slow = {**fast, "best": [{**item, "rdma_gbps": 1.0, "nvl_gbps": 3.0} for item in fast["best"]]}
    runs = [fast, {**slow, "test": "alltoall", "arm": "baseline"}, {**slow, "arm": "none"}]
    (tmp_path / "result.json").write_text(
        json.dumps({"schema": "epbox.result/1", "shape": {"nodes": 2, "ranks_per_node": 8}, "runs": runs})
    )
    assert main(["results", str(tmp_path), "--min-gbps", "40"]) == 0
    (tmp_path / "result.json").write_text(
        json.dumps({"schema": "epbox.result/1", "shape": {"nodes": 2, "ranks_per_node": 8}, "runs": runs[1:2]})
    )
    assert main(["results", str(tmp_path), "--min-gbps", "40"]) == 7

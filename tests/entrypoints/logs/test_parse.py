"""Copies of several nodes, several runs, torn lines, completeness, and DeepEP 2."""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.errors import UsageError
from entrypoints.logs.parse import parse_lines, parse_paths
from entrypoints.results.model import Run

CONFIG = "[config] num_tokens=4096, hidden=7168, num_topk_groups=2, num_topk=8"


def cases(fp8: int) -> list[str]:
    """Correctness lines: 4 BF16 and `fp8` FP8 per async/previous mode."""
    return [
        f"[testing] Running with {dtype}, {topk} top-k (async={mode}, previous={previous}) ... passed"
        for previous in (False, True)
        for mode in (False, True)
        for dtype, count in (("BF16", 2), ("FP8", fp8 // 2))
        for _ in range(count)
        for topk in ("without", "with")
    ]


def point(form: str, nvl: int, rdma: int, value: float) -> str:
    times = {"A": ": ", "B": ", transmit: 1391.00 us, notify: 229.00 us, BW: ", "C": ": 229 + 1391 us, "}[form]
    return f"[tuning] SMs 24, NVL chunk {nvl}, RDMA chunk {rdma}{times}{value:.2f} GB/s (RDMA), {value * 3.27:.2f} GB/s (NVL) "


def internode(form: str = "B", fp8: int = 4, base: float = 40.0) -> list[str]:
    """A whole run as one node prints it."""
    lines = [CONFIG, "[layout] Kernel performance: 0.042 ms", "", *cases(fp8), ""]
    nvl_sizes = range(4, 33, 4) if form == "A" else range(4, 45, 4)
    for index, dtype in enumerate(("FP8", "BF16")):
        lines += [point(form, nvl, rdma, base + index) for nvl in nvl_sizes for rdma in range(4, 33, 4)]
        lines.append(point(form, 28, 16, base + index).replace("SMs", f"Best dispatch ({dtype}): SMs").rstrip())
        lines.append("")
    lines += [point(form, nvl, rdma, base + 5) for nvl in range(1, 8) for rdma in range(12, 33, 4)]
    lines.append(point(form, 4, 24, base + 5).replace("SMs", "Best combine: SMs").rstrip())
    return lines


@pytest.mark.parametrize(("form", "fp8"), [("A", 2), ("B", 2), ("B", 4), ("C", 4)])
def test_whole_runs_of_every_generation_are_complete(form: str, fp8: int) -> None:
    (run,) = parse_lines(internode(form, fp8))
    assert run.complete, run.missing
    assert run.format == form
    assert run.passed_cases == (24 if fp8 == 2 else 32)
    assert [(item.op, item.dtype) for item in run.best] == [("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)]
    assert run.shape.nodes == 2
    if form != "A":
        assert run.best[0].transmit_us == 1391.0 and run.best[0].notify_us == 229.0


@pytest.mark.parametrize("cut", [3, 20, 34, 60, 120, 200, 215, -1])
def test_a_run_cut_short_is_never_complete(cut: int) -> None:
    runs = parse_lines(internode()[:cut])
    assert all(not run.complete for run in runs)


@pytest.mark.parametrize("index", [2 + 3, 40, 130, 180, 250])
def test_a_run_with_a_hole_is_not_complete(index: int) -> None:
    lines = internode()
    del lines[index]
    (run,) = parse_lines(lines)
    assert not run.complete


def test_two_nodes_interleaved_with_prefixes_are_one_run_with_two_copies() -> None:
    one, two = internode(base=40), internode(base=41)
    mixed = [line for pair in zip(one, two, strict=True) for line in (f"[1,0]<stdout>:{pair[0]}", f"[1,1]<stdout>:{pair[1]}")]
    (run,) = parse_lines(mixed)
    assert run.complete, run.missing
    assert run.copies == 2 and run.passed_cases == 64
    assert {item.writer for item in run.best} == {"1,0", "1,1"}
    assert len(run.best) == 6


def test_two_nodes_interleaved_without_prefixes() -> None:
    one, two = internode(base=40), internode(base=41)
    (run,) = parse_lines([line for pair in zip(one, two, strict=True) for line in pair])
    assert run.complete, run.missing
    assert run.copies == 2


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_nodes_that_drift_apart_by_a_few_lines(seed: int) -> None:
    """Nodes wait for each other at every measurement: they print at most a few lines apart."""
    source = random.Random(seed)
    streams = [[f"[pod/ep-{node}/main] {line}" for line in internode(base=40 + node)] for node in range(2)]
    mixed: list[str] = []
    while any(streams):
        first = source.randrange(2)
        for node in (first, 1 - first):
            taken = source.randrange(1, 3)
            mixed += streams[node][:taken]
            del streams[node][:taken]
    (run,) = parse_lines(mixed)
    assert run.complete, run.missing


def test_several_runs_in_a_file() -> None:
    runs = parse_lines([*internode("A", 2), "$ python3 tests/test_internode.py", *internode("B"), *internode("C")])
    assert [run.format for run in runs] == ["A", "B", "C"]
    assert all(run.complete for run in runs)


def test_two_excerpts_of_best_lines_are_two_runs() -> None:
    best = [line for line in internode("A", 2) if "Best" in line]
    runs = parse_lines(["without binding:", *best, "with binding:", *best])
    assert [len(run.best) for run in runs] == [3, 3]


def test_a_message_cut_in_two_is_joined() -> None:
    lines = internode()
    index = next(number for number, line in enumerate(lines) if "Best combine" in line)
    whole = lines[index]
    lines[index : index + 1] = [whole[:60], whole[60:]]
    (run,) = parse_lines(lines)
    assert run.complete, run.missing


def test_passed_on_a_line_of_its_own() -> None:
    lines = [part for line in internode() for part in (line.split(" passed") if line.endswith("... passed") else [line])]
    lines = [" passed" if not part and number and lines[number - 1].endswith("...") else part for number, part in enumerate(lines)]
    (run,) = parse_lines(lines)
    assert run.passed_cases == 32 and run.complete


def test_torn_numbers_are_not_numbers() -> None:
    assert parse_lines(["[rank 0] Dispatch + combine bandwidth: 4.9"]) == []
    assert parse_lines(["[tuning] Best combine: SMs 24, NVL chunk 4, RDMA chunk 24: 61.7"]) == []
    assert parse_lines(["[tuning] Best combine: SMs 24, NVL chunk 4, RDMA chunk 24: 1.46 GB/s (NVL)"]) == []
    lines = internode()
    lines.insert(60, "[tuning] SMs 24, NVL chunk 4, RDMA chunk 8: 1.46 GB/s (NVL)")
    (run,) = parse_lines(lines)
    assert not run.complete and "1 torn lines" in (run.missing or ())


@pytest.mark.parametrize(
    "line",
    [
        "[rank 3] Dispatch send/recv time: 35.14 us | Combine send/recv time: 44.11 us",
        "[rank 3] Dispatch send/recv time: 13.11 + 8.70 us | Combine send/recv time: 18.35 + 10.98 us",
        "[rank 3] Dispatch send/recv time: 21.81 = 13.11 + 8.70 us | Combine send/recv time: 29.33 = 18.35 + 10.98 us",
    ],
)
def test_every_generation_of_low_latency_phases(line: str) -> None:
    (run,) = parse_lines([line])
    assert run.send_recv_lines == 1
    (kernel,) = run.low_latency_kernels or ()
    if "+" in line:
        assert (kernel.dispatch_send_us, kernel.combine_recv_us) == (13.11, 10.98)
    else:
        assert (kernel.dispatch_total_us, kernel.dispatch_send_us) == (35.14, None)


def low_latency(rank: int) -> list[str]:
    return [
        f"[rank {rank}] Dispatch + combine bandwidth: 256.81 GB/s, avg_t=85.85 us, min_t=76.42 us, max_t=106.50 us",
        f"[rank {rank}] Dispatch bandwidth: 387.42 GB/s, avg_t=19.39 us | Combine bandwidth: 581.79 GB/s, avg_t=24.99 us",
        f"[rank {rank}] Dispatch send/recv time: 13.11 + 8.70 us | Combine send/recv time: 18.35 + 10.98 us",
    ]


def test_low_latency_log_per_rank_is_one_run(tmp_path: Path) -> None:
    for rank in range(16):
        (tmp_path / f"rank{rank}.log").write_text("\n".join(low_latency(rank)))
    (run,) = parse_paths([tmp_path])
    assert run.complete and run.shape.ranks == 16
    assert [item.rank for item in run.low_latency] == list(range(16))


def test_low_latency_twice_is_two_runs() -> None:
    lines = [line for _ in range(2) for rank in range(8) for line in low_latency(rank)]
    assert [run.complete for run in parse_lines(lines)] == [True, True]


def test_low_latency_without_a_rank_is_not_complete() -> None:
    (run,) = parse_lines([line for rank in (0, 1, 3) for line in low_latency(rank)])
    assert not run.complete and "highest is 3" in (run.missing or ("",))[0]


def elastic(ranks: int, configurations: int) -> list[str]:
    lines = [
        "Config:",
        f" > Ranks: 2 x {ranks // 2}",
        " > Experts: 6/256",
        " > Tokens: 4096 (max: 4096), hidden: 7168",
        " > #SM: 12, #QPs: 13/65",
    ]
    for number in range(configurations):
        lines.append(
            f" > Testing with do_handle_copy={number % 2}, expert_alignment={number}, use_fp8_dispatch={1 - number % 2}, num_bias=0 ..."
        )
        for mark, name in zip("*-#@+", ("dispatch", "expanded dispatch", "cached dispatch", "combine", "reduced combine"), strict=True):
            what = "copy" if "dispatch" in name else "reduce"
            lines += [
                f"   {mark} EP: {rank:3}/{ranks} | {name}: {max(1, 90 - number)} GB/s (SO), 300 GB/s (SU), "
                f"{500 + number + rank / 10:.3f} us, 1000 bytes | {what}: 900 GB/s, 80.000 us"
                for rank in range(ranks)
            ]
    return lines


def test_elastic_ep() -> None:
    (run,) = parse_lines(elastic(16, 144))
    assert run.test == "elastic_ep" and run.complete, run.missing
    assert run.shape.nodes == 2 and run.shape.extra["sms"] == 12
    best = {(item.op, item.dtype): item for item in run.best}
    assert best["dispatch", "fp8"].rdma_gbps == 90 and "medians over 16 ranks" in (best["dispatch", "fp8"].statistic or "")
    assert best["dispatch", "bf16"].rdma_gbps == 89


def test_elastic_ep_cut_short() -> None:
    (run,) = parse_lines(elastic(16, 144)[:-3])
    assert not run.complete
    silent = [line for line in elastic(16, 144) if "EP:" not in line or "combine" not in line]
    assert not parse_lines(silent)[0].complete
    (run,) = parse_lines(elastic(16, 1))
    assert run.missing and "configurations: 1 of 144" in run.missing


@pytest.mark.parametrize(
    ("line", "test", "metric"),
    [
        (" > EP:   0/  1, barrier time: 12.345 us", "elastic_barrier", {"rank": 0, "us": 12.345}),
        (
            " > Rank:   0/  1 | 1 x 4 MB | avg: 10.000 us, 55.500 GB/s (inplace=1, batched=0)",
            "elastic_agrs",
            {"rank": 0, "shape": "1 x 4 MB", "us": 10.0, "gbps": 55.5, "inplace": 1, "batched": 0},
        ),
        (
            " > EP:   0/  1 | hide=1, concurrent=2 | send: 5.000 us, 40.000 GB/s | recv: 6.000 us, 39.000 GB/s",
            "elastic_pp",
            {"rank": 0, "hide": 1, "concurrent": 2, "send_us": 5.0, "send_gbps": 40.0, "recv_us": 6.0, "recv_gbps": 39.0},
        ),
        (
            " > Rank   0/1 | issue: 3.1 us, wait: 9.2 us, 33.0 GB/s, bytes: 1.0 MB, 0.50 MPPS (7168 B/msg)",
            "elastic_engram",
            {"rank": 0, "issue_us": 3.1, "wait_us": 9.2, "gbps": 33.0},
        ),
    ],
)
def test_elastic_siblings(line: str, test: str, metric: dict[str, object]) -> None:
    (run,) = parse_lines(["Config:", line])
    assert (run.test, run.metrics, run.complete) == (test, (metric,), True)


def test_intranode_without_fp8() -> None:
    """On SM80 there is no FP8: 16 cases, and no best FP8 line."""
    lines = ["[config] num_tokens=4096, hidden=7168, num_topk=8", *cases(0)]
    for operation, chunks in (("dispatch (BF16)", (*range(4, 33, 2), "default")), ("combine", (*range(1, 17), "default"))):
        lines += [f"[tuning] SMs 24, NVL chunk {chunk}: 100.00 GB/s (NVL), avg_t: 9.00 us" for chunk in chunks]
        comma = "," if "dispatch" in operation else ":"
        lines.append(f"[tuning] Best {operation}: SMs 24, NVL chunk 4{comma} 100.00 GB/s (NVL), t: 9.00 us")
    (run,) = parse_lines(lines)
    assert run.complete and run.expected_cases == 16 and run.best[0].time_us == 9.0, run.missing


def intranode(dtypes: tuple[str, ...] = ("FP8", "BF16")) -> list[str]:
    """A whole run on one node: times stand behind the bandwidth, with a name in the best line only."""
    lines = ["[config] num_tokens=4096, hidden=7168, num_topk=8", "[layout] Kernel performance: 0.041 ms", "", *cases(2), ""]
    sweeps = [(f"dispatch ({dtype})", (*range(4, 33, 2), "default"), 200.0 + n) for n, dtype in enumerate(dtypes)]
    for operation, chunks, gbps in [*sweeps, ("combine", (*range(1, 17), "default"), 300.0)]:
        lines += [f"[tuning] SMs 24, NVL chunk {chunk}: {gbps:.2f} GB/s (NVL), 1087.20 us" for chunk in chunks]
        lines += [f"[tuning] Best {operation}: SMs 24, NVL chunk 4: {gbps:.2f} GB/s (NVL), t: 965.24 us", ""]
    return lines


def test_intranode_with_both_types() -> None:
    (run,) = parse_lines(intranode())
    assert run.complete and run.passed_cases == 24, run.missing
    assert [(item.op, item.dtype, item.nvl_gbps) for item in run.best] == [
        ("dispatch", "fp8", 200.0),
        ("dispatch", "bf16", 201.0),
        ("combine", None, 300.0),
    ]
    assert not parse_lines(intranode(("BF16",)))[0].complete


def all_ranks() -> list[str]:
    return [line for rank in range(8) for line in low_latency(rank)]


def without_source(runs: list[Run]) -> list[Run]:
    """The runs without the name of the file that they were read from."""
    return [replace(run, source=None) for run in runs]


KINDS: dict[str, Callable[[], list[str]]] = {
    "internode": internode,
    "intranode": intranode,
    "low latency": all_ranks,
    "elastic": lambda: elastic(8, 144),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress], ids=["plain", "gzip", "xz", "bzip2"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed(tmp_path: Path, kind: str, end: str, pack: Callable[[bytes], bytes]) -> None:
    lines = KINDS[kind]()
    packed = tmp_path / "some.bin"
    packed.write_bytes(pack(end.join(lines).encode()))
    assert without_source(parse_paths([packed])) == without_source(parse_lines(lines))
    assert without_source(parse_lines([line.encode() for line in lines])) == without_source(parse_lines(lines))


@pytest.mark.parametrize("kind", KINDS)
def test_utf16_as_powershell_writes_it(tmp_path: Path, kind: str) -> None:
    lines = KINDS[kind]()
    path = tmp_path / "power.log"
    path.write_text("\n".join(lines), encoding="utf-16")
    assert without_source(parse_paths([path])) == without_source(parse_lines(lines))


def test_nothing_and_damage(tmp_path: Path) -> None:
    assert parse_lines([]) == [] and parse_lines(["hello", "\x00\xff"]) == []
    broken = tmp_path / "x.gz"
    broken.write_bytes(b"\x1f\x8b\x08\x00 this is no gzip")
    with pytest.raises(UsageError, match="damaged"):
        parse_paths([broken])
    with pytest.raises(UsageError, match="cannot be read"):
        parse_paths([tmp_path / "absent.log"])


@given(st.lists(st.text(max_size=120), max_size=30), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_any_text_in_between_is_survived(noise: list[str], seed: int) -> None:
    """Whole lines of other programs between the lines of a test change nothing."""
    source = random.Random(seed)
    lines = internode()
    for text in noise:
        line = text.replace("[", "(").replace("\n", " ").replace("\r", " ").replace("passed", "")
        lines.insert(source.randrange(len(lines)), line)
    (run,) = [run for run in parse_lines(lines) if run.test == "internode"]
    assert run.complete, run.missing

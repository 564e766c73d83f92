"""Shapes of results that people post and that ports of DeepEP print; figures are those of the posts named."""

from typing import Any

import pytest

from entrypoints.logs.parse import parse_lines
from entrypoints.results.metrics import Metric, metrics
from entrypoints.results.model import Run


def figures(run: Run) -> list[tuple[Any, ...]]:
    return [(best.op, best.dtype, best.rdma_gbps, best.nvl_gbps) for best in run.best]


def test_best_lines_in_the_order_of_their_author() -> None:
    """DeepEP#493: combine first, two node counts in one post."""
    lines = """# 2 nodes
[tuning] Best combine: SMs 24, NVL chunk 2, RDMA chunk 20: 44.37 GB/s (RDMA), 145.16 GB/s (NVL)
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 28, RDMA chunk 16: 40.89 GB/s (RDMA), 133.78 GB/s (NVL)
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 28, RDMA chunk 24: 38.19 GB/s (RDMA), 124.92 GB/s (NVL)
# 4 nodes
[tuning] Best combine: SMs 24, NVL chunk 2, RDMA chunk 8: 12.53 GB/s (RDMA), 25.05 GB/s (NVL)
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 12, RDMA chunk 4: 12.27 GB/s (RDMA), 24.51 GB/s (NVL)
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 4, RDMA chunk 4: 13.15 GB/s (RDMA), 26.27 GB/s (NVL)
""".splitlines()
    two, four = parse_lines(lines)
    assert figures(two) == [("combine", None, 44.37, 145.16), ("dispatch", "bf16", 40.89, 133.78), ("dispatch", "fp8", 38.19, 124.92)]
    assert [best.rdma_gbps for best in four.best] == [12.53, 12.27, 13.15]
    assert not two.complete


def test_both_tests_in_one_comment() -> None:
    """DeepEP#138, 2 x 8 H20 on RoCE: an intranode excerpt and an internode one."""
    intranode, internode = parse_lines(
        """```shell
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 8, 326.56 GB/s (NVL)
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 12, 344.45 GB/s (NVL)
[tuning] Best combine: SMs 24, NVL chunk 3: 332.57 GB/s (NVL)
```
[tuning] Best dispatch (FP8): SMs 24, NVL chunk 8, RDMA chunk 32: 17.77 GB/s (RDMA), 58.21 GB/s (NVL)
[tuning] Best dispatch (BF16): SMs 24, NVL chunk 24, RDMA chunk 32: 21.00 GB/s (RDMA), 68.76 GB/s (NVL)
[tuning] Best combine: SMs 24, NVL chunk 1, RDMA chunk 32: 22.66 GB/s (RDMA), 74.21 GB/s (NVL)""".splitlines()
    )
    assert (intranode.test, internode.test) == ("intranode", "internode")
    assert [best.nvl_gbps for best in intranode.best] == [326.56, 344.45, 332.57]
    assert [best.rdma_gbps for best in internode.best] == [17.77, 21.0, 22.66]


def test_figures_in_bold() -> None:
    (run,) = parse_lines(["[tuning] Best dispatch (BF16): SMs 24, NVL chunk 20, RDMA chunk 32: **52.26 GB/s (RDMA), 170.59 GB/s (NVL)**"])
    assert figures(run) == [("dispatch", "bf16", 52.26, 170.59)]


def test_format_b_of_another_library() -> None:
    """uccl#444 on CX-7: UCCL prints DeepEP's lines."""
    (run,) = parse_lines(
        [
            "[tuning] Best combine: SMs 24, NVL chunk 3, RDMA chunk 24, transmit: 1760.00 us, notify: 77.31 us, "
            "BW: 66.47 GB/s (RDMA), 217.43 GB/s (NVL)"
        ]
    )
    (best,) = run.best
    assert (run.format, best.rdma_gbps, best.transmit_us, best.notify_us) == ("B", 66.47, 1760.0, 77.31)


def test_paddles_port_counts_twice_and_deepeps_figure_is_the_first() -> None:
    lines = [
        "[tuning] SMs 24, NVL chunk 4, RDMA chunk 8: 40.00 GB/s (RDMA + NVL), 20.00 GB/s (RDMA), 130.00 GB/s (NVL) "
        "(time: 0.00220 s, cpu_time: 0.00300 s)",
        "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 4, RDMA chunk 8: 40.00 GB/s (RDMA + NVL), 20.00 (RDMA), 130.00 GB/s (NVL) "
        "(time: 0.00220 s, cpu_time: 0.00300 s)",
        "[tuning] Best combine: SMs 24, NVL chunk 2, RDMA chunk 8: 42.00 GB/s (RDMA + NVL), 21.00 GB/s (RDMA), 135.00 GB/s (NVL) "
        "(time: 0.00410 s, cpu_time: 0.00500 s)",
    ]
    for form in (lines, [line.encode() for line in lines]):
        (run,) = parse_lines(form, sweep=True)
        assert run.format == "Paddle"
        assert [(best.rdma_gbps, best.rdma_only_gbps, best.time_us) for best in run.best] == [
            (40.0, 20.0, 2200.0),
            (42.0, 21.0, 4100.0),
        ]
        assert run.sweep and run.sweep[0].points == ((4, 8, 40.0, 130.0),)


def test_ascend_between_nodes() -> None:
    """sgl-kernel-npu#193, two A2 servers."""
    first, second = parse_lines(
        """server1
[tuning] Dispatch (BF16) 35.30 GB/s (HCCS), 8.80 GB/s (RDMA), avg_t: 13283.41 us, notify_t: 2555.80 us
[tuning] Combine 52.56 GB/s (HCCS), 13.24 GB/s (RDMA), avg_t: 8832.71 us
server2
[tuning] Dispatch (BF16) 38.12 GB/s (HCCS), 9.52 GB/s (RDMA), avg_t: 12302.28 us, notify_t: 3768.78 us
[tuning] Combine 53.36 GB/s (HCCS), 13.33 GB/s (RDMA), avg_t: 8787.61 us""".splitlines()
    )
    assert (first.test, first.format) == ("internode", "Ascend")
    assert figures(first) == [("dispatch", "bf16", 8.8, 35.3), ("combine", None, 13.24, 52.56)]
    assert (first.best[0].transmit_us, first.best[0].notify_us, first.best[0].link) == (13283.41, 2555.8, "HCCS")
    assert figures(second)[1] == ("combine", None, 13.33, 53.36)
    assert not first.complete


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[tuning] Dispatch (FP8) 146.00 GB/s (HCCS), avg_t: 410.00 us", [("dispatch", "fp8", None, 146.0)]),
        ("[rank 3] [tuning] Dispatch (INT8) 146.00 GB/s (HCCS), avg_t: 410.00 us", [("dispatch", "int8", None, 146.0)]),
        (
            "[tuning] Dispatch (quant_type='no', recv_bytes=938870784) 79.75 GB/s (HCCS), avg_t: 11772.40 us",
            [("dispatch", None, None, 79.75)],
        ),
        (
            "[tuning] Notify avg_t: 12.00 us | Dispatch 90.10 GB/s (HCCS), avg_t: 652.00 us | Combine 80.20 GB/s (HCCS), avg_t: 732.00 us",
            [("dispatch", None, None, 90.1), ("combine", None, None, 80.2)],
        ),
        (
            "[tuning] Dispatch (BF16, raw_bytes=0.939GB) raw_bw=70.00 GB/s, equiv_bw=70.50 GB/s (HCCS), avg_t: 1341.00 us",
            [("dispatch", "bf16", None, 70.5)],
        ),
    ],
)
def test_ascend_on_one_node(line: str, expected: list[tuple[Any, ...]]) -> None:
    (run,) = parse_lines([line])
    assert run.test == "intranode"
    assert figures(run) == expected


def test_kernels_alone_twice_are_two_runs() -> None:
    """uccl#565, MI325X: no line for both kernels together."""
    one = [
        f"[rank {n}] Dispatch bandwidth: {36 + n}.47 GB/s, avg_t=205.99 us | Combine bandwidth: 59.44 GB/s, avg_t=244.57 us"
        for n in range(8)
    ]
    two = [line.replace("59.44", "61.99") for line in one]
    for form in (lambda text: text, str.encode):
        runs = parse_lines([form(line) for line in [*one, "", *two]])
        assert [metrics(run)[Metric("combine", None, "total")] for run in runs] == [59.44, 61.99]
        assert [len(run.low_latency_kernels or ()) for run in runs] == [8, 8]
        assert not runs[0].complete


def test_ranks_in_columns() -> None:
    (run,) = parse_lines(
        [
            "[rank 8 ] Dispatch send/recv time: 85.14 us  | Combine send/recv time: 172.65 us",
            "[rank 10] Dispatch send/recv time: 73.17 us  | Combine send/recv time: 124.84 us",
        ]
    )
    assert [(entry.rank, entry.dispatch_total_us) for entry in run.low_latency_kernels or ()] == [(8, 85.14), (10, 73.17)]


def test_elastic_lines_without_a_copy_or_a_mark() -> None:
    (run,) = parse_lines(
        [
            " > Testing with do_handle_copy=1, use_fp8_dispatch=1, num_bias=0 ...",
            "   * EP:   1/2 | dispatch: 34 GB/s (SO), 201 GB/s (SU), 866.000 us, 1 bytes",
            "[v2-readme] EP:   0/2 | dispatch: 36 GB/s (SO), 203 GB/s (SU), 864.000 us, 2 bytes",
        ],
        sweep=True,
    )
    assert run.best[0].rdma_gbps == 35.0
    (configuration,) = run.configurations or ()
    assert (configuration["ranks"], configuration["copy_or_reduce_gbps"]) == (2, None)


BESTS = (
    "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 40, RDMA chunk 12: 51.78 GB/s (RDMA), 96.43 GB/s (NVL)",
    "[tuning] Best dispatch (BF16): SMs 24, NVL chunk 36, RDMA chunk 8: 52.78 GB/s (RDMA), 97.43 GB/s (NVL)",
    "[tuning] Best combine: SMs 24, NVL chunk 2, RDMA chunk 20: 44.37 GB/s (RDMA), 145.16 GB/s (NVL)",
)
FIGURES = [("dispatch", "fp8", 51.78, 96.43), ("dispatch", "bf16", 52.78, 97.43), ("combine", None, 44.37, 145.16)]


@pytest.mark.parametrize("bold", ["**51.78 GB/s** (RDMA), **96.43 GB/s** (NVL)", "**51.78** GB/s (RDMA), **96.43** GB/s (NVL)"])
def test_each_figure_in_bold(bold: str) -> None:
    (run,) = parse_lines([BESTS[0].replace("51.78 GB/s (RDMA), 96.43 GB/s (NVL)", bold), *BESTS[1:]])
    assert figures(run) == FIGURES


def test_low_latency_figures_in_bold() -> None:
    (run,) = parse_lines(
        ["[rank 0] Dispatch bandwidth: 0.10 GB/s, avg_t=73857.00 us | Combine bandwidth: **1.24 GB/s,** avg_t=11727.00 us"]
    )
    assert run.low_latency_kernels and run.low_latency_kernels[0].combine_gbps == 1.24


@pytest.mark.parametrize(
    "noise",
    ["Model Config: hidden 7168", "STEP: 5 check passed", "eth0 4.1 GB/s EP: ok", "gateway -> Rank 3 passed", "DEEP: done at 3 GB/s"],
)
def test_words_of_another_program_cut_no_run(noise: str) -> None:
    """`Config:`, `EP:` and `> Rank` begin lines of DeepEP 2's tests, and are in lines of others too."""
    config = "[config] num_tokens=4096, hidden=7168, num_topk_groups=2, num_topk=8"
    point = "[tuning] SMs 24, NVL chunk 36, RDMA chunk 24: 51.12 GB/s (RDMA), 95.21 GB/s (NVL)"
    (run,) = parse_lines([noise, config, noise, point, noise, *(line for best in BESTS for line in (best, noise))])
    assert (run.test, run.tuning_lines, figures(run), run.shape.nodes) == ("internode", 1, FIGURES, 2)


def test_cases_without_a_config_line_belong_to_what_follows() -> None:
    """Both tests print the same cases, and ports' [config] lines have no num_topk_groups."""
    case = "[testing] Running with BF16, without top-k (async=False, previous=False) ... passed"
    (intranode,) = parse_lines([case, "[tuning] Best combine: SMs 24, NVL chunk 15: 355.45 GB/s (NVL), 442 us"])
    assert (intranode.test, intranode.passed_cases, intranode.best[0].time_us) == ("intranode", 1, 442.0)
    (internode,) = parse_lines(["[config] num_tokens=8, hidden=7168, num_topk=8, num_experts=64", case, *BESTS])
    assert (internode.test, internode.passed_cases, internode.shape.num_experts) == ("internode", 1, 64)


@pytest.mark.parametrize("cut", (20, 34, 48, 62, 76))
def test_a_container_log_file_with_partial_lines(cut: int) -> None:
    """The kubelet's log files: P marks a part, F the end of a line."""
    lines = [f"2026-08-19T05:29:34.123456789+00:00 stdout F {line}" for line in BESTS]
    head, tail = BESTS[2][:cut], BESTS[2][cut:]
    lines[2:] = [f"2026-08-19T05:29:34.123456789Z stdout P {head}", f"2026-08-19T05:29:34.123456790Z stdout F {tail}"]
    (run,) = parse_lines(lines)
    assert figures(run) == FIGURES


def test_a_docker_log_file() -> None:
    lines = [f'{{"log":"\\u001b[32m{line}\\u001b[0m\\n","stream":"stdout","time":"2026-08-19T05:29:34.1Z"}}' for line in BESTS]
    (run,) = parse_lines([*lines, '{"log": 3}', '{"log":"cut'])
    assert figures(run) == FIGURES
    assert run.best[0].writer is None


def test_a_post_whose_first_line_lost_its_indent() -> None:
    (run,) = parse_lines(
        [
            "> Testing with do_handle_copy=1, use_fp8_dispatch=1, num_bias=0 ...",
            "* EP:   0/16 | dispatch: 35 GB/s (SO), 203 GB/s (SU), 864.688 us, 2 bytes",
        ]
    )
    assert (run.test, figures(run)) == ("elastic_ep", [("dispatch", "fp8", 35.0, 203.0)])

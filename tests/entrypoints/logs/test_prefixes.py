"""Logs as launchers, collectors and people leave them: whatever stands before a line, the run is the same."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.logs.lines import split_writer
from entrypoints.logs.parse import parse_lines, parse_paths

#: {n} is the node, {s} and {u} change from line to line.
PREFIXES = {
    "kubectl --prefix": "[pod/ep-{n}/main] ",
    "kubectl --prefix --timestamps": "[pod/ep-{n}-x7k2p/main] 2026-01-02T03:04:05.{u:06d}Z ",
    "stern": "ep-{n} main ",
    "stern in colour": "\x1b[32mep-{n}\x1b[0m \x1b[36mmain\x1b[0m ",
    "srun -l": "{n}: ",
    "srun -l, padded": " {n}: ",
    "mpirun --tag-output": "[1,{n}]<stdout>:",
    "mpirun --timestamp-output --tag-output": "Tue Jan  6 12:06:{s:02d} 2026[1,{n}]<stdout>:",
    "Open MPI 5": "[prterun-host1-12345@1,{n}]<stdout>: ",
    "Intel MPI -prepend-rank": "[{n}] ",
    "pdsh": "node{n}: ",
    "docker compose": "ep-{n}-1  | ",
    "torchrun --tee": "[default{n}]:",
    "torchrun, own role": "[trainer{n}]:",
    "Ray": "\x1b[36m(Worker pid=12{n}, ip=10.0.0.{n})\x1b[0m ",
    "EPBox's supervisor": "[rank {n}] ",
    "parallel ssh": "user@10.0.0.{n}: ",
    "glog": "I0513 06:29:25.{u:06d} {n}32 run.py:803] ",
    "journalctl": "Nov 24 12:06:{s:02d} node{n} python3[12{n}]: ",
    "own script": "[2026-01-02 03:04:{s:02d}][node{n}] ",
    "two launchers": "[pod/ep-{n}/main] [1,{n}]<stdout>:",
    "a model's name": "[model-{n}] ",
}
#: These do not tell the nodes apart.
ANONYMOUS = {
    "docker logs -t": "2026-01-02T03:04:05.{u:06d}123Z ",
    "mpirun --timestamp-output": "Tue Jan  6 12:06:{s:02d} 2026<stdout>:",
    "Python's logging": "2026-01-02 03:04:05,{s:03d} - INFO - ",
    "quoted in an issue": "> ",
}


def node(base: float) -> list[str]:
    """A whole run of format A as one node prints it: 24 cases, 64 + 64 points, 4 x 6 points."""
    lines = ["[config] num_tokens=4096, hidden=7168, num_topk_groups=3, num_topk=8", "[layout] Kernel performance: 0.044 ms", ""]
    for previous in (False, True):
        for wait in (False, True):
            for kind in ("BF16", "BF16", "FP8"):
                for topk in ("without", "with"):
                    lines.append(f"[testing] Running with {kind}, {topk} top-k (async={wait}, previous={previous}) ... passed")
    sweeps = [("dispatch (FP8)", range(4, 33, 4), range(4, 33, 4)), ("dispatch (BF16)", range(4, 33, 4), range(4, 33, 4))]
    for offset, (name, nvl, rdma) in enumerate([*sweeps, ("combine", range(1, 5), range(12, 33, 4))]):
        points = [f"SMs 24, NVL chunk {n}, RDMA chunk {r}: {base + offset:.2f} GB/s (RDMA), 99.00 GB/s (NVL) " for n in nvl for r in rdma]
        lines += [f"[tuning] {text}" for text in points]
        lines += [f"[tuning] Best {name}: {points[7].rstrip()}", ""]
    return lines


def streams(prefix: str, nodes: int, end: str = "") -> list[list[str]]:
    return [[prefix.format(n=n, s=i % 60, u=i * 37) + line + end for i, line in enumerate(node(40.0 + 5 * n))] for n in range(nodes)]


def in_turn(lines: list[list[str]], seed: int) -> list[str]:
    return [line for group in zip(*lines, strict=True) for line in group]


def adrift(lines: list[list[str]], seed: int) -> list[str]:
    """Nodes write when they get to it: up to five lines at a time."""
    source, mixed = random.Random(seed), []
    while any(lines):
        for n in source.sample(range(len(lines)), len(lines)):
            taken = source.randrange(1, 6)
            mixed += lines[n][:taken]
            del lines[n][:taken]
    return mixed


@pytest.mark.parametrize("end", ["", "\r"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mix", [in_turn, adrift])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_three_nodes_are_one_complete_run(prefix: str, mix: Callable[[list[list[str]], int], list[str]], end: str) -> None:
    (run,) = parse_lines(mix(streams(prefix, 3, end), 7))
    assert run.complete, run.missing
    assert (run.copies, run.passed_cases, run.shape.nodes) == (3, 72, 3)
    assert sorted(best.rdma_gbps or 0 for best in run.best) == [40.0, 41.0, 42.0, 45.0, 46.0, 47.0, 50.0, 51.0, 52.0]
    assert len({best.writer for best in run.best}) == 3


@pytest.mark.parametrize("prefix", ANONYMOUS.values(), ids=ANONYMOUS)
def test_nodes_that_cannot_be_told_apart_are_copies(prefix: str) -> None:
    (run,) = parse_lines(in_turn(streams(prefix, 2), 0))
    assert run.complete, run.missing
    assert run.copies == 2


@pytest.mark.parametrize("prefix", [*PREFIXES.values(), *ANONYMOUS.values()], ids=[*PREFIXES, *ANONYMOUS])
def test_low_latency_keeps_its_own_ranks(prefix: str) -> None:
    messages = (
        "Dispatch + combine bandwidth: {v:.2f} GB/s, avg_t=600.00 us, min_t=500.00 us, max_t=700.00 us",
        "Dispatch bandwidth: {v:.2f} GB/s, avg_t=300.00 us | Combine bandwidth: 40.00 GB/s, avg_t=310.00 us",
        "Dispatch send/recv time: 20.00 + 5.00 us | Combine send/recv time: 30.00 + 6.00 us",
    )
    lines = [
        prefix.format(n=rank // 8, s=rank, u=rank) + f"[rank {rank}] " + message.format(v=30 + rank)
        for message in messages
        for rank in range(16)
    ]
    (run,) = parse_lines(lines)
    assert run.complete, run.missing
    assert [(entry.rank, entry.dispatch_combine_gbps) for entry in run.low_latency] == [(n, 30.0 + n) for n in range(16)]


@pytest.mark.parametrize(
    "torn",
    ["nk 4, RDMA chunk 8: 31.20 GB/s (RDMA), 10", "with top-k (async=True, previous=True) ... passed", "[tuning] SMs 24, NVL chunk 4, RD"],
)
def test_the_rest_of_a_torn_message_is_no_name(torn: str) -> None:
    assert split_writer(f"{torn}[tuning] SMs 24, NVL chunk 4")[0] == ""


def mixture(seed: int) -> list[str]:
    """Lines of several tests in a wild order, some of them cut, doubled or glued."""
    source = random.Random(seed)
    low = [f"[rank {n}] Dispatch + combine bandwidth: 30.00 GB/s, avg_t=600.00 us, min_t=500.00 us, max_t=700.00 us" for n in range(8)]
    low += [f"[rank {n}] Dispatch send/recv time: 20.00 + 5.00 us | Combine send/recv time: 30.00 + 6.00 us" for n in range(8)]
    elastic = [
        f"   * EP:   {n}/8 | dispatch: 90 GB/s (SO), 93 GB/s (SU), 123.456 us, 1234 bytes | copy: 200 GB/s, 5.000 us" for n in range(8)
    ]
    pools = [node(40.0), low, elastic, ["some other line", "", "GB/s", " passed"]]
    lines: list[str] = []
    for _ in range(60):
        pool = source.choice(pools)
        at = source.randrange(len(pool))
        taken = [source.choice(("", "", "", "[1,0]<stdout>:")) + line for line in pool[at : at + source.randrange(1, 12)]]
        if source.random() < 0.3:
            taken[0] = taken[0][source.randrange(len(taken[0]) + 1) :]
        lines += taken
    return lines


@pytest.mark.parametrize("seed", range(40))
def test_blocks_of_a_file_give_what_its_lines_give(seed: int, tmp_path: Path) -> None:
    lines = mixture(seed)
    log = tmp_path / "run.log"
    log.write_text("\n".join(lines))
    by_block = [replace(run, source=None) for run in parse_paths([log], sweep=True)]
    assert by_block == parse_lines(lines, sweep=True) == parse_lines([line.encode() for line in lines], sweep=True)

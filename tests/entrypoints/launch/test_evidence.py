"""What is read from /proc and sysfs, and how it compares with the plan."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entrypoints.binding import BindMode
from entrypoints.launch import evidence
from entrypoints.launch.evidence import Pages, PortCounters, Sample, Watch, compare_with_plan
from entrypoints.placement.model import MemoryPolicy, RankPlan
from entrypoints.results.ranks import Evidence
from tests.helpers.supervised import Supervised

NUMA_MAPS = """\
00400000 prefer:1 file=/usr/bin/python3.11 mapped=600 mapmax=9 N0=590 N1=10 kernelpagesize_kB=4
01a2b000 prefer:1 heap anon=100 dirty=100 N1=100 kernelpagesize_kB=4
7f0000000000 prefer:1 anon=20 dirty=20 N0=5 N1=15 kernelpagesize_kB=4
7f1000000000 bind:0 huge anon=3 dirty=3 N0=3 kernelpagesize_kB=2048
7f2000000000 prefer:1
7ffc00000000 prefer:1 stack anon=3 dirty=3 N1=3 kernelpagesize_kB=4
"""


def test_numa_maps_are_summed_in_bytes_by_page_size() -> None:
    assert evidence.read_pages(NUMA_MAPS) == Pages(
        policy="prefer:1",
        memory_bytes={"1": (100 + 15 + 3) * 4096, "0": 5 * 4096 + 3 * 2048 * 1024},
        file_bytes={"0": 590 * 4096, "1": 10 * 4096},
    )
    assert evidence.read_pages("").policy is None


def test_a_live_process_is_sampled_with_its_stray_threads() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU: no thread can be elsewhere")
    code = (
        "import os, threading, time\nheld = bytearray(b'x' * (8 << 20))\n"
        f"os.sched_setaffinity(0, {{{cpus[0]}}})\n"
        f"def stray(): os.sched_setaffinity(0, {{{cpus[1]}}}); print('up', flush=True); time.sleep(300)\n"
        "threading.Thread(target=stray, daemon=True).start()\ntime.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sample = evidence.sample(process.pid, [cpus[0]])
        started = evidence.after_start(process.pid)
        assert sample is not None
        looks = [evidence.outside(process.pid, sample.strays, plan) for plan in ([cpus[0]], cpus[:2])]
        process.kill()
    assert sample.threads == 2 and len(sample.strays) == 1 and process.pid not in sample.strays
    assert looks == [sample.strays, set()], "once outside, and inside when its CPU is planned as well"
    assert evidence.outside(process.pid, sample.strays, [cpus[0]]) == set(), "a thread that is no more is nowhere"
    assert sample.pages.size >= 8 << 20
    assert started["cpus"] == str(cpus[0])
    assert evidence.sample(process.pid, [0]) is None and evidence.after_start(process.pid) == {}


def test_the_fuller_sample_is_kept() -> None:
    def sample(size: int, threads: int, policy: str) -> Sample:
        return Sample(threads, frozenset({policy}), Pages(policy, {"0": size}, {}))

    merged = sample(10, 2, "default").merge(sample(5, 3, "prefer:0"))
    assert merged == Sample(3, frozenset({"default", "prefer:0"}), Pages("default", {"0": 10}, {}))
    assert merged.merge(Sample(1, frozenset())) == merged, "pages that could not be read hide none that were"


def test_the_pages_at_the_end_are_added_also_without_a_look_before() -> None:
    watch = Watch(1, (0,), 0.0)
    watch.finish("")
    assert watch.seen is None
    watch.finish(NUMA_MAPS)
    assert watch.seen == Sample(1, frozenset({"prefer:1"}), evidence.read_pages(NUMA_MAPS))


@pytest.mark.parametrize(("took", "pause"), [(0.001, 0.5), (0.1, 10.0)])
def test_the_pause_after_a_sample_is_as_long_as_this_rank_needs(monkeypatch: pytest.MonkeyPatch, took: float, pause: float) -> None:
    """The loop's time is old by the samples of seven other ranks: they do not count."""
    clock = 1000.0

    def sample(*_: Any) -> None:
        nonlocal clock
        clock += took

    monkeypatch.setattr(evidence, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(evidence, "sample", sample)
    watch = Watch(1, (0,), clock)
    watch.look(clock + 1, bound=False)
    assert clock == 1000.0, "a rank that is not bound yet is not looked at"
    loop_began, clock = clock + 2, clock + 4
    watch.look(loop_began, bound=True)
    assert watch.due == pytest.approx(clock + pause)


@pytest.mark.parametrize(
    ("second", "outside", "moved"),
    [((), 0, 2), ((8,), 1, 1), ((7, 8), 2, 0), (None, 2, 0)],
    ids=["both came back", "one came back", "none came back", "ended before the second look"],
)
def test_a_thread_is_outside_when_it_stays_there(
    monkeypatch: pytest.MonkeyPatch, second: tuple[int, ...] | None, outside: int, moved: int
) -> None:
    clock = 1000.0
    monkeypatch.setattr(evidence, "time", SimpleNamespace(monotonic=lambda: clock))
    strays = {7, 8}
    monkeypatch.setattr(evidence, "sample", lambda *_: Sample(9, frozenset(), Pages(), frozenset(strays)))
    monkeypatch.setattr(evidence, "outside", lambda _pid, threads, _cpus: frozenset(second or ()) & frozenset(threads))
    watch = Watch(1, (0,), clock - 1)
    watch.look(clock, bound=True)
    assert watch.due == clock + evidence.SECOND_LOOK_S
    strays.clear()
    if second is not None:
        clock += evidence.SECOND_LOOK_S
        watch.look(clock, bound=True)
        assert watch.due > clock
    watch.finish("")
    assert watch.seen is not None and watch.seen.threads == 9
    assert (watch.threads_outside, len(watch.threads_moved)) == (outside, moved)


def counters(root: Path, **ports: tuple[int, int]) -> None:
    for name, (sent, received) in ports.items():
        folder = root / "class/infiniband" / name / "ports/1/counters"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "port_xmit_data").write_text(f"{sent}\n")
        (folder / "port_rcv_data").write_text(f"{received}\n")


def test_port_counters_are_words_of_four_bytes(tmp_path: Path) -> None:
    ports = [RankPlan(i, hca=name, port=1) for i, name in enumerate(("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_2", "none", None))]
    counters(tmp_path, mlx5_0=(1000, 2000), mlx5_1=(5, 5), mlx5_2=(9, 9))
    before = evidence.port_counters(ports, tmp_path)
    counters(tmp_path, mlx5_0=(1500, 2001), mlx5_1=(0, 0), mlx5_2=(9, 9))
    moved = evidence.traffic(before, evidence.port_counters(ports, tmp_path))
    assert moved == {"mlx5_0:1": {"xmit_bytes": 2000, "rcv_bytes": 4}, "mlx5_2:1": {"xmit_bytes": 0, "rcv_bytes": 0}}, (
        "a reset gives no figure"
    )


def test_a_port_without_byte_counters_tells_its_packets(tmp_path: Path) -> None:
    """As rxe has it: `counters` without data counters, and the driver's own beside it."""
    folder = tmp_path / "class/infiniband/rxe0/ports/1"
    (folder / "counters").mkdir(parents=True)
    (folder / "hw_counters").mkdir()

    def packets(sent: int, received: int) -> PortCounters:
        (folder / "hw_counters/sent_pkts").write_text(f"{sent}\n")
        (folder / "hw_counters/rcvd_pkts").write_text(f"{received}\n")
        return evidence.port_counters([RankPlan(0, hca="rxe0")], tmp_path)

    before, after = packets(10, 20), packets(1010, 25)
    assert before == {"rxe0:1": {"xmit_packets": 10, "rcv_packets": 20}}
    assert evidence.traffic(before, after) == {"rxe0:1": {"xmit_packets": 1000, "rcv_packets": 5}}
    assert evidence.traffic(after, before) == {}
    counters(tmp_path, rxe0=(1, 2))
    bytes_too = packets(2000, 2000)
    assert bytes_too == {"rxe0:1": {"xmit_bytes": 4, "rcv_bytes": 8}}, "bytes say more than packets"
    assert evidence.traffic(before, bytes_too) == {}, "packets are not subtracted from bytes"


def test_oom_kills_are_counted_by_cgroup2(tmp_path: Path) -> None:
    assert evidence.oom_kills(tmp_path) is None
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n")
    assert evidence.oom_kills(tmp_path) == 2


def test_port_traffic_of_a_run(supervised: Supervised, tmp_path: Path) -> None:
    counters(tmp_path, mlx5_0=(1000, 0))
    file = tmp_path / "class/infiniband/mlx5_0/ports/1/counters/port_xmit_data"
    code = f"import os\nif os.environ['EPBOX_RANK'] == '0': open({str(file)!r}, 'w').write('5001000')"
    result = supervised.run(code, hca="mlx5_0", sysfs=str(tmp_path))
    assert [rank["evidence"]["traffic"] for rank in result.ranks] == [{"xmit_bytes": 20_000_000, "rcv_bytes": 0}] * 2


def test_nvshmem_lines_are_picked(supervised: Supervised) -> None:
    code = (
        "print('noise\\nNVSHMEM INFO setting dev_id = 3\\nNVSHMEM INFO NIC handler will be GPU\\nNVSHMEM INFO setting dev_id = 3\\nmore')"
    )
    result = supervised.run(code, ranks=1)
    assert result.ranks[0]["evidence"]["nvshmem"] == ["NVSHMEM INFO setting dev_id = 3", "NVSHMEM INFO NIC handler will be GPU"]


PLANS = [RankPlan(i, cpus=(2 * i, 2 * i + 1), memory=MemoryPolicy("preferred", (i % 2,)), hca=f"mlx5_{i}", port=1) for i in range(4)]


def good(rank: int, **changed: Any) -> Evidence:
    on_plan = Evidence(
        cpus=f"{2 * rank}-{2 * rank + 1}",
        degradations=(),
        threads=9,
        threads_outside=0,
        memory_bytes={str(rank % 2): 100 << 20},
        rail=f"mlx5_{rank}:1",
        traffic={"xmit_bytes": 5 << 20, "rcv_bytes": 5 << 20},
    )
    return replace(on_plan, **changed)


def test_all_on_plan() -> None:
    placement = compare_with_plan(PLANS, [good(i) for i in range(4)])
    assert placement.ok and placement.text == "4 of 4 ranks on plan, 4 of 4 rails carried traffic"
    assert compare_with_plan(PLANS, [good(i, traffic=None) for i in range(4)], expect_traffic=False).text == "4 of 4 ranks on plan"


def test_a_rail_that_counts_packets_alone_carried_traffic() -> None:
    placement = compare_with_plan(PLANS, [good(i, traffic={"xmit_packets": 256, "rcv_packets": 0}) for i in range(4)])
    assert placement.ok and placement.text == "4 of 4 ranks on plan, 4 of 4 rails carried traffic"


@pytest.mark.parametrize(
    ("changed", "head", "words"),
    [
        ({"cpus": "0-7"}, "3 of 4 ranks on plan, 4 of 4", "rank 2: may run on CPUs 0-7, planned 4-5"),
        ({"threads_outside": 3}, "3 of 4 ranks on plan, 4 of 4", "rank 2: 3 of 9 threads left the planned CPUs"),
        ({"memory_bytes": {"0": 78 << 20, "1": 22 << 20}}, "3 of 4 ranks on plan, 4 of 4", "rank 2: 78% of its memory is on node 0"),
        (
            {"degradations": ("memory policy preferred: refused (EPERM); do this",)},
            "3 of 4",
            "rank 2: memory policy preferred: refused (EPERM)",
        ),
        ({"traffic": {"xmit_bytes": 900, "rcv_bytes": 0}}, "4 of 4 ranks on plan, 3 of 4 rails", "rail mlx5_2:1 carried nothing"),
        ({"traffic": {"xmit_packets": 255, "rcv_packets": 90}}, "4 of 4 ranks on plan, 3 of 4 rails", "rail mlx5_2:1 carried nothing"),
        ({"traffic": None}, "4 of 4 ranks on plan, 3 of 4 rails", "rail mlx5_2:1 has no port counters"),
    ],
)
def test_what_deviates_is_named(changed: dict[str, Any], head: str, words: str) -> None:
    placement = compare_with_plan(PLANS, [good(i, **(changed if i == 2 else {})) for i in range(4)])
    assert not placement.ok and placement.text.startswith(head) and words in placement.text and "do this" not in placement.text


def test_equal_deviations_are_told_once() -> None:
    placement = compare_with_plan(PLANS, [good(i, degradations=("affinity: refused",)) for i in range(4)])
    assert placement.text.startswith("0 of 4 ranks on plan") and placement.deviations[0] == "ranks 0-3: affinity: refused"


def test_what_was_not_asked_for_is_no_deviation() -> None:
    wild = [good(i, cpus="0-63", threads_outside=9, memory_bytes={"7": 1 << 30}) for i in range(4)]
    assert compare_with_plan(PLANS, wild, BindMode(cpu=False, mem=False)).text.startswith("4 ranks, not bound (--bind nic), 4 of 4 rails")
    assert compare_with_plan(PLANS, wild, BindMode(mem=False)).text.startswith("0 of 4 ranks on plan")


def test_without_evidence_nothing_is_claimed() -> None:
    placement = compare_with_plan(PLANS, [Evidence() for _ in PLANS])
    assert not placement.ok
    assert placement.text.startswith("0 of 4 ranks on plan, rail traffic unknown (no port counters here); ranks 0-3: left no evidence")

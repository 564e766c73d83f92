"""Ranks on a real two-node kernel: born on their cores, their pages on their node, and honest where that cannot be."""

import json
import re
from collections.abc import Callable
from typing import TypedDict

import pytest

from tests.guest.machine import Outcome

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(1800)]
Guest = Callable[..., Outcome]
EXEC = "python3 -m entrypoints exec --workload alltoall"


class Report(TypedDict):
    """A line of probe.py: one rank's CPUs, those of each of its threads, and its pages by node."""

    rank: int
    cpus: list[int]
    threads: list[list[int]]
    pages: dict[str, int]
    mems_allowed: str
    hca: str | None


def probes(output: str) -> dict[int, Report]:
    """The reports of probe.py by local rank."""
    reports: list[Report] = [json.loads(text) for text in re.findall(r"PROBE (\{.*\})", output)]
    return {report["rank"]: report for report in reports}


def share_on(report: Report, node: int) -> float:
    return report["pages"].get(str(node), 0) / sum(report["pages"].values())


def test_eight_ranks_are_born_in_their_place(guest: Guest) -> None:
    done = guest(f"{EXEC} --ranks 8 -- python3 probe.py\n")
    ranks = probes(done.output)
    assert done.code == 0 and sorted(ranks) == list(range(8)), done.output
    seen: set[int] = set()
    for rank, report in ranks.items():
        node = rank // 4
        own = set(report["cpus"])
        assert own <= set(range(8 * node, 8 * node + 8)) and not own & seen
        assert len(report["threads"]) == 3 and all(set(thread) <= own for thread in report["threads"])
        assert share_on(report, node) >= 0.99, report
        seen |= own
    assert len(seen) == 16


def test_without_binding_the_same_ranks_roam(guest: Guest) -> None:
    done = guest(f"{EXEC} --bind none --ranks 8 -- python3 probe.py 4\n")
    ranks = probes(done.output)
    assert done.code == 0 and len(ranks) == 8, done.output
    assert all(report["cpus"] == list(range(16)) for report in ranks.values())


def test_a_cpuset_restricts_the_plan(guest: Guest) -> None:
    done = guest(
        "cd /sys/fs/cgroup && echo +cpuset > cgroup.subtree_control && mkdir pod\n"
        "echo 9-12 > pod/cpuset.cpus && echo 1 > pod/cpuset.mems\n"
        f"cd /host && sh -c 'echo $$ > /sys/fs/cgroup/pod/cgroup.procs && exec {EXEC} --ranks 2 -- python3 probe.py'\n"
    )
    ranks = probes(done.output)
    assert done.code == 0 and sorted(ranks) == [0, 1], done.output
    assert not set(ranks[0]["cpus"]) & set(ranks[1]["cpus"])
    for report in ranks.values():
        assert set(report["cpus"]) <= {9, 10, 11, 12} and report["mems_allowed"] == "1"
        assert share_on(report, 1) >= 0.99


def test_offline_cpus_are_not_planned(guest: Guest) -> None:
    done = guest(f"for cpu in 1 6 7 12; do echo 0 > /sys/devices/system/cpu/cpu$cpu/online; done\n{EXEC} --ranks 4 -- python3 probe.py 4\n")
    ranks = probes(done.output)
    assert done.code == 0 and len(ranks) == 4, done.output
    planned = [cpu for report in ranks.values() for cpu in report["cpus"]]
    assert len(planned) == len(set(planned)) and not set(planned) & {1, 6, 7, 12}


def test_a_full_node_spills_instead_of_failing(guest: Guest) -> None:
    done = guest(
        "mkdir /tmp/fill && mount -t tmpfs -o mpol=bind:1,size=4g none /tmp/fill\n"
        "free=$(awk '/MemFree/ {print int($4 / 1024)}' /sys/devices/system/node/node1/meminfo)\n"
        "dd if=/dev/zero of=/tmp/fill/x bs=1M count=$((free - 60)) 2>/dev/null\n"
        f"LOCAL_RANK=7 LOCAL_WORLD_SIZE=8 {EXEC} -- python3 probe.py 160\n",
    )
    ranks = probes(done.output)
    assert done.code == 0 and list(ranks) == [7], done.output
    assert 0 < share_on(ranks[7], 0) < 1, ranks[7]


def test_denied_memory_policy_degrades_and_says_so(guest: Guest) -> None:
    done = guest(f"python3 noseccomp.py {EXEC} --ranks 2 -- python3 probe.py\n")
    ranks = probes(done.output)
    assert done.code == 0 and sorted(ranks) == [0, 1], done.output
    assert "SYS_NICE" in done.output
    # First touch from bound cores still gives local pages under the default policy.
    for report in ranks.values():
        node = report["cpus"][0] // 8
        assert share_on(report, node) >= 0.99


def test_denied_memory_policy_is_fatal_when_strict(guest: Guest) -> None:
    done = guest(f"python3 noseccomp.py {EXEC} --strict --ranks 2 -- python3 probe.py\n")
    assert done.code == 3 and not probes(done.output), done.output

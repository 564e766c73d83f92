"""What the kernel and the libraries say about a rank: affinity, policy, pages, NVSHMEM's lines, port traffic."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from entrypoints.cpulist import format_list, parse_list
from entrypoints.placement.model import RankPlan

#: port_xmit_data and port_rcv_data count 32-bit words (Linux Documentation/ABI/stable/sysfs-class-infiniband).
COUNTER_UNIT = 4
#: Where a port has neither (software RDMA), its driver's packet counters stand in: key, counter of bytes, counter of packets.
DIRECTIONS = (("xmit", "port_xmit_data", "sent_pkts"), ("rcv", "port_rcv_data", "rcvd_pkts"))
NODE_PAGES = re.compile(r"\bN(\d+)=(\d+)")
PAGE_KB = re.compile(r"\bkernelpagesize_kB=(\d+)")
NVSHMEM_MARKS = ("dev_id", "NIC handler")
NVSHMEM_LINES = 16


def status_fields(text: str) -> dict[str, str]:
    """`Cpus_allowed_list` and `Mems_allowed_list` of a /proc/PID/status text, as cpus and mems."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("Cpus_allowed_list", "Mems_allowed_list"):
            found[name.partition("_")[0].lower()] = value.strip()
    return found


def numa_maps_summary(text: str) -> dict[str, Any]:
    """Memory per node of a numa_maps text in bytes (mappings without a file apart from file-backed ones) and the policy.

    The second word of a line is the mapping's policy, which is the task's own where the mapping has none.
    """
    anonymous: dict[str, int] = {}
    backed: dict[str, int] = {}
    policy: str | None = None
    for line in text.splitlines():
        words = line.split(None, 2)
        if len(words) < 2:
            continue
        if policy is None or (len(words) > 2 and words[2].startswith("stack")):
            policy = words[1]
        size = PAGE_KB.search(line)
        unit = (int(size.group(1)) if size else 4) * 1024
        into = backed if " file=" in line else anonymous
        for node, pages in NODE_PAGES.findall(line):
            into[node] = into.get(node, 0) + int(pages) * unit
    return {"policy": policy, "memory_bytes": anonymous, "file_bytes": backed}


def after_start(pid: int, proc: Path = Path("/proc")) -> dict[str, Any]:
    """What the kernel reports right after exec; empty when the rank has ended already."""
    with contextlib.suppress(OSError):
        return status_fields((proc / str(pid) / "status").read_text(errors="replace"))
    return {}


def sample(pid: int, planned: Sequence[int], proc: Path = Path("/proc")) -> dict[str, Any]:
    """Threads, `strays` whose affinity leaves `planned`, policies of all threads, and memory per node of a live rank."""
    folder = proc / str(pid)
    threads = 0
    strays: list[int] = []
    policies: set[str] = set()
    allowed = set(planned)
    try:
        tasks = list((folder / "task").iterdir())
    except OSError:
        return {}
    for task in tasks:
        try:
            mask = status_fields((task / "status").read_text(errors="replace")).get("cpus", "")
            threads += 1
            if allowed and not set(parse_list(mask)) <= allowed:
                strays.append(int(task.name))
            with open(task / "numa_maps", encoding="utf-8", errors="replace") as maps:
                words = maps.readline().split(None, 2)
                policies.update(words[1:2])
        except (OSError, ValueError):
            continue
    found: dict[str, Any] = {"threads": threads, "strays": strays, "policies": sorted(policies)}
    with contextlib.suppress(OSError):
        found |= numa_maps_summary((folder / "numa_maps").read_text(errors="replace"))
    return found if threads else {}


def outside(pid: int, threads: Iterable[int], planned: Sequence[int], proc: Path = Path("/proc")) -> frozenset[int]:
    """Those of the threads whose affinity leaves `planned` now; one that has ended is none of them."""
    found = set()
    for thread in threads:
        with contextlib.suppress(OSError, ValueError):
            mask = status_fields((proc / str(pid) / "task" / str(thread) / "status").read_text(errors="replace")).get("cpus", "")
            if not set(parse_list(mask)) <= set(planned):
                found.add(thread)
    return frozenset(found)


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The fuller of two samples (pages are freed before a rank ends), with the most threads and all policies seen."""
    if not old or not new:
        return dict(new or old)

    def size(one: Mapping[str, Any]) -> int:
        return sum(one.get("memory_bytes", {}).values())

    fuller = dict(new if size(new) >= size(old) else old)
    fuller["threads"] = max(old["threads"], new["threads"])
    fuller["policies"] = sorted({*old["policies"], *new["policies"]})
    return fuller


def nvshmem_lines(lines: Iterable[str], kept: list[str]) -> None:
    """Add to `kept` the lines in which NVSHMEM names its device and NIC handler, up to a bound."""
    for line in lines:
        if len(kept) < NVSHMEM_LINES and any(mark in line for mark in NVSHMEM_MARKS) and line not in kept:
            kept.append(line.strip())


def port_counters(ports: Iterable[tuple[str, int]], sysfs: Path = Path("/sys")) -> dict[str, dict[str, int]]:
    """What each (hca, port) sent and received so far, keyed `hca:port`; a port without counters is left out.

    `xmit_bytes` and `rcv_bytes`, or `xmit_packets` and `rcv_packets` of a port that counts only these (rxe).
    """
    found: dict[str, dict[str, int]] = {}
    for hca, port in ports:
        folder = sysfs / "class/infiniband" / hca / "ports" / str(port)
        with contextlib.suppress(OSError, ValueError):
            found[f"{hca}:{port}"] = {f"{way}_packets": int((folder / "hw_counters" / name).read_text()) for way, _, name in DIRECTIONS}
        with contextlib.suppress(OSError, ValueError):
            words = {f"{way}_bytes": int((folder / "counters" / name).read_text()) for way, name, _ in DIRECTIONS}
            found[f"{hca}:{port}"] = {way: count * COUNTER_UNIT for way, count in words.items()}
    return found


def oom_kills(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The kernel's count of OOM kills in this container's cgroup (cgroup2 memory.events), None where it is not told."""
    with contextlib.suppress(OSError, ValueError):
        for line in (cgroup / "memory.events").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def traffic(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Bytes or packets per port between two readings; a counter that ran backwards (reset, 32-bit saturation) gives no figure."""
    deltas = {}
    for port in before.keys() & after.keys():
        delta = {name: after[port][name] - count for name, count in before[port].items() if name in after[port]}
        if min(delta.values(), default=-1) >= 0:
            deltas[port] = delta
    return dict(sorted(deltas.items()))


def rail(plan: RankPlan) -> str | None:
    """The planned HCA port as `hca:port`, None without one."""
    return f"{plan.hca}:{plan.port or 1}" if plan.hca else None


def name_ranks(ranks: Sequence[int]) -> str:
    """Like "rank 3" or "ranks 0-2,5"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {format_list(ranks)}"

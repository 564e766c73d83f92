"""Evidence of a rank, by kernel and libraries: affinity, policy, pages, NVSHMEM's lines, port traffic; and that against its plan."""

import contextlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrypoints.binding import BindMode
from entrypoints.cpulist import format_list, parse_list
from entrypoints.placement.model import RankPlan
from entrypoints.results.ranks import Evidence, Placement

#: port_xmit_data and port_rcv_data count 32-bit words (Linux Documentation/ABI/stable/sysfs-class-infiniband).
COUNTER_UNIT = 4
#: For a port without these (software RDMA), its driver's packet counters stand in: key, counter of bytes, counter of packets.
DIRECTIONS = (("xmit", "port_xmit_data", "sent_pkts"), ("rcv", "port_rcv_data", "rcvd_pkts"))
NODE_PAGES = re.compile(r"\bN(\d+)=(\d+)")
PAGE_KB = re.compile(r"\bkernelpagesize_kB=(\d+)")

#: First sample after this many seconds, then at doubling distance up to the last.
FIRST_SAMPLE_S, LAST_SAMPLE_S = 0.25, 15.0
#: Reading numa_maps holds the rank's memory map lock: after a sample the rank is left alone for this many times as long as it took.
SAMPLE_PAUSE = 100
#: A thread outside is looked at again after this: libraries move a thread for a moment while they load (libpsm2: 0.1 s) and put it back.
SECOND_LOOK_S = 0.5

#: Share of a rank's memory that must lie on its planned nodes; a few pages were shared before it was bound.
LOCAL_SHARE = 0.9
#: Below this a rank's memory says nothing about placement (an interpreter alone has some MiB).
ENOUGH_BYTES = 4 << 20
#: A port moves management packets even when idle; a rail that worked moved more.
CARRIED_BYTES = 1 << 20
#: As many bytes in the largest packets there are (IBA: a path MTU of 4,096), for ports that count packets alone.
CARRIED_PACKETS = CARRIED_BYTES // 4096

#: Bytes or packets by direction ("xmit_bytes", "rcv_packets", ...), and these by `hca:port`.
Counters = dict[str, int]
PortCounters = dict[str, Counters]


@dataclass(frozen=True)
class Pages:
    """Memory by node in bytes, mappings without a file apart from file-backed ones, and the memory policy; None where it is unknown."""

    policy: str | None = None
    memory_bytes: dict[str, int] | None = None
    file_bytes: dict[str, int] | None = None

    @property
    def size(self) -> int:
        return sum((self.memory_bytes or {}).values())


@dataclass(frozen=True)
class Sample:
    """A look at a live rank: its threads, their policies, `strays` whose affinity leaves the planned CPUs, and its pages."""

    threads: int
    policies: frozenset[str]
    pages: Pages = Pages()
    strays: frozenset[int] = frozenset()

    def merge(self, later: "Sample") -> "Sample":
        """The fuller of two samples (pages are freed before a rank ends), with the most threads and all policies seen."""
        fuller = later if later.pages.size >= self.pages.size else self
        return Sample(max(self.threads, later.threads), self.policies | later.policies, fuller.pages)


def _allowed(process: Path) -> dict[str, str]:
    """`Cpus_allowed_list` and `Mems_allowed_list` of a process or thread, as cpus and mems. Raises OSError when it has ended."""
    lists = {}
    for line in (process / "status").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("Cpus_allowed_list", "Mems_allowed_list"):
            lists[name.partition("_")[0].lower()] = value.strip()
    return lists


def read_pages(numa_maps: str) -> Pages:
    """The pages of a numa_maps text. The second word of a line is the mapping's policy: the task's where the mapping has none."""
    anonymous: dict[str, int] = {}
    backed: dict[str, int] = {}
    policy: str | None = None
    for line in numa_maps.splitlines():
        words = line.split(None, 2)
        if len(words) < 2:
            continue
        if policy is None or (len(words) > 2 and words[2].startswith("stack")):
            policy = words[1]
        size = PAGE_KB.search(line)
        unit = (int(size.group(1)) if size else 4) * 1024
        by_node = backed if " file=" in line else anonymous
        for node, pages in NODE_PAGES.findall(line):
            by_node[node] = by_node.get(node, 0) + int(pages) * unit
    return Pages(policy, anonymous, backed)


def after_start(pid: int) -> dict[str, str]:
    """CPUs and memory nodes that the kernel reports right after exec; empty when the rank has ended already."""
    with contextlib.suppress(OSError):
        return _allowed(Path(f"/proc/{pid}"))
    return {}


def sample(pid: int, planned: Sequence[int]) -> Sample | None:
    """A look at a live rank, None when it has ended. Without planned CPUs no thread is a stray."""
    folder = Path(f"/proc/{pid}")
    threads = 0
    strays: set[int] = set()
    policies: set[str] = set()
    try:
        tasks = list((folder / "task").iterdir())
    except OSError:
        return None
    for task in tasks:
        try:
            cpus = parse_list(_allowed(task).get("cpus", ""))
            threads += 1
            if planned and not {*cpus} <= {*planned}:
                strays.add(int(task.name))
            with open(task / "numa_maps", encoding="utf-8", errors="replace") as maps:
                policies.update(maps.readline().split(None, 2)[1:2])
        except (OSError, ValueError):
            continue
    pages = Pages()
    with contextlib.suppress(OSError):
        pages = read_pages((folder / "numa_maps").read_text(errors="replace"))
    return Sample(threads, frozenset(policies), pages, frozenset(strays)) if threads else None


def outside(pid: int, threads: Iterable[int], planned: Sequence[int]) -> frozenset[int]:
    """Those of the threads whose affinity leaves `planned` now; one that has ended is none of them."""
    left = set()
    for thread in threads:
        with contextlib.suppress(OSError, ValueError):
            if not {*parse_list(_allowed(Path(f"/proc/{pid}/task/{thread}")).get("cpus", ""))} <= {*planned}:
                left.add(thread)
    return frozenset(left)


class Watch:
    """The samples of one rank. `cpus` are those of its plan, empty where its threads may run anywhere."""

    def __init__(self, pid: int, cpus: Sequence[int], begun: float) -> None:
        self.pid, self.cpus = pid, cpus
        #: All samples as one.
        self.seen: Sample | None = None
        #: Threads that left the planned CPUs for good, and those that were put back.
        self.threads_outside = 0
        self.threads_moved: set[int] = set()
        self._next = begun + FIRST_SAMPLE_S
        self._interval = FIRST_SAMPLE_S
        self._strays: frozenset[int] = frozenset()
        self._again = float("inf")

    @property
    def due(self) -> float:
        """When to call `look` next (monotonic clock)."""
        return min(self._next, self._again)

    def look(self, now: float, bound: bool) -> None:
        """Look at threads and pages when it is time."""
        if now >= self._again:
            self._settle(outside(self.pid, self._strays, self.cpus))
        if now < self._next:
            return
        if not bound:
            # On a busy host: where it runs before its binding says nothing about the rank.
            self._next = now + FIRST_SAMPLE_S
            return
        # Not `now`, which is older by the samples of the ranks before.
        begun = time.monotonic()
        latest = sample(self.pid, self.cpus)
        ended = time.monotonic()
        if latest is not None:
            if latest.strays and not self._strays:
                self._strays, self._again = latest.strays, ended + SECOND_LOOK_S
            self.seen = latest if self.seen is None else self.seen.merge(latest)
        self._interval = min(LAST_SAMPLE_S, self._interval * 2)
        self._next = ended + max(self._interval, SAMPLE_PAUSE * (ended - begun))

    def finish(self, final_maps: str) -> None:
        """Add the numa_maps text that the rank wrote of itself at its end, empty where it wrote none."""
        # It ended before the second look: what was seen counts.
        self._settle(self._strays)
        if final_maps:
            pages = read_pages(final_maps)
            last = Sample(1, frozenset({str(pages.policy)}), pages)
            self.seen = last if self.seen is None else self.seen.merge(last)

    def _settle(self, still_outside: frozenset[int]) -> None:
        """Those of the strays that still are outside have left the plan; the others were moved for a moment."""
        self.threads_outside = max(self.threads_outside, len(still_outside))
        self.threads_moved |= self._strays - still_outside
        self._strays, self._again = frozenset(), float("inf")


def rail(plan: RankPlan) -> str | None:
    """The planned HCA port as `hca:port`, None without one."""
    return f"{plan.hca}:{plan.port or 1}" if plan.hca else None


def port_counters(plans: Iterable[RankPlan], sysfs: Path = Path("/sys")) -> PortCounters:
    """Counters of what the planned ports sent and received so far; a port without counters is left out.

    `xmit_bytes` and `rcv_bytes`, or `xmit_packets` and `rcv_packets` of a port that counts only these (rxe).
    """
    counters: PortCounters = {}
    for plan in plans:
        name = rail(plan)
        if name is None or name in counters:
            continue
        folder = sysfs / "class/infiniband" / str(plan.hca) / "ports" / str(plan.port or 1)
        with contextlib.suppress(OSError, ValueError):
            counters[name] = {f"{way}_packets": int((folder / "hw_counters" / file).read_text()) for way, _, file in DIRECTIONS}
        with contextlib.suppress(OSError, ValueError):
            words = {f"{way}_bytes": int((folder / "counters" / file).read_text()) for way, file, _ in DIRECTIONS}
            counters[name] = {way: count * COUNTER_UNIT for way, count in words.items()}
    return counters


def traffic(before: PortCounters, after: PortCounters) -> PortCounters:
    """Bytes or packets per port between two readings; a counter that ran backwards (reset, 32-bit saturation) gives no figure."""
    moved = {}
    for port in sorted(before.keys() & after.keys()):
        delta = {name: after[port][name] - count for name, count in before[port].items() if name in after[port]}
        if min(delta.values(), default=-1) >= 0:
            moved[port] = delta
    return moved


def oom_kills(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The kernel's count of OOM kills in this container's cgroup (cgroup2 memory.events), None where it is unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in (cgroup / "memory.events").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def name_ranks(ranks: Sequence[int]) -> str:
    """Like "rank 3" or "ranks 0-2,5"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {format_list(ranks)}"


def ranks_by_sentence(sentences: Mapping[int, Iterable[str]]) -> dict[str, list[int]]:
    """The ranks that each sentence is about, from the sentences of each rank."""
    ranks: dict[str, list[int]] = {}
    for rank, of_rank in sentences.items():
        for sentence in of_rank:
            ranks.setdefault(sentence, []).append(rank)
    return ranks


def compare_with_plan(
    plans: Sequence[RankPlan], evidence: Sequence[Evidence], mode: BindMode | None = None, expect_traffic: bool = True
) -> Placement:
    """Plan against evidence: whether every rank was where it should be, and every rail did its work.

    `expect_traffic` is False on one node, where rails carry nothing. What was not requested (a BindMode without cpu) is no
    deviation; a rank without evidence is not on plan.
    """
    mode = mode or BindMode()
    deviations = {plan.local_rank: _deviations(plan, seen, mode) for plan, seen in zip(plans, evidence, strict=True)}
    sentences = [f"{name_ranks(ranks)}: {sentence}" for sentence, ranks in ranks_by_sentence(deviations).items()]
    if mode.cpu or mode.mem:
        text = f"{sum(not deviation for deviation in deviations.values())} of {len(plans)} ranks on plan"
    else:
        text = f"{len(plans)} ranks, not bound (--bind {mode})"
    rails = sorted({name for plan in plans if (name := rail(plan)) is not None})
    if rails and expect_traffic:
        moved = {seen.rail: seen.traffic for seen in evidence if seen.traffic}
        idle = [name for name in rails if name in moved and not _carried(moved[name])]
        unknown = [name for name in rails if name not in moved]
        if len(unknown) == len(rails):
            text += ", rail traffic unknown (no port counters here)"
        else:
            text += f", {len(rails) - len(idle) - len(unknown)} of {len(rails)} rails carried traffic"
            sentences += [f"rail {name} carried nothing" for name in idle]
            sentences += [f"rail {name} has no port counters" for name in unknown]
    return Placement(text="; ".join([text, *sentences]), ok=not sentences, deviations=tuple(sentences))


def _deviations(plan: RankPlan, seen: Evidence, mode: BindMode) -> list[str]:
    """Sentences that say in what one rank is not on plan."""
    # Without their remedies, which were said when it happened.
    sentences = [degradation.partition(";")[0] for degradation in seen.degradations or ()]
    try:
        cpus = set(parse_list(seen.cpus or ""))
    except ValueError:
        cpus = set()
    if not cpus:
        return ["left no evidence: it ended before it could be looked at"]
    if mode.cpu and plan.cpus:
        if not cpus <= set(plan.cpus) and not any(sentence.startswith("affinity") for sentence in sentences):
            sentences.append(f"may run on CPUs {format_list(cpus)}, planned {format_list(plan.cpus)}")
        if seen.threads_outside:
            sentences.append(f"{seen.threads_outside} of {seen.threads} threads left the planned CPUs")
    nodes = {str(node) for node in plan.memory.nodes}
    memory = seen.memory_bytes or {}
    total = sum(memory.values())
    if mode.mem and nodes and total >= ENOUGH_BYTES:
        share = sum(size for node, size in memory.items() if node in nodes) / total
        if share < LOCAL_SHARE:
            sentences.append(f"{share:.0%} of its memory is on node {','.join(sorted(nodes))}")
    return sentences


def _carried(moved: Counters) -> bool:
    return any(count >= (CARRIED_PACKETS if way.endswith("_packets") else CARRIED_BYTES) for way, count in moved.items())

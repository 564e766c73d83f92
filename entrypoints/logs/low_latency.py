"""One run of test_low_latency.py. Every rank prints three lines: both kernels together, each alone, and their phases."""

import re

from entrypoints.logs.lines import LONGEST_PREFIX, NUMBER, Prefixes
from entrypoints.results.codec import decode
from entrypoints.results.model import LowLatency, LowLatencyKernels, Run, Shape

_BOTH = re.compile(
    rf"\[rank *(?P<rank>\d+) *\] Dispatch \+ combine bandwidth: (?P<dispatch_combine_gbps>{NUMBER}) GB/s, "
    rf"avg_t=(?P<avg_us>{NUMBER}) us, min_t=(?P<min_us>{NUMBER}) us, max_t=(?P<max_us>{NUMBER}) us"
)
_KERNELS = re.compile(
    rf"\[rank *(?P<rank>\d+) *\] Dispatch bandwidth: (?P<dispatch_gbps>{NUMBER}) GB/s, avg_t=(?P<dispatch_us>{NUMBER}) us *"
    rf"\| *Combine bandwidth: (?P<combine_gbps>{NUMBER}) GB/s, avg_t=(?P<combine_us>{NUMBER}) us"
)


def _phases(kernel: str) -> str:
    """`sum = send + recv us`; without the sum, and before 2025-07-02 the sum alone, which the group of send then catches."""
    return rf"(?:(?P<{kernel}_total_us>{NUMBER}) = )?(?P<{kernel}_send_us>{NUMBER})(?: \+ (?P<{kernel}_recv_us>{NUMBER}))? us"


_PHASES = re.compile(
    rf"\[rank *(?P<rank>\d+) *\] Dispatch send/recv time: {_phases('dispatch')} *\| *Combine send/recv time: {_phases('combine')}"
)
_HEAD = re.compile(r"\[rank *\d+ *\] Dispatch")
#: Any of the three, torn ones too.
ANY = re.compile(r"Dispatch \+ combine bandwidth|Dispatch bandwidth|send/recv time")
#: The same on bytes, to the end of their lines; numbers are made of bytes as well as of text.
_LINES = tuple(re.compile(pattern.pattern.encode() + rb"[ \r]*(?:\n|\Z)") for pattern in (_BOTH, _KERNELS, _PHASES))

Match = re.Match[str] | re.Match[bytes]


class LowLatencyRun:
    """Collects the lines of one run; a rank that reports again begins the next run."""

    test = "low_latency"

    def __init__(self, number: int) -> None:
        self.first_line = number
        # Matches by rank; numbers are made of them at the end, and only for runs that are listed.
        self.both: dict[int, Match] = {}
        self.kernels: dict[int, Match] = {}
        self.phases: dict[int, Match] = {}
        self.torn = 0

    @property
    def entries(self) -> int:
        """Lines that are kept of the run, for the limit of a parse."""
        return len(self.both) + len(self.kernels) + len(self.phases) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not self.ranks

    @property
    def ranks(self) -> set[int]:
        """Ranks of which at least one line was seen."""
        return {*self.both, *self.kernels, *self.phases}

    def ends_before(self, writer: str, text: str) -> bool:
        """True when this line belongs to a later run."""
        if "Dispatch + combine" in text:
            both = _BOTH.search(text)
            return both is not None and int(both["rank"]) in self.both
        # Ports without that line: a rank that tells its kernels again begins the next run.
        kernels = _KERNELS.search(text) if not self.both and "Dispatch bandwidth" in text else None
        return kernels is not None and int(kernels["rank"]) in self.kernels

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        matched = 0
        for pattern, by_rank in ((_BOTH, self.both), (_KERNELS, self.kernels), (_PHASES, self.phases)):
            for match in pattern.finditer(text):
                matched += 1
                by_rank.setdefault(int(match["rank"]), match)
        heads = [match.start() for match in _HEAD.finditer(text)]
        if len(heads) > matched:
            self.torn += len(heads) - matched - 1
            return text[heads[-1] :]
        return ""

    def feed_bytes(self, block: bytes, start: int, prefixes: Prefixes) -> tuple[int, int]:
        """The short way for whole messages of this run from `start`: (where it stopped, lines taken); the line there needs the long way."""
        end = block.find(b"[rank ", start, start + LONGEST_PREFIX)
        prefix = block[start:end]
        if end < 0 or b"\n" in prefix:
            return start, 0
        lines, skip = 0, len(prefix)
        both, kernels, phases = (pattern.match for pattern in _LINES)
        while block.startswith(prefix, start):
            match = both(block, start + skip)
            if match:
                if int(match["rank"]) in self.both:
                    break
                self.both[int(match["rank"])] = match
            elif match := kernels(block, start + skip):
                if not self.both and int(match["rank"]) in self.kernels:
                    break
                self.kernels.setdefault(int(match["rank"]), match)
            elif match := phases(block, start + skip):
                self.phases.setdefault(int(match["rank"]), match)
            else:
                break
            start = match.end()
            lines += 1
        return start, lines

    def finish(self, sweep: bool) -> Run:
        """The run; `sweep` is for tests that have one."""
        ranks = sorted(self.ranks)
        missing = [] if ranks else ["no whole line"]
        if ranks != list(range(len(ranks))):
            missing.append(f"ranks: {len(ranks)} report, the highest is {ranks[-1]}")
        for name, by_rank in (("dispatch + combine", self.both), ("dispatch and combine", self.kernels), ("send/recv time", self.phases)):
            if len(by_rank) != len(ranks):
                missing.append(f"{name}: {len(by_rank)} of {len(ranks)} ranks")
        if self.torn:
            missing.append(f"{self.torn} torn lines")
        phases = {rank: _phase_times(match) for rank, match in self.phases.items()}
        kernels = {rank: _figures(match) for rank, match in self.kernels.items()}
        by_kernel = [{"rank": rank, **kernels.get(rank, {}), **phases.get(rank, {})} for rank in sorted({*kernels, *phases})]
        split = next((times["dispatch_send_us"] is not None for times in phases.values()), None)
        return Run(
            test=self.test,
            format={None: "low-latency", False: "low-latency-1.0", True: "low-latency-1.2"}[split],
            shape=Shape(ranks=len(ranks)),
            low_latency=tuple(decode(LowLatency, {"rank": rank, **_figures(match)}) for rank, match in self.both.items()),
            low_latency_kernels=tuple(decode(LowLatencyKernels, entry) for entry in by_kernel),
            send_recv_lines=len(self.phases),
            complete=not missing,
            missing=tuple(missing),
        )

    def join(self, other: "LowLatencyRun") -> None:
        """Add the ranks of another log of the same run (one log file a rank or a node)."""
        self.both |= other.both
        self.kernels |= other.kernels
        self.phases |= other.phases
        self.torn += other.torn


def _figures(match: Match) -> dict[str, float]:
    """The groups of a match but the rank, which are named as the fields of the model; without those that caught nothing."""
    return {name: float(value) for name, value in match.groupdict().items() if value and name != "rank"}


def _phase_times(match: Match) -> dict[str, float | None]:
    """Send, receive and total of both kernels; None for what a line does not tell."""
    figures = _figures(match)
    times = {name: figures.get(name) for name in match.groupdict() if name != "rank"}
    if times["dispatch_recv_us"] is None:
        for kernel in ("dispatch", "combine"):
            times[f"{kernel}_total_us"], times[f"{kernel}_send_us"] = times[f"{kernel}_send_us"], None
    return times

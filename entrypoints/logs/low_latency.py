"""One run of test_low_latency.py. Every rank prints three lines: both kernels together, each alone, and their phases."""

import re
from typing import Any

from entrypoints.logs import formats

Match = re.Match[str] | re.Match[bytes]


class LowLatencyRun:
    """Collects the lines of one run; a rank that reports again begins the next run."""

    test = "low_latency"

    def __init__(self, number: int) -> None:
        self.first_line = number
        # Matches by rank; numbers are made of them at the end, and only for runs that are listed.
        self.both: dict[int, Match] = {}
        self.each: dict[int, Match] = {}
        self.phases: dict[int, Match] = {}
        self.torn = 0

    @property
    def entries(self) -> int:
        return len(self.both) + len(self.each) + len(self.phases) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not (self.both or self.each or self.phases)

    def ends_before(self, writer: str, text: str) -> bool:
        if "Dispatch + combine" in text:
            match = formats.LL_BOTH.search(text)
            return bool(match and int(match[1]) in self.both)
        # Ports without that line: a rank that tells its kernels again begins the next run.
        match = formats.LL_EACH.search(text) if not self.both and "Dispatch bandwidth" in text else None
        return bool(match and int(match[1]) in self.each)

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        matched = 0
        for match in formats.LL_BOTH.finditer(text):
            matched += 1
            self.both.setdefault(int(match[1]), match)
        for match in formats.LL_EACH.finditer(text):
            matched += 1
            self.each.setdefault(int(match[1]), match)
        for match in formats.LL_PHASES.finditer(text):
            matched += 1
            self.phases.setdefault(int(match[1]), match)
        heads = [match.start() for match in re.finditer(r"\[rank *\d+ *\] Dispatch", text)]
        if len(heads) > matched:
            self.torn += len(heads) - matched - 1
            return text[heads[-1] :]
        return ""

    def feed_bytes(self, prefix: bytes, block: bytes, start: int) -> tuple[int, int]:
        """The short way for whole messages of this run from `start`: (where it stopped, lines taken); the line there needs the long way."""
        lines, skip = 0, len(prefix)
        both, each, phases = (pattern.match for pattern in formats.LL_BYTES)
        while block.startswith(prefix, start):
            match = both(block, start + skip)
            if match:
                if int(match[1]) in self.both:
                    break
                self.both[int(match[1])] = match
            elif match := each(block, start + skip):
                if not self.both and int(match[1]) in self.each:
                    break
                self.each.setdefault(int(match[1]), match)
            elif match := phases(block, start + skip):
                self.phases.setdefault(int(match[1]), match)
            else:
                break
            start = match.end()
            lines += 1
        return start, lines

    def finish(self, sweep: bool) -> dict[str, Any]:
        ranks = sorted({*self.both, *self.each, *self.phases})
        missing = [] if ranks else ["no whole line"]
        if ranks != list(range(len(ranks))):
            missing.append(f"ranks: {len(ranks)} report, the highest is {ranks[-1]}")
        for name, found in (("dispatch + combine", self.both), ("dispatch and combine", self.each), ("send/recv time", self.phases)):
            if len(found) != len(ranks):
                missing.append(f"{name}: {len(found)} of {len(ranks)} ranks")
        if self.torn:
            missing.append(f"{self.torn} torn lines")
        each = {rank: _named(match, "dispatch_gbps", "dispatch_us", "combine_gbps", "combine_us") for rank, match in self.each.items()}
        phases = {rank: _phases(match) for rank, match in self.phases.items()}
        split = next((entry["dispatch_send_us"] is not None for entry in phases.values()), None)
        return {
            "test": self.test,
            "format": {None: "low-latency", False: "low-latency-1.0", True: "low-latency-1.2"}[split],
            "shape": {"ranks": len(ranks), "nodes": None},
            "best": [],
            "tuning_lines": 0,
            "passed_cases": 0,
            "low_latency": [_named(match, "dispatch_combine_gbps", "avg_us", "min_us", "max_us") for match in self.both.values()],
            "low_latency_kernels": [{**each.get(rank, {"rank": rank}), **phases.get(rank, {})} for rank in sorted({*each, *phases})],
            "send_recv_lines": len(self.phases),
            "complete": not missing,
            "missing": missing,
        }

    def shares_no_rank_with(self, other: "LowLatencyRun") -> bool:
        return not ({*self.both, *self.each, *self.phases} & {*other.both, *other.each, *other.phases})

    def join(self, other: "LowLatencyRun") -> None:
        """Add the ranks of another log of the same run (one log file a rank or a node)."""
        self.both.update(other.both)
        self.each.update(other.each)
        self.phases.update(other.phases)
        self.torn += other.torn


def _named(match: Match, *names: str) -> dict[str, Any]:
    values: list[float | None] = [float(group) if group else None for group in match.groups()[1:]]
    return {"rank": int(match[1]), **dict(zip(names, values, strict=True))}


def _phases(match: Match) -> dict[str, Any]:
    names = ("dispatch_total_us", "dispatch_send_us", "dispatch_recv_us", "combine_total_us", "combine_send_us", "combine_recv_us")
    entry = _named(match, *names)
    if entry["dispatch_recv_us"] is None:
        # Before 2025-07-02 one number a side: the sum of both phases.
        entry["dispatch_total_us"], entry["dispatch_send_us"] = entry["dispatch_send_us"], None
        entry["combine_total_us"], entry["combine_send_us"] = entry["combine_send_us"], None
    return entry

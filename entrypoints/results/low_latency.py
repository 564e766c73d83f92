"""One run of test_low_latency.py. Every rank prints three lines: both kernels together, each alone, and their phases."""

import re
from typing import Any

from entrypoints.results import formats


class LowLatencyRun:
    """Collects the lines of one run; a rank that reports again begins the next run."""

    test = "low_latency"

    def __init__(self, number: int) -> None:
        self.first_line = number
        # Matches by rank; numbers are made of them at the end, and only for runs that are listed.
        self.both: dict[int, re.Match[str]] = {}
        self.each: dict[int, re.Match[str]] = {}
        self.phases: dict[int, re.Match[str]] = {}
        self.torn = 0

    @property
    def entries(self) -> int:
        return len(self.both) + len(self.each) + len(self.phases) + 1

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
        if self.take(text):
            return ""
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

    def take(self, text: str) -> bool:
        """The short way for a line that is one whole message of this run; False when it needs the long one."""
        start = text.find("Dispatch ") + len("Dispatch ")
        kind = text[start : start + 1]
        if kind == "+":
            match = formats.LL_BOTH.fullmatch(text)
            if not match or int(match[1]) in self.both:
                return False
            self.both[int(match[1])] = match
            return True
        if kind == "b":
            match = formats.LL_EACH.fullmatch(text)
            if not match or (not self.both and int(match[1]) in self.each):
                return False
            self.each.setdefault(int(match[1]), match)
            return True
        match = formats.LL_PHASES.fullmatch(text) if kind == "s" else None
        if match:
            self.phases.setdefault(int(match[1]), match)
        return bool(match)

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


def _named(match: re.Match[str], *names: str) -> dict[str, Any]:
    values: list[float | None] = [float(group) if group else None for group in match.groups()[1:]]
    return {"rank": int(match[1]), **dict(zip(names, values, strict=True))}


def _phases(match: re.Match[str]) -> dict[str, Any]:
    names = ("dispatch_total_us", "dispatch_send_us", "dispatch_recv_us", "combine_total_us", "combine_send_us", "combine_recv_us")
    entry = _named(match, *names)
    if entry["dispatch_recv_us"] is None:
        # Before 2025-07-02 one number a side: the sum of both phases.
        entry["dispatch_total_us"], entry["dispatch_send_us"] = entry["dispatch_send_us"], None
        entry["combine_total_us"], entry["combine_send_us"] = entry["combine_send_us"], None
    return entry

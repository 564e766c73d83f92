"""One run of DeepEP 2's tests/elastic: test_ep.py and its siblings barrier, agrs, pp and engram.

test_ep prints no best line: `best` holds, for each operation and input type, the configuration whose median time over the ranks is
the shortest, with the medians over the ranks, and says so in its `statistic`.
"""

import re
from collections.abc import Iterable
from statistics import median
from typing import Any

from entrypoints.logs import formats

#: do_handle_copy 2 x alignment 2 x FP8 2 x bias 3 x (previous, async, allocate) 6.
ALL_CASES = 144
_OPERATIONS = ("dispatch", "expanded dispatch", "cached dispatch", "combine", "reduced combine")
_SIBLINGS: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("elastic_barrier", formats.EP_BARRIER, ("us",)),
    ("elastic_agrs", formats.EP_AGRS, ("shape", "us", "gbps", "inplace", "batched")),
    ("elastic_pp", formats.EP_PP, ("hide", "concurrent", "send_us", "send_gbps", "recv_us", "recv_gbps")),
    ("elastic_engram", formats.EP_ENGRAM, ("issue_us", "wait_us", "gbps")),
)
Sample = tuple[float, float, float, float]


class ElasticRun:
    """Collects one run; the values of a configuration are folded as soon as the next one begins."""

    def __init__(self, number: int) -> None:
        self.first_line = number
        self.test = "elastic_ep"
        self.shape: dict[str, int] = {}
        self.cases: dict[str, int] = {}
        self.samples: dict[str, list[Sample]] = {}
        self.ranks: set[int] = set()
        self.world = self.lines = 0
        self.configurations: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self._case = ""
        self._short: list[str] = []

    @property
    def entries(self) -> int:
        return len(self.configurations) + len(self.metrics) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not (self.lines or self.cases or self.metrics or self.shape)

    def ends_before(self, writer: str, text: str) -> bool:
        return ("Config:" in text or "> Ranks:" in text) and bool(self.cases or self.metrics or self.lines)

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        case = formats.EP_CASE.search(text)
        if case:
            self._begin_case(case[1])
        matched = 0
        for match in formats.EP_LINE.finditer(text):
            matched += 1
            self.lines += 1
            self.ranks.add(int(match[2]))
            self.world = int(match[3])
            # Ports leave the copy out.
            sample = (float(match[5]), float(match[6]), float(match[7]), float(match[9] or 0))
            self.samples.setdefault(match[4], []).append(sample)
        if not matched:
            matched = self._sibling(text)
        if not matched:
            self._header(text)
        if " EP:" in text and not matched:
            return text[text.index(" EP:") - 1 :]
        return ""

    def feed_bytes(self, block: bytes, start: int) -> tuple[int, int]:
        """The short way for whole performance lines from `start`: (where it stopped, lines taken); the line there needs the long way."""
        lines, samples, ranks = 0, self.samples, self.ranks
        line = formats.EP_LINE_BYTES.match
        while match := line(block, start):
            _, rank, world, name, out, up, time, _, copy, _ = match.groups()
            ranks.add(int(rank))
            self.world = int(world)
            samples.setdefault(name.decode(), []).append((float(out), float(up), float(time), float(copy or 0)))
            start = match.end()
            lines += 1
        self.lines += lines
        return start, lines

    def _begin_case(self, signature: str) -> None:
        if signature != self._case:
            self._fold()
            self._case = signature
        self.cases[signature] = self.cases.get(signature, 0) + 1

    def _fold(self) -> None:
        if self._case and any(len(self.samples.get(name, ())) < max(self.world, 1) for name in _OPERATIONS):
            self._short.append(self._case)
        flags = dict(re.findall(r"(\w+)=(\w+)", self._case))
        for name, samples in self.samples.items():
            scaleout, scaleup, time, copy = (median(column) for column in zip(*samples, strict=True))
            slowest = max(sample[2] for sample in samples)
            self.configurations.append(
                {
                    "op": name,
                    "dtype": {"1": "fp8", "True": "fp8", "0": "bf16", "False": "bf16"}.get(flags.get("use_fp8_dispatch", "")),
                    "case": self._case,
                    "ranks": len(samples),
                    "scaleout_gbps": scaleout,
                    "scaleup_gbps": scaleup,
                    "us": time,
                    "slowest_us": slowest,
                    "copy_or_reduce_gbps": copy or None,
                }
            )
        self.samples = {}

    def _sibling(self, text: str) -> int:
        for test, pattern, names in _SIBLINGS:
            for match in pattern.finditer(text):
                self.test = test
                self.ranks.add(int(match[1]))
                self.world = int(match[2])
                values = [group if name == "shape" else _value(group) for name, group in zip(names, match.groups()[2:], strict=True)]
                self.metrics.append({"rank": int(match[1]), **dict(zip(names, values, strict=True))})
                return 1
        return 0

    def _header(self, text: str) -> None:
        for pattern, names in (
            (formats.EP_RANKS, ("scaleout", "scaleup")),
            (formats.EP_EXPERTS, ("num_topk", "num_experts")),
            (formats.EP_TOKENS, ("num_tokens", "max_tokens", "hidden")),
            (formats.EP_SMS, ("sms", "qps", "allocated_qps")),
        ):
            match = pattern.search(text)
            if match:
                self.shape.update({name: int(value) for name, value in zip(names, match.groups(), strict=True) if value})

    def _best(self) -> Iterable[dict[str, Any]]:
        for operation, dtype in (("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)):
            candidates = [item for item in self.configurations if item["op"] == operation and (dtype is None or item["dtype"] == dtype)]
            if not candidates:
                continue
            fastest = min(candidates, key=lambda item: item["us"])
            yield {
                "op": operation,
                "dtype": dtype,
                "sms": self.shape.get("sms"),
                "nvl_chunk": None,
                "rdma_chunk": None,
                "rdma_gbps": fastest["scaleout_gbps"] or None,
                "nvl_gbps": fastest["scaleup_gbps"],
                "transmit_us": None,
                "notify_us": None,
                "time_us": fastest["us"],
                "statistic": f"medians over {fastest['ranks']} ranks of the fastest of {len(candidates)} configurations",
                "case": fastest["case"],
            }

    def finish(self, sweep: bool) -> dict[str, Any]:
        self._fold()
        missing = []
        if len(self.ranks) < self.world:
            missing.append(f"ranks: {len(self.ranks)} of {self.world} report")
        if self.test == "elastic_ep":
            if len(self.cases) < ALL_CASES:
                missing.append(f"configurations: {len(self.cases)} of {ALL_CASES}")
            if self._short:
                missing.append(f"{len(self._short)} configurations without all lines of all ranks")
            if not self.configurations:
                missing.append("no performance line")
        nodes = self.shape.get("scaleout")
        return {
            "test": self.test,
            "format": "elastic-2",
            "shape": {**self.shape, "ranks": self.world or None, "nodes": nodes if nodes and nodes > 1 else None},
            "best": list(self._best()),
            "tuning_lines": 0,
            "passed_cases": 0,
            "test_cases": len(self.cases),
            "low_latency": [],
            "configurations": self.configurations if sweep else [],
            "metrics": self.metrics,
            "complete": not missing,
            "missing": missing,
        }


def _value(text: str | None) -> float | int | None:
    return None if text is None else int(text) if text.isdigit() else float(text)

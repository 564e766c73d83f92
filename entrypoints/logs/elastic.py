"""One run of DeepEP 2's tests/elastic (2.1.0): test_ep.py and its siblings barrier, agrs, pp and engram.

test_ep prints no best line: `best` holds, for each operation and input type, the configuration whose median time over the ranks is
the shortest, with the medians over the ranks, and says so in its `statistic`.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import NamedTuple

from entrypoints.logs.lines import NUMBER, Prefixes
from entrypoints.results.codec import decode
from entrypoints.results.model import Best, Run, Shape
from entrypoints.results.ranks import JsonObject

#: do_handle_copy 2 x alignment 2 x FP8 2 x bias 3 x (previous, async, allocate) 6.
ALL_CASES = 144
_OPERATIONS = ("dispatch", "expanded dispatch", "cached dispatch", "combine", "reduced combine")

#: What only these tests print: enough to begin a run, where a word of it (`Config:`, `STEP:`) is anyone's.
START = re.compile(
    r"(?<![\w.])EP: *\d+/ *\d+ ?[|,]|(?<![-=])> Rank(?:s: \d+| *\d+/ *\d+ \||: *\d+/)|> Testing with do_handle_copy|^\s*Config:\s*$"
)
_HEADERS = (
    re.compile(r"> Ranks: (?P<scaleout>\d+)(?: x (?P<scaleup>\d+))?"),
    re.compile(r"> Experts: (?P<num_topk>\d+)/(?P<num_experts>\d+)"),
    re.compile(r"> Tokens: (?P<num_tokens>\d+) \(max: (?P<max_tokens>\d+)\), hidden: (?P<hidden>\d+)"),
    re.compile(r"> #SM: (?P<sms>\d+), #QPs: (?P<qps>\d+)/(?P<allocated_qps>\d+)"),
)
_CASE = re.compile(r"> Testing with (do_handle_copy=.*?) \.\.\.")
_KERNEL = (
    r"(?:[*\-#@+]|\[[\w.-]+\]) EP: *(?P<rank>\d+)/ *(?P<world>\d+) \| (?P<operation>(?:expanded |cached |reduced )?(?:dispatch|combine)): "
    rf"(?P<scaleout>{NUMBER}) GB/s \(SO\), (?P<scaleup>{NUMBER}) GB/s \(SU\), (?P<time>{NUMBER}) us, {NUMBER} bytes"
)
_COPY = rf" \| (?:copy|reduce): (?P<copy>{NUMBER}) GB/s, {NUMBER} us"
_LINE = re.compile(rf"{_KERNEL}(?:{_COPY}|\s*$)")
_BYTES_LINE = re.compile(rf" *{_KERNEL}(?:{_COPY})?[ \r]*(?:\n|\Z)".encode())
_SIBLINGS = {
    "elastic_barrier": re.compile(rf"> EP: *(?P<rank>\d+)/ *(?P<world>\d+), barrier time: (?P<us>{NUMBER}) us"),
    "elastic_agrs": re.compile(
        rf"> Rank: *(?P<rank>\d+)/ *(?P<world>\d+) \| (?P<shape>\d+ x \d+ \w+) \| avg: (?P<us>{NUMBER}) us(?:, (?P<gbps>{NUMBER}) GB/s)? ?"
        r"\(inplace=(?P<inplace>\d), batched=(?P<batched>\d)\)"
    ),
    "elastic_pp": re.compile(
        r"> EP: *(?P<rank>\d+)/ *(?P<world>\d+) \| hide=(?P<hide>\d), concurrent=(?P<concurrent>\d) \| "
        rf"send: (?P<send_us>{NUMBER}) us, (?P<send_gbps>{NUMBER}) GB/s \| recv: (?P<recv_us>{NUMBER}) us, (?P<recv_gbps>{NUMBER}) GB/s"
    ),
    "elastic_engram": re.compile(
        rf"> Rank *(?P<rank>\d+)/ *(?P<world>\d+) \| issue: (?P<issue_us>{NUMBER}) us, wait: (?P<wait_us>{NUMBER}) us, "
        rf"(?P<gbps>{NUMBER}) GB/s"
    ),
}


class Sample(NamedTuple):
    """One rank's line of one operation; `copy_gbps` is 0 where a port leaves the copy out."""

    scaleout_gbps: float
    scaleup_gbps: float
    us: float
    copy_gbps: float


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Medians over the ranks of one operation in one configuration of the test."""

    op: str
    dtype: str | None
    case: str
    ranks: int
    scaleout_gbps: float
    scaleup_gbps: float
    us: float
    slowest_us: float
    copy_or_reduce_gbps: float | None


class ElasticRun:
    """Collects one run; the values of a configuration are folded as soon as the next one begins."""

    def __init__(self, number: int) -> None:
        self.first_line = number
        self.test = "elastic_ep"
        self.shape: dict[str, int] = {}
        self.cases: set[str] = set()
        self.samples: dict[str, list[Sample]] = {}
        self.ranks: set[int] = set()
        self.world = self.lines = 0
        self.configurations: list[Configuration] = []
        self.metrics: list[JsonObject] = []
        self._case = ""
        self._short: list[str] = []

    @property
    def entries(self) -> int:
        """Lines that are kept of the run, for the limit of a parse."""
        return len(self.configurations) + len(self.metrics) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not (self.lines or self.cases or self.metrics or self.shape)

    def ends_before(self, writer: str, text: str) -> bool:
        """True when this line belongs to a later run."""
        return ("Config:" in text or "> Ranks:" in text) and bool(self.cases or self.metrics or self.lines)

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        if case := _CASE.search(text):
            if case[1] != self._case:
                self._fold()
                self._case = case[1]
            self.cases.add(case[1])
        samples = list(_LINE.finditer(text))
        for sample in samples:
            self._add_sample(sample)
        if samples or self._feed_sibling(text):
            return ""
        for pattern in _HEADERS:
            if header := pattern.search(text):
                self.shape |= {name: int(value) for name, value in header.groupdict().items() if value}
        return text[text.index(" EP:") - 1 :] if " EP:" in text else ""

    def feed_bytes(self, block: bytes, start: int, prefixes: Prefixes) -> tuple[int, int]:
        """The short way for whole performance lines from `start`: (where it stopped, lines taken); the line there needs the long way."""
        lines = 0
        while match := _BYTES_LINE.match(block, start):
            self._add_sample(match)
            start = match.end()
            lines += 1
        return start, lines

    def _add_sample(self, match: re.Match[str] | re.Match[bytes]) -> None:
        self.lines += 1
        self.ranks.add(int(match["rank"]))
        self.world = int(match["world"])
        operation = match["operation"]
        sample = Sample(float(match["scaleout"]), float(match["scaleup"]), float(match["time"]), float(match["copy"] or 0))
        self.samples.setdefault(operation if isinstance(operation, str) else operation.decode(), []).append(sample)

    def _fold(self) -> None:
        if self._case and any(len(self.samples.get(name, ())) < max(self.world, 1) for name in _OPERATIONS):
            self._short.append(self._case)
        flags = dict(re.findall(r"(\w+)=(\w+)", self._case))
        for operation, samples in self.samples.items():
            middle = Sample(*(median(column) for column in zip(*samples, strict=True)))
            self.configurations.append(
                Configuration(
                    op=operation,
                    dtype={"1": "fp8", "True": "fp8", "0": "bf16", "False": "bf16"}.get(flags.get("use_fp8_dispatch", "")),
                    case=self._case,
                    ranks=len(samples),
                    scaleout_gbps=middle.scaleout_gbps,
                    scaleup_gbps=middle.scaleup_gbps,
                    us=middle.us,
                    slowest_us=max(sample.us for sample in samples),
                    copy_or_reduce_gbps=middle.copy_gbps or None,
                )
            )
        self.samples = {}

    def _feed_sibling(self, text: str) -> bool:
        """Take a line of barrier, agrs, pp or engram. False when it is none."""
        for test, pattern in _SIBLINGS.items():
            if match := pattern.search(text):
                self.test = test
                self.ranks.add(int(match["rank"]))
                self.world = int(match["world"])
                texts = {name: text for name, text in match.groupdict().items() if name != "world"}
                self.metrics.append({name: text if name == "shape" else _number(text) for name, text in texts.items()})
                return True
        return False

    def _best(self) -> Iterator[Best]:
        for operation, dtype in (("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)):
            candidates = [item for item in self.configurations if item.op == operation and dtype in (None, item.dtype)]
            fastest = min(candidates, key=lambda item: item.us, default=None)
            if fastest is None:
                continue
            yield Best(
                op=operation,
                dtype=dtype,
                sms=self.shape.get("sms"),
                rdma_gbps=fastest.scaleout_gbps or None,
                nvl_gbps=fastest.scaleup_gbps,
                time_us=fastest.us,
                statistic=f"medians over {fastest.ranks} ranks of the fastest of {len(candidates)} configurations",
                case=fastest.case,
            )

    def finish(self, sweep: bool) -> Run:
        """The run; with `sweep` all of its configurations too."""
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
        nodes = self.shape.get("scaleout", 1)
        shape = {**self.shape, "ranks": self.world or None, "nodes": nodes if nodes > 1 else None}
        return Run(
            test=self.test,
            format="elastic-2",
            shape=decode(Shape, shape),
            best=tuple(self._best()),
            test_cases=len(self.cases),
            configurations=tuple(map(asdict, self.configurations)) if sweep else (),
            metrics=tuple(self.metrics),
            complete=not missing,
            missing=tuple(missing),
        )


def _number(text: str | None) -> float | int | None:
    return None if text is None else int(text) if text.isdigit() else float(text)

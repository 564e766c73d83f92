"""One run of test_internode.py or test_intranode.py: correctness cases, tuning sweep, best lines.

As the tests print them between 1.0.0 and 2.1.0; internode: A (until 2025-07-14) bandwidths alone, B (to v1.2.1)
`transmit: .. us, notify: .. us`, C (2.x) `notify + transmit us`. Rank 0 of every node prints, so a log of N nodes holds N copies,
interleaved or one after the other.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from entrypoints.logs.lines import NUMBER, Prefixes
from entrypoints.results.codec import decode
from entrypoints.results.model import Best, Run, Shape, Sweep

_CONFIG = re.compile(r"\[config\] ([a-z_]+=\d+(?:, [a-z_]+=\d+)*)")
_LAYOUT = re.compile(r"\[layout\] Kernel performance: ([\d.]+) ms")
_TESTING = re.compile(
    r"\[testing\] Running with (FP8|BF16), (with|without) top-k \(async=(True|False|0|1), previous=(True|False|0|1)\)", re.IGNORECASE
)
_PASSED = re.compile(r"\bpassed\b")
_POINT = (
    r"SMs (?P<sms>\d+), NVL chunk (?P<nvl_chunk>\d+|default)(?:, RDMA chunk (?P<rdma_chunk>\d+))?[:,](?P<times>[^\[]*?)"
    # Of two bandwidths over the network (Paddle's port) the first is DeepEP's own, which counts local traffic too.
    rf"(?:(?P<rdma_and_nvl>{NUMBER}) GB/s \(RDMA \+ NVL\), )?(?:(?P<rdma>{NUMBER})(?: GB/s)? \(RDMA\), )?(?P<nvl>{NUMBER}) GB/s \(NVL\)"
    r"(?P<after>[^\[]*)"
)
_TUNING = re.compile(rf"\[tuning\] {_POINT}")
_BEST = re.compile(rf"\[tuning\] Best (?P<op>dispatch|combine)(?: \((?P<dtype>FP8|BF16)\))?: {_POINT}")
_TRANSMIT_NOTIFY = re.compile(rf"transmit: (?P<transmit>{NUMBER}) us, notify: (?P<notify>{NUMBER}) us")
_NOTIFY_PLUS_TRANSMIT = re.compile(rf"(?P<notify>{NUMBER}) \+ (?P<transmit>{NUMBER}) us")
_TOTAL_TIME = re.compile(rf"(?:t[:=] ?|, |time: )(?P<time>{NUMBER}) ?(?P<unit>us|ms|s)\b")
_MICROSECONDS = {"us": 1, "ms": 1e3, "s": 1e6}
#: An unknown time is written as null.
_NO_TIME = {"time_us": None}
#: Ascend's port has no sweep: one line an operation, over HCCS where others have NVLink, and between nodes RDMA.
_ASCEND = re.compile(
    rf"(?P<op>Dispatch|Combine)(?: \((?P<dtype>FP8|INT8|BF16)[^)]*\)| \([^)]*\))?[^|\[(]*?[ =](?P<nvl>{NUMBER}) GB/s \(HCCS\)"
    rf"(?:, (?P<rdma>{NUMBER}) GB/s \(RDMA\))?(?:, avg_t: (?P<transmit>{NUMBER}) us)?(?:, notify_t: (?P<notify>{NUMBER}) us)?"
)
#: The lines of which a log has the most, as bytes to their ends.
_TUNING_LINE = re.compile(
    rb"\[tuning\] SMs \d+, NVL chunk (\d+|default)(?:, RDMA chunk (\d+))?"
    rb"(: \d+ \+ \d+ us, |: |, transmit: [\d.]+ us, notify: [\d.]+ us, BW: )"
    rb"(?:(\d+\.\d+) GB/s \(RDMA\), )?(\d+\.\d+) GB/s \(NVL\)([^\[\n]*)(?:\n|\Z)"
)
_TESTING_LINE = re.compile(
    rb"\[testing\] Running with (FP8|BF16), (with|without) top-k \(async=(True|False), previous=(True|False)\) \.\.\. passed[ \r]*(?:\n|\Z)"
)

#: Sizes of the sweeps in DeepEP 1.0.0 to 2.1.0; the smallest of all generations is the least a whole sweep has.
_LEAST_INTERNODE = {"dispatch": (8, 8), "combine": (4, 6)}
_LEAST_INTRANODE = {"dispatch": 8, "combine": 4}
_WITH_DEFAULT = {"dispatch": {0, *range(4, 33, 2)}, "combine": set(range(17))}


class Operation(NamedTuple):
    """Operation and type of a best line; combine has no type."""

    op: str
    dtype: str | None = None

    @property
    def label(self) -> str:
        return f"{self.op} ({self.dtype.upper()})" if self.dtype else self.op


#: In the order in which the tests print their best lines.
_OPERATIONS = (Operation("dispatch", "fp8"), Operation("dispatch", "bf16"), Operation("combine"))
_ORDER = {operation: order for order, operation in enumerate(_OPERATIONS)}


@dataclass
class _Points:
    """Points as printed: (NVL chunk, RDMA chunk) -> (RDMA GB/s, NVL GB/s), in bytes; numbers are made of them when asked for."""

    raw: dict[tuple[bytes, bytes | None], tuple[bytes | None, bytes]] = field(default_factory=dict)

    @property
    def points(self) -> dict[tuple[int, int], tuple[float | None, float]]:
        """The same in numbers; chunk 0 is the kernel's default."""
        return {
            (0 if nvl == b"default" else int(nvl), int(rdma or 0)): (float(gbps[0]) if gbps[0] else None, float(gbps[1]))
            for (nvl, rdma), gbps in self.raw.items()
        }

    def problem(self, op: str, best: tuple[int, int], internode: bool) -> str | None:
        """A reason why this is not a whole sweep that contains its best point; None when it is."""
        points = self.points
        if not points:
            return "no tuning line"
        if best not in points:
            return f"its best point (NVL chunk {best[0]}{f', RDMA chunk {best[1]}' if internode else ''}) has no tuning line"
        nvl = {point[0] for point in points}
        rdma = {point[1] for point in points}
        if len(points) != len(nvl) * len(rdma):
            return f"{len(points)} of {len(nvl) * len(rdma)} chunk pairs"
        if internode:
            least_nvl, least_rdma = _LEAST_INTERNODE[op]
            if len(nvl) < least_nvl or len(rdma) < least_rdma:
                return f"{len(nvl)} NVL x {len(rdma)} RDMA chunk sizes, at least {least_nvl} x {least_rdma} are tried"
        elif 0 in nvl:
            if nvl != _WITH_DEFAULT[op]:
                return f"{len(nvl)} of {len(_WITH_DEFAULT[op])} chunk sizes"
        elif len(nvl) < _LEAST_INTRANODE[op]:
            return f"{len(nvl)} chunk sizes, at least {_LEAST_INTRANODE[op]} are tried"
        return None

    def rows(self) -> tuple[tuple[float | None, ...], ...]:
        """(NVL chunk, RDMA chunk, RDMA GB/s, NVL GB/s) in the order of chunk sizes."""
        return tuple((nvl, rdma or None, *gbps) for (nvl, rdma), gbps in sorted(self.points.items()))


class _BestLine(NamedTuple):
    """A best line; numbers are made of it at the end, and only for runs that are listed."""

    operation: Operation
    writer: str
    copy: int
    match: re.Match[str]

    @property
    def chunks(self) -> tuple[int, int]:
        """NVL and RDMA chunk; 0 is the kernel's default for NVL, and none for RDMA."""
        groups = self.match.groupdict()
        nvl, rdma = groups.get("nvl_chunk"), groups.get("rdma_chunk")
        return int(nvl) if nvl and nvl != "default" else 0, int(rdma or 0)

    def to_best(self) -> Best:
        """The line in numbers; one of Ascend's port has neither SMs, chunks nor a total time."""
        match, ascend = self.match, self.match.re is _ASCEND
        nvl_chunk, rdma_chunk = self.chunks
        both = None if ascend else match["rdma_and_nvl"]
        times = match if ascend else _TRANSMIT_NOTIFY.search(match["times"]) or _NOTIFY_PLUS_TRANSMIT.search(match["times"])
        total = None if ascend else _TOTAL_TIME.search(match["after"])
        return Best(
            **self.operation._asdict(),
            sms=None if ascend else int(match["sms"]),
            nvl_chunk=None if ascend else nvl_chunk,
            rdma_chunk=rdma_chunk or None,
            rdma_gbps=_number(both or match["rdma"]),
            nvl_gbps=float(match["nvl"]),
            transmit_us=_number(times["transmit"]) if times else None,
            notify_us=_number(times["notify"]) if times else None,
            time_us=round(float(total["time"]) * _MICROSECONDS[total["unit"]], 3) if total else None,
            rdma_only_gbps=_number(match["rdma"]) if both else None,
            writer=self.writer or None,
            copy=self.copy,
            link="HCCS" if ascend else None,
            extra={} if total else _NO_TIME,
        )


class TuningRun:
    """Collects the lines of one run; `finish` gives it as the contract has it."""

    def __init__(self, test: str, number: int) -> None:
        self.test = test
        self.first_line = number
        self.shape: dict[str, int] = {}
        self.format: str | None = None
        self.best: list[_BestLine] = []
        self.tuning_lines = self.started_cases = self.passed = self.torn = 0
        self.layout_ms: float | None = None
        self._cases: Counter[tuple[bytes, ...]] = Counter()
        self._configs: Counter[str] = Counter()
        #: Best lines of each writer, and its last one.
        self._printed: defaultdict[str, Counter[Operation]] = defaultdict(Counter)
        self._last: dict[str, Operation] = {}
        self._sweeps: dict[tuple[str, Operation], _Points] = {}
        #: Sweeps whose best line is still to come.
        self._open: dict[str, _Points] = {}
        #: Writers that have begun, and those that have printed all of their best lines.
        self._busy: set[str] = set()
        self._finished: set[str] = set()

    @property
    def entries(self) -> int:
        """Lines that are kept of the run, for the limit of a parse."""
        return len(self.best) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not (self.best or self.tuning_lines or self.started_cases or self.passed or self.shape or self.layout_ms)

    @property
    def undecided(self) -> bool:
        """True when nothing tells internode from intranode yet: both print the same cases, and ports leave num_topk_groups out."""
        return not (self.best or self.tuning_lines or self._finished) and "num_topk_groups" not in self.shape

    @property
    def copies(self) -> int:
        """Number of nodes (or runs in a row) that printed the same: a log that was gathered from all holds each line several times."""
        printed = sum(self._printed.values(), Counter[Operation]())
        return max(1, sum(self._configs.values()), *printed.values())

    def ends_before(self, writer: str, text: str) -> bool:
        """True when this line belongs to a later run of the same test."""
        if "[config]" in text:
            config = _CONFIG.search(text)
            return writer in self._busy or bool(config and self.shape and _shape(config) != self.shape)
        for mark, pattern in (("] Best ", _BEST), ("(HCCS)", _ASCEND)):
            if mark in text:
                best = pattern.search(text)
                return best is not None and self._is_later(writer, _operation(best))
        return writer in self._finished and ("[testing]" in text or "[tuning]" in text)

    def _is_later(self, writer: str, operation: Operation) -> bool:
        """A best line seen before, with later ones after it, starts the next run; seen just now, it is another node's."""
        printed = self._printed[writer]
        if not self.tuning_lines and not self.started_cases and not self._configs:
            # An excerpt of best lines alone, in whatever order its author liked.
            return operation in printed and self._last[writer] != operation
        order = _ORDER.get(operation, 2)
        if operation not in printed:
            return writer in self._finished and order < 2
        return any(_ORDER.get(other, 2) > order for other in printed)

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        if "[config]" in text and (config := _CONFIG.search(text)):
            self.shape = self.shape or _shape(config)
            self._configs[writer] += 1
        if "[layout]" in text and self.layout_ms is None:
            layout = _LAYOUT.search(text)
            self.layout_ms = float(layout[1]) if layout else None
        if "[testing]" in text:
            self._busy.add(writer)
            self.started_cases += text.count("[testing] Running")
            for case in _TESTING.finditer(text):
                self._cases[tuple(group.encode() for group in case.groups())] += 1
        if self.passed < self.started_cases and "passed" in text:
            self.passed = min(self.started_cases, self.passed + len(_PASSED.findall(text)))
        return self._feed_messages(writer, text) if "[tuning]" in text else ""

    def feed_bytes(self, block: bytes, start: int, prefixes: Prefixes) -> tuple[int, int]:
        """The short way for whole lines of this run, tuning points or passed cases of known writers, one after the other from `start`.

        Returns where it stopped and the number of lines taken; the line there needs the long way.
        """
        lines, internode = 0, self.test == "internode"
        point, case = _TUNING_LINE.match, _TESTING_LINE.match
        prefix: bytes | None = None
        while True:
            if prefix is None or not block.startswith(prefix, start):
                begin = prefixes.find(b"[t", block, start)
                if begin is None or begin[1] in self._finished:
                    break
                prefix, writer = begin
                points: _Points | None = None
            match = point(block, start + len(prefix))
            if match:
                nvl, rdma, times, rdma_gbps, nvl_gbps, after = match.groups()
                if (rdma is not None) != internode:
                    break
                if points is None:
                    self._note_format(times.decode("ascii", "replace"), after.decode("ascii", "replace"))
                    self._busy.add(writer)
                    points = self._open.setdefault(writer, _Points())
                self.tuning_lines += 1
                points.raw[nvl, rdma] = (rdma_gbps, nvl_gbps)
            else:
                match = case(block, start + len(prefix))
                if not match or self.passed != self.started_cases:
                    break
                self._busy.add(writer)
                self.started_cases += 1
                self.passed += 1
                self._cases[match.groups()] += 1
            start = match.end()
            lines += 1
        return start, lines

    def _feed_messages(self, writer: str, text: str) -> str:
        starts = [match.start() for match in re.finditer(r"\[tuning\]", text)]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            piece = text[start:end]
            ascend = list(_ASCEND.finditer(piece)) if "(HCCS)" in piece else []
            best = _BEST.match(piece)
            point = best or _TUNING.match(piece)
            if ascend:
                self.format = self.format or "Ascend"
                for match in ascend:
                    self._add_best(writer, match)
            elif point is None and end == len(text):
                return piece
            elif point is None or ("RDMA chunk" in point[0] and "(RDMA" not in point[0]):
                self.torn += 1  # without its RDMA figure, which is lost, the other may be torn as well
            elif best:
                if self.test == "internode":
                    self._note_format(best["times"], best["after"])
                self._add_best(writer, best)
            else:
                self._add_point(writer, point)
        return ""

    def _add_point(self, writer: str, match: re.Match[str]) -> None:
        self._busy.add(writer)
        self.tuning_lines += 1
        self._note_format(match["times"], match["after"])
        rdma_chunk, rdma_gbps = match["rdma_chunk"], match["rdma_and_nvl"] or match["rdma"]
        chunks = match["nvl_chunk"].encode(), rdma_chunk.encode() if rdma_chunk else None
        self._open.setdefault(writer, _Points()).raw[chunks] = (rdma_gbps.encode() if rdma_gbps else None, match["nvl"].encode())

    def _note_format(self, times: str, after: str) -> None:
        if self.format is not None:
            return
        if self.test == "internode":
            self.format = "B" if "transmit" in times else "C" if " + " in times else "Paddle" if "cpu_time" in after else "A"
        else:
            self.format = "intranode-1.2" if "avg_t" in after else "intranode-2" if " us" in after else "intranode-1.0"

    def _add_best(self, writer: str, match: re.Match[str]) -> None:
        operation = _operation(match)
        copy = sum(best.operation == operation for best in self.best)
        self.best.append(_BestLine(operation, writer, copy, match))
        self._busy.add(writer)
        printed = self._printed[writer]
        printed[operation] += 1
        self._last[writer] = operation
        points = self._open.pop(writer, None)
        if points is not None:
            self._sweeps.setdefault((writer, operation), _Points()).raw.update(points.raw)
        # A last line (best combine) for each copy that the writer is known to hold.
        if sum(count for other, count in printed.items() if other.op == "combine") >= max(1, self._configs[writer], *printed.values()):
            self._finished.add(writer)

    def _expected_cases(self, copies: int) -> int:
        """Correctness lines that one node prints. Until ef70b83 (2025-09-10) internode had no random FP8 input: 24, not 32."""
        if self.test == "intranode":
            has_fp8 = any(case[0] == b"FP8" for case in self._cases) or any(best.operation.dtype == "fp8" for best in self.best)
            return 24 if has_fp8 or not self._cases else 16
        if self.format == "C" or not self._cases:
            return 32
        mode = next(iter(self._cases))[2:]
        per_mode = sum(count for case, count in self._cases.items() if case[2:] == mode)
        eight_bit = sum(count for case, count in self._cases.items() if case[2:] == mode and case[0] == b"FP8")
        return 24 if per_mode == 6 * copies and eight_bit == 2 * copies else 32

    def _missing(self, copies: int, expected_cases: int) -> list[str]:
        """Reasons why the run is not complete; empty when the test printed all that it prints when it goes through."""
        if self.format == "Ascend":
            return ["what Ascend's tests print when they are complete is not known here"]
        missing = []
        if self.passed != expected_cases * copies:
            missing.append(f"correctness: {self.passed} of {expected_cases * copies} cases passed")
        elif self._cases and sum(self._cases.values()) == self.passed and len({case[2:] for case in self._cases}) < 4:
            missing.append("correctness: not all of the four async/previous modes")
        # 16 cases: a GPU without FP8.
        for operation in _OPERATIONS[1:] if expected_cases == 16 else _OPERATIONS:
            same = sum(line.operation == operation or operation.op == line.operation.op == "combine" for line in self.best)
            if same < copies:
                missing.append(f"best {operation.label}: {same} of {copies} lines")
        first: dict[tuple[str, Operation], _BestLine] = {}
        for line in self.best:
            first.setdefault((line.writer, line.operation), line)
        for (writer, operation), line in first.items():
            points = self._sweeps.get((writer, operation), _Points())
            if problem := points.problem(operation.op, line.chunks, self.test == "internode"):
                missing.append(f"sweep of {operation.label}: {problem}")
        if not self.best and not self.tuning_lines:
            missing.append("no tuning at all (pressure test without benchmarks, or cut off)")
        if self.torn:
            missing.append(f"{self.torn} torn lines")
        return missing

    def finish(self, sweep: bool) -> Run:
        """The run; with `sweep` the points of the first writer's sweeps too."""
        copies = self.copies
        expected = self._expected_cases(copies)
        missing = self._missing(copies, expected)
        # num_topk_groups is min(nodes, 4), so that below 4 it tells the number of nodes.
        groups = self.shape.get("num_topk_groups", 0)
        nodes = 1 if self.test == "intranode" else groups if 0 < groups < 4 else None
        first = next(iter(self._sweeps))[0] if sweep and self._sweeps else None
        columns = ("nvl_chunk", "rdma_chunk", "rdma_gbps", "nvl_gbps")
        sweeps = (
            Sweep(op=operation.op, dtype=operation.dtype, columns=columns, points=points.rows())
            for (writer, operation), points in self._sweeps.items()
            if writer == first
        )
        return Run(
            test=self.test,
            format=self.format,
            shape=decode(Shape, {**self.shape, "nodes": nodes}),
            best=tuple(line.to_best() for line in self.best),
            tuning_lines=self.tuning_lines,
            passed_cases=self.passed,
            expected_cases=expected * copies,
            complete=not missing,
            copies=copies,
            missing=tuple(missing),
            layout_ms=self.layout_ms,
            sweep=tuple(sweeps) or None,
        )


def test_of(text: str, current_test: str | None) -> str | None:
    """internode or intranode by a line of theirs; None for a line of another test. `current_test` is the test of the run at hand."""
    if "[tuning]" in text:
        if "RDMA chunk" in text or "(RDMA)" in text:
            return "internode"
        # A torn line may have lost its RDMA part: it stays with the run it is in.
        torn = not (_BEST.search(text) or _TUNING.search(text))
        return "internode" if torn and current_test == "internode" else "intranode"
    if "[config]" in text and "num_tokens=" in text:
        return "internode" if "num_topk_groups" in text else "intranode"
    return None


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _shape(config: re.Match[str]) -> dict[str, int]:
    return {name: int(value) for name, value in (pair.split("=") for pair in config[1].split(", "))}


def _operation(match: re.Match[str]) -> Operation:
    """The operation of a best line; what type Ascend's combine prints is that of its input."""
    op, dtype = match["op"], match["dtype"]
    return Operation(op.lower(), dtype.lower() if dtype and op != "Combine" else None)

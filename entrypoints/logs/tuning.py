"""One run of test_internode.py or test_intranode.py: correctness cases, tuning sweep, best lines.

Rank 0 of every node prints, so a log of N nodes holds N copies, interleaved or one after the other.
"""

import re
from collections import Counter
from typing import Any

from entrypoints.logs import formats
from entrypoints.logs.complete import expected_cases, what_is_missing
from entrypoints.logs.sweep import Sweep

_ORDER = {("dispatch", "fp8"): 0, ("dispatch", "bf16"): 1, ("combine", None): 2}
Key = tuple[str, str | None]


class TuningRun:
    """Collects the lines of one run; `finish` gives it as the contract has it."""

    def __init__(self, test: str, number: int) -> None:
        self.test = test
        self.first_line = number
        self.shape: dict[str, int] = {}
        self.format: str | None = None
        self.best: list[dict[str, Any]] = []
        self.counts: Counter[tuple[str, Key]] = Counter()
        self.tuning_lines = self.started_cases = self.passed = self.torn = 0
        self.cases: Counter[tuple[bytes, ...]] = Counter()
        self.layout_ms: float | None = None
        self._configs: Counter[str] = Counter()
        self._busy: set[str] = set()
        self._done: set[str] = set()
        self._open: dict[str, Sweep] = {}
        self.sweeps: dict[tuple[str, Key], Sweep] = {}
        self._last: dict[str, Key] = {}

    @property
    def entries(self) -> int:
        return len(self.best) + 1

    @property
    def empty(self) -> bool:
        """True when only pieces of messages were seen."""
        return not (self.best or self.tuning_lines or self.started_cases or self.passed or self.shape or self.layout_ms)

    @property
    def undecided(self) -> bool:
        """True when nothing tells internode from intranode yet: both print the same cases, and ports leave num_topk_groups out."""
        return not (self.best or self.tuning_lines or self._done) and "num_topk_groups" not in self.shape

    def ends_before(self, writer: str, text: str) -> bool:
        """True when this line belongs to a later run of the same test."""
        if "[config]" in text:
            match = formats.CONFIG.search(text)
            return writer in self._busy or bool(match and self.shape and self._shape(match) != self.shape)
        if "] Best " in text:
            match = formats.BEST.search(text)
            return bool(match) and self._is_later(writer, self._key(match))  # type: ignore[arg-type]
        if "(HCCS)" in text:
            match = formats.ASCEND.search(text)
            return bool(match) and self._is_later(writer, self._ascend_key(match))  # type: ignore[arg-type]
        return writer in self._done and ("[testing]" in text or "[tuning]" in text)

    def _is_later(self, writer: str, key: Key) -> bool:
        """A best line seen before, with later ones after it, starts the next run; seen just now, it is another node's."""
        if not self.tuning_lines and not self.started_cases and not self._configs:
            # An excerpt of best lines alone, in whatever order its author liked.
            return bool(self.counts[writer, key]) and self._last.get(writer, key) != key
        if not self.counts[writer, key]:
            return writer in self._done and _ORDER.get(key, 2) < 2
        rank = _ORDER.get(key, 2)
        return any(count and who == writer and _ORDER.get(other, 2) > rank for (who, other), count in self.counts.items())

    def _is_done(self, writer: str) -> bool:
        """True when this writer has printed a last line (best combine) for each copy it is known to hold."""
        mine = [(key, count) for (who, key), count in self.counts.items() if who == writer]
        combines = sum(count for key, count in mine if key[0] == "combine")
        return combines >= max(1, self._configs[writer], *(count for _, count in mine))

    @staticmethod
    def _shape(match: re.Match[str]) -> dict[str, int]:
        return {name: int(value) for name, value in (pair.split("=") for pair in match[1].split(", "))}

    @staticmethod
    def _key(match: re.Match[str]) -> Key:
        return match[1], match[2].lower() if match[2] else None

    def feed(self, writer: str, text: str) -> str:
        """Take one line. Returns the start of a message that is not whole yet, or ""."""
        if "[config]" in text:
            match = formats.CONFIG.search(text)
            if match:
                self.shape = self.shape or self._shape(match)
                self._configs[writer] += 1
        if "[layout]" in text and self.layout_ms is None:
            found = re.search(r"\[layout\] Kernel performance: ([\d.]+) ms", text)
            self.layout_ms = float(found[1]) if found else None
        if "[testing]" in text:
            self._busy.add(writer)
            self.started_cases += text.count("[testing] Running")
            for case in formats.TESTING.finditer(text):
                self.cases[tuple(group.encode() for group in case.groups())] += 1
        if self.passed < self.started_cases and "passed" in text:
            self.passed = min(self.started_cases, self.passed + len(formats.PASSED.findall(text)))
        return self._messages(writer, text) if "[tuning]" in text else ""

    def feed_bytes(self, writer: str, prefix: bytes, block: bytes, start: int) -> tuple[int, int]:
        """The short way for whole lines of this run with this prefix, tuning points or passed cases, one after the other from `start`.

        Returns where it stopped and the number of lines taken; the line there needs the long way.
        """
        if writer in self._done:
            return start, 0
        lines, skip, internode = 0, len(prefix), self.test == "internode"
        raw: dict[tuple[bytes, bytes | None], tuple[bytes | None, bytes]] | None = None
        point, case = formats.TUNING_BYTES.match, formats.TESTING_BYTES.match
        while block.startswith(prefix, start):
            match = point(block, start + skip)
            if match:
                nvl, rdma, times, rdma_gbps, nvl_gbps, after = match.groups()
                if (rdma is not None) != internode:
                    break
                if raw is None:
                    if self.format is None:
                        self._note_format(times.decode("ascii", "replace"), after.decode("ascii", "replace"))
                    self._busy.add(writer)
                    raw = self._open.setdefault(writer, Sweep()).raw
                self.tuning_lines += 1
                raw[nvl, rdma] = (rdma_gbps, nvl_gbps)
            else:
                match = case(block, start + skip)
                if not match or self.passed != self.started_cases:
                    break
                self._busy.add(writer)
                self.started_cases += 1
                self.passed += 1
                self.cases[match.groups()] += 1
            start = match.end()
            lines += 1
        return start, lines

    def _messages(self, writer: str, text: str) -> str:
        starts = [match.start() for match in re.finditer(r"\[tuning\]", text)]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            piece = text[start:end]
            best = formats.BEST.match(piece)
            point = None if best else formats.TUNING.match(piece)
            whole = list(formats.ASCEND.finditer(piece)) if "(HCCS)" in piece else ()
            if whole:
                for match in whole:
                    self._ascend(writer, match)
            elif (found := best or point) and "RDMA chunk" in found[0] and "(RDMA" not in found[0]:
                self.torn += 1  # its RDMA figure is lost, and the other may be torn as well
            elif best:
                self._best(writer, best)
            elif point:
                self._tuning(writer, point)
            elif end == len(text):
                return piece
            else:
                self.torn += 1
        return ""

    def _tuning(self, writer: str, match: re.Match[str]) -> None:
        self._busy.add(writer)
        self.tuning_lines += 1
        self._note_format(match["times"], match["after"])
        values = tuple(group.encode() if group else None for group in (match[2], match[3], match[5] or match[6], match[7]))
        self._open.setdefault(writer, Sweep()).raw[values[0] or b"", values[1]] = (values[2], values[3] or b"")

    def _note_format(self, times: str, after: str) -> None:
        if self.format is not None:
            return
        if self.test == "internode":
            self.format = "B" if "transmit" in times else "C" if " + " in times else "Paddle" if "cpu_time" in after else "A"
        else:
            self.format = "intranode-1.2" if "avg_t" in after else "intranode-2" if " us" in after else "intranode-1.0"

    def _best(self, writer: str, match: re.Match[str]) -> None:
        self._busy.add(writer)
        if self.test == "internode":
            self._note_format(match["times"], match["after"])
        key = self._key(match)
        chunk = 0 if match[4] == "default" else int(match[4]), int(match[5] or 0)
        entry: dict[str, Any] = {
            "op": key[0],
            "dtype": key[1],
            "sms": int(match[3]),
            "nvl_chunk": chunk[0],
            "rdma_chunk": chunk[1] or None,
            "rdma_gbps": float(match[7] or match[8]) if match[7] or match[8] else None,
            "nvl_gbps": float(match[9]),
            "transmit_us": None,
            "notify_us": None,
            "time_us": None,
        }
        times = match["times"]
        named = formats.TRANSMIT_NOTIFY.search(times)
        summed = None if named else formats.NOTIFY_PLUS_TRANSMIT.search(times)
        if named:
            entry["transmit_us"], entry["notify_us"] = float(named[1]), float(named[2])
        elif summed:
            entry["notify_us"], entry["transmit_us"] = float(summed[1]), float(summed[2])
        total = formats.TOTAL_TIME.search(match["after"])
        if total:
            entry["time_us"] = round(float(total[1]) * {"s": 1e6, "ms": 1e3}.get(total[2], 1), 3)
        if match[7] and match[8]:
            entry["rdma_only_gbps"] = float(match[8])
        self._add(writer, key, entry)

    def _ascend(self, writer: str, match: re.Match[str]) -> None:
        """Ascend's port prints one line an operation: no sweep, and HCCS where others have NVLink."""
        self._busy.add(writer)
        self.format = self.format or "Ascend"
        key = self._ascend_key(match)
        hccs, rdma, time, notify = (float(group) if group else None for group in match.groups()[2:])
        entry = {"op": key[0], "dtype": key[1], "sms": None, "nvl_chunk": None, "rdma_chunk": None, "rdma_gbps": rdma, "nvl_gbps": hccs}
        self._add(writer, key, {**entry, "transmit_us": time, "notify_us": notify, "time_us": None, "link": "HCCS"})

    @staticmethod
    def _ascend_key(match: re.Match[str]) -> Key:
        return match[1].lower(), match[2].lower() if match[2] and match[1] == "Dispatch" else None

    def _add(self, writer: str, key: Key, entry: dict[str, Any]) -> None:
        if writer:
            entry["writer"] = writer
        entry["copy"] = sum(1 for other in self.best if (other["op"], other["dtype"]) == key)
        self.best.append(entry)
        self.counts[writer, key] += 1
        self._last[writer] = key
        sweep = self._open.pop(writer, None)
        if sweep is not None:
            self.sweeps.setdefault((writer, key), Sweep()).raw.update(sweep.raw)
        if self._is_done(writer):
            self._done.add(writer)

    @property
    def copies(self) -> int:
        """How many ranks or runs in a row printed the same: a log that was gathered from all holds each line several times."""
        bests: Counter[Key] = Counter()
        for (_, key), count in self.counts.items():
            bests[key] += count
        return max(1, sum(self._configs.values()), *bests.values(), 0)

    def finish(self, sweep: bool) -> dict[str, Any]:
        copies = self.copies
        expected = expected_cases(self, copies)
        missing = what_is_missing(self, copies, expected)
        nodes = self.shape.get("num_topk_groups", 0)
        run: dict[str, Any] = {
            "test": self.test,
            "format": self.format,
            # num_topk_groups is min(nodes, 4), so that below 4 it tells the number of nodes.
            "shape": {**self.shape, "nodes": (1 if self.test == "intranode" else nodes if 0 < nodes < 4 else None)},
            "best": self.best,
            "tuning_lines": self.tuning_lines,
            "passed_cases": self.passed,
            "expected_cases": expected * copies,
            "low_latency": [],
            "complete": not missing,
            "copies": copies,
            "missing": missing,
        }
        if self.layout_ms is not None:
            run["layout_ms"] = self.layout_ms
        if sweep and self.sweeps:
            writer = next(iter(self.sweeps))[0]
            run["sweep"] = [
                {"op": key[0], "dtype": key[1], "columns": ["nvl_chunk", "rdma_chunk", "rdma_gbps", "nvl_gbps"], "points": points.rows()}
                for (who, key), points in self.sweeps.items()
                if who == writer
            ]
        return run

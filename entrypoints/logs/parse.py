"""DeepEP test logs to results: any launcher's prefixes, any generation of the tests, several runs and torn lines."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.logs import alltoall, formats
from entrypoints.logs.elastic import ElasticRun
from entrypoints.logs.lines import clean, split_writer
from entrypoints.logs.low_latency import LowLatencyRun
from entrypoints.logs.reader import hits, open_log
from entrypoints.logs.tuning import TuningRun

Collector = TuningRun | LowLatencyRun | ElasticRun
#: Best lines and rank lines that are kept for a whole parse; more runs than that are counted, not listed.
MAX_ENTRIES = 20_000
#: Runs whose sweep is kept: a report shows one, a 300 MB log would hold thousands.
MAX_SWEEPS = 200


class Parser:
    """Feed lines in order; `finish` gives the runs. One log at a time (`next_log`), whole in bounded memory."""

    def __init__(self, sweep: bool = False) -> None:
        self.sweep = sweep
        self.runs: list[dict[str, Any]] = []
        self.omitted = 0
        self._source: str | None = None
        self._current: Collector | None = None
        self._torn: dict[str, str] = {}
        self._writers: dict[bytes, str] = {}
        self._stamps: dict[int, tuple[int, int]] = {}
        self._entries = self._sweeps = 0
        self._held: list[tuple[LowLatencyRun, list[str]]] = []

    def next_log(self, source: str) -> None:
        self._close()
        self._source = source
        self._torn.clear()

    def line(self, number: int, raw: bytes | str) -> None:
        """One line with its number from 1."""
        if isinstance(raw, bytes) and self.take(raw, 0)[1]:
            return
        writer, text = split_writer(clean(raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw))
        if isinstance(raw, bytes) and text.startswith("[t") and len(self._writers) < 10_000:
            self._remember(raw[: raw.find(b"[t")], writer)
        if alltoall.MARK in text:
            self._alltoall(number, text)
            return
        held = self._torn.pop(writer, "") if self._torn else ""
        if held and not text.lstrip().startswith(("[tuning]", "[testing]", "[rank ", "[config]")):
            # The rest of a message that a terminal, a pipe or another rank cut in two.
            text = held + text
        if "**" in text:
            text = text.replace("**", "")  # bold figures of a posted log
        kind = _kind(text, self._current)
        if kind is None:
            return
        current = self._current
        if isinstance(current, TuningRun) and current.undecided and "[tuning]" in text:
            current.test = kind
        if current is None or not _same_kind(current, kind) or current.ends_before(writer, text):
            self._close()
            current = self._current = _new(kind, number)
        rest = current.feed(writer, text)
        if rest:
            self._torn[writer] = rest[-400:]

    def take(self, block: bytes, start: int) -> tuple[int, int]:
        """Whole lines of the run at hand from `start` of a block, without decoding them: (where they end, how many)."""
        current = self._current
        if self._torn or current is None:
            return start, 0
        if isinstance(current, ElasticRun):
            return current.feed_bytes(block, start)
        mark = block.find(b"[t" if isinstance(current, TuningRun) else b"[rank ", start, start + 300)
        if mark < 0:
            return start, 0
        prefix = block[start:mark]
        if b"\n" in prefix:
            return start, 0
        if isinstance(current, LowLatencyRun):
            return current.feed_bytes(prefix, block, start)
        # The same prefix comes again and again, but for the time in it.
        writer = self._writer_of(prefix) if prefix else ""
        return (start, 0) if writer is None else current.feed_bytes(writer, prefix, block, start)

    def _remember(self, prefix: bytes, writer: str) -> None:
        """Who writes with this prefix; one time in it is cut out, and where it stood is known by the prefix's length."""
        stamps = list(formats.STAMP_BYTES.finditer(prefix))
        span = stamps[0].span() if len(stamps) == 1 else (0, 0)
        if self._stamps.setdefault(len(prefix), span) != span:
            self._stamps[len(prefix)] = (0, 0)  # prefixes of one length that differ: none is cut
        self._writers[self._without_stamp(prefix)] = writer

    def _without_stamp(self, prefix: bytes) -> bytes:
        start, end = self._stamps.get(len(prefix), (0, 0))
        return prefix[:start] + prefix[end:] if end else prefix

    def _writer_of(self, prefix: bytes) -> str | None:
        return self._writers.get(self._without_stamp(prefix))

    def _alltoall(self, number: int, text: str) -> None:
        """EPBox's own workload tells its whole result in one line."""
        run = alltoall.run(alltoall.read(text) or {})
        if run is not None:
            self._close()
            self.runs.append({**run, **({"source": self._source} if self._source is not None else {}), "line": number})

    def _close(self) -> None:
        current, self._current = self._current, None
        if current is None or current.empty:
            return
        self._entries += current.entries
        if self._entries > MAX_ENTRIES:
            self.omitted += 1
            return
        keep_sweep = self.sweep and self._sweeps < MAX_SWEEPS
        self._sweeps += keep_sweep
        run = current.finish(keep_sweep)
        if self._source is not None:
            run["source"] = self._source
        run["line"] = current.first_line
        if isinstance(current, LowLatencyRun) and self._source is not None:
            self._join_logs(current, run)
        else:
            self.runs.append(run)

    def _join_logs(self, current: LowLatencyRun, run: dict[str, Any]) -> None:
        """A folder with one log a rank holds one run, not one a file: logs side by side without a common rank are joined."""
        folder = Path(self._source or "").parent
        previous = self._held[-1] if self._held else None
        if previous and self.runs and previous[0].shares_no_rank_with(current):
            sources = previous[1]
            last = self.runs[-1]
            fresh = self._source not in sources and all(Path(source).parent == folder for source in sources)
            if fresh and last["test"] == "low_latency" and last.get("sources", [last["source"]]) == sources:
                previous[0].join(current)
                sources.append(self._source or "")
                self.runs[-1] = {**previous[0].finish(False), "source": sources[0], "sources": list(sources), "line": last["line"]}
                return
        self._held = [(current, [self._source or ""])]
        self.runs.append(run)

    def finish(self) -> list[dict[str, Any]]:
        self._close()
        return self.runs


def _kind(text: str, current: Collector | None) -> str | None:
    """Which test a line belongs to; None for a line that says nothing."""
    if "[tuning]" in text:
        if "RDMA chunk" in text or "(RDMA)" in text:
            return "internode"
        # A torn line may have lost its RDMA part: it stays with the run it is in.
        torn = not (formats.BEST.search(text) or formats.TUNING.search(text))
        return "internode" if torn and isinstance(current, TuningRun) and current.test == "internode" else "intranode"
    if "[config]" in text and "num_tokens=" in text:
        return "internode" if "num_topk_groups" in text else "intranode"
    if formats.LL_ANY.search(text):
        return "low_latency"
    if "[testing]" in text or "passed" in text or "[layout]" in text:
        if isinstance(current, TuningRun):
            return current.test
        return "internode" if "[testing] Running" in text else None
    if formats.EP_ANY.search(text):
        return "elastic"
    if isinstance(current, ElasticRun) and (" > " in f" {text}" or "EP:" in text):
        return "elastic"
    return None


def _same_kind(current: Collector, kind: str) -> bool:
    return current.test == kind or (isinstance(current, ElasticRun) and kind == "elastic")


def _new(kind: str, number: int) -> Collector:
    if kind == "low_latency":
        return LowLatencyRun(number)
    return ElasticRun(number) if kind == "elastic" else TuningRun(kind, number)


def parse_lines(lines: Iterable[str | bytes], *, sweep: bool = False) -> list[dict[str, Any]]:
    """The runs in these lines, as `runs` of epbox.result/1; with `sweep` each run keeps its tuning points."""
    parser = Parser(sweep)
    for number, line in enumerate(lines, 1):
        # The same sieve as for files, so that both give the same.
        if formats.INTERESTING.search(line.encode("utf-8", "replace") if isinstance(line, str) else line):
            parser.line(number, line)
    return parser.finish()


def log_files(paths: Iterable[str | Path]) -> Iterator[str]:
    """The files behind the paths: a folder stands for the logs in it, sorted by name with numbers as numbers."""
    for path in map(str, paths):
        folder = Path(path)
        if path == "-" or not folder.is_dir():
            yield path
            continue
        found = [item for item in folder.rglob("*") if item.is_file() and _looks_like_log(item.name)]
        if not found:
            raise UsageError(
                "no log file in this folder", where=path, hint="files named *.log, *.txt, *.out or *.err (also .gz, .xz, .bz2) are read"
            )
        yield from map(str, sorted(found, key=_natural))


def _looks_like_log(name: str) -> bool:
    for packed in (".gz", ".xz", ".bz2", ".zst"):
        name = name.removesuffix(packed)
    return name.endswith((".log", ".txt", ".out", ".err"))


def _natural(path: Path) -> list[tuple[int, str]]:
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def parse_into(parser: Parser, paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Parse every log of `paths` with this parser and finish it."""
    for path in log_files(paths):
        parser.next_log(path)
        with open_log(path) as stream:
            for number, line in hits(stream, formats.INTERESTING, path, parser.take):
                parser.line(number, line)
    return parser.finish()


def parse_paths(paths: Iterable[str | Path], *, sweep: bool = False) -> list[dict[str, Any]]:
    """The runs in these logs (files, folders, `-` for standard input; gzip, xz, bzip2, zstd). Raises UsageError on unreadable ones."""
    return parse_into(Parser(sweep), paths)

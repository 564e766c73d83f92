"""DeepEP test logs to results: any launcher's prefixes, any generation of the tests, several runs and torn lines.

`collect` takes result.json files as well.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from entrypoints.errors import UsageError
from entrypoints.logs import alltoall, elastic, low_latency, tuning
from entrypoints.logs.elastic import ElasticRun
from entrypoints.logs.lines import Prefixes, clean, split_writer
from entrypoints.logs.low_latency import LowLatencyRun
from entrypoints.logs.reader import hits, log_files, open_log
from entrypoints.logs.tuning import TuningRun
from entrypoints.results.codec import decode, read_json
from entrypoints.results.model import Run, RunList, Shape

Collector = TuningRun | LowLatencyRun | ElasticRun
#: A line without any of these says nothing about a result.
INTERESTING = re.compile(
    rb"\[t(?:uning|esting)\]|\[alltoall\] result |"
    rb"\bpassed|GB/s|\] Dispatch |\[(?:config|layout)\]|Config:|barrier time|> (?:Rank|Testing|E|T|#)|, t: "
)
#: Best lines and rank lines that are kept for a whole parse; more runs than that are counted, not listed.
MAX_ENTRIES = 20_000
#: Runs whose sweep is kept: a report shows one, a 300 MB log would hold thousands.
MAX_SWEEPS = 200


class Parser:
    """Feed lines in order; `finish` gives the runs. One log at a time (`next_log`), whole in bounded memory."""

    def __init__(self, sweep: bool = False) -> None:
        self.sweep = sweep
        self.runs: list[Run] = []
        self.omitted = 0
        self._source: str | None = None
        self._current: Collector | None = None
        self._torn: dict[str, str] = {}
        self._prefixes = Prefixes()
        self._entries = self._sweeps = 0
        #: The last run where it is of low latency, and the logs that it is from: the next log may hold more of its ranks.
        self._joinable: tuple[LowLatencyRun, tuple[str, ...]] | None = None

    def next_log(self, source: str) -> None:
        """End the log at hand; the lines that follow are those of `source`."""
        self._close()
        self._source = source
        self._torn.clear()

    def line(self, number: int, raw: bytes | str) -> None:
        """One line with its number from 1."""
        if isinstance(raw, bytes) and self.take(raw, 0)[1]:
            return
        writer, text = split_writer(clean(raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw))
        if isinstance(raw, bytes) and text.startswith("[t"):
            self._prefixes.remember(raw[: raw.find(b"[t")], writer)
        if alltoall.MARK in text:
            result = alltoall.read(text)
            if result is not None and result.run is not None:
                self._close()
                self.runs.append(replace(result.run, source=self._source, line=number))
            return
        torn = self._torn.pop(writer, "") if self._torn else ""
        if torn and not text.lstrip().startswith(("[tuning]", "[testing]", "[rank ", "[config]")):
            # The rest of a message that a terminal, a pipe or another rank cut in two.
            text = torn + text
        if "**" in text:
            text = text.replace("**", "")  # bold figures of a posted log
        test = _test(text, self._current)
        if test is None:
            return
        current = self._current
        if isinstance(current, TuningRun) and current.undecided and "[tuning]" in text:
            current.test = test
        if current is None or current.test != test or current.ends_before(writer, text):
            self._close()
            current = self._current = _new(test, number)
        rest = current.feed(writer, text)
        if rest:
            self._torn[writer] = rest[-400:]

    def take(self, block: bytes, start: int) -> tuple[int, int]:
        """Whole lines of the run at hand from `start` of a block, without decoding them: (where they end, how many).

        Line by line a log takes three times as long: 300 MB more than the 20 s that they may (tests/benchmarks/bench_logs.py).
        """
        if self._torn or self._current is None:
            return start, 0
        return self._current.feed_bytes(block, start, self._prefixes)

    def finish(self) -> list[Run]:
        """All runs, in the order of the logs."""
        self._close()
        return self.runs

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
        if isinstance(current, LowLatencyRun) and self._source is not None and self._join(current, self._source):
            return
        self.runs.append(replace(current.finish(keep_sweep), source=self._source, line=current.first_line))

    def _join(self, current: LowLatencyRun, source: str) -> bool:
        """Add this run to the one before it where both are of one: a folder with one log a rank holds one run, not one a file.

        So it is where the logs stand side by side and have no rank in common.
        """
        previous, self._joinable = self._joinable, (current, (source,))
        if previous is None or not self.runs or previous[0].ranks & current.ranks:
            return False
        run, sources = previous
        last = self.runs[-1]
        side_by_side = source not in sources and all(Path(name).parent == Path(source).parent for name in sources)
        if not side_by_side or last.test != "low_latency" or (last.sources or (last.source,)) != sources:
            return False
        run.join(current)
        sources = (*sources, source)
        self.runs[-1] = replace(run.finish(False), source=sources[0], sources=sources, line=last.line)
        self._joinable = run, sources
        return True


def _test(text: str, current: Collector | None) -> str | None:
    """The test that a line belongs to; None for a line that says nothing."""
    test = tuning.test_of(text, current.test if isinstance(current, TuningRun) else None)
    if test is not None:
        return test
    if low_latency.ANY.search(text):
        return "low_latency"
    if "[testing]" in text or "passed" in text or "[layout]" in text:
        if isinstance(current, TuningRun):
            return current.test
        return "internode" if "[testing] Running" in text else None
    if isinstance(current, ElasticRun) and (" > " in f" {text}" or "EP:" in text or elastic.START.search(text)):
        return current.test
    return "elastic_ep" if elastic.START.search(text) else None


def _new(test: str, number: int) -> Collector:
    if test == "low_latency":
        return LowLatencyRun(number)
    return ElasticRun(number) if test.startswith("elastic") else TuningRun(test, number)


def parse_lines(lines: Iterable[str | bytes], *, sweep: bool = False) -> list[Run]:
    """The runs in these lines; with `sweep` each keeps its tuning points."""
    parser = Parser(sweep)
    for number, line in enumerate(lines, 1):
        # The same sieve as for files, so that both give the same.
        if INTERESTING.search(line.encode("utf-8", "replace") if isinstance(line, str) else line):
            parser.line(number, line)
    return parser.finish()


def parse_into(parser: Parser, paths: Iterable[str | Path]) -> list[Run]:
    """Parse every log of `paths` with this parser and finish it."""
    for path in log_files(paths):
        parser.next_log(path)
        with open_log(path) as stream:
            for number, line in hits(stream, INTERESTING, path, parser.take):
                parser.line(number, line)
    return parser.finish()


def parse_paths(paths: Iterable[str | Path], *, sweep: bool = False) -> list[Run]:
    """The runs in these logs (files, folders, `-` for standard input; gzip, xz, bzip2, zstd). Raises UsageError on unreadable ones."""
    return parse_into(Parser(sweep), paths)


class Collected(NamedTuple):
    """`omitted` counts runs that were left out because there were too many."""

    runs: list[Run]
    omitted: int


def collect(paths: Iterable[str | Path], sweep: bool = False) -> Collected:
    """The runs of logs and results; a folder with result.json stands for that file.

    Raises UsageError when a path cannot be read or when none holds a result.
    """
    names = [str(path) for path in paths]
    files = [_result_file(name) for name in names]
    runs = [run for name, file in zip(names, files, strict=True) if file for run in _runs_of(file, name)]
    parser = Parser(sweep)
    runs += parse_into(parser, [name for name, file in zip(names, files, strict=True) if file is None])
    if not runs:
        hint = "it may have failed before it printed one: try epbox diagnose"
        raise UsageError("no result of a DeepEP test in it", where=", ".join(names), hint=hint)
    return Collected(runs, parser.omitted)


def _result_file(name: str) -> Path | None:
    """The result.json at or in this path, None when it is something else."""
    path = Path(name)
    file = path / "result.json" if path.is_dir() else path
    return file if name != "-" and file.suffix == ".json" and file.is_file() else None


def _runs_of(file: Path, source: str) -> list[Run]:
    """The runs of a result, each with the sizes of the job."""
    document = decode(RunList, read_json(file), str(file))
    job = document.shape or Shape()
    ranks = job.ranks or (job.nodes or 1) * (job.ranks_per_node or 1)
    return [replace(run, source=source, shape=replace(job.filled(run.shape), ranks=ranks)) for run in document.runs]

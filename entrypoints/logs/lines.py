"""What launchers put around a line: colours, timestamps and the name of the process that wrote it."""

import json
import re
from contextlib import suppress

#: A figure as the tests print it.
NUMBER = r"\d+(?:\.\d+)?"

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_TIME = re.compile(
    r"\s*(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?"  # ISO, kubectl --timestamps, docker -t
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}(?=[\[<])"  # mpirun --timestamp-output
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"  # syslog, journalctl
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?)(?:\s+|(?=[\[<]))"
)
#: The writer of a line, as the launcher named beside each pattern puts it; anything else before a message is left alone.
_WRITERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\s*\[(?P<writer>\d+,\d+)\](?:\s*<std(?:out|err|diag)>)?\s*:\s?",  # mpirun --tag-output
        r"\s*\[[\w.-]+@(?P<writer>\d+,(?:rank )?\d+)\](?:\[[^\]]*\])?(?:\s*<std(?:out|err|diag)>)?\s*:\s?",  # the same of Open MPI 5
        r"\s*<std(?:out|err)>:\s?",
        r"std(?:out|err) [FP] ",  # a container's log file as the kubelet keeps it (CRI)
        r"\s*\[(?P<writer>pod/[^\]\s]+)\] ?",  # kubectl logs --prefix
        r"\s*\[(?P<writer>(?:default|rank)_?\d+)\]:\s?",  # torchrun --redirects / --tee
        r"\s*\[rank (?P<writer>\d+)\] (?=\s*[\[>]|(?:Config|Allocating|Testing)\b)",  # the supervisor of this project
        r"(?P<writer>[\w.-]+)\s+\| ",  # docker compose
        r"\s*(?P<writer>\d{1,5}): ",  # srun --label
        r"(?P<writer>[A-Za-z][\w.-]*[\w])(?:\[\d+\])?: (?=\s*(?:\[(?:config|layout|testing|tuning|rank)|>|passed))",  # pdsh, clush
    )
)

#: Where a message of DeepEP's begins, whatever stands before it.
_MESSAGE = re.compile(r"\[(?:config|layout|testing|tuning)\] |\[rank *\d+ *\] Dispatch")
#: What of a prefix changes from line to line: dates, clocks, counters.
_CLOCK = re.compile(
    r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+|\d{4}-\d\d-\d\dT?|\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\b[IWEF]\d{4}\b|\b\d{6,}(?:\.\d+)?\b"
)
#: Words that a torn message leaves before the next one; no launcher names a process so.
_TORN = re.compile(r"GB/s|chunk|SMs|passed|top-k|bandwidth|\bus\b|\[(?:tuning|testing)")

#: How DeepEP's own messages begin: nothing to take off.
_MESSAGE_STARTS = ("[tuning] ", "[testing] ", "[config] ", "[layout] ")
#: The time in a prefix, which makes it another one on every line.
_STAMP = re.compile(rb"(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")
#: Prefixes whose writers are remembered, and the longest one.
_MOST_PREFIXES, LONGEST_PREFIX = 10_000, 300


def clean(line: str) -> str:
    """The line without colours, terminal control sequences and its end; the message of a line of Docker's json-file log."""
    if line.startswith('{"log":'):
        with suppress(ValueError, KeyError, TypeError):
            message = json.loads(line)["log"]
            line = message if isinstance(message, str) else line
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    return line.rstrip("\r\n")


def split_writer(line: str) -> tuple[str, str]:
    """(its writer or "", the message) of a cleaned line, with prefixes and timestamps taken off.

    Several prefixes may be stacked (a pod's over a rank's); the writer is then their chain. The line
    `[rank 3] Dispatch + combine bandwidth: ...` is DeepEP's own message and keeps its rank.
    """
    if line.startswith(_MESSAGE_STARTS) or _is_rank_message(line):
        return "", line
    writer = ""
    for _ in range(4):
        if writer and _is_rank_message(line):
            break
        time = _TIME.match(line)
        if time:
            line = line[time.end() :]
        prefix = next((match for pattern in _WRITERS if (match := pattern.match(line))), None)
        if prefix is None:
            break
        writer = _chain(writer, prefix.groupdict().get("writer") or "")
        line = line[prefix.end() :]
    # What else stands before a message of DeepEP's, unless torn, is the name of a process: stern, Ray, Intel MPI, loggers, scripts.
    message = _MESSAGE.search(line)
    if message and 0 < message.start() <= 160 and not _TORN.search(line, 0, message.start()):
        writer = _chain(writer, _CLOCK.sub("", line[: message.start()]).strip(" \t|:>-"))
        line = line[message.start() :]
    return writer, line


def _is_rank_message(line: str) -> bool:
    return line.startswith("[rank ") and line.find("] Dispatch", 7, 24) > 0


def _chain(outer: str, inner: str) -> str:
    return f"{outer}/{inner}" if outer and inner else outer or inner


class Prefixes:
    """Writers by the prefix of their lines, as bytes: the same prefix comes again and again, but for the time in it."""

    def __init__(self) -> None:
        self._writers: dict[bytes, str] = {b"": ""}
        #: Where the time stands, by the length of the prefix.
        self._stamps: dict[int, tuple[int, int]] = {}

    def remember(self, prefix: bytes, writer: str) -> None:
        """Note the writer of a line that was split."""
        if not prefix or len(self._writers) >= _MOST_PREFIXES:
            return
        stamps = list(_STAMP.finditer(prefix))
        span = stamps[0].span() if len(stamps) == 1 else (0, 0)
        if self._stamps.setdefault(len(prefix), span) != span:
            self._stamps[len(prefix)] = (0, 0)  # prefixes of one length that differ: no time is cut out
        self._writers[self._without_stamp(prefix)] = writer

    def find(self, mark: bytes, block: bytes, start: int) -> tuple[bytes, str] | None:
        """(prefix, writer) of the line at `start`, whose message begins with `mark`; None when no such line was split yet."""
        end = block.find(mark, start, start + LONGEST_PREFIX)
        prefix = block[start:end]
        if end < 0 or b"\n" in prefix:
            return None
        writer = self._writers.get(self._without_stamp(prefix))
        return None if writer is None else (prefix, writer)

    def _without_stamp(self, prefix: bytes) -> bytes:
        start, end = self._stamps.get(len(prefix), (0, 0))
        return prefix[:start] + prefix[end:] if end else prefix

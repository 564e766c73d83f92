"""What launchers put around a line: colours, timestamps and the name of the process that wrote it."""

import json
import re

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_TIME = re.compile(
    r"\s*(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?"  # ISO, kubectl --timestamps, docker -t
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}(?=[\[<])"  # mpirun --timestamp-output
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"  # syslog, journalctl
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?)(?:\s+|(?=[\[<]))"
)
#: Who wrote the line. Each is known from the launcher named beside it; anything else before a message is left alone.
_WRITERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\s*\[(?P<w>\d+,\d+)\](?:\s*<std(?:out|err|diag)>)?\s*:\s?",  # mpirun --tag-output
        r"\s*\[[\w.-]+@(?P<w>\d+,(?:rank )?\d+)\](?:\[[^\]]*\])?(?:\s*<std(?:out|err|diag)>)?\s*:\s?",  # the same of Open MPI 5
        r"\s*<std(?:out|err)>:\s?",
        r"std(?:out|err) [FP] ",  # a container's log file as the kubelet keeps it (CRI)
        r"\s*\[(?P<w>pod/[^\]\s]+)\] ?",  # kubectl logs --prefix
        r"\s*\[(?P<w>(?:default|rank)_?\d+)\]:\s?",  # torchrun --redirects / --tee
        r"\s*\[rank (?P<w>\d+)\] (?=\s*[\[>]|(?:Config|Allocating|Testing)\b)",  # the supervisor of this project
        r"(?P<w>[\w.-]+)\s+\| ",  # docker compose
        r"\s*(?P<w>\d{1,5}): ",  # srun --label
        r"(?P<w>[A-Za-z][\w.-]*[\w])(?:\[\d+\])?: (?=\s*(?:\[(?:config|layout|testing|tuning|rank)|>|passed))",  # pdsh, clush
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
_OWN = ("[tuning] ", "[testing] ", "[config] ", "[layout] ")


def clean(line: str) -> str:
    """The line without colours, carriage returns at its end and terminal control sequences; of Docker's json-file log the message."""
    if line.startswith('{"log":'):
        line = _json_message(line)
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    return line.rstrip("\r\n")


def _json_message(line: str) -> str:
    try:
        value = json.loads(line)["log"]
    except (ValueError, KeyError, TypeError):
        return line
    return value if isinstance(value, str) else line


def split_writer(line: str) -> tuple[str, str]:
    """(who wrote it or "", the message) of a cleaned line, with prefixes and timestamps taken off.

    Several prefixes may be stacked (a pod's over a rank's); the writer is then their chain. The line
    `[rank 3] Dispatch + combine bandwidth: ...` is DeepEP's own message and keeps its rank.
    """
    if line.startswith(_OWN) or (line.startswith("[rank ") and line.find("] Dispatch", 7, 24) > 0):
        return "", line
    writer = ""
    for _ in range(4):
        if writer and line.startswith("[rank ") and line.find("] Dispatch", 7, 24) > 0:
            break
        time = _TIME.match(line)
        if time:
            line = line[time.end() :]
        for pattern in _WRITERS:
            match = pattern.match(line)
            if match:
                name = match.groupdict().get("w") or ""
                writer = f"{writer}/{name}" if writer and name else writer or name
                line = line[match.end() :]
                break
        else:
            break
    return _unknown_prefix(writer, line)


def _unknown_prefix(writer: str, line: str) -> tuple[str, str]:
    """What stands before a message of DeepEP's and is no torn one names a process: stern, Ray, Intel MPI, loggers, scripts."""
    message = _MESSAGE.search(line)
    if not message or not message.start() or message.start() > 160 or _TORN.search(line, 0, message.start()):
        return writer, line
    name = _CLOCK.sub("", line[: message.start()]).strip(" \t|:>-")
    return (f"{writer}/{name}" if writer and name else writer or name), line[message.start() :]

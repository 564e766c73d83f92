"""One pass over a log: which signatures are where. Lines that differ in digits alone are looked at once."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from entrypoints.diagnosis import marks
from entrypoints.diagnosis.signatures import Signature, Table
from entrypoints.logs.lines import clean, split_writer

_LOWER = bytes(range(65)) + bytes(range(97, 123)) + bytes(range(91, 256))
_DIGITS = b"0123456789"
MAX_REMEMBERED = 200_000
#: Distinct lines that are matched against the whole table; a log with more says mostly the same things.
MAX_EXAMINED = 10_000


@dataclass
class Hit:
    """Where a signature matched: first and last line (from 1), how often, the first text and what its groups caught.

    `passing` is true while all its lines are such that a logger calls them information or a warning.
    """

    first: int
    last: int
    text: str
    groups: dict[str, str]
    count: int = 1
    passing: bool = False


@dataclass
class Log:
    name: str
    start: int
    failed: int = 0
    finished: int = 0


@dataclass
class Scan:
    """What a log contains, as far as a diagnosis needs it."""

    hits: dict[int, Hit] = field(default_factory=dict)
    probes: set[str] = field(default_factory=set)
    lines: int = 0
    size: int = 0
    binary: bool = False
    #: One entry a log: its name, the line it starts after, its last line of failure and of results (0: none).
    logs: list["Log"] = field(default_factory=list)
    error: tuple[int, str] | None = None
    exception: tuple[int, str] | None = None
    dev_ids: list[tuple[str, int]] = field(default_factory=list)
    handlers: set[str] = field(default_factory=set)
    #: Lines with the best figures, and those that tell the shape they were taken at.
    best_lines: list[tuple[int, bytes]] = field(default_factory=list)
    skipped: int = 0

    def log_of(self, number: int) -> Log:
        return next((log for log in reversed(self.logs) if log.start < number), self.logs[0])

    @property
    def failed(self) -> bool:
        return any(log.failed for log in self.logs)

    @property
    def finished(self) -> bool:
        return any(log.finished for log in self.logs)


class Scanner:
    """Feed blocks of whole lines with `block`; `next_log` names the log they are from."""

    def __init__(self, table: Table) -> None:
        self.scan = Scan()
        self._signatures = table.signatures
        self._sieve = table.sieve
        self._open_probes = dict(table.probes)
        self._known: dict[bytes, bool] = {}
        self._matches: dict[tuple[bytes, ...], tuple[int, ...]] = {}
        self._traceback = False
        self._examined = 0

    def next_log(self, name: str) -> None:
        self.scan.logs.append(Log(name, self.scan.lines))
        self._traceback = False

    def block(self, block: bytes) -> None:
        """Some whole lines. NUL bytes in quantity mean that this is no text."""
        scan = self.scan
        if not scan.logs:
            self.next_log("")
        if scan.lines == scan.logs[-1].start and _is_binary(block):
            scan.binary = True
        scan.size += len(block)
        shapes = block.translate(_LOWER, _DIGITS).split(b"\n")
        lines: list[bytes] | None = None
        known = self._known
        for index, shape in enumerate(shapes):
            wanted = known.get(shape)
            if wanted is None:
                wanted = marks.INTERESTING.search(shape[:8192]) is not None
                if len(known) < MAX_REMEMBERED:
                    known[shape] = wanted
            if wanted or self._traceback:
                if lines is None:
                    lines = block.split(b"\n")
                self._line(scan.lines + index + 1, lines[index][:8192], shape)
        scan.lines += block.count(b"\n") if block.endswith(b"\n") else block.count(b"\n") + 1

    def _line(self, number: int, line: bytes, shape: bytes) -> None:
        if self._traceback:
            self._look_for_exception(number, line)
        if b"nccl info" in shape and b"error" not in shape and b"fail" not in shape:
            return
        key = (shape, *marks.CODES.findall(line))
        found = self._matches.get(key)
        if found is None:
            if self._examined >= MAX_EXAMINED:
                self.scan.skipped += 1
                return
            self._examined += 1
            found = self._examine(number, line)
            self._matches[key] = found
        else:
            for index in found:
                hit = self.scan.hits[index]
                hit.count += 1
                hit.last = number
        self._context(number, line, shape)

    def _examine(self, number: int, raw: bytes) -> tuple[int, ...]:
        line = clean(raw.decode("utf-8", "replace")).encode() if b"\x1b" in raw else raw
        lower = line.lower()
        if self._sieve.search(lower) is None:
            return ()
        passing = marks.IN_PASSING.search(line) is not None
        for text in [text for text, (sure, probe) in self._open_probes.items() if sure in lower and probe.search(line)]:
            self.scan.probes.add(text)
            del self._open_probes[text]
        found: list[int] = []
        for index, signature in enumerate(self._signatures):
            match = None if signature.fallback and found else first_match(signature, line, lower)
            if match is None:
                continue
            found.append(index)
            groups = {name: value.decode("utf-8", "replace") for name, value in match.groupdict().items() if value}
            hit = self.scan.hits.get(index)
            if hit is None or (hit.passing and not passing):
                self.scan.hits[index] = Hit(number, number, quote(line), groups, 1 if hit is None else hit.count + 1, passing)
            else:
                hit.count += 1
                hit.last = number
                hit.groups = {**groups, **hit.groups}
        return tuple(found)

    def _context(self, number: int, line: bytes, shape: bytes) -> None:
        scan = self.scan
        if b"gb/s" in shape or b"combine" in shape or b"ep:" in shape:
            if marks.FINISH.search(line):
                scan.logs[-1].finished = number
            if b"] best " in shape and len(scan.best_lines) < 1000:
                scan.best_lines.append((number, line))
        if b"[config]" in shape and len(scan.best_lines) < 1000:
            scan.best_lines.append((number, line))
        failed = marks.FAILED.search(line)
        passing = failed is not None and marks.IN_PASSING.search(line) is not None
        if failed and not passing:
            scan.logs[-1].failed = number
        if b"traceback (most recent" in shape and not passing:
            self._traceback = True
        if scan.error is None and not passing and marks.ERROR_LINE.search(line) and not marks.NOT_AN_ERROR.search(line):
            scan.error = (number, quote(line))
        if b"dev_id" in shape and len(scan.dev_ids) < 10_000:
            match = marks.DEV_ID.match(split_writer(clean(line.decode("utf-8", "replace")))[1].encode())
            if match:
                who = b":".join(part for part in match.groups()[:2] if part).decode("utf-8", "replace")
                scan.dev_ids.append((who, int(match[4])))
        if b"nic handler will be" in shape:
            scan.handlers.update(match[0].decode("ascii", "replace").strip() for match in marks.HANDLER.finditer(line))

    def _look_for_exception(self, number: int, line: bytes) -> None:
        """The last line of a traceback is the first that is not indented; it names the exception."""
        _, text = split_writer(clean(line.decode("utf-8", "replace")))
        if not text.strip() or text[0] in " \t|" or text.startswith("Traceback"):
            return
        self._traceback = False
        if self.scan.exception is None and marks.EXCEPTION.match(text):
            self.scan.exception = (number, text[:400])


def first_match(signature: Signature, line: bytes, lower: bytes) -> re.Match[bytes] | None:
    """The first pattern's match; `lower` is the line in lower case, in which most patterns have a word that must be there."""
    for sure, pattern in zip(signature.literals, signature.patterns, strict=True):
        match = pattern.search(line) if sure in lower else None
        if match:
            return match
    return None


def quote(line: bytes) -> str:
    """The message of a line, short enough to quote."""
    _, text = split_writer(clean(line.decode("utf-8", "replace")))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= 400 else text[:400] + " ..."


def _is_binary(block: bytes) -> bool:
    # A host that went down leaves NULs at the end of what it wrote.
    head = block[:65536].rstrip(b"\0\r\n") or b"\0"
    return head.startswith(b"\x7fELF") or head.count(b"\0") * 20 > len(head)


def scan_lines(lines: Iterable[str | bytes], table: Table) -> Scan:
    scanner = Scanner(table)
    for block in _joined(lines):
        scanner.block(block)
    return scanner.scan


def _joined(lines: Iterable[str | bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    for line in lines:
        held.append((line.encode() if isinstance(line, str) else line).rstrip(b"\n"))
        if len(held) == 4096:
            yield b"\n".join(held) + b"\n"
            held = []
    if held:
        yield b"\n".join(held) + b"\n"

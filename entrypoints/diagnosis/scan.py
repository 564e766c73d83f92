"""One pass over a log: which signatures are where. Lines that differ in digits alone are looked at once."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from entrypoints.diagnosis.signatures import Signature, Table, compiled, trie
from entrypoints.logs.lines import clean, split_writer

_LOWER = bytes(range(65)) + bytes(range(97, 123)) + bytes(range(91, 256))
_DIGITS = b"0123456789"
MAX_REMEMBERED = 200_000
#: Distinct lines that are matched against the whole table; a log with more says mostly the same things.
MAX_EXAMINED = 10_000

#: Numbers that change the meaning of a line; they are part of what is remembered of it.
_CODES = re.compile(rb"(?:status|error|errno|code|with|exitcode|signal|cuda|xid)[ :=(]{1,4}-?(\d{1,5})", re.IGNORECASE)
_FAILED = compiled(
    r"traceback|error:|exited with|exit(?:ed with)? (?:code|status):? [1-9]|exitcode|terminating process|terminate called"
    r"|accessible, exiting|core dumped|\baborted\b"
    r"|transport map failed|initialization failed|initialize any transports|non-zero status|null value|cuda error|timed out"
    r"|watchdog (?:caught|thread|got|timeout \()|error status: \d|build stopped|\bkilled\b|initialization has completed"
    r"|caught signal|\bbacktrace\b|\bsigterm\b|segmentation|\bfatal\b(?!: not a git)|assertion|signal \d+|a rank failed"
)
#: Lines that a logger calls information or a warning, or that say themselves that it goes on. What they tell is no failure, and
#: behind what is one. NVSHMEM's and NCCL's own `WARN` is none of these: it is often all they say of a failure.
_IN_PASSING = re.compile(
    rb"\A.{0,160}?(?<!NVSHMEM )\b(?:INFO|DEBUG|WARNING|NOTICE)\b(?!: [A-Z])|pip's dependency resolver"
    rb"|[Ii]gnor(?:e|ed|ing) (?:the )?(?:import )?(?:error|exception)|Exception ignored in",
    re.DOTALL,
)
_ERROR = compiled(
    r"^\s*(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Failed)\b|error:|fatal|\bERROR\b|failed|cannot |abort|assert|panic|core dumped|killed"
)
_NOT_AN_ERROR = re.compile(
    rb"\bINFO\b|\bDEBUG\b|not a git repo|pip's dependency resolver|\b0 errors?\b|no errors?|errors?[ =:]+0\b|previous_event|warn",
    re.IGNORECASE,
)
_FINISH = re.compile(
    rb"\[tuning\] Best combine|Combine bandwidth:|Combine send/recv time|Dispatch \+ combine bandwidth|[@+] EP: |epbox.*\bok\b"
)
_DEV_ID = re.compile(rb"(?:(?P<host>\S+?):(?P<process>\d+):\d+ \[\d+\] NVSHMEM INFO )?.*?setting dev_id = (?P<device>\d+)")
_EXCEPTION = re.compile(r"(?:\w+\.)*\w+(?:Error|Exception|Interrupt|Exit|Failed|Warning)?(?::|$)")
#: Parts of lines that are looked at beside the signatures, in lower case.
_CONTEXT = (b"gb/s", b"combine", b" ep: ", b"[config]", b"] best ", b"dev_id", b"traceback (most recent", *_FAILED.words, *_ERROR.words)


@dataclass
class Hit:
    """The lines that a signature matched: first and last (from 1), their number, the first text and its named groups.

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
    """One log: the line it starts after, its last line of failure and its last of results (0: none)."""

    name: str
    start: int
    failed: int = 0
    finished: int = 0


@dataclass
class Scan:
    """The content of the logs, as far as a diagnosis needs it."""

    hits: dict[int, Hit] = field(default_factory=dict)
    probes: set[str] = field(default_factory=set)
    lines: int = 0
    size: int = 0
    binary: bool = False
    logs: list[Log] = field(default_factory=list)
    error: tuple[int, str] | None = None
    exception: tuple[int, str] | None = None
    dev_ids: list[tuple[str, int]] = field(default_factory=list)
    #: Lines with the best figures, and those that tell the shape they were taken at.
    best_lines: list[tuple[int, bytes]] = field(default_factory=list)

    def log_of(self, number: int) -> Log:
        """The log that holds a line."""
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
        self._table = table
        self._sieve = _sieve((*table.words, *_CONTEXT))
        self._open_probes = dict(table.probes)
        self._interesting: dict[bytes, bool] = {}
        self._matches: dict[tuple[bytes, ...], tuple[int, ...]] = {}
        self._traceback = False
        self._examined = 0

    def next_log(self, name: str) -> None:
        """The blocks that follow are of this log."""
        self.scan.logs.append(Log(name, self.scan.lines))
        self._traceback = False

    def block(self, block: bytes) -> None:
        """Some whole lines. NUL bytes in quantity mean that this is no text."""
        scan = self.scan
        if not scan.logs:
            self.next_log("")
        if scan.lines == scan.logs[-1].start:
            # A host that went down leaves NULs at the end of what it wrote.
            head = block[:65536].rstrip(b"\0\r\n") or b"\0"
            scan.binary |= head.startswith(b"\x7fELF") or head.count(b"\0") * 20 > len(head)
        scan.size += len(block)
        shapes = block.translate(_LOWER, _DIGITS).split(b"\n")
        lines: list[bytes] | None = None
        remembered = self._interesting
        for index, shape in enumerate(shapes):
            interesting = remembered.get(shape)
            if interesting is None:
                interesting = self._sieve.search(shape[:8192]) is not None
                if len(remembered) < MAX_REMEMBERED:
                    remembered[shape] = interesting
            if interesting or self._traceback:
                if lines is None:
                    lines = block.split(b"\n")
                self._line(scan.lines + index + 1, lines[index][:8192], shape)
        scan.lines += block.count(b"\n") if block.endswith(b"\n") else block.count(b"\n") + 1

    def _line(self, number: int, line: bytes, shape: bytes) -> None:
        if self._traceback:
            self._look_for_exception(number, line)
        if b"nccl info" in shape and b"error" not in shape and b"fail" not in shape:
            return
        key = (shape, *_CODES.findall(line))
        matched = self._matches.get(key)
        if matched is None:
            if self._examined >= MAX_EXAMINED:
                return
            self._examined += 1
            self._matches[key] = self._examine(number, line)
        else:
            for index in matched:
                hit = self.scan.hits[index]
                hit.count += 1
                hit.last = number
        self._context(number, line, shape)

    def _examine(self, number: int, raw: bytes) -> tuple[int, ...]:
        """Match a line against the whole table. Returns the positions of its signatures."""
        line = clean(raw.decode("utf-8", "replace")).encode() if b"\x1b" in raw else raw
        lower = line.lower()
        words = {word for word in self._table.words if word in lower}
        passing = _IN_PASSING.search(line) is not None
        for probe in [probe for probe in self._open_probes.values() if not words.isdisjoint(probe.words) and probe.regex.search(line)]:
            self.scan.probes.add(probe.text)
            del self._open_probes[probe.text]
        matched: list[int] = []
        for index, signature in enumerate(self._table.signatures):
            match = None if signature.fallback and matched else _first_match(signature, line, words)
            if match is None:
                continue
            matched.append(index)
            groups = {name: value.decode("utf-8", "replace") for name, value in match.groupdict().items() if value}
            hit = self.scan.hits.get(index)
            if hit is None or (hit.passing and not passing):
                self.scan.hits[index] = Hit(number, number, quote(line), groups, 1 if hit is None else hit.count + 1, passing)
            else:
                hit.count += 1
                hit.last = number
                hit.groups = {**groups, **hit.groups}
        return tuple(matched)

    def _context(self, number: int, line: bytes, shape: bytes) -> None:
        scan = self.scan
        if b"gb/s" in shape or b"combine" in shape or b"ep:" in shape:
            if _FINISH.search(line):
                scan.logs[-1].finished = number
            if b"] best " in shape and len(scan.best_lines) < 1000:
                scan.best_lines.append((number, line))
        if b"[config]" in shape and len(scan.best_lines) < 1000:
            scan.best_lines.append((number, line))
        failed = _FAILED.regex.search(line)
        passing = failed is not None and _IN_PASSING.search(line) is not None
        if failed and not passing:
            scan.logs[-1].failed = number
        if b"traceback (most recent" in shape and not passing:
            self._traceback = True
        if scan.error is None and not passing and _ERROR.regex.search(line) and not _NOT_AN_ERROR.search(line):
            scan.error = (number, quote(line))
        if b"dev_id" in shape and len(scan.dev_ids) < 10_000:
            match = _DEV_ID.match(_message(line).encode())
            if match:
                process = b":".join(part for part in (match["host"], match["process"]) if part).decode("utf-8", "replace")
                scan.dev_ids.append((process, int(match["device"])))

    def _look_for_exception(self, number: int, line: bytes) -> None:
        """The last line of a traceback is the first that is not indented; it names the exception."""
        text = _message(line)
        if not text.strip() or text[0] in " \t|" or text.startswith("Traceback"):
            return
        self._traceback = False
        if self.scan.exception is None and _EXCEPTION.match(text):
            self.scan.exception = (number, text[:400])


def _sieve(words: Iterable[bytes]) -> re.Pattern[bytes]:
    """A pattern that is in every line that holds one of the words, in lower case and without digits.

    It looks for five letters of each word, chosen so that they begin with few letters, for a search skips all others, and are those of many
    words: 100 MB that say nothing are searched in half the time that the words themselves take.
    """
    texts = sorted(word.translate(None, _DIGITS).decode() for word in words)
    parts = [[text[start : start + 5] for start in range(max(1, len(text) - 4))] for text in texts]
    heads: set[str] = set()
    while uncovered := [of_word for of_word in parts if heads.isdisjoint(part[:1] for part in of_word)]:
        counts = Counter(head for of_word in uncovered for head in sorted({part[:1] for part in of_word}))
        heads.add(counts.most_common(1)[0][0])
    common = Counter(part for of_word in parts for part in set(of_word))
    chosen = {max((part for part in of_word if part[:1] in heads), key=common.__getitem__) for of_word in parts}
    return re.compile(trie(sorted(chosen)).encode())


def _first_match(signature: Signature, line: bytes, words: set[bytes]) -> re.Match[bytes] | None:
    """The first pattern's match; `words` are those of the table that the line holds."""
    for pattern in signature.patterns:
        match = None if words.isdisjoint(pattern.words) else pattern.regex.search(line)
        if match:
            return match
    return None


def _message(line: bytes) -> str:
    return split_writer(clean(line.decode("utf-8", "replace")))[1]


def quote(line: bytes) -> str:
    """The message of a line, short enough to quote."""
    text = " ".join("".join(char if char.isprintable() else " " for char in _message(line)).split())
    return text if len(text) <= 400 else text[:400] + " ..."

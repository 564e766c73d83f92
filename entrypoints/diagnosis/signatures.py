"""The signature table as compiled patterns; the table itself is data (signatures.toml)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("signatures.toml")
SEVERITIES = ("fatal", "warning", "benign")
_KEYS = {
    "id", "order", "patterns", "with", "without", "confirm", "finished", "unfailed", "unfailed_with",
    "weak", "fallback", "benign", "cause", "remedy", "doctor", "source",
}  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """One way a cause shows in a log. The meaning of each field is told at the top of signatures.toml."""

    id: str
    order: int
    patterns: tuple[re.Pattern[bytes], ...]
    #: The patterns as the table has them.
    texts: tuple[str, ...]
    #: What a line must hold, in lower case, to match each pattern; b"" where nothing is sure.
    literals: tuple[bytes, ...]
    required: tuple[str, ...]
    excluded: tuple[str, ...]
    confirm: tuple[str, ...]
    finished: str
    unfailed: str | None
    unfailed_with: str | None
    weak: bool
    fallback: bool
    cause: str
    remedy: str
    benign: str
    doctor: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Table:
    """All signatures, and the context patterns they ask for (each is searched once)."""

    signatures: tuple[Signature, ...]
    probes: dict[str, tuple[bytes, re.Pattern[bytes]]]
    #: Found in every line, in lower case, that any pattern matches: one search instead of hundreds.
    sieve: re.Pattern[bytes]


#: What `[^\n]*` may span: no message is longer, and two of them in a pattern would cost the square of a long line.
SPAN = 300


def compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.replace(r"[^\n]*", rf"[^\n]{{0,{SPAN}}}").encode(), re.IGNORECASE)


def trie(words: Iterable[str]) -> str:
    """A pattern for any of these words that tries each first letter once; a flat alternation is several times slower."""
    heads: dict[str, list[str]] = {}
    for word in words:
        heads.setdefault(word[:1], []).append(word[1:])
    if "" in heads:
        return ""
    parts = [re.escape(head) + trie(tails) for head, tails in sorted(heads.items())]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _probe(text: str) -> tuple[bytes, re.Pattern[bytes]]:
    pattern = compiled(text)
    return literal(text), pattern


def literal(pattern: str) -> bytes:
    """The longest text that every match of a pattern holds, in lower case: a search for it is far cheaper than one for the pattern.

    Only plain characters outside groups and classes are looked at; b"" where none is sure.
    """
    runs, run, place = [""], "", 0
    while place < len(pattern):
        char, step = pattern[place], 1
        if char == "\\":
            escaped = pattern[place + 1]
            # A class, an anchor or a number; anything else stands for itself.
            char, step = ("", 4 if escaped == "x" else 2) if escaped.isalnum() else (escaped, 2)
        elif char == "[":
            char, step = "", pattern.index("]", place + 2 + (pattern[place + 1] == "^")) + 1 - place
        elif char == "(":
            char, step = "", _group(pattern, place)
        elif char == "|":
            return b""
        elif char in "*?{":
            # What stands before it may be absent.
            run, char, step = run[:-1], "", pattern.index("}", place) + 1 - place if char == "{" else 1
        elif char in "+.^$":
            char = ""
        if char:
            run += char
        else:
            runs.append(run)
            run = ""
        place += step
    return max([*runs, run], key=len).lower().encode()


def sure(pattern: str) -> tuple[bytes, ...]:
    """Texts of which every match of a pattern holds one, in lower case; () where none is sure.

    `literal` where there is one; else those of the alternatives, of the pattern or of one group that must be there.
    """
    one = literal(pattern)
    choices: list[tuple[bytes, ...]] = [(one,)] if one else []
    parts = _alternatives(pattern)
    if len(parts) > 1:
        choices += [_sure_of_all(parts)]
    else:
        for place, char, step in _steps(pattern):
            if char == "(" and pattern[place + step : place + step + 1] not in ("?", "*", "{"):
                choices += [_sure_of_all(_alternatives(_inside(pattern[place : place + step])))]
    return max(choices, key=lambda words: min(map(len, words), default=0), default=())


def _sure_of_all(parts: list[str]) -> tuple[bytes, ...]:
    words = [sure(part) for part in parts]
    return tuple(word for each in words for word in each) if all(words) else ()


def _inside(group: str) -> str:
    """What a group matches; nothing for one that only looks around."""
    if group.startswith(("(?=", "(?!", "(?<=", "(?<!")):
        return ""
    return re.sub(r"\A\((?:\?:|\?P<\w+>)?", "", group)[:-1]


def _alternatives(pattern: str) -> list[str]:
    """The alternatives of a pattern, those inside groups left alone."""
    found, start = [], 0
    for place, char, _ in _steps(pattern):
        if char == "|":
            found.append(pattern[start:place])
            start = place + 1
    return [*found, pattern[start:]]


def _steps(pattern: str) -> Iterator[tuple[int, str, int]]:
    """(place, first character, length) of each character, escape, class and group of a pattern."""
    place = 0
    while place < len(pattern):
        char, step = pattern[place], 1
        if char == "\\":
            step = 2
        elif char == "[":
            step = pattern.index("]", place + 2 + (pattern[place + 1] == "^")) + 1 - place
        elif char == "(":
            step = _group(pattern, place)
        yield place, char, step
        place += step


def _group(pattern: str, place: int) -> int:
    """The length of the group that begins here."""
    depth, at = 0, place
    while True:
        char = pattern[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = pattern.index("]", at + 2 + (pattern[at + 1] == "^"))
        depth += {"(": 1, ")": -1}.get(char, 0)
        at += 1
        if not depth:
            return at - place


@cache
def load(path: Path = TABLE) -> Table:
    """The table of this path. Raises UsageError naming the signature that is wrong."""
    signatures = []
    for number, entry in enumerate(load_toml(path).get("signature", []), 1):
        name = f"{path}: signature {number} ({entry.get('id', 'without id')})"
        unknown = set(entry) - _KEYS
        missing = {"id", "order", "patterns", "cause", "remedy", "source"} - set(entry)
        severities = {entry.get("finished", "warning"), entry.get("unfailed", "fatal")} - set(SEVERITIES)
        if unknown or missing or severities:
            raise UsageError(f"unknown {sorted(unknown)}, missing {sorted(missing)}, no severities {sorted(severities)}", where=name)
        try:
            signatures.append(_signature(entry))
        except re.error as error:
            raise UsageError(f"pattern {error.pattern!r}: {error}", where=name) from error
    signatures.sort(key=lambda item: item.fallback)
    texts = {text for item in signatures for text in (*item.required, *item.excluded, *item.confirm, item.unfailed_with) if text}
    words = {word for text in (*texts, *(each for item in signatures for each in item.texts)) for word in sure(text) or (b"",)}
    sieve = re.compile(trie(sorted(word.decode() for word in words)).encode())
    return Table(tuple(signatures), {text: _probe(text) for text in sorted(texts)}, sieve)


def _signature(entry: dict[str, Any]) -> Signature:
    return Signature(
        id=entry["id"],
        order=entry["order"],
        patterns=tuple(compiled(pattern) for pattern in entry["patterns"]),
        texts=tuple(entry["patterns"]),
        literals=tuple(literal(pattern) for pattern in entry["patterns"]),
        required=tuple(entry.get("with", ())),
        excluded=tuple(entry.get("without", ())),
        confirm=tuple(entry.get("confirm", ())),
        finished=entry.get("finished", "warning"),
        unfailed=entry.get("unfailed"),
        unfailed_with=entry.get("unfailed_with"),
        weak=entry.get("weak", False),
        fallback=entry.get("fallback", False),
        cause=entry["cause"],
        remedy=entry["remedy"],
        benign=entry.get("benign", "a warning; the run finished"),
        doctor=tuple(entry.get("doctor", ())),
        source=entry["source"],
    )

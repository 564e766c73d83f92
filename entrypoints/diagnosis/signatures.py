"""The signature table as compiled patterns; the table itself is data (signatures.toml)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.facts import container, nics, pairs
from entrypoints.results.ranks import JsonObject
from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("signatures.toml")
SEVERITIES = ("fatal", "warning", "benign")
_REQUIRED = {"id", "order", "patterns", "cause", "remedy", "source"}
_OPTIONAL = {"finished", "unfailed", "unfailed_with", "weak", "fallback", "benign", "pair", "container"}
#: Keys of lists, and their fields.
_LISTS = {"with": "required", "without": "excluded", "confirm": "confirm", "doctor": "doctor"}
#: What `[^\n]*` may span: no message is longer, and two of them in a pattern would cost the square of a long line.
SPAN = 300


@dataclass(frozen=True)
class Pattern:
    """A pattern of the table. A line that it matches holds one of `words`, in lower case.

    A search for these is far cheaper: 10,000 lines of 400 characters take 2 s, and 9 s when each meets all patterns.
    """

    text: str
    regex: re.Pattern[bytes]
    words: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One way a cause shows in a log. The meaning of each field is told at the top of signatures.toml."""

    id: str
    order: int
    patterns: tuple[Pattern, ...]
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    confirm: tuple[str, ...] = ()
    finished: str = "warning"
    unfailed: str | None = None
    unfailed_with: str | None = None
    weak: bool = False
    fallback: bool = False
    cause: str
    remedy: str
    benign: str = "a warning; the run finished"
    doctor: tuple[str, ...] = ()
    source: str


@dataclass(frozen=True)
class Table:
    """All signatures, and the context patterns they ask for (each is searched once), by their texts."""

    signatures: tuple[Signature, ...]
    probes: dict[str, Pattern]
    #: The words of all patterns.
    words: frozenset[bytes]


@cache
def load(path: Path = TABLE) -> Table:
    """The table of this path. Raises UsageError naming the signature that is wrong."""
    signatures = []
    for number, entry in enumerate(load_toml(path).get("signature", []), 1):
        name = f"{path}: signature {number} ({entry.get('id', 'without id')})"
        unknown, missing = set(entry) - _REQUIRED - _OPTIONAL - set(_LISTS), _REQUIRED - set(entry)
        severities = {entry.get("finished", "warning"), entry.get("unfailed", "fatal")} - set(SEVERITIES)
        if unknown or missing or severities:
            raise UsageError(f"unknown {sorted(unknown)}, missing {sorted(missing)}, no severities {sorted(severities)}", where=name)
        try:
            signatures.append(_signature(entry))
        except re.error as error:
            raise UsageError(f"pattern {error.pattern!r}: {error}", where=name) from error
        except KeyError as error:
            raise UsageError(f"not in entrypoints/facts: {error}", where=name) from error
    signatures.sort(key=lambda signature: signature.fallback)
    texts = {text for item in signatures for text in (*item.required, *item.excluded, *item.confirm, item.unfailed_with) if text}
    probes = {text: compiled(text) for text in sorted(texts)}
    patterns = [*probes.values(), *(pattern for signature in signatures for pattern in signature.patterns)]
    return Table(tuple(signatures), probes, frozenset(word for pattern in patterns for word in pattern.words))


def _signature(entry: JsonObject) -> Signature:
    """A row of the table, with what its remedy quotes of facts/pairs.toml and facts/container.toml. Raises KeyError for an unknown name."""
    fields = {key: value for key, value in entry.items() if key not in ("pair", "container", *_LISTS)}
    fields |= {field: tuple(entry.get(key, ())) for key, field in _LISTS.items()}
    if "pair" in entry:
        fields["remedy"] = fields["remedy"].replace("{pair}", pairs.by_id(entry["pair"]).remedy)
    if "container" in entry:
        fields["remedy"] = fields["remedy"].replace("{container}", container.advice(*entry["container"]))
    foreign = "|".join(nics.foreign_names())
    fields["patterns"] = tuple(compiled(text.replace("FOREIGN_NIC", foreign)) for text in entry["patterns"])
    return Signature(**fields)


def compiled(text: str) -> Pattern:
    """A pattern of the table, ready for lines as bytes. Raises re.error."""
    regex = re.compile(text.replace(r"[^\n]*", rf"[^\n]{{0,{SPAN}}}").encode(), re.IGNORECASE)
    return Pattern(text, regex, tuple(word.encode() for word in sure_words(text) or ("",)))


def trie(words: Iterable[str]) -> str:
    """A pattern for any of these words that tries each first letter once; a flat alternation is several times slower."""
    heads: dict[str, list[str]] = {}
    for word in words:
        heads.setdefault(word[:1], []).append(word[1:])
    if "" in heads:
        return ""
    parts = [re.escape(head) + trie(tails) for head, tails in sorted(heads.items())]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


#: Escapes, classes, heads of groups, quantifiers and characters of a pattern.
_TOKENS = re.compile(r"\\x..|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?P<\w+>|\?<?[=!:])?|\{[\d,]+\}|.")


def sure_words(pattern: str) -> tuple[str, ...]:
    """Texts of which every match of a pattern holds one, in lower case; () where none is sure."""
    return _of_alternatives(iter(_TOKENS.findall(pattern)))


def _of_alternatives(tokens: Iterator[str]) -> tuple[str, ...]:
    """The sure words of what stands before the end of the pattern or group; those of each alternative, if each has some."""
    alternatives: list[list[str | tuple[str, ...]]] = [[]]
    for token in tokens:
        parts = alternatives[-1]
        if token == ")":
            break
        if token == "|":
            alternatives.append([])
        elif token.startswith("("):
            words = _of_alternatives(tokens)
            parts.append(() if token in ("(?=", "(?!", "(?<=", "(?<!") else words)
        elif token in ("*", "?") or (token.startswith("{") and len(token) > 1):
            parts[-1] = ()  # what stands before it may be absent
        elif token in "+.^$" or token.startswith("[") or token[1:2].isalnum():
            parts.append(())
        else:
            parts.append(token[-1].lower())
    words_of = [_longest(parts) for parts in alternatives]
    return tuple(word for words in words_of for word in words) if all(words_of) else ()


def _longest(parts: Sequence[str | tuple[str, ...]]) -> tuple[str, ...]:
    """Of single characters in a row, and of words of which one must be there, those that say the most."""
    texts = [("".join(map(str, run)),) for is_text, run in groupby(parts, lambda part: isinstance(part, str)) if is_text]
    groups = [part for part in parts if isinstance(part, tuple)]
    return max([*texts, *groups], key=lambda words: min(map(len, words), default=0), default=())

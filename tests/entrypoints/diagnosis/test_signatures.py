"""The table is well formed, and the quick look at a line never hides one that a signature wants."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoints.diagnosis.marks import INTERESTING
from entrypoints.diagnosis.match import diagnose_lines
from entrypoints.diagnosis.signatures import literal, load, sure
from entrypoints.errors import UsageError

PATTERNS = sorted({text for item in load().signatures for text in item.texts} | set(load().probes))


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_match_of_a_pattern_is_without_its_literal(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(PATTERNS))
    # Hypothesis makes no bytes for patterns without case.
    text = data.draw(st.from_regex(re.compile(pattern, re.IGNORECASE | re.ASCII))).encode("utf-8", "replace")
    assert literal(pattern) in text.lower()
    assert any(word in text.lower() for word in sure(pattern))
    assert load().sieve.search(text.lower())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("plain Text", b"plain text"),
        ("ab?cde", b"cde"),
        ("abc+d", b"abc"),
        ("abcd*", b"abc"),
        ("ab{0,2}cd", b"cd"),
        (r"one\.two\d+three", b"one.two"),
        (r"[`\x27\"]name\x27ab", b"name"),
        ("(a|b(c)[)]) tail", b" tail"),
        (r"[^\]x]*end", b"end"),
        ("either|or", b""),
        ("(?:x|y)", b""),
        ("^start$", b"start"),
    ],
)
def test_literals(pattern: str, expected: bytes) -> None:
    assert literal(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("either|or", (b"either", b"or")),
        ("(GID|gid)x(not found|invalid)", (b"not found", b"invalid")),
        (r"(?:ab|cd)?\d", ()),
        ("(?!never)(no|never)[|](always|often)", (b"always", b"often")),
        (r"(?P<name>one|two)\(|three", (b"one", b"two", b"three")),
        ("(a|b|)c", (b"c",)),
    ],
)
def test_sure_words(pattern: str, expected: tuple[bytes, ...]) -> None:
    assert sure(pattern) == expected


def test_no_line_costs_more_than_its_length() -> None:
    """Lines of 8 KiB that repeat the words of a pattern, and paths with many folders, which nested repetitions try in all ways."""
    lines = ["non-zero status: 110 /" + "a/" * 60 + " x y", "status: 2 /" + "a/" * 60 + " x y"]
    lines += [" ".join(word.decode() for word in sure(pattern)) + " not error failed " for pattern in PATTERNS[::9]]
    for line in ((line * 8192)[:8192].encode() if number > 1 else line.encode() for number, line in enumerate(lines)):
        start = time.process_time()
        diagnose_lines([line])
        assert time.process_time() - start < 2, line[:80]


def test_most_patterns_have_a_literal() -> None:
    assert sum(len(literal(pattern)) < 3 for pattern in PATTERNS) < len(PATTERNS) / 20


def asked_for(pattern: str) -> str:
    """The text a pattern asks for, without its operators and digits (the quick look is on lines without digits)."""
    pattern = re.sub(r"\(\?P<\w+>", "(", pattern)
    pattern = re.sub(r"\\x27|\\[dwsSbnZ]|\[\^?[^\]]*\]|\(\?[!<=:]*", "\0", pattern).replace("\\", "")
    return re.sub(r"[()|*+?.{}\d\0]+", "\n", pattern.lower())


def test_the_quick_look_lets_every_pattern_through() -> None:
    table = load()
    patterns = [pattern.pattern.decode() for item in table.signatures for pattern in item.patterns] + list(table.probes)
    hidden = [pattern for pattern in patterns if not INTERESTING.search(asked_for(pattern).encode())]
    assert not hidden


def test_every_signature_has_more_than_a_word_to_say() -> None:
    for item in load().signatures:
        assert len(item.cause) > 20 and len(item.remedy) > 20 and item.source, item.id


def test_a_wrong_table_names_the_signature(tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    path.write_text('[[signature]]\nid = "x"\norder = 1\npatterns = ["("]\ncause = "c"\nremedy = "r"\nsource = "s"\n')
    with pytest.raises(UsageError, match="signature 1 \\(x\\)"):
        load(path)
    path.write_text('[[signature]]\nid = "y"\npatern = ["a"]\n')
    with pytest.raises(UsageError, match="unknown \\['patern'\\]"):
        load(path)

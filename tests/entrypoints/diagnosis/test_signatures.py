"""The table is well formed, and the quick look at a line never hides one that a signature wants."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoints.diagnosis.scan import Scanner
from entrypoints.diagnosis.signatures import load, sure_words
from entrypoints.errors import UsageError
from entrypoints.facts import container, pairs
from tests.helpers.diagnosis import diagnose_lines

PATTERNS = sorted({pattern.text for item in load().signatures for pattern in item.patterns} | set(load().probes))


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_match_of_a_pattern_is_without_its_sure_words(data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(PATTERNS))
    # Hypothesis makes no bytes for patterns without case.
    text = data.draw(st.from_regex(re.compile(pattern, re.IGNORECASE | re.ASCII))).encode("utf-8", "replace")
    assert not sure_words(pattern) or any(word.encode() in text.lower() for word in sure_words(pattern))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("plain Text", "plain text"),
        ("ab?cde", "cde"),
        ("abc+d", "abc"),
        ("abcd*", "abc"),
        ("ab{0,2}cd", "cd"),
        (r"one\.two\d+three", "one.two"),
        (r"[`\x27\"]name\x27ab", "name"),
        ("(a|b(c)[)]) tail", " tail"),
        (r"[^\]x]*end", "end"),
        ("^start$", "start"),
    ],
)
def test_one_sure_text(pattern: str, expected: str) -> None:
    assert sure_words(pattern) == (expected,)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(?:x|y)", ("x", "y")),
        ("either|or", ("either", "or")),
        ("(GID|gid)x(not found|invalid)", ("not found", "invalid")),
        (r"(?:ab|cd)?\d", ()),
        ("(?!never)(no|never)[|](always|often)", ("always", "often")),
        (r"(?P<name>one|two)\(|three", ("one", "two", "three")),
        ("(a|b|)c", ("c",)),
    ],
)
def test_sure_words_of_alternatives(pattern: str, expected: tuple[str, ...]) -> None:
    assert sure_words(pattern) == expected


def test_no_line_costs_more_than_its_length() -> None:
    """Lines of 8 KiB that repeat the words of a pattern, and paths with many folders, which nested repetitions try in all ways."""
    lines = ["non-zero status: 110 /" + "a/" * 60 + " x y", "status: 2 /" + "a/" * 60 + " x y"]
    lines += [" ".join(sure_words(pattern)) + " not error failed " for pattern in PATTERNS[::9]]
    for line in ((line * 8192)[:8192].encode() if number > 1 else line.encode() for number, line in enumerate(lines)):
        start = time.process_time()
        diagnose_lines([line])
        assert time.process_time() - start < 2, line[:80]


def test_all_patterns_have_sure_words() -> None:
    assert not [pattern for pattern in PATTERNS if min(map(len, sure_words(pattern)), default=0) < 3]


def test_a_line_of_words_alone_is_matched_against_their_patterns() -> None:
    """Lines are sieved in lower case and without digits, so that what says nothing costs nothing."""
    scanner = Scanner(load())
    scanner.block(b"NCCL version 2.30.4, nothing of note\nUnable to open the IBGDA transport\nUNABLE TO OPEN THE ibgda TRANSPORT 110\n")
    (hit,) = scanner.scan.hits.values()
    assert (hit.first, hit.last, hit.count) == (2, 3, 2)


def test_every_signature_has_more_than_a_word_to_say() -> None:
    for item in load().signatures:
        assert len(item.cause) > 20 and len(item.remedy) > 20 and item.source, item.id


def test_versions_and_rights_come_from_the_facts() -> None:
    """A remedy quotes what facts/pairs.toml and facts/container.toml say, and holds no second copy."""
    remedies = {item.id: item.remedy for item in load().signatures}
    assert pairs.by_id("nvshmem-state-twice").remedy in remedies["nvshmem-duplicate-state"]
    assert container.advice("memlock", "lock-memory") in remedies["memlock-limit"]
    assert not [name for name, remedy in remedies.items() if "{pair}" in remedy or "{container}" in remedy]


def test_a_wrong_table_names_the_signature(tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    path.write_text('[[signature]]\nid = "x"\norder = 1\npatterns = ["("]\ncause = "c"\nremedy = "r"\nsource = "s"\n')
    with pytest.raises(UsageError, match="signature 1 \\(x\\)"):
        load(path)
    path.write_text(
        '[[signature]]\nid = "x"\norder = 1\npatterns = ["a"]\ncause = "c"\nremedy = "{pair}"\nsource = "s"\npair = "no-such-pair"\n'
    )
    with pytest.raises(UsageError, match="not in entrypoints/facts: 'no-such-pair'"):
        load(path)
    path.write_text('[[signature]]\nid = "y"\npatern = ["a"]\n')
    with pytest.raises(UsageError, match="unknown \\['patern'\\]"):
        load(path)

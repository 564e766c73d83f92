"""Versions that do not go together: the tests of versions, and that nothing unknown matches."""

import re

import pytest

from entrypoints import ROOT
from entrypoints.facts import pairs

SUFFIXES = {".py", ".toml", ".j2", ".sh"}
V121, LAST_V1, MAIN = "9af0e0d0e74f3577af1979c9b9e1ac2cad0104ee", "567632dd59810d77b3cc05553df953cc0f779799", "dd758ca"


def ids(**components: str | bool | None) -> set[str]:
    return {pair.id for pair in pairs.matching({name.replace("__", "."): value for name, value in components.items()})}


def test_every_row_says_what_goes_wrong_why_and_what_to_do() -> None:
    rows = pairs.table()
    assert len({row.id for row in rows}) == len(rows) > 15
    for row in rows:
        assert row.when and row.reason and row.remedy and row.source, row.id
        assert re.fullmatch(r"[a-z0-9-]+", row.id)
        assert pairs.by_id(row.id) is row


@pytest.mark.parametrize("version", ["3.5.19", "3.5.21", "3.7.2", "3.8.0+cu13"])
def test_the_order_of_queue_pairs_is_a_matter_of_the_commit(version: str) -> None:
    assert ids(deepep__commit=V121, nvshmem__version=version) == {"nvshmem-queue-pairs-v1"}
    assert ids(deepep__commit=LAST_V1, nvshmem__version=version) == set(), "567632d holds DeepEP#564"
    assert ids(deepep__commit=MAIN, nvshmem__version=version) == {"nvshmem-queue-pairs-v2"}, "the rewrite lost #564"
    assert ids(deepep__commit="94a9f8f6b146", nvshmem__version=version) == {"nvshmem-queue-pairs-hybrid"}


@pytest.mark.parametrize("commit", [None, "", "local", "0123456", "567632"])
def test_an_unknown_commit_matches_nothing(commit: str | None) -> None:
    assert ids(deepep__commit=commit, nvshmem__version="3.5.21") == set()
    for generation in ("v1", "v2"):
        known = {"deepep.commit": commit, "deepep.generation": generation, "nvshmem.version": "3.5.21"}
        undecided = [pair.id for pair in pairs.undecided(known, "deepep.commit")]
        assert undecided[0] == f"nvshmem-queue-pairs-{generation}"
        assert "nvshmem-halves" not in undecided, "another component is unknown too"


def test_an_unknown_version_matches_nothing_and_a_known_one_that_does_not_fit_decides() -> None:
    assert ids(deepep__commit=V121, nvshmem__version=None) == ids(deepep__commit=V121, nvshmem__version="main") == set()
    assert pairs.by_id("nvshmem-queue-pairs-v1").matches({"nvshmem.version": "3.4.5"}) is False
    assert pairs.by_id("nvshmem-halves").unknown({"nvshmem.version": "3.5.21"}) == ("nvshmem.device_version",)


@pytest.mark.parametrize(
    ("arch", "commit", "hit"),
    [("sm_100", LAST_V1, True), ("sm_100", "d4f41e4", False), ("sm_90", LAST_V1, False), (None, LAST_V1, False), ("sm_100", V121, True)],
)
def test_wrong_numbers_of_low_latency_combine_are_blackwells(arch: str | None, commit: str, hit: bool) -> None:
    assert ("combine-race" in ids(gpu__arch=arch, deepep__commit=commit)) is hit
    assert pairs.by_id("combine-race").effect == "wrong numbers"


@pytest.mark.parametrize(
    ("value", "test", "expected"),
    [
        ("3.4.5", ">= 3.4.5", True),
        ("3.10", "> 3.9", True),
        ("3.4", "== 3.4.0", True),
        ("3.5.19", ">= 3.3.20 < 3.5", False),
        ("2.10.0a0+b4e4ee8", ">= 2.10", True),
        ("3.5", "!= 3.5.0", False),
        ("nightly", "< 9", None),
        (None, "< 9", None),
        ("abc", "ab|x", True),
        (False, False, True),
        (True, False, False),
        (None, False, None),
    ],
)
def test_tests_of_versions(value: str | bool | None, test: str | bool, expected: bool | None) -> None:
    assert pairs.holds("torch.version", value, test) is expected


def test_a_bound_of_a_pair_stands_nowhere_else() -> None:
    bounds = ("3.3.9", "3.3.20", "3.5.19", "2.30.4", "29d31c0", "d4f41e4")
    told = {bound for pair in pairs.table() for test in pair.when.values() for bound in str(test).split()}
    assert set(bounds) <= told
    files = [path for room in ("entrypoints", "images", "templates") for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    texts = {path: path.read_text() for path in files if path != pairs.TABLE and "locks" not in path.parts}
    assert len(texts) > 200
    copies = [f"{path}: {bound}" for path, text in texts.items() for bound in bounds if re.search(rf"(?<![\d.]){re.escape(bound)}\b", text)]
    assert copies == []


def test_commits_are_ordered_as_in_the_repository() -> None:
    order = [pairs.commit_position(commit) for commit in ("b6ce310", V121, "29d31c0", LAST_V1, "b306af0", "d4f41e4", MAIN)]
    assert order == sorted(order) and all(order)

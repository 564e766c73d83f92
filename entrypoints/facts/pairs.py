"""Versions that do not go together, as data (pairs.toml): recipes refuse them, doctor looks for them, diagnosis and docs quote them."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("pairs.toml")
#: The commit that made V2 public, in DeepEP's main line.
FIRST_V2 = "b306af0"

Effect = Literal["does not build", "does not load", "hangs", "wrong numbers", "refused at start"]
#: Component ("deepep.commit", "nvshmem.version", "gpu.arch", ...) to what is known of it; None or absent is unknown.
Versions = Mapping[str, str | bool | None]
_COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge, ">": operator.gt, "==": operator.eq, "!=": operator.ne}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One row of pairs.toml: versions that do not go together, what goes wrong, and what to do about it."""

    id: str
    when: Mapping[str, str | bool]
    effect: Effect
    reason: str
    remedy: str
    source: str
    part: str = ""

    def matches(self, versions: Versions) -> bool | None:
        """True when every test holds, False when one does not, None when only unknown components are left to decide it."""
        results = [holds(component, versions.get(component), test) for component, test in self.when.items()]
        return False if False in results else None if None in results else True

    def unknown(self, versions: Versions) -> tuple[str, ...]:
        """Components whose versions are needed for an answer and cannot be compared."""
        return tuple(name for name, test in self.when.items() if holds(name, versions.get(name), test) is None)


def by_id(name: str) -> Pair:
    """The pair of that id. Raises KeyError when the table has none."""
    return {pair.id: pair for pair in table()}[name]


def matching(versions: Versions) -> tuple[Pair, ...]:
    """Pairs that these versions are, in the table's order. An unknown version matches nothing; a known commit tells DeepEP's generation."""
    components = _with_generation(versions)
    return tuple(pair for pair in table() if pair.matches(components))


def undecided(versions: Versions, component: str) -> tuple[Pair, ...]:
    """Pairs that these versions are or are not, as one component decides that is unknown."""
    components = _with_generation(versions)
    return tuple(pair for pair in table() if pair.matches(components) is None and pair.unknown(components) == (component,))


def _with_generation(versions: Versions) -> Versions:
    position = commit_position(str(versions.get("deepep.commit")))
    if versions.get("deepep.generation") or not position:
        return versions
    return {**versions, "deepep.generation": "v2" if position >= commit_position(FIRST_V2) else "v1"}


@cache
def table() -> tuple[Pair, ...]:
    """All rows of pairs.toml. Raises UsageError when a row is not one."""
    pairs = []
    for row in load_toml(TABLE)["pair"]:
        if row.get("effect") not in get_args(Effect):
            raise UsageError(f"effect = {row.get('effect')!r} of {row.get('id')!r} is not allowed", where=str(TABLE))
        pairs.append(Pair(**row))
    return tuple(pairs)


def holds(component: str, value: str | bool | None, test: str | bool) -> bool | None:
    """True when a component's version passes a test of pairs.toml; None when it is unknown or cannot be compared."""
    if value is None or value == "":
        return None
    if isinstance(test, bool) or isinstance(value, bool):
        return value is test
    words = test.split()
    if words[0] not in _COMPARE:
        return any(value.startswith(beginning) for beginning in test.split("|"))
    position = commit_position if component == "deepep.commit" else release
    left = position(value)
    if not left:
        return None
    return all(_compare(left, sign, position(bound)) for sign, bound in zip(words[::2], words[1::2], strict=True))


def _compare(left: tuple[int, ...], sign: str, right: tuple[int, ...]) -> bool:
    size = max(len(left), len(right))
    return bool(_COMPARE[sign](left + (0,) * (size - len(left)), right + (0,) * (size - len(right))))


def release(version: str) -> tuple[int, ...]:
    """ "3.4.5+cu12" -> (3, 4, 5): the leading numbers of a version; empty when it begins with none."""
    numbers: list[int] = []
    for part in version.replace("-", ".").replace("+", ".").split("."):
        if not part.isascii() or not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def commit_position(commit: str) -> tuple[int, ...]:
    """Position of a commit (7 digits or more) in DeepEP's main line, counted from 1; empty when it is not in the table."""
    position = _deepep_line().get(commit[:7])
    return (position,) if position else ()


@cache
def _deepep_line() -> dict[str, int]:
    return {commit: number for number, commit in enumerate(load_toml(TABLE)["deepep"]["line"].split(), 1)}

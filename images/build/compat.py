"""Pairs of versions that are known not to work together: a recipe that has one is refused with the reason and its source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

from .recipe import Recipe

TABLE = Path(__file__).parent / "compatibility.toml"
_OPERATORS = ("<", "<=", ">=", ">", "==", "!=")


@dataclass(frozen=True)
class Pair:
    """One row: all `when` conditions (recipe key to test) hold together only in recipes that do not work."""

    when: dict[str, str]
    reason: str
    remedy: str
    source: str


def load_table(path: Path = TABLE) -> tuple[Pair, ...]:
    """The rows of compatibility.toml."""
    return tuple(Pair(**row) for row in load_toml(path)["pair"])


def check(recipe: Recipe, where: str, pairs: tuple[Pair, ...] | None = None) -> None:
    """UsageError (exit 2) with reason, remedy and source for the first row that fits the recipe."""
    for pair in load_table() if pairs is None else pairs:
        if all(holds(_value(recipe, key), test) for key, test in pair.when.items()):
            keys = ", ".join(f"{key} = {_shown(_value(recipe, key))}" for key in pair.when)
            raise UsageError(f"{keys}: {pair.reason}", where=where, hint=f"{pair.remedy} (source: {pair.source})")


def holds(value: Any, test: str) -> bool:
    """A test is OP VERSION pairs that must all hold, or a list A|B of how the text may begin. An absent value fits nothing."""
    if value is None:
        return False
    words = test.split()
    if words[0] in _OPERATORS:
        return all(_compares(str(value), operator, bound) for operator, bound in zip(words[::2], words[1::2], strict=True))
    text = ";".join(value) if isinstance(value, tuple) else str(value)
    return any(text.startswith(each) for each in test.split("|"))


def _compares(value: str, operator: str, bound: str) -> bool:
    left, right = _numbers(value), _numbers(bound)
    size = max(len(left), len(right))
    left, right = (each + (0,) * (size - len(each)) for each in (left, right))
    return {
        "<": left < right,
        "<=": left <= right,
        ">=": left >= right,
        ">": left > right,
        "==": left == right,
        "!=": left != right,
    }[operator]


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.replace("-", ".").replace("+", ".").split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name) if value is not None else None
    return value


def _shown(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) and len(value) == 40 else str(value)

"""Typed access to JSON that a person may have edited: every wrong value is a UsageError that names its place."""

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from entrypoints.errors import UsageError
from entrypoints.topology.document import SCHEMA
from entrypoints.topology.values import MAX_ID, ids_of_list

#: No name, path or message in a topology is longer.
MAX_TEXT = 4000

T = TypeVar("T")


class Reader:
    """Typed access to one JSON object; a wrong type is a UsageError that names the place."""

    def __init__(self, value: Any, place: str, source: str) -> None:
        self.place = place
        self.source = source
        if not isinstance(value, dict):
            self.fail(f"{place or 'the document'} is no object")
        self.value: dict[str, Any] = value

    def fail(self, what: str) -> NoReturn:
        raise UsageError(what, where=self.source, hint=f"this reads what `topology --format json` wrote ({SCHEMA})")

    def _typed(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        value = self.value.get(key)
        if value is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
            return value
        self.fail(f"{self.place}{key} is {json.dumps(value)[:40]}, not {wanted}")

    def text(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "text")
        if value is not None and len(value) > MAX_TEXT:
            self.fail(f"{self.place}{key} is longer than {MAX_TEXT} characters")
        return value

    def flag(self, key: str) -> bool | None:
        value: bool | None = self._typed(key, bool, "true, false or null")
        return value

    def number(self, key: str) -> float | None:
        value: float | None = self._typed(key, (int, float), "a number")
        return None if value is None else float(value)

    def whole(self, key: str, limit: int = MAX_ID) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        if value is not None and not 0 <= value < limit:
            self.fail(f"{self.place}{key} is {value}, which is out of range")
        return value

    def id(self, key: str) -> int:
        value = self.whole(key)
        if value is None:
            self.fail(f"{self.place}{key} is missing")
        return value

    def ids(self, key: str, limit: int = MAX_ID) -> tuple[int, ...]:
        """A list of ids, or a kernel list as text."""
        value = self.value.get(key)
        if value is None:
            return ()
        found = ids_of_list(value) if isinstance(value, str) else value
        if not isinstance(found, tuple | list) or not all(type(i) is int and 0 <= i < limit for i in found):
            self.fail(f"{self.place}{key} is no list of ids")
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._typed(key, list, "a list") or ()
        if not all(isinstance(item, str) for item in value):
            self.fail(f"{self.place}{key} is no list of texts")
        return tuple(value)

    def objects(self, key: str, make: Callable[["Reader"], T]) -> tuple[T, ...]:
        value = self._typed(key, list, "a list") or ()
        return tuple(make(Reader(item, f"{self.place}{key}[{i}].", self.source)) for i, item in enumerate(value))

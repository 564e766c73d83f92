"""Strict table to frozen dataclass: every mistake is one line that names file, key and what is allowed."""

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from entrypoints.errors import UsageError

T = TypeVar("T")
_NAMES = {str: "a string", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Text:
    """For Annotated[str, Text(...)]: the string must match `pattern` in full; `meaning` is what the user reads when it does not."""

    pattern: str
    meaning: str


def load(cls: type[T], table: object, where: str, prefix: str = "") -> T:
    """Build the dataclass `cls` from `table`; unknown, missing and ill-typed keys are a UsageError naming `where` and the key."""
    if not isinstance(table, Mapping):
        raise _wrong(prefix.rstrip("."), table, where, "a table")
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            guess = f"did you mean {prefix}{near[0]}? " if near else ""
            raise UsageError(f"unknown key {prefix}{key}", where=where, hint=f"{guess}allowed: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], where, prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"key {prefix}{name} is missing", where=where, hint=f"allowed: {_allowed(hints[name])}")
    return cls(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if value is None and type(None) in get_args(hint):  # JSON has null
        return None
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else load(hint, value, where, f"{key}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise _wrong(key, value, where, f"a list of: {_allowed(get_args(hint)[0])}")
        return tuple(_value(get_args(hint)[0], each, where, key) for each in value)
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(key, value, where, "a table")
        return {name: _value(get_args(hint)[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if not _fits(hint, value):
        raise _wrong(key, value, where, _allowed(hint))
    return value


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Annotated:
        bare, text = get_args(hint)
        return type(value) is bare and re.fullmatch(text.pattern, value) is not None
    return type(value) is hint  # not isinstance: True is an int to Python, not to a recipe


def _without_none(hint: Any) -> Any:
    """The X of `X | None`: TOML has no null, an absent key means None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arm for arm in get_args(hint) if arm is not type(None))
    return hint


def _allowed(hint: Any) -> str:
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1].meaning)
    return _NAMES.get(hint, "a list" if get_origin(hint) is tuple else "a table")


def _wrong(key: str, value: Any, where: str, allowed: str) -> UsageError:
    return UsageError(f"{key} = {value!r} is not allowed", where=where, hint=f"allowed: {allowed}")

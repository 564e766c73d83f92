"""Dataclasses of `results.model` from JSON and to JSON: bounded, typed, and with the keys kept that this version does not know.

The JSON Schema (2020-12) of epbox.result/1 is made from the same model.
"""

import json
import math
import re
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from entrypoints.errors import UsageError
from entrypoints.results.model import Result, RunList
from entrypoints.results.ranks import JsonObject, Record

T = TypeVar("T")

#: A result of 8,000 ranks takes about 20 MB.
MAX_BYTES = 256 << 20
#: result.json nests ten deep.
MAX_DEPTH = 64
#: Counters of the kernel have 64 bits.
MAX_INTEGER = 1 << 64
#: Control characters but line end and tab, and halves of surrogate pairs, which no terminal or file can take.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NAMES: dict[type, str] = {dict: "object", list: "list", tuple: "list", NoneType: "null"}


def clean(text: str) -> str:
    """The text with U+FFFD for each control character: what a file says must not steer a terminal."""
    return text if text.isprintable() else _UNPRINTABLE.sub("\ufffd", text)


def parse_json(data: bytes | str, where: str) -> Any:
    """The JSON value of a document. Raises UsageError for one that is too large or invalid."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"{len(data)} bytes, at most {MAX_BYTES} are read", where=where)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"invalid JSON, perhaps truncated: {reason}", where=where) from None


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises UsageError as parse_json does, and where it cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return parse_json(data, str(path))


def read_result(path: Path) -> Result:
    """The result.json at this path. Raises UsageError that names the place of what is wrong in it."""
    return decode(Result, read_json(path), str(path))


def decode(cls: type[T], value: object, where: str | None = None) -> T:
    """The dataclass `cls` from a JSON value; `where` is the file that an error names.

    Raises UsageError for values of other types than the model has, NaN, Infinity, integers of more than 64 bits, and deep nesting.
    """
    try:
        return cast(T, _read(cls, value, "$", 0))
    except _Misfit as misfit:
        raise UsageError(str(misfit), where=where) from None


def encode(value: Any) -> Any:
    """The JSON value of a dataclass, or of a tuple or dict of them."""
    if isinstance(value, Record):
        cls: Any = type(value)
        document = {}
        for member in members(cls):
            item = getattr(value, member.name)
            if item is not None or not member.omit_if_none or member.key in value.extra:
                document[member.key] = encode(item)
        return {**document, **{key: item for key, item in value.extra.items() if key not in document}}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return [encode(item) for item in value] if isinstance(value, (list, tuple)) else value


class Member(NamedTuple):
    """One field of a record as it stands in the JSON; `keywords` are what the JSON Schema says of it beyond its type."""

    name: str
    key: str
    kind: Any
    keywords: JsonObject
    required: bool
    omit_if_none: bool


@cache
def members(cls: Any) -> tuple[Member, ...]:
    """The fields of a record, but for `extra`."""
    hints, every = get_type_hints(cls), []
    for member in fields(cls):
        if member.name != "extra":
            required = member.default is MISSING and member.default_factory is MISSING
            key, schema = member.metadata.get("key", member.name), member.metadata.get("schema", {})
            every.append(Member(member.name, key, hints[member.name], schema, required, "omit_if_none" in member.metadata))
    return tuple(every)


class Form(NamedTuple):
    """A type as JSON has it. `kind` is Any, dict, list, a record class or a tuple of scalar types; `inner` the type of its items."""

    kind: Any
    inner: Any
    optional: bool


@cache
def form(kind: Any) -> Form:
    """Take a type apart."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kinds = [form(option) for option in arguments if option is not NoneType]
        merged = kinds[0] if len(kinds) == 1 else Form(tuple(scalar for option in kinds for scalar in option.kind), None, False)
        return merged._replace(optional=NoneType in arguments)
    if origin in (tuple, dict):
        return Form(list if origin is tuple else dict, arguments[origin is dict], False)
    return Form((kind,) if kind in (str, int, float, bool) else kind, Any, False)


class _Misfit(Exception):
    """A value that is not what the model says."""

    def __init__(self, at: str, problem: str) -> None:
        super().__init__(f"{at[:200]}: {problem}")


def _read(annotation: Any, value: Any, at: str, depth: int) -> Any:
    """A value of the model's type; `at` is its place in the document."""
    if depth > MAX_DEPTH:
        raise _Misfit(at, f"nested deeper than {MAX_DEPTH}")
    kind, inner, optional = form(annotation)
    if value is None and optional:
        return None
    if kind is Any:
        if isinstance(value, list):
            return list(_read(tuple[Any, ...], value, at, depth))
        return _read(JsonObject, value, at, depth) if isinstance(value, dict) else _scalar(value, at)
    if isinstance(kind, tuple):
        # A bool is an int to Python and none to JSON; an integer is a number.
        if type(value) not in kind and not (type(value) is int and float in kind):
            raise _Misfit(at, f"expected {' or '.join(scalar.__name__ for scalar in kind)}, got {_name(value)}")
        return _scalar(value, at)
    if kind is list and isinstance(value, (list, tuple)):
        return tuple(_read(inner, item, f"{at}[{i}]", depth + 1) for i, item in enumerate(value))
    if kind is list or not isinstance(value, dict):
        raise _Misfit(at, f"expected {_NAMES.get(kind, 'object')}, got {_name(value)}")
    if kind is dict:
        cleaned = {clean(str(key)): item for key, item in value.items()}
        return {key: _read(inner, item, f"{at}.{key}", depth + 1) for key, item in cleaned.items()}
    return _read_record(kind, value, at, depth)


def _read_record(cls: Any, value: JsonObject, at: str, depth: int) -> Any:
    rest = dict(value)
    values = {}
    for member in members(cls):
        if member.key not in rest:
            if member.required:
                raise _Misfit(f"{at}.{member.key}", "missing")
        elif rest[member.key] is not None or not member.omit_if_none:
            values[member.name] = _read(member.kind, rest.pop(member.key), f"{at}.{member.key}", depth + 1)
        # A null where the key is mostly absent stays in `extra`, for the way back.
    return cls(**values, extra=_read(JsonObject, rest, at, depth))


def _scalar(value: Any, at: str) -> Any:
    """A scalar within the bounds, text without control characters."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _Misfit(at, f"{value} is not a number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise _Misfit(at, "an integer of more than 64 bits")
    return value


def _name(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(annotation: Any) -> JsonObject:
    """The schema of a type that the codec can read. What is always written is required; unknown keys are allowed."""
    kind, inner, optional = form(annotation)
    if kind is Any:
        return {}
    schema: JsonObject = {}
    types = ["object"]
    if isinstance(kind, tuple):
        types = [_TYPES[scalar] for scalar in kind]
    elif kind is list:
        types, schema = ["array"], {"items": schema_of(inner)}
    elif kind is dict:
        schema = {"additionalProperties": schema_of(inner)}
    else:
        schema["required"] = [member.key for member in members(kind) if not member.omit_if_none]
        schema["properties"] = {member.key: {**schema_of(member.kind), **member.keywords} for member in members(kind)}
    types += ["null"] * optional
    return {"type": types[0] if len(types) == 1 else types, **schema}


#: What bench writes.
BENCH: JsonObject = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:epbox.result:1",
    "title": "EPBox bench result",
    **schema_of(Result),
    # A right result has measured something or says by its test that it prints none; a failed one says why.
    "allOf": [
        {
            "if": {"properties": {"status": {"const": "ok"}}},
            "then": {"properties": {"exit_code": {"const": 0}, "correctness": {"properties": {"passed": {"const": True}}}}},
            "else": {"properties": {"exit_code": {"not": {"const": 0}}}},
        }
    ],
}

#: What `results LOG` prints: the runs alone.
RUNS: JsonObject = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(RunList)}

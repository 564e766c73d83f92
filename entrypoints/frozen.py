"""Frozen dataclasses without their start-up cost, for the modules that `plan` and `exec` load.

The standard library's `dataclass` imports `inspect` and compiles six methods for each class, which was a third of the time
that `plan` took. Here all classes share their methods. Type checkers see the real thing, and so do `dataclasses.fields`,
`asdict` and `replace`. Only what the models use is offered: frozen, own fields alone (none inherited), and
`field(default_factory=...)`.
"""

from __future__ import annotations

# typing's own constant would cost the import of typing; type checkers know this one by its name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Instance = TypeVar("Instance")


class _Factory:
    """Stands in a class body for a default that is made anew for each object."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class _Fields:
    """`__dataclass_fields__` as the standard library has it, made when somebody first asks."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = defaults

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        body = {
            name: dataclasses.field(default_factory=value.make) if isinstance(value, _Factory) else value
            for name, value in self._defaults.items()
        }
        twin: Any = type(owner.__name__, (), {"__annotations__": owner.__annotations__, "__module__": owner.__module__, **body})
        owner.__dataclass_fields__ = dataclasses.dataclass(frozen=True)(twin).__dataclass_fields__
        return dict(owner.__dataclass_fields__)


class _Shared:
    """The methods that every class gets."""

    __match_args__: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple([self.__dict__[name] for name in self.__match_args__]))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join([f'{name}={self.__dict__[name]!r}' for name in self.__match_args__])})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name!r} of the frozen {type(self).__name__}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r} of the frozen {type(self).__name__}")


def _decorator(*, frozen: bool) -> Callable[[type], type]:
    if not frozen:
        raise TypeError("entrypoints.frozen has frozen dataclasses only")
    return _freeze


def _freeze(cls: Any) -> Any:
    if cls.__bases__ != (object,):
        raise TypeError(f"{cls.__name__}: entrypoints.frozen knows no inherited fields")
    names = tuple(cls.__annotations__)
    every = frozenset(names)
    given_defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    factories = {name: value.make for name, value in given_defaults.items() if isinstance(value, _Factory)}
    defaults = {name: value for name, value in given_defaults.items() if name not in factories}

    def __init__(self: Any, *positional: Any, **named: Any) -> None:
        values = {**defaults, **dict(zip(names, positional, strict=False)), **named}
        for name, make in factories.items():
            if name not in values:
                values[name] = make()
        if values.keys() != every or len(positional) > len(names) or not named.keys().isdisjoint(names[: len(positional)]):
            raise TypeError(_misuse(cls.__name__, names, positional, named, values))
        # Past __setattr__, which refuses.
        self.__dict__.update(values)

    cls.__init__ = __init__
    cls.__match_args__ = names  # type: ignore[misc]
    cls.__dataclass_fields__ = _Fields(given_defaults)
    for method in ("__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__"):
        setattr(cls, method, _Shared.__dict__[method])
    for name in factories:
        delattr(cls, name)
    return cls


def _misuse(cls: str, names: tuple[str, ...], positional: tuple[Any, ...], named: dict[str, Any], values: dict[str, Any]) -> str:
    """What is wrong with the arguments, in the interpreter's words."""
    if len(positional) > len(names):
        return f"{cls}() takes {len(names)} positional arguments but {len(positional)} were given"
    for name in named:
        if name not in names:
            return f"{cls}() got an unexpected keyword argument {name!r}"
        if name in names[: len(positional)]:
            return f"{cls}() got multiple values for argument {name!r}"
    return f"{cls}() lacks {', '.join(repr(name) for name in names if name not in values)}"


def _replace(original: Instance, /, **changes: Any) -> Instance:
    """A copy with some fields changed."""
    return type(original)(**{**original.__dict__, **changes})


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    dataclass, replace = _decorator, _replace

    def field(*, default_factory):
        return _Factory(default_factory)

"""Shared by all tasks of the menu: options that a dataclass declares, errors as one line with their exit code."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import partial
from inspect import Parameter, Signature
from typing import Any, TypeVar

from invoke import tasks
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task

from entrypoints.errors import EngineError, EPBoxError, ExitCode, UsageError

Options = TypeVar("Options")


class MenuTask(Task[Any]):
    """A task that ends with the exit code of its body (None is 0), and whose errors are one line, which begins with `name`."""

    def __call__(self, c: Context, **given: Any) -> None:
        with exit_code(self.name):
            code = self.call_body(c, given)
        if code:
            raise Exit(code=code)

    def call_body(self, c: Context, given: Mapping[str, Any]) -> Any:
        """Run the body with what the parser gives; its exit code."""
        return self.body(c, **given)


#: A decorator: invoke's own, which makes a MenuTask.
task = partial(tasks.task, klass=MenuTask)


class OptionsTask(MenuTask):
    """A task whose options are the fields of a dataclass (images/options.py); `body` gets one and returns the exit code, or None.

    `name` is the whole one, such as slurm.render: errors begin with it.
    """

    def __init__(self, name: str, about: str, options: type[Any], body: Callable[[Any], int | None], auto_shortflags: bool = False) -> None:
        super().__init__(body, name=name, positional=(), auto_shortflags=auto_shortflags)
        self.__doc__, self.options = about, options

    @property
    def fields(self) -> dict[str, Field[Any]]:
        """The fields that are options, by the options' names."""
        return {field.metadata["name"] or field.name: field for field in fields(self.options) if field.metadata}

    def argspec(self, body: Callable[..., Any]) -> Signature:
        """The options' names, as if the body took each."""
        return Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in self.fields])

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """The parameters of invoke's Argument: names as it likes, the rest as the field has it. Default None is "not given"."""
        field = self.fields[name]
        about: str = field.metadata["about"]
        value: Any = field.default
        kind = field.metadata["kind"] or (type(value) if isinstance(value, (bool, int)) else str)
        if kind is bool:
            value = bool(value)
        elif not isinstance(value, (int, str)):
            value = None
        elif value and "default" not in about:
            about = f"{about} (default: {value})"
        return {**super().arg_opts(name, value, taken_names), "kind": kind, "default": value, "help": about}

    def call_body(self, c: Context, given: Mapping[str, Any]) -> Any:
        """Run the body with the dataclass; its exit code. Words for `epbox bench` are those of --args and those after --."""
        values = {field.name: _value(field, given[name]) for name, field in self.fields.items()}
        if "args" in given:
            values["arguments"] = (*words(given["args"] or ""), *words(c.remainder))
        return self.body(self.options(**values))


def options_task(
    name: str, options: type[Options], auto_shortflags: bool = True
) -> Callable[[Callable[[Options], int | None]], OptionsTask]:
    """A decorator: the function is the task's body, its docstring what the task does."""
    return lambda body: OptionsTask(name, body.__doc__ or "", options, body, auto_shortflags)


def _value(field: Field[Any], given: Any) -> Any:
    """The field's value for what the parser gives."""
    if given is None or (field.default is None and (given is False or given == "")):
        return field.default
    value = field.metadata["parse"](given) if isinstance(given, str) else given
    return tuple(value) if isinstance(value, list) else value


@contextmanager
def exit_code(name: str) -> Iterator[None]:
    """An error that a user can cure becomes one line and its exit code; Ctrl-C becomes 130."""
    try:
        yield
    except EPBoxError as error:
        raise Exit(f"{name}: {error}", error.exit_code) from None
    except KeyboardInterrupt:
        raise Exit(f"{name}: interrupted", ExitCode.INTERRUPTED.value) from None
    except OSError as error:  # docker's and requests' errors are OSErrors too
        cause = _curable(error)
        if cause is None:
            raise
        raise Exit(f"{name}: {cause}", cause.exit_code) from None


def _curable(error: OSError) -> EPBoxError | None:
    """A refusal of the engine, or a file that cannot be read or written; None for what only a traceback explains."""
    explanation = getattr(error, "explanation", None)
    if explanation:
        return EngineError(f"the engine refused: {' '.join(str(explanation).split())}")
    if type(error).__module__.startswith(("requests.", "docker.", "urllib3.")):
        return EngineError(f"the engine does not answer: {error}", hint="./inv engine.status")
    if error.filename is not None and error.strerror:
        return UsageError(error.strerror, where=str(error.filename), hint="name another place, or make this one usable")
    return None


def words(args: str) -> list[str]:
    """The words of --args. Raises UsageError."""
    try:
        return shlex.split(args)
    except ValueError as error:
        raise UsageError(f"{args!r} cannot be split: {error}", where="--args", hint="quote it as a shell would") from None

"""What every task of the menu shares."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from invoke.context import Context
from invoke.exceptions import Exit

from entrypoints.errors import EngineError, EPBoxError, UsageError
from entrypoints.output import say


@contextmanager
def exit_code(name: str) -> Iterator[None]:
    """An error that a user can cure becomes one line and its exit code; Ctrl-C becomes 130."""
    try:
        yield
    except EPBoxError as error:
        raise Exit(f"{name}: {error}", error.exit_code) from None
    except KeyboardInterrupt:
        raise Exit(f"{name}: interrupted", 130) from None
    except OSError as error:  # docker's and requests' errors are OSErrors too
        told = _told(error)
        if told is None:
            raise
        raise Exit(f"{name}: {told}", told.exit_code) from None


def _told(error: OSError) -> EPBoxError | None:
    """What the engine refused, or a file that cannot be read or written; None for what only a traceback explains."""
    explanation = getattr(error, "explanation", None)
    if explanation:
        return EngineError(f"the engine refused: {' '.join(str(explanation).split())}")
    if type(error).__module__.startswith(("requests.", "docker.", "urllib3.")):
        return EngineError(f"the engine does not answer: {error}", hint="./inv engine.status")
    if error.filename is not None and error.strerror:
        return UsageError(error.strerror, where=str(error.filename), hint="name another place, or make this one usable")
    return None


def words(c: Context, args: str) -> tuple[str, ...]:
    """Words for `epbox bench`: those of --args and those after --. Raises UsageError."""
    try:
        return (*shlex.split(args), *shlex.split(c.remainder))
    except ValueError as error:
        raise UsageError(f"{args!r} cannot be split: {error}", where="--args", hint="quote it as a shell would") from None


def show(text: str, notes: Sequence[str]) -> None:
    """What was rendered to stdout, for a file or a pipe; notes for people to stderr."""
    sys.stdout.write(text)
    for note in notes:
        say(f"note: {note}")

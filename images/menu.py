"""What every task of the menu shares."""

from collections.abc import Iterator
from contextlib import contextmanager

from invoke.exceptions import Exit

from entrypoints.errors import EPBoxError


@contextmanager
def exit_code(name: str) -> Iterator[None]:
    """An error that a user can cure becomes one line and its exit code; Ctrl-C becomes 130."""
    try:
        yield
    except EPBoxError as error:
        raise Exit(f"{name}: {error}", error.exit_code) from None
    except KeyboardInterrupt:
        raise Exit(f"{name}: interrupted", 130) from None

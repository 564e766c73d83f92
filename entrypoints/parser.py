"""An argument parser whose errors are the program's own: one line, and exit code 2."""

from __future__ import annotations

from argparse import ArgumentParser

from entrypoints.errors import UsageError

TYPE_CHECKING = False  # as in entrypoints.frozen
if TYPE_CHECKING:
    from typing import NoReturn


class OneLineParser(ArgumentParser):
    """`argparse` would print the usage of all options before the one line that matters."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message.removeprefix("argument "), hint=f"{self.prog} --help tells more")

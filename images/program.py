"""The program behind ./inv: invoke with the tasks of this checkout; a wrong word on the command line is one line and exit code 2."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from entrypoints import __version__


class Menu(Program):
    """invoke's own program answers 1 to a wrong option, and a traceback to a word where a number must stand."""

    def parse_core(self, argv: list[str] | None) -> None:
        with _one_line(sys.argv[1:] if argv is None else argv[1:]):
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        with _one_line(self.core.unparsed):
            super().parse_tasks()


@contextmanager
def _one_line(words: Sequence[str]) -> Iterator[None]:
    """Turn what the parser finds wrong in these words into an Exit with code 2."""
    try:
        yield
    except ParseError as error:
        raise Exit(f"inv: {_plain(str(error))}; ./inv --list names the tasks, ./inv --help TASK their options", 2) from None
    except ValueError as error:  # from int()
        raise Exit(f"inv: {_value(words, str(error))} is not a whole number; ./inv --help TASK tells its options", 2) from None


def _plain(message: str) -> str:
    """invoke says `No idea what '--x' is!` and `Flag <Argument: recipe (r)> needed value and was not given one`."""
    if match := re.match(r"No idea what (.*) is!$", message):
        return f"{match[1]} is not a task and not an option"
    if match := re.match(r"Flag <Argument: ([\w-]+).*needed value", message):
        return f"--{match[1].replace('_', '-')} needs a value"
    return message.rstrip("!")


def _value(words: Sequence[str], message: str) -> str:
    """The value that the message quotes, after the option that it was given to."""
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if equals and message.endswith(repr(value)):
            return f"{name}: {value!r}"
        if before.startswith("-") and message.endswith(repr(word)):
            return f"{before}: {word!r}"
    return message


program = Menu(name="inv", binary="inv", binary_names=["inv"], version=__version__)

if __name__ == "__main__":
    program.run()

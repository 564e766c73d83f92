"""An interactive shell in this environment."""

import argparse
import os

from entrypoints.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "epbox shell [-- ARGUMENTS]"
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="passed to the shell")


def run(args: argparse.Namespace) -> int:
    shell = os.environ.get("SHELL") or "/bin/sh"
    words = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    try:
        os.execvp(shell, [shell, *words])
    except OSError as error:
        raise UsageError(f"cannot be executed: {error.strerror}", where=f"SHELL={shell}", hint="set SHELL to one, or unset it") from None

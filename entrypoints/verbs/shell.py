"""An interactive shell in this environment."""

import argparse
import os


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed to the shell")


def run(args: argparse.Namespace) -> int:
    shell = os.environ.get("SHELL") or "/bin/sh"
    os.execvp(shell, [shell, *args.arguments])

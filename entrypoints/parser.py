"""An argument parser whose errors are the program's own (one line, exit code 2), and options that several verbs share."""

from argparse import ArgumentParser
from typing import NoReturn

from entrypoints.errors import UsageError


class OneLineParser(ArgumentParser):
    """`argparse` would print the usage of all options before the one line that matters."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message.removeprefix("argument "), hint=f"{self.prog} --help tells more")


def add_topology_option(parser: ArgumentParser) -> None:
    """Add --topology FILE, which puts a dumped host in the place of the live one."""
    parser.add_argument(
        "--topology",
        metavar="FILE",
        help="read this host instead of the live one: a sysfs root (folder or tarball), NCCL or hwloc XML, "
        "`nvidia-smi topo -m` text, or JSON of `topology --format json`; - is standard input",
    )


def add_format_option(parser: ArgumentParser, *formats: str) -> None:
    """Add --format; the first format is the default."""
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"output format (default: {formats[0]})")

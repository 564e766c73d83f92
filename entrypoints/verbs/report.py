"""report DIR: one self-contained HTML page of a result folder, or a Markdown summary of it."""

import argparse
import sys
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.output import say, write_atomically


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="DIR", help="a result folder, its result.json, a folder of logs, or an index.jsonl")
    parser.add_argument(
        "--output", "-o", metavar="FILE", help="default: DIR/report.html, Markdown to standard output; - is standard output"
    )
    parser.add_argument("--format", choices=("html", "markdown"), default="html")
    parser.add_argument("--baseline", metavar="DIR2", help="the all-to-all result to compare with (default: DIR/alltoall where it exists)")
    parser.add_argument("--history", metavar="INDEX", help="plot an index.jsonl over time instead, regressions marked")


def run(args: argparse.Namespace) -> int:
    from entrypoints.report import load, page

    if args.folder and args.folder.endswith(".jsonl") and not args.history:
        args.folder, args.history = None, args.folder
    if args.history:
        if args.folder or args.format == "markdown" or args.baseline:
            raise UsageError("--history stands alone", hint="epbox report --history results/index.jsonl -o history.html")
        index = Path(args.history)
        return _write(page.over_time(index), args.output or str(index.with_name("history.html")))
    if not args.folder:
        raise UsageError("no result folder given", hint="epbox report results/TIME")
    folder = Path(args.folder)
    material = load.load(folder, Path(args.baseline) if args.baseline else None)
    if args.format == "markdown":
        return _write(page.summary(material), args.output or "-")
    home = folder if folder.is_dir() else folder.parent
    return _write(page.render(material), args.output or str(home / "report.html"))


def _write(text: str, target: str) -> int:
    if target == "-":
        sys.stdout.write(text)
        return 0
    try:
        write_atomically(Path(target), text)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=target) from error
    say(f"report: {target} ({len(text.encode()) // 1024 + 1} KiB)")
    return 0

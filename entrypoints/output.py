"""Where output goes: JSON on stdout for machines, tables and progress on stderr for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def emit_json(value: Any, one_line: bool = False) -> None:
    """Print one JSON document on stdout; in one line for readers of logs, such as those of Kubernetes."""
    import json

    # In one piece: an unbuffered stdout (as in containers) would get a system call for every token.
    sys.stdout.write(json.dumps(value, indent=None if one_line else 2) + "\n")


def say(text: str) -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def wants_colour(stream: Any = None) -> bool:
    """True on a tty without NO_COLOR (https://no-color.org)."""
    stream = stream or sys.stderr
    return not os.environ.get("NO_COLOR") and stream.isatty()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain aligned table; the text is the same on a tty, in a log and in an issue."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    lines = ["  ".join(header.ljust(width) for header, width in zip(headers, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write under a temporary name in the same folder, then rename: readers never see half a file."""
    # Only files need it, and a plan has no time for it.
    import tempfile

    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

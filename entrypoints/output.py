"""Where output goes: JSON on stdout for machines, progress on stderr for people, files, result folders, Kubernetes' last word."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from entrypoints.errors import UsageError

#: Kubernetes' default `terminationMessagePath`; it exists only where a kubelet mounted it.
TERMINATION_LOG = Path("/dev/termination-log")
#: The kubelet keeps no more bytes than this of one container.
TERMINATION_BYTES = 4096


def emit_json(value: object, one_line: bool = False) -> None:
    """Print one JSON document on stdout; in one line for readers of logs, such as those of Kubernetes."""
    # In one piece: an unbuffered stdout (as in containers) would get a system call for every token.
    sys.stdout.write(json.dumps(value, indent=None if one_line else 2) + "\n")


def say(text: str) -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def wants_colour() -> bool:
    """True when stderr is a tty and NO_COLOR is not set (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and sys.stderr.isatty()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain aligned table; the text is the same on a tty, in a log and in an issue."""
    lines = [headers, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write under a temporary name in the same folder, then rename: readers never see half a file."""
    import tempfile  # here, because a launch writes no file and would pay for shutil and random too

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


def stamp(now: datetime | None = None) -> str:
    """A sortable UTC time that is a valid file name everywhere."""
    return (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H-%M-%SZ")


def open_folder(requested: Path | None, base: Path = Path("results")) -> Path:
    """Make and return the folder: the requested one, which must be writable, else results/<UTC time>.

    Where the default cannot be written it moves to the temporary directory, with a message. Raises UsageError.
    """
    import tempfile

    if requested is not None:
        try:
            requested.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=requested):
                return requested
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=f"--out {requested}") from None
    name = stamp()
    for parent in (base, Path(os.environ.get("TMPDIR") or "/tmp") / f"epbox-results-{os.getuid()}"):
        for suffix in ("", *(f".{n}" for n in range(1, 100))):
            folder = parent / (name + suffix)
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                say(f"{parent.absolute()} cannot be written ({error.strerror})")
                break
            if parent != base:
                say(f"results go to {folder}; use --out DIR, or mount a volume at {base.absolute()}, to keep them")
            return folder
    raise UsageError("no place for results", where=str(base.absolute()), hint="give --out DIR, or a tmpfs at /tmp")


def leave_message(message: str) -> None:
    """Write the verdict where a kubelet looks for it; nothing is made, and nothing fails, where there is no such file."""
    # Cut by bytes and then back to whole characters: the API takes only valid UTF-8.
    text = message.encode()[:TERMINATION_BYTES].decode(errors="ignore")
    with suppress(OSError):
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_text(text, encoding="utf-8")

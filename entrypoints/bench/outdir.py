"""The result folder: where asked, else results/<UTC time>, else a temporary place when nothing here can be written."""

import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.output import say


def stamp(now: datetime | None = None) -> str:
    """A sortable UTC time that is a valid file name everywhere."""
    return (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H-%M-%SZ")


def open_folder(asked: Path | None, base: Path = Path("results")) -> Path:
    """Make and return the folder. An asked one must be writable; the default moves to the temporary directory, with a message."""
    if asked is not None:
        _make(asked, asked)
        return asked
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


def _make(folder: Path, where: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=f"--out {where}") from None

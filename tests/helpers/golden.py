"""Golden files: whole outputs kept in tests/golden, renewed by EPBOX_UPDATE_GOLDEN=1."""

import os
from pathlib import Path


def expected(path: Path, text: str) -> str:
    """What `text` must be: the golden file's content, which is `text` itself when golden files are renewed."""
    if os.environ.get("EPBOX_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.read_text()

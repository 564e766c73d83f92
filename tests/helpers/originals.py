"""The folder that EPBOX_ORIGINALS names: files as people posted them (`topologies`, `logs`, `crds`), which the project holds no copy of."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "EPBOX_ORIGINALS"


def named() -> Path | None:
    """The folder, from the checkout's root where the name is relative; None where the variable is unset or empty."""
    name = os.environ.get(VARIABLE)
    return (ROOT / name).resolve() if name else None


_folder = named()
#: For tests/originals alone, which is collected only where the folder is named.
ORIGINALS = _folder if _folder is not None else Path("/nonexistent", VARIABLE)

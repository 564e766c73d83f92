"""A Python that has torch, for tests that really run ranks: EPBOX_TEST_PYTHON, else this one, else python3 of the PATH."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def find() -> str | None:
    candidates = [os.environ.get("EPBOX_TEST_PYTHON"), sys.executable, shutil.which("python3")]
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    for python in candidates:
        if python and subprocess.run([python, "-c", probe], capture_output=True, timeout=60, check=False).returncode == 0:
            return python
    return None


def need() -> str:
    """The interpreter, or skip with the reason."""
    python = find()
    if python is None:
        pytest.skip("no Python with torch here: set EPBOX_TEST_PYTHON to one")
    return python


def environment(**more: str) -> dict[str, str]:
    """A clean environment for bench: ranks in that Python, no scheduler's variables."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**keep, "PYTHONPATH": str(ROOT), "EPBOX_PYTHON": need(), **more}

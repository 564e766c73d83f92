"""What shells and shellcheck say of a rendered script."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def complaints(script: Path) -> str:
    """Messages of `bash -n` and shellcheck; empty for a good script. Skips where shellcheck is not installed."""
    syntax = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (syntax.returncode, syntax.stderr) == (0, "")
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert (done.returncode == 0) == (not done.stdout)
    return done.stdout

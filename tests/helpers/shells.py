"""What shells and shellcheck say of a rendered script."""

import subprocess
import sys
from pathlib import Path


def complaints(script: Path) -> str:
    """Messages of `bash -n` and shellcheck (of the development requirements); empty for a good script."""
    syntax = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (syntax.returncode, syntax.stderr) == (0, "")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert (done.returncode == 0) == (not done.stdout)
    return done.stdout

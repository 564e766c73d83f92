"""Debian packages that the build host itself needs, installed when we may, named in the error when we may not."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from entrypoints.errors import EngineError
from entrypoints.output import say

_OS_RELEASE = Path("/etc/os-release")


def os_release(path: Path = _OS_RELEASE) -> dict[str, str]:
    """The fields of os-release(5); empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, _, value in pairs}


def debian_like(fields: dict[str, str] | None = None) -> bool:
    """True on Debian, Ubuntu and their derivatives."""
    fields = os_release() if fields is None else fields
    return bool({"debian", "ubuntu"} & {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()})


def can_install() -> bool:
    """True where apt-get may install packages: Debian or Ubuntu, and root."""
    return debian_like() and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str], why: str) -> None:
    """apt-get install what `packages` names and the archive has; EngineError when that fails or is not possible here."""
    if not can_install():
        raise EngineError(f"{why} needs {' '.join(packages)}", hint=f"as root on Debian or Ubuntu: apt-get install {' '.join(packages)}")
    say(f"{why}: installing {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "--yes", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0 and command[1] == "install":
            tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise EngineError(f"{' '.join(command)} failed: {tail}", hint="install it by hand, then run this again")


def available(package: str) -> bool:
    """True when the host's archive offers `package` for installation."""
    done = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True)
    return "Candidate:" in done.stdout and "Candidate: (none)" not in done.stdout

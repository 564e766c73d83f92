"""The compose that is installed here: docker's plugin, or the program of its own."""

import shutil
import subprocess

import pytest


def command() -> list[str]:
    """The words that start it; skips where there is none."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither docker compose nor docker-compose is installed")

"""The compose that is installed here: docker's plugin, or the program of its own."""

import shutil
import subprocess

from tests.helpers import tools


def command() -> list[str]:
    """The words that start it; skips where there is none."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return [tools.need("docker-compose")]

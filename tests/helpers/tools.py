"""Programs that tests start, and the Debian packages that have them. `./inv test` installs what is missing, as root on Debian or Ubuntu."""

import os
import shutil
from dataclasses import dataclass

import pytest

from entrypoints.errors import EngineError
from entrypoints.output import say
from images.build import hostconfig

#: System programs lie in folders that are not on everyone's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Tool:
    """A program by its names, of which the first that is there serves. `need`: the part of the tests that starts it, empty for the rest."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    need: str = ""

    def path(self) -> str | None:
        """Where it is; None where it is not installed."""
        return next((path for name in self.names if (path := shutil.which(name, path=PATH))), None)


TOOLS = {
    "chromium": Tool(("chromium", "google-chrome", "chromium-browser"), ("chromium", "fonts-dejavu-core")),
    "docker-registry": Tool(("docker-registry",), ("docker-registry",)),
    "lstopo": Tool(("lstopo-no-graphics",), ("hwloc-nox",)),
    "skopeo": Tool(("skopeo",), ("skopeo",)),
    "docker-compose": Tool(("docker-compose",), ("docker-compose",)),
    "mmdebstrap": Tool(("mmdebstrap",), ("mmdebstrap", "debian-archive-keyring"), "container"),
    "mpirun": Tool(("mpirun",), ("openmpi-bin",), "container"),
    "munged": Tool(("munged",), ("munge",), "container"),
    "slurmctld": Tool(("slurmctld",), ("slurm-wlm",), "container"),
    "mke2fs": Tool(("mke2fs",), ("e2fsprogs",), "guest"),
    "qemu": Tool(("qemu-system-x86_64",), ("qemu-system-x86",), "guest"),
}


class Missing(Exception):
    """A tool that is not installed; the text says how to have it, and is the reason of a skip."""


def path(name: str) -> str:
    """Where a tool of the table is. Raises Missing."""
    tool = TOOLS[name]
    program = tool.path()
    if program is None:
        raise Missing(f"no {name} here: as root on Debian or Ubuntu ./inv test installs it (apt-get install {' '.join(tool.packages)})")
    return program


def need(*names: str, whole_module: bool = False) -> str:
    """Where the first of these tools is; skips the test where one is missing (at the top of a module: all its tests, as one skip)."""
    try:
        programs = [path(name) for name in names]
    except Missing as reason:
        pytest.skip(str(reason), allow_module_level=whole_module)
    return programs[0]


def install(container: bool, guest: bool) -> None:
    """Install what is missing for these parts of the tests, where that is possible; tests that lack a tool skip and name it."""
    wanted = {"", *(["container"] if container else []), *(["guest"] if guest else [])}
    missing = [package for tool in TOOLS.values() if tool.need in wanted and tool.path() is None for package in tool.packages]
    if not missing or not hostconfig.can_install():
        return
    try:
        hostconfig.install(list(dict.fromkeys(missing)), "tests")
    except EngineError as error:
        say(f"test: {error}")

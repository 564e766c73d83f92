"""The container engine: which daemon answers, and a docker CLI that can drive its BuildKit.

The docker SDK cannot drive BuildKit (docker/docker-py#2230), so images are built through the CLI and everything else goes through the SDK.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say
from images.command import probe

from . import hostconfig, private_engine

if TYPE_CHECKING:
    import docker

DEFAULT_URL = "unix:///var/run/docker.sock"
CLI_FOLDERS = ("/usr/bin", "/usr/local/bin")  # searched after PATH
WAYS = (
    "start a Docker daemon; or set DOCKER_HOST to one; or run as root on Debian or Ubuntu, where a private one is installed and started; "
    "or run the same program without an image: --engine host"
)


@dataclass(frozen=True)
class Engine:
    """A daemon that answers. `private` is true for the one that EPBox started; it has host networking only."""

    url: str
    private: bool
    version: str

    def client(self) -> "docker.DockerClient":
        """An SDK client of this daemon."""
        import docker

        return docker.DockerClient(base_url=self.url, timeout=600)

    def environment(self) -> dict[str, str]:
        """The environment for a docker CLI that shall use this daemon's BuildKit."""
        kept = {key: value for key, value in os.environ.items() if key not in ("DOCKER_CONTEXT", "DOCKER_HOST")}
        return {**kept, "DOCKER_HOST": self.url, "DOCKER_BUILDKIT": "1"}


def find() -> Engine | None:
    """Find a Docker daemon: DOCKER_HOST, default socket, rootless, private. None if none answers.

    A DOCKER_HOST that does not answer is an EngineError: the user named a daemon, and another one would be a surprise.
    """
    named = os.environ.get("DOCKER_HOST")
    rootless = f"unix://{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/docker.sock"
    private = private_engine.layout().url
    for url in [named] if named else [DEFAULT_URL, rootless, private]:
        version = private_engine.ping(url)
        if version is not None:
            return Engine(url, url == private, version)
    if named:
        raise EngineError("no daemon answers", where=f"DOCKER_HOST={named}", hint="start it, or unset DOCKER_HOST")
    return None


def ensure(choice: str = "auto") -> Engine:
    """Find a daemon, or start the private one. Raises EngineError that names the ways to get one."""
    if choice not in ("auto", "docker"):
        raise UsageError(f"engine {choice!r} cannot build or run images", hint="allowed: auto, docker, host; host only for bench")
    if engine := find():
        return engine
    socket = Path(DEFAULT_URL.removeprefix("unix://"))
    if socket.exists() and not os.access(socket, os.W_OK):
        raise EngineError("this user may not use the daemon", where=str(socket), hint="add the user to its group (docker), or be root")
    if not hostconfig.can_install():
        raise EngineError("no container engine answers here", hint=WAYS)
    say("no container engine answers here: starting a private one (./inv engine.stop ends it)")
    if shutil.which("dockerd", path=private_engine.PATH) is None:
        hostconfig.update()
        # The CLI and buildx are packages of their own in Debian 13 and Ubuntu.
        extra = [package for package in ("docker-cli", "docker-buildx") if hostconfig.available(package)]
        hostconfig.install(["docker.io", *extra], "container engine")
        if engine := find():  # a package may have started the system's own daemon
            return engine
    private_engine.start()
    engine = find()
    if engine is None:
        raise EngineError("the private engine started but does not answer", where=str(private_engine.layout().log))
    return engine


def buildkit_cli() -> tuple[str, ...]:
    """The command prefix of a docker CLI with BuildKit: one with the buildx plugin, or one older than 23 that has it built in."""
    seen = []
    for folder in dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), *CLI_FOLDERS]):
        path = shutil.which("docker", path=folder)
        if path is None or Path(path).resolve() in seen:
            continue
        seen.append(Path(path).resolve())
        if probe([path, "buildx", "version"]) is not None:
            return (path, "buildx", "build", "--load")
        version = re.search(r"version (\d+)\.", probe([path, "--version"]) or "")
        if version and 18 < int(version[1]) < 23:
            return (path, "build")
    if not seen:
        hint = "install docker-cli and docker-buildx (Debian 13, Ubuntu) or docker.io (Debian 12)"
        raise EngineError("no docker CLI is installed", hint=hint)
    hint = "install the buildx plugin: docker-buildx (Debian 13, Ubuntu) or docker-buildx-plugin (Docker's own packages)"
    raise EngineError(f"{', '.join(map(str, seen))} cannot drive BuildKit", hint=hint)


def describe(engine: Engine | None) -> str:
    """One line about the engine in use; EngineError when there is none."""
    if engine is None:
        raise EngineError("no container engine answers here", hint=WAYS)
    kind = "private engine" if engine.private else "engine"
    return f"{kind}: Docker {engine.version} at {engine.url}, images built with {' '.join(buildkit_cli()[:2])}"

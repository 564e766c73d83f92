"""What a node of `bench` is on the build host: a container of a built image, or a process of this host."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from entrypoints import ROOT
from images.build.image import Image

_STOP_SECONDS = 10  # between TERM and KILL


class Node(Protocol):
    """One node of the run: a container, or a process of this host."""

    def start(self) -> None: ...
    def lines(self) -> Iterator[str]: ...
    def wait(self) -> int: ...
    def stop(self) -> None: ...
    def remove(self) -> None: ...


class Container:
    """A node in a container of its own host name, on the host network."""

    def __init__(self, image: Image, command: Sequence[str], rank: int, out: Path, gpus: int) -> None:
        import docker

        extra: dict[str, Any] = {}
        if gpus:
            extra["device_requests"] = [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])]
        if any(Path("/dev/infiniband").glob("uverbs*")):
            extra["devices"] = ["/dev/infiniband"]
            extra["ulimits"] = [docker.types.Ulimit(name="memlock", soft=-1, hard=-1)]  # RDMA pins its memory
        self._container = image.engine.client().containers.create(
            image.id,
            list(command),
            hostname=f"node{rank}",
            name=f"epbox-{secrets.token_hex(4)}-node{rank}",
            labels={"epbox.run": "bench"},
            network_mode="host",  # rendezvous, and RDMA needs the host's network name space anyway
            environment={"EPBOX_IMAGE": image.name, "EPBOX_IMAGE_ID": image.id, "EPBOX_ENGINE": "docker"},
            volumes={str(out.resolve()): {"bind": "/results", "mode": "rw"}},
            cap_add=["SYS_NICE", "IPC_LOCK"],  # memory policy; pinned memory for RDMA
            shm_size="1g",
            user=f"{os.getuid()}:{os.getgid()}",  # so that the results belong to who asked for them
            **extra,
        )

    def start(self) -> None:
        self._container.start()

    def lines(self) -> Iterator[str]:
        rest = b""
        for block in self._container.logs(stream=True, follow=True):
            *whole, rest = (rest + block).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def wait(self) -> int:
        return int(self._container.wait()["StatusCode"])

    def stop(self) -> None:
        self._container.stop(timeout=_STOP_SECONDS)

    def remove(self) -> None:
        import docker

        try:
            self._container.remove(force=True)
        except docker.errors.NotFound:
            return


class Process:
    """A node that is a process of this host; two of them share its host name."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "entrypoints", *command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, "EPBOX_ENGINE": "host", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through stop(), once
        )

    def lines(self) -> Iterator[str]:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode(errors="replace")

    def wait(self) -> int:
        assert self._process is not None
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
